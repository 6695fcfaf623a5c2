// Strategies: runs compared with runs that differ in one thing, measured and predicted. Internal.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "simulator/validation.h"

namespace foretoken {

// Of one run, by metric. Nothing is predicted where it was refused.
struct RunPair {
  bool saturated = false;  // requests don't come at a rate of their own, which would set the throughput
  std::map<std::string, double> measured, spread, predicted;
};

// Of effects.csv in the folder; none where there is no such file. Errors: runs that aren't there, at
// file:line.
std::vector<StrategyEffect> strategy_effects(const std::filesystem::path& folder,
                                             const std::map<std::string, RunPair>& runs);

}  // namespace foretoken
