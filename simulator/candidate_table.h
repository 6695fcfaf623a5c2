// Candidates of a plan as a table.
#pragma once

#include <string>
#include <vector>

#include "base/table.h"
#include "simulator/plan.h"

namespace foretoken {

// The columns of plan_tables(), and a row for every candidate of the list in its order.
Table candidate_table(const std::vector<Candidate>& candidates);

// What stands above a candidate's command: "On each of the 2 replicas:".
std::string where_to_start(const Candidate& candidate);

}  // namespace foretoken
