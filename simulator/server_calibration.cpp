#include "simulator/server_calibration.h"

#include <fmt/format.h>
#include <tbb/global_control.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "simulator/engine_fit.h"
#include "simulator/report.h"
#include "simulator/results/run_scenario.h"
#include "simulator/simulate.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

// Terms in the units of their keys. scale: about the size of the engines' own; the order is that in which
// they are fitted where a scenario asks for none.
struct TermKind {
  const char* name;
  double of_second;  // units in a second
  Seconds Behavior::*member;
  double scale, low;
};
constexpr double kMilli = 1e3, kMicro = 1e6;
const TermKind kTerms[] = {{"device_time_factor", 1, nullptr, 0.25, 0.3},
                           {"ingress_ms", kMilli, &Behavior::ingress, 4, 0},
                           {"prefill_layer_us", kMicro, &Behavior::prefill_layer, 350, 0},
                           {"launch_eager_us", kMicro, &Behavior::launch_eager, 40, 0},
                           {"step_us", kMicro, &Behavior::host_step, 300, 0},
                           {"sequence_us", kMicro, &Behavior::host_per_sequence, 3, 0},
                           {"egress_ms", kMilli, &Behavior::egress, 1, 0},
                           {"launch_graph_us", kMicro, &Behavior::launch_graph, 50, 0},
                           {"prefill_step_ms", kMilli, &Behavior::prefill_step, 4, 0},
                           {"prefill_layer_doubling_us", kMicro, &Behavior::prefill_layer_doubling, 100, 0},
                           {"kernel_us", kMicro, &Behavior::kernel, 1, -20}};
// By which a metric's mean error may grow on left-out loads, which are few: of itself, and besides.
constexpr double kWorseShare = 0.25, kWorse = 0.01;
constexpr double kMostScales = 50, kMostFactor = 3;

std::vector<std::string> default_terms(const Behavior& b) {
  const bool pieces = b.prefill_layer.value > 0;
  return {"device_time_factor", "ingress_ms", pieces ? "prefill_layer_us" : "launch_eager_us", "step_us",
          "sequence_us"};
}

double own_value(const TermKind& kind, const Behavior& b) {
  return kind.member ? (b.*kind.member).value * kind.of_second : b.device_time_factor;
}

void set_term(HostTimes& times, const std::string& name, double value) {
  for_each_field<HostTimes>([&](const auto& f) {
    if (f.name == name) times.*f.member = value;
  });
}
bool has_term(const HostTimes& times, const std::string& name) {
  bool has = false;
  for_each_field<HostTimes>([&](const auto& f) { has |= f.name == name && (times.*f.member).has_value(); });
  return has;
}

// What a run says best of its latencies: first tokens, the time per token, and where one of them is missing
// the whole request or the whole run.
std::vector<std::string> fitted_metrics(const MeasuredRun& run) {
  const auto first = [&](std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (const auto v = run.metrics.find(key); v != run.metrics.end() && v->second > 0)
        return std::string(key);
    return std::string();
  };
  const std::string ttft = first({"mean_ttft_ms", "median_ttft_ms"});
  const std::string token = first({"mean_tpot_ms", "mean_itl_ms", "median_tpot_ms", "median_itl_ms"});
  const std::string whole = first({"mean_e2el_ms", "median_e2el_ms"});
  const std::string all = first({"duration", "output_throughput", "total_token_throughput"});
  std::vector<std::string> keys;
  for (const std::string& key : {ttft, token})
    if (!key.empty()) keys.push_back(key);
  if (keys.size() < 2 && !whole.empty()) keys.push_back(whole);
  if (keys.empty() && !all.empty()) keys.push_back(all);
  if (keys.empty())
    throw Error(
        run.where.substr(0, run.where.size() - 1),
        "holds no latency or rate to calibrate with; one of mean_ttft_ms, mean_tpot_ms, mean_e2el_ms, "
        "duration or what the tool calls them is needed");
  return keys;
}

// Reported beside them.
constexpr const char* kShown[] = {"mean_ttft_ms", "p99_ttft_ms",  "mean_tpot_ms",
                                  "mean_itl_ms",  "mean_e2el_ms", "output_throughput"};

// First tokens, tokens, whole requests, whole runs.
std::size_t kind_of(const std::string& metric) {
  if (metric.find("ttft") != std::string::npos) return 0;
  if (metric.find("tpot") != std::string::npos || metric.find("itl") != std::string::npos) return 1;
  return metric.find("e2el") != std::string::npos ? 2 : 3;
}

class Servers {
 public:
  Servers(const Scenario& scenario, const Resources& resources, const ServerCalibrationOptions& options)
      : scenario_(scenario), resources_(resources), options_(options) {
    resources_.fitted_terms = false;
  }

  void add(const MeasuredRun& run, std::vector<std::string>& notes) {
    scenarios_.push_back(scenario_of_run(scenario_, resources_, run, notes));
    if (!model_) model_ = load_scenario_model(scenarios_.front(), resources_);
    const Deployment d = resolved(scenarios_.back());
    if (!kernels_) kernels_ = resources_.database->kernels(d.device, d.behavior.measured_engine());
    if (scenarios_.size() == 1) first_ = d;
  }
  const Deployment& deployment() const { return first_; }
  const Scenario& scenario(std::size_t run) const { return scenarios_[run]; }

  // All that the run's simulation says, once for the same terms.
  const std::map<std::string, double>& metrics(std::size_t run, const std::vector<std::string>& names,
                                               const std::vector<double>& values) {
    if (options_.stop && options_.stop->load()) throw Interrupted();
    const auto key = std::pair(run, values);
    {
      const std::lock_guard lock(mutex_);
      if (const auto known = known_.find(key); known != known_.end()) return known->second;
    }
    Scenario s = scenarios_[run];
    for (std::size_t i = 0; i < names.size(); ++i)
      if (!has_term(s.engine.host_times, names[i])) set_term(s.engine.host_times, names[i], values[i]);
    std::optional<Deployment> d;
    {
      const std::lock_guard lock(mutex_);
      d = resolved(s);
    }
    SimulateOptions o;
    o.intervals = false;
    o.stop = options_.stop;
    const Simulation simulation = simulate(*d, make_cost_model(*d, *kernels_), resources_, o);
    if (simulation.served.aborted || simulation.served.metrics.completed == 0)
      throw Error(s.name,
                  "the measured load can't be served by this scenario: " + simulation.stability_reason);
    const Json json = simulation_json(*d, simulation, false);
    std::map<std::string, double> found;
    for (const MeasuredMetric& m : measured_metrics())
      if (const auto v = json.find(m.key); v != json.end() && v->is_number()) found[m.key] = v->get<double>();
    const std::lock_guard lock(mutex_);
    return known_.emplace(key, std::move(found)).first->second;
  }

 private:
  Deployment resolved(const Scenario& s) const {
    const std::string where = resources_.scenario_file;
    const auto workload = make_workload(s.workload, resources_.scenario_folder, where + ":/workload");
    const Workload::Means load = workload->means();
    auto verdict = resolve(s, resources_, *model_, load.input_len + load.output_len, workload->longest());
    if (const auto* no = std::get_if<Infeasible>(&verdict))
      throw Error(where, no->category + ": " + no->reason);
    Deployment& d = std::get<Deployment>(verdict);
    if (!d.memory.fits) throw Error(where, "does not fit: " + d.memory.reason);
    if (d.behavior.own_executor)
      throw Error(where + ":/engine/behavior",
                  "foretoken's own executor is calibrated with `foretoken calibrate SCENARIO --backend`; "
                  "--from is for servers");
    return std::move(d);
  }

  const Scenario& scenario_;
  Resources resources_;
  const ServerCalibrationOptions& options_;
  std::vector<Scenario> scenarios_;
  std::optional<ModelConfig> model_;
  std::optional<KernelTable> kernels_;
  Deployment first_;
  std::map<std::pair<std::size_t, std::vector<double>>, std::map<std::string, double>> known_;
  std::mutex mutex_;
};

// The terms asked for, or the engine's usual ones; those that the scenario states are left as they are.
std::vector<FitTerm> terms_of(const Scenario& scenario, const Behavior& behavior,
                              const ServerCalibrationOptions& options, std::vector<std::string>& notes) {
  std::vector<std::string> known;
  for (const TermKind& kind : kTerms) known.emplace_back(kind.name);
  const bool asked = !options.terms.empty();
  std::vector<FitTerm> terms;
  for (const std::string& name : asked ? options.terms : default_terms(behavior)) {
    const auto* const kind =
        std::find_if(std::begin(kTerms), std::end(kTerms), [&](const TermKind& k) { return name == k.name; });
    if (kind == std::end(kTerms))
      throw Error("--fit", fmt::format("\"{}\" is no term of an engine{}; those are {}", name,
                                       did_you_mean(name, known), join(known, ", ")));
    if (std::any_of(terms.begin(), terms.end(), [&](const FitTerm& t) { return t.name == name; }))
      throw Error("--fit", fmt::format("names {} twice", name));
    if (has_term(scenario.engine.host_times, name)) {
      notes.push_back(fmt::format("{} is stated by the scenario and not fitted", name));
      continue;
    }
    const double high = kind->member ? kMostScales * kind->scale : kMostFactor;
    terms.push_back(
        {name, std::clamp(own_value(*kind, behavior), kind->low, high), kind->scale, kind->low, high});
  }
  if (terms.empty()) throw Error("--fit", "the scenario states every term; there is nothing to fit");
  return terms;
}

std::string why_not(FitVerdict verdict, std::int64_t loads) {
  switch (verdict) {
    case FitVerdict::kFitted:
      break;
    case FitVerdict::kUnseen:
      return "the runs don't show it";
    case FitVerdict::kConfused:
      return "the runs can't tell it from the terms above";
    case FitVerdict::kTooMany:
      return fmt::format("{} different loads allow {} terms", loads, loads - 1);
  }
  return "";
}

double error_of(double predicted, double measured) { return std::fabs(predicted / measured - 1); }

}  // namespace

ServerCalibration calibrate_server(const Scenario& scenario, const Resources& resources,
                                   const std::vector<MeasuredRun>& runs,
                                   const ServerCalibrationOptions& options) {
  std::unique_ptr<tbb::global_control> limit;
  if (options.threads > 0)
    limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                  static_cast<std::size_t>(options.threads));
  refuse_pools(scenario, "calibrate --from", resources.scenario_file + ":");
  ServerCalibration c;
  Servers servers(scenario, resources, options);
  FitProblem problem;
  std::map<std::string, std::int64_t> loads;
  std::vector<std::vector<std::string>> keys;
  std::size_t values = 0;
  for (const MeasuredRun& run : runs) {
    keys.push_back(fitted_metrics(run));
    servers.add(run, c.notes);
    c.run_names.push_back(run.name);
    c.run_loads.push_back(describe_load(servers.scenario(keys.size() - 1).workload));
    problem.load.push_back(
        loads.emplace(c.run_loads.back(), static_cast<std::int64_t>(loads.size())).first->second);
    std::vector<double>& measured = problem.measured.emplace_back();
    std::vector<std::size_t>& kinds = problem.kind.emplace_back();
    for (const std::string& key : keys.back()) {
      measured.push_back(std::log(run.metrics.at(key)));
      kinds.push_back(kind_of(key));
    }
    values += measured.size();
  }
  const Deployment& d = servers.deployment();
  c.device = d.device.name, c.engine = d.behavior.name, c.model = d.model.name;
  c.tensor_parallel = d.mapping.tensor_parallel;
  c.loads = static_cast<std::int64_t>(loads.size());

  // Not that of a run, in which no client and server may have been.
  const Behavior own = find_behavior(scenario.engine.behavior, resources.scenario_file + ":/engine/behavior");
  problem.terms = terms_of(scenario, own, options, c.notes);
  problem.most_terms = std::min(loads.size() - 1, values / 2);
  if (problem.most_terms == 0 || (!options.terms.empty() && problem.terms.size() > problem.most_terms))
    throw Error(
        "--from",
        fmt::format("{} run{} of {} different load{} can't fit {} term{}: each needs a load more and two "
                    "values, so that what was not fitted can check it; measure at other concurrencies "
                    "or rates{}",
                    runs.size(), runs.size() == 1 ? "" : "s", loads.size(), loads.size() == 1 ? "" : "s",
                    options.terms.empty() ? 1 : problem.terms.size(),
                    options.terms.empty() || problem.terms.size() == 1 ? "" : "s",
                    options.terms.size() > 1 ? ", or name fewer with --fit" : ""));
  std::vector<std::string> names;
  for (const FitTerm& t : problem.terms) names.push_back(t.name);
  std::atomic<int> simulated{0};
  const double expected = static_cast<double>(runs.size()) * (6.0 * static_cast<double>(names.size()) + 10);
  problem.predict = [&](std::size_t run, const std::vector<double>& terms) {
    const auto& found = servers.metrics(run, names, terms);
    std::vector<double> logs;
    for (const std::string& key : keys[run]) {
      const auto v = found.find(key);
      if (v == found.end() || !(v->second > 0))
        throw Error(runs[run].name, "the simulation of this load has no " + key);
      logs.push_back(std::log(v->second));
    }
    if (options.progress) options.progress(std::min(0.99, ++simulated / expected));
    return logs;
  };
  const EngineFit fit = fit_engine_terms(problem);

  std::vector<double> start;
  for (std::size_t t = 0; t < problem.terms.size(); ++t) {
    start.push_back(problem.terms[t].start);
    c.terms.push_back(
        {problem.terms[t].name, problem.terms[t].start, fit.value[t], why_not(fit.verdict[t], c.loads)});
  }
  std::size_t fitted = 0;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (std::size_t v = 0; v < keys[r].size(); ++v) {
      CalibratedValue value{r,
                            keys[r][v],
                            true,
                            runs[r].metrics.at(keys[r][v]),
                            std::exp(fit.before[r][v]),
                            std::exp(fit.after[r][v]),
                            std::exp(fit.left_out[r][v])};
      c.error_before += error_of(value.before, value.measured);
      c.error_after += error_of(value.after, value.measured);
      c.error_left_out += error_of(value.left_out, value.measured);
      ++fitted;
      c.values.push_back(std::move(value));
    }
    for (const char* key : kShown) {
      const auto measured = runs[r].metrics.find(key);
      if (measured == runs[r].metrics.end() || !(measured->second > 0) ||
          std::find(keys[r].begin(), keys[r].end(), key) != keys[r].end())
        continue;
      const auto &before = servers.metrics(r, names, start), &after = servers.metrics(r, names, fit.value);
      if (before.count(key) && after.count(key))
        c.values.push_back({r, key, false, measured->second, before.at(key), after.at(key), 0});
    }
  }
  const auto n = static_cast<double>(fitted);
  c.error_before /= n, c.error_after /= n, c.error_left_out /= n;
  const bool any = std::any_of(c.terms.begin(), c.terms.end(), [](const CalibratedTerm& t) {
    return t.why_not.empty() && t.after != t.before;
  });
  // No metric pays for another.
  std::string worse;
  std::map<std::string, std::array<double, 3>> by_metric;  // before, left out, how many
  for (const CalibratedValue& v : c.values)
    if (v.fitted) {
      auto& m = by_metric[v.metric];
      m[0] += error_of(v.before, v.measured), m[1] += error_of(v.left_out, v.measured), m[2] += 1;
    }
  for (const auto& [metric, m] : by_metric)
    if (worse.empty() && m[1] > (1 + kWorseShare) * m[0] + kWorse * m[2])
      worse = fmt::format(
          "{} of loads that the fit has not seen comes out worse ({:.3g} % against {:.3g} %): the "
          "engine's own terms stay",
          metric, 100 * m[1] / m[2], 100 * m[0] / m[2]);
  c.improves = any && worse.empty() && c.error_after < c.error_before && c.error_left_out < c.error_before;
  if (!any)
    c.verdict = "no term that the runs show changes anything: the engine's own terms stay";
  else if (!worse.empty())
    c.verdict = worse;
  else if (!c.improves)
    c.verdict = fmt::format(
        "loads that the fit has not seen come out no better ({:.3g} % against {:.3g} %): the "
        "engine's own terms stay",
        100 * c.error_left_out, 100 * c.error_before);
  return c;
}

}  // namespace foretoken
