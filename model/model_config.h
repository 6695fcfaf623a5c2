// A transformer as the cost of its layers needs it: kinds of layer (mixer and feed-forward part) and which
// layer is of which kind. Read from a Hugging Face config.json by hf_config.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/dtype.h"

namespace foretoken {

// Softmax attention with heads of its own (MHA, GQA, MQA).
struct GqaAttention {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0, v_head_dim = 0;
  std::int64_t window = 0;  // 0: full
  bool qkv_bias = false, output_bias = false;
  enum class QkNorm { kNone, kPerHead, kFull } qk_norm = QkNorm::kNone;
  bool output_gate = false;   // Qwen3-Next: q projection twice as wide
  bool sinks = false;         // gpt-oss: one learned logit a head
  bool value_is_key = false;  // no value projection, cache stored once
  bool rotary = true;
  bool chunked = false;  // window is a fixed chunk (Llama 4): a query sees its own chunk only
  bool shared_kv_projection =
      false;                    // Gemma 4: values from the key projection; both are cached (only keys rotate)
  std::int64_t gate_width = 0;  // output gate of its own projection, values a head (Step: 1); 0: none
  // Block-sparse selection (MiniMax-M3): small index heads choose blocks that hold index_top_k tokens.
  std::int64_t index_heads = 0, index_head_dim = 0, index_top_k = 0;
  std::int64_t extra_parameters = 0;  // vectors that no other member counts
  bool operator==(const GqaAttention&) const = default;
};

// Multi-head latent attention (DeepSeek-V2), with the sparse indexer of V3.2 where there is one.
struct MlaAttention {
  std::int64_t heads = 0, q_lora_rank = 0 /* 0: full q projection */, kv_lora_rank = 0;
  std::int64_t nope_dim = 0, rope_dim = 0, v_dim = 0;
  bool has_indexer = false;  // this layer computes its own selection
  std::int64_t index_heads = 0, index_head_dim = 0,
               index_top_k = 0;  // top_k also where a selection is shared
  bool output_gate = false;      // Kimi K3: hidden x heads x v_dim
  bool rotary = true;
  bool bias = false;  // on the projections down to the latents and on the output
  bool operator==(const MlaAttention&) const = default;
};

// Shared key-value heads (one, key = value) over a window and over compressed tokens, DeepSeek-V4. ratio 0:
// the window alone; with index heads only index_top_k compressed tokens are attended.
struct CompressedAttention {
  std::int64_t heads = 0, head_dim = 0, rope_dim = 0, q_lora_rank = 0, o_lora_rank = 0, o_groups = 1;
  std::int64_t window = 0, ratio = 0;
  std::int64_t index_heads = 0, index_head_dim = 0, index_top_k = 0;
  // Compressors of overlapping groups project to twice the width.
  std::int64_t compressor_width() const { return ratio == 0 ? 0 : (index_heads > 0 ? 2 : 1) * head_dim; }
  bool operator==(const CompressedAttention&) const = default;
};

// Linear attention and state-space mixers: a state instead of a cache.
struct RecurrentMixer {
  enum class Kind { kGatedDelta, kMamba2, kLightning, kKda, kMamba1 } kind = Kind::kGatedDelta;
  std::int64_t k_heads = 0, v_heads = 0, k_dim = 0, v_dim = 0;  // Mamba2: groups, heads, state, head_dim
  std::int64_t conv_kernel = 0;
  bool conv_bias = false;
  bool projection_bias = false;
  std::int64_t dt_rank = 0;   // Mamba1 (v_heads channels of v_dim 1): rank of the step size
  bool low_rank_gate = true;  // KDA: decay gate and output gate of rank v_dim; false: full-rank output gate
  bool operator==(const RecurrentMixer&) const = default;
};
struct NoMixer {
  bool operator==(const NoMixer&) const = default;
};

struct DenseMlp {
  std::int64_t inter = 0;
  bool gated = true, bias = false;
  // Elementwise kernels that an unfused framework composes the activation of, and their passes over it.
  int activation_kernels = 1, activation_passes = 2;
  bool operator==(const DenseMlp&) const = default;
};
struct MoeMlp {
  std::int64_t experts = 0, top_k = 0, inter = 0;
  std::int64_t shared_inter = 0;  // width of all shared experts together; 0: none
  bool gated = true, shared_gate = false;
  bool router_bias = false;  // one value an expert (correction bias or linear bias)
  bool expert_bias = false;  // gpt-oss
  std::int64_t latent = 0;   // experts work in a smaller space (latent MoE); 0: hidden
  bool latent_norm = false;
  std::int64_t extra_parameters = 0;  // router vectors that no other member counts (Gemma 4)
  bool operator==(const MoeMlp&) const = default;
};
struct NoMlp {
  bool operator==(const NoMlp&) const = default;
};

struct LayerKind {
  std::string name;  // "full_attention+moe"
  std::variant<NoMixer, GqaAttention, MlaAttention, RecurrentMixer, CompressedAttention> mixer;
  std::variant<NoMlp, DenseMlp, MoeMlp> mlp;
  std::int64_t norm_parameters = 0;  // of the layer's own norms (2h, 4h, with biases)
  int norms = 2;                     // norm kernels in the layer
  bool parallel = false;  // attention and feed-forward part share the norm and one reduction (GPT-J)
  // Residual streams that every sublayer reads beyond one (hyper-connections: streams; attention residuals:
  // the mean number of earlier blocks), and the matrix that mixes them, parameters a layer.
  double residual_streams = 1;
  std::int64_t residual_parameters = 0;
  bool operator==(const LayerKind&) const = default;
};

struct QuantizationSpec {
  WeightFormat format = WeightFormat::kPlain;
  // Modules that stay plain: matched against component names "attention", "mlp", "experts", "shared_experts",
  // "lm_head", "linear_attention" by the importer from ignore / modules_to_not_convert patterns.
  std::vector<std::string> excluded;
  // Format of the routed experts where it differs (DeepSeek-V4: fp4 experts in an fp8 model).
  WeightFormat experts = WeightFormat::kPlain;
  bool kv_fp8 = false;  // the checkpoint asks for an fp8 cache
  bool is_excluded(std::string_view component) const;
};

struct ModelConfig {
  std::string name;  // preset or file stem
  std::string model_type;
  std::int64_t hidden = 0, vocab = 0, num_layers = 0;
  std::int64_t position_table = 0;  // learned positions (GPT-2, OPT)
  std::int64_t max_positions = 0;
  bool tied_embeddings = false;
  bool embedding_norm = false;  // BLOOM
  std::int64_t final_norm_parameters = 0;
  std::int64_t embedding_projection = 0;  // OPT-350m: word_embed_proj_dim where it differs; 0: none
  DType dtype = DType::kBf16;             // torch_dtype
  std::vector<LayerKind> kinds;
  std::vector<std::uint8_t> layers;  // kind of each layer
  int mtp_layers = 0;                // multi-token-prediction layers
  int mtp_kind = -1;                 // their kind
  std::int64_t mtp_extra_parameters =
      0;  // of one MTP layer beyond its kind: projection, norms, own embeddings
  bool is_prediction =
      false;  // a prediction head: embedding and head are the main model's, inputs are 2 x hidden
  std::int64_t other_parameters = 0;  // outside the layers: mixing heads, embedding projections
  QuantizationSpec quantization;
  std::string not_counted;  // parts of the checkpoint that are no language model ("vision_config"), or empty

  // Distinct windows of softmax attention over the kinds, full attention (0) first, in order of first use.
  // Attention operators refer to them by index (Op::attention_group).
  std::vector<std::int64_t> attention_windows() const;
  void attention_windows(std::vector<std::int64_t>& windows) const;  // into memory that is there
  // How many of the layers [first, last) are of the kind.
  std::int64_t layers_of_kind(std::size_t kind, int first, int last) const;
  // Whether layers keep a recurrent state of each sequence.
  bool is_recurrent() const;
};

// The multi-token-prediction layers as a model that drafts: its operators project the previous hidden state
// beside the next token's embedding, run the layers and the head; its weights are those beyond the main
// model's. Throws Error for a model without such layers.
ModelConfig prediction_model(const ModelConfig& model);

}  // namespace foretoken
