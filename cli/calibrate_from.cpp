#include "cli/calibrate_from.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "simulator/results/measured_run.h"
#include "simulator/server_calibration.h"

namespace foretoken {
namespace {

std::vector<MeasuredRun> refuse_unknown(const Json&, const std::filesystem::path& file) {
  throw Error(file.string(),
              fmt::format("is no result of a tool that is known; those are: {}", known_tools()));
}

std::vector<MeasuredRun> read_runs(const std::vector<std::string>& files) {
  std::vector<MeasuredRun> runs;
  const std::vector<std::string> names = short_names(files);
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string& file = files[i];
    // JSON begins with a brace; a file of servers with the names of its columns.
    const std::string text = read_file(file);
    const std::string_view start = trim(text);
    const bool servers = !start.starts_with("{") && !start.starts_with("[") &&
                         start.substr(0, start.find('\n')).find("input_len") != std::string_view::npos;
    for (MeasuredRun& run :
         servers ? read_servers_csv(file) : read_measured_runs(file, names[i], refuse_unknown))
      runs.push_back(std::move(run));
  }
  return runs;
}

Table term_table(const ServerCalibration& c) {
  Table t;
  t.title = fmt::format("{} on {}", c.engine, c.device);
  t.columns = {
      {"term", "term"}, {"before", "before", 4}, {"after", "now", 4}, {"why_not", "not fitted", 4, true}};
  for (const CalibratedTerm& term : c.terms) t.add({term.name, term.before, term.after, term.why_not});
  t.notes = {"Keys of engine.host_times, in their units."};
  return t;
}

// Mean |predicted / measured - 1| by metric.
struct MetricErrors {
  bool fitted = false;
  double n = 0, before = 0, after = 0, left_out = 0;
};
std::map<std::string, MetricErrors> by_metric(const ServerCalibration& c) {
  std::map<std::string, MetricErrors> metrics;
  for (const CalibratedValue& v : c.values) {
    MetricErrors& m = metrics[(v.fitted ? "0" : "1") + v.metric];
    m.fitted = v.fitted;
    m.n += 1;
    m.before += std::fabs(v.before / v.measured - 1);
    m.after += std::fabs(v.after / v.measured - 1);
    m.left_out += std::fabs(v.left_out / v.measured - 1);
  }
  return metrics;
}

Table error_table(const ServerCalibration& c) {
  Table t;
  t.title = "Mean error";
  t.columns = {{"metric", "metric"},
               {"n", "n"},
               {"before_percent", "before %", 3},
               {"after_percent", "now %", 3},
               {"left_out_percent", "left out %", 3}};
  for (const auto& [key, m] : by_metric(c))
    t.add({key.substr(1) + (m.fitted ? "" : " (not fitted)"), static_cast<std::int64_t>(m.n),
           100 * m.before / m.n, 100 * m.after / m.n, m.fitted ? Cell(100 * m.left_out / m.n) : Cell()});
  t.add({std::string("all that is fitted"), Cell(), 100 * c.error_before, 100 * c.error_after,
         100 * c.error_left_out});
  t.notes = {"Left out: each load predicted with terms fitted to the others."};
  for (const std::string& n : c.notes) t.notes.push_back(n);
  return t;
}

Table run_table(const ServerCalibration& c) {
  Table t;
  t.title = "Runs";
  t.columns = {
      {"run", "run"},          {"load", "load"},    {"metric", "metric"},       {"measured", "measured", 4},
      {"before", "before", 4}, {"after", "now", 4}, {"left_out", "left out", 4}};
  for (const CalibratedValue& v : c.values)
    t.add({c.run_names[v.run], c.run_loads[v.run], v.metric, v.measured, v.before, v.after,
           v.fitted ? Cell(v.left_out) : Cell()});
  return t;
}

Json calibration_json(const ServerCalibration& c, bool written) {
  Json json{{"format", 1},
            {"device", c.device},
            {"engine", c.engine},
            {"model", c.model},
            {"tensor_parallel_size", c.tensor_parallel},
            {"runs", c.run_names.size()},
            {"loads", c.loads},
            {"written", written},
            {"verdict", c.verdict},
            {"error_before", c.error_before},
            {"error_after", c.error_after},
            {"error_left_out", c.error_left_out},
            {"terms", Json::array()},
            {"metrics", Json::array()},
            {"values", Json::array()},
            {"notes", c.notes}};
  for (const CalibratedTerm& t : c.terms)
    json["terms"].push_back(Json{{"term", t.name},
                                 {"before", t.before},
                                 {"after", t.after},
                                 {"fitted", t.why_not.empty()},
                                 {"why_not", t.why_not}});
  for (const auto& [key, m] : by_metric(c)) {
    Json j{{"metric", key.substr(1)},
           {"fitted", m.fitted},
           {"n", static_cast<std::int64_t>(m.n)},
           {"error_before", m.before / m.n},
           {"error_after", m.after / m.n}};
    if (m.fitted) j["error_left_out"] = m.left_out / m.n;
    json["metrics"].push_back(std::move(j));
  }
  for (const CalibratedValue& v : c.values) {
    Json j{{"run", c.run_names[v.run]}, {"load", c.run_loads[v.run]}, {"metric", v.metric},
           {"measured", v.measured},    {"before", v.before},         {"after", v.after}};
    if (v.fitted) j["left_out"] = v.left_out;
    json["values"].push_back(std::move(j));
  }
  return json;
}

std::vector<EngineTerm> engine_terms(const ServerCalibration& c, const std::vector<std::string>& files) {
  std::vector<std::string> names;
  for (const std::string& f : files) names.push_back(std::filesystem::path(f).filename().string());
  std::vector<EngineTerm> terms;
  for (const CalibratedTerm& t : c.terms)
    if (t.why_not.empty())
      terms.push_back({c.device, c.engine, t.name, t.after, c.model, c.tensor_parallel,
                       static_cast<std::int64_t>(c.run_names.size()), c.error_before, c.error_after,
                       c.error_left_out, today(), join(names, ", ")});
  return terms;
}

}  // namespace

int run_calibrate_from(const Invocation& invocation) {
  for (const char* flag : {"backend", "isa", "activation-format", "fp8-scales", "budget"})
    if (invocation.has(flag))
      throw Error(std::string("--") + flag,
                  "is for measuring here; --from takes what was measured elsewhere");
  const auto file = invocation.value("scenario");
  if (!file)
    throw Error("calibrate",
                "--from needs --scenario, the server that was measured; for example: foretoken "
                "calibrate --from results.json --scenario server.json");
  std::vector<std::string> files{*invocation.value("from")};
  files.insert(files.end(), invocation.arguments.begin(), invocation.arguments.end());
  const ScenarioInput input = read_scenario_input(invocation, *file, false);
  World world(invocation, input);
  if (world.paths.user.empty()) throw Error("--db", "is needed where neither XDG_DATA_HOME nor HOME is set");
  const std::vector<MeasuredRun> runs = read_runs(files);
  ServerCalibrationOptions options;
  if (const auto terms = invocation.value("fit"))
    for (const std::string& name : split(*terms, ',')) options.terms.emplace_back(trim(name));
  options.threads = threads_of(invocation);
  options.stop = &stop_flag();
  Output out(invocation);
  ServerCalibration c;
  {
    ProgressBar bar("fitting");
    options.progress = [&](double share) { bar.update(share); };
    c = calibrate_server(input.scenario, world.resources, runs, options);
  }
  for (const MeasuredRun& run : runs) c.notes.insert(c.notes.end(), run.notes.begin(), run.notes.end());
  if (c.improves) {
    std::error_code ignored;
    std::filesystem::create_directories(world.paths.user.parent_path(), ignored);
    world.database.set_engine_terms(engine_terms(c, files));
  }
  Report report;
  report.title = "Calibration: " + input.scenario.name;
  report.tables = {error_table(c), term_table(c), run_table(c)};
  report.tables.front().notes.insert(
      report.tables.front().notes.begin(),
      c.improves ? fmt::format(
                       "Written: {} on {} runs with these terms from now on; `foretoken hw show` lists them, "
                       "`foretoken hw forget` removes them.",
                       c.engine, c.device)
                 : "Nothing was written: " + c.verdict + ".");
  report.json = dump_json(calibration_json(c, c.improves));
  out.write(report);
  return c.improves ? kDone : kNegative;
}

}  // namespace foretoken
