// Unlike replicas simulated: equal pools are replicas, a pool without load is as if it were not there, each
// is priced on its own device.
#include <gmock/gmock.h>

#include <thread>

#include "fixtures.h"
#include "simulator/report.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

struct Result {
  Deployment deployment;
  Simulation simulation;
};

Result simulated(const std::string& cluster, const std::string& device = "h100", bool spans = true,
                 double rate = 20) {
  Json json = Json::parse(R"({"name": "t", "model": "llama-3.1-8b", "engine": {"behavior": "vllm-0.19"},
    "workload": {"num_prompts": 300, "seed": 2, "input_len": {"distribution": "uniform", "min": 100, "max": 3000},
                 "output_len": {"distribution": "uniform", "min": 5, "max": 200},
                 "shared_prefix": {"groups": 4, "users_per_group": 3, "prefix_len": 90}}})");
  json["hardware"]["device"] = device;
  json["workload"]["request_rate"] = rate;
  json["cluster"] = Json::parse(cluster);
  const Scenario scenario = test_scenario(json.dump());
  Result r{resolve_or_fail(scenario), {}};
  std::vector<KernelTable> kernels;
  for (const Deployment* kind : r.deployment.kinds())
    kernels.push_back(test_database().kernels(kind->device));
  SimulateOptions options;
  options.use_spans = spans;
  options.keep_records = options.sample_over_time = true;
  const Resources resources = test_resources();
  r.simulation = simulate(r.deployment, make_cost_models(r.deployment, kernels), resources, options);
  return r;
}

std::string text(const Result& r, std::initializer_list<const char*> without = {}) {
  Json json = simulation_json(r.deployment, r.simulation, true);
  json.erase("pools");
  for (const char* key : without) json.erase(key);
  return json.dump();
}

// What estimate says of the cluster at 20 requests/s.
std::pair<Deployment, PoolsEstimate> estimated(const std::string& cluster, double kept = 0, double shared = 0,
                                               bool caches = true) {
  Json json = Json::parse(R"({"name": "t", "model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "engine": {"behavior": "vllm-0.19"}})");
  json["engine"]["enable_prefix_caching"] = caches;
  json["cluster"] = Json::parse(cluster);
  Deployment d = resolve_or_fail(test_scenario(json.dump()));
  std::vector<KernelTable> kernels;
  for (const Deployment* kind : d.kinds()) kernels.push_back(test_database().kernels(kind->device));
  const std::vector<CostModel> costs = make_cost_models(d, kernels);
  const Workload::Means load{
      .input_len = 1000, .output_len = 200, .request_rate = 20, .kept_len = kept, .shared_len = shared};
  PoolsEstimate e;
  if (d.kinds().size() > 1) {
    e = estimate_pools(d, costs, load, 0);
  } else {
    const Estimate alone = estimate(d, costs.front(), load, 0);
    e.ttft_ms = alone.ttft_ms, e.tpot_ms = alone.tpot_ms, e.output_throughput = alone.output_throughput;
    e.capacity_requests_per_s = alone.capacity_requests_per_s, e.utilization = alone.utilization;
  }
  return {std::move(d), std::move(e)};
}

// Prompts are computed but for what caches have: shared prefixes on every engine, a session's earlier calls
// on the one that had them.
TEST(PoolsEstimate, PrefixCachesLeaveWhatIsNew) {
  const std::string one = R"({"replicas": 1})", two = R"({"replicas": 2, "router": "least_outstanding"})",
                    sticky = R"({"replicas": 2, "router": "session_sticky"})";
  const auto ttft = [](const std::string& cluster, double kept, double shared, bool caches = true) {
    return estimated(cluster, kept, shared, caches).second.ttft_ms;
  };
  const double whole = ttft(one, 0, 0);
  EXPECT_LT(ttft(one, 600, 0), 0.7 * whole);
  EXPECT_EQ(ttft(one, 600, 300, false), whole);
  EXPECT_EQ(ttft(sticky, 600, 0), ttft(one, 600, 0));
  EXPECT_EQ(ttft(two, 600, 0), ttft(one, 300, 0));
  EXPECT_EQ(ttft(two, 0, 600), ttft(one, 600, 0));
  EXPECT_GT(estimated(one, 600).second.capacity_requests_per_s,
            estimated(one).second.capacity_requests_per_s);
}

TEST(PoolsEstimate, EqualPoolsAreReplicas) {
  const PoolsEstimate alike = estimated(R"({"replicas": 3})").second;
  for (const char* router : {"round_robin", "least_outstanding"}) {
    const PoolsEstimate apart =
        estimated(std::string(R"({"pools": [{}, {"replicas": 2}], "router": ")") + router + "\"}").second;
    EXPECT_NEAR(apart.pools[1].share, 2.0 / 3, 1e-12);
    EXPECT_NEAR(apart.ttft_ms, alike.ttft_ms, 1e-9 * alike.ttft_ms);
    EXPECT_NEAR(apart.tpot_ms, alike.tpot_ms, 1e-6 * alike.tpot_ms);
    EXPECT_NEAR(apart.output_throughput, alike.output_throughput, 1e-6 * alike.output_throughput);
    EXPECT_NEAR(apart.capacity_requests_per_s, alike.capacity_requests_per_s,
                1e-9 * alike.capacity_requests_per_s);
    EXPECT_NEAR(apart.utilization, alike.utilization, 1e-9);
  }
}

// In turns the slower pool is full first; by loads both are at once.
TEST(PoolsEstimate, RoutersShareTheLoad) {
  const PoolsEstimate turns =
      estimated(R"({"pools": [{}, {"device": "l40s"}], "router": "round_robin"})").second;
  const PoolsEstimate loads =
      estimated(R"({"pools": [{}, {"device": "l40s"}], "router": "least_outstanding"})").second;
  EXPECT_EQ(turns.pools[0].share, 0.5);
  EXPECT_GT(loads.pools[0].share, 0.5);
  EXPECT_GT(loads.capacity_requests_per_s, turns.capacity_requests_per_s);
  const PoolsEstimate none = estimated(R"({"pools": [{}, {"device": "l40s", "weight": 0}]})").second;
  EXPECT_EQ(none.pools[1].share, 0);
  EXPECT_EQ(none.ttft_ms, none.pools[0].estimate.ttft_ms);
}

// The side that is full first bounds both; the first token is the prefill engine's, the others come a step
// each after the cache has moved.
TEST(PoolsEstimate, PrefillAndDecode) {
  const auto [d, e] = estimated(R"({"prefill": {"replicas": 1}, "decode": {"replicas": 2},
    "first_token": "prefill", "kv_link": {"bandwidth": "50 GB/s"}})");
  const Estimate &prompts = e.pools[0].estimate, &tokens = e.pools[1].estimate;
  ASSERT_EQ(prompts.steps.size(), 1u);
  ASSERT_EQ(tokens.steps.size(), 3u);
  EXPECT_EQ(e.capacity_requests_per_s,
            std::min(prompts.capacity_requests_per_s, tokens.capacity_requests_per_s));
  EXPECT_NEAR(e.ttft_ms, prompts.ttft_ms, 1e-9 * e.ttft_ms);
  EXPECT_NEAR(e.e2el_ms, e.ttft_ms + e.transfer_ms + 199 * e.tpot_ms, 1e-9 * e.e2el_ms);
  EXPECT_NEAR(e.output_throughput, 20 * 200, 1e-6);
  // Little's law at the decode engines.
  EXPECT_NEAR(tokens.expected_sequences, 20 * 199 * e.tpot_ms / 1e3 / 2, 0.1 * tokens.expected_sequences);
}

// Machines alike that may do either work are full together: their time is shared between prompts and tokens.
// Below what the sides serve by themselves nothing differs.
TEST(PoolsEstimate, MachinesThatDoEitherWork) {
  const auto cluster = [](const char* router, int prefill, int decode) {
    return Json{{"prefill", {{"replicas", prefill}, {"max_num_batched_tokens", 512}}},
                {"decode", {{"replicas", decode}, {"max_num_batched_tokens", 512}}},
                {"kv_link", {{"bandwidth", "50 GB/s"}}},
                {"router", router}}
        .dump();
  };
  for (const auto& [prefill, decode] : {std::pair(1, 2), std::pair(5, 1)}) {
    SCOPED_TRACE(prefill);
    const PoolsEstimate apart = estimated(cluster("round_robin", prefill, decode)).second;
    const PoolsEstimate mixed = estimated(cluster("splitwise", prefill, decode)).second;
    const PoolsEstimate sides = estimated(cluster("tetriinfer", prefill, decode)).second;
    const double prompts = apart.pools[0].estimate.capacity_requests_per_s / prefill,
                 tokens = apart.pools[1].estimate.capacity_requests_per_s / decode;
    EXPECT_NEAR(mixed.capacity_requests_per_s, (prefill + decode) / (1 / prompts + 1 / tokens),
                0.02 * mixed.capacity_requests_per_s);
    EXPECT_GT(mixed.capacity_requests_per_s, apart.capacity_requests_per_s);
    EXPECT_EQ(mixed.ttft_ms, apart.ttft_ms);
    EXPECT_EQ(sides.capacity_requests_per_s, apart.capacity_requests_per_s);
    EXPECT_EQ(sides.e2el_ms, apart.e2el_ms);
    if (apart.utilization < 1) {
      EXPECT_EQ(mixed.tpot_ms, apart.tpot_ms);
      EXPECT_EQ(mixed.output_throughput, apart.output_throughput);
    }
  }
}

// As a search for plans does it: the same bytes, however many run at once.
TEST(Pools, RoutersOfBothSidesGiveTheSameBytesInAnyThread) {
  for (const char* router : {"mooncake", "splitwise", "tetriinfer"}) {
    SCOPED_TRACE(router);
    const std::string cluster = R"({"prefill": {"replicas": 2}, "decode": {"replicas": 2},
      "kv_link": {"overlap": "layerwise", "bandwidth": "20 GB/s"}, "router": ")" +
                                std::string(router) + "\"}";
    const Deployment d = simulated(cluster, "h100", true, 60).deployment;
    std::vector<KernelTable> kernels;
    for (const Deployment* kind : d.kinds()) kernels.push_back(test_database().kernels(kind->device));
    const std::vector<CostModel> costs = make_cost_models(d, kernels);
    const auto run = [&](bool spans) {
      SimulateOptions options;
      options.use_spans = spans;
      options.keep_records = true;
      return simulation_json(d, simulate(d, costs, test_resources(), options), true).dump();
    };
    const std::string alone = run(true);
    EXPECT_EQ(alone, run(false)) << "single steps";
    std::string beside[3];
    {
      std::vector<std::jthread> threads;
      for (std::string& result : beside) threads.emplace_back([&] { result = run(true); });
    }
    for (const std::string& result : beside) EXPECT_EQ(alone, result);
  }
}

// What decode engines have in their caches is nothing that a router could look for.
TEST(Pools, DecodeEnginesAreChosenByARuleThatTheResultNames) {
  const std::string sides = R"({"prefill": {}, "decode": {"replicas": 2}, "router": ")";
  for (const char* router : {"session_sticky", "prefix_affine", "precise_prefix", "kv_cost"}) {
    const Result r = simulated(sides + router + "\"}");
    EXPECT_EQ(simulation_json(r.deployment, r.simulation, false).at("decode_router"), "least_outstanding");
  }
  for (const char* router : {"round_robin", "least_tokens", "mooncake"}) {
    const Result r = simulated(sides + router + "\"}");
    EXPECT_FALSE(simulation_json(r.deployment, r.simulation, false).contains("decode_router")) << router;
  }
}

TEST(Pools, EqualOnesAreReplicasToTheByte) {
  for (const std::string_view router : kRouterNames) {
    if (router == "mooncake" || router == "splitwise" || router == "tetriinfer")
      continue;  // choose prefill and decode engines
    SCOPED_TRACE(router);
    const std::string rule = R"("router": ")" + std::string(router) + "\"";
    const Result replicas = simulated("{\"replicas\": 4, " + rule + "}");
    const Result pools = simulated("{\"pools\": [{\"replicas\": 1}, {\"replicas\": 3}], " + rule + "}");
    EXPECT_EQ(text(replicas), text(pools));
    ASSERT_EQ(pools.simulation.served.engines.size(), 4u);
  }
}

TEST(Pools, WithAndWithoutSpans) {
  const char* const two = R"({"router": "least_outstanding",
    "pools": [{"replicas": 2, "max_num_seqs": 16}, {"device": "l40s", "replicas": 2, "weight": 2}]})";
  EXPECT_EQ(text(simulated(two)), text(simulated(two, "h100", false)));
}

TEST(Pools, NoLoadIsAsIfItWereNotThere) {
  const Result without = simulated(R"({"replicas": 2})");
  const Result with = simulated(
      R"({"pools": [{"replicas": 2}, {"device": "l40s", "replicas": 3, "weight": 0, "usd_per_device_hour": 1}]})");
  // It costs, and its engines' time counts.
  EXPECT_EQ(text(without, {"usd_per_hour", "usd_per_million_tokens", "busy_share", "over_time"}),
            text(with, {"usd_per_hour", "usd_per_million_tokens", "busy_share", "over_time"}));
  const std::vector<PoolShare> shares = pool_shares(with.deployment, with.simulation);
  EXPECT_EQ(shares[0].requests, 300);
  EXPECT_EQ(shares[1].requests, 0);
  EXPECT_EQ(shares[1].steps, 0);
  EXPECT_GT(with.simulation.usd_per_hour, without.simulation.usd_per_hour);
}

TEST(Pools, EachIsPricedOnItsOwnDevice) {
  const Result alone = simulated(R"({"replicas": 2})", "l40s");
  const Result second =
      simulated(R"({"pools": [{"replicas": 1, "weight": 0}, {"device": "l40s", "replicas": 2}]})");
  const ServingMetrics &a = alone.simulation.served.metrics, &b = second.simulation.served.metrics;
  EXPECT_EQ(a.e2el.mean, b.e2el.mean);
  EXPECT_EQ(a.ttft.p99, b.ttft.p99);
  EXPECT_EQ(a.itl.p99, b.itl.p99);
  EXPECT_EQ(alone.simulation.basis.share, second.simulation.basis.share);
}

// A faster pool in place of a slower one shortens what users wait for, and the price is the sum.
TEST(Pools, FasterDevicesServeFaster) {
  const auto with = [](const std::string& device) {
    return simulated(R"({"router": "least_outstanding", "pools": [{"usd_per_device_hour": 3},
      {"usd_per_device_hour": 1, "device": ")" +
                         device + "\"}]}",
                     "h100", true, 40);
  };
  const Result fast = with("h100"), slow = with("l40s");
  EXPECT_LT(fast.simulation.served.metrics.e2el.mean, slow.simulation.served.metrics.e2el.mean);
  EXPECT_DOUBLE_EQ(slow.simulation.usd_per_hour, 4);
  const std::vector<PoolShare> shares = pool_shares(slow.deployment, slow.simulation);
  EXPECT_GT(shares[0].requests, shares[1].requests) << "who is faster is asked more often";
  EXPECT_EQ(shares[0].requests + shares[1].requests, 300);
}

// Turns by weight: three of four.
TEST(Pools, WeightsDivideTheTurns) {
  const Result r = simulated(R"({"pools": [{"weight": 3}, {"device": "l40s"}]})");
  const std::vector<PoolShare> shares = pool_shares(r.deployment, r.simulation);
  EXPECT_EQ(shares[0].requests, 225);
  EXPECT_EQ(shares[1].requests, 75);
}

}  // namespace
}  // namespace foretoken
