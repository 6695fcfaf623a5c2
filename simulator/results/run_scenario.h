// The scenario that a measured run stands for: what its file says of the load fills what the scenario leaves
// open.
#pragma once

#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "simulator/results/measured_run.h"

namespace foretoken {

// Throws Error, naming both, where file and scenario contradict each other, where neither says how requests
// were sent or how long they were, and for files that are no measurement. resources: of the scenario.
Scenario scenario_of_run(const Scenario& scenario, const Resources& resources, const MeasuredRun& run,
                         std::vector<std::string>& notes);

// Of what was sent, for telling loads apart and for people: "64 at a time, 1000 in, 100 out".
std::string describe_load(const WorkloadConfig& workload);

}  // namespace foretoken
