// `vllm bench serve`, `throughput` and `latency` (vllm/benchmarks of vLLM 0.6 to 0.33), and results of this
// program, which have the keys of the first.
#include <fmt/format.h>

#include "base/error.h"
#include "base/json_full.h"
#include "simulator/results/part.h"

namespace foretoken {
namespace {

constexpr const char* kStatistics[] = {"mean", "median", "std", "p50", "p90", "p95", "p99"};

// request_rate is a number or "inf"; max_concurrency is null without a limit.
void take_load(MeasuredRun& run, const Part& top) {
  MeasuredLoad& load = run.load;
  load.model = top.text("model_id");
  load.max_concurrency = top.count("max_concurrency");
  const auto rate = top.json.find("request_rate");
  const bool limited = rate != top.json.end() && rate->is_number();
  if (limited) load.request_rate = top.number("request_rate");
  const bool known = top.has("request_rate");
  if (known && !limited && !load.max_concurrency) load.all_at_once = true;
  if (limited) {
    const double burstiness = top.number("burstiness").value_or(1);
    load.arrival = burstiness == 1 ? "poisson" : "gamma";
    if (burstiness != 1) load.burstiness = burstiness;
  }
  if (top.has("ramp_up_strategy"))
    run.unusable = "its request rate was ramped up, which one request rate does not describe";
  load.num_prompts = top.count("num_prompts");
}

std::vector<MeasuredRun> read_serve(const Part& top, const std::string& name) {
  if (!top.has("request_throughput") || !top.has("completed")) return {};
  MeasuredRun run{name, "vllm bench serve", {}, {}, {}, top.where, 0, {}};
  take_vllm_metrics(run, top);
  take_load(run, top);
  if (top.json.contains("input_lens") && top.json.contains("output_lens") &&
      top.json.contains("start_times") && run.failed == 0)
    run.load.trace = "--save-detailed";  // the file's reader puts its path here
  take_totals(run);
  return {run};
}

// Offline: all requests are handed to the engine at once.
std::vector<MeasuredRun> read_throughput(const Part& top, const std::string& name) {
  if (!top.has("elapsed_time") || !top.has("requests_per_second")) return {};
  MeasuredRun run{name, "vllm bench throughput", {}, {}, {}, top.where, 0, {}};
  put(run, top, "elapsed_time", "duration");
  put(run, top, "num_requests", "completed");
  put(run, top, "requests_per_second", "request_throughput");
  put(run, top, "tokens_per_second", "total_token_throughput");
  run.load.all_at_once = run.load.in_process = true;
  run.notes.push_back(name + ": tokens_per_second of `vllm bench throughput` counts input and output tokens");
  take_totals(run);
  return {run};
}

// The time of one whole batch of whole requests; neither its size nor lengths are in the file.
std::vector<MeasuredRun> read_latency(const Part& top, const std::string& name) {
  if (!top.has("avg_latency") || !top.has("percentiles")) return {};
  MeasuredRun run{name, "vllm bench latency", {}, {}, {}, top.where, 0, {}};
  put(run, top, "avg_latency", "duration");
  run.load.all_at_once = run.load.in_process = true;
  run.notes.push_back(name +
                      ": `vllm bench latency` measures a whole batch, whose size and lengths the file does "
                      "not say; avg_latency is shown as duration");
  return {run};
}

}  // namespace

void take_vllm_metrics(MeasuredRun& run, const Part& from) {
  for (const MeasuredMetric& m : measured_metrics()) put(run, from, m.key, m.key);
  put(run, from, "request_goodput:", "request_goodput");  // the key of older vLLM versions
  if (run.metrics.count("median_ttft_ms") == 0) put(run, from, "p50_ttft_ms", "median_ttft_ms");
  put_failed(run, from.number("failed").value_or(0));
  for (const char* statistic : kStatistics)
    put(run, from, fmt::format("{}_e2e_latency_ms", statistic), fmt::format("{}_e2el_ms", statistic));
}

std::vector<MeasuredRun> read_vllm(const Part& top, const std::string& name) {
  for (const ResultReader reader : {read_serve, read_throughput, read_latency})
    if (auto runs = reader(top, name); !runs.empty()) return runs;
  return {};
}

std::vector<MeasuredRun> read_foretoken(const Part& top, const std::string& name) {
  if (!top.has("format") || !top.has("context")) return {};
  if (!top.has("request_throughput"))
    throw Error(top.where.substr(0, top.where.size() - 1),
                "is no result of `foretoken simulate`; compare takes those, scenarios, and benchmark files");
  MeasuredRun run{name, "foretoken", {}, {}, {}, top.where, 0, {}};
  take_vllm_metrics(run, top);
  run.unusable = "is a result of foretoken itself";
  return {run};
}

}  // namespace foretoken
