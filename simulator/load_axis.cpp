#include "simulator/load_axis.h"

#include <algorithm>
#include <cmath>

namespace foretoken {

std::optional<LoadAxis> load_axis(const WorkloadConfig& w) {
  if (w.all_at_once || !w.stages.empty()) return std::nullopt;
  if (w.max_concurrency)
    return LoadAxis{"max_concurrency", "requests in flight", static_cast<double>(*w.max_concurrency)};
  if (!w.trace.empty() && !w.request_rate) return LoadAxis{"rate_scale", "speed of the trace", w.rate_scale};
  const bool talks = w.shared_prefix && w.shared_prefix->multi_turn;
  return LoadAxis{"request_rate",
                  talks       ? "conversations begun/s"
                  : w.agentic ? "sessions begun/s"
                              : "requests/s",
                  w.request_rate.value_or(0)};
}

void set_load(WorkloadConfig& w, const LoadAxis& axis, double load) {
  if (axis.closed())
    w.max_concurrency = std::max<std::int64_t>(1, std::llround(load));
  else if (axis.key == "rate_scale")
    w.rate_scale = load;
  else
    w.request_rate = load;
}

}  // namespace foretoken
