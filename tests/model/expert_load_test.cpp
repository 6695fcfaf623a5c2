// Hot experts: popularity, placement over ranks, copies that even it out.
#include "model/expert_load.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "base/random.h"
#include "model/hf_config.h"
#include "model/operator.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

TEST(ExpertLoad, AllAlikeIsTheFormulaOfUniformRouting) {
  for (const std::int64_t ranks : {1, 8, 32}) {
    const ExpertLoad load(256, 8, ranks, {});
    EXPECT_NEAR(load.fullest_rank(), 1, 1e-12);
    for (const double tokens : {0.0, 1.0, 16.0, 300.0, 1e6})
      EXPECT_NEAR(load.distinct(tokens), expected_experts(256, 8, tokens) / static_cast<double>(ranks), 1e-9);
  }
}

TEST(ExpertLoad, ChancesFollowZipfUpToCertainty) {
  const std::vector<double> c = expert_chances(4, 1, 1);
  const double by_hand[] = {0.48, 0.24, 0.16, 0.12};  // 1, 1/2, 1/3, 1/4 over 25/12
  for (std::size_t r = 0; r < 4; ++r) EXPECT_NEAR(c[r], by_hand[r], 1e-12);

  // Two of 1, 1/4, 1/9: the first would be chosen 1.47 times; the others share the one place that it leaves.
  const std::vector<double> steep = expert_chances(3, 2, 2);
  EXPECT_DOUBLE_EQ(steep[0], 1);
  EXPECT_NEAR(steep[1], 9.0 / 13, 1e-12);
  EXPECT_NEAR(steep[2], 4.0 / 13, 1e-12);

  for (const double exponent : {0.0, 0.3, 1.0, 4.0}) {
    for (const std::int64_t top_k : {1, 8, 63, 64}) {
      const std::vector<double> p = expert_chances(64, top_k, exponent);
      EXPECT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), static_cast<double>(top_k), 1e-9);
      for (std::size_t r = 0; r < p.size(); ++r) {
        EXPECT_GE(p[r], 0);
        EXPECT_LE(p[r], 1);
        if (r > 0) {
          EXPECT_LE(p[r], p[r - 1] + 1e-12);
        }
      }
    }
  }
}

TEST(ExpertLoad, CopiesAndPackingByHand) {
  // 0.48 0.24 | 0.16 0.12 as packed: 0.48 and 0.12 on one rank, 0.24 and 0.16 on the other.
  EXPECT_NEAR(ExpertLoad(4, 1, 2, {1, true, 0}).fullest_rank(), 1.2, 1e-12);
  // Both copies are of the first (0.16 each of three): 0.24 0.16 0.12 | 0.16 0.16 0.16.
  EXPECT_NEAR(ExpertLoad(4, 1, 2, {1, true, 2}).fullest_rank(), 1.04, 1e-12);
}

TEST(ExpertLoad, SteeperIsFullerAndBalancingHelps) {
  double before = 1;
  for (const double exponent : {0.2, 0.5, 1.0, 1.5}) {
    const double chance = ExpertLoad(256, 8, 32, {exponent}).fullest_rank();
    const double packed = ExpertLoad(256, 8, 32, {exponent, true}).fullest_rank();
    const double copied = ExpertLoad(256, 8, 32, {exponent, true, 32}).fullest_rank();
    EXPECT_GT(chance, before) << exponent;
    EXPECT_LT(packed, chance) << exponent;
    EXPECT_LE(copied, packed + 1e-12) << exponent;
    before = chance;
  }
  EXPECT_LT(ExpertLoad(256, 8, 32, {1.0, true, 256}).fullest_rank(), 1.01);
}

TEST(ExpertLoad, DistinctExpertsAreThoseThatDrawsHit) {
  const std::vector<double> p = expert_chances(64, 4, 0.8);
  const ExpertLoad load(64, 4, 1, {0.8});
  for (const int tokens : {1, 5, 40}) {
    CounterRandom random(1, 2, static_cast<std::uint64_t>(tokens));
    constexpr int kDraws = 4000;
    double hit = 0;
    for (int i = 0; i < kDraws; ++i) {
      for (const double chance : p) {
        bool any = false;
        for (int t = 0; t < tokens; ++t) any |= random.uniform() < chance;
        hit += any;
      }
    }
    EXPECT_NEAR(load.distinct(tokens), hit / kDraws, 0.25) << tokens;
  }
}

TEST(ExpertLoad, CopiesTakeMemory) {
  const ModelConfig model =
      load_model("deepseek-v3", std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets");
  Shard shard;
  shard.expert_parallel = 32, shard.data_parallel = 32;
  const double eight = weight_bytes(model, shard, {}).value;
  shard.redundant_experts = 32;
  const double nine = weight_bytes(model, shard, {}).value;
  // An expert has three matrices of 7168 x 2048, in 58 layers, in 2 bytes.
  EXPECT_NEAR(nine - eight, 58.0 * 3 * 7168 * 2048 * 2, 1);
}

}  // namespace
}  // namespace foretoken
