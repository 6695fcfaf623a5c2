// Exact parameter counts by component, whole or of one shard, and the bytes that they take.
#pragma once

#include <cstdint>

#include "model/operators.h"

namespace foretoken {

// formulas.md 2.1. total is without multi-token-prediction layers; active includes the input embedding.
struct Parameters {
  std::int64_t embedding = 0;  // token and position tables, embedding norms
  std::int64_t attention = 0;  // projections, biases, q/k norms, sinks; recurrent mixers too
  std::int64_t mlp = 0;        // dense layers
  std::int64_t experts = 0;    // routed experts
  std::int64_t shared_experts = 0;
  std::int64_t router = 0;
  std::int64_t norms = 0;
  std::int64_t lm_head = 0;  // 0 when tied
  std::int64_t mtp = 0;      // multi-token prediction, not in total
  std::int64_t total = 0, active = 0;
};
Parameters count_parameters(const ModelConfig& model);

// Bytes of weights on one rank: norms, embedding, head, router and excluded modules at the activation dtype.
Bytes weight_bytes(const ModelConfig& model, const Shard& shard, const Precision& precision);

// Of one layer of this kind.
double layer_weight_bytes(const ModelConfig& model, const LayerKind& kind, const Shard& shard,
                          const Precision& precision);

}  // namespace foretoken
