// A transformer as the cost of its layers needs it: kinds of layer (mixer and feed-forward part) and which layer is
// of which kind. Read from a Hugging Face config.json by hf_config.h.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "model/dtype.h"

namespace foretoken {

// Softmax attention with heads of its own (MHA, GQA, MQA).
struct GqaAttention {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0, v_head_dim = 0;
  std::int64_t window = 0;           // 0: full
  bool qkv_bias = false, output_bias = false;
  enum class QkNorm { kNone, kPerHead, kFull } qk_norm = QkNorm::kNone;
  bool output_gate = false;          // Qwen3-Next: q projection twice as wide
  bool sinks = false;                // gpt-oss: one learned logit a head
  bool value_is_key = false;         // no value projection, cache stored once
  bool rotary = true;
};

// Multi-head latent attention (DeepSeek-V2), with the sparse indexer of V3.2 where there is one.
struct MlaAttention {
  std::int64_t heads = 0, q_lora_rank = 0 /* 0: full q projection */, kv_lora_rank = 0;
  std::int64_t nope_dim = 0, rope_dim = 0, v_dim = 0;
  bool has_indexer = false;          // this layer computes its own selection
  std::int64_t index_heads = 0, index_head_dim = 0, index_top_k = 0;  // top_k also where a selection is shared
};

// Linear attention and state-space mixers: a state instead of a cache.
struct RecurrentMixer {
  enum class Kind { kGatedDelta, kMamba2, kLightning, kKda } kind = Kind::kGatedDelta;
  std::int64_t k_heads = 0, v_heads = 0, k_dim = 0, v_dim = 0;  // Mamba2: groups, heads, state, head_dim
  std::int64_t conv_kernel = 0;
  bool conv_bias = false;
  bool projection_bias = false;
};
struct NoMixer {};

struct DenseMlp {
  std::int64_t inter = 0;
  bool gated = true, bias = false;
};
struct MoeMlp {
  std::int64_t experts = 0, top_k = 0, inter = 0;
  std::int64_t shared_inter = 0;     // width of all shared experts together; 0: none
  bool gated = true, shared_gate = false;
  bool router_bias = false;          // one value an expert (correction bias or linear bias)
  bool expert_bias = false;          // gpt-oss
  std::int64_t latent = 0;           // experts work in a smaller space (latent MoE); 0: hidden
};
struct NoMlp {};

struct LayerKind {
  std::string name;                  // "full_attention+moe"
  std::variant<NoMixer, GqaAttention, MlaAttention, RecurrentMixer> mixer;
  std::variant<NoMlp, DenseMlp, MoeMlp> mlp;
  std::int64_t norm_parameters = 0;  // of the layer's own norms (2h, 4h, with biases)
  int norms = 2;                     // norm kernels in the layer
};

struct QuantizationSpec {
  WeightFormat format = WeightFormat::kPlain;
  // Modules that stay plain: matched against component names "attention", "mlp", "experts", "shared_experts",
  // "lm_head", "linear_attention" by the importer from ignore / modules_to_not_convert patterns.
  std::vector<std::string> excluded;
};

struct ModelConfig {
  std::string name;                  // preset or file stem
  std::string model_type;
  std::int64_t hidden = 0, vocab = 0, num_layers = 0;
  std::int64_t position_table = 0;   // learned positions (GPT-2, OPT)
  std::int64_t max_positions = 0;
  bool tied_embeddings = false;
  bool embedding_norm = false;       // BLOOM
  std::int64_t final_norm_parameters = 0;
  std::int64_t embedding_projection = 0;  // OPT-350m: word_embed_proj_dim where it differs; 0: none
  DType dtype = DType::kBf16;        // torch_dtype
  std::vector<LayerKind> kinds;
  std::vector<std::uint8_t> layers;  // kind of each layer
  int mtp_layers = 0;                // multi-token-prediction layers
  int mtp_kind = -1;                 // their kind
  QuantizationSpec quantization;

  // Distinct windows of softmax attention over the kinds, full attention (0) first, in order of first use. Attention
  // operators refer to them by index (Op::attention_group).
  std::vector<std::int64_t> attention_windows() const;
};

}  // namespace foretoken
