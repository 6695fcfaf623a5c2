// Result files of benchmark tools, with their definitions translated into ours (docs/metrics.md).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"

namespace foretoken {

struct ResultColumn {
  std::string name, kind;                 // "result.json", "vllm bench serve"
  std::map<std::string, double> metrics;  // by our keys; absent where the tool doesn't say
  std::vector<std::string> notes;
};

// Keys that compare shows, in order, with their titles.
struct ComparedMetric {
  std::string key, title;
};
std::vector<ComparedMetric> compared_metrics();

// The results in a file: one, or several for a GuideLLM sweep and for JSON lines. Empty when it is a
// scenario.
std::vector<ResultColumn> read_result_file(const std::string& path);

}  // namespace foretoken
