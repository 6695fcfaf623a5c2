// KV tiers of a scenario: what is resolved, what copies are priced at, when loading is worth it, what is
// refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "fixtures.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

// Conversations on one device whose memory is mostly full of others between two turns.
Json scenario(const Json& tiers, const Json& more = Json::object()) {
  Json s = Json::parse(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "engine": {"behavior": "vllm-0.19", "num_gpu_blocks_override": 2000, "max_model_len": 16384},
    "workload": {"request_rate": 2, "num_prompts": 200, "seed": 1,
      "shared_prefix": {"groups": 4, "users_per_group": 10, "prefix_len": 2000, "multi_turn": true, "turns": 4},
      "input_len": {"value": 2500}, "output_len": {"value": 50}}})");
  s["engine"]["kv_tiers"] = tiers;
  s["engine"].update(more);
  return s;
}
Json host(double gib, const char* bandwidth = nullptr) {
  Json tier{{"kind", "host"}, {"capacity_gib", gib}};
  if (bandwidth != nullptr) tier["bandwidth"] = bandwidth;
  return tier;
}

Simulation simulated(const Json& json) {
  const Scenario s = test_scenario(json.dump());
  const Priced p(resolve_or_fail(s), true);
  SimulateOptions o;
  o.intervals = false;
  return simulate(p.deployment, p.cost, test_resources(), o);
}

std::string refusal(const Json& json) {
  try {
    resolve_or_fail(json.dump());
  } catch (const Error& e) {
    return e.what();
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}

// 32 layers x 2 x 8 heads x 128 x 2 bytes: 128 KiB a token, 2 MiB a block of 16.
TEST(KvTiers, CapacityAndTimeOfACopy) {
  const Deployment d =
      resolve_or_fail(scenario(Json::array({host(10, "50 GB/s"), Json{{"kind", "storage"},
                                                                      {"capacity_gib", 100},
                                                                      {"bandwidth", "5 GB/s"},
                                                                      {"latency_us", 100},
                                                                      {"shared", true}}}))
                          .dump());
  ASSERT_EQ(d.kv_tiers.size(), 2u);
  EXPECT_EQ(d.scheduler.kv_tiers.tiers[0].blocks, 5120);
  EXPECT_EQ(d.scheduler.kv_tiers.tiers[1].blocks, 51200);
  EXPECT_TRUE(d.scheduler.kv_tiers.tiers[1].shared);
  EXPECT_EQ(d.scheduler.kv_tiers.tiers[1].write, KvTierConfig::Write::kBack);
  EXPECT_NEAR(copy_time(d.kv_tiers[0], 100).value, 100 * 2097152 / 50e9, 1e-12);
  EXPECT_NEAR(copy_time(d.kv_tiers[1], 100).value, 1e-4 + 100 * 2097152 / 5e9, 1e-12);
  EXPECT_NEAR(d.memory.host_bytes, 10 * kGiB, 1) << "storage is not host memory";
}

TEST(KvTiers, HitsOfATierShortenTheWay) {
  const Simulation none = simulated(scenario(Json::array())),
                   tier = simulated(scenario(Json::array({host(40)})));
  EXPECT_TRUE(none.served.kv_tiers.empty());
  ASSERT_EQ(tier.served.kv_tiers.size(), 1u);
  EXPECT_GT(tier.served.kv_tiers[0].hit_tokens, tier.served.queried_tokens / 10);
  EXPECT_GT(tier.served.metrics.prefix_cache_hit_rate, none.served.metrics.prefix_cache_hit_rate + 0.1);
  EXPECT_LT(tier.served.metrics.ttft.mean, none.served.metrics.ttft.mean);
  EXPECT_GT(tier.served.metrics.ttft_parts.load, 0);
}

// The cheaper of the two by far is taken; a slow link that is always used costs more than having none.
TEST(KvTiers, CostDecidesBetweenLoadingAndComputing) {
  const Json cost{{"kv_load_policy", "cost"}};
  const Simulation none = simulated(scenario(Json::array()));
  const Simulation fast = simulated(scenario(Json::array({host(40, "50 GB/s")}), cost));
  const Simulation slow = simulated(scenario(Json::array({host(40, "0.5 GB/s")}), cost));
  const Simulation forced = simulated(scenario(Json::array({host(40, "0.5 GB/s")})));
  EXPECT_GT(fast.served.kv_tiers[0].loaded, 0);
  EXPECT_EQ(slow.served.kv_tiers[0].loaded, 0);
  EXPECT_GT(forced.served.kv_tiers[0].loaded, 0);
  EXPECT_GT(forced.served.metrics.ttft.mean, none.served.metrics.ttft.mean);
  // Whoever might load waits for room for its whole prompt before the price is asked.
  EXPECT_NEAR(slow.served.metrics.ttft.mean, none.served.metrics.ttft.mean,
              0.005 * none.served.metrics.ttft.mean);
}

TEST(KvTiers, LayerwiseHidesALoadBehindTheStep) {
  const Simulation waits = simulated(scenario(Json::array({host(40, "10 GB/s")})));
  const Simulation hides =
      simulated(scenario(Json::array({host(40, "10 GB/s")}), {{"kv_load_mode", "layerwise"}}));
  EXPECT_GT(hides.served.kv_tiers[0].loaded, 0);
  EXPECT_EQ(hides.served.metrics.ttft_parts.load, 0);
  EXPECT_GT(hides.served.kv_stall, 0);
  EXPECT_LT(to_ms(hides.served.kv_stall), to_ms(waits.served.kv_load_wait));
}

// Storage below a host memory that is too small for the conversations.
TEST(KvTiers, HiCacheStorage) {
  using testing::HasSubstr;
  const Json disk{{"kind", "storage"}, {"capacity_gib", 200}, {"bandwidth", "20 GB/s"}};
  const auto sglang = [](const Json& tiers, const Json& more = Json::object()) {
    Json s = scenario(tiers, {{"behavior", "sglang-0.5"}, {"page_size", 16}});
    s["engine"].update(more);
    return s;
  };
  const Json waits{{"hicache_storage_prefetch_policy", "wait_complete"}};
  const Simulation one = simulated(sglang(Json::array({host(8)})));
  const Simulation two = simulated(sglang(Json::array({host(8), disk}), waits));
  ASSERT_EQ(two.served.kv_tiers.size(), 2u);
  EXPECT_GT(two.served.kv_tiers[1].written, 0);
  EXPECT_GT(two.served.kv_tiers[1].hit_tokens, 0);
  EXPECT_GT(two.served.kv_tiers[0].hit_tokens + two.served.kv_tiers[1].hit_tokens,
            one.served.kv_tiers[0].hit_tokens);

  EXPECT_THAT(refusal(sglang(Json::array({host(8)}), waits)), HasSubstr("belongs to storage"));
  EXPECT_THAT(refusal(sglang(Json::array({disk}))), HasSubstr("one of kind storage"));
  Json other = disk;
  other["write_policy"] = "write_back";
  EXPECT_THAT(refusal(sglang(Json::array({host(8), other}))), HasSubstr("must be write_through"));
  other = disk;
  other["shared"] = true;
  EXPECT_THAT(refusal(sglang(Json::array({host(8), other}))), HasSubstr("each rank has its own"));
}

// SGLang's keys give the same tier; without any the conversations wait for their prompts.
TEST(KvTiers, HiCache) {
  using testing::HasSubstr;
  const auto sglang = [](const Json& more) {
    Json s = scenario(Json::array(), {{"behavior", "sglang-0.5"}, {"page_size", 16}});
    s["engine"].update(more);
    return s;
  };
  const Deployment d =
      resolve_or_fail(sglang({{"enable_hierarchical_cache", true}, {"hicache_ratio", 3}}).dump());
  EXPECT_EQ(d.scheduler.kv_tiers.tiers.at(0).blocks, 3 * 1999);
  EXPECT_EQ(d.scheduler.kv_tiers.layers, 32);
  EXPECT_EQ(d.scheduler.kv_tiers.tiers[0].write, KvTierConfig::Write::kThrough);
  EXPECT_NEAR(d.memory.host_bytes, 3 * 1999 * 2097152.0, 1e6);
  const Deployment sized = resolve_or_fail(
      sglang(
          {{"enable_hierarchical_cache", true}, {"hicache_size", 20}, {"hicache_write_policy", "write_back"}})
          .dump());
  EXPECT_EQ(sized.scheduler.kv_tiers.tiers.at(0).blocks, static_cast<std::int64_t>(20e9 / 2097152));
  EXPECT_EQ(sized.scheduler.kv_tiers.tiers[0].write, KvTierConfig::Write::kBack);
  const Simulation none = simulated(sglang(Json::object()));
  const Simulation tier = simulated(sglang({{"enable_hierarchical_cache", true}, {"hicache_size", 40}}));
  EXPECT_GT(tier.served.kv_tiers.at(0).hit_tokens, tier.served.queried_tokens / 10);
  EXPECT_LT(tier.served.metrics.ttft.mean, none.served.metrics.ttft.mean);

  EXPECT_THAT(refusal(sglang({{"hicache_size", 20}})), HasSubstr("hicache_size: belongs to HiCache"));
  EXPECT_THAT(refusal(sglang({{"hicache_storage_backend", "file"}})), HasSubstr("is not modelled"));
  EXPECT_THAT(refusal(sglang({{"enable_hierarchical_cache", true}, {"hicache_io_backend", "direct"}})),
              HasSubstr("use kernel"));
  EXPECT_THAT(refusal(sglang({{"enable_hierarchical_cache", true}, {"kv_tiers", Json::array({host(9)})}})),
              HasSubstr("give one"));
  EXPECT_THAT(refusal(sglang({{"enable_hierarchical_cache", true}, {"behavior", "sglang-0.4"}})),
              HasSubstr("since 0.5"));
  EXPECT_THAT(refusal(scenario(Json::array(), {{"enable_hierarchical_cache", true}})),
              HasSubstr("a knob of SGLang"));
}

TEST(KvTiers, RefusesWhatIsNotModelled) {
  using testing::HasSubstr;
  const Json tiers = Json::array({host(10)});
  EXPECT_EQ(refusal(scenario(tiers)), "");
  EXPECT_THAT(refusal(scenario(tiers, {{"behavior", "trtllm-1.0"}})),
              HasSubstr("kv_tiers: are modelled for vLLM V1's scheduler and SGLang's, and the behaviour is"));
  EXPECT_THAT(refusal(scenario(tiers, {{"enable_prefix_caching", false}})),
              HasSubstr("enable_prefix_caching"));
  EXPECT_THAT(refusal(scenario(tiers, {{"preemption_mode", "swap"}})),
              HasSubstr("another use of host memory"));
  EXPECT_THAT(refusal(scenario(tiers, {{"pipeline_parallel_size", 2}})), HasSubstr("in a pipeline"));
  EXPECT_THAT(refusal(scenario(Json::array({Json{{"kind", "host"}}}))),
              HasSubstr("kv_tiers/0/capacity_gib: is missing"));
  EXPECT_THAT(refusal(scenario(Json::array({Json{{"kind", "storage"}, {"capacity_gib", 5}}}))),
              HasSubstr("kv_tiers/0/bandwidth: is not known"));
  EXPECT_THAT(refusal(scenario(Json::array(), {{"kv_load_policy", "cost"}})), HasSubstr("there are none"));
  EXPECT_THAT(refusal(scenario(Json::array({Json{{"kind", "tape"}, {"capacity_gib", 5}}}))),
              HasSubstr("tape"));
  Json apart = scenario(tiers);
  apart["cluster"] = Json{{"prefill", Json::object()}, {"decode", Json::object()}};
  EXPECT_THAT(refusal(apart), HasSubstr("engines that do prefill or decode alone"));
  Json small = scenario(Json::array({host(600)}));
  small["hardware"]["host_memory"] = "512 GiB";
  EXPECT_THAT(refusal(small), HasSubstr("host memory"));
}

}  // namespace
}  // namespace foretoken
