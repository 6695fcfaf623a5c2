#include "simulator/simulate.h"

#include <fmt/format.h>
#include <tbb/parallel_invoke.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/text.h"
#include "serving/transfers.h"
#include "simulator/closed_forms.h"
#include "simulator/elastic_prices.h"
#include "simulator/lending_prices.h"
#include "simulator/price_estimates.h"

namespace foretoken {
namespace {

struct MetricKey {
  const char* key;
  double (*value)(const ServingMetrics&);
};
// Headline metrics that get an interval.
constexpr MetricKey kHeadline[] = {
    {"request_throughput", [](const ServingMetrics& m) { return m.request_throughput; }},
    {"output_throughput", [](const ServingMetrics& m) { return m.output_throughput; }},
    {"mean_ttft_ms", [](const ServingMetrics& m) { return m.ttft.mean; }},
    {"median_ttft_ms", [](const ServingMetrics& m) { return m.ttft.median; }},
    {"p99_ttft_ms", [](const ServingMetrics& m) { return m.ttft.p99; }},
    {"mean_tpot_ms", [](const ServingMetrics& m) { return m.tpot.mean; }},
    {"median_tpot_ms", [](const ServingMetrics& m) { return m.tpot.median; }},
    {"p99_tpot_ms", [](const ServingMetrics& m) { return m.tpot.p99; }},
    {"mean_itl_ms", [](const ServingMetrics& m) { return m.itl.mean; }},
    {"p99_itl_ms", [](const ServingMetrics& m) { return m.itl.p99; }},
    {"mean_e2el_ms", [](const ServingMetrics& m) { return m.e2el.mean; }},
    {"p99_e2el_ms", [](const ServingMetrics& m) { return m.e2el.p99; }},
};

RouterConfig router_config(const Scenario& scenario) {
  const ClusterSection& c = scenario.cluster;
  RouterConfig r;
  r.kind = static_cast<RouterKind>(std::find(std::begin(kRouterNames), std::end(kRouterNames), c.router) -
                                   std::begin(kRouterNames));
  r.seed = static_cast<std::uint64_t>(scenario.workload.seed);
  r.prefix_tokens = c.router_prefix_tokens.value_or(r.prefix_tokens);
  r.load_bound = c.router_load_bound.value_or(r.load_bound);
  r.prefix_weight = c.router_prefix_weight.value_or(r.prefix_weight);
  r.queue_weight = c.router_queue_weight.value_or(r.queue_weight);
  r.kv_weight = c.router_kv_weight.value_or(r.kv_weight);
  r.overlap_weight = c.kv_overlap_score_weight.value_or(r.overlap_weight);
  return r;
}

// Of each engine, where they are not all alike.
std::vector<std::int64_t> router_weights(const Deployment& d) {
  std::vector<std::int64_t> weights;
  bool same = true;
  for (std::size_t i = 0; i < d.replica_pools.size(); ++i) {
    const std::int64_t weight = (*d.scenario.cluster.pools)[i].weight.value_or(1);
    same &= weight == 1;
    weights.insert(weights.end(), static_cast<std::size_t>(d.replica_pools[i].mapping.engines()), weight);
  }
  return same ? std::vector<std::int64_t>() : weights;
}

ConductorConfig conductor_config(const Scenario& scenario) {
  ConductorConfig r;
  const auto& given = scenario.cluster.conductor;
  if (!given) return r;
  const auto time = [](const std::optional<double>& value, double unit) {
    return value ? std::optional(to_picoseconds(Seconds(*value * unit))) : std::nullopt;
  };
  r.balancing_threshold = given->kvcache_balancing_threshold.value_or(r.balancing_threshold);
  r.ttft_slo = time(given->ttft_slo_ms, 1e-3);
  r.tbt_slo = time(given->tbt_slo_ms, 1e-3);
  r.decode_time = time(given->decode_time_s, 1);
  if (given->rejection)
    r.rejection = static_cast<Rejection>(
        std::find(std::begin(kRejectionNames), std::end(kRejectionNames), *given->rejection) -
        std::begin(kRejectionNames));
  return r;
}

// Of routers splitwise and tetriinfer; the order of the prompts that wait is that of every engine.
void set_flexible(ServeOptions& o, const Scenario& scenario) {
  const ClusterSection& c = scenario.cluster;
  if (c.splitwise)
    o.splitwise.prompt_max_pending_tokens =
        c.splitwise->prompt_max_pending_batch_tokens.value_or(o.splitwise.prompt_max_pending_tokens);
  if (c.router != "tetriinfer") return;
  const TetriInferSection t = c.tetriinfer.value_or(TetriInferSection());
  TetriInferConfig& to = o.tetri_infer;
  to.length_granularity = t.length_granularity.value_or(to.length_granularity);
  to.length_accuracy = t.length_accuracy.value_or(to.length_accuracy);
  to.heavy_decode_tokens = t.heavy_decode_tokens.value_or(to.heavy_decode_tokens);
  const auto place = [](std::span<const std::string_view> names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) - names.begin();
  };
  if (t.decode_policy)
    to.decode_policy = static_cast<DecodePolicy>(place(kDecodePolicyNames, *t.decode_policy));
  if (t.load_interval_ms) to.load_interval = to_picoseconds(Seconds(*t.load_interval_ms * 1e-3));
  if (t.flip_idle_s)
    to.flip_idle = *t.flip_idle_s > 0 ? std::optional(to_picoseconds(Seconds(*t.flip_idle_s))) : std::nullopt;
  PrefillWindow window{PrefillOrder::kSjf};
  if (t.prefill_policy)
    window.order = static_cast<PrefillOrder>(place(kPrefillPolicyNames, *t.prefill_policy));
  window.requests = t.prefill_sched_batch.value_or(window.requests);
  for (EngineConfig& e : o.engines) e.scheduler.prefill_window = window;
}

ServeOptions serve_options(const Deployment& d, const SimulateOptions& options,
                           TimeEstimates* estimates = nullptr) {
  ServeOptions o;
  const auto engine = [](const Deployment& of, EngineRole role) {
    return EngineConfig{of.scheduler, of.mapping.ranks_per_engine(), role};
  };
  const std::vector<const Deployment*> kinds = d.kinds();
  if (kinds.size() == 1) {
    o.engines = {engine(*kinds.front(), EngineRole::kWhole)};
  } else {
    for (const Deployment* kind : kinds) {
      const EngineRole role = !d.pools                    ? EngineRole::kWhole
                              : kind == &d.pools->prefill ? EngineRole::kPrefill
                                                          : EngineRole::kDecode;
      o.engines.insert(o.engines.end(), static_cast<std::size_t>(kind->mapping.engines()),
                       engine(*kind, role));
    }
    if (d.pools) {
      o.decode_makes_first_token = d.pools->decode_makes_first_token;
      o.kv_link.layers = d.pools->by_layers ? d.model.num_layers : 0;
      o.kv_link.latency = to_picoseconds(d.pools->link.latency);
      o.kv_link.engines_per_port = d.pools->engines_per_port;
      o.kv_link.layerwise_min_tokens = d.pools->layerwise_min_tokens;
    }
  }
  o.replicas = d.engines();
  o.router = router_config(d.scenario);
  o.router.weights = router_weights(d);
  o.conductor = conductor_config(d.scenario);
  o.estimates = estimates;
  set_flexible(o, d.scenario);
  if (const auto& a = d.scenario.cluster.autoscale) {
    const auto time = [](double seconds) { return to_picoseconds(Seconds(seconds)); };
    o.autoscale = {true,
                   a->min_replicas,
                   o.replicas,
                   a->metric == "ttft_ms" ? ScaleMetric::kTtft : ScaleMetric::kOutstanding,
                   *a->target,
                   a->tolerance,
                   time(a->interval_s),
                   time(a->startup_s),
                   time(a->scale_down_window_s)};
  }
  const SloSection& slo = d.scenario.slo;
  o.slo = {slo.ttft_ms, slo.tpot_ms, slo.e2el_ms, slo.itl_ms, slo.percentile};
  o.use_spans = options.use_spans;
  o.keep_records = options.keep_records;
  o.sample_over_time = options.sample_over_time;
  o.ingress = to_picoseconds(d.behavior.ingress);
  o.egress = to_picoseconds(d.behavior.egress);
  o.timeline = options.timeline;
  o.progress = options.progress;
  o.stop = options.stop;
  o.abort_backlog = options.abort_backlog;
  return o;
}

}  // namespace

std::int64_t seats(const Deployment& d) {
  std::int64_t all = 0;
  for (const Deployment* kind : d.kinds())
    all += kind->mapping.engines() * (kind->scheduler.max_num_seqs / kind->scheduler.beam_width);
  return all;
}

namespace {

// Verdict on the queue: does the deployment keep up with what arrives? Where it doesn't, the queue grows for
// as long as requests arrive: of N requests at rho times the capacity N (rho - 1) / (2 rho) wait on average,
// 2 % of them at 1.04 times it and 10 % at 1.25 times. A queue before few seats may be longer than what runs
// and yet not grow, and one before many may grow before it is as long as they are many.
void judge_stability(Simulation& s, const Deployment& d) {
  constexpr double kGrows = 0.02, kGrowsFast = 0.1;
  const ServingMetrics& m = s.served.metrics;
  const double engines = static_cast<double>(d.engines());
  const auto seats = static_cast<double>(foretoken::seats(d));
  // Who waits for company (Triton's queue delay) does not wait for the engine.
  const double by_choice = m.request_throughput * to_ms(d.scheduler.static_batch.max_queue_delay) / 1000;
  const double waiting = std::max(0.0, m.mean_waiting - by_choice);
  const double share = waiting / static_cast<double>(std::max<std::int64_t>(1, m.completed));
  const bool many = waiting > seats * 0.5 || waiting > 2 * m.mean_running;
  if (m.completed == 0 && s.served.rejected > 0) {
    s.stability = "rejected";
    s.stability_reason = "every request was rejected: " + s.served.rejected_reason;
  } else if (s.served.aborted) {
    s.stability = "overloaded";
    s.stability_reason = s.served.abort_reason;
  } else if (d.scenario.workload.max_concurrency || d.scenario.workload.all_at_once) {
    s.stability = "stable";
    s.stability_reason = "the number of requests in flight is fixed";
  } else if (waiting > engines && (share > kGrowsFast || (share > kGrows && many))) {
    s.stability = "overloaded";
    s.stability_reason =
        fmt::format("{:.0f} requests wait on average while {:.0f} run", m.mean_waiting, m.mean_running);
  } else if (waiting > 0.1 * m.mean_running && waiting > engines) {
    s.stability = "backlogged";
    s.stability_reason =
        fmt::format("{:.1f} requests wait on average while {:.1f} run", m.mean_waiting, m.mean_running);
  } else {
    s.stability = "stable";
    s.stability_reason = fmt::format("{} requests wait on average while {:.1f} run",
                                     significant(m.mean_waiting, 2), m.mean_running);
  }
}

}  // namespace

bool has_limits(const SloSection& s) { return s.ttft_ms || s.tpot_ms || s.itl_ms || s.e2el_ms; }

bool meets(const ServingMetrics& m, const SloSection& slo) {
  if (m.slo_attainment && *m.slo_attainment * 100 + 1e-9 < slo.percentile) return false;
  return !slo.itl_ms || m.itl.p99 <= *slo.itl_ms;
}

double engine_error(const Behavior& behavior, std::string_view key) {
  return key.find("ttft") != std::string_view::npos ? behavior.first_token_error : behavior.engine_error;
}

Interval with_engine_error(double value, const Interval& steps, double engine_error) {
  if (!(value > 0) || !(steps.low > 0)) return steps;
  const double below = std::hypot(std::log(value / steps.low), engine_error);
  const double above = std::hypot(std::log(steps.high / value), engine_error);
  return {value * std::exp(-below), value * std::exp(above)};
}

namespace {

// What the served requests cost and whether the deployment keeps up.
void conclude(Simulation& s, const Deployment& d) {
  s.has_price = d.has_price;
  s.usd_per_hour = d.usd_per_hour();
  if (d.scenario.cluster.autoscale && s.served.metrics.duration > 0)
    s.usd_per_hour *=
        s.served.replica_seconds / (s.served.metrics.duration * static_cast<double>(d.engines()));
  if (d.has_price)
    s.usd_per_million_tokens = usd_per_million_tokens(s.usd_per_hour, s.served.metrics.output_throughput);
  judge_stability(s, d);
}

}  // namespace

bool rejects_computed(const Deployment& d) {
  const auto& conductor = d.scenario.cluster.conductor;
  return conductor && conductor->rejection.value_or("early") != "early";
}

std::string decode_rule(const Deployment& d) {
  const RouterKind own = router_config(d.scenario).kind;
  if (!d.pools || own >= RouterKind::kMooncake) return {};
  const RouterKind kind = decode_router(own);
  return kind == own ? std::string() : std::string(kRouterNames[static_cast<std::size_t>(kind)]);
}

std::vector<PoolShare> pool_shares(const Deployment& d, const Simulation& s) {
  std::vector<PoolShare> shares;
  std::size_t e = 0;
  for (const Deployment& pool : d.replica_pools) {
    PoolShare& share = shares.emplace_back();
    const int engines = pool.mapping.engines();
    double busy = 0;
    for (int i = 0; i < engines && e < s.served.engines.size(); ++i, ++e) {
      const EngineTotals& totals = s.served.engines[e];
      share.requests += totals.requests;
      share.steps += totals.steps;
      share.peak_kv_usage = std::max(share.peak_kv_usage, totals.peak_kv_usage);
      busy += totals.busy_seconds;
    }
    if (s.served.metrics.duration > 0)
      share.busy_share = std::min(1.0, busy / (s.served.metrics.duration * engines));
  }
  return shares;
}

namespace {

// What policies predict by.
void profile(const Deployment& d, std::span<const CostModel> costs, ServeOptions& o) {
  if (d.scheduler.policy == SchedulerPolicy::kLoongserve)
    profile_elastic(d, costs.front(), o.engines.front().scheduler.loongserve);
  if (d.scheduler.policy == SchedulerPolicy::kInfiniteLlm)
    profile_lending(d, costs.front(), o.engines.front().scheduler.lending);
}

}  // namespace

Simulation serve_with(Backend& backend, Workload& workload, const Deployment& d,
                      const SimulateOptions& options) {
  Simulation s;
  std::optional<PriceEstimates> estimates;
  if (!options.costs.empty()) estimates.emplace(d, options.costs);
  ServeOptions o = serve_options(d, options, estimates ? &*estimates : nullptr);
  if (estimates) profile(d, options.costs, o);
  s.served = serve(workload, backend, o);
  s.basis.share[static_cast<std::size_t>(Basis::kMeasured)] = 1;
  s.workload = workload.describe();
  conclude(s, d);
  return s;
}

namespace {

// A run of the scenario's workload at `scale` times the predicted prices.
struct PricedRun {
  ServeResult served;
  TimeBasis basis;
  std::string workload;
};
PricedRun run_priced(const Deployment& d, std::span<const CostModel> costs, const Resources& resources,
                     const SimulateOptions& options, double scale) {
  const auto requests =
      make_workload(d.scenario.workload, resources.scenario_folder, resources.scenario_file + ":/workload");
  PredictedBackend backend(d, costs, scale);
  PriceEstimates estimates(d, costs);  // a conductor doesn't know how wrong its prices are
  ServeOptions o = serve_options(d, options, &estimates);
  profile(d, costs, o);
  PricedRun r;
  r.served = serve(*requests, backend, o);
  r.basis = backend.basis();
  r.workload = requests->describe();
  return r;
}

}  // namespace

std::map<std::string, Interval> intervals(const Simulation& s, const Deployment& d,
                                          std::span<const CostModel> costs, const Resources& resources,
                                          const std::atomic<bool>* stop) {
  std::map<std::string, Interval> of;
  const ServingMetrics& m = s.served.metrics;
  if (s.served.aborted || m.completed == 0) return of;
  // Queueing answers to slower steps by more than their share: the ends of the interval are simulated too.
  SimulateOptions quiet;
  quiet.stop = stop;
  const double r = std::min(0.9, s.basis.relative_error);
  ServingMetrics ends[2];
  tbb::parallel_invoke([&] { ends[0] = run_priced(d, costs, resources, quiet, 1 - r).served.metrics; },
                       [&] { ends[1] = run_priced(d, costs, resources, quiet, 1 + r).served.metrics; });
  const auto widest = [&](const char* key) {
    double error = 0;
    for (const Deployment* kind : d.kinds()) error = std::max(error, engine_error(kind->behavior, key));
    return error;
  };
  for (const MetricKey& k : kHeadline) {
    const double a = k.value(ends[0]), b = k.value(ends[1]), v = k.value(m);
    of[k.key] = with_engine_error(v, {std::min({a, b, v}), std::max({a, b, v})}, widest(k.key));
  }
  return of;
}

Simulation simulate(const Deployment& d, std::span<const CostModel> costs, const Resources& resources,
                    const SimulateOptions& options) {
  Simulation s;
  PricedRun run = run_priced(d, costs, resources, options, options.price_scale);
  s.served = std::move(run.served);
  s.basis = run.basis;
  s.workload = std::move(run.workload);
  conclude(s, d);
  if (options.intervals) s.interval = intervals(s, d, costs, resources, options.stop);
  return s;
}

}  // namespace foretoken
