// Laws of the operator list: it multiplies exactly the weights that are counted, and shards sum to the whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "model/activations.h"
#include "model/hf_config.h"
#include "model/kv_cache.h"
#include "model/parameters.h"
#include "model/weights.h"

namespace foretoken {
namespace {

const std::filesystem::path kPresets = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";

ModelConfig preset(const std::string& name) { return load_model(name, kPresets); }

Work prefill(std::int64_t tokens) {
  Work w;
  w.prefill = {{tokens, 0, 1}};
  w.sampled_rows = 1;
  return w;
}

Work decode(std::int64_t sequences, double context) {
  Work w;
  w.decode_sequences = sequences;
  w.contexts = {static_cast<double>(sequences) * context};
  w.sampled_rows = sequences;
  return w;
}

bool is_weight_gemm(const Op& op) {
  return std::holds_alternative<MoeShape>(op.shape) || std::holds_alternative<GemmShape>(op.shape);
}

// FLOPs of everything that multiplies weights, the head excluded.
double linear_flops(const OpList& list) {
  double sum = 0;
  for (const Op& op : list.ops)
    if (is_weight_gemm(op) && op.name != "lm_head" && op.name != "head_projection" &&
        op.name != "embedding_projection")
      sum += flops(op).value * static_cast<double>(op.count);
  return sum;
}

double active_matrix_parameters(const ModelConfig& m) {
  double sum = 0;
  for (const std::uint8_t k : m.layers)
    for (const WeightPart& part : weight_parts(m, m.kinds[k]))
      if (part.matrix) sum += static_cast<double>(part.parameters) * part.active;
  return sum;
}

double flops_of(const OpList& list, std::string_view name) {
  double sum = 0;
  for (const Op& op : list.ops)
    if (op.name == name) sum += flops(op).value * static_cast<double>(op.count);
  return sum;
}

// 2 x active parameters x tokens, for every preset: the operator list multiplies each matrix once a token.
TEST(OperatorLaws, LinearFlopsAreTwiceTheActiveParameters) {
  for (const Preset& p : list_presets(kPresets)) {
    SCOPED_TRACE(p.name);
    const ModelConfig model = preset(p.name);
    for (const std::int64_t tokens : {1, 7, 2048}) {
      const OpList list = operators(model, Shard{}, prefill(tokens), Precision{});
      const double expected = 2 * active_matrix_parameters(model) * static_cast<double>(tokens);
      const double got = linear_flops(list);
      // Sparse latent attention works absorbed in prefill too: the same products, two halves of kv_b_proj.
      EXPECT_NEAR(got / expected, 1.0, 1e-12) << tokens;
    }
    // Decoding latent attention: absorb_k and absorb_v together are kv_b_proj.
    const OpList step = operators(model, Shard{}, decode(16, 1000), Precision{});
    EXPECT_NEAR(linear_flops(step) / (2 * active_matrix_parameters(model) * 16), 1.0, 1e-12);
  }
}

TEST(OperatorLaws, BareModelHasNoCollective) {
  for (const char* name : {"llama-3.1-8b", "deepseek-v3", "qwen3-30b-a3b", "nemotron-h-56b"})
    for (const Op& op : operators(preset(name), Shard{}, prefill(128), Precision{}).ops)
      EXPECT_FALSE(std::holds_alternative<CollectiveShape>(op.shape)) << op.name;
}

// Tensor parallelism: what the ranks compute sums to the unsharded model where nothing is replicated.
TEST(OperatorLaws, TensorParallelRanksSumToTheWhole) {
  const ModelConfig model = preset("llama-3.1-70b");
  for (const int tp : {2, 4, 8}) {
    Shard shard;
    shard.tensor_parallel = tp;
    ASSERT_EQ(shard_problem(model, shard), "");
    for (const Work& work : {prefill(2048), decode(64, 4096)}) {
      const OpList whole = operators(model, Shard{}, work, Precision{});
      const OpList part = operators(model, shard, work, Precision{});
      for (const char* name : {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "attention", "lm_head"})
        EXPECT_DOUBLE_EQ(flops_of(part, name) * tp, flops_of(whole, name)) << name << " tp " << tp;
    }
  }
}

TEST(OperatorLaws, ExpertParallelRanksSumToTheWhole) {
  const ModelConfig model = preset("qwen3-235b-a22b");
  const OpList whole = operators(model, Shard{}, decode(256, 1024), Precision{});
  for (const int ep : {2, 8, 64}) {
    Shard shard;
    shard.expert_parallel = ep;
    shard.data_parallel = ep;
    Work own = decode(256 / ep, 1024);
    own.group_tokens = 256;
    const OpList part = operators(model, shard, own, Precision{});
    EXPECT_NEAR(flops_of(part, "experts") * ep / flops_of(whole, "experts"), 1.0, 1e-12);
    EXPECT_NEAR(flops_of(part, "qkv_proj") * ep / flops_of(whole, "qkv_proj"), 1.0, 1e-12);
  }
}

TEST(OperatorLaws, StagesSumToTheWhole) {
  const ModelConfig model = preset("deepseek-v3");
  const OpList whole = operators(model, Shard{}, prefill(512), Precision{});
  double sum = 0, bytes_sum = 0;
  for (int stage = 0; stage < 4; ++stage) {
    Shard shard;
    shard.pipeline_parallel = 4;
    shard.stage = stage;
    const OpList part = operators(model, shard, prefill(512), Precision{});
    sum += linear_flops(part);
    bytes_sum += weight_bytes(model, shard, Precision{}).value;
    int sends = 0;
    for (const Op& op : part.ops) sends += op.name == "stage_send" ? 1 : 0;
    EXPECT_EQ(sends, stage < 3 ? 1 : 0);
  }
  EXPECT_NEAR(sum / linear_flops(whole), 1.0, 1e-12);
  EXPECT_DOUBLE_EQ(bytes_sum, weight_bytes(model, Shard{}, Precision{}).value);
}

TEST(OperatorLaws, WeightBytesOfAPlainModelAreItsParameters) {
  for (const Preset& p : list_presets(kPresets)) {
    SCOPED_TRACE(p.name);
    const ModelConfig model = preset(p.name);
    const double bytes = weight_bytes(model, Shard{}, Precision{}).value;
    EXPECT_DOUBLE_EQ(bytes, 2.0 * static_cast<double>(count_parameters(model).total));
  }
}

// Key-value heads are replicated when there are fewer than ranks; the latent of MLA always is.
TEST(OperatorLaws, CacheUnderTensorParallelism) {
  const ModelConfig llama = preset("llama-3.1-70b"), deepseek = preset("deepseek-v3");
  Shard shard;
  for (const int tp : {2, 4, 8}) {
    shard.tensor_parallel = tp;
    EXPECT_DOUBLE_EQ(kv_bytes_per_token(llama, shard, DType::kBf16) * tp,
                     kv_bytes_per_token(llama, DType::kBf16));
    EXPECT_DOUBLE_EQ(kv_bytes_per_token(deepseek, shard, DType::kBf16), 70272);
  }
  shard.tensor_parallel = 16;
  EXPECT_DOUBLE_EQ(kv_bytes_per_token(llama, shard, DType::kBf16) * 8,
                   kv_bytes_per_token(llama, DType::kBf16));
}

TEST(OperatorLaws, CollectivesOfALayer) {
  const ModelConfig model = preset("llama-3.1-70b");
  Shard shard;
  shard.tensor_parallel = 8;
  const OpList list = operators(model, shard, prefill(8192), Precision{});
  std::int64_t reductions = 0;
  for (const Op& op : list.ops) {
    const auto* c = std::get_if<CollectiveShape>(&op.shape);
    if (c == nullptr || op.layer_kind < 0) continue;
    reductions += op.count;
    EXPECT_EQ(c->ranks, 8);
    EXPECT_DOUBLE_EQ(c->message_bytes, 134'217'728);  // formulas: 8192 tokens x 8192 x 2
  }
  EXPECT_EQ(reductions, 160);
  // Under sequence parallelism each becomes a reduce-scatter and an all-gather of the same volume.
  shard.sequence_parallel = true;
  std::map<Collective, std::int64_t> kinds;
  for (const Op& op : operators(model, shard, prefill(8192), Precision{}).ops)
    if (const auto* c = std::get_if<CollectiveShape>(&op.shape); c != nullptr && op.layer_kind >= 0)
      kinds[c->kind] += op.count;
  EXPECT_EQ(kinds[Collective::kReduceScatter], 160);
  EXPECT_EQ(kinds[Collective::kAllGather], 160);
  EXPECT_EQ(kinds.count(Collective::kAllReduce), 0u);
  // Outside the layers too: the embedding's sum is scattered, the last norm's rows are gathered.
  std::vector<std::string> outside;
  for (const Op& op : operators(model, shard, prefill(8192), Precision{}).ops) {
    const auto* c = std::get_if<CollectiveShape>(&op.shape);
    if (c != nullptr && op.layer_kind < 0) outside.emplace_back(op.name);
    if (op.name.ends_with("_norm") && op.name != "qk_norm") {
      EXPECT_EQ(std::get<ElementwiseShape>(op.shape).rows, 8192 / 8) << op.name;
    }
  }
  EXPECT_THAT(outside, testing::IsSupersetOf({"embedding_reduce_scatter", "final_all_gather"}));
  EXPECT_EQ(std::count(outside.begin(), outside.end(), "embedding_all_reduce"), 0);
}

// What a rank holds of the residual stream shrinks with the ranks; nothing else does.
TEST(OperatorLaws, SequenceParallelismSavesActivations) {
  const ModelConfig model = preset("llama-3.1-70b");
  Shard shard;
  shard.tensor_parallel = 8;
  const double whole = inference_peak_bytes(model, shard, Precision{}, 8192, 0).value;
  shard.sequence_parallel = true;
  const double split = inference_peak_bytes(model, shard, Precision{}, 8192, 0).value;
  EXPECT_DOUBLE_EQ(whole - split, 8192.0 * 8192 * 2 * 7 / 8);
}

// Norms and gates write 8 bits where products of 8 bits alone read them, and nothing else changes.
TEST(OperatorLaws, QuantisationMovesIntoWhatProducesItsInput) {
  Fusion fused;
  fused.quantisation = true;
  const auto readers = [&](const char* name, WeightFormat weights, const Shard& shard) {
    const ModelConfig model = preset(name);
    const Precision precision{.weights = weights};
    const OpList before = operators(model, shard, prefill(512), precision),
                 after = operators(model, shard, prefill(512), precision, fused);
    EXPECT_EQ(before.ops.size(), after.ops.size());
    std::vector<std::string> names;
    double saved = 0;
    for (std::size_t i = 0; i < std::min(before.ops.size(), after.ops.size()); ++i) {
      const Op &a = before.ops[i], &b = after.ops[i];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.count, b.count);
      const auto* g = std::get_if<GemmShape>(&b.shape);
      if (g != nullptr) {
        EXPECT_EQ(flops(a), flops(b));
        if (g->quantised_input) names.emplace_back(b.name);
      }
      EXPECT_LE(bytes(b), bytes(a));
      saved += (bytes(a) - bytes(b)).value;
    }
    EXPECT_EQ(saved > 0, !names.empty());
    return names;
  };
  using testing::ElementsAre;
  for (const WeightFormat w : {WeightFormat::kInt8, WeightFormat::kFp8, WeightFormat::kFp8Block})
    EXPECT_THAT(readers("llama-3.1-8b", w, {}), ElementsAre("qkv_proj", "gate_up_proj", "down_proj"));
  for (const WeightFormat w : {WeightFormat::kPlain, WeightFormat::kInt4Wo, WeightFormat::kNvfp4})
    EXPECT_THAT(readers("llama-3.1-8b", w, {}), ElementsAre()) << "not of 8 bits on both sides";
  EXPECT_THAT(readers("mixtral-8x7b", WeightFormat::kFp8, {}), ElementsAre("qkv_proj"))
      << "a router reads the other norm";
  Shard shard;
  shard.tensor_parallel = 2, shard.sequence_parallel = true;
  EXPECT_THAT(readers("llama-3.1-8b", WeightFormat::kFp8, shard), ElementsAre("down_proj"))
      << "normed rows are gathered first";
  shard = {};
  shard.lora.rank = 16;
  EXPECT_THAT(readers("llama-3.1-8b", WeightFormat::kFp8, shard), ElementsAre()) << "adapters read them too";
}

// A mixed step is its prefill and its decode side by side.
TEST(OperatorLaws, MixedStepAddsUp) {
  for (const char* name : {"llama-3.1-8b", "deepseek-v3", "gemma-3-27b", "qwen3-next-80b-a3b"}) {
    const ModelConfig model = preset(name);
    Work mixed = prefill(1024);
    const Work d = decode(32, 2000);
    mixed.decode_sequences = 32;
    mixed.contexts = d.contexts;
    const auto total = [&](const Work& w, bool attention) {
      double sum = 0;
      for (const Op& op : operators(model, Shard{}, w, Precision{}).ops) {
        const bool core = std::holds_alternative<AttentionShape>(op.shape);
        if (core == attention && (core || is_weight_gemm(op)) && op.name != "lm_head")
          sum += flops(op).value * static_cast<double>(op.count);
      }
      return sum;
    };
    for (const bool attention : {true, false})
      EXPECT_NEAR(total(mixed, attention) / (total(prefill(1024), attention) + total(d, attention)), 1.0,
                  1e-12)
          << name;
  }
}

TEST(OperatorLaws, PairCountsAgreeWithEnumeration) {
  for (const std::int64_t c : {0, 1, 5, 64, 200})
    for (const std::int64_t q : {1, 3, 64, 130})
      for (const std::int64_t w : {0, 1, 4, 64, 100, 1000}) {
        double causal = 0, chunked = 0, compressed = 0;
        for (std::int64_t i = 0; i < q; ++i) {
          const std::int64_t seen = c + i + 1;
          causal += static_cast<double>(w > 0 ? std::min(seen, w) : seen);
          chunked += static_cast<double>(w > 0 ? (c + i) % w + 1 : seen);
          compressed += static_cast<double>(w > 0 ? std::min(seen / 4, w) : seen / 4);
        }
        EXPECT_DOUBLE_EQ(causal_pairs(q, c, w), causal) << q << " " << c << " " << w;
        EXPECT_DOUBLE_EQ(chunked_pairs(q, c, w), chunked) << q << " " << c << " " << w;
        EXPECT_DOUBLE_EQ(compressed_pairs(q, c, 4, w), compressed) << q << " " << c << " " << w;
      }
}

// A chunked prefill counts the same pairs as a whole one.
TEST(OperatorLaws, ChunksOfAPrefillSumToTheWhole) {
  for (const std::int64_t window : {0, 512, 4096}) {
    double sum = 0;
    for (std::int64_t done = 0; done < 8192; done += 1024) sum += causal_pairs(1024, done, window);
    EXPECT_DOUBLE_EQ(sum, causal_pairs(8192, 0, window));
  }
}

// Fused or in parts, experts cost the same multiplications but for rows rounded to whole ones an expert.
TEST(OperatorLaws, ExpandedExperts) {
  Op op;
  op.shape = MoeShape{.tokens = 512,
                      .hidden = 2048,
                      .inter = 768,
                      .num_experts = 128,
                      .local_experts = 128,
                      .top_k = 8,
                      .distinct_experts = 128,
                      .local_rows = 4096};
  double sum = 0;
  for (const Op& part : expand(op))
    sum += std::holds_alternative<GemmShape>(part.shape) ? flops(part).value : 0.0;
  EXPECT_DOUBLE_EQ(sum, flops(op).value);
  Op gemm;
  gemm.shape = GemmShape{.m = 1, .n = 2, .k = 3};
  EXPECT_EQ(expand(gemm).size(), 1u);
}

// The prediction layers as a drafting model: the weights that the main model's total leaves out, and one
// head.
TEST(OperatorLaws, PredictionModel) {
  const ModelConfig model = preset("deepseek-v3"), draft = prediction_model(model);
  EXPECT_EQ(count_parameters(draft).total, count_parameters(model).mtp);
  EXPECT_DOUBLE_EQ(weight_bytes(draft, Shard{}, Precision{}).value, 2.0 * 11'610'068'224.0);
  const OpList list = operators(draft, Shard{}, decode(8, 1000), Precision{});
  EXPECT_DOUBLE_EQ(flops_of(list, "prediction_proj"), 2.0 * 8 * 7168 * 2 * 7168);
  EXPECT_DOUBLE_EQ(flops_of(list, "lm_head"), 2.0 * 8 * 7168 * 129280);
  EXPECT_DOUBLE_EQ(flops_of(list, "attention"), 278'528.0 * 8000);
  EXPECT_THROW(prediction_model(preset("llama-3.1-8b")), Error);
}

TEST(Sharding, ProblemsNameTheirRemedy) {
  const ModelConfig llama = preset("llama-3.1-8b"), qwen = preset("qwen3-30b-a3b"),
                    deepseek = preset("deepseek-v3");
  Shard s;
  EXPECT_EQ(shard_problem(llama, s), "");
  s.tensor_parallel = 3;
  EXPECT_NE(shard_problem(llama, s).find("32 attention heads"), std::string::npos);
  s.tensor_parallel = 16;  // more ranks than key-value heads: replicated
  EXPECT_EQ(shard_problem(llama, s), "");
  s = Shard{};
  s.expert_parallel = 3;
  EXPECT_NE(shard_problem(qwen, s).find("128 experts"), std::string::npos);
  EXPECT_NE(shard_problem(llama, s).find("no experts"), std::string::npos);
  s = Shard{};
  s.moe_tensor_parallel = 4;  // 768 / 4 = 192 is no multiple of 128
  EXPECT_EQ(shard_problem(qwen, s), "");
  EXPECT_NE(shard_problem(qwen, s, WeightFormat::kFp8Block).find("fp8_block"), std::string::npos);
  s = Shard{};
  s.pipeline_parallel = 62;
  EXPECT_NE(shard_problem(deepseek, s).find("61 layers"), std::string::npos);
}

}  // namespace
}  // namespace foretoken
