// GuideLLM (0.2 to 0.8): a list of benchmarks. Latency is in seconds. Its time_per_output_token_ms includes
// the time to first token and equals none of ours. Its inter_token_latency_ms is a request's mean gap,
// weighted by the request's gaps: the mean over requests is that over all gaps, our mean ITL per token; where
// answers are equally long the weights are equal and all its statistics are those of our TPOT.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/json_full.h"
#include "base/quantiles.h"
#include "simulator/results/part.h"

namespace foretoken {
namespace {

std::optional<Part> successful(const Part& metrics, const char* key) {
  const auto m = metrics.object(key);
  return m ? m->object("successful") : std::nullopt;
}

void take_latency(MeasuredRun& run, const Part& metrics, const char* theirs, const std::string& ours,
                  double scale) {
  const auto m = successful(metrics, theirs);
  if (!m) return;
  put(run, *m, "mean", "mean_" + ours + "_ms", scale);
  put(run, *m, "median", "median_" + ours + "_ms", scale);
  put(run, *m, "std_dev", "std_" + ours + "_ms", scale);
  if (const auto p = m->object("percentiles"))
    for (const char* q : {"p50", "p90", "p95", "p99"})
      put(run, *p, q, fmt::format("{}_{}_ms", q, ours), scale);
}

// TPOT of every request, where the report has all of them (GuideLLM keeps a sample if it is told to); else
// empty.
std::vector<double> tpot_of_requests(const Part& benchmark, double completed) {
  const auto requests = benchmark.object("requests");
  if (!requests || !requests->has("successful") || !requests->json["successful"].is_array()) return {};
  const Json& list = requests->json["successful"];
  if (static_cast<double>(list.size()) != completed) return {};
  std::vector<double> all;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) return {};
    const Part request{list[i], fmt::format("{}/successful/{}", requests->where, i)};
    const auto tokens = request.number("output_tokens"), gap = request.number("inter_token_latency_ms");
    if (!tokens || (*tokens > 1 && !gap)) return {};
    if (*tokens > 1) all.push_back(*gap);
  }
  return all;
}

void put_tpot(MeasuredRun& run, std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const double n = static_cast<double>(ms.size());
  const double mean = std::accumulate(ms.begin(), ms.end(), 0.0) / n;
  double squares = 0;
  for (const double v : ms) squares += (v - mean) * (v - mean);
  run.metrics["mean_tpot_ms"] = mean;
  run.metrics["std_tpot_ms"] = std::sqrt(squares / n);
  run.metrics["median_tpot_ms"] = linear_quantile(ms, 0.5);
  for (const int p : {50, 90, 95, 99})
    run.metrics[fmt::format("p{}_tpot_ms", p)] = linear_quantile(ms, p / 100.0);
}

// "synchronous", "concurrent" with streams, "throughput", "constant" and "poisson" with a rate. 0.2 and 0.3
// say it in args, later versions in config.
std::optional<Part> strategy_of(const Part& benchmark) {
  for (const char* holder : {"config", "args", "scheduler"})
    if (const auto part = benchmark.object(holder); part && part->has("strategy"))
      return part->object("strategy");
  return std::nullopt;
}

void take_strategy(MeasuredLoad& load, const Part& benchmark) {
  const auto strategy = strategy_of(benchmark);
  if (!strategy) return;
  const std::string type = strategy->text("type_");
  if (type == "synchronous") load.max_concurrency = 1;
  if (type == "concurrent") {
    load.max_concurrency = strategy->count("streams");
    if (!load.max_concurrency) load.max_concurrency = strategy->count("max_concurrency");
  }
  if (type == "throughput") {
    load.max_concurrency = strategy->count("max_concurrency");
    load.all_at_once = !load.max_concurrency;
  }
  if (type == "constant" || type == "poisson" || type == "async") {
    load.request_rate = strategy->number("rate");
    load.arrival = type == "constant" ? "constant" : "poisson";
  }
}

MeasuredRun read_benchmark(const Part& benchmark, const std::string& name) {
  const Part metrics = *benchmark.object("metrics");
  MeasuredRun run{name, "GuideLLM", {}, {}, {}, benchmark.where, 0, {}};
  if (const auto m = successful(metrics, "requests_per_second")) put(run, *m, "mean", "request_throughput");
  if (const auto m = successful(metrics, "output_tokens_per_second"))
    put(run, *m, "mean", "output_throughput");
  if (const auto m = successful(metrics, "tokens_per_second")) put(run, *m, "mean", "total_token_throughput");
  if (const auto m = successful(metrics, "request_goodput")) put(run, *m, "mean", "request_goodput");
  put(run, benchmark, "duration", "duration");
  // In 0.2 beside the metrics.
  const Part& holder = metrics.has("request_totals") ? metrics : benchmark;
  const auto totals = holder.object("request_totals");
  if (totals) {
    put(run, *totals, "successful", "completed");
    put_failed(run, totals->number("errored").value_or(0));
  }
  const auto length = [&](const char* key, const char* total, std::optional<MeasuredLength>& to) {
    const auto m = successful(metrics, key);
    if (!m) return;
    put(run, *m, "total_sum", total);
    if (const auto mean = m->number("mean"); mean && *mean > 0)
      to = MeasuredLength{*mean, m->number("std_dev"), {}, {}};
  };
  length("output_token_count", "total_output_tokens", run.load.output_len);
  length("prompt_token_count", "total_input_tokens", run.load.input_len);
  take_latency(run, metrics, "time_to_first_token_ms", "ttft", 1);
  take_latency(run, metrics, "request_latency", "e2el", 1e3);
  const auto& answers = run.load.output_len;
  const auto done = run.metrics.find("completed");
  if (answers && answers->std && *answers->std > 0.01 * answers->mean) {
    if (const auto m = successful(metrics, "inter_token_latency_ms")) put(run, *m, "mean", "mean_itl_ms");
    const auto tpot =
        done == run.metrics.end() ? std::vector<double>() : tpot_of_requests(benchmark, done->second);
    if (!tpot.empty()) put_tpot(run, tpot);
    run.notes.push_back(
        fmt::format("{}: answers differ in length, so that GuideLLM's inter_token_latency_ms, which is "
                    "weighted by it, is our "
                    "mean ITL; {}",
                    name, tpot.empty() ? "TPOT is left out" : "TPOT is computed from the report's requests"));
  } else {
    take_latency(run, metrics, "inter_token_latency_ms", "tpot", 1);
    run.notes.push_back(name +
                        ": GuideLLM's inter_token_latency_ms is shown as TPOT; its time_per_output_token_ms "
                        "includes the time to first token and is left out");
  }
  take_strategy(run.load, benchmark);
  if (const auto config = benchmark.object("config"))
    if (const auto backend = config->object("backend")) run.load.model = backend->first_text("model");
  take_totals(run);
  return run;
}

}  // namespace

std::vector<MeasuredRun> read_guidellm(const Part& top, const std::string& name) {
  const auto list = top.json.find("benchmarks");
  if (list == top.json.end() || !list->is_array()) return {};
  std::vector<MeasuredRun> runs;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("{}/benchmarks/{}", top.where, i);
    const Json& one = (*list)[i];
    if (!one.is_object() || !one.contains("metrics") || !one["metrics"].is_object())
      throw Error(where, "has no metrics; is this a GuideLLM report?");
    runs.push_back(read_benchmark({one, where}, list->size() > 1 ? fmt::format("{}#{}", name, i + 1) : name));
  }
  if (runs.empty()) throw Error(top.where + "/benchmarks", "is empty");
  return runs;
}

}  // namespace foretoken
