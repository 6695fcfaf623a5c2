// Unlike replicas of a scenario: each pool with its overrides and its device, what they have in common, and
// prefill and decode on devices of their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "hwdb/database.h"
#include "models.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

const Database& database() {
  static const Database database =
      Database::open(std::filesystem::path(FORETOKEN_BINARY_DIR) / "share/foretoken/foretoken.sqlite");
  return database;
}

Scenario scenario(const std::string& cluster, const std::string& engine = "{}",
                  const std::string& hardware = R"({"device": "h100"})") {
  return scenario_from_json(Json{{"hardware", Json::parse(hardware)},
                                 {"engine", Json::parse(engine)},
                                 {"cluster", Json::parse(cluster)}},
                            "s.json:");
}
std::variant<Deployment, Infeasible> result(const Scenario& s) {
  Resources r;
  r.database = &database();
  r.scenario_file = "s.json";
  return resolve(s, r, llama_8b(), 0, 4000);
}
Deployment resolved(const Scenario& s) { return deployment_of(result(s)); }
std::string error(const std::string& cluster, const std::string& engine = "{}") {
  return error_of([&] { result(scenario(cluster, engine)); });
}

constexpr const char* kTwo = R"({"pools": [
  {"replicas": 3, "max_num_seqs": 64},
  {"device": "l40s", "replicas": 2, "tensor_parallel_size": 2, "usd_per_device_hour": 1, "quantization": "fp8",
   "kv_cache_dtype": "fp8", "weight": 2}]})";

TEST(ReplicaPools, EachIsTheEngineOnItsDeviceWithItsOverrides) {
  const Deployment d = resolved(scenario(kTwo, R"({"max_num_batched_tokens": 4096})",
                                         R"({"device": "h100", "usd_per_device_hour": 3})"));
  ASSERT_EQ(d.replica_pools.size(), 2u);
  const Deployment &a = d.replica_pools[0], &b = d.replica_pools[1];
  EXPECT_EQ(a.device.name, d.device.name);
  EXPECT_EQ(a.scheduler.max_num_seqs, 64);
  EXPECT_EQ(a.mapping.engines(), 3);
  EXPECT_EQ(a.precision.weights, WeightFormat::kPlain);
  EXPECT_THAT(b.device.name, HasSubstr("L40S"));
  EXPECT_EQ(b.mapping.tensor_parallel, 2);
  EXPECT_EQ(b.mapping.engines(), 2);
  EXPECT_EQ(b.precision.weights, WeightFormat::kFp8);
  EXPECT_EQ(b.precision.kv, DType::kFp8);
  for (const Deployment* pool : {&a, &b}) EXPECT_EQ(pool->scheduler.max_num_batched_tokens, 4096);
  // Alone it is the same deployment.
  Scenario alone = scenario("{}", R"({"max_num_batched_tokens": 4096, "tensor_parallel_size": 2,
    "quantization": "fp8", "kv_cache_dtype": "fp8"})",
                            R"({"device": "l40s"})");
  EXPECT_EQ(b.memory.num_gpu_blocks, resolved(alone).memory.num_gpu_blocks);

  EXPECT_EQ(d.devices(), 3 + 2 * 2);
  EXPECT_EQ(d.engines(), 5);
  EXPECT_DOUBLE_EQ(d.usd_per_hour(), 3 * 3 + 4 * 1);
  EXPECT_EQ(d.scenario.hardware.count, 7);
  for (int e = 0; e < 5; ++e) EXPECT_EQ(&d.of_engine(e), e < 3 ? &a : &b);
}

TEST(ReplicaPools, Idempotent) {
  for (const char* cluster :
       {kTwo, R"({"pools": [{"behavior": "vllm-0.11"}, {"behavior": "sglang-0.5", "device": "a100"}]})",
        R"({"prefill": {"device": "h100", "usd_per_device_hour": 2}, "decode": {"device": "a100"}})"}) {
    const Deployment once = resolved(scenario(cluster)), twice = resolved(once.scenario);
    EXPECT_EQ(scenario_to_json(once.scenario).dump(), scenario_to_json(twice.scenario).dump());
    ASSERT_EQ(once.kinds().size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(once.kinds()[i]->memory.num_gpu_blocks, twice.kinds()[i]->memory.num_gpu_blocks);
      EXPECT_EQ(once.kinds()[i]->scheduler.policy, twice.kinds()[i]->scheduler.policy);
    }
    EXPECT_EQ(once.usd_per_hour(), twice.usd_per_hour());
  }
}

// With a device of its own, nothing else of the scenario's hardware holds.
TEST(ReplicaPools, AnotherDeviceIsAnotherMachine) {
  const Deployment d =
      resolved(scenario(R"({"pools": [{}, {"device": "a100"}, {"network_bandwidth": "7 GB/s"}]})", "{}",
                        R"({"device": "h100", "usd_per_device_hour": 9,
                                         "network_bandwidth": "3 GB/s", "devices_per_node": 4})"));
  const auto& pools = d.replica_pools;
  EXPECT_EQ(pools[0].usd_per_device_hour, 9);
  EXPECT_EQ(pools[0].topology.inter_node.bandwidth.value, 3e9);
  EXPECT_NE(pools[1].usd_per_device_hour, 9);
  EXPECT_EQ(pools[1].topology.devices_per_node, 8);
  EXPECT_NE(pools[1].topology.inter_node.bandwidth.value, 3e9);
  EXPECT_EQ(pools[2].topology.inter_node.bandwidth.value, 7e9);
  EXPECT_EQ(pools[2].topology.devices_per_node, 4);
  EXPECT_EQ(pools[2].usd_per_device_hour, 9);
}

// Splitwise's HA: prompts on H100, tokens on A100. The link is what both ends can do.
TEST(ReplicaPools, PrefillAndDecodeOnUnlikeDevices) {
  const Deployment d = resolved(scenario(R"({"prefill": {"device": "h100", "network_bandwidth": "50 GB/s"},
    "decode": {"device": "a100", "replicas": 2, "network_bandwidth": "25 GB/s"}})"));
  ASSERT_TRUE(d.pools);
  EXPECT_THAT(d.pools->prefill.device.name, HasSubstr("H100"));
  EXPECT_THAT(d.pools->decode.device.name, HasSubstr("A100"));
  EXPECT_EQ(d.pools->link.bandwidth.value, 25e9);
  EXPECT_EQ(d.devices(), 3);
  EXPECT_DOUBLE_EQ(d.usd_per_hour(),
                   d.pools->prefill.usd_per_device_hour + 2 * d.pools->decode.usd_per_device_hour);
  const Deployment turned =
      resolved(scenario(R"({"prefill": {"network_bandwidth": "10 GB/s"}, "decode": {}})"));
  EXPECT_EQ(turned.pools->link.bandwidth.value, 10e9);
  EXPECT_THAT(error(R"({"prefill": {}, "decode": {"device": "v100"}})"), HasSubstr("kv_cache_dtype"));
}

TEST(ReplicaPools, Errors) {
  EXPECT_THAT(error(R"({"pools": []})"), HasSubstr("s.json:/cluster/pools: is empty"));
  EXPECT_THAT(error(R"({"pools": [{"weight": 0}]})"), HasSubstr("no pool has a weight above 0"));
  EXPECT_THAT(error(R"({"pools": [{}], "replicas": 2})"),
              HasSubstr("s.json:/cluster/replicas: each pool has"));
  EXPECT_THAT(error(R"({"pools": [{}], "autoscale": {"target": 3}})"),
              HasSubstr("s.json:/cluster/autoscale: is modelled for replicas that are all alike"));
  EXPECT_THAT(error(R"({"pools": [{}], "prefill": {}, "decode": {}})"), HasSubstr("s.json:/cluster/pools"));
  EXPECT_THAT(error(R"({"pools": [{}, {"weight": 2}], "router": "kv_cost"})"),
              HasSubstr("s.json:/cluster/pools/1/weight: router \"kv_cost\" knows no weights"));
  EXPECT_EQ(error(R"({"pools": [{}, {"weight": 0}], "router": "kv_cost"})"), "no error");
  EXPECT_THAT(error(R"({"pools": [{"behavior": "vllm"}, {"behavior": "foretoken"}]})"),
              HasSubstr("s.json:/cluster/pools/1/behavior: foretoken takes another time"));
  EXPECT_THAT(error(R"({"pools": [{"device": "h1000"}]})"), HasSubstr("h1000"));
  EXPECT_THAT(error(R"({"pools": [{"wieght": 1}]})"), HasSubstr("s.json:/cluster/pools/0/wieght"));
  const Infeasible no = verdict_of(result(scenario(R"({"pools": [{}, {"tensor_parallel_size": 3}]})")));
  EXPECT_THAT(no.reason, HasSubstr("pool 1: "));
  Scenario few = scenario(kTwo);
  few.hardware.count = 6;
  EXPECT_THAT(verdict_of(result(few)).reason, HasSubstr("the pools take 7 devices, hardware.count is 6"));
  EXPECT_THAT(error_of([&] { refuse_pools(scenario(kTwo), "plan", "s.json:"); }),
              HasSubstr("s.json:/cluster/pools: plan covers replicas that are alike"));
}

}  // namespace
}  // namespace foretoken
