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

// Knobs of the behaviour's own: those of other systems are refused by name, those that mean what a common key
// means are moved there.
void take_host_times(const HostTimes& times, Behavior& behavior);
void take_own_knobs(EngineSection& engine, const Behavior& behavior, const std::string& where);
// Limits and graph sizes of SGLang and TensorRT-LLM, by their defaults. Own and common keys agree afterwards.
void fill_other_limits(EngineSection& engine, const Behavior& behavior, const Device& device,
                       const ModelConfig& model, const std::string& where);
// SGLang's max_running_requests by default: what the cache holds, between 2048 and 4096.
void fill_running_requests(EngineSection& engine, std::int64_t kv_cache_tokens);
void set_policy(SchedulerConfig& scheduler, const EngineSection& engine, const Behavior& behavior);

std::string model_id(const Deployment& deployment);

// Fills the scenario's speculative_config and gives what it means; the draft's deployment lacks memory and
// scheduler, which are the target's. nullopt: no speculation.
std::variant<std::optional<Speculation>, Infeasible> make_speculation(Deployment& deployment,
                                                                      const Scenario& asked,
                                                                      const Resources& resources,
                                                                      const std::string& where);
// A model given as a name, a path or {"config": ...}.
ModelConfig load_model_of(const RawJson& model, const std::string& name, const std::string& where,
                          const Resources& resources);
ModelText model_text_of(const RawJson& model, const std::string& where, const Resources& resources);

// Element types and weight format. Fills the engine section with what was chosen.
std::variant<Precision, Infeasible> choose_precision(EngineSection& engine, const ModelConfig& model,
                                                     const Device& device, const Behavior& behavior,
                                                     const std::string& where,
                                                     std::vector<std::string>& warnings);

}  // namespace foretoken
