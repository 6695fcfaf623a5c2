// Unlike replicas on the executor: the tokens of plain serving, and the schedule that the simulator decides
// when it is told how long steps take.
#include <gmock/gmock.h>

#include "expect_error.h"
#include "served.h"

namespace foretoken {
namespace {

Json scenario(const Json& cluster) {
  Json json = small_scenario(small_config("dense", 256), Json::object(),
                             {{"num_prompts", 16}, {"request_rate", 4000}, {"output_len", {{"value", 40}}}});
  json["hardware"].erase("count");
  json["cluster"] = cluster;
  return json;
}

TEST(ExecutedPools, SayTheSameAndFollowTheSimulatedSchedule) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(scenario(Json::object()), served, plain);
  ASSERT_EQ(expected.size(), 16u);
  const Json pools = Json::parse(R"([{"max_num_seqs": 2, "max_num_batched_tokens": 32},
    {"replicas": 2, "tensor_parallel_size": 2, "num_gpu_blocks_override": 20}, {"pipeline_parallel_size": 2}])");
  for (const char* router : {"round_robin", "least_outstanding", "precise_prefix"}) {
    SCOPED_TRACE(router);
    const Json json = scenario({{"pools", pools}, {"router", router}});
    Recording recording;
    EXPECT_EQ(expected, tokens_of(json, served, recording));
    ASSERT_EQ(served.engines.size(), 4u);
    for (const EngineTotals& e : served.engines) EXPECT_GT(e.requests, 0);
    expect_the_same_schedule(served, recording, json);
  }
}

// Engines that compute prompts and make tokens as they are told; some requests move, others don't.
TEST(ExecutedPools, EnginesThatDoEitherWorkSayTheSame) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(scenario(Json::object()), served, plain);
  Json cluster =
      Json::parse(R"({"prefill": {"replicas": 2}, "decode": {"replicas": 2, "num_gpu_blocks_override": 17},
    "kv_link": {"bandwidth": "5 GB/s", "latency_us": 0, "overlap": "layerwise", "layerwise_min_tokens": 40}})");
  for (const bool tetri : {false, true}) {
    for (const char* behavior : {"foretoken", "splitwise"}) {
      if (tetri && std::string(behavior) == "splitwise") continue;
      SCOPED_TRACE(behavior);
      cluster["router"] = tetri ? "tetriinfer" : "splitwise";
      if (tetri)
        cluster["tetriinfer"] = {{"length_granularity", 20}};
      else
        cluster["splitwise"] = {{"prompt_max_pending_batch_tokens", 100}};
      if (tetri) cluster.erase("splitwise");
      Json json = scenario(cluster);
      json["engine"]["behavior"] = behavior;
      Recording recording;
      EXPECT_EQ(expected, tokens_of(json, served, recording));
      EXPECT_GT(recording.transfers.size(), 0u) << "how many depends on the machine's times";
      expect_the_same_schedule(served, recording, json);
    }
  }
}

// A conductor that chooses both sides' engines by predicted times; replicas that start when they are needed.
TEST(ExecutedPools, ConductorAndAutoscaledReplicasSayTheSame) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(scenario(Json::object()), served, plain);
  Json conductor =
      scenario(Json::parse(R"({"prefill": {"replicas": 2}, "decode": {"replicas": 2}, "router": "mooncake",
    "kv_link": {"bandwidth": "5 GB/s", "latency_us": 0}})"));
  conductor["engine"]["enable_prefix_caching"] = true;
  Json autoscaled = scenario(Json::parse(R"({"replicas": 3, "autoscale": {"min_replicas": 1, "target": 2,
    "interval_s": 0.001, "startup_s": 0.001, "scale_down_window_s": 0.01}})"));
  autoscaled["hardware"]["count"] = 3;
  for (const Json& json : {conductor, autoscaled}) {
    SCOPED_TRACE(json["cluster"].dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(json, served, recording));
    expect_the_same_schedule(served, recording, json);
  }
}

TEST(ExecutedPools, RefusedByName) {
  const auto error = [](const Json& cluster, const Json& engine = Json::object()) {
    Json json = scenario(cluster);
    json["engine"].update(engine);
    return test::error_of([&] {
      Recording recording;
      execute_scenario(json, {}, recording, [](ExecutedBackend&, const Simulation&) {});
    });
  };
  EXPECT_THAT(error({{"pools", {Json::object(), {{"device", "epyc-9965"}, {"host_memory", "64 GiB"}}}}}),
              testing::HasSubstr("are not executed by one machine"));
  const Json speculative =
      Json::parse(R"({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2,
    "prompt_lookup_max": 2, "acceptance_rate": [0.5]}})");
  EXPECT_THAT(error({{"pools", {Json::object(), Json::object()}}}, speculative),
              testing::HasSubstr("speculative_config: with unlike replicas"));
}

}  // namespace
}  // namespace foretoken
