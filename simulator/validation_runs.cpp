// Serving runs with their own scenario (a trace, for example) beside the result that was measured.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"
#include "simulator/report.h"
#include "simulator/simulate.h"
#include "simulator/step_model.h"
#include "simulator/validation.h"
#include "simulator/validation_effects.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunMetrics[] = {
    "duration",       "request_throughput", "output_throughput", "total_token_throughput",
    "mean_ttft_ms",   "median_ttft_ms",     "p90_ttft_ms",       "p95_ttft_ms",
    "p99_ttft_ms",    "mean_tpot_ms",       "median_tpot_ms",    "p90_tpot_ms",
    "p95_tpot_ms",    "p99_tpot_ms",        "mean_itl_ms",       "median_itl_ms",
    "p90_itl_ms",     "p95_itl_ms",         "p99_itl_ms",        "mean_e2el_ms",
    "median_e2el_ms", "p90_e2el_ms",        "p95_e2el_ms",       "p99_e2el_ms"};

bool is_rate(const std::string& metric) { return metric.ends_with("throughput"); }

struct RunResult {
  Json json;
  std::map<std::string, Interval> interval;
  double relative_error = 0;
  Behavior behavior;
  Basis basis = Basis::kRoofline;
  std::string refusal;
  bool saturated = false;
};

RunResult simulate_run(const fs::path& folder, bool executed, const Resources& shared,
                       const ValidateOptions& options) {
  const fs::path file = folder / "scenario.json";
  const Scenario scenario = read_scenario(file);
  Resources resources = shared;
  resources.scenario_folder = folder;
  resources.scenario_file = file.string();
  resources.executed = executed;
  RunResult r;
  r.saturated = scenario.workload.all_at_once || scenario.workload.max_concurrency.has_value();
  try {
    const ModelConfig model = load_scenario_model(scenario, resources);
    const auto workload = make_workload(scenario.workload, folder, file.string() + ":/workload");
    const Workload::Means load = workload->means();
    const auto verdict =
        resolve(scenario, resources, model, load.input_len + load.output_len, workload->longest());
    if (const auto* no = std::get_if<Infeasible>(&verdict)) {
      r.refusal = no->category;
      return r;
    }
    Deployment d = std::get<Deployment>(verdict);
    std::vector<KernelTable> kernels;
    for (const Deployment* kind : d.kinds())
      kernels.push_back(resources.database->kernels(kind->device, kind->behavior.measured_engine()));
    take_step_overhead(d, kernels.front());
    SimulateOptions o;
    o.intervals = options.intervals;
    o.stop = options.stop;
    const Simulation s = simulate(d, make_cost_models(d, kernels), resources, o);
    r.json = simulation_json(d, s, false);
    r.interval = s.interval;
    r.relative_error = std::min(0.9, s.basis.relative_error);
    r.behavior = d.behavior;
    const auto& share = s.basis.share;
    r.basis = static_cast<Basis>(std::max_element(share.begin(), share.end()) - share.begin());
  } catch (const Error& e) {
    r.refusal = e.message();
  }
  return r;
}

double measured_number(const Json& json, const std::string& metric, const std::string& where) {
  const Json& value = json.at(metric);
  const double v = value.is_number() ? value.get<double>() : 0;
  if (!(v > 0)) throw Error(where + "/" + metric, "must be a number above 0, or be left out");
  return v;
}

// {"peers": {"BLIS": {"mean_e2el_ms": 2080.7}}}: what other predictors say of the run.
Json peers_in(const Json& measured, const fs::path& file) {
  const auto at = measured.find("peers");
  if (at == measured.end()) return Json::object();
  if (!at->is_object() || !std::all_of(at->begin(), at->end(), [](const Json& p) { return p.is_object(); }))
    throw Error(file.string() + ":/peers",
                "must be an object of objects: predictor, metric, predicted value");
  return *at;
}

}  // namespace

Validation validate_runs(const fs::path& folder, const Resources& resources, const ValidateOptions& options) {
  std::vector<fs::path> runs;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(folder, failed))
    if (entry.is_directory() && fs::exists(entry.path() / "scenario.json")) runs.push_back(entry.path());
  if (failed) throw Error(folder.string(), "cannot be read as a folder: " + failed.message());
  if (runs.empty())
    throw Error(folder.string(), "holds no run; each is a folder with scenario.json and measured.json");
  std::sort(runs.begin(), runs.end());

  Validation v;
  v.title = "Runs";
  v.group_title = "run";
  v.metrics.assign(std::begin(kRunMetrics), std::end(kRunMetrics));
  NameIndex groups(v.group_names), refusals(v.refusal_names), peers(v.peer_names);
  std::map<std::string, RunPair> pairs;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const fs::path file = runs[i] / "measured.json";
    const Json measured = read_json(file);
    if (!measured.is_object())
      throw Error(file.string(), "must be an object with the keys of `vllm bench serve`");
    const Json others = peers_in(measured, file);
    const RunResult run = simulate_run(runs[i], measured.contains("executor"), resources, options);
    RunPair& pair = pairs[runs[i].filename().string()];
    pair.saturated = run.saturated;
    const Json spread = measured.value("spread", Json::object());
    std::size_t before = v.lines.size();
    for (std::size_t m = 0; m < v.metrics.size(); ++m) {
      const std::string& metric = v.metrics[m];
      if (!measured.contains(metric)) continue;
      ValidationLine line;
      for (const auto& [name, values] : others.items())
        if (values.contains(metric))
          line.peers.push_back(
              {peers.of(name), measured_number(values, metric, file.string() + ":/peers/" + name)});
      line.row = static_cast<std::int64_t>(i) + 1;
      line.group = groups.of(runs[i].filename().string());
      line.metric = static_cast<std::int32_t>(m);
      line.measured = pair.measured[metric] = measured_number(measured, metric, file.string() + ":");
      if (const auto at = spread.find(metric); at != spread.end()) {
        if (!at->is_number() || !(at->get<double>() >= 0))
          throw Error(file.string() + ":/spread/" + metric, "must be a number of at least 0");
        pair.spread[metric] = at->get<double>();
      }
      if (!run.refusal.empty()) {
        line.refusal = refusals.of(run.refusal);
      } else {
        line.predicted = pair.predicted[metric] = run.json.at(metric).get<double>();
        line.basis = run.basis;
        const double r = run.relative_error;
        line.low = is_rate(metric) ? line.predicted / (1 + r) : line.predicted * (1 - r);
        line.high = is_rate(metric) ? line.predicted / (1 - r) : line.predicted * (1 + r);
        if (const auto at = run.interval.find(metric); at != run.interval.end()) {
          line.low = at->second.low;
          line.high = at->second.high;
        } else {
          const Interval whole =
              with_engine_error(line.predicted, {line.low, line.high}, engine_error(run.behavior, metric));
          line.low = whole.low;
          line.high = whole.high;
        }
      }
      v.lines.push_back(line);
    }
    if (v.lines.size() == before)
      throw Error(file.string(), "holds none of the metrics that are compared, such as mean_ttft_ms");
    if (options.progress) options.progress(static_cast<double>(i + 1) / static_cast<double>(runs.size()));
  }
  v.effects = strategy_effects(folder, pairs);
  summarize(v);
  return v;
}

}  // namespace foretoken
