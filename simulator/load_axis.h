// The load of a workload as one number that can be raised and lowered: what a search for the highest load and
// a picture of latency against load vary.
#pragma once

#include <optional>
#include <string>

#include "serving/workload.h"

namespace foretoken {

struct LoadAxis {
  std::string key;     // of the workload: "request_rate", "max_concurrency" or "rate_scale"
  std::string name;    // "requests/s", "conversations begun/s", "requests in flight", "speed of the trace"
  double current = 0;  // the workload's own load; 0: it has none
  bool closed() const { return key == "max_concurrency"; }  // a whole number then
};

// A closed loop is varied by its requests in flight, recorded arrivals by their speed, all others by the rate
// at which requests, or conversations and sessions, begin. nullopt: the workload fixes its load itself
// (stages, all_at_once).
std::optional<LoadAxis> load_axis(const WorkloadConfig& workload);
void set_load(WorkloadConfig& workload, const LoadAxis& axis, double load);

}  // namespace foretoken
