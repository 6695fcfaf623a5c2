#include "simulator/plan.h"

#include <fmt/format.h>
#include <oneapi/tbb/global_control.h>

#include <algorithm>
#include <execution>
#include <limits>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "simulator/pools_estimate.h"
#include "simulator/search_space.h"
#include "simulator/step_model.h"

namespace foretoken {
namespace {

// An estimate leaves out queueing and batching effects; only candidates that it calls hopeless by this factor
// go.
constexpr double kEstimateMargin = 1.3;

// A feasible engine configuration on its way through estimate and simulation.
struct Configuration {
  std::string patch;
  Deployment deployment;                    // for one replica, or of several kinds of engines as they are
  std::vector<const KernelTable*> kernels;  // by kind
  std::vector<std::int64_t> replicas;       // to try, ascending; of several kinds one number, of all
  // Results, written by one task each.
  std::vector<Candidate> simulated;
  std::map<std::string, std::int64_t> rejected;
  std::map<std::string, std::string> example;
  double order = 0;  // least cost that it can have
};

void reject(Configuration& c, const std::string& category, const std::string& text, std::int64_t n = 1) {
  c.rejected[category] += n;
  c.example.emplace(category, text);
}

bool has_kinds(const Deployment& d) { return d.kinds().size() > 1; }

std::vector<CostModel> costs_of(const Deployment& d, const Configuration& c) {
  std::vector<CostModel> costs;
  for (const Deployment* kind : d.kinds()) costs.push_back(make_cost_model(*kind, *c.kernels[costs.size()]));
  return costs;
}

Deployment with_replicas(const Deployment& d, std::int64_t replicas) {
  Deployment r = d;
  if (has_kinds(d)) return r;
  r.mapping.replicas = static_cast<int>(replicas);
  r.scenario.cluster.replicas = replicas;
  r.scenario.hardware.count = r.mapping.devices();
  return r;
}

std::string quantization_text(const Deployment& d) {
  const WeightFormat f = d.precision.weights;
  return std::string(f == WeightFormat::kPlain ? name_of(d.precision.activation) : name_of(f));
}

std::string label_of(const Deployment& d) {
  std::string s;
  if (has_kinds(d)) {
    for (const Deployment* kind : d.kinds()) s += (s.empty() ? "" : " and ") + label_of(*kind);
    return s;
  }
  const Mapping& m = d.mapping;
  s = fmt::format("{} x {}, ", m.devices(), d.device.name);
  if (m.replicas > 1) s += fmt::format("{} replicas of ", m.replicas);
  s += fmt::format("TP{}", m.tensor_parallel);
  if (m.pipeline_parallel > 1) s += fmt::format(" PP{}", m.pipeline_parallel);
  if (m.data_parallel > 1) s += fmt::format(" DP{}", m.data_parallel);
  if (m.expert_parallel > 1) s += fmt::format(" EP{}", m.expert_parallel);
  s += fmt::format(", {}, KV {}", quantization_text(d), name_of(d.precision.kv));
  return s;
}

double limit_of(const std::optional<double>& v) {
  return v.value_or(std::numeric_limits<double>::infinity());
}

double score_of(const Candidate& c, const std::string& objective) {
  if (objective == "devices") return static_cast<double>(c.devices);
  if (objective == "goodput_per_device") return -c.goodput_per_device;
  if (objective == "p99_e2el_ms") return c.metrics.e2el.p99;
  return c.usd_per_million_tokens;
}

Candidate candidate_of(const Deployment& d, const Configuration& c, const Simulation& s,
                       const std::string& objective) {
  Candidate r;
  Json patch = Json::parse(c.patch);
  if (!has_kinds(d)) patch["cluster"]["replicas"] = d.mapping.replicas;
  patch["hardware"]["count"] = d.devices();
  r.patch = patch.dump();
  r.label = label_of(d);
  r.device = d.device.name;
  r.devices = d.devices();
  for (const Deployment* kind : d.kinds()) r.replicas += kind->mapping.replicas;
  r.tensor_parallel = d.mapping.tensor_parallel;
  r.pipeline_parallel = d.mapping.pipeline_parallel;
  r.data_parallel = d.mapping.data_parallel;
  r.expert_parallel = d.mapping.expert_parallel;
  r.quantization = quantization_text(d);
  r.kv_cache_dtype = name_of(d.precision.kv);
  r.max_num_seqs = d.scheduler.max_num_seqs;
  r.max_num_batched_tokens = d.scheduler.max_num_batched_tokens;
  r.metrics = s.served.metrics;
  r.usd_per_million_tokens = s.usd_per_million_tokens;
  r.usd_per_hour = s.usd_per_hour;
  r.has_price = s.has_price;
  const double devices = static_cast<double>(r.devices);
  r.tokens_per_s_per_device = r.metrics.output_throughput / devices;
  r.tokens_per_s_per_user = r.metrics.tpot.mean > 0 ? 1e3 / r.metrics.tpot.mean : 0;
  r.goodput_per_device = r.metrics.request_goodput.value_or(r.metrics.request_throughput) / devices;
  r.slo_attainment = r.metrics.slo_attainment.value_or(1.0);
  r.meets_slo = meets(r.metrics, d.scenario.slo);
  r.score = score_of(r, objective);
  for (const Deployment* kind : d.kinds()) {
    if (!r.command.empty()) r.command += '\n';
    r.command += serve_command(*kind);
    if (d.pools)
      r.command += kind == &d.pools->prefill ? "  # prefill, with a KV connector" : "  # decode, likewise";
  }
  return r;
}

class Planner {
 public:
  Planner(const Scenario& scenario, const Resources& resources, const PlanOptions& options)
      : scenario_(scenario), resources_(resources), options_(options), where_(resources.scenario_file) {}

  PlanResult run() {
    const ModelConfig model = load_scenario_model(scenario_, resources_);
    const ClusterSection& cluster = scenario_.cluster;
    const bool of_kinds = cluster.pools || cluster.prefill || cluster.decode;
    const SearchSpace space = of_kinds && scenario_.plan.search.text.empty()
                                  ? SearchSpace{{{"{}", {}}}, 0, {}}
                                  : search_space(scenario_, where_ + ":/plan/search");
    result_.objective = scenario_.plan.objective;
    {
      const auto workload =
          make_workload(scenario_.workload, resources_.scenario_folder, where_ + ":/workload");
      load_ = workload->means();
      longest_ = workload->longest();
      result_.workload = workload->describe();
    }
    if (of_kinds)
      resolve_kinds(space, model);
    else
      resolve_all(space, model);
    simulate_all();
    rank();
    if (!result_.ranked.empty() && !stopped()) explain_winner();
    return std::move(result_);
  }

 private:
  bool stopped() const { return options_.stop && options_.stop->load(); }

  void count(const std::string& category, const std::string& example, std::int64_t n) {
    result_.rejected[category] += n;
    result_.rejected_example.emplace(category, example);
  }

  const KernelTable* kernels(const Deployment& d) {
    const std::string engine = d.behavior.measured_engine();
    auto& slot = kernels_[d.device.name + '\n' + engine];
    if (!slot) slot = std::make_unique<KernelTable>(resources_.database->kernels(d.device, engine));
    return slot.get();
  }

  // Of several kinds of engines every combination of 1 to the given number of replicas of each.
  void resolve_kinds(const SearchSpace& space, const ModelConfig& model) {
    const Json base = scenario_to_json(scenario_);
    for (const SearchPoint& point : space.points) {
      Json patch = Json::parse(point.patch);
      Json cluster = scenario_.cluster.pools ? Json{{"pools", base["cluster"]["pools"]}} : Json::object();
      std::vector<Json*> counts;
      if (scenario_.cluster.pools)
        for (Json& pool : cluster["pools"]) counts.push_back(&pool["replicas"]);
      else {
        for (const char* side : {"prefill", "decode"}) {
          const Json& given = base["cluster"][side];
          cluster[side]["replicas"] = given.is_object() ? given.value("replicas", Json()) : Json();
        }
        // Once both are there: another key moves those before it.
        for (Json& side : cluster) counts.push_back(&side["replicas"]);
      }
      std::vector<std::int64_t> most, now;
      for (Json* count : counts) {
        most.push_back(count->is_number() ? count->get<std::int64_t>() : 1);
        now.push_back(1);
      }
      for (bool more = true; more && !stopped();) {
        for (std::size_t i = 0; i < counts.size(); ++i) *counts[i] = now[i];
        patch["cluster"].merge_patch(cluster);
        resolve_kind(base, patch, model);
        more = false;
        for (std::size_t i = 0; i < now.size() && !more; ++i) {
          more = ++now[i] <= most[i];
          if (!more) now[i] = 1;
        }
      }
    }
  }

  void resolve_kind(const Json& base, const Json& patch, const ModelConfig& model) {
    Json json = base;
    json.merge_patch(patch);
    const auto verdict = resolve(scenario_from_json(json, where_), resources_, model,
                                 load_.input_len + load_.output_len, longest_);
    ++result_.searched;
    if (const auto* no = std::get_if<Infeasible>(&verdict)) {
      count(no->category, no->reason, 1);
      ++result_.infeasible;
      return;
    }
    Configuration c;
    c.patch = patch.dump();
    c.deployment = std::get<Deployment>(verdict);
    c.replicas = {1};
    for (const Deployment* kind : c.deployment.kinds()) {
      c.kernels.push_back(kernels(*kind));
      require_price(*kind);
    }
    configurations_.push_back(std::move(c));
  }

  void require_price(const Deployment& d) const {
    if (scenario_.plan.objective == "usd_per_million_tokens" && !d.has_price)
      throw Error(where_ + ":/hardware/usd_per_device_hour",
                  "device " + d.device.name +
                      " has no price in the database; give one, or choose another objective (" +
                      "devices, goodput_per_device, p99_e2el_ms)");
  }

  void resolve_all(const SearchSpace& space, const ModelConfig& model) {
    const Json base = scenario_to_json(scenario_);
    for (const SearchPoint& point : space.points) {
      if (stopped()) break;
      Json json = base;
      json.merge_patch(Json::parse(point.patch));
      json["hardware"]["count"] = nullptr;
      json["cluster"]["replicas"] = 1;
      const Scenario scenario = scenario_from_json(json, where_);
      const auto verdict = resolve(scenario, resources_, model, load_.input_len + load_.output_len, longest_);

      const std::int64_t per_replica = scenario.engine.tensor_parallel_size *
                                       scenario.engine.pipeline_parallel_size *
                                       scenario.engine.data_parallel_size;
      std::vector<std::int64_t> replicas = point.replicas;
      const Json patch = Json::parse(point.patch);
      const bool fixed_count = patch.contains("hardware") && patch["hardware"].contains("count");
      if (fixed_count) {
        const auto count_devices = patch["hardware"]["count"].get<std::int64_t>();
        replicas.clear();
        if (count_devices % per_replica == 0) replicas.push_back(count_devices / per_replica);
      } else if (replicas.empty()) {
        for (std::int64_t r = 1; r * per_replica <= space.device_budget; ++r) replicas.push_back(r);
      }
      const std::int64_t combinations = std::max<std::int64_t>(1, static_cast<std::int64_t>(replicas.size()));
      result_.searched += combinations;
      if (replicas.empty()) {
        count("more devices than given",
              fmt::format("one replica takes {} devices, {} are given", per_replica, space.device_budget), 1);
        ++result_.infeasible;
        continue;
      }
      if (const auto* no = std::get_if<Infeasible>(&verdict)) {
        count(no->category, no->reason, combinations);
        result_.infeasible += combinations;
        continue;
      }
      const Deployment& d = std::get<Deployment>(verdict);
      if (!d.memory.fits) {
        count("does not fit in memory", label_of(d) + ": " + d.memory.reason, combinations);
        result_.infeasible += combinations;
        continue;
      }
      require_price(d);
      Configuration c;
      c.patch = point.patch;
      c.deployment = d;
      c.kernels = {kernels(d)};
      c.replicas = std::move(replicas);
      configurations_.push_back(std::move(c));
    }
  }

  // Replica counts that an estimate leaves: enough capacity, and latency limits within reach.
  void prune(Configuration& c) const {
    if (has_kinds(c.deployment)) return prune_kinds(c);
    const CostModel cost = make_cost_model(c.deployment, *c.kernels.front());
    const std::int64_t concurrency = scenario_.workload.max_concurrency.value_or(0);
    const Estimate e = estimate(c.deployment, cost, load_, concurrency, false);
    const SloSection& slo = scenario_.slo;
    const auto all = static_cast<std::int64_t>(c.replicas.size());
    auto hopeless = [&](const std::string& category, const std::string& text) {
      reject(c, category, text, all);
      c.replicas.clear();
    };
    const double fastest_tpot = e.steps[1].seconds * 1e3, fastest_ttft = e.steps[0].seconds * 1e3;
    if (fastest_tpot > kEstimateMargin * limit_of(slo.tpot_ms))
      return hopeless("too slow for the TPOT limit even when idle",
                      fmt::format("{}: one sequence takes {:.1f} ms a token, the limit is {:.1f} ms",
                                  label_of(c.deployment), fastest_tpot, *slo.tpot_ms));
    if (fastest_ttft > kEstimateMargin * limit_of(slo.ttft_ms))
      return hopeless("too slow for the TTFT limit even when idle",
                      fmt::format("{}: the mean prompt takes {:.0f} ms, the limit is {:.0f} ms",
                                  label_of(c.deployment), fastest_ttft, *slo.ttft_ms));
    const double capacity = e.capacity_requests_per_s;
    const auto enough = [&](std::int64_t r) {
      return load_.request_rate <= kEstimateMargin * capacity * static_cast<double>(r);
    };
    const auto first = std::find_if(c.replicas.begin(), c.replicas.end(), enough);
    const auto fewer = static_cast<std::int64_t>(first - c.replicas.begin());
    if (fewer > 0)
      reject(c, "too few replicas for the load",
             fmt::format("{}: one replica serves about {} requests/s, {} arrive", label_of(c.deployment),
                         significant(capacity, 2), significant(load_.request_rate, 2)),
             fewer);
    c.replicas.erase(c.replicas.begin(), first);
    if (c.replicas.empty()) return;
    const double devices =
        static_cast<double>(c.replicas.front() * c.deployment.mapping.devices_per_replica());
    c.order = devices * (c.deployment.has_price ? c.deployment.usd_per_device_hour : 1.0);
  }

  void prune_kinds(Configuration& c) const {
    const Deployment& d = c.deployment;
    c.order = d.has_price ? d.usd_per_hour() : d.devices();
    if (d.scenario.cluster.router == "tetriinfer") return;  // engines may change sides
    const double capacity =
        estimate_pools(d, costs_of(d, c), load_, scenario_.workload.max_concurrency.value_or(0))
            .capacity_requests_per_s;
    if (load_.request_rate <= kEstimateMargin * capacity) return;
    reject(c, "too few replicas for the load",
           fmt::format("{}: all serve about {} requests/s, {} arrive", label_of(d), significant(capacity, 2),
                       significant(load_.request_rate, 2)));
    c.replicas.clear();
  }

  void simulate_one(Configuration& c) const {
    // More replicas than enough only cost more; latency objectives want to see them all.
    const bool stop_at_first = scenario_.plan.objective != "p99_e2el_ms";
    for (std::size_t i = 0; i < c.replicas.size(); ++i) {
      if (stopped()) return;
      const Deployment d = with_replicas(c.deployment, c.replicas[i]);
      SimulateOptions o;
      o.intervals = false;
      o.stop = options_.stop;
      o.abort_backlog = 4 * d.scheduler.max_num_seqs;
      Simulation s;
      try {
        s = simulate(d, costs_of(d, c), resources_, o);
      } catch (const Interrupted&) {
        return;
      }
      if (s.served.aborted) {
        reject(c, "overloaded in simulation", label_of(d) + ": " + s.served.abort_reason);
        continue;
      }
      if (s.served.rejected > 0) {
        reject(c, "requests longer than the KV cache or max_model_len",
               fmt::format("{}: {} requests, {}", label_of(d), s.served.rejected, s.served.rejected_reason));
        continue;
      }
      c.simulated.push_back(candidate_of(d, c, s, scenario_.plan.objective));
      if (c.simulated.back().meets_slo && stop_at_first) {
        const auto rest = static_cast<std::int64_t>(c.replicas.size() - i - 1);
        if (rest > 0) reject(c, "more replicas than needed", label_of(d) + " is enough", rest);
        break;
      }
    }
  }

  void simulate_all() {
    // Here, as an error can't leave a parallel loop.
    for (const Configuration& c : configurations_)
      if (c.deployment.speculation) require_acceptance(*c.deployment.speculation);
    const int threads = options_.threads;
    std::unique_ptr<tbb::global_control> limit;
    if (threads > 0)
      limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                    static_cast<std::size_t>(threads));
    std::for_each(std::execution::par, configurations_.begin(), configurations_.end(), [&](Configuration& c) {
      if (!stopped()) prune(c);
    });
    // Cheapest first, so that an interrupted search has seen what matters.
    std::vector<std::size_t> order(configurations_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::erase_if(order, [&](std::size_t i) { return configurations_[i].replicas.empty(); });
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return configurations_[a].order < configurations_[b].order;
    });
    if (const auto most = scenario_.plan.max_candidates;
        most && order.size() > static_cast<std::size_t>(*most)) {
      for (std::size_t i = static_cast<std::size_t>(*most); i < order.size(); ++i) {
        Configuration& c = configurations_[order[i]];
        reject(c, "beyond max_candidates", label_of(c.deployment),
               static_cast<std::int64_t>(c.replicas.size()));
      }
      order.resize(static_cast<std::size_t>(*most));
    }
    std::atomic<std::int64_t> done{0};
    const auto total = static_cast<std::int64_t>(order.size());
    std::for_each(std::execution::par, order.begin(), order.end(), [&](std::size_t i) {
      if (stopped()) return;
      simulate_one(configurations_[i]);
      if (options_.progress) options_.progress(++done, total);
    });
    result_.interrupted = stopped();
  }

  void rank() {
    int index = 0;
    std::vector<Candidate> all;
    for (Configuration& c : configurations_) {
      for (auto& [category, n] : c.rejected) {
        count(category, c.example[category], n);
        (category == "overloaded in simulation" ? result_.simulated : result_.pruned) += n;
      }
      for (Candidate& s : c.simulated) {
        s.index = index++;
        home_.push_back(&c);
        ++result_.simulated;
        all.push_back(s);  // kept: explain_winner() looks for its home
      }
    }
    auto better = [](const Candidate& a, const Candidate& b) {
      return std::tuple(a.score, a.devices, a.metrics.e2el.p99, a.index) <
             std::tuple(b.score, b.devices, b.metrics.e2el.p99, b.index);
    };
    for (const Candidate& c : all) (c.meets_slo ? result_.ranked : result_.missed).push_back(c);
    std::sort(result_.ranked.begin(), result_.ranked.end(), better);
    std::sort(result_.missed.begin(), result_.missed.end(), [&](const Candidate& a, const Candidate& b) {
      return a.slo_attainment != b.slo_attainment ? a.slo_attainment > b.slo_attainment : better(a, b);
    });
    result_.feasible = static_cast<std::int64_t>(result_.ranked.size());
    if (!result_.missed.empty()) {
      const Candidate& nearest = result_.missed.front();
      count("misses the latency limits in simulation",
            fmt::format("{} keeps them for {:.1f} % of the requests", nearest.label,
                        100 * nearest.slo_attainment),
            static_cast<std::int64_t>(result_.missed.size()));
    }

    // Nobody else is at least as good in both. Of those that meet the limits, where any do.
    if (!result_.ranked.empty()) all = result_.ranked;
    std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
      return std::tuple(-a.tokens_per_s_per_device, -a.tokens_per_s_per_user, a.index) <
             std::tuple(-b.tokens_per_s_per_device, -b.tokens_per_s_per_user, b.index);
    });
    double best_user = 0;
    for (const Candidate& c : all)
      if (c.tokens_per_s_per_user > best_user) {
        best_user = c.tokens_per_s_per_user;
        result_.pareto.push_back(c);
      }
  }

  void explain_winner() {
    Candidate& best = result_.ranked.front();
    const Configuration* home = home_[static_cast<std::size_t>(best.index)];
    const Deployment d = with_replicas(home->deployment, best.replicas);
    const std::vector<CostModel> costs = costs_of(d, *home);
    SimulateOptions o;
    o.stop = options_.stop;
    try {
      const Simulation s = simulate(d, costs, resources_, o);
      best.p99_ttft_ms = s.interval.at("p99_ttft_ms");
      best.p99_tpot_ms = s.interval.at("p99_tpot_ms");
    } catch (const Interrupted&) {
      return;
    }
    auto& why = result_.why;
    const std::string& objective = result_.objective;
    if (objective == "usd_per_million_tokens")
      why.push_back(fmt::format("It serves the load for ${:.3g} per million output tokens (${:.2f} an hour).",
                                best.usd_per_million_tokens, best.usd_per_hour));
    else if (objective == "devices")
      why.push_back(
          fmt::format("{} devices are the fewest that serve the load within the limits.", best.devices));
    else if (objective == "goodput_per_device")
      why.push_back(fmt::format("It completes {:.3g} requests/s within the limits on each device.",
                                best.goodput_per_device));
    else
      why.push_back(fmt::format("Its 99th percentile of end-to-end latency is the lowest: {:.0f} ms.",
                                best.metrics.e2el.p99));
    for (const Candidate& c : result_.ranked)
      if (c.device != best.device || c.tensor_parallel != best.tensor_parallel) {
        why.push_back(fmt::format("The next best with other devices or another split is {}: {}.", c.label,
                                  comparison(c, best)));
        break;
      }
    for (const Candidate& c : result_.missed)
      if (c.device == best.device && c.devices < best.devices && !served_by(c.device, c.devices)) {
        why.push_back(
            fmt::format("Fewer of these devices miss the limits: {} keeps them for {:.1f} % of the requests.",
                        c.label, 100 * c.slo_attainment));
        break;
      }
    if (has_kinds(d)) {
      const double load =
          estimate_pools(d, costs, load_, scenario_.workload.max_concurrency.value_or(0)).utilization;
      if (load > 0)
        why.push_back(fmt::format("The load is about {:.0f} % of what it can serve.", 100 * load));
      return;
    }
    const Estimate e =
        estimate(d, costs.front(), load_, scenario_.workload.max_concurrency.value_or(0), false);
    const std::string running =
        e.expected_sequences < 1.5 ? "one sequence" : fmt::format("{:.0f} sequences", e.expected_sequences);
    why.push_back(fmt::format(
        "Each device holds {} of weights and {} of KV cache; decoding runs about {} a rank, bound by {}.",
        to_text(Bytes(d.memory.weights_bytes)), to_text(Bytes(d.memory.kv_cache_bytes)), running,
        e.steps[2].bound_by));
    if (e.utilization > 0)
      why.push_back(fmt::format("The load is about {:.0f} % of what it can serve.", 100 * e.utilization));
  }

  bool served_by(const std::string& device, std::int64_t devices) const {
    return std::any_of(result_.ranked.begin(), result_.ranked.end(),
                       [&](const Candidate& c) { return c.device == device && c.devices == devices; });
  }

  std::string comparison(const Candidate& c, const Candidate& best) const {
    if (result_.objective == "usd_per_million_tokens" && best.usd_per_million_tokens > 0)
      return fmt::format("${:.3g} per million tokens, {:.0f} % more", c.usd_per_million_tokens,
                         100 * (c.usd_per_million_tokens / best.usd_per_million_tokens - 1));
    if (result_.objective == "devices") return fmt::format("{} devices", c.devices);
    if (result_.objective == "goodput_per_device")
      return fmt::format("{:.3g} requests/s a device", c.goodput_per_device);
    return fmt::format("{:.0f} ms", c.metrics.e2el.p99);
  }

  const Scenario& scenario_;
  const Resources& resources_;
  const PlanOptions& options_;
  std::string where_;
  Workload::Means load_;
  std::int64_t longest_ = 0;
  std::map<std::string, std::unique_ptr<KernelTable>> kernels_;
  std::vector<Configuration> configurations_;
  std::vector<const Configuration*> home_;  // of each candidate, by its index
  PlanResult result_;
};

}  // namespace

PlanResult plan(const Scenario& scenario, const Resources& resources, const PlanOptions& options) {
  return Planner(scenario, resources, options).run();
}

}  // namespace foretoken
