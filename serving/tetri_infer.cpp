#include "serving/tetri_infer.h"

#include <algorithm>

#include "serving/arrivals.h"

namespace foretoken {

TetriInfer::TetriInfer(const TetriInferConfig& config, std::uint64_t seed, std::size_t prefill,
                       std::vector<std::int64_t> capacity, std::int64_t max_model_len)
    : config_(config), seed_(seed), max_model_len_(max_model_len), engines_(capacity.size()) {
  for (std::size_t e = 0; e < engines_.size(); ++e) {
    engines_[e].prefill = e < prefill;
    engines_[e].capacity = capacity[e];
  }
}

// A classifier's answer is drawn for each request: the right range, or, as often on either side, the one
// before or after it; the first has but one beside it.
std::int64_t TetriInfer::predicted(const Request& request) const {
  const std::int64_t length = std::min<std::int64_t>(request.output_len, max_model_len_ - request.input_len);
  std::int64_t range = length / config_.length_granularity;
  CounterRandom random(seed_, random_stream::kLengthGuess, static_cast<std::uint64_t>(request.id));
  if (random.uniform() >= config_.length_accuracy) range += random.uniform() < 0.5 && range > 0 ? -1 : 1;
  return range * config_.length_granularity;
}

std::int32_t TetriInfer::assign(const Request& request, Picoseconds now) {
  flip(now);
  std::int32_t best = -1;
  for (std::size_t e = 0; e < engines_.size(); ++e)
    if (engines_[e].prefill &&
        (best < 0 || engines_[e].prompt_tokens < engines_[static_cast<std::size_t>(best)].prompt_tokens))
      best = static_cast<std::int32_t>(e);
  Job job;
  job.prefill = best;
  job.input_len = request.input_len;
  job.length = predicted(request);
  const std::int64_t range = std::min<std::int64_t>(request.output_len, max_model_len_ - request.input_len) /
                             config_.length_granularity;
  counts_.mispredicted += job.length != range * config_.length_granularity;
  jobs_[request.id] = job;
  at(best).prompt_tokens += request.input_len;
  enter(best);
  return best;
}

void TetriInfer::computed(RequestId request, Picoseconds now) {
  Job& job = jobs_.at(request);
  job.is_computed = true;
  at(job.prefill).prompt_tokens -= job.input_len;
  leave(job.prefill, now);
}

void TetriInfer::enter(std::int32_t e) { ++at(e).requests; }

void TetriInfer::leave(std::int32_t e, Picoseconds now) {
  if (--at(e).requests == 0) at(e).idle_since = now;
}

// Looked at when a request comes; one at a time, the one that was idle longest, lowest index on ties.
void TetriInfer::flip(Picoseconds now) {
  if (!config_.flip_idle) return;
  std::int64_t of_side[2] = {0, 0}, idle[2] = {0, 0};
  for (const Engine& e : engines_) {
    ++of_side[e.prefill];
    idle[e.prefill] += e.requests == 0;
  }
  Engine* longest = nullptr;
  for (Engine& e : engines_)
    if (e.requests == 0 && now - e.idle_since >= *config_.flip_idle && of_side[e.prefill] > 1 &&
        idle[!e.prefill] == 0 && (longest == nullptr || e.idle_since < longest->idle_since))
      longest = &e;
  if (longest == nullptr) return;
  longest->prefill = !longest->prefill;
  longest->idle_since = now;
  ++counts_.flips;
}

const TetriInfer::Load& TetriInfer::seen(Engine& e, Picoseconds now) {
  if (e.changed < broadcast_before(now) || config_.load_interval == 0) e.seen = e.load;
  return e.seen;
}

void TetriInfer::change(Engine& e, const Job& job, std::int64_t by, Picoseconds now) {
  if (e.changed < broadcast_before(now)) e.seen = e.load;  // as it was at the last broadcast
  e.changed = now;
  e.load.memory += by * (job.input_len + job.length);
  (job.length > config_.heavy_decode_tokens ? e.load.heavy : e.load.light) += by;
}

std::int32_t TetriInfer::dispatch(const Request& request, Picoseconds now) {
  Job& job = jobs_.at(request.id);
  candidates_.clear();
  for (std::size_t e = 0; e < engines_.size(); ++e)
    if (!engines_[e].prefill &&
        seen(engines_[e], now).memory + job.input_len + job.length <= engines_[e].capacity)
      candidates_.push_back(static_cast<std::int32_t>(e));
  if (candidates_.empty()) {
    ++counts_.crowded;
    for (std::size_t e = 0; e < engines_.size(); ++e)
      if (!engines_[e].prefill) candidates_.push_back(static_cast<std::int32_t>(e));
  }
  const std::int64_t count = std::ssize(candidates_);
  std::int32_t chosen = candidates_.front();
  if (count > 1) {
    CounterRandom random(seed_, random_stream::kRouter, static_cast<std::uint64_t>(request.id));
    std::int64_t first = random.uniform_int(0, count - 1), second = random.uniform_int(0, count - 2);
    second += second >= first;
    const std::int32_t a = candidates_[static_cast<std::size_t>(std::min(first, second))],
                       b = candidates_[static_cast<std::size_t>(std::max(first, second))];
    // The lower share of heavy decodes; among equals the fewer requests, then the lower index.
    const Load &la = seen(at(a), now), &lb = seen(at(b), now);
    const std::int64_t na = la.heavy + la.light, nb = lb.heavy + lb.light;
    const std::int64_t left = la.heavy * nb, right = lb.heavy * na;
    const bool no_heavy = la.heavy == 0 && lb.heavy == 0;
    const bool second_is_better = na > 0 && nb > 0 && !no_heavy && left != right ? right < left : nb < na;
    chosen = second_is_better ? b : a;
  }
  job.decode = chosen;
  change(at(chosen), job, 1, now);
  enter(chosen);
  return chosen;
}

void TetriInfer::withdrawn(const Request& request, Picoseconds now) {
  Job& job = jobs_.at(request.id);
  Engine& e = at(job.decode);
  change(e, job, -1, now);
  if (job.is_placed) std::erase(e.placed, request.id);
  leave(job.decode, now);
  job.is_placed = false;
  job.decode = -1;
}

void TetriInfer::placed(RequestId request, const EnginePlace& place) {
  Job& job = jobs_.at(request);
  job.place = place;
  job.is_placed = true;
  at(job.decode).placed.push_back(request);
}

void TetriInfer::ended(RequestId request, Picoseconds now) {
  if (!jobs_.at(request).is_computed) computed(request, now);
  const auto found = jobs_.find(request);
  const Job job = found->second;
  if (job.decode >= 0) {
    Engine& e = at(job.decode);
    change(e, job, -1, now);
    if (job.is_placed) std::erase(e.placed, request);
    leave(job.decode, now);
  }
  jobs_.erase(found);
}

bool TetriInfer::admits(const Request& request, std::int32_t engine, std::int64_t free,
                        const std::function<std::int64_t(const EnginePlace&)>& tokens) const {
  const Engine& e = engines_[static_cast<std::size_t>(engine)];
  if (config_.decode_policy == DecodePolicy::kGreedy || e.placed.empty()) return true;
  const std::int64_t length = jobs_.at(request.id).length;
  if (config_.decode_policy == DecodePolicy::kReserveStatic) return request.input_len + length <= free;
  std::int64_t first = max_model_len_, held = 0;
  for (const RequestId id : e.placed) {
    const Job& job = jobs_.at(id);
    const std::int64_t now = tokens(job.place);
    held += now;
    first = std::min(first, std::max<std::int64_t>(1, job.input_len + job.length - now));
  }
  const auto others = static_cast<std::int64_t>(e.placed.size());
  return held + others * first + request.input_len + std::min(first, std::max<std::int64_t>(1, length)) <=
         e.capacity;
}

}  // namespace foretoken
