// KV tiers in host memory and in files on the executor: the same tokens as without them, and the schedule
// that the simulator decides when it is told how long steps and copies took.
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <csignal>

#include "base/error.h"
#include "served.h"

namespace foretoken {
namespace {

// Prompts of six beginnings in turns, which device memory of twenty blocks cannot hold at once.
Json scenario(const char* family, const Json& engine) {
  return small_scenario(small_config(family), engine, Json::parse(R"({"request_rate": 2000, "num_prompts": 24,
    "shared_prefix": {"groups": 6, "users_per_group": 1, "prefix_len": 64},
    "input_len": {"value": 80}, "output_len": {"value": 12}})"));
}

TEST(ExecutedKvTiers, TokensAreThoseOfPlainServingAndTheScheduleIsTheSimulatedOne) {
  for (const char* family : {"dense", "latent"}) {
    ServeResult roomy, served;
    Recording plain;
    const auto expected = tokens_of(scenario(family, Json::object()), roomy, plain);
    ASSERT_EQ(expected.size(), 24u);
    for (const char* policy : {"write_through", "write_through_selective", "write_back"})
      for (const double gib : {0.0002, 0.01}) {
        SCOPED_TRACE(std::string(family) + " " + policy + " " + std::to_string(gib));
        const Json json = scenario(
            family,
            {{"num_gpu_blocks_override", 20},
             {"enable_prefix_caching", true},
             {"kv_tiers",
              Json::array({Json{{"kind", "host"}, {"capacity_gib", gib}, {"write_policy", policy}}})}});
        Recording recording;
        EXPECT_EQ(expected, tokens_of(json, served, recording));
        EXPECT_EQ(served.rejected, 0);
        ASSERT_EQ(served.kv_tiers.size(), 1u);
        EXPECT_GT(served.kv_tiers[0].written, 0);
        if (gib > 0.001) {
          EXPECT_GT(served.kv_tiers[0].loaded, 0);
        }
        expect_the_same_schedule(served, recording, json);
      }
  }
}

// Steps begin before all that they load is there: copies and computing take what they took, one beside the
// other.
TEST(ExecutedKvTiers, LayersThatComeWhileAStepComputes) {
  ServeResult roomy, served;
  Recording plain;
  const auto expected = tokens_of(scenario("dense", Json::object()), roomy, plain);
  const Json json =
      scenario("dense", {{"num_gpu_blocks_override", 20},
                         {"enable_prefix_caching", true},
                         {"kv_load_mode", "layerwise"},
                         {"kv_tiers", Json::parse(R"([{"kind": "host", "capacity_gib": 0.01}])")}});
  Recording recording;
  EXPECT_EQ(expected, tokens_of(json, served, recording));
  EXPECT_GT(served.kv_tiers.at(0).loaded, 0);
  expect_the_same_schedule(served, recording, json);
}

// Device memory of twenty blocks over these tiers, of which one holds six blocks, or many. Prompts come half
// a second apart, so that what was written is there whatever the machine does meanwhile.
Json tiered(const Json& tiers, const Json& more = Json::object(), const char* family = "dense") {
  Json engine{{"num_gpu_blocks_override", 20}, {"enable_prefix_caching", true}, {"kv_tiers", tiers}};
  engine.update(more);
  Json json = scenario(family, engine);
  json["workload"]["request_rate"] = 2;
  return json;
}
constexpr double kFew = 0.00005, kMany = 0.01;
Json tier(const char* kind, double gib, const Json& more = Json::object()) {
  Json t{{"kind", kind}, {"capacity_gib", gib}, {"bandwidth", "5 GB/s"}};
  t.update(more);
  return t;
}

TEST(ExecutedKvTiers, FilesAndSeveralTiers) {
  ServeResult roomy, served;
  Recording plain;
  const auto expected = tokens_of(scenario("dense", Json::object()), roomy, plain);
  const Json through{{"write_policy", "write_through"}}, back{{"write_policy", "write_back"}};
  for (const Json& tiers : {Json::array({tier("storage", kMany)}), Json::array({tier("storage", kFew, back)}),
                            Json::array({tier("host", kFew), tier("storage", kMany)}),
                            Json::array({tier("host", kFew, back), tier("storage", kMany, through)}),
                            Json::array({tier("host", kFew), tier("host", kFew), tier("storage", kMany)}),
                            Json::array({tier("storage", kFew), tier("storage", kMany)})}) {
    SCOPED_TRACE(tiers.dump());
    Json json = tiered(tiers);
    for (const int rate : {2, 2000}) {
      json["workload"]["request_rate"] = rate;
      Recording recording;
      EXPECT_EQ(expected, tokens_of(json, served, recording));
      ASSERT_EQ(served.kv_tiers.size(), tiers.size());
      for (const KvTierCounts& t : served.kv_tiers) EXPECT_GT(t.written, 0);
      if (rate == 2 && tiers.back()["capacity_gib"] == kMany) {
        EXPECT_GT(served.kv_tiers.back().loaded, 0);
      }
      expect_the_same_schedule(served, recording, json);
    }
  }
}

// Each engine finds what the other one wrote; every rank has its own slice of it.
TEST(ExecutedKvTiers, EnginesThatShareTiers) {
  const Json shared{{"shared", true}};
  struct Case {
    const char* family;
    Json engine, tiers;
  };
  for (const Case& c :
       {Case{"dense",
             {{"tensor_parallel_size", 2}, {"kv_cache_dtype", "int8"}},
             Json::array({tier("host", kMany, shared)})},
        Case{"dense", Json::object(), Json::array({tier("host", kFew), tier("storage", kMany, shared)})},
        Case{"moe",
             {{"data_parallel_size", 2}, {"enable_expert_parallel", true}},
             Json::array({tier("storage", kMany, shared)})}}) {
    SCOPED_TRACE(c.engine.dump() + c.tiers.dump());
    const auto on_two = [&](Json json) {
      const int ranks = c.engine.value("tensor_parallel_size", 1) * c.engine.value("data_parallel_size", 1);
      json["engine"].update(c.engine);
      json["hardware"]["count"] = 2 * ranks;
      json["cluster"] = {{"replicas", 2}, {"router", "round_robin"}};
      return json;
    };
    ServeResult roomy, served;
    Recording plain, recording;
    const auto expected = tokens_of(on_two(scenario(c.family, Json::object())), roomy, plain);
    const Json json = on_two(tiered(c.tiers, Json::object(), c.family));
    EXPECT_EQ(expected, tokens_of(json, served, recording));
    EXPECT_GT(served.kv_tiers.back().loaded, 0);
    expect_the_same_schedule(served, recording, json);
  }
}

// What lies far away is computed again: its prices are the simulator's, whatever copies really take.
TEST(ExecutedKvTiers, LoadingByCost) {
  ServeResult roomy, served;
  Recording plain;
  const auto expected = tokens_of(scenario("dense", Json::object()), roomy, plain);
  for (const char* mode : {"async", "layerwise"}) {
    SCOPED_TRACE(mode);
    const Json json = tiered(Json::array({tier("host", kFew, {{"bandwidth", "100000 GB/s"}}),
                                          tier("storage", kMany, {{"bandwidth", "0.000001 GB/s"}})}),
                             {{"kv_load_policy", "cost"}, {"kv_load_mode", mode}});
    Recording recording;
    EXPECT_EQ(expected, tokens_of(json, served, recording));
    EXPECT_GT(served.kv_tiers.at(1).written, 0);
    EXPECT_EQ(served.kv_tiers.at(1).loaded, 0);
    std::int64_t declined = 0;
    for (const auto& t : recording.tiers) declined += t.declined;
    EXPECT_GT(declined, 0);
    expect_the_same_schedule(served, recording, json);
  }
}

// Storage below SGLang's host memory: prompts of twenty beginnings, which that can't hold at once.
TEST(ExecutedKvTiers, HiCacheStorage) {
  const auto json = [](const Json& engine) {
    Json s = small_scenario(small_config("dense"),
                            {{"behavior", "sglang-0.5"},
                             {"page_size", 16},
                             {"max_model_len", 400},
                             {"max_num_batched_tokens", 512}},
                            Json::parse(R"({"request_rate": 4, "num_prompts": 40,
          "shared_prefix": {"groups": 10, "users_per_group": 1, "prefix_len": 300},
          "input_len": {"value": 310}, "output_len": {"value": 4}})"));
    s["engine"].update(engine);
    return s;
  };
  ServeResult roomy, served;
  Recording plain;
  const auto expected = tokens_of(json(Json::object()), roomy, plain);
  for (const char* policy : {"best_effort", "wait_complete", "timeout"}) {
    SCOPED_TRACE(policy);
    const Json two = json({{"num_gpu_blocks_override", 45},
                           {"hicache_storage_prefetch_policy", policy},
                           {"kv_tiers", Json::array({tier("host", 0.0008), tier("storage", kMany)})}});
    Recording recording;
    EXPECT_EQ(expected, tokens_of(two, served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_GT(served.kv_tiers.at(1).written, 0);
    EXPECT_GT(served.kv_tiers.at(1).loaded, 0);
    if (policy != std::string("best_effort")) {
      EXPECT_GT(served.kv_tiers.at(1).hit_tokens, 0);
    }
    expect_the_same_schedule(served, recording, two);
  }
}

TEST(ExecutedKvTiers, AFileThatCanNotGrow) {
  const auto message = [](const std::string& folder) {
    ExecutorOptions options;
    options.temporary_folder = folder;
    Recording recording;
    try {
      execute_scenario(tiered(Json::array({tier("storage", kMany)})), options, recording,
                       [](ExecutedBackend&, const Simulation&) {});
    } catch (const Error& e) {
      return e.where() + ": " + e.message();
    }
    return std::string();
  };
  EXPECT_THAT(message("/nowhere"), testing::StartsWith("/nowhere: can't make a file for KV blocks: "));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit little{20'000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
  const std::string said = message(testing::TempDir());
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(said, testing::StartsWith(testing::TempDir() + ": can't write KV blocks: "));
  EXPECT_THAT(said, testing::HasSubstr("make room or set TMPDIR to another folder"));
}

}  // namespace
}  // namespace foretoken
