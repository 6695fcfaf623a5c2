// Weights, cache and partial results of one rank: its slice of every matrix, packed for the kernels. Ranks of
// a tensor-parallel group live in one process and take turns between collectives.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "executor/arena.h"
#include "executor/checkpoint.h"
#include "executor/kernels.h"
#include "model/operators.h"

namespace foretoken {

// How a model is laid out for execution.
struct Layout {
  int ranks = 1;            // tensor parallel
  int expert_parallel = 1;  // ranks = expert_parallel x moe_tensor_parallel where there are experts
  int moe_tensor_parallel = 1;
  Storage weights = Storage::kBf16;  // of the linear layers
  Storage plain = Storage::kBf16;    // of embeddings, head, router and what quantisation leaves out
  Storage cache = Storage::kBf16;
  int block_size = 16;
  std::int64_t num_blocks = 1;
  std::int64_t max_tokens = 1;     // rows of a step
  std::int64_t max_sequences = 1;  // of a step
  std::int64_t max_sampled = 0;    // rows of a step whose logits are wanted; 0: one a sequence
  std::int64_t max_length = 1;     // tokens of a sequence
  std::int64_t sampled() const { return max_sampled > 0 ? max_sampled : max_sequences; }
};

// A matrix with the bias of its outputs.
struct Linear {
  Matrix w;
  const float* bias = nullptr;
};

struct ExpertWeights {
  Linear gate_up, down;
};

struct LayerWeights {
  // Norms whole on every rank; null where the model has none.
  const float *input_norm = nullptr, *input_norm_bias = nullptr, *post_norm = nullptr,
              *post_norm_bias = nullptr;
  const float *attn_output_norm = nullptr, *mlp_output_norm = nullptr;
  const float *q_norm = nullptr, *k_norm = nullptr, *sinks = nullptr;
  const float *q_a_norm = nullptr, *kv_a_norm = nullptr, *correction = nullptr;
  Linear qkv, o, gate_up, down, router, shared_gate_up, shared_down, shared_mix;
  Linear q_a, q_b, kv_a, kv_b;             // latent attention
  std::vector<Linear> absorb_k, absorb_v;  // one a head
  std::vector<ExpertWeights> experts;      // local ones
};

class Rank {
 public:
  // Reads and packs this rank's part of the checkpoint. Throws Error, std::bad_alloc.
  Rank(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels, const Layout& layout,
       int index);

  // Memory of weights and cache, before anything is allocated.
  struct Sizes {
    std::size_t weights = 0, cache = 0;
  };
  static Sizes sizes(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
                     const Layout& layout, int index);

  const LayerWeights& layer(std::int64_t i) const { return layers_[static_cast<std::size_t>(i)]; }
  const CacheLayer& cache(std::int64_t i) const { return cache_[static_cast<std::size_t>(i)]; }
  // Copies what all layers cached of one place of a sequence to another.
  void move_cached(const std::int32_t* blocks, std::int64_t from, std::int64_t to);
  const Linear& lm_head() const { return lm_head_; }
  // Query heads, KV heads, dense width and vocabulary rows of this rank; the first of each.
  struct Slice {
    std::int64_t first = 0, count = 0;
  };
  Slice heads(std::int64_t all) const { return slice(all, index_, layout_.ranks); }
  Slice kv_heads(std::int64_t all) const;
  Slice experts(std::int64_t all) const {
    return slice(all, index_ / layout_.moe_tensor_parallel, layout_.expert_parallel);
  }
  Slice expert_width(std::int64_t all) const {
    return slice(all, index_ % layout_.moe_tensor_parallel, layout_.moe_tensor_parallel);
  }
  Slice vocabulary(std::int64_t all) const { return slice(all, index_, layout_.ranks); }

 private:
  class Loader;
  Rank(const Layout& layout, int index) : layout_(layout), index_(index) {}
  void load(Loader& in);
  void load_latent(Loader& in, const MlaAttention& a, std::int64_t layer, LayerWeights& w);
  std::size_t allocate_cache(const ModelConfig& model, Arena* arena);  // bytes that it takes
  static Slice slice(std::int64_t all, int part, int parts) {
    const std::int64_t each = (all + parts - 1) / parts, first = std::min(all, each * part);
    return {first, std::min(each, all - first)};
  }

  Layout layout_;
  int index_;
  Arena weights_, cache_memory_;
  std::vector<LayerWeights> layers_;
  std::vector<CacheLayer> cache_;
  Linear lm_head_;
};

}  // namespace foretoken
