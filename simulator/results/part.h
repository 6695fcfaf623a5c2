// A part of a tool's result file and where it is, for readers that say what is wrong and where.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "simulator/results/measured_run.h"

namespace foretoken {

struct Part {
  const Json& json;   // an object
  std::string where;  // "file:" at the top, "file:/records" below

  bool has(const std::string& key) const;  // and it isn't null
  // Absent and null are the same; another type is an Error.
  std::optional<Part> object(const std::string& key) const;
  // Finite and not negative, else an Error.
  std::optional<double> number(const std::string& key) const;
  std::optional<std::int64_t> count(const std::string& key) const;
  std::string text(const std::string& key, const std::string& absent = "") const;
  bool flag(const std::string& key) const;
  // The first text of a list of texts, or the text itself; "" where there is none.
  std::string first_text(const std::string& key) const;
};

// A metric under another name and in another unit.
void put(MeasuredRun& run, const Part& from, const std::string& theirs, const std::string& ours,
         double scale = 1);
// Requests that failed, with a note where there are any.
void put_failed(MeasuredRun& run, double failed);
// Mean lengths from totals, and the load's num_prompts where it has none.
void take_totals(MeasuredRun& run);
// Of "ms", "s", "us", "ns" and their other spellings, in milliseconds.
double to_ms_factor(const std::string& unit, const std::string& where);

// The readers: empty where the content is not theirs.
using ResultReader = std::vector<MeasuredRun> (*)(const Part& top, const std::string& name);
std::vector<MeasuredRun> read_guidellm(const Part& top, const std::string& name);
std::vector<MeasuredRun> read_aiperf(const Part& top, const std::string& name);  // and GenAI-Perf
std::vector<MeasuredRun> read_foretoken(const Part& top, const std::string& name);
std::vector<MeasuredRun> read_sglang(const Part& top, const std::string& name);  // serving, one batch
std::vector<MeasuredRun> read_vllm(const Part& top, const std::string& name);    // serve, throughput, latency

// What `vllm bench serve` calls as we do; SGLang shares the names.
void take_vllm_metrics(MeasuredRun& run, const Part& from);

}  // namespace foretoken
