// What the window shows, computed by the library alone: no Qt here, so that worker threads and tests call it.
// Everything throws Error for wrong input and Interrupted where it was told to stop.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/scenario_input.h"
#include "serving/timeline.h"
#include "simulator/pools_estimate.h"
#include "simulator/sensitivity.h"
#include "simulator/simulate.h"

namespace foretoken::gui {

// The database and presets as the program finds them, for scenarios of one folder.
std::shared_ptr<const World> open_world(const std::filesystem::path& folder, const std::string& file);

// Memory and step times. Not movable: prices point into it.
struct Estimated {
  Estimated() = default;
  Estimated(const Estimated&) = delete;
  Estimated& operator=(const Estimated&) = delete;

  std::shared_ptr<const Json> json_scenario;  // that it is of, as the session has it
  ScenarioInput input;
  Prepared prepared;
  std::vector<CostModel> costs;  // of each kind of engines
  // One of the two, but where it can't be, does not fit, or `no_estimate` says why there is none.
  std::optional<Estimate> estimate;
  std::optional<PoolsEstimate> pools;  // of engines of several kinds
  std::string no_estimate;
  std::vector<Sensitivity> what_if;
  std::string context;  // program, database and seed
  std::string verdict;  // why it can't be; empty: it can
  std::vector<std::string> warnings;
  // Null where it can't be.
  const Deployment* deployment() const { return std::get_if<Deployment>(&prepared.verdict); }
  // What `foretoken estimate -o json` prints of it, less the context.
  Json json() const;

  // A step of one kind of engines: "decode_max", and "pool 1: decode_max" where each kind has its own.
  struct Step {
    std::string name;
    const StepEstimate* step;
    const Deployment* of;
  };
  std::vector<Step> steps() const;  // into this
  struct Totals {
    double ttft_ms, tpot_ms, output_throughput, capacity_requests_per_s, utilization, usd_per_million_tokens;
  };
  std::optional<Totals> totals() const;  // of all engines, without queueing
};
std::shared_ptr<const Estimated> estimate_of(const World& world, const Json& scenario,
                                             const std::string& file);

// The scenario served once, with everything that happened. Its intervals take two more runs and come later.
struct Simulated {
  std::shared_ptr<const Estimated> of;
  Simulation simulation;
  bool has_intervals = false;
  Recording recording;
  // What `foretoken simulate -o json` prints, less the context; without intervals as long as there are none.
  Json json() const;
};
std::shared_ptr<Simulated> simulate_of(const World& world, std::shared_ptr<const Estimated> of,
                                       const std::atomic<bool>* stop);
std::map<std::string, Interval> intervals_of(const World& world, const Simulated& simulated,
                                             const std::atomic<bool>* stop);

// How far one key of the scenario goes, the others as they are, before it does not fit in memory or can't be.
struct FitLimit {
  std::string key;              // "max_model_len"
  bool at_most = true;          // else at least
  bool bounded = true;          // else it fits as far as was looked: `value`
  std::optional<double> value;  // none: no value fits
};
std::vector<FitLimit> fit_limits(const World& world, const Estimated& of, const std::atomic<bool>* stop);

// The scenario at several loads, up to somewhat more than it can serve.
struct LoadPoint {
  double load = 0;  // requests/s, requests in flight, or a trace's speed
  ServingMetrics metrics;
  std::map<std::string, Interval> interval;
  std::string stability;
};
struct LoadSweep {
  std::shared_ptr<const Estimated> of;
  std::string axis;               // what `load` is, with its unit
  double current = 0;             // the scenario's own; 0: it has none
  bool estimated = true;          // up to what the estimate says; else around the scenario's own
  std::int64_t requests = 0;      // simulated at each load
  std::vector<LoadPoint> points;  // in ascending order
};
std::shared_ptr<const LoadSweep> sweep_of(const World& world, std::shared_ptr<const Estimated> of,
                                          const std::atomic<bool>* stop);

// Two results side by side: every number that both have, and what one alone has.
Table compare_results(const Json& pinned, const Json& current);

// A value as it is typed; lengths as flags have them: a number, or "lognormal:mean=1200,p99=8000". "" for
// null.
std::string text_of(const Json& value);

// The scenario as a command of the program: flags for what differs from a new scenario.
std::string command_line(const Json& scenario, const std::string& verb);

}  // namespace foretoken::gui
