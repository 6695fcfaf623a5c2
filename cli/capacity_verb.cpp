// capacity: the highest load that a deployment serves within its limits.
#include <cmath>

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
#include "simulator/load_capacity.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

// Latencies over their limits against load: what crosses 1 first ends it. Without limits, the latencies.
Chart load_chart(const LoadCapacity& c, const SloSection& slo) {
  struct Line {
    const char* name;
    const char* colour;
    std::optional<double> limit;
    Distribution ServingMetrics::*of;
  };
  const Line lines[] = {{"TTFT", "#2f6fb2", slo.ttft_ms, &ServingMetrics::ttft},
                        {"TPOT", "#c4622d", slo.tpot_ms, &ServingMetrics::tpot},
                        {"end to end", "#8a5aa8", slo.e2el_ms, &ServingMetrics::e2el}};
  Json sets = Json::array();
  for (const Line& l : lines) {
    if (!l.limit && !c.stability_alone) continue;
    Json points = Json::array();
    for (const LoadTrial& t : c.trials) {
      const Distribution& d = t.simulation.served.metrics.*l.of;
      if (d.count > 0) points.push_back(Json{{"x", t.load}, {"y", d.p99 / l.limit.value_or(1)}});
    }
    sets.push_back(Json{{"label", l.name},
                        {"data", points},
                        {"showLine", true},
                        {"borderColor", l.colour},
                        {"backgroundColor", l.colour},
                        {"pointRadius", 3}});
  }
  const auto axis = [](const std::string& title, const char* type) {
    return Json{{"type", type}, {"title", Json{{"display", true}, {"text", title}}}};
  };
  const Json config{
      {"type", "scatter"},
      {"data", Json{{"datasets", sets}}},
      {"options", Json{{"maintainAspectRatio", false},
                       {"scales", Json{{"x", axis(c.axis.name, "linear")},
                                       {"y", axis(c.stability_alone ? "99th percentile, ms"
                                                                    : "99th percentile over its limit",
                                                  "logarithmic")}}}}}};
  return {"Latency against load", config.dump()};
}

// requests/s that an estimate expects to be the most; 0 where there is none.
double expected_capacity(const Deployment& d, const std::vector<CostModel>& costs,
                         const Workload::Means& load) {
  if (d.scheduler.policy == SchedulerPolicy::kLoongserve ||
      d.scheduler.policy == SchedulerPolicy::kInfiniteLlm)
    return 0;
  if (d.kinds().size() > 1) return estimate_pools(d, costs, load, 0).capacity_requests_per_s;
  return estimate(d, costs.front(), load, 0, false).capacity_requests_per_s;
}

double tolerance_of(const Invocation& invocation) {
  const auto text = invocation.value("tolerance");
  if (!text) return LoadCapacityOptions().tolerance;
  const auto value = parse_double(*text);
  if (!value || !(*value >= 1e-4 && *value <= 0.5))
    throw Error("--tolerance",
                "\"" + *text + "\" is not a fraction from 0.0001 to 0.5; 0.01 is one per cent");
  return *value;
}

Answer capacity_answer(const Invocation& invocation) {
  const Stopwatch watch;
  LoadCapacityOptions options;
  options.tolerance = tolerance_of(invocation);
  options.threads = threads_of(invocation);
  options.stop = &stop_flag();
  ScenarioInput input =
      read_scenario_input(invocation, invocation.arguments.empty() ? "" : invocation.arguments[0], false);
  // The load is what is sought: a scenario need not have one.
  WorkloadConfig& w = input.scenario.workload;
  if (w.trace.empty() && !w.request_rate && !w.max_concurrency && w.stages.empty() && !w.all_at_once)
    w.request_rate = 1;
  const World world(invocation, input);
  const Prepared p = prepare(input, world);
  const std::string title = "Capacity: " + input.scenario.name;
  if (const auto instead = answer_without_serving(invocation, title, input, world, p)) return *instead;
  const Deployment& d = std::get<Deployment>(p.verdict);
  LoadCapacity c;
  {
    ProgressBar bar("searching");
    options.progress = [&](double share) { bar.update(share); };
    const std::vector<CostModel> costs = make_cost_models(d, p);
    c = find_load_capacity(d, costs, world.resources, p.load, expected_capacity(d, costs, p.load), options);
  }
  print_warnings(c.warnings);
  std::vector<std::string> warnings = d.warnings;
  warnings.insert(warnings.end(), c.warnings.begin(), c.warnings.end());
  const ReportContext context = report_context(d.scenario, world, warnings);
  Json json = context_json(context, d.scenario);
  json.update(load_capacity_json(d, c));
  watch.report(invocation, json);
  return {{title,
           {context_line(context), "Workload: " + p.workload},
           load_capacity_tables(d, c),
           0,
           dump_json(json),
           {load_chart(c, d.scenario.slo)}},
          "",
          c.load > 0 ? kDone : kNegative};
}

constexpr AnswerColumn kColumns[] = {
    {"/capacity", "capacity", "capacity", 4},
    {"/interval/capacity/low", "capacity_low", "from", 4},
    {"/interval/capacity/high", "capacity_high", "to", 4},
    {"/load_unit", "load_unit", "unit", 4},
    {"/limited_by", "limited_by", "limited by", 4},
    {"/output_throughput_per_device", "output_throughput_per_device", "output tok/s a device", 4},
    {"/usd_per_million_tokens", "usd_per_million_tokens", "$/Mtok", 3},
    {"/memory/reason", "reason", "why not", 4, 24, true}};

}  // namespace

int run_capacity(const Invocation& invocation) { return answer_all(invocation, capacity_answer, kColumns); }

}  // namespace foretoken
