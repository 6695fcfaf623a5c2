#include "serving/autoscaler.h"

#include <algorithm>
#include <cmath>

namespace foretoken {

std::int64_t Autoscaler::desired(Picoseconds now, std::int64_t current, double ratio) {
  std::int64_t wanted = current;
  if (std::abs(ratio - 1) > config_.tolerance) {
    const double exact = std::ceil(static_cast<double>(current) * ratio);
    wanted = static_cast<std::int64_t>(std::min(exact, static_cast<double>(config_.max_replicas)));
  }
  wanted = std::clamp(wanted, config_.min_replicas, config_.max_replicas);
  while (!recent_.empty() && recent_.front().at < now - config_.scale_down_window) recent_.pop_front();
  while (!recent_.empty() && recent_.back().replicas <= wanted) recent_.pop_back();
  recent_.push_back({now, wanted});
  if (wanted > current) return std::min(wanted, std::max(2 * current, current + 4));
  return std::min(current, recent_.front().replicas);
}

}  // namespace foretoken
