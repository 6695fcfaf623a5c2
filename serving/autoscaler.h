// How many replicas there should be: Kubernetes' HorizontalPodAutoscaler, and KEDA's start from none.
#pragma once

#include <cstdint>
#include <deque>

#include "base/units.h"

namespace foretoken {

enum class ScaleMetric { kOutstanding, kTtft };

struct AutoscaleConfig {
  bool on = false;
  std::int64_t min_replicas = 1;  // where it begins, too; at 0 the first request starts one
  std::int64_t max_replicas = 1;
  ScaleMetric metric = ScaleMetric::kOutstanding;
  double target = 0;  // outstanding requests a replica, or milliseconds of mean time to first token
  double tolerance = 0.1;
  Picoseconds interval = 0;  // between decisions
  Picoseconds startup = 0;   // from the decision until a replica serves
  Picoseconds scale_down_window = 0;
};

// ratio = measured / target; desired = ceil(current x ratio), within tolerance no change; at most doubled, or
// 4 more, in one decision; down only to the highest that was desired within the window
// (https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/, its defaults).
class Autoscaler {
 public:
  explicit Autoscaler(const AutoscaleConfig& config) : config_(config) {}
  std::int64_t desired(Picoseconds now, std::int64_t current, double ratio);

 private:
  struct Recommendation {
    Picoseconds at;
    std::int64_t replicas;
  };
  AutoscaleConfig config_;
  std::deque<Recommendation> recent_;  // falling, so that the first is the highest
};

}  // namespace foretoken
