// The one operator list: what a forward pass of a model executes on one rank for a given amount of work.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/expert_load.h"
#include "model/lora.h"
#include "model/model_config.h"
#include "model/operator.h"

namespace foretoken {

// The part of a model that one rank holds.
struct Shard {
  int tensor_parallel = 1;      // attention and dense layers
  int expert_parallel = 1;      // ranks that split the experts
  int moe_tensor_parallel = 1;  // ranks that split each expert's width
  int data_parallel = 1;        // attention data-parallel ranks that share the experts (1: none)
  int devices_per_node = 8;
  int pipeline_parallel = 1;  // stages, of which this is `stage`
  int stage = 0;
  int first_layer = 0, last_layer = -1;  // [first, last); -1: all layers
  bool has_embedding = true, has_head = true;
  // Norms and residual stream split by tokens among tensor-parallel ranks: reduce-scatter before them and
  // all-gather after them instead of an all-reduce (Korthikanti et al., MLSys 2023, section 4.2.2).
  bool sequence_parallel = false;
  // Expert-parallel ranks send each token to the ranks of its experts; else every rank gets all tokens of the
  // group and their results are reduced and scattered.
  bool expert_all_to_all = true;
  // How tokens fall on the experts; null: as in the measured rows, and evenly over the ranks.
  std::shared_ptr<const ExpertLoad> expert_load;
  std::int64_t redundant_experts = 0;  // copies of experts, over all expert-parallel ranks
  // Weights outside device memory. The first offloaded_layers of this rank read theirs over the link to host
  // memory as they compute; streamed_layers of the whole model, evenly spread, are fetched before they do.
  int offloaded_layers = 0, streamed_layers = 0;
  bool streams_from_storage = false;
  Lora lora;
};

// Is this layer of the model one of the shard's streamed ones?
bool is_streamed(const ModelConfig& model, const Shard& shard, int layer);

struct PrefillChunk {
  std::int64_t new_tokens = 0, cached = 0;
  std::int64_t count = 1;  // equal chunks
};

// One step of one rank: what the batch asks of the operators. deployment::work() makes it from a batch.
struct Work {
  std::vector<PrefillChunk> prefill;
  std::int64_t decode_sequences = 0;
  std::int64_t decode_queries = 1;  // tokens a decoding sequence verifies (1 + draft width)
  // Sum over decoding sequences of attended tokens (new ones included), one for each attention group of the
  // model (ModelConfig::attention_windows): min(context, window) summed. Missing entries are derived from the
  // first.
  std::vector<double> contexts;
  std::int64_t padded_tokens = 0;  // rows that token-wise operators compute; 0: exactly the tokens
  std::int64_t sampled_rows = 0;
  std::int64_t group_tokens = 0;  // tokens of all ranks that share the experts; 0: own tokens x data_parallel
  double expert_imbalance = 1.0;
  bool one_attention_call = false;  // prompts and decoding sequences in one attention kernel
  std::int64_t swap_out_tokens = 0, swap_in_tokens = 0;  // of the cache, copied to host memory and back
  std::int64_t shifted_tokens = 0;  // of the cache, whose keys are turned to another place
  std::int64_t adapters = 0;        // distinct low-rank adapters of the batch; 0: none
  std::int64_t adapter_loads = 0;   // adapters copied from host memory before the step

  std::int64_t tokens() const {
    std::int64_t n = decode_sequences * decode_queries;
    for (const auto& c : prefill) n += c.new_tokens * c.count;
    return n;
  }
  // Asks for nothing; the lists keep their memory.
  void clear() {
    Work none;
    none.prefill.swap(prefill), none.contexts.swap(contexts);
    none.prefill.clear(), none.contexts.clear();
    *this = std::move(none);
  }
};

// Which neighbouring operators run as one kernel. Data, one recipe a behaviour.
struct Fusion {
  bool norm_residual = true;   // residual add inside the norm
  bool qkv = true;             // one GEMM for q, k and v
  bool gate_up = true;         // one GEMM for gate and up
  bool rope_kv_write = false;  // rotary embedding and cache write in one kernel
  // Norms and gates whose only readers are products of 8 bits (takes_8_bits()) write these.
  bool quantisation = false;
  bool fused_moe = true;  // one composite MoE operator
  // Attention in one kernel. Otherwise scores are a matrix product into memory, scaled, masked and normalised
  // there, and multiplied with the values (eager PyTorch; prompts only).
  bool attention = true;
  bool sorts_logits = false;  // the sampler finds the likeliest tokens (top-k, top-p)
  bool ranks_beams = false;   // beam search: log probabilities, and the likeliest of each row
  bool activation = true;  // one kernel, also where the framework composes it (DenseMlp::activation_kernels)
  // Modules of Hugging Face transformers: root-mean-square norms, rotary embeddings and gates composed of
  // small kernels, and a cache that is copied to where it has room for the new tokens (torch.cat).
  bool composed = false;
};
// Which operators Hugging Face's eager modules run as one kernel.
Fusion eager_fusion(const ModelConfig& model);

struct OpList {
  struct Kind {
    std::string name;                          // "attention+moe"
    std::int64_t layers = 0;                   // on this rank
    std::int64_t offloaded = 0, streamed = 0;  // of them
  };
  std::vector<Kind> kinds;
  std::vector<std::int64_t> windows;  // by Op::attention_group
  std::vector<Op> ops;
};

// Numeric formats of a deployment.
struct Precision {
  DType activation = DType::kBf16;
  DType kv = DType::kBf16;
  WeightFormat weights = WeightFormat::kPlain;  // of the linear layers; excluded modules stay plain
};

// Formats in which the checkpoint itself is served: its quantisation and cache type; fp32 checkpoints run in
// bf16, as engines do by default.
Precision checkpoint_precision(const ModelConfig& model);

// Why the model can't be split so, with what to change; empty when it can.
std::string shard_problem(const ModelConfig& model, const Shard& shard,
                          WeightFormat format = WeightFormat::kPlain);

// Layers [first, second) of the shard. Without explicit bounds the stages get equal numbers, the first ones
// one more.
std::pair<int, int> layer_range(const ModelConfig& model, const Shard& shard);

OpList operators(const ModelConfig& model, const Shard& shard, const Work& work, const Precision& precision,
                 const Fusion& fusion = {});
// Into a list whose memory is used again: once it has held a list as long, nothing is allocated (with fused
// experts, which are one operator).
void operators(const ModelConfig& model, const Shard& shard, const Work& work, const Precision& precision,
               const Fusion& fusion, OpList& list);

}  // namespace foretoken
