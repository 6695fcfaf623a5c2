#include "serving/mixed_pools.h"

#include <algorithm>

namespace foretoken {

MixedPools::MixedPools(const MixedPoolsConfig& config, std::size_t prompts,
                       std::vector<std::int64_t> capacity, std::int64_t max_model_len)
    : config_(config), max_model_len_(max_model_len), machines_(capacity.size()) {
  for (std::size_t m = 0; m < machines_.size(); ++m) {
    machines_[m].prompts = m < prompts;
    machines_[m].capacity = capacity[m];
  }
}

std::int32_t MixedPools::least(Pool pool, std::int64_t Machine::*load) const {
  std::int32_t best = -1;
  for (std::size_t m = 0; m < machines_.size(); ++m)
    if (is_in(machines_[m], pool) &&
        (best < 0 || machines_[m].*load < machines_[static_cast<std::size_t>(best)].*load))
      best = static_cast<std::int32_t>(m);
  return best;
}

MixedPools::Assignment MixedPools::assign(const Request& request,
                                          const std::function<bool(std::int32_t)>& queues, Picoseconds now) {
  const std::int64_t whole =
      std::min<std::int64_t>(std::int64_t{request.input_len} + request.output_len, max_model_len_);
  std::int32_t prompt = -1, token = -1;
  for (const Pool pool : {Pool::kPrompt, Pool::kMixed}) {
    if (prompt >= 0) break;
    const std::int32_t m = least(pool, &Machine::pending);
    if (m >= 0 && !(queues(m) && at(m).pending + request.input_len > config_.prompt_max_pending_tokens))
      prompt = m;
  }
  // Who ends with its prompt goes nowhere else.
  const bool decodes = whole > request.input_len + 1;
  for (const Pool pool : {Pool::kToken, Pool::kMixed}) {
    if (token >= 0 || !decodes) break;
    const std::int32_t m = least(pool, &Machine::memory);
    if (m >= 0 && at(m).memory + whole < at(m).capacity) token = m;
  }
  std::int32_t joined[2] = {-1, -1};
  if (prompt < 0 && (prompt = joined[0] = least(Pool::kToken, &Machine::pending)) >= 0) join(prompt, now);
  if (token < 0 && decodes && (token = joined[1] = least(Pool::kPrompt, &Machine::memory)) >= 0)
    join(token, now);
  if (!decodes) token = prompt;
  if (prompt < 0 || token < 0) prompt = token = least(Pool::kAll, &Machine::pending);

  jobs_[request.id] = {prompt, token, request.input_len, whole, false, false};
  at(prompt).pending += request.input_len;
  ++at(prompt).num_prompts;
  if (decodes) {
    ++at(token).pending;
    ++at(token).num_decodes;
  }
  at(token).memory += whole;
  if (prompt != token) at(prompt).memory += request.input_len + 1;
  if (prompt == token && decodes) {
    ++counts_.whole_requests;
    if (!is_mixed(prompt)) join(prompt, now);
  }
  for (const std::int32_t m : joined)
    if (m >= 0) leave_if_done(m, now);
  return {prompt, token};
}

void MixedPools::join(std::int32_t m, Picoseconds now) {
  at(m).mixed = true;
  at(m).mixed_since = now;
  ++counts_.joined;
}

void MixedPools::leave_if_done(std::int32_t m, Picoseconds now) {
  Machine& machine = at(m);
  if (!machine.mixed || (machine.prompts ? machine.num_decodes : machine.num_prompts) > 0) return;
  machine.mixed = false;
  counts_.mixed_time += now - machine.mixed_since;
}

void MixedPools::computed(RequestId request, Picoseconds now) {
  Job& job = jobs_.at(request);
  job.is_computed = true;
  at(job.prompt).pending -= job.input_len;
  --at(job.prompt).num_prompts;
  leave_if_done(job.prompt, now);
}

void MixedPools::moved(RequestId request) {
  Job& job = jobs_.at(request);
  job.has_moved = true;
  at(job.prompt).memory -= job.input_len + 1;
}

void MixedPools::goes_on(RequestId request, Picoseconds now) {
  Job& job = jobs_.at(request);
  ++counts_.went_on;
  Machine &from = at(job.token), &to = at(job.prompt);
  --from.pending;
  --from.num_decodes;
  from.memory -= job.whole;
  ++to.pending;
  ++to.num_decodes;
  to.memory += job.whole - (job.input_len + 1);
  leave_if_done(job.token, now);
  job.token = job.prompt;
  if (to.prompts && !to.mixed) join(job.prompt, now);
}

void MixedPools::ended(RequestId request, Picoseconds now) {
  const auto at_job = jobs_.find(request);
  if (!at_job->second.is_computed) computed(request, now);
  const Job job = at_job->second;
  jobs_.erase(at_job);
  if (job.whole > job.input_len + 1) {
    --at(job.token).pending;
    --at(job.token).num_decodes;
  }
  at(job.token).memory -= job.whole;
  if (job.prompt != job.token && !job.has_moved) at(job.prompt).memory -= job.input_len + 1;
  leave_if_done(job.token, now);
}

MixedPoolCounts MixedPools::counts(Picoseconds now) const {
  MixedPoolCounts counts = counts_;
  for (const Machine& m : machines_)
    if (m.mixed) counts.mixed_time += now - m.mixed_since;
  return counts;
}

}  // namespace foretoken
