// The highest load: what queueing theory says of a single server, and what must hold between searches.
#include "simulator/load_capacity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "fixtures.h"
#include "simulator/report.h"

namespace foretoken {
namespace {

const char* const kBase = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 1},
  "engine": {"max_num_seqs": 1, "enable_prefix_caching": false},
  "workload": {"request_rate": 1, "num_prompts": 4000, "input_len": {"value": 64}, "output_len": {"value": 8}}})";

LoadCapacity capacity_of(const Json& json, int threads = 0) {
  const Scenario s = test_scenario(json.dump());
  const Priced p(resolve_or_fail(s, 100, 128));
  const Resources resources = test_resources();
  const auto load = make_workload(s.workload, {}, "test.json:/workload")->means();
  LoadCapacityOptions o;
  o.threads = threads;
  return find_load_capacity(p.deployment, std::span(&p.cost, 1), resources, load, 0, o);
}

Json patched(const char* patch) {
  Json json = Json::parse(kBase);
  json.merge_patch(Json::parse(patch));
  return json;
}

// Seconds that a lone request holds the engine: what a closed loop of one completes, less the way there and
// back.
double service_seconds() {
  const Scenario s = test_scenario(patched(R"({"workload": {"request_rate": null, "max_concurrency": 2,
                                                          "num_prompts": 200}})")
                                       .dump());
  const Priced p(resolve_or_fail(s, 100, 128));
  SimulateOptions o;
  o.intervals = false;
  return 1 / simulate(p.deployment, p.cost, test_resources(), o).served.metrics.request_throughput;
}

// Regular arrivals at a single server wait for nothing until they come faster than it serves.
TEST(LoadCapacity, RegularArrivalsReachTheServiceRate) {
  const LoadCapacity c = capacity_of(patched(R"({"workload": {"arrival": "constant"}})"));
  EXPECT_NEAR(c.load * service_seconds(), 1, 0.02);
  EXPECT_EQ(c.limited_by, "stability");
}

// M/D/1: a wait below one service time t < D has P(W <= t) = (1 - rho) exp(rho t / D) (Erlang 1909).
TEST(LoadCapacity, RandomArrivalsKeepALimitAsErlangSays) {
  const double service = service_seconds();
  Json json = patched(R"({"workload": {"num_prompts": 20000}, "slo": {"percentile": 90}})");
  const LoadCapacity idle = capacity_of(patched(R"({"slo": {"ttft_ms": 0.001}})"));
  json["slo"]["ttft_ms"] = idle.at.simulation.served.metrics.ttft.p50 + 0.95e3 * service;
  const double rho = capacity_of(json).load * service;
  EXPECT_NEAR((1 - rho) * std::exp(0.95 * rho), 0.9, 0.015) << rho;
}

TEST(LoadCapacity, PassesThereAndFailsAbove) {
  Json json = Json::parse(kBase);
  json["engine"]["max_num_seqs"] = 64;
  json["workload"]["num_prompts"] = 1000;
  json["slo"] = Json{{"ttft_ms", 100}, {"tpot_ms", 12}, {"percentile", 95}};
  const LoadCapacity c = capacity_of(json, 1);
  ASSERT_GT(c.load, 0);
  EXPECT_TRUE(c.at.passes);
  EXPECT_LE(c.failing, c.load * 1.01);
  EXPECT_LT(c.interval.low, c.load);
  EXPECT_GT(c.interval.high, c.load);
  for (const LoadTrial& t : c.trials) {
    if (t.load <= c.load) {
      EXPECT_TRUE(t.passes) << t.load;
    }
    if (t.load > 1.05 * c.load) {
      EXPECT_FALSE(t.passes) << t.load;
    }
  }
  const Scenario s = test_scenario(json.dump());
  const Deployment d = resolve_or_fail(s, 100, 128);
  EXPECT_EQ(dump_json(load_capacity_json(d, c)), dump_json(load_capacity_json(d, capacity_of(json, 3))));
  json["hardware"]["count"] = 2;
  EXPECT_GE(capacity_of(json).load, c.load);
}

TEST(LoadCapacity, RefusesWhatHasNoCapacity) {
  EXPECT_THROW(capacity_of(patched(R"({"workload": {"request_rate": null, "max_concurrency": 4}})")), Error);
  EXPECT_THROW(capacity_of(patched(R"({"workload": {"request_rate": null, "all_at_once": true}})")), Error);
}

}  // namespace
}  // namespace foretoken
