// The verbs: each takes what the user asked and returns the exit code.
#pragma once

#include "cli/command.h"

namespace foretoken {

inline constexpr int kDone = 0, kNegative = 1, kMendable = 2, kFault = 3, kInterrupted = 130;

int run_estimate(const Invocation& invocation);
int run_simulate(const Invocation& invocation);
int run_sweep(const Invocation& invocation);
int run_run(const Invocation& invocation);
int run_calibrate(const Invocation& invocation);
int run_capacity(const Invocation& invocation);
int run_plan(const Invocation& invocation);
int run_validate(const Invocation& invocation);
int run_compare(const Invocation& invocation);
int run_model_list(const Invocation& invocation);
int run_model_show(const Invocation& invocation);
int run_hw(const Invocation& invocation);  // list, show, import, export, forget
int run_strategies(const Invocation& invocation);
int run_schema(const Invocation& invocation);
int run_completion(const Invocation& invocation);
int run_gui(const Invocation& invocation);
int run_reference(const Invocation& invocation);

}  // namespace foretoken
