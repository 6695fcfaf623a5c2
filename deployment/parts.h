// What the sources of this layer share among themselves.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "deployment/deployment.h"

namespace foretoken {

bool has_experts(const ModelConfig& model);

// Throws Error for techniques that the scenario asks for and this build does not model.
void refuse_unmodelled(const Scenario& scenario, const std::string& where);

// Element types and weight format. Fills the engine section with what was chosen.
std::variant<Precision, Infeasible> choose_precision(EngineSection& engine, const ModelConfig& model,
                                                     const Device& device, const Behavior& behavior,
                                                     const std::string& where,
                                                     std::vector<std::string>& warnings);

}  // namespace foretoken
