#include "serving/conductor.h"

#include <algorithm>

namespace foretoken {

Conductor::Conductor(const ConductorConfig& config, TimeEstimates& estimates, std::size_t prefill,
                     std::size_t decode)
    : config_(config), estimates_(estimates), queued_(prefill), decoding_(decode) {}

Conductor::Decision Conductor::decide(const Request& request, std::span<const std::int64_t> cached,
                                      const LinkWait& link_wait, Picoseconds now) {
  const auto holder = std::max_element(cached.begin(), cached.end());
  const std::int64_t best = *holder;
  Decision d;
  for (std::size_t i = 0; i < cached.size(); ++i) {
    const auto e = static_cast<std::int32_t>(i);
    Decision option;
    option.prefill = e;
    option.cached = cached[i];
    Picoseconds transfer = 0;
    if (static_cast<double>(best) > config_.balancing_threshold * static_cast<double>(cached[i])) {
      option.holder = static_cast<std::int32_t>(holder - cached.begin());
      option.fetched = best - cached[i];
      transfer = link_wait(option.holder, e) + estimates_.transfer(option.holder, e, cached[i], best);
    }
    option.prefill_time = estimates_.prefill(e, request.input_len, option.cached + option.fetched);
    option.ttft = transfer + queued_[i] + option.prefill_time;
    if (i == 0 || option.ttft < d.ttft) d = option;
  }
  for (std::size_t i = 0; i < decoding_.size(); ++i) {
    const Picoseconds step = step_with(i, request, now + d.ttft);
    if (i > 0 && step >= d.tbt) continue;
    d.decode = static_cast<std::int32_t>(queued_.size() + i);
    d.tbt = step;
  }
  if (config_.ttft_slo && d.ttft > *config_.ttft_slo)
    d.verdict = Verdict::kMissesTtft;
  else if (config_.tbt_slo && config_.rejection != Rejection::kLate && request.output_len > 1 &&
           d.tbt > *config_.tbt_slo)
    d.verdict = Verdict::kMissesTbt;
  return d;
}

// Of the decode engine, once the request decodes there beside those that then do.
Picoseconds Conductor::step_with(std::size_t decode, const Request& request, Picoseconds at) {
  std::int64_t sequences = 1, contexts = request.input_len;
  for (const Decoding& r : decoding_[decode]) {
    const bool is_there =
        config_.decode_time ? r.ready <= at && at < r.ready + *config_.decode_time : r.is_computed;
    if (!is_there) continue;
    ++sequences;
    contexts += r.tokens;
  }
  return estimates_.decode_step(static_cast<std::int32_t>(queued_.size() + decode), sequences, contexts);
}

std::optional<Picoseconds> Conductor::too_late(const Request& request) {
  if (!config_.tbt_slo || config_.rejection == Rejection::kEarly) return std::nullopt;
  const auto decode = static_cast<std::size_t>(jobs_.at(request.id).decode) - queued_.size();
  std::int64_t sequences = 1, contexts = request.input_len;
  for (const Decoding& r : decoding_[decode]) {
    if (!r.is_computed) continue;
    ++sequences;
    contexts += r.tokens;
  }
  const Picoseconds step = estimates_.decode_step(jobs_.at(request.id).decode, sequences, contexts);
  return step > *config_.tbt_slo ? std::optional(step) : std::nullopt;
}

std::vector<Conductor::Decoding>::iterator Conductor::find(std::size_t decode, RequestId request) {
  return std::find_if(decoding_[decode].begin(), decoding_[decode].end(),
                      [&](const Decoding& d) { return d.request == request; });
}

void Conductor::accept(const Request& request, const Decision& d, Picoseconds now) {
  jobs_[request.id] = {d.prefill, d.decode, d.prefill_time, false};
  queued_[static_cast<std::size_t>(d.prefill)] += d.prefill_time;
  decoding_[static_cast<std::size_t>(d.decode) - queued_.size()].push_back(
      {request.id, request.input_len, now + d.ttft, false});
}

void Conductor::computed(RequestId request, Picoseconds now) {
  Job& job = jobs_.at(request);
  queued_[static_cast<std::size_t>(job.prefill)] -= job.prefill_time;
  job.is_computed = true;
  Decoding& d = *find(static_cast<std::size_t>(job.decode) - queued_.size(), request);
  d.ready = now;
  d.is_computed = true;
}

void Conductor::ended(RequestId request) {
  const auto job = jobs_.find(request);
  if (!job->second.is_computed)
    queued_[static_cast<std::size_t>(job->second.prefill)] -= job->second.prefill_time;
  const std::size_t decode = static_cast<std::size_t>(job->second.decode) - queued_.size();
  decoding_[decode].erase(find(decode, request));
  jobs_.erase(job);
}

}  // namespace foretoken
