// Bytes of KV cache and of recurrent state. formulas.md 2.5.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/operators.h"

namespace foretoken {

// Whole model, no window applied, index caches excluded (the usual published figure).
double kv_bytes_per_token(const ModelConfig& model, DType kv);
// One rank: heads divided by tensor parallel and replicated where they don't divide, MLA latent replicated,
// layers of this stage, index caches included; no window applied.
double kv_bytes_per_token(const ModelConfig& model, const Shard& shard, DType kv);
// One sequence of `tokens` on one rank, windows applied, rounded up to blocks of block_size tokens (1:
// exact).
double kv_bytes(const ModelConfig& model, const Shard& shard, DType kv, std::int64_t tokens, int block_size);
// What kv_bytes(.., tokens, 1) is the sum of: layers that keep every token, those of each window, latents,
// compressed entries, and index keys.
struct KvComponent {
  std::string name;  // "attention", "attention, window of 128", "latents", "window and compressed entries",
                     // "index keys"
  std::int64_t layers = 0;
  double bytes = 0;
};
std::vector<KvComponent> kv_components(const ModelConfig& model, const Shard& shard, DType kv,
                                       std::int64_t tokens);
// Constant state of linear-attention and state-space layers, per sequence (fp32 state, bf16 convolution).
double recurrent_state_bytes(const ModelConfig& model, const Shard& shard);
double layer_state_bytes(const RecurrentMixer& mixer, int tensor_parallel);        // of one layer
double layer_convolution_bytes(const RecurrentMixer& mixer, int tensor_parallel);  // its convolution's part
// Index cache of sparse attention (fp8 key and scales), per token, whole model.
double index_cache_bytes_per_token(const ModelConfig& model);

}  // namespace foretoken
