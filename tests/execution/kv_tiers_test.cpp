// A KV tier in host memory on the executor: the same tokens as without one, and the schedule that the
// simulator decides when it is told how long steps and copies took.
#include <gmock/gmock.h>

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

TEST(ExecutedKvTiers, RefusesWhatItDoesNotDo) {
  const auto message = [](const char* tiers, const Json& more = Json::object()) {
    Json engine{{"kv_tiers", Json::parse(tiers)}, {"enable_prefix_caching", true}};
    engine.update(more);
    ServeResult served;
    Recording recording;
    try {
      tokens_of(scenario("dense", engine), served, recording);
    } catch (const Error& e) {
      return e.message();
    }
    return std::string();
  };
  EXPECT_THAT(message(R"([{"kind": "storage", "capacity_gib": 1, "bandwidth": "5 GB/s"}])"),
              testing::HasSubstr("a KV tier on storage is not executed yet"));
  EXPECT_THAT(message(R"([{"capacity_gib": 0.01}, {"capacity_gib": 0.01}])"),
              testing::HasSubstr("more than one KV tier is not executed yet"));
  EXPECT_THAT(message(R"([{"capacity_gib": 0.01, "shared": true}])"),
              testing::HasSubstr("a KV tier that engines share is not executed yet"));
  EXPECT_THAT(message(R"([{"capacity_gib": 0.01}])", {{"kv_load_policy", "cost"}}),
              testing::HasSubstr("loading by cost"));
}

}  // namespace
}  // namespace foretoken
