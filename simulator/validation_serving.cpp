// Whole servers beside their measured latencies: each row's load served in virtual time, equal rows once.
#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for_each.h>

#include <algorithm>
#include <execution>
#include <memory>
#include <mutex>
#include <set>
#include <variant>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "simulator/forward_pass.h"
#include "simulator/serving_measurement.h"
#include "simulator/simulate.h"
#include "simulator/step_model.h"
#include "simulator/validation.h"

namespace foretoken {
namespace {

// What one simulation says, or why there is none.
struct Served {
  std::string refusal;
  ServingMetrics metrics;
  std::map<std::string, Interval> interval;
  double relative_error = 0, first_token_error = 0, engine_error = 0;
  Basis basis = Basis::kRoofline;
};

Basis largest_share(const TimeBasis& basis) {
  const auto at = std::max_element(basis.share.begin(), basis.share.end());
  return static_cast<Basis>(at - basis.share.begin());
}

class Servers {
 public:
  Servers(const Resources& resources, const ValidateOptions& options)
      : resources_(resources), options_(options) {}

  // Index of the scenario's simulation.
  std::size_t add(const Scenario& scenario) {
    const auto [at, added] = index_.emplace(scenario_to_json(scenario).dump(), scenarios_.size());
    if (added) scenarios_.push_back(scenario);
    return at->second;
  }

  void serve_all() {
    served_.resize(scenarios_.size());
    prepare_kernels();
    std::vector<std::size_t> order(scenarios_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::atomic<std::size_t> done{0};
    std::for_each(std::execution::par, order.begin(), order.end(), [&](std::size_t i) {
      if (stopped()) return;
      served_[i] = serve(scenarios_[i]);
      if (options_.progress)
        options_.progress(static_cast<double>(++done) / static_cast<double>(order.size()));
    });
    if (stopped()) throw Interrupted();
  }

  const Served& result(std::size_t i) const { return served_[i]; }

 private:
  bool stopped() const { return options_.stop && options_.stop->load(); }

  // Tables are loaded before the threads start; what is unknown is refused later, by name.
  void prepare_kernels() {
    std::set<std::pair<std::string, std::string>> names;
    for (const Scenario& s : scenarios_) {
      if (engine_family(s.engine.behavior) == kEagerFamily) {
        names.emplace(s.hardware.device, std::string());
        continue;
      }
      try {
        names.emplace(s.hardware.device, find_behavior(s.engine.behavior, "behavior").measured_engine());
      } catch (const Error&) {
      }
    }
    for (const auto& [name, engine] : names) {
      try {
        kernels_.try_emplace({resources_.database->device(name, "device").name, engine});
      } catch (const Error&) {
      }
    }
    tbb::parallel_for_each(kernels_, [&](auto& entry) {
      if (stopped()) throw Interrupted();
      const auto& [device, engine] = entry.first;
      entry.second = resources_.database->kernels(resources_.database->device(device, "device"), engine);
    });
  }

  Served serve(const Scenario& scenario) {
    try {
      return simulate_one(scenario);
    } catch (const Interrupted&) {
      return {};
    } catch (const Error& e) {
      return refused(e.message());
    }
  }

  // A deployment, or why there is none. The database and the models that were read are shared.
  std::variant<Deployment, Served> prepare(const Scenario& scenario) {
    const std::lock_guard lock(mutex_);
    try {
      resources_.database->device(scenario.hardware.device, "device");
    } catch (const Error&) {
      return refused(fmt::format("device \"{}\" is not known", scenario.hardware.device));
    }
    auto model = models_.find(scenario.model.text);
    if (model == models_.end()) {
      try {
        model = models_.emplace(scenario.model.text, load_scenario_model(scenario, resources_)).first;
      } catch (const Error&) {
        return refused(fmt::format("model {} is not known", scenario.model.text));
      }
    }
    try {
      find_behavior(scenario.engine.behavior, "behavior");
    } catch (const Error&) {
      return refused(fmt::format("behavior \"{}\" is not modelled", engine_family(scenario.engine.behavior)));
    }
    const auto workload = make_workload(scenario.workload, resources_.scenario_folder, "workload");
    const Workload::Means load = workload->means();
    auto verdict =
        resolve(scenario, resources_, model->second, load.input_len + load.output_len, workload->longest());
    if (const auto* no = std::get_if<Infeasible>(&verdict)) return refused(no->category);
    return std::get<Deployment>(std::move(verdict));
  }

  // Eager PyTorch: one static batch, one pass.
  Served pass_forward(const Scenario& scenario) {
    const WorkloadConfig& w = scenario.workload;
    const EngineSection& e = scenario.engine;
    if (lower(e.behavior).find("compile") != std::string::npos)
      return refused("torch.compile is not modelled");
    const auto length = w.input_len ? w.input_len->value : std::nullopt;
    const auto output = w.output_len ? w.output_len->value : std::nullopt;
    if (!w.all_at_once || !length || output != 1.0)
      return refused("eager PyTorch is modelled for one forward pass: batch_size, and an output_len of 1");
    if (e.tensor_parallel_size * e.pipeline_parallel_size * e.data_parallel_size > 1)
      return refused("eager PyTorch is modelled on one device");
    const std::lock_guard lock(mutex_);
    Device device;
    try {
      device = resources_.database->device(scenario.hardware.device, "device");
    } catch (const Error&) {
      return refused(fmt::format("device \"{}\" is not known", scenario.hardware.device));
    }
    const ModelConfig model = load_scenario_model(scenario, resources_);
    Precision p;
    p.activation = p.kv = dtype_from_name(e.dtype == "auto" ? "float32" : e.dtype).value_or(DType::kF32);
    const Topology topology = resources_.database->topology(device, 1);
    const CostModel cost(device, topology, kernels_.at({device.name, std::string()}));
    const ForwardPass pass = forward_pass(model, cost, *w.num_prompts, static_cast<std::int64_t>(*length), p);
    Served r;
    const double ms = 1e3 * pass.seconds;
    r.metrics.ttft.mean = r.metrics.ttft.median = r.metrics.e2el.mean = r.metrics.e2el.median = ms;
    r.metrics.output_throughput = static_cast<double>(*w.num_prompts) / pass.seconds;
    r.relative_error = pass.relative_error;
    r.basis = static_cast<Basis>(std::max_element(pass.basis.begin(), pass.basis.end()) - pass.basis.begin());
    return r;
  }

  Served simulate_one(const Scenario& scenario) {
    if (engine_family(scenario.engine.behavior) == kEagerFamily) return pass_forward(scenario);
    const auto verdict = prepare(scenario);
    if (const auto* no = std::get_if<Served>(&verdict)) return *no;
    const Deployment& d = std::get<Deployment>(verdict);
    const CostModel cost = make_cost_model(d, kernels_.at({d.device.name, d.behavior.measured_engine()}));
    SimulateOptions o;
    o.intervals = options_.intervals;
    o.stop = options_.stop;
    const Simulation s = simulate(d, cost, resources_, o);
    if (s.served.aborted) return refused("requests can't be served: " + s.served.abort_reason);
    if (s.served.rejected > 0) return refused("requests are longer than max_model_len or the KV cache");
    Served r;
    r.metrics = s.served.metrics;
    r.interval = s.interval;
    r.first_token_error = d.behavior.first_token_error;
    r.engine_error = d.behavior.engine_error;
    r.relative_error = s.basis.relative_error;
    r.basis = largest_share(s.basis);
    return r;
  }

  static Served refused(std::string reason) {
    Served r;
    r.refusal = std::move(reason);
    return r;
  }

  const Resources& resources_;
  const ValidateOptions& options_;
  std::vector<Scenario> scenarios_;
  std::map<std::string, std::size_t> index_;
  std::map<std::pair<std::string, std::string>, KernelTable> kernels_;  // by device and engine
  std::map<std::string, ModelConfig> models_;                           // by the scenario's model, as text
  std::mutex mutex_;                                                    // of the database and models_
  std::vector<Served> served_;
};

double predicted_value(const ServingMetrics& m, std::size_t metric, bool median) {
  const Distribution* const all[] = {&m.ttft, &m.tpot, &m.e2el};
  if (metric == 3) return m.output_throughput;
  return median ? all[metric]->median : all[metric]->mean;
}

void set_prediction(ValidationLine& line, const Served& served, std::size_t metric, bool median) {
  line.predicted = predicted_value(served.metrics, metric, median);
  line.basis = served.basis;
  const double r = std::min(0.9, served.relative_error);
  const bool rate = metric == 3;
  line.low = rate ? line.predicted / (1 + r) : line.predicted * (1 - r);
  line.high = rate ? line.predicted / (1 - r) : line.predicted * (1 + r);
  const std::string key =
      rate ? "output_throughput" : (median ? "median_" : "mean_") + std::string(kServingMetrics[metric]);
  if (const auto at = served.interval.find(key); at != served.interval.end()) {
    line.low = at->second.low;
    line.high = at->second.high;
    return;
  }
  const Interval whole = with_engine_error(line.predicted, {line.low, line.high},
                                           metric == 0 ? served.first_token_error : served.engine_error);
  line.low = whole.low;
  line.high = whole.high;
}

}  // namespace

Validation validate_end_to_end(const std::filesystem::path& file, const Resources& shared,
                               const ValidateOptions& options) {
  Resources resources = shared;
  resources.scenario_folder = file.parent_path();  // of model files that rows name
  std::unique_ptr<tbb::global_control> limit;
  if (options.threads > 0)
    limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                  static_cast<std::size_t>(options.threads));
  ServingMeasurements measured = read_serving_measurements(file);
  const ServerRecipes recipes = options.recipes.empty() ? ServerRecipes() : ServerRecipes(options.recipes);
  std::int64_t completed = 0;
  for (ServingMeasurement& m : measured.rows) completed += recipes.complete(m);
  Validation v;
  const bool passes =
      std::all_of(measured.rows.begin(), measured.rows.end(),
                  [](const ServingMeasurement& m) { return engine_family(m.behavior) == kEagerFamily; });
  v.title = passes ? "Forward passes" : "Servers";
  v.group_title = "model, device and engine";
  v.part_title = "device and engine";
  v.metrics.assign(std::begin(kServingMetrics), std::end(kServingMetrics));
  for (const std::string& column : measured.unknown_columns)
    v.notes.push_back(fmt::format("Column \"{}\" has no meaning here and was not read.", column));

  if (completed > 0)
    v.notes.push_back(fmt::format(
        "{} rows don't state their server's flags; they are taken from the published scripts of their source "
        "(recipes.csv).",
        completed));

  Servers servers(resources, options);
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::vector<std::size_t> home(measured.rows.size(), kNone);
  std::vector<std::string> refusal(measured.rows.size());
  for (std::size_t i = 0; i < measured.rows.size(); ++i) {
    RowScenario r = scenario_of(measured.rows[i]);
    refusal[i] = r.refusal;
    if (r.refusal.empty()) home[i] = servers.add(r.scenario);
  }
  servers.serve_all();

  NameIndex groups(v.group_names), parts(v.part_names), refusals(v.refusal_names), peers(v.peer_names);
  for (std::size_t i = 0; i < measured.rows.size(); ++i) {
    const ServingMeasurement& m = measured.rows[i];
    const Served* served = home[i] == kNone ? nullptr : &servers.result(home[i]);
    const std::string& reason = served ? served->refusal : refusal[i];
    const std::string engine = engine_family(m.behavior);
    ValidationLine line;
    line.row = m.row;
    line.group = groups.of(fmt::format("{}, {}, {}", m.model, m.device, engine));
    line.part = parts.of(fmt::format("{}, {}", m.device, engine));
    if (!reason.empty()) line.refusal = refusals.of(reason);
    for (std::size_t metric = 0; metric < m.measured.size(); ++metric) {
      if (!m.measured[metric]) continue;
      line.metric = static_cast<std::int32_t>(metric);
      line.measured = *m.measured[metric];
      if (reason.empty()) set_prediction(line, *served, metric, m.median);
      line.peers.clear();
      for (const ServingMeasurement::Peer& p : m.peers)
        if (p.metric == metric) line.peers.push_back({peers.of(p.name), p.predicted});
      v.lines.push_back(line);
    }
  }
  summarize(v);
  return v;
}

}  // namespace foretoken
