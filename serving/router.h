// Chooses the replica that a request goes to.
#pragma once

#include <cstdint>
#include <span>

#include "serving/serve.h"

namespace foretoken {

class Router {
 public:
  explicit Router(RouterKind kind) : kind_(kind) {}
  // outstanding: requests sent to each replica and not yet finished. Lowest index on ties.
  std::int32_t pick(std::span<const std::int64_t> outstanding);

 private:
  RouterKind kind_;
  std::size_t turn_ = 0;
};

// The rank inside a replica (vLLM's data-parallel load balancer): least waiting * 4 + running, lowest index
// on ties.
struct RankLoad {
  std::int64_t waiting = 0, running = 0;
};
std::int32_t pick_rank(std::span<const RankLoad> loads);

}  // namespace foretoken
