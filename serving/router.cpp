#include "serving/router.h"

#include <algorithm>

namespace foretoken {

std::int32_t Router::pick(std::span<const std::int64_t> outstanding) {
  if (kind_ == RouterKind::kLeastOutstanding) {
    return static_cast<std::int32_t>(std::min_element(outstanding.begin(), outstanding.end()) -
                                     outstanding.begin());
  }
  const std::size_t replica = turn_;
  turn_ = turn_ + 1 == outstanding.size() ? 0 : turn_ + 1;
  return static_cast<std::int32_t>(replica);
}

std::int32_t pick_rank(std::span<const RankLoad> loads) {
  const auto load = [](const RankLoad& rank) { return rank.waiting * 4 + rank.running; };
  const auto least = std::min_element(
      loads.begin(), loads.end(), [&](const RankLoad& a, const RankLoad& b) { return load(a) < load(b); });
  return static_cast<std::int32_t>(least - loads.begin());
}

}  // namespace foretoken
