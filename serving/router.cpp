#include "serving/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "base/random.h"
#include "serving/arrivals.h"

namespace foretoken {

LeastLoad::LeastLoad(std::size_t count) : loads_(count) {
  while (leaves_ < count) leaves_ *= 2;
  winners_.resize(2 * leaves_);
  for (std::size_t i = 0; i < leaves_; ++i)
    winners_[leaves_ + i] = i < count ? static_cast<std::int32_t>(i) : -1;
  for (std::size_t i = leaves_; --i > 0;) winners_[i] = better(winners_[2 * i], winners_[2 * i + 1]);
}

// a stands left of b.
std::int32_t LeastLoad::better(std::int32_t a, std::int32_t b) const {
  return b < 0 || (*this)[a] <= (*this)[b] ? a : b;
}

void LeastLoad::add(std::int32_t i, std::int64_t change) {
  loads_[static_cast<std::size_t>(i)] += change;
  sum_ += change;
  for (std::size_t node = (leaves_ + static_cast<std::size_t>(i)) / 2; node > 0; node /= 2)
    winners_[node] = better(winners_[2 * node], winners_[2 * node + 1]);
}

Router::Router(const RouterConfig& config, std::size_t replicas)
    : config_(config), replicas_(replicas), outstanding_(replicas), tokens_(replicas) {}

std::int32_t Router::pick(const Request& request, std::span<const ContentRun> content, ReplicaView& view) {
  switch (config_.kind) {
    case RouterKind::kRoundRobin: {
      const std::size_t replica = turn_;
      turn_ = turn_ + 1 == replicas_ ? 0 : turn_ + 1;
      return static_cast<std::int32_t>(replica);
    }
    case RouterKind::kRandom:
      return static_cast<std::int32_t>(
          CounterRandom(config_.seed, random_stream::kRouter, static_cast<std::uint64_t>(request.id))
              .uniform_int(0, replicas() - 1));
    case RouterKind::kLeastOutstanding:
      return outstanding_.least();
    case RouterKind::kLeastTokens:
      return tokens_.least();
    case RouterKind::kPowerOfTwo:
      return better_of_two(request);
    case RouterKind::kSessionSticky:
      return of_session(request);
    case RouterKind::kPrefixAffine:
      return of_prefix(request, content);
    case RouterKind::kPrecisePrefix:
      return highest_score(request, view);
    case RouterKind::kKvCost:
      return lowest_cost(request, view);
  }
  throw std::logic_error("a router of no kind");
}

void Router::count(std::int32_t replica, const Request& request, std::int64_t by) {
  outstanding_.add(replica, by);
  tokens_.add(replica, by * (std::int64_t{request.input_len} + request.output_len));
}

std::int32_t Router::better_of_two(const Request& request) const {
  if (replicas_ == 1) return 0;
  CounterRandom random(config_.seed, random_stream::kRouter, static_cast<std::uint64_t>(request.id));
  auto a = static_cast<std::int32_t>(random.uniform_int(0, replicas() - 1));
  auto b = static_cast<std::int32_t>(random.uniform_int(0, replicas() - 2));
  b += b >= a;
  if (b < a) std::swap(a, b);
  return outstanding_[b] < outstanding_[a] ? b : a;
}

std::int32_t Router::of_session(const Request& request) {
  if (request.session < 0) return outstanding_.least();
  const auto session = static_cast<std::size_t>(request.session);
  if (of_session_.size() <= session) of_session_.resize(session + 1, -1);
  if (of_session_[session] < 0) of_session_[session] = outstanding_.least();
  return of_session_[session];
}

// Rendezvous hashing: each replica has a rank for each prefix, the highest that isn't overloaded gets it. A
// prompt that shares nothing has no prefix to follow.
std::int32_t Router::of_prefix(const Request& request, std::span<const ContentRun> content) const {
  std::uint64_t key = 0;
  std::int64_t left = std::min<std::int64_t>(config_.prefix_tokens, request.input_len);
  for (const ContentRun& run : content) {
    const std::int64_t n = std::min(run.tokens, left);
    if (n <= 0) break;
    key = mix64(mix64(key ^ run.content) + static_cast<std::uint64_t>(n));
    left -= n;
  }
  if (key == 0) return outstanding_.least();
  const auto mean = static_cast<double>(outstanding_.sum() + 1) / static_cast<double>(replicas_);
  const auto most = static_cast<std::int64_t>(std::ceil(config_.load_bound * mean));
  std::int32_t best = -1;
  std::uint64_t highest = 0;
  for (std::int32_t r = 0; r < replicas(); ++r) {
    if (outstanding_[r] + 1 > most) continue;
    const std::uint64_t rank = mix64(key ^ mix64(static_cast<std::uint64_t>(r) + 1));
    if (best < 0 || rank > highest) best = r, highest = rank;
  }
  return best;  // the least loaded one is never above the bound
}

std::int32_t Router::highest_score(const Request& request, ReplicaView& view) {
  std::int64_t most_cached = 0, least_cached = std::numeric_limits<std::int64_t>::max();
  std::int64_t longest = 0, shortest = std::numeric_limits<std::int64_t>::max();
  states_.clear();
  for (std::int32_t r = 0; r < replicas(); ++r) {
    const ReplicaState& s = states_.emplace_back(view.state(r, request));
    most_cached = std::max(most_cached, s.cached_tokens);
    least_cached = std::min(least_cached, s.cached_tokens);
    longest = std::max(longest, s.waiting);
    shortest = std::min(shortest, s.waiting);
  }
  // 1 for the best replica, 0 for the worst; 1 for all where they are equal.
  const auto scale = [](std::int64_t value, std::int64_t worst, std::int64_t best) {
    return worst == best ? 1.0 : static_cast<double>(value - worst) / static_cast<double>(best - worst);
  };
  std::int32_t chosen = 0;
  double highest = -1;
  for (std::int32_t r = 0; r < replicas(); ++r) {
    const ReplicaState& s = states_[static_cast<std::size_t>(r)];
    const double score = config_.prefix_weight * scale(s.cached_tokens, least_cached, most_cached) +
                         config_.queue_weight * scale(s.waiting, longest, shortest) +
                         config_.kv_weight * (1 - s.kv_usage);
    if (score > highest) chosen = r, highest = score;
  }
  return chosen;
}

// In tokens where Dynamo counts blocks: the same choice for blocks of any size but for rounding.
std::int32_t Router::lowest_cost(const Request& request, ReplicaView& view) const {
  std::int32_t chosen = 0;
  double lowest = std::numeric_limits<double>::infinity();
  for (std::int32_t r = 0; r < replicas(); ++r) {
    const ReplicaState s = view.state(r, request);
    const auto fresh = static_cast<double>(request.input_len - s.cached_tokens);
    const double cost = config_.overlap_weight * (static_cast<double>(s.prefill_tokens) + fresh) +
                        static_cast<double>(s.prompt_tokens) + fresh;
    if (cost < lowest) chosen = r, lowest = cost;
  }
  return chosen;
}

std::int32_t pick_rank(std::span<const RankLoad> loads) {
  const auto load = [](const RankLoad& rank) { return rank.waiting * 4 + rank.running; };
  const auto least = std::min_element(
      loads.begin(), loads.end(), [&](const RankLoad& a, const RankLoad& b) { return load(a) < load(b); });
  return static_cast<std::int32_t>(least - loads.begin());
}

}  // namespace foretoken
