// GenAI-Perf (perf_analyzer, genai-perf 0.0.8 to 0.0.16) and its successor AIPerf (0.1 to 0.13): objects of
// statistics with their unit. inter_token_latency is (latency - ttft) / (osl - 1) of each request, our TPOT,
// unless AIPerf was told the tokens of the first chunk; our ITL is inter_chunk_latency.
#include <fmt/format.h>

#include "base/error.h"
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

void leave_out(MeasuredRun& run, const std::string& metric, const char* why) {
  std::erase_if(run.metrics, [&](const auto& m) { return m.first.ends_with("_" + metric + "_ms"); });
  run.notes.push_back(run.name + ": " + why);
}

// What the tools call by these names where it is something else.
void leave_out_others(MeasuredRun& run, const Part& records, const Part& config, bool genai) {
  const auto setting = config.json.find("streaming");
  if (genai && setting != config.json.end() && *setting == false)
    leave_out(run, "ttft",
              "it was run without --streaming, where GenAI-Perf's time_to_first_token is the whole latency; "
              "left out");
  const auto endpoint = config.object("endpoint");
  if (!endpoint || !endpoint->flag("per_chunk_usage")) return;
  // Divided by the tokens after the first chunk: ours where that has one token, as where all chunks have.
  const auto chunks = records.object("inter_chunk_latency");
  const double gaps = chunks ? chunks->number("count").value_or(0) : 0;
  const auto& m = run.metrics;
  if (m.count("total_output_tokens") && m.count("completed") &&
      gaps == m.at("total_output_tokens") - m.at("completed"))
    return;
  leave_out(run, "tpot",
            "it was run with --per-chunk-usage and got several tokens a chunk, so that its "
            "inter_token_latency is per token after the first chunk and not TPOT; left out");
}

// AIPerf 0.13 divides by the whole phase, from its start until the last record is in; ours is from the first
// request to the last response, which its benchmark_duration is.
void take_rates_of_counts(MeasuredRun& run, const Part& records) {
  const auto duration = run.metrics.find("duration");
  if (duration == run.metrics.end() || duration->second <= 0) return;
  const std::pair<const char*, std::vector<const char*>> rates[] = {
      {"request_throughput", {"request_count"}},
      {"output_throughput", {"total_osl"}},
      {"total_token_throughput", {"total_isl", "total_osl"}},
      {"request_goodput", {"good_request_count"}}};
  for (const auto& [ours, counts] : rates) {
    double sum = 0;
    bool all = run.metrics.count(ours) > 0;
    for (const char* key : counts) {
      const auto m = records.object(key);
      const auto n = m ? m->number("avg") : std::nullopt;
      all = all && n;
      sum += n.value_or(0);
    }
    if (all) run.metrics[ours] = sum / duration->second;
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
  take_rates_of_counts(run, records);
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

// What the tools write beside the results of a run.
void refuse_other_files(const Part& top) {
  const char* const what = top.has("per_combination_metrics") ? "sums up a sweep of AIPerf"
                           : top.has("metadata") && top.has("metrics") && top.json["metadata"].is_object() &&
                                   top.json["metadata"].contains("benchmark_phase")
                               ? "has AIPerf's records of single requests"
                           : top.has("experiments") && top.has("service_kind")
                               ? "has perf_analyzer's records of single requests"
                               : nullptr;
  if (what != nullptr)
    throw Error(top.where.substr(0, top.where.size() - 1),
                fmt::format("{}; give profile_export_aiperf.json (or profile_export_genai_perf.json) of each "
                            "run instead",
                            what));
}

}  // namespace

std::vector<MeasuredRun> read_aiperf(const Part& top, const std::string& name) {
  refuse_other_files(top);
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
    put_failed(run, errors->number("avg").value_or(0));
  if (config) {
    take_config(run, *config);
    leave_out_others(run, records, *config, genai);
  }
  if (top.flag("was_cancelled")) run.unusable = "was cancelled before its end";
  run.notes.push_back(name +
                      ": AIPerf's inter_token_latency is shown as TPOT, its inter_chunk_latency as ITL");
  take_totals(run);
  return {run};
}

}  // namespace foretoken
