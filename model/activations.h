// Activation memory: training-style (Korthikanti et al. 2022) and the inference peak by liveness.
// formulas.md 2.3, 2.4.
#pragma once

#include <cstdint>

#include "model/operators.h"

namespace foretoken {

enum class Recompute { kNone, kSelective, kFull };

// Transformer block of hidden h with a heads: bytes of stored activations, fp16, no flash attention.
struct TrainingActivations {
  std::int64_t hidden, heads, layers, batch, sequence;
  int tensor_parallel = 1;
  bool sequence_parallel = false;
  Recompute recompute = Recompute::kNone;
  int pipeline_parallel = 1;
  int interleave = 1;  // virtual stages m; first stage holds L(1 + (p-1)/(p m)) layers' worth
};
double training_activation_bytes(const TrainingActivations& t);

// Peak of live activations on one rank in a forward of `tokens` rows with `sampled` logits rows.
Bytes inference_peak_bytes(const ModelConfig& model, const Shard& shard, const Precision& precision,
                           std::int64_t tokens, std::int64_t sampled);

}  // namespace foretoken
