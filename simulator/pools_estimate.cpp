#include "simulator/pools_estimate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "simulator/closed_forms.h"

namespace foretoken {
namespace {

constexpr double kMostHelp = 0.95;  // of a token machine's time, on prompts: the rest makes tokens

bool looks_at_loads(std::string_view router) {
  return router == "least_outstanding" || router == "least_tokens" || router == "power_of_two" ||
         router == "precise_prefix" || router == "kv_cost";
}

double ranks_of(const Deployment& d) {
  return static_cast<double>(d.mapping.engines() * d.mapping.ranks_per_engine());
}

void add_price(const Deployment& d, PoolsEstimate& all) {
  if (d.has_price)
    all.usd_per_million_tokens = usd_per_million_tokens(d.usd_per_hour(), all.output_throughput);
}

PoolsEstimate unlike_replicas(const Deployment& d, std::span<const CostModel> costs,
                              const Workload::Means& load, std::int64_t concurrency) {
  const std::vector<const Deployment*> kinds = d.kinds();
  const ClusterSection& cluster = d.scenario.cluster;
  const bool by_load = looks_at_loads(cluster.router);
  PoolsEstimate all;
  Workload::Means full = load;
  full.request_rate = 0;
  double sum = 0;
  std::vector<double> capacity;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const auto weight = static_cast<double>((*cluster.pools)[i].weight.value_or(1));
    capacity.push_back(estimate(*kinds[i], costs[i], full, 0, false).capacity_requests_per_s);
    PoolEstimate& pool = all.pools.emplace_back();
    pool.share = by_load ? (weight > 0 ? capacity.back() : 0) : weight * kinds[i]->mapping.engines();
    sum += pool.share;
  }
  all.capacity_requests_per_s = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    PoolEstimate& pool = all.pools[i];
    pool.share /= sum;
    pool.request_rate = load.request_rate * pool.share;
    if (pool.share > 0)
      all.capacity_requests_per_s = std::min(all.capacity_requests_per_s, capacity[i] / pool.share);
    Workload::Means own = load;
    own.request_rate = pool.request_rate;
    const auto part = concurrency > 0 ? std::llround(static_cast<double>(concurrency) * pool.share) : 0;
    pool.estimate = estimate(*kinds[i], costs[i], own, std::max<std::int64_t>(part, concurrency > 0 ? 1 : 0));
    if (pool.share == 0) {
      pool.estimate.output_throughput = pool.estimate.expected_sequences = 0;
      continue;
    }
    all.ttft_ms += pool.share * pool.estimate.ttft_ms;
    all.tpot_ms += pool.share * pool.estimate.tpot_ms;
    all.e2el_ms += pool.share * pool.estimate.e2el_ms;
    all.output_throughput += pool.estimate.output_throughput;
  }
  all.utilization = load.request_rate / all.capacity_requests_per_s;
  add_price(d, all);
  return all;
}

// What two kinds of machines serve together when those with time left do the others' work: requests a second.
// own: what each kind does of its own work; other: of the other's.
struct Sides {
  double own_prompts = 0, other_prompts = 0;  // by prompt machines, by token machines
  double own_tokens = 0, other_tokens = 0;    // by token machines, by prompt machines
  double together() const {
    if (!std::isfinite(own_tokens)) return own_prompts + other_prompts;  // there are no tokens to make
    const double fewer = std::min(own_prompts, own_tokens), more = std::max(own_prompts, own_tokens);
    // The share of their time that machines of the stronger side give away, so that both kinds of work keep
    // pace: fewer + share x helped = (1 - share) x more.
    const double helped = own_prompts < own_tokens ? other_prompts : other_tokens;
    return fewer + helped * (more - fewer) / (helped + more);
  }
  // Share of their time that token machines spend on prompts where so many requests come a second.
  double on_prompts(double rate) const {
    return other_prompts > 0 ? std::clamp((rate - own_prompts) / other_prompts, 0.0, 1.0) : 0;
  }
};

PoolsEstimate prefill_and_decode(const Deployment& d, std::span<const CostModel> costs,
                                 const Workload::Means& load, std::int64_t concurrency) {
  const Disaggregation& pools = *d.pools;
  const Deployment &p = pools.prefill, &q = pools.decode;
  const double output = std::max(1.0, load.output_len);
  PoolsEstimate all;
  all.pools.resize(2);
  Estimate &prompts = all.pools[0].estimate, &tokens = all.pools[1].estimate;
  Workload::Means full = load;
  full.request_rate = 0;
  prompts = estimate(p, costs[0], full, 0);
  prompts.steps.resize(1);
  const double around = d.behavior.ingress.value + d.behavior.egress.value;
  const double prefill_s = prompts.ttft_ms * 1e-3 - (p.behavior.ingress.value + p.behavior.egress.value);
  prompts.capacity_requests_per_s = ranks_of(p) / prefill_s;

  // Of the tokens that decode engines make; a step of n sequences as affine between one and the most.
  const Estimate fullest = estimate(q, costs[1], full, 0, false);
  const double made = pools.decode_makes_first_token ? output : output - 1;
  const double steps = made / fullest.tokens_per_step;
  const StepEstimate &one = fullest.steps[1], &largest = fullest.steps[3];
  const auto most = static_cast<double>(largest.sequences);
  const double slope = most > 1 ? (largest.seconds - one.seconds) / (most - 1) : 0;
  const double capacity =
      steps > 0 ? ranks_of(q) * most / (steps * largest.seconds) : std::numeric_limits<double>::infinity();
  all.capacity_requests_per_s = std::min(prompts.capacity_requests_per_s, capacity);
  Sides sides{prompts.capacity_requests_per_s, 0, capacity, 0};
  if (d.scenario.cluster.router == "splitwise") {
    const Estimate other_prompts = estimate(q, costs[1], full, 0, false);
    const Estimate other_tokens = estimate(p, costs[0], full, 0, false);
    const StepEstimate& step = other_tokens.steps[3];
    sides.other_prompts =
        ranks_of(q) / (other_prompts.ttft_ms * 1e-3 - (q.behavior.ingress.value + q.behavior.egress.value));
    sides.other_tokens = steps > 0
                             ? ranks_of(p) * static_cast<double>(step.sequences) / (steps * step.seconds)
                             : std::numeric_limits<double>::infinity();
    all.capacity_requests_per_s = sides.together();
  }
  const double moving =
      move_time(pools, static_cast<std::int64_t>(std::llround(std::max(1.0, load.input_len)))).value /
      (pools.by_layers ? static_cast<double>(d.model.num_layers) : 1);
  double rate = all.capacity_requests_per_s, n = most;
  for (int round = 0; round < 20; ++round) {
    const double busy = std::min(sides.on_prompts(rate), kMostHelp);
    const double residence = steps * (one.seconds + slope * (n - 1)) / (1 - busy);
    if (load.request_rate > 0)
      rate = std::min(load.request_rate, all.capacity_requests_per_s);
    else if (concurrency > 0)
      rate = std::min(static_cast<double>(concurrency) / (prefill_s + moving + residence),
                      all.capacity_requests_per_s);
    n = std::clamp(rate * residence / ranks_of(q), 0.0, most);
  }
  tokens =
      estimate(q, costs[1], full, std::max<std::int64_t>(1, std::llround(std::max(1.0, n) * ranks_of(q))));
  tokens.steps.erase(tokens.steps.begin());
  const double step = tokens.steps[1].seconds / (1 - std::min(sides.on_prompts(rate), kMostHelp));
  tokens.expected_sequences = n;
  prompts.expected_sequences = rate / prompts.capacity_requests_per_s;
  tokens.capacity_requests_per_s = capacity;
  if (load.request_rate > 0) {
    prompts.utilization = load.request_rate / prompts.capacity_requests_per_s;
    tokens.utilization = load.request_rate / capacity;
    all.utilization = d.scenario.cluster.router == "splitwise"
                          ? load.request_rate / all.capacity_requests_per_s
                          : std::max(prompts.utilization, tokens.utilization);
    all.pools[0].request_rate = all.pools[1].request_rate = load.request_rate;
  }
  all.transfer_ms = 1e3 * moving;
  all.tpot_ms = tokens.tpot_ms = 1e3 * step / tokens.tokens_per_step;
  all.ttft_ms = 1e3 * (around + prefill_s + (pools.decode_makes_first_token ? moving + step : 0));
  all.e2el_ms =
      all.ttft_ms + (output - 1) * all.tpot_ms + (pools.decode_makes_first_token ? 0 : 1e3 * moving);
  prompts.tpot_ms = tokens.ttft_ms = 0;
  prompts.e2el_ms = prompts.ttft_ms;
  tokens.e2el_ms = 1e3 * steps * step;
  prompts.output_throughput = rate * (output - made);
  tokens.output_throughput = rate * made;
  all.output_throughput = rate * output;
  add_price(d, all);
  return all;
}

}  // namespace

std::string pool_name(const Deployment& d, std::size_t i) {
  if (d.pools) return i == 0 ? "prefill" : "decode";
  return "pool " + std::to_string(i);
}

PoolsEstimate estimate_pools(const Deployment& d, std::span<const CostModel> costs,
                             const Workload::Means& load, std::int64_t concurrency) {
  if (!d.pools) return unlike_replicas(d, costs, load, concurrency);
  return prefill_and_decode(d, costs, load, concurrency);
}

}  // namespace foretoken
