// What the sources of this layer share among themselves.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "deployment/deployment.h"

namespace foretoken {

bool has_experts(const ModelConfig& model);
// Whether drafts are looked up in the text; vLLM takes the method from the model's name, too.
bool looks_up_drafts(const EngineSection& engine);

// Throws Error for techniques that the scenario asks for and this build does not model.
void refuse_unmodelled(const Scenario& scenario, const std::string& where);

// Knobs of the behaviour's own: those of other systems are refused by name, those that mean what a common key
// means are moved there.
void take_host_times(const HostTimes& times, Behavior& behavior);
// Orders of waiting requests and priorities: checks, after take_own_knobs, and what the scheduler is told.
void check_orders(const Scenario& scenario, const Behavior& behavior, const std::string& where);
void set_orders(SchedulerConfig& scheduler, const Scenario& scenario);
void take_own_knobs(EngineSection& engine, const Behavior& behavior, const std::string& where);
// Limits and graph sizes of SGLang and TensorRT-LLM, by their defaults. Own and common keys agree afterwards.
void fill_other_limits(EngineSection& engine, const Behavior& behavior, const Device& device,
                       const ModelConfig& model, const std::string& where);
// SGLang's max_running_requests by default: what the cache holds, between 2048 and 4096.
void fill_running_requests(EngineSection& engine, std::int64_t kv_cache_tokens);
// And of a pipeline's micro-batch, from them.
void fill_micro_batch_size(EngineSection& engine);
// The same for the systems of block_systems.h and vLLM V0 (block_knobs.cpp).
void take_block_knobs(EngineSection& engine, const Behavior& behavior, const std::string& where);
void fill_block_limits(EngineSection& engine, const Behavior& behavior, const std::string& device_name,
                       const ModelConfig& model, const std::string& where);
// vLLM V0's defaults: whether prompts are computed in chunks, and the tokens of a step.
bool vllm_v0_chunks(const EngineSection& engine, const ModelConfig& model);
std::int64_t vllm_v0_tokens(const Behavior& behavior, bool chunked_prefill, std::int64_t max_model_len);
void set_block_policy(SchedulerConfig& scheduler, const EngineSection& engine, const Behavior& behavior);
// llama.cpp's slots (llama_cpp.cpp): its keys, before lengths are filled (has_length: max_model_len is
// given); what is left of them, when limits are; and memory, which is what they need, no more: a verdict
// where they do not fit.
void take_slots(EngineSection& engine, const Behavior& behavior, const ModelConfig& model, bool has_length,
                const std::string& where);
void fill_slots(EngineSection& engine, const Behavior& behavior, const std::string& where);
void read_prompt_cache(Deployment& deployment, const std::string& where);  // its cache_ram
void set_slots(SchedulerConfig& scheduler, const Deployment& deployment);
std::optional<Infeasible> slots_verdict(Deployment& deployment);
void set_policy(SchedulerConfig& scheduler, const EngineSection& engine, const Behavior& behavior);

// What the scenario keeps in host memory (host_memory.cpp). Fills the keys' defaults; throws Error for keys
// that contradict each other or the behaviour.
void read_swap(Deployment& deployment, const std::string& where);
// How KV memory is laid out; fills the keys that go with it. Throws Error for what contiguous regions rule
// out.
void read_kv_layout(Deployment& deployment, const std::string& where);
// Which layers' weights stay outside device memory: sets the mapping's shards and `streaming`.
void place_weights(Deployment& deployment, const std::string& where);
// Tiers of the KV cache; fills their defaults. Throws Error for what they are not modelled with.
void read_kv_tiers(Deployment& deployment, const std::string& where);
// Once the device's memory is planned: HiCache's room, where it is a multiple of that.
void size_hicache(Deployment& deployment);
KvTiersConfig kv_tiers_config(const Deployment& deployment);
// The scenario's link to host memory, or the device's; needed by what crosses it.
void use_host_link(Deployment& deployment, const std::string& where);
double host_bytes(const Deployment& deployment);  // of host memory that one device takes
void plan_host_memory(Deployment& deployment);    // the plan's host_bytes and num_host_blocks
// A verdict where the devices of a node want more host memory than the scenario says it has.
std::optional<Infeasible> host_memory_verdict(const Deployment& deployment, const std::string& where);
// Of one kind of replicas (pool_overrides.cpp): the scenario that they alone would be, on their own device or
// the given one, resolved by resolve_on; `name` for verdicts. And what was chosen, into the pool's keys.
std::variant<Deployment, Infeasible> resolve_pool(const Scenario& scenario, const PoolSection& pool,
                                                  const std::string& name, const Resources& resources,
                                                  const ModelConfig& model, const Device& device,
                                                  const Topology& topology, double mean_tokens,
                                                  std::int64_t longest, const std::string& where);
void fill_pool(PoolSection& pool, const Deployment& chosen);
// What the kinds of `d` have in common: warnings, price, hardware (of the first kind on the scenario's
// device), and the devices in all. A verdict where these are more than hardware.count.
std::optional<Infeasible> join_kinds(Deployment& d, const Scenario& scenario,
                                     const std::vector<const PoolSection*>& pools);
// A scenario with cluster.pools (replica_pools.cpp).
std::variant<Deployment, Infeasible> resolve_replica_pools(const Scenario& scenario,
                                                           const Resources& resources,
                                                           const ModelConfig& model, const Device& device,
                                                           const Topology& topology, double mean_tokens,
                                                           std::int64_t longest, const std::string& where);
// A scenario with cluster.prefill and cluster.decode: both sides resolved by resolve_on.
std::variant<Deployment, Infeasible> resolve_pools(const Scenario& scenario, const Resources& resources,
                                                   const ModelConfig& model, const Device& device,
                                                   const Topology& topology, double mean_tokens,
                                                   std::int64_t longest, const std::string& where);
// Fills engine.lora; what ranks hold of adapters. Throws Error for what can't have adapters.
Lora take_lora(EngineSection& engine, const ModelConfig& model, const Behavior& behavior,
               const std::string& where);
// Throws Error for what beam search is not modelled with.
void refuse_with_beams(const Deployment& deployment, const std::string& where);
// Throws Error for what Hugging Face's generate() is not modelled with; its operators (transformers.cpp).
void refuse_with_transformers(const EngineSection& engine, const ModelConfig& model,
                              const std::string& where);
void take_composed_modules(Fusion& fusion, const EngineSection& engine, const ModelConfig& model);
// Throws Error for what a pool of elastic instances is not modelled with.
void refuse_with_elastic(const Deployment& deployment, const std::string& where);
LoraConfig lora_config(const Scenario& scenario);

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
