// compare: scenarios (simulated here) and result files side by side, differences against the first.
#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/result_files.h"
#include "cli/scenario_input.h"
#include "cli/verbs.h"
#include "cli/version.h"
#include "simulator/simulate.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

MeasuredRun simulated(const Invocation& invocation, const std::string& file) {
  const ScenarioInput input = read_scenario_input(invocation, file, false);
  const World world(invocation, input);
  const Prepared p = prepare(input, world);
  if (const auto* no = std::get_if<Infeasible>(&p.verdict))
    throw Error(file, no->category + ": " + no->reason);
  const Deployment& d = std::get<Deployment>(p.verdict);
  if (!d.memory.fits) throw Error(file, "does not fit: " + d.memory.reason);
  print_warnings(d.warnings);
  SimulateOptions options;
  options.intervals = false;
  options.stop = &stop_flag();
  ProgressBar bar("simulating " + input.scenario.name);
  options.progress = [&](double share) { bar.update(share); };
  const Simulation s = simulate(d, make_cost_models(d, p), world.resources, options);
  const Json json = simulation_json(d, s, false);
  MeasuredRun r{input.scenario.name, "simulated", {}, {}, {}, {}, 0, {}};
  for (const MeasuredMetric& m : measured_metrics())
    if (json.contains(m.key) && json[m.key].is_number()) r.metrics[m.key] = json[m.key].get<double>();
  if (s.stability != "stable") r.notes.push_back(r.name + ": " + s.stability + ", " + s.stability_reason);
  return r;
}

Table side_by_side(const std::vector<MeasuredRun>& all) {
  Table t;
  t.title = "Side by side; differences against " + all.front().name;
  t.columns = {{"metric", "metric"}};
  for (std::size_t i = 0; i < all.size(); ++i) {
    t.columns.push_back({fmt::format("value_{}", i + 1), all[i].name, 5});
    if (i > 0) t.columns.push_back({fmt::format("difference_percent_{}", i + 1), "%", 3});
  }
  for (const MeasuredMetric& m : measured_metrics()) {
    std::vector<Cell> row{m.title};
    const auto base = all.front().metrics.find(m.key);
    std::size_t known = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto v = all[i].metrics.find(m.key);
      const bool here = v != all[i].metrics.end();
      known += here;
      row.push_back(here ? Cell(v->second) : Cell());
      if (i == 0) continue;
      const bool both = here && base != all.front().metrics.end() && base->second != 0;
      row.push_back(both ? Cell(100 * (v->second / base->second - 1)) : Cell());
    }
    if (known > 0) t.add(std::move(row));
  }
  for (const MeasuredRun& r : all) {
    t.notes.push_back(r.name + " is " + (r.kind == "simulated" ? "simulated" : "a result of " + r.kind) +
                      ".");
    for (const std::string& n : r.notes) t.notes.push_back(n);
  }
  return t;
}

}  // namespace

int run_compare(const Invocation& invocation) {
  Output out(invocation);
  std::vector<MeasuredRun> all;
  const std::vector<std::string> names = short_names(invocation.arguments);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string& file = invocation.arguments[i];
    std::vector<MeasuredRun> found = read_result_file(file, names[i]);
    if (found.empty()) found.push_back(simulated(invocation, file));
    for (MeasuredRun& r : found) all.push_back(std::move(r));
  }
  Json json{{"format", 1},
            {"context",
             Json{{"program", "foretoken"}, {"version", program_version()}, {"git_commit", git_commit()}}},
            {"results", Json::array()}};
  for (const MeasuredRun& r : all) {
    Json metrics = Json::object(), difference = Json::object();
    for (const MeasuredMetric& m : measured_metrics()) {
      const auto v = r.metrics.find(m.key);
      const auto base = std::as_const(all).front().metrics.find(m.key);
      if (v == r.metrics.end()) continue;
      metrics[m.key] = v->second;
      if (base != all.front().metrics.end() && base->second != 0)
        difference[m.key] = v->second / base->second - 1;
    }
    json["results"].push_back(
        Json{{"name", r.name}, {"kind", r.kind}, {"metrics", metrics}, {"difference", difference}});
  }
  out.write({"Comparison", {}, {side_by_side(all)}, 0, dump_json(json), {}});
  return kDone;
}

}  // namespace foretoken
