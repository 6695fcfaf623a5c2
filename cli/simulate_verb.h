// A scenario served in virtual time, as `simulate` and `sweep` answer it.
#pragma once

#include <span>

#include "cli/answer.h"

namespace foretoken {

Answer simulate_in(const Invocation& invocation, const ScenarioInput& input, const World& world);
// Of a table with one row for each simulation.
std::span<const AnswerColumn> simulate_columns();

}  // namespace foretoken
