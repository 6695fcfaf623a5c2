// Serves a scenario's workload in virtual time and reports what its users would see.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "serving/serve.h"
#include "simulator/cost_model.h"
#include "simulator/predicted_backend.h"

namespace foretoken {

struct Interval {
  double low = 0, high = 0;
};

// What the engine model adds to a metric's interval: a logarithmic half-width. key: "mean_ttft_ms".
double engine_error(const Behavior& behavior, std::string_view key);
// The interval that the steps' errors give, with the engine's own.
Interval with_engine_error(double value, const Interval& steps, double engine_error);

bool has_limits(const SloSection& slo);
// The limits hold for their percentile of the requests, itl_ms for the 99th of the gaps.
bool meets(const ServingMetrics& metrics, const SloSection& slo);

struct SimulateOptions {
  bool use_spans = true;
  bool keep_records = false;
  bool sample_over_time = false;
  bool intervals = true;  // simulate again with prices at the ends of their interval
  std::int64_t abort_backlog = 0;
  double price_scale = 1;  // all predicted times count so many times
  TimelineWriter* timeline = nullptr;
  std::function<void(double)> progress;
  const std::atomic<bool>* stop = nullptr;
  // serve_with() alone: prices, for those that decide by predicted times (LoongServe, Infinite-LLM, router
  // "mooncake").
  std::span<const CostModel> costs = {};
};

struct Simulation {
  ServeResult served;
  TimeBasis basis;
  std::map<std::string, Interval> interval;  // by result key, 90 %
  double usd_per_million_tokens = 0;         // output tokens; meaningful when has_price
  bool has_price = false;
  double usd_per_hour = 0;  // with autoscale: of the replicas that there were, on average
  double mean_replicas() const {
    return served.metrics.duration > 0 ? served.replica_seconds / served.metrics.duration : 0;
  }
  std::string stability;  // "stable", "backlogged", "overloaded"
  std::string stability_reason;
  std::string workload;  // Workload::describe()
};

// Requests that all engines run at once at the most, by max_num_seqs.
std::int64_t seats(const Deployment& deployment);
// The rule that chooses decode engines where it isn't that of the router; else empty.
std::string decode_rule(const Deployment& deployment);
// Whether a conductor may refuse requests whose prompts are computed.
bool rejects_computed(const Deployment& deployment);

// What one of unlike replica pools did.
struct PoolShare {
  std::int64_t requests = 0, steps = 0;
  double busy_share = 0, peak_kv_usage = 0;
};
std::vector<PoolShare> pool_shares(const Deployment& deployment, const Simulation& simulation);

// simulate() with another backend, whose durations stand as they are: no interval, and no basis but
// measurement.
Simulation serve_with(Backend& backend, Workload& workload, const Deployment& deployment,
                      const SimulateOptions& options = {});

// Intervals of a simulation that was made without them, as SimulateOptions::intervals gives; none where it
// was given up or completed nothing.
std::map<std::string, Interval> intervals(const Simulation& simulation, const Deployment& deployment,
                                          std::span<const CostModel> costs, const Resources& resources,
                                          const std::atomic<bool>* stop = nullptr);

// costs: one for each of the deployment's kinds of engines, or one for all.
Simulation simulate(const Deployment& deployment, std::span<const CostModel> costs,
                    const Resources& resources, const SimulateOptions& options = {});
inline Simulation simulate(const Deployment& deployment, const CostModel& cost, const Resources& resources,
                           const SimulateOptions& options = {}) {
  return simulate(deployment, std::span(&cost, 1), resources, options);
}

}  // namespace foretoken
