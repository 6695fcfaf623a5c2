// SGLang (0.4, 0.5): bench_serving, and bench_one_batch without and with a server. One run a line.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/json_full.h"
#include "simulator/results/part.h"

namespace foretoken {
namespace {

// Dataset "random" draws lengths uniformly in [ratio x length, length].
void take_random_length(const Part& top, const char* key, std::optional<MeasuredLength>& length) {
  if (!top.text("dataset_name").starts_with("random")) return;
  const auto longest = top.number(key);
  const auto ratio = top.number("random_range_ratio");
  if (!longest || !ratio || *longest < 1 || *ratio > 1) return;
  length = MeasuredLength{};
  length->min = std::max(1.0, std::floor(*longest * *ratio));
  length->max = *longest;
  length->mean = (*length->min + *length->max) / 2;
}

// With --output-details: a text for every request, empty for those that succeeded. Otherwise the file doesn't
// say.
double count_errors(const Part& top) {
  const auto errors = top.json.find("errors");
  if (errors == top.json.end() || !errors->is_array()) return 0;
  return static_cast<double>(std::count_if(errors->begin(), errors->end(), [](const Json& e) {
    return e.is_string() && !e.get_ref<const std::string&>().empty();
  }));
}

std::vector<MeasuredRun> read_serving(const Part& top, const std::string& name) {
  if (!top.has("mean_e2e_latency_ms")) return {};
  MeasuredRun run{name, "SGLang bench_serving", {}, {}, {}, top.where, 0, {}};
  take_vllm_metrics(run, top);
  put_failed(run, count_errors(top));
  put(run, top, "total_throughput", "total_token_throughput");
  MeasuredLoad& load = run.load;
  load.model = top.text("model_id");
  load.max_concurrency = top.count("max_concurrency");
  const auto rate = top.json.find("request_rate");
  // Python writes Infinity; "trace" replays a recording.
  if (rate != top.json.end() && rate->is_number()) {
    load.request_rate = top.number("request_rate");
    load.arrival = "poisson";
  } else if (rate != top.json.end() && *rate == "trace") {
    run.unusable = "it replayed a trace, whose arrivals the file does not have";
  } else if (top.has("request_rate")) {
    load.all_at_once = !load.max_concurrency;
  }
  take_random_length(top, "random_input_len", load.input_len);
  take_random_length(top, "random_output_len", load.output_len);
  if (const auto tokens = top.number("accept_length"); tokens && *tokens > 1)
    run.notes.push_back(fmt::format("{}: speculative decoding, {:.3g} tokens a step", name, *tokens));
  take_totals(run);
  return {run};
}

void put_rates(MeasuredRun& run, double seconds, double batch, double input, double output) {
  run.metrics["completed"] = batch;
  run.metrics["total_input_tokens"] = batch * input;
  run.metrics["total_output_tokens"] = batch * output;
  if (seconds <= 0) return;
  run.metrics["duration"] = seconds;
  run.metrics["request_throughput"] = batch / seconds;
  run.metrics["output_throughput"] = batch * output / seconds;
  run.metrics["total_token_throughput"] = batch * (input + output) / seconds;
}

// A static batch. Without a server (total_latency) the runner is called step by step: no scheduler, all
// prompts in one step, so that each request's first token comes when the prefill ends.
std::vector<MeasuredRun> read_one_batch(const Part& top, const std::string& name) {
  const bool server = top.has("latency");
  if (!top.has("batch_size") || !top.has("input_len") || (!server && !top.has("total_latency"))) return {};
  MeasuredRun run{
      name, server ? "SGLang bench_one_batch_server" : "SGLang bench_one_batch", {}, {}, {}, top.where, 0,
      {}};
  const double batch = top.number("batch_size").value_or(0), input = top.number("input_len").value_or(0),
               output = top.number("output_len").value_or(0);
  put_rates(run, top.number(server ? "latency" : "total_latency").value_or(0), batch, input, output);
  if (server) {
    run.notes.push_back(name +
                        ": output_throughput is per whole duration here; newer versions of the tool leave "
                        "the time to the last first token out");
  } else {
    put(run, top, "prefill_latency", "mean_ttft_ms", 1e3);
    put(run, top, "median_decode_latency", "median_itl_ms", 1e3);
    run.load.in_process = true;
    run.notes.push_back(name + ": no server and no scheduler were in it; all prompts are one step");
  }
  run.load.all_at_once = true;
  take_totals(run);
  return {run};
}

}  // namespace

std::vector<MeasuredRun> read_sglang(const Part& top, const std::string& name) {
  auto runs = read_serving(top, name);
  return runs.empty() ? read_one_batch(top, name) : runs;
}

}  // namespace foretoken
