// One forward pass of eager PyTorch: a static batch of equal prompts, every operator a kernel of its own,
// scores of attention in memory, logits for every position. What models run as before they get a serving
// engine.
#pragma once

#include <array>
#include <string>

#include "model/operators.h"
#include "simulator/cost_model.h"

namespace foretoken {

struct ForwardPass {
  double seconds = 0;
  double relative_error = 0;  // half-width of the 90 % interval
  double host_seconds = 0;    // of it, devices waiting for the host that enqueues kernels
  std::array<double, 4> basis{};
};

// The behaviours that stand for it, "pytorch-2.1".
inline constexpr std::string_view kEagerFamily = "pytorch";

ForwardPass forward_pass(const ModelConfig& model, const CostModel& cost, std::int64_t batch,
                         std::int64_t length, const Precision& precision);

}  // namespace foretoken
