// One question, one answer; and many questions at once, where flags hold lists: every combination is
// answered, and a table has a row for each.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "cli/combinations.h"
#include "cli/output.h"
#include "cli/scenario_input.h"

namespace foretoken {

struct Answer {
  Report report;
  std::string text;  // instead of the report, where it is not empty (--print-scenario)
  int code = 0;
};

// Answers with `one`, or, where flags hold lists, each combination of their values.
int answer_all(const Invocation& invocation, Answer (*one)(const Invocation&),
               std::span<const AnswerColumn> columns);

// The verdict that a deployment can't be, with its reason in memory{fits, reason}.
Answer infeasible_answer(const std::string& title, const Infeasible& no, const Scenario& scenario,
                         const World& world);

// What is answered instead of serving: that the deployment can't be or doesn't fit in memory, or
// --print-scenario's text. nullopt, with the warnings printed: it can be served.
std::optional<Answer> answer_without_serving(const Invocation& invocation, const std::string& title,
                                             const ScenarioInput& input, const World& world,
                                             const Prepared& p);

}  // namespace foretoken
