// simulate: a scenario served in virtual time.
#include "cli/simulate_verb.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/answer.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "simulator/simulate.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

Json line(const std::string& label, const Json& points, const char* colour) {
  return Json{{"label", label},
              {"data", points},
              {"showLine", true},
              {"borderColor", colour},
              {"backgroundColor", colour},
              {"pointRadius", 3}};
}

// Quantiles of the four latencies on a logarithmic axis.
Chart latency_chart(const ServingMetrics& m) {
  const char* const colours[] = {"#2f6fb2", "#c4622d", "#4c9a52", "#8a5aa8"};
  const Distribution* const all[] = {&m.ttft, &m.tpot, &m.itl, &m.e2el};
  const char* const names[] = {"TTFT", "TPOT", "ITL", "end to end"};
  Json sets = Json::array();
  for (int i = 0; i < 4; ++i) {
    const Distribution& d = *all[i];
    Json points = Json::array();
    for (const auto& [share, value] :
         {std::pair{0.0, d.min}, std::pair{50.0, d.p50}, std::pair{90.0, d.p90}, std::pair{95.0, d.p95},
          std::pair{99.0, d.p99}, std::pair{100.0, d.max}})
      if (value > 0) points.push_back(Json{{"x", value}, {"y", share}});
    sets.push_back(line(names[i], points, colours[i]));
  }
  auto axis = [](const std::string& title, const char* type) {
    return Json{{"type", type}, {"title", Json{{"display", true}, {"text", title}}}};
  };
  const Json config{
      {"type", "scatter"},
      {"data", Json{{"datasets", sets}}},
      {"options", Json{{"maintainAspectRatio", false},
                       {"scales", Json{{"x", axis("latency, ms", "logarithmic")},
                                       {"y", axis("share of requests that are faster, %", "linear")}}}}}};
  return {"Latency distribution", config.dump()};
}

void check_different_files(const Invocation& invocation) {
  const auto save = invocation.value("save"), trace = invocation.value("trace");
  if (!save || !trace) return;
  std::error_code code;
  const auto one = std::filesystem::weakly_canonical(std::filesystem::absolute(*save, code), code);
  const auto other = std::filesystem::weakly_canonical(std::filesystem::absolute(*trace, code), code);
  if (*save == *trace || (!code && one == other))
    throw Error("--save", "--save and --trace name the same file; give each its own");
}

constexpr AnswerColumn kColumns[] = {{"/mean_ttft_ms", "mean_ttft_ms", "TTFT mean ms", 4},
                                     {"/p99_ttft_ms", "p99_ttft_ms", "TTFT p99 ms", 4},
                                     {"/mean_tpot_ms", "mean_tpot_ms", "TPOT mean ms", 4},
                                     {"/p99_tpot_ms", "p99_tpot_ms", "TPOT p99 ms", 4},
                                     {"/output_throughput", "output_throughput", "output tok/s", 4},
                                     {"/request_goodput", "request_goodput", "goodput /s", 4},
                                     {"/slo_attainment", "slo_attainment", "SLO share", 4},
                                     {"/usd_per_million_tokens", "usd_per_million_tokens", "$/Mtok", 3},
                                     {"/stability", "stability", "verdict", 4, 10},
                                     {"/memory/reason", "reason", "why not", 4, 24, true}};

Answer simulate_answer(const Invocation& invocation) {
  const ScenarioInput input =
      read_scenario_input(invocation, invocation.arguments.empty() ? "" : invocation.arguments[0], false);
  return simulate_in(invocation, input, World(invocation, input));
}

}  // namespace

Answer simulate_in(const Invocation& invocation, const ScenarioInput& input, const World& world) {
  const Stopwatch watch;
  const bool require_slo = invocation.has("require-slo");
  if (require_slo && !has_limits(input.scenario.slo))
    throw Error("--require-slo", "the scenario has no slo section; add one, or flags such as --ttft-ms 500");
  const Prepared p = prepare(input, world);
  const std::string title = "Simulation: " + input.scenario.name;
  if (const auto instead = answer_without_serving(invocation, title, input, world, p)) return *instead;
  const Deployment& d = std::get<Deployment>(p.verdict);
  std::optional<PerfettoWriter> timeline;
  if (const auto path = invocation.value("trace")) timeline.emplace(*path);

  SimulateOptions options;
  options.use_spans = !invocation.has("no-spans");
  options.keep_records = options.sample_over_time = invocation.has("save-detailed");
  options.timeline = timeline ? &*timeline : nullptr;
  options.stop = &stop_flag();
  Simulation s;
  {
    ProgressBar bar("simulating");
    options.progress = [&](double share) { bar.update(share); };
    const std::vector<CostModel> costs = make_cost_models(d, p);
    s = simulate(d, costs, world.resources, options);
  }
  const ReportContext context = report_context(d.scenario, world, d.warnings);
  Json json = context_json(context, d.scenario);
  json.update(simulation_json(d, s, options.keep_records));
  watch.report(invocation, json);
  const bool missed = require_slo && !meets(s.served.metrics, d.scenario.slo);
  return {{title,
           {context_line(context)},
           simulation_tables(d, s),
           0,
           dump_json(json),
           {latency_chart(s.served.metrics)}},
          "",
          s.served.aborted || missed || s.served.metrics.completed == 0 ? kNegative : kDone};
}

std::span<const AnswerColumn> simulate_columns() { return kColumns; }

int run_simulate(const Invocation& invocation) {
  check_different_files(invocation);
  return answer_all(invocation, simulate_answer, kColumns);
}

}  // namespace foretoken
