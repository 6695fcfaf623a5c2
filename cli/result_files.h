// What `compare` is given: results of tools, which it reads, or scenarios, which it simulates.
#pragma once

#include <string>
#include <vector>

#include "simulator/results/measured_run.h"

namespace foretoken {

// The results in a file: one, or several for a GuideLLM sweep and for JSON lines. Empty when it is a
// scenario. name: for people.
std::vector<MeasuredRun> read_result_file(const std::string& path, const std::string& name);

}  // namespace foretoken
