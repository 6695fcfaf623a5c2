// Results of benchmark tools as measurements: metrics by our keys with the tools' definitions translated
// (docs/metrics.md), and the load that they were measured under as far as the file says it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace foretoken {

// Tokens of prompts or of answers.
struct MeasuredLength {
  double mean = 0;
  std::optional<double> std;       // of the requests; absent where the tool doesn't say
  std::optional<double> min, max;  // where they were drawn uniformly in [min, max]
};

struct MeasuredLoad {
  std::string model;             // as the tool was told; "" where it doesn't say
  std::string device, behavior;  // likewise; of our own files of servers
  std::optional<std::int64_t> tensor_parallel;
  std::optional<double> request_rate;  // a second
  bool all_at_once = false;            // everything sent at time 0
  std::string arrival;                 // "poisson", "constant", "gamma"; "" where the tool doesn't say
  std::optional<double> burstiness;    // of gamma arrivals
  std::optional<std::int64_t> max_concurrency;
  std::optional<std::int64_t> num_prompts;
  std::optional<MeasuredLength> input_len, output_len;
  // File with the length and the start of every request, which workload.trace reads; "" where it has none.
  std::string trace;
  // The engine was called without a server or client around it: no time on the way in or out.
  bool in_process = false;
};

struct MeasuredRun {
  std::string name, kind;                 // "result.json", "vllm bench serve"
  std::map<std::string, double> metrics;  // by our keys; absent where the tool doesn't say
  std::vector<std::string> notes;
  MeasuredLoad load;
  std::string
      where;  // of the run in its file: "result.json:" or "results.jsonl:2:", to which "/key" is added
  double failed = 0;     // requests
  std::string unusable;  // why it is no measurement of a server: "was cancelled"; "" where it is one
};

// Keys of metrics that are compared, in order, with their titles.
struct MeasuredMetric {
  std::string key, title;
};
const std::vector<MeasuredMetric>& measured_metrics();
// Names of the tools whose files are read, for messages.
std::string known_tools();

// Runs of a parsed file, by its content; none where no reader knows it. name: for people; where: "file:".
std::vector<MeasuredRun> measured_runs(const Json& json, const std::string& name, const std::string& where);

// Rows of a file of measured servers (docs/validation.md).
std::vector<MeasuredRun> read_servers_csv(const std::filesystem::path& file);

// Of a file: one object, JSON lines (a run each), or a GuideLLM sweep. NaN and Infinity, which Python writes,
// are read as values that are not numbers. name: for people, see short_names(). unknown: what to do with an
// object that no reader knows; returns its runs or throws.
using UnknownResult = std::vector<MeasuredRun> (*)(const Json& json, const std::filesystem::path& file);
std::vector<MeasuredRun> read_measured_runs(const std::filesystem::path& file, const std::string& name,
                                            UnknownResult unknown);

// Names of files for people: the file's own, with as many of its folders as tell it from the others (AIPerf
// calls all of its results profile_export_aiperf.json).
std::vector<std::string> short_names(const std::vector<std::string>& files);

}  // namespace foretoken
