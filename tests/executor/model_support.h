// Small models for the executor's tests: a configuration as JSON, its numerics, weights, and a transformer
// that runs sequences one step after another over a cache of blocks.
#pragma once

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/json_full.h"
#include "executor/checkpoint.h"
#include "executor/transformer.h"
#include "model/hf_config.h"

namespace foretoken::test {

// The set that a test program is about; each defines it.
const Kernels& tested_kernels();

struct SmallModel {
  ModelConfig config;
  Numerics numerics;
  std::unique_ptr<Checkpoint> weights;
  explicit SmallModel(const Json& json, std::uint64_t seed = 1, std::int64_t longest = 256)
      : config(read_hf_config(json, "config", "small")),
        numerics(read_numerics(json, config, longest, "config")) {
    weights = synthetic_checkpoint(config, numerics, seed);
  }
};

inline Json dense_config() {
  return Json{{"model_type", "llama"},    {"hidden_size", 64},
              {"intermediate_size", 96},  {"num_hidden_layers", 3},
              {"num_attention_heads", 8}, {"num_key_value_heads", 4},
              {"vocab_size", 128},        {"max_position_embeddings", 512},
              {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},
              {"hidden_act", "silu"},     {"tie_word_embeddings", false},
              {"torch_dtype", "float32"}};
}
inline Json moe_config() {
  Json c = dense_config();
  c["model_type"] = "qwen3_moe", c["moe_intermediate_size"] = 48, c["num_experts"] = 8,
  c["num_experts_per_tok"] = 2;
  c["norm_topk_prob"] = true, c["decoder_sparse_step"] = 1, c["mlp_only_layers"] = Json::array(),
  c["head_dim"] = 16;
  return c;
}
// Shared experts behind a gate of their own.
inline Json gated_config() {
  Json c = moe_config();
  c["model_type"] = "qwen2_moe", c["shared_expert_intermediate_size"] = 64, c["qkv_bias"] = true;
  c.erase("head_dim");
  return c;
}
inline Json latent_config() {
  Json c = dense_config();
  c["model_type"] = "deepseek_v2", c["q_lora_rank"] = 24, c["kv_lora_rank"] = 32, c["qk_nope_head_dim"] = 16;
  c["qk_rope_head_dim"] = 8, c["v_head_dim"] = 16, c["n_routed_experts"] = 8, c["n_shared_experts"] = 1;
  c["num_experts_per_tok"] = 2, c["moe_intermediate_size"] = 48, c["first_k_dense_replace"] = 1;
  c["num_key_value_heads"] = 8, c["topk_method"] = "greedy", c["scoring_func"] = "softmax";
  c["norm_topk_prob"] = false, c["routed_scaling_factor"] = 1.0, c["n_group"] = 1, c["topk_group"] = 1;
  c["moe_layer_freq"] = 1;
  return c;
}
inline Json linear_config() {  // gated delta rule but for every third layer, with experts
  Json c = moe_config();
  c["model_type"] = "qwen3_next", c["shared_expert_intermediate_size"] = 32, c["full_attention_interval"] = 3;
  c["partial_rotary_factor"] = 0.5, c["linear_num_key_heads"] = 4, c["linear_num_value_heads"] = 8;
  c["linear_key_head_dim"] = 12, c["linear_value_head_dim"] = 16, c["linear_conv_kernel_dim"] = 4;
  return c;
}
inline Json windowed_config() {
  Json c = dense_config();
  c["model_type"] = "mistral", c["sliding_window"] = 24;
  return c;
}

inline Layout small_layout(Storage weights = Storage::kF32, Storage cache = Storage::kF32) {
  Layout l;
  l.weights = l.plain = weights, l.cache = cache;
  l.block_size = 8, l.num_blocks = 200;
  l.max_tokens = 256, l.max_sequences = 16, l.max_length = 256;
  return l;
}

// The shards of a pipeline.
inline std::vector<Shard> stages_of(const ModelConfig& config, Shard shard, int stages) {
  std::vector<Shard> all;
  shard.pipeline_parallel = stages;
  for (int s = 0; s < stages; ++s) {
    shard.stage = s;
    shard.first_layer = static_cast<int>(config.num_layers) * s / stages;
    shard.last_layer = static_cast<int>(config.num_layers) * (s + 1) / stages;
    shard.has_embedding = s == 0, shard.has_head = s == stages - 1;
    all.push_back(shard);
  }
  return all;
}

inline std::vector<std::int32_t> some_tokens(std::int64_t n, std::int64_t vocab, int seed = 1) {
  std::vector<std::int32_t> t;
  for (std::int64_t i = 0; i < n; ++i)
    t.push_back(static_cast<std::int32_t>((i * i * 7 + i * 13 + seed * 31) % vocab));
  return t;
}

// Logits, which lie in the kernels' memory.
inline std::vector<std::vector<float>> rows_of(std::span<const float> logits, std::int64_t vocab,
                                               const KernelMemory& memory) {
  const auto width = static_cast<std::size_t>(vocab);
  std::vector<std::vector<float>> rows(logits.size() / width, std::vector<float>(width));
  for (std::size_t i = 0; i < rows.size(); ++i)
    memory.copy(rows[i].data(), logits.data() + i * width, width * sizeof(float));
  return rows;
}

// A transformer and what its sequences hold.
class Runner {
 public:
  // format: as the operator list has the weights.
  Runner(const SmallModel& m, const Layout& layout, const Kernels& kernels, int threads = 1,
         WeightFormat format = WeightFormat::kPlain)
      : pool_(threads),
        transformer_(m.config, m.numerics, *m.weights, kernels, layout,
                     Precision{DType::kF32, DType::kF32, format}, pool_),
        memory_(kernels.memory()),
        vocab_(m.config.vocab),
        block_size_(layout.block_size) {}

  struct Sequence {
    std::vector<std::int32_t> blocks;
    std::int64_t cached = 0;
    std::int32_t state = 0;  // of recurrent layers
  };
  // stride, first: which blocks the sequence gets.
  Sequence sequence(std::int32_t first, std::int32_t stride, std::int64_t tokens) {
    Sequence s;
    s.state = next_state_++ % 16;
    for (std::int64_t b = 0; b * block_size_ < tokens; ++b)
      s.blocks.push_back(first + static_cast<std::int32_t>(b) * stride);
    return s;
  }
  struct Part {
    Sequence* sequence;
    std::vector<std::int32_t> tokens;
    bool decode = false;
  };
  // Logits of each part's last row.
  std::vector<std::vector<float>> step(std::vector<Part> parts) {
    std::vector<StepSequence> all;
    for (const Part& p : parts)
      all.push_back(
          {p.tokens, p.sequence->cached, p.sequence->blocks.data(), p.decode, true, -1, p.sequence->state});
    const auto logits = transformer_.step(all);
    for (Part& p : parts) p.sequence->cached += static_cast<std::int64_t>(p.tokens.size());
    return rows_of(logits, vocab_, memory_);
  }
  Transformer& transformer() { return transformer_; }

 private:
  Threads pool_;
  Transformer transformer_;
  const KernelMemory& memory_;
  std::int64_t vocab_, block_size_;
  std::int32_t next_state_ = 0;
};

}  // namespace foretoken::test
