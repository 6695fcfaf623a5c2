// calibrate: measures a scenario's operators on this machine and writes them to the user's hardware database.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/quantiles.h"
#include "base/text.h"
#include "cli/calibrate_from.h"
#include "cli/executor_options.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "executor/calibration.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

double positive(const Invocation& invocation, const char* flag, double otherwise, double most) {
  const auto text = invocation.value(flag);
  if (!text) return otherwise;
  const auto n = parse_double(*text);
  if (!n || !(*n > 0) || *n > most)
    throw Error(std::string("--") + flag, fmt::format("\"{}\" must be above 0 and at most {}", *text, most));
  return *n;
}

std::string csv_of(const std::vector<Measurement>& rows) {
  std::vector<std::string_view> columns;
  for (const Measurement& m : rows)
    for (const auto c : shape_columns(m.series.kind))
      if (std::find(columns.begin(), columns.end(), c) == columns.end()) columns.push_back(c);
  std::string text = measurement_csv_header(columns);
  for (const Measurement& m : rows) text += measurement_csv_row(m, columns);
  return text;
}

// Rows of the draft model that the target's lack.
void add_rows(Calibration& c, const Calibration& draft) {
  const auto same = [](const Measurement& a, const Measurement& b) {
    return a.series == b.series && a.point.shape == b.point.shape;
  };
  const std::size_t own = c.rows.size();
  for (const Measurement& m : draft.rows)
    if (std::none_of(c.rows.begin(), c.rows.begin() + static_cast<std::ptrdiff_t>(own),
                     [&](const Measurement& other) { return same(m, other); }))
      c.rows.push_back(m);
  c.steps += draft.steps;
  c.polluted += draft.polluted;
}

// Absolute errors of the held-out steps' prices.
std::vector<double> errors_of(const Calibration& c, const Deployment& d, const CostModel& cost) {
  std::vector<double> errors;
  for (const StepRun& s : c.held_out)
    errors.push_back(std::fabs(price_work(d, cost, s.work).seconds / s.seconds - 1));
  std::sort(errors.begin(), errors.end());
  return errors;
}

// By way of a file, as other measurements come.
ImportReport import_rows(Database& database, const std::filesystem::path& user,
                         const std::vector<Measurement>& rows) {
  std::error_code ignored;
  std::filesystem::create_directories(user.parent_path(), ignored);
  const std::filesystem::path file = user.string() + ".calibration.csv";
  OutputFile csv(file);
  csv.write(csv_of(rows));
  csv.commit();
  try {
    ImportReport report = database.import_file(file);
    std::filesystem::remove(file, ignored);
    return report;
  } catch (...) {
    std::filesystem::remove(file, ignored);
    throw;
  }
}

}  // namespace

int run_calibrate(const Invocation& invocation) {
  if (invocation.has("from")) return run_calibrate_from(invocation);
  for (const char* flag : {"scenario", "fit"})
    if (invocation.has(flag)) throw Error(std::string("--") + flag, "belongs to --from");
  if (invocation.arguments.size() != 1)
    throw Error("calibrate",
                fmt::format("takes one SCENARIO, or --from FILE --scenario SCENARIO; for example: "
                            "foretoken calibrate scenarios/cpu-dense.json --budget 60"));
  const ScenarioInput input = read_scenario_input(invocation, invocation.arguments[0], false);
  World world(invocation, input);
  world.resources.executed = true;
  if (world.paths.user.empty()) throw Error("--db", "is needed where neither XDG_DATA_HOME nor HOME is set");
  refuse_pools(input.scenario, "calibrate", input.file + ":");
  const Prepared p = prepare(input, world);
  if (const auto* no = std::get_if<Infeasible>(&p.verdict))
    throw Error(input.file, no->category + ": " + no->reason);
  const Deployment& d = std::get<Deployment>(p.verdict);
  const ExecutorOptions executor = executor_options(invocation, world.paths.user);
  CalibrationOptions options;
  options.budget_seconds = positive(invocation, "budget", 60, 36000);
  options.device = d.device.name;
  options.date = today();
  options.source = "foretoken calibrate " + d.scenario.name;
  options.stop = &stop_flag();
  Output out(invocation);
  Calibration c;
  {
    ProgressBar bar("measuring");
    options.progress = [&](double share) { bar.update(share); };
    const bool drafts = d.speculation && d.speculation->draft;
    if (drafts) options.budget_seconds /= 2;
    c = calibrate(d, scenario_model_text(d.scenario, world.resources), executor, options);
    if (drafts) add_rows(c, calibrate(*d.speculation->draft, d.speculation->draft_text, executor, options));
  }
  const std::vector<double> before = errors_of(c, d, make_cost_model(d, *p.kernels.front()));
  const ImportReport report = import_rows(world.database, world.paths.user, c.rows);
  const KernelTable kernels = world.database.kernels(d.device, d.behavior.measured_engine());
  Deployment calibrated = d;
  if (const auto t = kernels.find(step_overhead())) calibrated.behavior.host_step = t->time;
  const std::vector<double> after = errors_of(c, calibrated, make_cost_model(calibrated, kernels));
  std::vector<double> spread = c.spread;
  std::sort(spread.begin(), spread.end());

  Table t;
  t.title = "Calibrated " + d.device.name;
  t.columns = {{"what", "what"}, {"value", "value", 4}};
  t.add({std::string("steps measured"), c.steps});
  t.add({std::string("left out: another process ran meanwhile"), c.polluted});
  t.add({std::string("rows written"), static_cast<std::int64_t>(c.rows.size())});
  for (const auto& [reason, n] : report.dropped) t.add({"dropped: " + reason, n});
  Json json{{"format", 1},
            {"device", d.device.name},
            {"rows", c.rows.size()},
            {"steps", c.steps},
            {"polluted", c.polluted}};
  const auto add = [&](const char* key, const char* title, const std::vector<double>& v, double q) {
    const double value = v.empty() ? 0 : linear_quantile(v, q);
    t.add({std::string(title), 100 * value});
    json[key] = value;
  };
  add("held_out_error_before", "held-out steps, error before, median %", before, 0.5);
  add("held_out_error", "held-out steps, error now, median %", after, 0.5);
  add("held_out_error_p90", "held-out steps, error now, 90th percentile %", after, 0.9);
  add("held_out_spread", "held-out steps, spread of their repeats, median %", spread, 0.5);
  Report r;
  r.title = "Calibration: " + d.scenario.name;
  r.tables.push_back(t);
  r.json = dump_json(json);
  out.write(r);
  return c.rows.empty() ? kNegative : kDone;
}

}  // namespace foretoken
