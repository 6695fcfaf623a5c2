// plan: the search for a deployment.
#include "base/json_full.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "simulator/plan.h"

namespace foretoken {
namespace {

Json point(const Candidate& c) {
  return Json{{"x", c.tokens_per_s_per_user}, {"y", c.tokens_per_s_per_device}, {"label", c.label}};
}

Chart pareto_chart(const PlanResult& result) {
  Json front = Json::array(), good = Json::array(), missed = Json::array();
  for (const Candidate& c : result.pareto) front.push_back(point(c));
  for (const Candidate& c : result.ranked) good.push_back(point(c));
  for (const Candidate& c : result.missed) missed.push_back(point(c));
  auto set = [](const char* label, const Json& data, const char* colour, bool line) {
    return Json{{"label", label},        {"data", data},     {"backgroundColor", colour},
                {"borderColor", colour}, {"showLine", line}, {"pointRadius", line ? 5 : 3}};
  };
  auto axis = [](const char* title) { return Json{{"title", Json{{"display", true}, {"text", title}}}}; };
  const Json config{
      {"type", "scatter"},
      {"data", Json{{"datasets", Json::array({set("Pareto front", front, "#c4622d", true),
                                              set("meets the limits", good, "#2f6fb2", false),
                                              set("misses the limits", missed, "#9aa4ae", false)})}}},
      {"options", Json{{"maintainAspectRatio", false},
                       {"scales", Json{{"x", axis("tokens/s a user")}, {"y", axis("tokens/s a device")}}}}}};
  return {"Throughput against speed for a user", config.dump()};
}

}  // namespace

int run_plan(const Invocation& invocation) {
  const Stopwatch watch;
  Output out(invocation);
  const ScenarioInput input =
      read_scenario_input(invocation, invocation.arguments.empty() ? "" : invocation.arguments[0], true);
  if (invocation.has("print-scenario")) {
    out.write_text(dump_json(scenario_to_json(input.scenario)));
    return kDone;
  }
  refuse_instances(input.scenario, "plan", input.file + ":");
  const World world(invocation, input);
  PlanOptions options;
  options.threads = threads_of(invocation);
  options.stop = &stop_flag();
  PlanResult result;
  {
    ProgressBar bar("planning");
    options.progress = [&](std::int64_t done, std::int64_t total) {
      bar.update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1);
    };
    result = plan(input.scenario, world.resources, options);
  }
  const ReportContext context = report_context(input.scenario, world);
  Json json = context_json(context, input.scenario);
  json.update(plan_json(result));
  watch.report(invocation, json);
  const std::vector<Table> tables = plan_tables(result);
  // The ranked list follows the winner's own table.
  const std::size_t ranked = result.ranked.empty() ? 0 : 1;
  out.write({"Plan: " + input.scenario.name,
             {context_line(context)},
             tables,
             ranked,
             dump_json(json),
             {pareto_chart(result)}});
  if (result.interrupted) {
    print_message("warning", "interrupted; the result holds what had been found by then");
    return kInterrupted;
  }
  return result.ranked.empty() ? kNegative : kDone;
}

}  // namespace foretoken
