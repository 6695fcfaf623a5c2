// Results as data: the JSON of contract.md and the tables that people read.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/table.h"
#include "simulator/estimate.h"
#include "simulator/load_capacity.h"
#include "simulator/plan.h"
#include "simulator/pools_estimate.h"
#include "simulator/sensitivity.h"
#include "simulator/simulate.h"

namespace foretoken {

// What a result came from; the first keys of every JSON result and the head of every report.
struct ReportContext {
  std::string program_version, git_commit, database_digest;
  std::int64_t seed = 0;
  std::vector<std::string> warnings;
};
Json context_json(const ReportContext& context);
Json context_json(const ReportContext& context, const Scenario& resolved);

Json memory_json(const MemoryPlan& memory);
Json estimate_json(const Deployment& deployment, const Estimate& estimate,
                   const std::vector<Sensitivity>& what_if);
Json pools_estimate_json(const Deployment& deployment, const PoolsEstimate& estimate);
Json simulation_json(const Deployment& deployment, const Simulation& simulation, bool detailed);
Json plan_json(const PlanResult& plan);
Json load_capacity_json(const Deployment& deployment, const LoadCapacity& capacity);

std::vector<Table> memory_tables(const Deployment& deployment);
std::vector<Table> estimate_tables(const Deployment& deployment, const Estimate& estimate,
                                   const std::vector<Sensitivity>& what_if);
// The pools side by side and what they do together, then each one's memory and steps.
std::vector<Table> pools_estimate_tables(const Deployment& deployment, const PoolsEstimate& estimate);
std::vector<Table> simulation_tables(const Deployment& deployment, const Simulation& simulation);
std::vector<Table> plan_tables(const PlanResult& plan);
// The answer, then the loads that were simulated.
std::vector<Table> load_capacity_tables(const Deployment& deployment, const LoadCapacity& capacity);

}  // namespace foretoken
