// Serving systems by version: the defaults and rules that a scenario's engine.behavior stands for.
// serving-policies.md section 5; facts read from each system's own source.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "serving/serve.h"

namespace foretoken {

// What the share of device memory (gpu_memory_utilization and its like) is a share of.
enum class MemoryRule {
  kShareOfDevice,  // vLLM: the budget of everything
  kStaticShare,    // SGLang: weights and KV cache; activations and graphs live in the rest
  kShareOfRest,    // TensorRT-LLM: what weights, activations and buffers leave
  kShareOfFree     // TurboMind: what weights and buffers leave; activations live in the rest of it
};

// Host time of a kernel of eager PyTorch: from Python modules through the dispatcher to the queue of the
// device. x86 servers need 4 to 10 us. On one core of an EPYC of the Zen 5 kind transformers 4.46.3 over
// PyTorch 2.3.1 takes 210 to 270 us for the 40 kernels of a Llama layer whose tensors are too small to
// matter.
inline constexpr Seconds kPythonEnqueue{7e-6};

struct Behavior {
  std::string name;    // as modelled: "vllm-0.19"
  std::string asked;   // as written in the scenario
  std::string family;  // "vllm", "sglang", "trtllm", or the name of a block system (block_systems.h)
  int major = 0, minor = 0;
  int patch = -1;  // as asked for; -1: the newest
  SchedulerPolicy policy = SchedulerPolicy::kVllmV1;
  MemoryRule memory_rule = MemoryRule::kShareOfDevice;
  // 0.92 from vLLM 0.22; SGLang's depends on the deployment (default_memory_share)
  double gpu_memory_utilization = 0.9;
  int block_size = 16;
  bool prefix_caching = true, chunked_prefill = true, async_scheduling = false, reserve_full_prompt = true;
  bool fp8_cache_of_checkpoint = false;  // kv_cache_dtype auto follows a checkpoint that asks for fp8
  bool graph_memory_counted = false;     // captured graphs come out of the memory budget (vLLM 0.21)
  bool own_executor = false;             // this program's: no graphs are captured
  bool overlaps_operators = false;       // of nano-batches (NanoFlow): compute, memory and network together
  bool composed_modules = false;         // no fused operators: Hugging Face's modules, kernel by kernel
  bool in_python = false;                // prompts outside graphs return to Python module by module
  // Host work of a step, and more of it for each running request. A synchronous scheduler adds it to the
  // device's time, an asynchronous one hides it: step = max(device, host).
  Seconds host_step, host_per_sequence;
  Seconds ingress, egress;  // client and server time before and after the engine, per request
  // Host dispatch of one kernel outside a captured graph, and of one captured graph as a whole. Decode
  // batches up to the largest captured size are graphs.
  Seconds launch_eager, launch_graph;
  // Host time that a step with prompt tokens spends on each layer while the devices wait (piecewise graphs:
  // attention, its metadata and eager collectives in between), on one device and more for each doubling of
  // tensor parallel.
  Seconds prefill_layer, prefill_layer_doubling;
  Seconds prefill_step;  // more of a step with prompt tokens, on any number of devices
  // What a kernel inside a captured graph takes beyond (below 0: less than) the same kernel timed alone.
  Seconds kernel;
  // What operators take of the time that they are predicted to take: 1, or fitted to one's own server.
  double device_time_factor = 1;
  // How far whole servers lie from what is predicted for them: logarithmic half-widths of 90 % intervals, of
  // times to first token and of all else. The operators' errors come on top.
  double first_token_error = 0, engine_error = 0;
  std::string source;

  // Whose measured operators price it best; empty: the database's own order.
  std::string measured_engine() const {
    const bool has_own = policy == SchedulerPolicy::kSglang || policy == SchedulerPolicy::kTrtllm;
    return own_executor ? "foretoken" : has_own ? name : std::string();
  }
};

// Scheduled by a policy on top of BlockScheduler.
inline bool is_block_policy(SchedulerPolicy policy) {
  return policy != SchedulerPolicy::kVllmV1 && policy != SchedulerPolicy::kSglang &&
         policy != SchedulerPolicy::kTrtllm;
}

// "vllm-0.19", "vllm-0.19.0", "vllm" (newest modelled), "sglang-0.5.8", "trtllm-1.2.0rc6", "vllm-nightly",
// "vllm-v0", "sarathi".
// The nearest modelled version not above the one asked for, else the oldest. Error listing what this build
// models for anything else.
Behavior find_behavior(const std::string& name, const std::string& where);
// Its rules where this program's own executor runs them: no server around them, and the executor's host
// times.
Behavior as_executed(const Behavior& behavior);
std::vector<std::string> modelled_behaviors();
// Batch sizes captured as graphs by default by vLLM: 1, 2, 4, then steps of 8 (16 above 256 from 0.12) up to
// min(2 max_num_seqs, 512).
// This program records steps of a device with memory of its own, none of the processor's.
std::vector<std::int64_t> default_graph_sizes(const Behavior& behavior, std::int64_t max_num_seqs,
                                              bool own_memory = true);
std::vector<std::int64_t> vllm_graph_sizes_up_to(const Behavior& behavior, std::int64_t largest);

// The same of the other systems, up to the largest one.
std::vector<std::int64_t> graph_sizes_up_to(const Behavior& behavior, std::int64_t largest);
// Largest captured batch by default: SGLang goes by device memory and tensor parallelism.
std::int64_t default_largest_graph(const Behavior& behavior, double device_memory_gib, int tensor_parallel);
// SGLang's mem_fraction_static: the device less a reserve for activations and graphs.
double default_memory_share(const Behavior& behavior, double device_memory_gib, std::int64_t chunk,
                            std::int64_t largest_graph, int tensor_parallel, int pipeline_parallel);

// Asynchronous scheduling came to pipelines later than elsewhere.
bool default_async_scheduling(const Behavior& behavior, std::int64_t pipeline_parallel);

// vLLM's max_num_batched_tokens and max_num_seqs: 8192 and 1024 from 70 GiB up (since 0.9 not on A100), else
// 2048 and 256; 0.8 goes by its patch. SGLang's chunked_prefill_size by device memory and least
// max_running_requests. TensorRT-LLM's max_num_tokens and max_batch_size.
struct BatchLimits {
  std::int64_t max_num_batched_tokens, max_num_seqs;
};
BatchLimits default_limits(const Behavior& behavior, double device_memory_gib,
                           const std::string& device_name);

}  // namespace foretoken
