// Chooses the replica that a request goes to, by the rules of routers that are in use (docs/policies.md).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "serving/request.h"

namespace foretoken {

enum class RouterKind {
  kRoundRobin,
  kRandom,
  kLeastOutstanding,
  kLeastTokens,
  kPowerOfTwo,
  kSessionSticky,
  kPrefixAffine,
  kPrecisePrefix,
  kKvCost,
  // These choose a prefill and a decode engine each (serving/conductor.h, mixed_pools.h, tetri_infer.h).
  kMooncake,
  kSplitwise,
  kTetriInfer
};
// By kind, as scenarios name them.
inline constexpr std::string_view kRouterNames[] = {
    "round_robin",   "random",         "least_outstanding", "least_tokens", "power_of_two", "session_sticky",
    "prefix_affine", "precise_prefix", "kv_cost",           "mooncake",     "splitwise",    "tetriinfer"};

struct RouterConfig {
  RouterKind kind = RouterKind::kRoundRobin;
  std::uint64_t seed = 0;
  // kPrefixAffine: leading tokens by which prompts are told apart, and how far above the mean a replica's
  // outstanding requests may be before others get what belongs to it (Mirrokni et al. 2018).
  std::int64_t prefix_tokens = 512;
  double load_bound = 1.25;
  double prefix_weight = 2, queue_weight = 1, kv_weight = 1;  // kPrecisePrefix
  double overlap_weight = 1;                                  // kKvCost
  // Of each replica's share of the load, for the first four kinds and kSessionSticky; 0 gets none, under any
  // kind. Empty: all alike.
  std::vector<std::int64_t> weights;
};

// A replica as a router that looks at it finds it now.
struct ReplicaState {
  std::int64_t waiting = 0;         // requests
  double kv_usage = 0;              // share of its KV memory that requests hold
  std::int64_t cached_tokens = 0;   // of this request's prompt, in its prefix cache
  std::int64_t prefill_tokens = 0;  // of requests sent to it whose prompts aren't computed yet
  std::int64_t prompt_tokens = 0;   // of all requests that it has, less what was cached when they came
};
class ReplicaView {
 public:
  virtual ~ReplicaView() = default;
  virtual ReplicaState state(std::int32_t replica, const Request& request) = 0;
};

// The least of many loads, each over its weight, lowest index on ties, in logarithmic time a change: there
// are replicas by the thousand and requests by the million.
class LeastLoad {
 public:
  explicit LeastLoad(std::size_t count, std::span<const std::int64_t> weights = {});  // none: all 1
  std::int64_t operator[](std::int32_t i) const { return loads_[static_cast<std::size_t>(i)]; }
  void add(std::int32_t i, std::int64_t change);
  void enable(std::int32_t i, bool on);               // all are at first; the least is one of these
  std::int32_t least() const { return winners_[1]; }  // -1: none is enabled
  std::int64_t sum() const { return sum_; }

 private:
  std::int32_t better(std::int32_t a, std::int32_t b) const;
  void replay(std::size_t leaf);
  std::vector<std::int64_t> loads_, weights_;
  std::vector<std::int32_t> winners_;  // tournament: a node's winner is the better of its two children's
  std::size_t leaves_ = 1;
  std::int64_t sum_ = 0;
};

class Router {
 public:
  Router(const RouterConfig& config, std::size_t replicas);

  // Only those that are available are picked; all are at first.
  void set_available(std::int32_t replica, bool available);
  // content: the prompt's shared content (Workload::content). Lowest index on ties; -1: none is available.
  std::int32_t pick(const Request& request, std::span<const ContentRun> content, ReplicaView& view);
  // The request was sent there; it has left that replica.
  void sent(std::int32_t replica, const Request& request) { count(replica, request, 1); }
  void left(std::int32_t replica, const Request& request) { count(replica, request, -1); }
  std::int64_t outstanding(std::int32_t replica) const { return outstanding_[replica]; }
  std::int64_t outstanding() const { return outstanding_.sum(); }  // of all, available or not

 private:
  void count(std::int32_t replica, const Request& request, std::int64_t by);
  std::int32_t in_turn();
  std::int32_t by_chance(const Request& request) const;
  std::int32_t better_of_two(const Request& request) const;
  std::int32_t of_session(const Request& request);
  std::int32_t of_prefix(const Request& request, std::span<const ContentRun> content) const;
  std::int32_t highest_score(const Request& request, ReplicaView& view);
  std::int32_t lowest_cost(const Request& request, ReplicaView& view) const;

  RouterConfig config_;
  std::vector<std::int32_t> available_;   // ascending
  std::int32_t turn_ = 0;                 // the replica from which on the next turn looks
  std::vector<std::int64_t> credit_;      // by replica, of weighted turns
  LeastLoad outstanding_, tokens_;        // requests, and their prompts and allowed outputs, not yet left
  std::vector<std::int32_t> of_session_;  // replica by session, -1: none yet
  std::vector<ReplicaState> states_;      // scratch
};

// The rank inside a replica (vLLM's data-parallel load balancer): least waiting * 4 + running, lowest index
// on ties.
struct RankLoad {
  std::int64_t waiting = 0, running = 0;
};
std::int32_t pick_rank(std::span<const RankLoad> loads);

}  // namespace foretoken
