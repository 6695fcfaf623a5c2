#include "simulator/estimate.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "simulator/closed_forms.h"
#include "simulator/predicted_backend.h"

namespace foretoken {
namespace {

// One step of one rank as the serving loop would hand it to the backend.
struct Probe {
  std::int64_t sequences = 0;  // decoding
  double context = 0;          // mean attended tokens
  std::vector<PrefillPart> prefill;
};

Batch batch_of(const Probe& probe, std::span<const std::int64_t> windows) {
  Batch b;
  b.prefill = probe.prefill;
  b.decode_sequences = static_cast<std::int32_t>(probe.sequences);
  b.sampled_rows = b.decode_sequences;
  for (const PrefillPart& p : probe.prefill) b.sampled_rows += p.last ? 1 : 0;
  for (std::size_t g = 0; g < windows.size() && g < b.contexts.size(); ++g) {
    const double c =
        windows[g] > 0 ? std::min(probe.context, static_cast<double>(windows[g])) : probe.context;
    b.contexts[g] = std::llround(static_cast<double>(probe.sequences) * std::max(1.0, c));
  }
  return b;
}

class StepPricer {
 public:
  StepPricer(const Deployment& d, const CostModel& cost) : deployment_(d), cost_(cost), backend_(d, cost) {}

  StepTime time(const Probe& probe) {
    const Batch one = batch_of(probe, backend_.windows());
    ranks_.assign(static_cast<std::size_t>(deployment_.mapping.ranks_per_engine()), one);
    return backend_.run({0, clock_, ranks_});
  }
  double seconds(const Probe& probe) { return to_seconds(time(probe).tokens_out).value; }

  StepEstimate estimate(std::string name, const Probe& probe, bool with_operators) {
    StepEstimate s;
    s.name = std::move(name);
    s.sequences = probe.sequences + static_cast<std::int64_t>(probe.prefill.size());
    s.context = probe.context;
    s.seconds = seconds(probe);
    const Batch b = batch_of(probe, backend_.windows());
    s.tokens = b.tokens();
    const bool decode_only = probe.prefill.empty();
    const std::int64_t rows = padded_rows(b.tokens(), decode_only, deployment_);
    const Work w = work(b, deployment_, rows * deployment_.mapping.ranks_per_engine());

    double total = 0, variance = 0, limit = 0;
    std::map<std::string_view, double> by_bound;
    for (const Shard& shard : deployment_.mapping.stages) {
      for (const Op& op :
           operators(deployment_.model, shard, w, deployment_.precision, deployment_.fusion).ops) {
        const Price p = cost_.price(op);
        const double n = static_cast<double>(op.count), t = n * p.time.value;
        total += t;
        limit += n * p.limit.value;
        variance += t * p.relative_error * t * p.relative_error;
        by_bound[p.bound_by] += t;
        if (with_operators)
          s.operators.push_back({std::string(op.name), op.count, t, n * flops(op).value, n * bytes(op).value,
                                 p.basis, p.relative_error, std::string(p.bound_by)});
      }
    }
    double most = -1;
    for (const auto& [bound, t] : by_bound)
      if (t > most) {
        most = t;
        s.bound_by = bound;
      }
    s.host_seconds = std::max(0.0, s.seconds - total);
    s.roofline_fraction = s.seconds > 0 ? limit / s.seconds : 0;
    const double half = std::sqrt(variance);
    s.low = std::max(limit, s.seconds - half);
    s.high = s.seconds + half;
    return s;
  }
  TimeBasis basis() const { return backend_.basis(); }

 private:
  const Deployment& deployment_;
  const CostModel& cost_;
  PredictedBackend backend_;
  std::vector<Batch> ranks_;
  Picoseconds clock_ = 0;
};

Probe prefill_probe(double tokens, std::int64_t budget) {
  Probe p;
  // A prompt longer than the budget takes several steps; the probe is its last full step's share.
  const auto n = std::max<std::int64_t>(1, std::llround(tokens));
  PrefillPart part;
  part.new_tokens = static_cast<std::int32_t>(std::min(n, budget));
  part.cached = static_cast<std::int32_t>((n - 1) / budget * budget > 0 ? n - part.new_tokens : 0);
  part.last = true;
  p.prefill.push_back(part);
  return p;
}

}  // namespace

Estimate estimate(const Deployment& d, const CostModel& cost, const Workload::Means& load,
                  std::int64_t concurrency, bool with_operators) {
  Estimate e;
  StepPricer pricer(d, cost);
  const double input = std::max(1.0, load.input_len), output = std::max(1.0, load.output_len);
  const double context = input + output / 2;
  const double ranks = static_cast<double>(d.mapping.engines() * d.mapping.ranks_per_engine());
  // Sequences whose mean context the KV cache holds.
  const double by_memory = std::max(1.0, static_cast<double>(d.memory.kv_cache_tokens) / context);
  const double most =
      std::max(1.0, std::floor(std::min(static_cast<double>(d.scheduler.max_num_seqs), by_memory)));

  const std::int64_t budget = d.scheduler.max_num_batched_tokens;
  const Probe prompt = prefill_probe(input, budget);
  const double prompt_steps = std::ceil(input / static_cast<double>(budget));
  const double prefill_s = pricer.seconds(prompt) * prompt_steps;
  auto decode = [&](double n) {
    Probe p;
    p.sequences = std::max<std::int64_t>(1, std::llround(n));
    p.context = context;
    return p;
  };
  // A running request costs `output` decode steps and its share of everybody's prefills: in the time that one
  // request spends (T), each of the n running ones is replaced once, so T = output x step(n) + n x prefill.
  auto residence = [&](double n) { return output * pricer.seconds(decode(n)) + n * prefill_s; };

  e.capacity_requests_per_s = ranks * most / residence(most);
  double n = 1;
  if (load.request_rate > 0) {
    const double rate = load.request_rate / ranks;
    e.utilization = load.request_rate / e.capacity_requests_per_s;
    if (rate * residence(most) >= most) {
      n = most;
    } else {
      // residence(n) rises more slowly than n / rate up to the crossing: bisection.
      double low = 0, high = most;
      for (int i = 0; i < 12 && high - low > 0.5; ++i) {
        const double middle = (low + high) / 2;
        (rate * residence(middle) > middle ? low : high) = middle;
      }
      n = std::max(high, rate * residence(1));
    }
    e.expected_sequences = n;
  } else {
    n = concurrency > 0 ? std::min(most, static_cast<double>(concurrency) / ranks) : most;
    e.expected_sequences = n;
  }
  n = std::max(1.0, n);

  e.steps.push_back(pricer.estimate("prefill", prompt, with_operators));
  e.steps.push_back(pricer.estimate("decode_1", decode(1), with_operators));
  e.steps.push_back(pricer.estimate("decode_expected", decode(n), with_operators));
  e.steps.push_back(pricer.estimate("decode_max", decode(most), with_operators));

  const double step = pricer.seconds(decode(n)), around = d.behavior.ingress.value + d.behavior.egress.value;
  e.ttft_ms = 1e3 * (prefill_s + around);
  // Decoding is held up by the prefills of the requests that start meanwhile: one for each of the n in
  // `output` steps.
  e.tpot_ms = 1e3 * (step + n * prefill_s / output);
  e.e2el_ms = e.ttft_ms + (output - 1) * e.tpot_ms;
  e.output_throughput = ranks * n * output / residence(n);
  if (load.request_rate > 0) e.output_throughput = std::min(e.output_throughput, load.request_rate * output);
  if (d.has_price)
    e.usd_per_million_tokens =
        usd_per_million_tokens(d.usd_per_device_hour * d.mapping.devices(), e.output_throughput);
  e.basis = pricer.basis().share;
  return e;
}

}  // namespace foretoken
