// estimate: memory and step times without events.
#include <algorithm>

#include "base/json_full.h"
#include "cli/answer.h"
#include "cli/output.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"

namespace foretoken {
namespace {

// Stacked bars: the steps' operators, largest first.
Chart operator_chart(const Estimate& e) {
  std::vector<std::string> names;
  Json labels = Json::array();
  for (const StepEstimate& s : e.steps) {
    labels.push_back(s.name);
    for (const OperatorCost& o : s.operators)
      if (std::find(names.begin(), names.end(), o.name) == names.end()) names.push_back(o.name);
  }
  Json sets = Json::array();
  for (std::size_t i = 0; i < names.size(); ++i) {
    Json values = Json::array();
    for (const StepEstimate& s : e.steps) {
      double seconds = 0;
      for (const OperatorCost& o : s.operators)
        if (o.name == names[i]) seconds += o.seconds;
      values.push_back(s.seconds > 0 ? 100 * seconds / s.seconds : 0);
    }
    sets.push_back(Json{{"label", names[i]},
                        {"data", values},
                        {"backgroundColor", "hsl(" + std::to_string(i * 137 % 360) + ",55%,55%)"}});
  }
  const Json stacked{{"stacked", true}, {"title", Json{{"display", true}, {"text", "share of the step, %"}}}};
  const Json config{{"type", "bar"},
                    {"data", Json{{"labels", labels}, {"datasets", sets}}},
                    {"options", Json{{"indexAxis", "y"},
                                     {"maintainAspectRatio", false},
                                     {"scales", Json{{"x", stacked}, {"y", Json{{"stacked", true}}}}}}}};
  return {"Where the time of a step goes", config.dump()};
}

Answer estimate_answer(const Invocation& invocation) {
  const Stopwatch watch;
  const ScenarioInput input =
      read_scenario_input(invocation, invocation.arguments.empty() ? "" : invocation.arguments[0], false);
  if (!invocation.has("print-scenario")) refuse_instances(input.scenario, "estimate", input.file + ":");
  const World world(invocation, input);
  const Prepared p = prepare(input, world);
  const std::string title = "Estimate: " + input.scenario.name;
  if (const auto* no = std::get_if<Infeasible>(&p.verdict))
    return infeasible_answer(title, *no, input.scenario, world);
  const Deployment& d = std::get<Deployment>(p.verdict);
  if (invocation.has("print-scenario")) return {{}, dump_json(scenario_to_json(d.scenario)), kDone};
  const ReportContext context = report_context(d.scenario, world, d.warnings);
  print_warnings(d.warnings);
  Json json = context_json(context, d.scenario);
  Report report;
  report.title = title;
  report.head = {context_line(context), "Workload: " + p.workload};
  if (d.kinds().size() > 1) {
    const std::vector<CostModel> costs = make_cost_models(d, p);
    const PoolsEstimate e = estimate_pools(d, costs, p.load, d.scenario.workload.max_concurrency.value_or(0));
    json.update(pools_estimate_json(d, e));
    report.tables = pools_estimate_tables(d, e);
  } else if (d.memory.fits) {
    const CostModel cost = make_cost_model(d, *p.kernels.front());
    const Estimate e = estimate(d, cost, p.load, d.scenario.workload.max_concurrency.value_or(0));
    const std::vector<Sensitivity> what_if = sensitivities(d, cost, e);
    json.update(estimate_json(d, e, what_if));
    report.tables = estimate_tables(d, e, what_if);
    report.main_table = 1;  // the steps; memory comes first
    report.charts = {operator_chart(e)};
  } else {
    json["memory"] = memory_json(d.memory);
    json["steps"] = Json::array();
    report.tables = memory_tables(d);
  }
  watch.report(invocation, json);
  report.json = dump_json(json);
  return {std::move(report), "", d.memory.fits ? kDone : kNegative};
}

constexpr AnswerColumn kColumns[] = {
    {"/memory/kv_cache_tokens", "kv_cache_tokens", "KV cache tokens", 4},
    {"/expected_sequences", "expected_sequences", "running", 3},
    {"/ttft_ms", "ttft_ms", "TTFT ms", 4},
    {"/tpot_ms", "tpot_ms", "TPOT ms", 4},
    {"/output_throughput", "output_throughput", "output tok/s", 4},
    {"/capacity_requests_per_s", "capacity_requests_per_s", "most requests/s", 4},
    {"/usd_per_million_tokens", "usd_per_million_tokens", "$/Mtok", 3},
    {"/memory/reason", "reason", "why not", 4, 24, true}};

}  // namespace

int run_estimate(const Invocation& invocation) { return answer_all(invocation, estimate_answer, kColumns); }

}  // namespace foretoken
