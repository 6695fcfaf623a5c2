// A whole model in float64, one sequence, no cache, written for reading: what any executor of it must agree
// with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "executor/checkpoint.h"

namespace foretoken {

using Rows = std::vector<std::vector<double>>;

// The logits [tokens][vocab] after every token of the sequence.
Rows plain_forward(const ModelConfig& model, const Numerics& numerics, const Checkpoint& weights,
                   std::span<const std::int32_t> tokens);

}  // namespace foretoken
