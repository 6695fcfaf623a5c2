// Worked values of the formulas: caches, states, FLOPs, activations, exchange of experts.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "model/activations.h"
#include "model/hf_config.h"
#include "model/kv_cache.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

const std::filesystem::path kPresets = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";

ModelConfig preset(const std::string& name) { return load_model(name, kPresets); }

double named_flops(const OpList& list, std::string_view name) {
  double sum = 0;
  for (const Op& op : list.ops)
    if (op.name == name) sum += flops(op).value * static_cast<double>(op.count);
  return sum;
}

Work prefill(std::int64_t tokens, std::int64_t cached = 0) {
  Work w;
  w.prefill = {{tokens, cached, 1}};
  w.sampled_rows = 1;
  return w;
}

TEST(KvCache, At131072Tokens) {
  const auto gib = [](const char* name) {
    return kv_bytes(preset(name), Shard{}, DType::kBf16, 131072, 16) / kGiB;
  };
  EXPECT_DOUBLE_EQ(gib("llama-3.1-8b"), 16);
  EXPECT_DOUBLE_EQ(gib("llama-3.1-70b"), 40);
  EXPECT_DOUBLE_EQ(gib("llama-3.1-405b"), 63);
  EXPECT_DOUBLE_EQ(gib("qwen2.5-72b"), 40);
  EXPECT_DOUBLE_EQ(gib("qwen3-235b-a22b"), 23.5);
  EXPECT_NEAR(gib("deepseek-v3"), 8.5781, 5e-5);
}

// Five layers of six keep a window of 1,024 tokens.
TEST(KvCache, Gemma3Windows) {
  const ModelConfig gemma = preset("gemma-3-27b");
  const auto at = [&](std::int64_t tokens) { return kv_bytes(gemma, Shard{}, DType::kBf16, tokens, 1); };
  EXPECT_DOUBLE_EQ(at(1024), 520'093'696);
  EXPECT_DOUBLE_EQ(at(8192), 1'107'296'256);
  EXPECT_DOUBLE_EQ(at(32768), 3'120'562'176);
  EXPECT_DOUBLE_EQ(at(131072), 11'173'625'856);
  EXPECT_DOUBLE_EQ(kv_bytes_per_token(gemma, DType::kBf16) * 131072, 66'571'993'088);
}

TEST(KvCache, IsTheSumOfItsComponents) {
  const auto parts_of = [](const char* name, std::int64_t tokens) {
    const ModelConfig model = preset(name);
    const auto parts = kv_components(model, {}, DType::kBf16, tokens);
    double sum = 0;
    for (const KvComponent& p : parts) sum += p.bytes;
    EXPECT_DOUBLE_EQ(sum, kv_bytes(model, {}, DType::kBf16, tokens, 1)) << name;
    return parts;
  };
  // 36 layers of 8 heads of 64, every other one with a window.
  const auto gpt_oss = parts_of("gpt-oss-120b", 1000);
  ASSERT_EQ(gpt_oss.size(), 2u);
  EXPECT_EQ(gpt_oss[0].name, "attention, window of 128");
  EXPECT_EQ(gpt_oss[0].bytes, 18.0 * 128 * 2048);
  EXPECT_EQ(gpt_oss[1].name, "attention");
  EXPECT_EQ(gpt_oss[1].bytes, 18.0 * 1000 * 2048);
  const auto sparse = parts_of("deepseek-v3.2", 5000);
  ASSERT_EQ(sparse.size(), 2u);
  EXPECT_EQ(sparse[0].name, "latents");
  EXPECT_EQ(sparse[1].name, "index keys");
  EXPECT_EQ(sparse[1].layers, 61);
  EXPECT_EQ(parts_of("llama-3.1-8b", 1000).size(), 1u);
}

TEST(KvCache, RoundsUpToBlocks) {
  const ModelConfig llama = preset("llama-3.1-8b");
  const double token = kv_bytes_per_token(llama, DType::kBf16);
  EXPECT_DOUBLE_EQ(kv_bytes(llama, Shard{}, DType::kBf16, 1, 16), 16 * token);
  EXPECT_DOUBLE_EQ(kv_bytes(llama, Shard{}, DType::kBf16, 16, 16), 16 * token);
  EXPECT_DOUBLE_EQ(kv_bytes(llama, Shard{}, DType::kBf16, 17, 16), 32 * token);
  EXPECT_DOUBLE_EQ(kv_bytes(llama, Shard{}, DType::kFp8, 17, 1), 17 * token / 2);
  EXPECT_DOUBLE_EQ(kv_bytes(llama, Shard{}, DType::kBf16, 0, 16), 0);
}

TEST(KvCache, IndexCacheOfSparseAttention) {
  EXPECT_DOUBLE_EQ(index_cache_bytes_per_token(preset("deepseek-v3.2")), 8052);
  EXPECT_DOUBLE_EQ(index_cache_bytes_per_token(preset("glm-5")), 10296);
  EXPECT_DOUBLE_EQ(index_cache_bytes_per_token(preset("glm-5.2")), 2772);  // 21 of 78 layers
  EXPECT_DOUBLE_EQ(kv_bytes_per_token(preset("deepseek-v3.2"), Shard{}, DType::kBf16), 70272 + 8052);
}

TEST(RecurrentState, PerSequence) {
  const auto state = [](const char* name) { return recurrent_state_bytes(preset(name), Shard{}); };
  EXPECT_DOUBLE_EQ(state("qwen3-next-80b-a3b"), 77'266'944);
  EXPECT_DOUBLE_EQ(state("qwen3.5-397b-a17b"), 192'061'440);
  EXPECT_DOUBLE_EQ(state("qwen3.5-35b-a3b"), 64'389'120);
  EXPECT_DOUBLE_EQ(state("nemotron-3-nano-30b-a3b"), 49'082'368);
  EXPECT_DOUBLE_EQ(state("nemotron-h-56b"), 912'605'184);
  EXPECT_DOUBLE_EQ(state("llama-3.1-8b"), 0);
}

TEST(Flops, Llama31PrefillAndDecode) {
  const ModelConfig llama = preset("llama-3.1-8b");
  const auto linear = [](const OpList& list) {
    double sum = 0;
    for (const char* name : {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"})
      sum += named_flops(list, name);
    return sum;
  };
  const OpList list = operators(llama, Shard{}, prefill(2048), Precision{});
  EXPECT_DOUBLE_EQ(linear(list), 28'587'302'322'176.0);
  EXPECT_DOUBLE_EQ(named_flops(list, "attention"), 1'100'048'498'688.0);
  EXPECT_DOUBLE_EQ(named_flops(list, "lm_head"), 1'050'673'152.0);
  EXPECT_DOUBLE_EQ(named_flops(operators(llama, Shard{}, prefill(8192), Precision{}), "attention"),
                   17'594'333'528'064.0);
  Work step;
  step.decode_sequences = 1;
  step.contexts = {8193};  // 8,192 cached tokens and the new one
  step.sampled_rows = 1;
  const OpList decode = operators(llama, Shard{}, step, Precision{});
  EXPECT_DOUBLE_EQ(linear(decode), 13'958'643'712.0);
  EXPECT_DOUBLE_EQ(named_flops(decode, "attention"), 4'295'491'584.0);
  const OpList big = operators(preset("llama-3.1-70b"), Shard{}, prefill(2048), Precision{});
  EXPECT_DOUBLE_EQ(linear(big), 280'375'465'082'880.0);
  EXPECT_DOUBLE_EQ(named_flops(big, "attention"), 5'500'242'493'440.0);
}

// formulas.md 2.2: up-projected prefill, absorbed decode.
TEST(Flops, LatentAttentionOfDeepSeekV3) {
  const ModelConfig model = preset("deepseek-v3");
  const OpList list = operators(model, Shard{}, prefill(1000), Precision{});
  EXPECT_DOUBLE_EQ(named_flops(list, "attention"), 81'920.0 * causal_pairs(1000, 0, 0) * 61);
  EXPECT_DOUBLE_EQ(named_flops(list, "kv_b_proj"), 33'554'432.0 * 1000 * 61);
  EXPECT_EQ(named_flops(list, "absorb_k"), 0);
  // Tokens that are cached are projected up as well.
  EXPECT_DOUBLE_EQ(named_flops(operators(model, Shard{}, prefill(1000, 500), Precision{}), "kv_b_proj"),
                   33'554'432.0 * 1500 * 61);
  Work step;
  step.decode_sequences = 4;
  step.contexts = {4 * 5000.0};
  const OpList decode = operators(model, Shard{}, step, Precision{});
  EXPECT_DOUBLE_EQ(named_flops(decode, "attention"), 278'528.0 * 20000 * 61);
  EXPECT_DOUBLE_EQ(named_flops(decode, "absorb_k") + named_flops(decode, "absorb_v"), 33'554'432.0 * 4 * 61);
  EXPECT_EQ(named_flops(decode, "kv_b_proj"), 0);
  for (const Op& op : decode.ops) {
    const auto* a = std::get_if<AttentionShape>(&op.shape);
    if (a == nullptr) continue;
    EXPECT_DOUBLE_EQ(a->kv_bytes_per_token, 1152);
    EXPECT_NEAR(flops(op).value / (a->kv_tokens * a->kv_bytes_per_token), 241.78, 0.005);
  }
}

TEST(Flops, SparseAttentionSelectsTopK) {
  const ModelConfig model = preset("deepseek-v3.2");
  const auto step = [&](double context) {
    Work w;
    w.decode_sequences = 1;
    w.contexts = {context};
    return operators(model, Shard{}, w, Precision{});
  };
  EXPECT_DOUBLE_EQ(named_flops(step(1000), "attention"), 278'528.0 * 1000 * 61);
  EXPECT_DOUBLE_EQ(named_flops(step(1000), "indexer"), 0);  // everything is selected
  EXPECT_DOUBLE_EQ(named_flops(step(100000), "attention"), 278'528.0 * 2048 * 61);
  EXPECT_DOUBLE_EQ(named_flops(step(100000), "indexer"), 2.0 * 64 * 128 * 100000 * 61);
  // 21 of the 78 layers of GLM-5.2 score, all of them select.
  Work w;
  w.decode_sequences = 1;
  w.contexts = {100000};
  const OpList glm = operators(preset("glm-5.2"), Shard{}, w, Precision{});
  EXPECT_DOUBLE_EQ(named_flops(glm, "indexer"), 2.0 * 32 * 128 * 100000 * 21);
  EXPECT_DOUBLE_EQ(named_flops(glm, "attention"), 2.0 * 64 * (576 + 512) * 2048 * 78);
}

// Context sums belong to windows: group 0 is full attention, missing sums follow from it.
TEST(Attention, GroupsOfWindows) {
  const ModelConfig gemma = preset("gemma-3-27b");
  EXPECT_EQ(gemma.attention_windows(), (std::vector<std::int64_t>{0, 1024}));
  Work w;
  w.decode_sequences = 2;
  const auto tokens = [&](std::vector<double> contexts) {
    w.contexts = std::move(contexts);
    std::map<int, double> by_group;
    for (const Op& op : operators(gemma, Shard{}, w, Precision{}).ops)
      if (const auto* a = std::get_if<AttentionShape>(&op.shape)) by_group[op.attention_group] = a->kv_tokens;
    return by_group;
  };
  EXPECT_EQ(tokens({10000, 1500}), (std::map<int, double>{{0, 10000}, {1, 1500}}));
  EXPECT_EQ(tokens({10000}), (std::map<int, double>{{0, 10000}, {1, 2048}}));
  EXPECT_EQ(tokens({600}), (std::map<int, double>{{0, 600}, {1, 600}}));
}

// DeepSeek-V4: a window of 128 and compressed tokens, of which ratio 4 chooses 512.
TEST(Attention, CompressedContexts) {
  const ModelConfig v4 = preset("deepseek-v4-flash");
  Work w;
  w.decode_sequences = 1;
  w.contexts = {10240};
  std::map<std::int64_t, double> by_ratio;
  for (const Op& op : operators(v4, Shard{}, w, Precision{}).ops)
    if (const auto* a = std::get_if<AttentionShape>(&op.shape)) {
      by_ratio[a->compress_ratio] = a->kv_tokens;
      EXPECT_DOUBLE_EQ(a->kv_bytes_per_token, 1024);  // one head of 512, key and value in one
    }
  EXPECT_EQ(by_ratio, (std::map<std::int64_t, double>{{0, 128}, {4, 128 + 512}, {128, 128 + 80}}));
  // 43 windows, 21 layers with 1/4 of the tokens and an index key for each, 20 with 1/128.
  EXPECT_DOUBLE_EQ(kv_bytes(v4, Shard{}, DType::kBf16, 10240, 1),
                   1024.0 * (43 * 128 + 21 * 2560 + 20 * 80) + 21 * 2560 * 132.0);
}

// Llama 4: three layers of four see their own chunk of 8,192 tokens.
TEST(Attention, Chunks) {
  const ModelConfig scout = preset("llama-4-scout");
  const OpList list = operators(scout, Shard{}, prefill(20000), Precision{});
  const double pair = 2.0 * 40 * 256;
  EXPECT_DOUBLE_EQ(named_flops(list, "attention"),
                   pair * (12 * causal_pairs(20000, 0, 0) + 36 * chunked_pairs(20000, 0, 8192)));
}

TEST(Bytes, WindowedPrefillReadsItsWindow) {
  AttentionShape a;
  a.sequences = 2;
  a.new_tokens = 100;
  a.cached = 5000;
  a.heads = 32;
  a.kv_heads = 8;
  a.qk_dim = a.v_dim = 128;
  a.kv_bytes_per_token = 4096;
  Op op;
  op.shape = a;
  const double in_out = 200.0 * 32 * 256 * 2;
  EXPECT_DOUBLE_EQ(bytes(op).value, in_out + 2 * 5100 * 4096.0);
  a.window = 1024;
  op.shape = a;
  EXPECT_DOUBLE_EQ(bytes(op).value, in_out + 2 * (1023 + 100) * 4096.0);
}

TEST(Experts, ExpectedDistinct) {
  EXPECT_NEAR(expected_experts(256, 8, 1), 8, 1e-9);
  EXPECT_NEAR(expected_experts(256, 8, 8), 57.4208, 5e-5);
  EXPECT_NEAR(expected_experts(256, 8, 32), 163.3138, 5e-5);
  EXPECT_NEAR(expected_experts(256, 8, 128), 251.6011, 5e-5);
  EXPECT_NEAR(expected_experts(8, 2, 4), 5.4688, 5e-5);
  EXPECT_NEAR(expected_experts(512, 10, 64), 367.1127, 5e-5);
  EXPECT_EQ(expected_experts(8, 8, 1), 8);
  EXPECT_EQ(expected_experts(8, 2, 0), 0);
}

// 8 experts a token: fp8 values and scales out, bf16 values back.
TEST(Experts, DispatchAndCombineOfDeepSeekV3) {
  Shard shard;
  shard.expert_parallel = 32;
  shard.data_parallel = 32;
  Work w;
  w.decode_sequences = 1;
  w.contexts = {1000};
  Precision precision;
  precision.weights = WeightFormat::kFp8Block;
  double message = 0;
  std::int64_t count = 0;
  for (const Op& op : operators(preset("deepseek-v3"), shard, w, precision).ops)
    if (op.name == "moe_dispatch" || op.name == "moe_combine") {
      const auto& c = std::get<CollectiveShape>(op.shape);
      EXPECT_EQ(c.kind, Collective::kAllToAll);
      EXPECT_EQ(c.ranks, 32);
      message += c.message_bytes;
      count += op.count;
    }
  EXPECT_DOUBLE_EQ(message, 173'824);
  EXPECT_EQ(count, 2 * 58);
}

// Tensor and expert parallelism without data parallelism: one reduction, no exchange.
TEST(Experts, WithoutDataParallelismOnlyReduce) {
  Shard shard;
  shard.tensor_parallel = 8;
  shard.expert_parallel = 8;
  for (const Op& op : operators(preset("deepseek-v3"), shard, prefill(64), Precision{}).ops) {
    EXPECT_NE(op.name, "moe_dispatch");
    if (const auto* m = std::get_if<MoeShape>(&op.shape)) {
      EXPECT_EQ(m->local_experts, 32);
      EXPECT_DOUBLE_EQ(m->local_rows, 64);
      EXPECT_NEAR(m->distinct_experts, expected_experts(256, 8, 64) / 8, 1e-12);
    }
  }
}

// Data-parallel attention with experts split by width only: all tokens are gathered and the results scattered
// back.
TEST(Experts, DataParallelismWithoutExpertParallelism) {
  Shard shard;
  shard.data_parallel = 4;
  shard.moe_tensor_parallel = 4;
  const ModelConfig model = preset("qwen3-30b-a3b");
  Work w;
  w.decode_sequences = 8;
  w.contexts = {8000};
  w.expert_imbalance = 1.7;
  int exchanges = 0;
  for (const Op& op : operators(model, shard, w, Precision{}).ops) {
    if (op.name == "moe_dispatch" || op.name == "moe_combine") {
      ++exchanges;
      EXPECT_EQ(op.scope, OpScope::kGroupTokens);
      const auto& c = std::get<CollectiveShape>(op.shape);
      EXPECT_EQ(c.kind, op.name == "moe_dispatch" ? Collective::kAllGather : Collective::kReduceScatter);
      EXPECT_DOUBLE_EQ(c.message_bytes, 32 * 2048 * 2.0);
    }
    if (const auto* m = std::get_if<MoeShape>(&op.shape)) {
      EXPECT_EQ(m->tokens, 32);
      EXPECT_EQ(m->inter, 768 / 4);
      EXPECT_EQ(m->local_experts, 128);
      EXPECT_DOUBLE_EQ(m->local_rows, 32 * 8);
      EXPECT_NEAR(m->distinct_experts, expected_experts(128, 8, 32), 1e-12);
      EXPECT_DOUBLE_EQ(m->imbalance, 1.7);
    }
  }
  EXPECT_EQ(exchanges, 2);
}

// Published by Korthikanti et al. 2022, GiB; 22B and 1T without interleaving.
TEST(Activations, MegatronTables) {
  struct Row {
    TrainingActivations t;
    double tensor_parallel_only, with_sequence_parallel_selective;
  };
  const Row rows[] = {
      {{.hidden = 6144, .heads = 64, .layers = 48, .batch = 4, .sequence = 2048}, 59.25, 9.5625},
      {{.hidden = 12288,
        .heads = 96,
        .layers = 96,
        .batch = 1,
        .sequence = 2048,
        .pipeline_parallel = 8,
        .interleave = 3},
       66.84375,
       12.3515625},
      {{.hidden = 20480,
        .heads = 128,
        .layers = 105,
        .batch = 1,
        .sequence = 2048,
        .pipeline_parallel = 35,
        .interleave = 3},
       114.0234375,
       23.076171875},
      {{.hidden = 25600, .heads = 160, .layers = 128, .batch = 1, .sequence = 2048, .pipeline_parallel = 64},
       131.25,
       26.5625},
  };
  for (Row row : rows) {
    row.t.tensor_parallel = 8;
    EXPECT_NEAR(training_activation_bytes(row.t) / kGiB, row.tensor_parallel_only, 1e-6);
    row.t.sequence_parallel = true;
    row.t.recompute = Recompute::kSelective;
    EXPECT_NEAR(training_activation_bytes(row.t) / kGiB, row.with_sequence_parallel_selective, 1e-6);
  }
}

TEST(Activations, Gpt3) {
  TrainingActivations t{.hidden = 12288, .heads = 96, .layers = 96, .batch = 1, .sequence = 2048};
  EXPECT_DOUBLE_EQ(training_activation_bytes(t), 275'414'777'856.0);
  t.batch = 64;
  EXPECT_DOUBLE_EQ(training_activation_bytes(t), 17'626'545'782'784.0);
  t.recompute = Recompute::kFull;
  EXPECT_DOUBLE_EQ(training_activation_bytes(t), 2.0 * 64 * 2048 * 12288 * 96);
  // 4 b l h (s + n), s = 512 and n = 32.
  EXPECT_DOUBLE_EQ(64 * kv_bytes(preset("gpt3-175b"), Shard{}, DType::kF16, 544, 1), 164'282'499'072.0);
}

TEST(Activations, InferencePeak) {
  const ModelConfig llama = preset("llama-3.1-8b");
  const double h = 4096, inter = 14336;
  // Residual, the normed input, gate-up and its activated half.
  EXPECT_DOUBLE_EQ(inference_peak_bytes(llama, Shard{}, Precision{}, 8192, 1).value,
                   8192 * (2 * h + 3 * inter) * 2);
  Shard half;
  half.tensor_parallel = 2;
  EXPECT_DOUBLE_EQ(inference_peak_bytes(llama, half, Precision{}, 8192, 1).value,
                   8192 * (2 * h + 3 * inter / 2) * 2);
  // Many sampled rows: logits in the activation type and in fp32.
  EXPECT_DOUBLE_EQ(inference_peak_bytes(llama, Shard{}, Precision{}, 1024, 1024).value,
                   1024 * h * 2 + 1024 * 128256.0 * (2 + 4));
}

TEST(Formats, BytesPerWeight) {
  EXPECT_DOUBLE_EQ(bytes_per_weight(WeightFormat::kPlain, DType::kBf16), 2);
  EXPECT_DOUBLE_EQ(bytes_per_weight(WeightFormat::kFp8Block, DType::kBf16), 1.000244140625);
  EXPECT_DOUBLE_EQ(bytes_per_weight(WeightFormat::kInt4Wo, DType::kBf16), 0.515625);
  EXPECT_DOUBLE_EQ(bytes_per_weight(WeightFormat::kNvfp4, DType::kBf16), 0.5625);
  EXPECT_DOUBLE_EQ(bytes_per_weight(WeightFormat::kMxfp4, DType::kBf16), 0.53125);
  EXPECT_EQ(weight_format_from_name("awq"), WeightFormat::kInt4Wo);
  EXPECT_EQ(weight_format_from_name("q9"), std::nullopt);
  for (const auto f : {WeightFormat::kPlain, WeightFormat::kFp8, WeightFormat::kFp8Block, WeightFormat::kInt8,
                       WeightFormat::kInt4Wo, WeightFormat::kNvfp4, WeightFormat::kMxfp4})
    EXPECT_EQ(weight_format_from_name(name_of(f)), f);
  EXPECT_EQ(compute_type(WeightFormat::kNvfp4, DType::kBf16, true), DType::kFp4);
  EXPECT_EQ(compute_type(WeightFormat::kNvfp4, DType::kBf16, false), DType::kBf16);
  EXPECT_EQ(dtype_from_name("half"), DType::kF16);
  EXPECT_EQ(dtype_from_name("torch.bfloat16"), DType::kBf16);
}

// gpt-oss keeps attention and head in bf16 and stores experts in mxfp4: about 61 GiB for the 120B model.
TEST(Formats, WeightsOfGptOss) {
  const ModelConfig model = preset("gpt-oss-120b");
  const Precision p = checkpoint_precision(model);
  EXPECT_EQ(p.weights, WeightFormat::kMxfp4);
  const double expected = [&] {
    const Parameters n = count_parameters(model);
    const double matrices = 36.0 * 128 * 3 * 2880 * 2880;
    return matrices * 0.53125 + 2 * (static_cast<double>(n.total) - matrices);
  }();
  EXPECT_DOUBLE_EQ(weight_bytes(model, Shard{}, p).value, expected);
  EXPECT_NEAR(expected / kGiB, 60.8, 0.2);
}

}  // namespace
}  // namespace foretoken
