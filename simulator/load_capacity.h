// The highest load that a deployment serves within its limits: searched by simulation, as Vidur's capacity
// search does (Agrawal et al., MLSys 2024, section 6), but bracketed from an estimate, with several loads
// side by side, and at both ends of the step times' interval too.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "simulator/load_axis.h"
#include "simulator/simulate.h"

namespace foretoken {

// One of the SLO's limits in a run.
struct LimitCheck {
  std::string key;   // "ttft_ms"
  double limit = 0;  // ms
  double value = 0;  // ms, at the SLO's percentile; of itl_ms at the 99th
  double share = 1;  // of the requests that keep it; of itl_ms 1 or 0
};

// A simulated load.
struct LoadTrial {
  double load = 0;
  std::int64_t requests = 0;  // simulated
  bool passes = false;
  std::string limited_by;  // why it doesn't: a limit's key, "stability", "rejected" or "users"; else empty
  std::string reason;      // in a sentence
  std::vector<LimitCheck> limits;
  Simulation simulation;  // without records
  double lives = 0;       // requests' mean stays that the arrivals last
};

struct LoadCapacity {
  LoadAxis axis;
  double load = 0;          // 0: no load is served within the limits
  double failing = 0;       // the lowest simulated load that isn't; 0: all were
  double request_rate = 0;  // requests/s at that load, arriving, or completed in a closed loop
  // 90 %: the capacity at both ends of the step times' interval, with what the engine model adds.
  Interval interval;
  std::string limited_by, reason;  // of the lowest failing load; "seats" where a closed loop has none
  std::vector<LoadTrial> trials;   // at the predicted prices, by load
  LoadTrial at;                    // that at the capacity, with intervals; the lowest load where it is 0
  bool stability_alone = false;    // no limits are given
  double tolerance = 0;
  std::int64_t simulations = 0;       // at all prices
  std::int64_t passing_above = 0;     // loads that pass although a lower one fails
  std::vector<std::string> warnings;  // e.g. a trace too short to show a queue that grows
};

struct LoadCapacityOptions {
  double tolerance = 0.01;  // the lowest failing load is at most so much above the capacity
  int threads = 0;          // 0: all cores; the result is the same for any number
  std::function<void(double share)> progress;  // from any thread
  const std::atomic<bool>* stop = nullptr;     // set: throw Interrupted
};

// load: means of the workload as it is. guess: requests/s that are tried first, as an estimate gives it; 0:
// the workload's own load. A load passes where every request is served, the SLO is met, and the queue keeps
// up: the verdict is "stable", or, where ttft_ms or e2el_ms bound the waiting, not "overloaded". Each run
// lasts ten times a request's (or session's) stay at least, else a queue that grows wouldn't show; a trace
// gives what it has. All runs share seed and lengths. The capacity is the highest simulated load below the
// lowest failing one. Throws Error (where: the scenario's "file:/workload...") for a workload without a load
// to vary, and for a closed loop without limits, which never overloads.
LoadCapacity find_load_capacity(const Deployment& deployment, std::span<const CostModel> costs,
                                const Resources& resources, const Workload::Means& load, double guess,
                                const LoadCapacityOptions& options = {});

}  // namespace foretoken
