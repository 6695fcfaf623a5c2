// What the command line says about how the executor runs: --backend, --isa, --threads, --activation-format,
// --fp8-scales.
#pragma once

#include <filesystem>

#include "cli/command.h"
#include "executor/executable.h"

namespace foretoken {

// Throws Error for a number of threads that is not from 1 to 1024; 1 where none is given. database: the
// user's, empty where there is none; a device's product choices are kept beside it.
ExecutorOptions executor_options(const Invocation& invocation, const std::filesystem::path& database);

}  // namespace foretoken
