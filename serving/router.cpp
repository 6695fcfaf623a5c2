#include "serving/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "base/random.h"
#include "serving/arrivals.h"

namespace foretoken {

LeastLoad::LeastLoad(std::size_t count, std::span<const std::int64_t> weights)
    : loads_(count), weights_(weights.begin(), weights.end()) {
  while (leaves_ < count) leaves_ *= 2;
  winners_.resize(2 * leaves_);
  for (std::size_t i = 0; i < leaves_; ++i)
    winners_[leaves_ + i] = i < count ? static_cast<std::int32_t>(i) : -1;
  for (std::size_t i = leaves_; --i > 0;) winners_[i] = better(winners_[2 * i], winners_[2 * i + 1]);
}

// a stands left of b.
std::int32_t LeastLoad::better(std::int32_t a, std::int32_t b) const {
  if (a < 0) return b;
  if (b < 0) return a;
  const auto weight = [&](std::int32_t i) {
    return weights_.empty() ? 1 : weights_[static_cast<std::size_t>(i)];
  };
  return (*this)[a] * weight(b) <= (*this)[b] * weight(a) ? a : b;
}

void LeastLoad::add(std::int32_t i, std::int64_t change) {
  loads_[static_cast<std::size_t>(i)] += change;
  sum_ += change;
  replay(leaves_ + static_cast<std::size_t>(i));
}

void LeastLoad::enable(std::int32_t i, bool on) {
  const std::size_t leaf = leaves_ + static_cast<std::size_t>(i);
  winners_[leaf] = on ? i : -1;
  replay(leaf);
}

void LeastLoad::replay(std::size_t leaf) {
  for (std::size_t node = leaf / 2; node > 0; node /= 2)
    winners_[node] = better(winners_[2 * node], winners_[2 * node + 1]);
}

Router::Router(const RouterConfig& config, std::size_t replicas)
    : config_(config),
      available_(replicas),
      outstanding_(replicas, config.weights),
      tokens_(replicas, config.weights) {
  std::iota(available_.begin(), available_.end(), 0);
  if (config.weights.empty()) return;
  if (config.weights.size() != replicas) throw std::logic_error("a weight for each replica, or none");
  credit_.resize(replicas);
  for (std::size_t i = 0; i < replicas; ++i)
    if (config.weights[i] <= 0) set_available(static_cast<std::int32_t>(i), false);
}

void Router::set_available(std::int32_t replica, bool available) {
  const auto at = std::lower_bound(available_.begin(), available_.end(), replica);
  const bool is = at != available_.end() && *at == replica;
  if (is == available) return;
  if (available)
    available_.insert(at, replica);
  else
    available_.erase(at);
  outstanding_.enable(replica, available);
  tokens_.enable(replica, available);
}

std::int32_t Router::pick(const Request& request, std::span<const ContentRun> content, ReplicaView& view) {
  if (available_.empty()) return -1;
  switch (config_.kind) {
    case RouterKind::kRoundRobin:
      return in_turn();
    case RouterKind::kRandom:
      return by_chance(request);
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
    case RouterKind::kMooncake:
    case RouterKind::kSplitwise:
    case RouterKind::kTetriInfer:
      break;
  }
  throw std::logic_error("a router of no kind");
}

void Router::count(std::int32_t replica, const Request& request, std::int64_t by) {
  outstanding_.add(replica, by);
  tokens_.add(replica, by * (std::int64_t{request.input_len} + request.output_len));
}

// With weights nginx's smooth turns: everybody gains its weight, who has most is taken and pays what all
// gained (ngx_http_upstream_round_robin_module). 5, 1, 1 make a a b a c a a.
std::int32_t Router::in_turn() {
  if (credit_.empty()) {
    const auto next = std::lower_bound(available_.begin(), available_.end(), turn_);
    const std::int32_t replica = next == available_.end() ? available_.front() : *next;
    turn_ = replica + 1;
    return replica;
  }
  std::int64_t all = 0;
  std::int32_t most = available_.front();
  for (const std::int32_t r : available_) {
    const auto i = static_cast<std::size_t>(r);
    all += config_.weights[i];
    credit_[i] += config_.weights[i];
    if (credit_[i] > credit_[static_cast<std::size_t>(most)]) most = r;
  }
  credit_[static_cast<std::size_t>(most)] -= all;
  return most;
}

std::int32_t Router::by_chance(const Request& request) const {
  CounterRandom random(config_.seed, random_stream::kRouter, static_cast<std::uint64_t>(request.id));
  if (config_.weights.empty())
    return available_[static_cast<std::size_t>(random.uniform_int(0, std::ssize(available_) - 1))];
  std::int64_t all = 0;
  for (const std::int32_t r : available_) all += config_.weights[static_cast<std::size_t>(r)];
  std::int64_t drawn = random.uniform_int(0, all - 1);
  for (const std::int32_t r : available_)
    if ((drawn -= config_.weights[static_cast<std::size_t>(r)]) < 0) return r;
  throw std::logic_error("a draw beyond all weights");
}

std::int32_t Router::better_of_two(const Request& request) const {
  const std::int64_t count = std::ssize(available_);
  if (count == 1) return available_.front();
  CounterRandom random(config_.seed, random_stream::kRouter, static_cast<std::uint64_t>(request.id));
  std::int64_t first = random.uniform_int(0, count - 1), second = random.uniform_int(0, count - 2);
  second += second >= first;
  const std::int32_t a = available_[static_cast<std::size_t>(std::min(first, second))],
                     b = available_[static_cast<std::size_t>(std::max(first, second))];
  return outstanding_[b] < outstanding_[a] ? b : a;
}

std::int32_t Router::of_session(const Request& request) {
  if (request.session < 0) return outstanding_.least();
  const auto session = static_cast<std::size_t>(request.session);
  if (of_session_.size() <= session) of_session_.resize(session + 1, -1);
  const std::int32_t home = of_session_[session];
  if (home < 0 || !std::binary_search(available_.begin(), available_.end(), home))
    of_session_[session] = outstanding_.least();
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
  std::int64_t sum = 1;
  for (const std::int32_t r : available_) sum += outstanding_[r];
  const auto mean = static_cast<double>(sum) / static_cast<double>(available_.size());
  const auto most = static_cast<std::int64_t>(std::ceil(config_.load_bound * mean));
  std::int32_t best = -1;
  std::uint64_t highest = 0;
  for (const std::int32_t r : available_) {
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
  for (const std::int32_t r : available_) {
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
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const ReplicaState& s = states_[i];
    const double score = config_.prefix_weight * scale(s.cached_tokens, least_cached, most_cached) +
                         config_.queue_weight * scale(s.waiting, longest, shortest) +
                         config_.kv_weight * (1 - s.kv_usage);
    if (score > highest) chosen = available_[i], highest = score;
  }
  return chosen;
}

// In tokens where Dynamo counts blocks: the same choice for blocks of any size but for rounding.
std::int32_t Router::lowest_cost(const Request& request, ReplicaView& view) const {
  std::int32_t chosen = 0;
  double lowest = std::numeric_limits<double>::infinity();
  for (const std::int32_t r : available_) {
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
