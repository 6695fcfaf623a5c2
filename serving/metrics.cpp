#include "serving/metrics.h"

#include <algorithm>
#include <cmath>

namespace foretoken {
namespace {

Distribution from_histogram(const LogHistogram& h) {
  constexpr double kPicosPerMs = 1e9;
  Distribution d;
  d.exact = false;
  d.count = h.count();
  d.mean = h.mean() / kPicosPerMs;
  d.std = h.stddev() / kPicosPerMs;
  d.median = d.p50 = h.quantile(0.5) / kPicosPerMs;
  d.p90 = h.quantile(0.90) / kPicosPerMs;
  d.p95 = h.quantile(0.95) / kPicosPerMs;
  d.p99 = h.quantile(0.99) / kPicosPerMs;
  d.min = to_ms(h.min());
  d.max = to_ms(h.max());
  return d;
}

}  // namespace

double SpeculationCounts::acceptance_rate() const {
  return drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0;
}
double SpeculationCounts::tokens_per_step() const {
  return verifications > 0 ? 1 + static_cast<double>(accepted) / static_cast<double>(verifications) : 1;
}
std::vector<double> SpeculationCounts::rates() const {
  std::vector<double> rates;
  for (const std::int64_t n : accepted_at)
    rates.push_back(static_cast<double>(n) / static_cast<double>(std::max<std::int64_t>(verifications, 1)));
  return rates;
}

void MetricsCollector::Samples::add(Picoseconds value, std::size_t most) {
  if (exact && values.size() == most) {
    for (const Picoseconds v : values) histogram.add(v);
    std::vector<Picoseconds>().swap(values);
    exact = false;
  }
  if (exact) {
    values.push_back(value);
  } else {
    histogram.add(value);
  }
}

Distribution MetricsCollector::Samples::summarize() const {
  if (!exact) return from_histogram(histogram);
  Distribution d;
  d.count = static_cast<std::int64_t>(values.size());
  if (values.empty()) return d;
  std::vector<Picoseconds> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  Sum sum = 0;
  std::vector<double> ms;
  ms.reserve(sorted.size());
  for (const Picoseconds v : sorted) {
    sum += v;
    ms.push_back(to_ms(v));
  }
  const auto n = static_cast<double>(sorted.size());
  d.mean = static_cast<double>(sum) / n / 1e9;
  double squares = 0;
  for (const double v : ms) squares += (v - d.mean) * (v - d.mean);
  d.std = std::sqrt(squares / n);
  d.median = d.p50 = linear_quantile(ms, 0.5);
  d.p90 = linear_quantile(ms, 0.90);
  d.p95 = linear_quantile(ms, 0.95);
  d.p99 = linear_quantile(ms, 0.99);
  d.min = ms.front();
  d.max = ms.back();
  return d;
}

TtftParts ttft_parts(const RequestRecord& r) {
  // Where the decode engine makes the first token, its step begins after the move.
  const bool waited = r.moved > 0 && r.prefill_done >= r.moved;
  return {r.queued - r.arrival,
          r.scheduled - r.queued - r.loading,
          r.loading,
          (waited ? r.handed_over : r.prefill_done) - r.scheduled,
          waited ? r.prefill_done - r.handed_over : 0,
          r.first_token - r.prefill_done};
}

Picoseconds time_per_output_token(const RequestRecord& r) {
  const std::int64_t gaps = r.output_len - 1;
  return gaps > 0 ? (r.finish - r.first_token + gaps / 2) / gaps : 0;
}

MetricsCollector::MetricsCollector(Slo slo, bool keep_records, std::size_t exact_requests)
    : slo_(slo), keep_records_(keep_records), exact_requests_(exact_requests) {}

void MetricsCollector::add(const RequestRecord& r) {
  const Picoseconds ttft = r.first_token - r.arrival, e2el = r.finish - r.arrival;
  first_arrival_ = completed_ == 0 ? r.arrival : std::min(first_arrival_, r.arrival);
  if (completed_ == 0) first_priority_ = r.priority;
  // So far all had one priority: what is counted is that class.
  if (classes_.empty() && r.priority != first_priority_)
    classes_[first_priority_] = {ttft_, tpot_, e2el_, good_, preemptions_, queue_};
  last_finish_ = completed_ == 0 ? r.finish : std::max(last_finish_, r.finish);
  ++completed_;
  input_tokens_ += r.input_len;
  output_tokens_ += r.output_len;
  cached_tokens_ += r.cached_tokens;
  preemptions_ += r.preemptions;
  ttft_.add(ttft, exact_requests_);
  e2el_.add(e2el, exact_requests_);
  const Picoseconds tpot = time_per_output_token(r);
  if (r.output_len > 1) tpot_.add(tpot, exact_requests_);
  const TtftParts parts = ttft_parts(r);
  ingress_ += parts.ingress;
  queue_ += parts.queue;
  load_ += parts.load;
  prefill_ += parts.prefill;
  transfer_ += parts.transfer;
  first_step_ += parts.first_step;
  if (r.moved > 0) {
    ++moved_;
    moving_ += r.moved - r.handed_over;
  }
  const auto within = [](Picoseconds t, const std::optional<double>& limit) {
    return !limit || to_ms(t) <= *limit;
  };
  const bool good = within(ttft, slo_.ttft_ms) && within(tpot, slo_.tpot_ms) && within(e2el, slo_.e2el_ms);
  good_ += good;
  if (!classes_.empty()) add_to_class(r, ttft, tpot, e2el, good);
  if (keep_records_) {
    // Requests end nearly in order of id: the way to the right place is about as long as the list of those in
    // flight.
    auto at = records_.end();
    while (at != records_.begin() && std::prev(at)->id > r.id) --at;
    records_.insert(at, r);
  }
}

void MetricsCollector::add_to_class(const RequestRecord& r, Picoseconds ttft, Picoseconds tpot,
                                    Picoseconds e2el, bool good) {
  ClassSamples& c = classes_[r.priority];
  c.ttft.add(ttft, exact_requests_);
  if (r.output_len > 1) c.tpot.add(tpot, exact_requests_);
  c.e2el.add(e2el, exact_requests_);
  c.good += good;
  c.preemptions += r.preemptions;
  c.queue += ttft_parts(r).queue;
}

std::vector<ServingMetrics::PriorityClass> MetricsCollector::summarize_classes() const {
  std::vector<ServingMetrics::PriorityClass> classes;
  for (const auto& [priority, c] : classes_) {
    ServingMetrics::PriorityClass& to = classes.emplace_back();
    to.priority = priority;
    to.preemptions = c.preemptions;
    to.ttft = c.ttft.summarize();
    to.tpot = c.tpot.summarize();
    to.e2el = c.e2el.summarize();
    const auto requests = static_cast<double>(to.ttft.count);
    to.mean_queue = static_cast<double>(c.queue) / requests / 1e9;
    if (slo_.ttft_ms || slo_.tpot_ms || slo_.e2el_ms)
      to.slo_attainment = static_cast<double>(c.good) / requests;
  }
  return classes;
}

void MetricsCollector::add_gaps(Picoseconds first, Picoseconds increment, std::int64_t steps,
                                std::int64_t sequences) {
  itl_.add_ramp(first, increment, steps, sequences);
}

void MetricsCollector::add_session(const SessionRecord& session) {
  if (session.broken) {
    ++broken_sessions_;
    return;
  }
  session_.add(session.end - session.begin, exact_requests_);
  pauses_.add(session.pauses, exact_requests_);
  session_calls_ += session.calls;
}

ServingMetrics MetricsCollector::summarize() const {
  ServingMetrics m;
  m.completed = completed_;
  m.total_input_tokens = input_tokens_;
  m.total_output_tokens = output_tokens_;
  m.duration = to_seconds(last_finish_ - first_arrival_).value;
  const auto rate = [&](std::int64_t n) {
    return m.duration > 0 ? static_cast<double>(n) / m.duration : 0.0;
  };
  m.request_throughput = rate(completed_);
  m.output_throughput = rate(output_tokens_);
  m.total_token_throughput = rate(input_tokens_ + output_tokens_);
  if (slo_.ttft_ms || slo_.tpot_ms || slo_.e2el_ms) {
    m.request_goodput = rate(good_);
    m.slo_attainment = completed_ > 0 ? static_cast<double>(good_) / static_cast<double>(completed_) : 0.0;
  }
  m.ttft = ttft_.summarize();
  m.tpot = tpot_.summarize();
  m.e2el = e2el_.summarize();
  m.itl = from_histogram(itl_);
  ServingMetrics::Sessions& sessions = m.sessions;
  sessions.e2el = session_.summarize();
  sessions.pauses = pauses_.summarize();
  sessions.completed = sessions.e2el.count;
  sessions.broken = broken_sessions_;
  if (sessions.completed > 0)
    sessions.mean_calls = static_cast<double>(session_calls_) / static_cast<double>(sessions.completed);
  if (completed_ > 0) {
    const auto mean = [&](Sum sum) {
      return static_cast<double>(sum) / static_cast<double>(completed_) / 1e9;
    };
    m.ttft_parts = {mean(ingress_), mean(queue_),    mean(load_),
                    mean(prefill_), mean(transfer_), mean(first_step_)};
  }
  m.transfers.count = moved_;
  if (moved_ > 0) m.transfers.mean_ms = static_cast<double>(moving_) / static_cast<double>(moved_) / 1e9;
  m.preemptions = preemptions_;
  m.priority_classes = summarize_classes();
  m.speculation = speculation_;
  if (input_tokens_ > 0) {
    m.prefix_cache_hit_rate = static_cast<double>(cached_tokens_) / static_cast<double>(input_tokens_);
  }
  return m;
}

}  // namespace foretoken
