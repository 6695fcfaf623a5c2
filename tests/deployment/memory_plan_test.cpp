// What fits: worked by hand, and laws that hold for every plan.
#include <gtest/gtest.h>

#include <cmath>

#include "models.h"

namespace foretoken {
namespace {

MemoryPlan plan(const ModelConfig& model, const Device& device, int tp, WeightFormat format,
                MemoryLimits limits = {}, int pp = 1) {
  Scenario s = scenario_on(device.name, tp);
  s.engine.pipeline_parallel_size = pp;
  const auto mapping = make_mapping(s, model, format, "");
  Precision precision;
  precision.weights = format;
  return plan_memory(model, std::get<Mapping>(mapping), precision, device.memory, limits);
}

// Llama-3.1-8B: 8,030,261,248 parameters; 32 layers x 2 x 8 heads x 128 x 2 B = 131,072 B of cache a token.
TEST(MemoryPlan, Llama8bOnH100ByHand) {
  MemoryLimits limits;
  limits.max_num_seqs = 1024;
  const MemoryPlan m = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_EQ(m.weights_bytes, 8030261248.0 * 2);
  EXPECT_EQ(m.block_bytes, 131072.0 * 16);
  EXPECT_DOUBLE_EQ(m.budget_bytes, (85520809984.0 - 0.45 * kGiB) * 0.9);
  // Hidden states of 8,192 rows, and 1,024 rows of 128,256 logits at 28 B.
  EXPECT_EQ(m.activation_peak_bytes, 8192.0 * 4096 * 2 + 1024.0 * 128256 * 28);
  EXPECT_DOUBLE_EQ(m.overhead_bytes, 0.3 * kGiB + 131072.0 * 128 * 2);
  EXPECT_DOUBLE_EQ(m.kv_cache_bytes,
                   m.budget_bytes - m.weights_bytes - m.activation_peak_bytes - m.overhead_bytes);
  EXPECT_EQ(m.num_gpu_blocks, static_cast<std::int64_t>(m.kv_cache_bytes / m.block_bytes));
  EXPECT_EQ(m.kv_cache_tokens, (m.num_gpu_blocks - 1) * 16);
  EXPECT_TRUE(m.fits) << m.reason;
  EXPECT_NEAR(static_cast<double>(m.kv_cache_tokens), 430e3, 5e3);
}

TEST(MemoryPlan, Llama70bFp8OverTensorParallel) {
  const MemoryPlan two = plan(llama_70b(), h100(), 2, WeightFormat::kFp8);
  const MemoryPlan four = plan(llama_70b(), h100(), 4, WeightFormat::kFp8);
  EXPECT_TRUE(two.fits) << two.reason;
  // 70.55e9 parameters, 2 x 1.05e9 of them embedding and head in bfloat16.
  EXPECT_NEAR(two.weights_bytes, (68.45e9 + 2.1e9 * 2) / 2, 0.01 * two.weights_bytes);
  EXPECT_NEAR(four.weights_bytes, two.weights_bytes / 2, 0.01 * two.weights_bytes);
  EXPECT_EQ(two.block_bytes, 2 * four.block_bytes);
  EXPECT_GT(four.num_gpu_blocks, 2 * two.num_gpu_blocks);
  const MemoryPlan one = plan(llama_70b(), h100(), 1, WeightFormat::kPlain);
  EXPECT_FALSE(one.fits);
  EXPECT_EQ(one.reason.substr(0, 24), "weights need 131.4 GiB, ");
}

TEST(MemoryPlan, DeepSeekV3FitsEightH200NotEightH100) {
  const MemoryPlan large = plan(deepseek_v3(), h200(), 8, WeightFormat::kFp8Block);
  EXPECT_TRUE(large.fits) << large.reason;
  EXPECT_NEAR(large.weights_bytes / kGiB, 80, 4);
  // The latent is on every rank: 61 layers x 576 x 2 B a token.
  EXPECT_EQ(large.block_bytes, 61.0 * 576 * 2 * 16);
  const MemoryPlan small = plan(deepseek_v3(), h100(), 8, WeightFormat::kFp8Block);
  EXPECT_FALSE(small.fits);
  EXPECT_NE(small.reason.find("usable: raise --tensor-parallel-size"), std::string::npos) << small.reason;
}

TEST(MemoryPlan, OneSequenceOfTheLongestLengthMustHaveRoom) {
  MemoryLimits limits;
  limits.gpu_memory_utilization = 0.26;
  limits.max_num_seqs = 64;
  limits.max_model_len = 131072;
  MemoryPlan m = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_FALSE(m.fits);
  EXPECT_EQ(m.reason.substr(0, 14), "KV cache holds");
  EXPECT_NE(m.reason.find("max_model_len is 131,072: lower --max-model-len or raise --tensor-parallel-size"),
            std::string::npos)
      << m.reason;
  limits.max_model_len = 8192;
  EXPECT_TRUE(plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits).fits);
}

TEST(MemoryPlan, WindowedLayersAreChargedAtTheReferenceLength) {
  MemoryLimits limits;
  limits.reference_tokens = 1024;  // inside the window: as without one
  const MemoryPlan near = plan(gemma_like(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_EQ(near.block_bytes, 131072.0 * 16);
  limits.reference_tokens = 16384;  // half of the layers keep 1,024 of 16,384 tokens
  const MemoryPlan far = plan(gemma_like(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_DOUBLE_EQ(far.block_bytes, 131072.0 * 16 * (0.5 + 0.5 / 16));
  EXPECT_GT(far.num_gpu_blocks, near.num_gpu_blocks);
}

TEST(MemoryPlan, ConstantStateIsChargedToBlocks) {
  MemoryLimits limits;
  limits.reference_tokens = 1600;
  const MemoryPlan m = plan(recurrent_only(), h100(), 1, WeightFormat::kPlain, limits);
  // 32 layers x (32 heads x 128 x 128 x 4 B + 3 x (2 x 16 x 128 + 32 x 128) x 2 B), over 100 blocks.
  EXPECT_DOUBLE_EQ(m.block_bytes * 100, 32.0 * (32 * 128 * 128 * 4 + 3 * 8192 * 2));
  EXPECT_TRUE(m.fits);
}

TEST(MemoryPlan, PipelineTakesTheFullestStage) {
  const MemoryPlan m = plan(llama_70b(), h100(), 1, WeightFormat::kPlain, {}, 4);
  // 20 layers of 0.856e9 parameters and the head of 1.05e9 on the last stage.
  EXPECT_NEAR(m.weights_bytes, 2 * (20 * 0.8556e9 + 1.0507e9), 0.01 * m.weights_bytes);
  EXPECT_EQ(m.block_bytes, 131072.0 * 16 * 80 / 32 / 4);
  EXPECT_TRUE(m.fits) << m.reason;
}

TEST(MemoryPlan, CapturedGraphsAndOverride) {
  MemoryLimits limits;
  const MemoryPlan plain = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
  limits.captured_graphs = 16;
  const MemoryPlan counted = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_NEAR((counted.overhead_bytes - plain.overhead_bytes) / kGiB, 0.36, 0.005);
  limits.num_gpu_blocks_override = 1000;
  const MemoryPlan fixed = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
  EXPECT_EQ(fixed.num_gpu_blocks, 1000);
  EXPECT_FALSE(fixed.fits);  // 15,984 tokens, max_model_len 32,768
  EXPECT_NE(fixed.reason.find("raise --num-gpu-blocks-override"), std::string::npos);
}

// More memory, more ranks or smaller batches never leave less room.
TEST(MemoryPlan, Monotone) {
  MemoryLimits limits;
  double before = -1;
  for (double share = 0.3; share <= 1; share += 0.05) {
    limits.gpu_memory_utilization = share;
    const MemoryPlan m = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
    EXPECT_GE(m.kv_cache_bytes, before);
    before = m.kv_cache_bytes;
  }
  std::int64_t tokens = 0;
  for (const int tp : {1, 2, 4, 8}) {
    const MemoryPlan m = plan(llama_8b(), h100(), tp, WeightFormat::kPlain);
    EXPECT_GT(m.kv_cache_tokens, tokens);
    tokens = m.kv_cache_tokens;
  }
  limits = {};
  before = INFINITY;
  for (std::int64_t batched = 1024; batched <= 1 << 20; batched *= 4) {
    limits.max_num_batched_tokens = batched;
    const MemoryPlan m = plan(llama_8b(), h100(), 1, WeightFormat::kPlain, limits);
    EXPECT_LE(m.kv_cache_bytes, before);
    before = m.kv_cache_bytes;
  }
  EXPECT_GE(before, 0);
}

}  // namespace
}  // namespace foretoken
