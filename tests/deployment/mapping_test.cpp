// Devices to replicas, engines, ranks, stages and shards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "model/hf_config.h"
#include "models.h"

namespace foretoken {
namespace {

using ::testing::HasSubstr;

Scenario sizes(int tp, int pp, int dp, int ep = 1) {
  Scenario s = scenario_on("H100", tp);
  s.engine.pipeline_parallel_size = pp;
  s.engine.data_parallel_size = dp;
  s.engine.expert_parallel_size = ep;
  return s;
}
Mapping map(const Scenario& s, const ModelConfig& model) {
  auto result = make_mapping(s, model, WeightFormat::kPlain, "f:");
  if (auto* verdict = std::get_if<Infeasible>(&result)) throw std::runtime_error(verdict->reason);
  return std::get<Mapping>(result);
}
std::string refusal(const Scenario& s, const ModelConfig& model) {
  auto result = make_mapping(s, model, WeightFormat::kPlain, "f:");
  return std::get<Infeasible>(result).reason;
}

TEST(Mapping, IndependentDataParallelRanksAreEngines) {
  Scenario s = sizes(2, 1, 4);
  s.hardware.count = 16;
  const Mapping m = map(s, llama_8b());
  EXPECT_EQ(m.devices_per_replica(), 8);
  EXPECT_EQ(m.replicas, 2);
  EXPECT_EQ(m.devices(), 16);
  EXPECT_EQ(m.engines(), 8);
  EXPECT_EQ(m.ranks_per_engine(), 1);
  EXPECT_EQ(m.stages.size(), 1u);
  EXPECT_EQ(m.stages[0].data_parallel, 1);
}

TEST(Mapping, SharedExpertsStepTogether) {
  Scenario s = sizes(2, 1, 4, 8);
  s.cluster.replicas = 3;
  const Mapping m = map(s, deepseek_v3());
  EXPECT_EQ(m.devices(), 24);
  EXPECT_EQ(m.engines(), 3);
  EXPECT_EQ(m.ranks_per_engine(), 4);
  EXPECT_EQ(m.stages[0].expert_parallel, 8);
  EXPECT_EQ(m.stages[0].moe_tensor_parallel, 1);
  EXPECT_EQ(m.stages[0].data_parallel, 4);
}

TEST(Mapping, ExpertsSplitInBothWays) {
  const Mapping m = map(sizes(4, 1, 4, 4), deepseek_v3());
  EXPECT_EQ(m.stages[0].expert_parallel, 4);
  EXPECT_EQ(m.stages[0].moe_tensor_parallel,
            4);  // 16 ranks hold the experts, 4 of them each whole set of widths
  const Mapping plain = map(sizes(8, 1, 1), deepseek_v3());
  EXPECT_EQ(plain.stages[0].moe_tensor_parallel, 8);
  EXPECT_EQ(plain.stages[0].expert_parallel, 1);
}

TEST(Mapping, EnableExpertParallelMeansAllRanks) {
  Scenario s = sizes(4, 1, 2);
  s.engine.enable_expert_parallel = true;
  EXPECT_EQ(map(s, deepseek_v3()).expert_parallel, 8);
  s.engine.expert_parallel_size = 8;
  EXPECT_EQ(map(s, deepseek_v3()).expert_parallel, 8);
  s.engine.expert_parallel_size = 4;
  EXPECT_EQ(error_of([&] { map(s, deepseek_v3()); }),
            "f:/engine/expert_parallel_size: 4 contradicts enable_expert_parallel, which means tensor x data "
            "parallel "
            "= 8; leave one of them out");
}

TEST(Mapping, ContradictionsAreErrors) {
  EXPECT_EQ(error_of([] { map(sizes(2, 1, 2, 3), deepseek_v3()); }),
            "f:/engine/expert_parallel_size: 3 does not divide tensor x data parallel = 2 x 2 = 4");
  EXPECT_EQ(error_of([] { map(sizes(2, 1, 1, 2), llama_8b()); }),
            "f:/engine/expert_parallel_size: llama-3.1-8b has no experts; leave expert parallelism out");
  Scenario s = sizes(1, 1, 1);
  s.engine.enable_expert_parallel = true;
  EXPECT_EQ(error_of([&] { map(s, llama_8b()); }),
            "f:/engine/enable_expert_parallel: llama-3.1-8b has no experts; leave expert parallelism out");
  s = sizes(1, 1, 1);
  s.engine.tensor_parallel_size = -4;
  EXPECT_EQ(error_of([&] { map(s, llama_8b()); }),
            "f:/engine/tensor_parallel_size: -4 is too small; at least 1 is accepted");
  s.engine.tensor_parallel_size = INT64_MAX;
  EXPECT_EQ(error_of([&] { map(s, llama_8b()); }),
            "f:/engine/tensor_parallel_size: a replica of more than 1,000,000 devices is not accepted");
}

TEST(Mapping, TooFewDevicesIsAVerdict) {
  Scenario s = sizes(8, 1, 1);
  s.hardware.count = 4;
  EXPECT_EQ(refusal(s, llama_8b()), "a replica takes 8 devices, hardware.count is 4");
  s.hardware.count = 20;
  s.cluster.replicas = 3;
  EXPECT_EQ(refusal(s, llama_8b()), "3 replicas of 8 devices need 24, hardware.count is 20");
  EXPECT_EQ(refusal(sizes(1, 33, 1), llama_8b()), "33 pipeline stages, llama-3.1-8b has 32 layers");
  EXPECT_NE(refusal(sizes(3, 1, 1), llama_8b()), "");  // 32 heads over 3
}

TEST(Mapping, StagesSplitLikeVllm) {
  EXPECT_EQ(split_layers(32, 4), (std::vector<int>{8, 8, 8, 8}));
  EXPECT_EQ(split_layers(61, 4), (std::vector<int>{15, 15, 16, 15}));
  EXPECT_EQ(split_layers(62, 4), (std::vector<int>{15, 16, 16, 15}));
  EXPECT_EQ(split_layers(63, 4), (std::vector<int>{16, 16, 16, 15}));
  EXPECT_EQ(split_layers(5, 2), (std::vector<int>{3, 2}));
  const Mapping m = map(sizes(1, 4, 1), deepseek_v3());
  ASSERT_EQ(m.stages.size(), 4u);
  int next = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(m.stages[i].first_layer, next);
    next = m.stages[i].last_layer;
    EXPECT_EQ(m.stages[i].has_embedding, i == 0);
    EXPECT_EQ(m.stages[i].has_head, i == 3);
    EXPECT_EQ(m.stages[i].stage, static_cast<int>(i));
  }
  EXPECT_EQ(next, 61);
}

// Whatever the split, stages cover the layers and differ by one at most.
TEST(Mapping, StagesCoverAllLayers) {
  for (int layers = 1; layers <= 130; ++layers)
    for (int stages = 1; stages <= layers; ++stages) {
      int sum = 0, least = layers, most = 0;
      for (const int n : split_layers(layers, stages)) {
        sum += n;
        least = std::min(least, n);
        most = std::max(most, n);
      }
      ASSERT_EQ(sum, layers);
      ASSERT_LE(most - least, 1);
    }
}

TEST(Mapping, SequenceParallelismNeedsTensorParallelism) {
  Scenario s = scenario_on("H100", 2);
  s.engine.enable_sequence_parallelism = true;
  const auto m = make_mapping(s, llama_8b(), WeightFormat::kPlain, "s.json:");
  EXPECT_TRUE(std::get<Mapping>(m).stages.front().sequence_parallel);
  s.engine.tensor_parallel_size = 1;
  EXPECT_NE(error_of([&] {
              make_mapping(s, llama_8b(), WeightFormat::kPlain, "s.json:");
            }).find("s.json:/engine/enable_sequence_parallelism: splits tokens over tensor-parallel ranks"),
            std::string::npos);
}

TEST(Mapping, HotExpertsNeedExpertsAndRanksToBalance) {
  const ModelConfig model =
      load_model("deepseek-v2-lite", std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets");
  Scenario s = scenario_on("H100", 4);
  const auto error = [&](const ModelConfig& m) {
    return error_of([&] { make_mapping(s, m, WeightFormat::kPlain, "s.json:"); });
  };
  s.workload.expert_skew = 1;
  EXPECT_THAT(error(llama_8b()), HasSubstr("s.json:/workload/expert_skew: "));
  s.engine.num_redundant_experts = 4;
  EXPECT_THAT(error(model), HasSubstr("s.json:/engine/num_redundant_experts: belongs to enable_eplb"));
  s.engine.enable_eplb = true;
  EXPECT_THAT(error(model), HasSubstr("s.json:/engine/enable_eplb: evens out expert-parallel ranks"));
  s.engine.enable_expert_parallel = true;
  s.engine.num_redundant_experts = 3;
  EXPECT_THAT(error(model),
              HasSubstr("64 experts and 3 copies don't divide by 4 expert-parallel ranks; 4 copies do"));
  s.engine.num_redundant_experts = 4;
  const Mapping m = std::get<Mapping>(make_mapping(s, model, WeightFormat::kPlain, "s.json:"));
  EXPECT_EQ(m.stages.front().redundant_experts, 4);
  EXPECT_GT(m.stages.front().expert_load->fullest_rank(), 1);
}

}  // namespace
}  // namespace foretoken
