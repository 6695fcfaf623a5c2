// Which weights a model has, and their shapes, whatever they are read from.
#pragma once

#include <cstdint>
#include <functional>

#include "executor/checkpoint.h"

namespace foretoken {

inline constexpr int kRoles = static_cast<int>(Role::kLinearOut) + 1;

bool is_layer_role(Role role);   // of a layer, not of the whole model
bool is_expert_role(Role role);  // of one routed expert
bool is_norm_weight(Role role);
bool is_vector(Role role);  // norms, biases, sinks, correction: one row

// 0 x 0 where the layer has no such weight.
Extent weight_extent(const ModelConfig& model, const Numerics& numerics, Role role, std::int64_t layer);
std::int64_t experts_of(const ModelConfig& model, std::int64_t layer);  // 0: no mixture

// Every weight of the model, layer by layer (0 where there is none).
void for_each_weight(
    const ModelConfig& model, const Numerics& numerics,
    const std::function<void(Role role, std::int64_t layer, std::int64_t expert, Extent extent)>& visit);

}  // namespace foretoken
