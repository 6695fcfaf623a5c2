// Weights, cache and partial results of one rank: its slice of every matrix, packed for the kernels. Ranks of
// a tensor-parallel group live in one process and take turns between collectives.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "executor/arena.h"
#include "executor/checkpoint.h"
#include "executor/kernels.h"
#include "executor/kv_store.h"
#include "executor/processes.h"
#include "executor/weight_stream.h"
#include "model/operators.h"
#include "serving/backend.h"

namespace foretoken {

// How a model is laid out for execution.
struct Layout {
  int ranks = 1;            // tensor parallel
  int expert_parallel = 1;  // ranks = expert_parallel x moe_tensor_parallel where there are experts
  int moe_tensor_parallel = 1;
  // Attention data parallel: copies of the attention part, of which this is `group`; all their ranks together
  // hold the experts (ranks x data_parallel = expert_parallel x moe_tensor_parallel).
  int data_parallel = 1, group = 0;
  Processes* processes = nullptr;  // each computes one rank; null: this process computes all of them
  std::vector<Shard> stages;       // of a pipeline, in order; empty: one that holds all layers
  bool reaches = false;  // one of several instances whose attention reaches over all caches (InstanceGroup)
  Storage weights = Storage::kBf16;  // of the linear layers
  Storage plain = Storage::kBf16;    // of embeddings, head, router and what quantisation leaves out
  Storage cache = Storage::kBf16;
  bool quantised_x = false;                 // of products by int8 and fp8 weights: see Matrix
  Fp8Scales fp8_scales = Fp8Scales::kRows;  // of weights in kFp8, and of a quantised x
  int block_size = 16;
  std::int64_t num_blocks = 1;
  std::int64_t num_host_blocks = 0;     // that blocks are swapped to; none beside tiers
  std::vector<KvStoreLayout> kv_tiers;  // below the cache, the nearest first
  int streamed_layers = 0;  // evenly spread; their matrices and biases pass through a ring (is_streamed())
  WeightStreamOptions stream;
  std::int64_t max_tokens = 1;     // rows of a step
  std::int64_t max_sequences = 1;  // of a step
  std::int64_t max_sampled = 0;    // rows of a step whose logits are wanted; 0: one a sequence
  std::int64_t max_length = 1;     // tokens of a sequence
  // Rows of decoding steps that kernels record and run again, ascending; smaller steps are padded to the next
  // one. Empty: none is recorded.
  std::vector<std::int64_t> step_sizes;
  // norm_residual, rope_kv_write and quantisation (not with Fp8Scales::kTensors): which operators there are.
  Fusion fusion;
  OperatorTimes operator_times = OperatorTimes::kMarks;  // kNone: the step alone is timed
  Lora lora;
  std::int64_t num_adapters = 0;  // in host memory
  // Blocks of the cache: one more for rows that pad a step.
  std::int64_t cache_blocks() const { return num_blocks + (step_sizes.empty() ? 0 : 1); }
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
  std::vector<ExpertWeights> experts;      // local ones, evenly apart
  // Gated delta rule: queries, keys, values, output gates; write strengths, decays.
  Linear linear_in, linear_gates, linear_out;
  const float *conv = nullptr, *decay = nullptr, *step = nullptr, *linear_norm = nullptr;
};

// What a recurrent layer keeps of each sequence, one after the other.
struct RecurrentState {
  float *conv = nullptr, *state = nullptr;
  std::int64_t conv_values = 0, state_values = 0;  // of one sequence
};

class Rank {
 public:
  // Reads and packs this rank's part of the checkpoint by these threads. Throws Error, std::bad_alloc.
  Rank(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels, const Layout& layout,
       int index, Threads& threads);

  // The same weights, not copied, with a cache of its own.
  Rank twin(const ModelConfig& model, const Layout& layout) const;
  Experts experts_of(std::int64_t layer, std::int64_t all) const;

  // One that has shapes, but no memory, and adds what it would take to the two.
  static Rank plan(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
                   const Layout& layout, int index, std::size_t& weights, std::size_t& cache);

  const LayerWeights& layer(std::int64_t i) const { return layers_[static_cast<std::size_t>(i)]; }
  const CacheLayer& cache(std::int64_t i) const { return cache_[static_cast<std::size_t>(i)]; }
  bool streams(std::int64_t layer) const {
    return !streamed_.empty() && streamed_[static_cast<std::size_t>(layer)];
  }
  // Brings a streamed layer's weights into device memory, where they stay until they are released. Layers in
  // order, one at a time.
  void fetch(std::int64_t layer);
  void release() { stream_->release(); }
  void restart_stream() {
    if (stream_) stream_->restart();
  }
  // Copies blocks, all layers of them, between the cache (-1) and a tier of it, or between two tiers, as
  // KvStore does.
  void move_blocks(std::int32_t from, std::int32_t to, std::span<const BlockCopy> blocks);
  // To the memory that stands for the host's, and back.
  void swap_out(std::span<const BlockCopy> blocks) { move_blocks(-1, 0, blocks); }
  void swap_in(std::span<const BlockCopy> blocks) { move_blocks(0, -1, blocks); }
  const RecurrentState& recurrent(std::int64_t i) const { return recurrent_[static_cast<std::size_t>(i)]; }
  // Copies what all layers cached of one place of a sequence to another.
  void move_cached(const std::int32_t* blocks, std::int64_t from, std::int64_t to);
  const Linear& lm_head() const { return lm_head_; }
  int index() const { return index_; }
  // Query heads, KV heads, dense width and vocabulary rows of this rank; the first of each.
  struct Slice {
    std::int64_t first = 0, count = 0;
  };
  Slice heads(std::int64_t all) const { return slice(all, index_, layout_.ranks); }
  Slice kv_heads(std::int64_t all) const;
  Slice experts(std::int64_t all) const {
    return slice(all, expert_index() / layout_.moe_tensor_parallel, layout_.expert_parallel);
  }
  Slice expert_width(std::int64_t all) const {
    return slice(all, expert_index() % layout_.moe_tensor_parallel, layout_.moe_tensor_parallel);
  }
  Slice vocabulary(std::int64_t all) const { return slice(all, index_, layout_.ranks); }
  // Part `part` of `parts`, each as large as the first but for the last ones.
  static Slice slice(std::int64_t all, int part, int parts) {
    const std::int64_t each = (all + parts - 1) / parts, first = std::min(all, each * part);
    return {first, std::min(each, all - first)};
  }

 private:
  class Loader;
  Rank(const Layout& layout, int index, const KernelMemory& memory)
      : layout_(layout), index_(index), memory_(&memory) {}
  int expert_index() const {
    return layout_.data_parallel > 1 ? layout_.group * layout_.ranks + index_ : index_;
  }
  void load(Loader& in);
  void load_layer(Loader& in, std::int64_t layer);
  void load_recurrent(Loader& in, const RecurrentMixer& r, std::int64_t layer, LayerWeights& w);
  void load_latent(Loader& in, const MlaAttention& a, std::int64_t layer, LayerWeights& w);
  // The cache of `blocks` blocks, and the recurrent states if wanted; gives the bytes that they take.
  std::size_t allocate_cache(const ModelConfig& model, std::int64_t blocks, Arena* arena,
                             std::vector<CacheLayer>& cache,
                             std::vector<RecurrentState>* recurrent = nullptr) const;
  void allocate_caches(const ModelConfig& model);
  std::vector<KvArray> cache_arrays() const;
  std::vector<KvStoreLayout> stores() const;

  Layout layout_;
  int index_;
  const KernelMemory* memory_;
  std::shared_ptr<Arena> weights_;
  Arena cache_memory_;
  std::vector<LayerWeights> layers_;
  std::vector<CacheLayer> cache_;
  std::vector<KvArray> arrays_;                   // of it
  std::vector<std::shared_ptr<KvStore>> stores_;  // its tiers, or what is swapped to
  std::vector<RecurrentState> recurrent_;
  std::vector<CopyPiece> pieces_;  // of the copy at hand
  Linear lm_head_;
  std::vector<char> streamed_;               // by layer; empty where none is
  std::vector<std::size_t> streamed_bytes_;  // of each streamed layer in order
  std::vector<const std::byte*> bases_;      // where a streamed layer's weights were when last set
  std::unique_ptr<WeightStream> stream_;
};

}  // namespace foretoken
