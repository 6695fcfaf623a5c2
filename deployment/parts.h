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

// Fills engine.lora; what ranks hold of adapters. Throws Error for what can't have adapters.
Lora take_lora(EngineSection& engine, const ModelConfig& model, const Behavior& behavior,
               const std::string& where);
LoraConfig lora_config(const Scenario& scenario);

std::string model_id(const Deployment& deployment);

// Element types and weight format. Fills the engine section with what was chosen.
std::variant<Precision, Infeasible> choose_precision(EngineSection& engine, const ModelConfig& model,
                                                     const Device& device, const Behavior& behavior,
                                                     const std::string& where,
                                                     std::vector<std::string>& warnings);

}  // namespace foretoken
