// The candidates of a plan: every combination of the listed values, as patches over the scenario.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deployment/scenario.h"

namespace foretoken {

// One engine configuration with the replica counts to try for it.
struct SearchPoint {
  std::string patch;                   // JSON merge patch over the scenario, replicas excluded
  std::vector<std::int64_t> replicas;  // ascending; empty: as many as the devices allow, from 1
};

struct SearchSpace {
  std::vector<SearchPoint> points;
  std::int64_t device_budget = 0;    // most devices of a candidate
  std::vector<std::string> devices;  // named in the space
};

// plan.search lists values of scalar keys of `hardware` (device, count), `engine` and `cluster`; what it
// doesn't list keeps the scenario's value. Without it: tensor parallel 1 to 8, the KV cache's own type or
// fp8, two token budgets. Errors name file:/plan/search/key.
SearchSpace search_space(const Scenario& scenario, const std::string& where);

}  // namespace foretoken
