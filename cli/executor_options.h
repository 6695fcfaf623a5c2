// What the command line says about how the executor runs: --isa and --threads.
#pragma once

#include "cli/command.h"
#include "executor/executable.h"

namespace foretoken {

// Throws Error for a number of threads that is not from 1 to 1024; 1 where none is given.
ExecutorOptions executor_options(const Invocation& invocation);

}  // namespace foretoken
