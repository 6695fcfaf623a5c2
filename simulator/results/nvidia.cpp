// GenAI-Perf (perf_analyzer, genai-perf 0.0.8 to 0.0.16) and its successor AIPerf (0.1 to 0.10): objects of
// statistics with their unit. inter_token_latency is (latency - ttft) / (osl - 1) of each request, our TPOT;
// our ITL is inter_chunk_latency.
#include <fmt/format.h>

#include "base/json_full.h"
#include "simulator/results/part.h"

namespace foretoken {
namespace {

bool is_metric(const Part& part, const char* key) {
  const auto m = part.json.find(key);
  return m != part.json.end() && m->is_object() && m->contains("avg");
}

void take_latencies(MeasuredRun& run, const Part& records) {
  const std::pair<const char*, const char*> latencies[] = {{"time_to_first_token", "ttft"},
                                                           {"inter_token_latency", "tpot"},
                                                           {"inter_chunk_latency", "itl"},
                                                           {"request_latency", "e2el"}};
  for (const auto& [theirs, ours] : latencies) {
    const auto m = records.object(theirs);
    if (!m) continue;
    const double scale = to_ms_factor(m->text("unit"), m->where + "/unit");
    put(run, *m, "avg", fmt::format("mean_{}_ms", ours), scale);
    put(run, *m, "std", fmt::format("std_{}_ms", ours), scale);
    put(run, *m, "p50", fmt::format("median_{}_ms", ours), scale);
    for (const char* p : {"p50", "p90", "p95", "p99"})
      put(run, *m, p, fmt::format("{}_{}_ms", p, ours), scale);
  }
}

void take_rates(MeasuredRun& run, const Part& records) {
  const std::pair<const char*, const char*> rates[] = {{"request_throughput", "request_throughput"},
                                                       {"output_token_throughput", "output_throughput"},
                                                       {"total_token_throughput", "total_token_throughput"},
                                                       {"goodput", "request_goodput"},
                                                       {"request_goodput", "request_goodput"},
                                                       {"request_count", "completed"},
                                                       {"total_osl", "total_output_tokens"},
                                                       {"total_isl", "total_input_tokens"}};
  for (const auto& [theirs, ours] : rates)
    if (const auto m = records.object(theirs)) put(run, *m, "avg", ours);
  if (const auto m = records.object("benchmark_duration"))
    put(run, *m, "avg", "duration", to_ms_factor(m->text("unit", "s"), m->where + "/unit") / 1e3);
  const auto length = [&](const char* key, std::optional<MeasuredLength>& to) {
    const auto m = records.object(key);
    const auto mean = m ? m->number("avg") : std::nullopt;
    if (mean && *mean > 0) to = MeasuredLength{*mean, m->number("std"), {}, {}};
  };
  length("input_sequence_length", run.load.input_len);
  length("output_sequence_length", run.load.output_len);
}

// What sends requests: the old tools' flags, their successor's load generator, its newest one's phases.
void take_stimulus(MeasuredLoad& load, const Part& from) {
  if (const auto n = from.count("concurrency"); n && *n > 0) load.max_concurrency = n;
  for (const char* key : {"request_rate", "rate"})
    if (const auto r = from.number(key); r && *r > 0) load.request_rate = r;
  for (const char* key : {"request_count", "requests"})
    if (const auto n = from.count(key); n && *n > 0) load.num_prompts = n;
  for (const char* key : {"type", "arrival_pattern", "request_rate_mode"}) {
    const std::string mode = from.first_text(key);
    if (mode == "poisson" || mode == "constant") load.arrival = mode;
  }
}

void take_config(MeasuredRun& run, const Part& config) {
  MeasuredLoad& load = run.load;
  for (const char* key : {"model_names", "model", "formatted_model_name"})
    if (load.model.empty()) load.model = config.first_text(key);
  const auto endpoint = config.object("endpoint");
  if (load.model.empty() && endpoint) load.model = endpoint->first_text("model_names");
  if (const auto models =
          config.has("models") && config.json["models"].is_object() ? config.object("models") : std::nullopt)
    if (models->has("items") && models->json["items"].is_array() && !models->json["items"].empty() &&
        models->json["items"][0].is_object())
      load.model = Part{models->json["items"][0], models->where + "/items/0"}.text("name");
  take_stimulus(load, config);
  for (const char* key : {"loadgen", "runtime"})
    if (const auto part = config.object(key)) take_stimulus(load, *part);
  if (const auto analyzer = config.object("perf_analyzer"))
    if (const auto stimulus = analyzer->object("stimulus")) take_stimulus(load, *stimulus);
  if (const auto phases = config.json.find("phases"); phases != config.json.end() && phases->is_array())
    for (std::size_t i = 0; i < phases->size(); ++i) {
      const Part phase{(*phases)[i], fmt::format("{}/phases/{}", config.where, i)};
      if (phase.json.is_object() && !phase.flag("exclude_from_results")) take_stimulus(load, phase);
    }
  if (load.request_rate && load.arrival.empty()) load.arrival = "poisson";
}

}  // namespace

std::vector<MeasuredRun> read_aiperf(const Part& top, const std::string& name) {
  const auto inner = top.json.find("records");
  const Part records =
      inner != top.json.end() && inner->is_object() ? Part{*inner, top.where + "/records"} : top;
  if (!is_metric(records, "request_latency") && !is_metric(records, "time_to_first_token")) return {};
  const auto config = top.object("input_config");
  const bool genai = config && !top.has("aiperf_version") &&
                     (config->has("perf_analyzer") || config->has("formatted_model_name") ||
                      config->has("profile_export_file"));
  MeasuredRun run{name, genai ? "GenAI-Perf" : "AIPerf", {}, {}, {}, top.where, 0, {}};
  take_latencies(run, records);
  take_rates(run, records);
  if (const auto errors = records.object("error_request_count"))
    run.failed = errors->number("avg").value_or(0);
  if (config) take_config(run, *config);
  if (top.flag("was_cancelled")) run.unusable = "was cancelled before its end";
  run.notes.push_back(name +
                      ": AIPerf's inter_token_latency is shown as TPOT, its inter_chunk_latency as ITL");
  take_totals(run);
  return {run};
}

}  // namespace foretoken
