// The scenario file as structs with field tables: what a user writes, before anything is derived. A resolved
// scenario has every optional filled and is stored in every result.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/fields.h"
#include "base/json.h"
#include "serving/router.h"
#include "serving/workload.h"

namespace foretoken {

inline constexpr std::string_view kDtypeNames[] = {"auto", "bfloat16", "float16", "float32"};
inline constexpr std::string_view kKvDtypeNames[] = {"auto",     "bfloat16", "float16", "fp8",
                                                     "fp8_e4m3", "fp8_e5m2", "int8"};
inline constexpr std::string_view kQuantizationNames[] = {"none", "fp8",  "fp8_block", "int8", "int4_wo",
                                                          "awq",  "gptq", "nvfp4",     "mxfp4"};
inline constexpr std::string_view kScaleMetricNames[] = {"outstanding", "ttft_ms"};
inline constexpr std::string_view kObjectiveNames[] = {"devices", "usd_per_million_tokens",
                                                       "goodput_per_device", "p99_e2el_ms"};

inline constexpr std::string_view kPreemptionNames[] = {"recompute", "swap"};
inline constexpr std::string_view kKvLayoutNames[] = {"paged", "contiguous", "buddy"};
inline constexpr std::string_view kKvReservationNames[] = {"max_model_len", "power_of_two", "exact"};
inline constexpr std::string_view kStreamSourceNames[] = {"host", "storage"};

inline constexpr std::string_view kSchedulingPolicyNames[] = {"fcfs", "priority"};
inline constexpr std::string_view kSchedulePolicyNames[] = {
    "fcfs", "lpm", "dfs-weight", "lof", "random", "hrrn", "shortest-prefill-first"};
inline constexpr std::string_view kCapacityPolicyNames[] = {"guaranteed_no_evict", "max_utilization",
                                                            "static_batch"};
inline constexpr std::string_view kChunkingPolicyNames[] = {"first_come_first_served", "equal_progress"};

inline constexpr std::string_view kAdapterAssignmentNames[] = {"uniform", "zipf"};

struct HardwareConfig {
  std::string device;
  std::optional<std::int64_t> count;  // default: what one replica takes x replicas
  std::int64_t devices_per_node = 8;
  std::optional<double> usd_per_device_hour;
  std::optional<std::string> scaleup_bandwidth, network_bandwidth, host_memory, host_link_bandwidth,
      storage_bandwidth;  // with units
};
template <>
inline constexpr auto fields_of<HardwareConfig> = std::tuple{
    field("device", &HardwareConfig::device, "device name or alias; `foretoken hw list` shows them"),
    field("count", &HardwareConfig::count, "devices in all", at_least(1)),
    field("devices_per_node", &HardwareConfig::devices_per_node, "devices that share a node", at_least(1)),
    field("usd_per_device_hour", &HardwareConfig::usd_per_device_hour,
          "price of one device for an hour, in dollars", at_least(0)),
    field("scaleup_bandwidth", &HardwareConfig::scaleup_bandwidth,
          "link inside a node, one direction a device, such as \"450 GB/s\" (default: the database)"),
    field("network_bandwidth", &HardwareConfig::network_bandwidth,
          "link between nodes, one direction a device, such as \"50 GB/s\" (default: the database)"),
    field("host_memory", &HardwareConfig::host_memory, "host memory of a node, such as \"2 TiB\""),
    field(
        "host_link_bandwidth", &HardwareConfig::host_link_bandwidth,
        "link between a device and host memory, one direction, such as \"64 GB/s\" (default: the database)"),
    field("storage_bandwidth", &HardwareConfig::storage_bandwidth,
          "reading from storage into a device, for each device, such as \"6 GB/s\"")};

// Weights that are not kept in device memory but fetched before their layer computes, each step anew.
struct LayerStreaming {
  std::optional<std::int64_t> layers, prefetch_depth;
  std::optional<bool> overlap;
  std::optional<std::string> source;
};
template <>
inline constexpr auto fields_of<LayerStreaming> = std::tuple{
    field("layers", &LayerStreaming::layers,
          "layers that are streamed, spread evenly over the model (default: none)", at_least(1)),
    field("prefetch_depth", &LayerStreaming::prefetch_depth,
          "layers in device memory at once, a ring that the fetches fill (default: 2)", at_least(1)),
    field(
        "overlap", &LayerStreaming::overlap,
        "fetch while earlier layers compute (default: yes, but not in this program's own executor, which has "
        "one thread)"),
    field("source", &LayerStreaming::source, "where streamed weights are kept (default: host)",
          one_of(kStreamSourceNames))};

inline constexpr std::string_view kKvTierKinds[] = {"host", "storage"};
inline constexpr std::string_view kKvTierWritePolicies[] = {"write_through", "write_through_selective",
                                                            "write_back"};
inline constexpr std::string_view kKvTierEvictions[] = {"lru", "lfu", "length_aware"};
inline constexpr std::string_view kKvLoadPolicies[] = {"always", "cost"};
inline constexpr std::string_view kKvLoadModes[] = {"async", "layerwise"};

// Memory for KV blocks below the device's, in the order in which it is searched.
struct KvTierSection {
  std::string kind = "host";
  std::optional<double> capacity_gib, latency_us;
  std::optional<std::string> bandwidth, write_policy;
  std::string eviction_policy = "lru";
  bool shared = false;
};
template <>
inline constexpr auto fields_of<KvTierSection> = std::tuple{
    field("kind", &KvTierSection::kind, "where its blocks lie", one_of(kKvTierKinds)),
    field("capacity_gib", &KvTierSection::capacity_gib,
          "room for each device's blocks, in GiB; of a shared tier, all of it", above_up_to(0, 1e9)),
    field("bandwidth", &KvTierSection::bandwidth,
          "of each device's link in either direction, such as \"50 GB/s\"; of a shared tier, all devices' "
          "together (default: host_link_bandwidth or storage_bandwidth)"),
    field("latency_us", &KvTierSection::latency_us, "before the first block of a copy comes", at_least(0)),
    field("shared", &KvTierSection::shared, "one for all engines; else each has its own"),
    field("write_policy", &KvTierSection::write_policy,
          "a block comes here when it is computed, when it is used for the second time, or when its room in "
          "the "
          "memory above is needed (default: write_through; of a lower tier: write_back)",
          one_of(kKvTierWritePolicies)),
    field("eviction_policy", &KvTierSection::eviction_policy,
          "who leaves a full tier: the least recently used block; the least often used; of these the one "
          "deepest in its prompt",
          one_of(kKvTierEvictions))};

// Terms of the engine model, where a measurement of one's own server says otherwise than the behaviour does.
struct HostTimes {
  std::optional<double> step_us, sequence_us, ingress_ms, egress_ms, launch_eager_us, launch_graph_us,
      prefill_step_ms, prefill_layer_us, prefill_layer_doubling_us, kernel_us;
};
template <>
inline constexpr auto fields_of<HostTimes> = std::tuple{
    field("step_us", &HostTimes::step_us, "host work of a step", at_least(0)),
    field("sequence_us", &HostTimes::sequence_us, "host work of a step for each running request",
          at_least(0)),
    field("ingress_ms", &HostTimes::ingress_ms, "from the client to the engine's queue", at_least(0)),
    field("egress_ms", &HostTimes::egress_ms, "from the engine to the client", at_least(0)),
    field("launch_eager_us", &HostTimes::launch_eager_us, "dispatch of a kernel outside graphs", at_least(0)),
    field("launch_graph_us", &HostTimes::launch_graph_us, "launch of a captured graph", at_least(0)),
    field("prefill_step_ms", &HostTimes::prefill_step_ms, "a step with prompt tokens, beyond its kernels",
          at_least(0)),
    field("prefill_layer_us", &HostTimes::prefill_layer_us, "the same, for each layer", at_least(0)),
    field("prefill_layer_doubling_us", &HostTimes::prefill_layer_doubling_us,
          "the same, for each layer and doubling of tensor parallel", at_least(0)),
    field("kernel_us", &HostTimes::kernel_us,
          "a kernel in a captured graph beside its time alone; negative: kernels overlap")};

// Low-rank adapters, by vLLM's flags (--enable-lora, --max-loras, ...), and who asks for which.
struct LoraSection {
  std::int64_t max_loras = 1, max_lora_rank = 16;
  std::optional<std::int64_t> max_cpu_loras, num_adapters;
  std::vector<std::string> target_modules;
  std::string assignment = "uniform";
  double zipf_exponent = 1;
};
template <>
inline constexpr auto fields_of<LoraSection> = std::tuple{
    field("max_loras", &LoraSection::max_loras, "distinct adapters in a batch, and slots in device memory",
          between(1, 4096)),
    field("max_lora_rank", &LoraSection::max_lora_rank, "rank of the adapters", between(1, 4096)),
    field("max_cpu_loras", &LoraSection::max_cpu_loras,
          "adapters that host memory holds (default: all of num_adapters)", at_least(1)),
    field("num_adapters", &LoraSection::num_adapters, "adapters that requests ask for (default: max_loras)",
          between(1, 1000000)),
    field("target_modules", &LoraSection::target_modules,
          "projections with adapters: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj "
          "(default: those of them that every layer has)"),
    field("assignment", &LoraSection::assignment, "how requests are spread over adapters",
          one_of(kAdapterAssignmentNames)),
    field("zipf_exponent", &LoraSection::zipf_exponent,
          "zipf: adapter i is asked for in proportion to i to the power of minus this", above_up_to(0, 10))};
// vLLM's --speculative-config, with the acceptance that a prediction needs and the tree that is drafted.
struct SpeculativeSection {
  std::optional<std::string> method;  // default: draft_model if there is a model
  RawJson model;
  std::optional<std::string> quantization;
  std::optional<std::int64_t> num_speculative_tokens, draft_tensor_parallel_size;
  std::optional<std::vector<double>> acceptance_rate;
  std::optional<double> proposal_rate;
  std::optional<std::vector<std::int64_t>> tree_widths;
  std::optional<std::int64_t> prompt_lookup_max, prompt_lookup_min;
};
template <>
inline constexpr auto fields_of<SpeculativeSection> = std::tuple{
    field("method", &SpeculativeSection::method,
          "who drafts: draft_model, or ngram (eagle, mtp, medusa and others are not modelled yet)"),
    field("model", &SpeculativeSection::model,
          "the draft model: preset, path of a Hugging Face config.json, or {\"config\": {...}}"),
    field("quantization", &SpeculativeSection::quantization,
          "weight format of the draft model; null takes the model's own", one_of(kQuantizationNames)),
    field("num_speculative_tokens", &SpeculativeSection::num_speculative_tokens,
          "tokens drafted for each sequence and step", between(1, 1024)),
    field("draft_tensor_parallel_size", &SpeculativeSection::draft_tensor_parallel_size,
          "devices that split the draft model; must be tensor_parallel_size", at_least(1)),
    field("acceptance_rate", &SpeculativeSection::acceptance_rate,
          "probability that the token drafted at each position is accepted if those before it were; the last "
          "number holds for the positions after it. `run` measures it",
          between(0, 1)),
    field("proposal_rate", &SpeculativeSection::proposal_rate,
          "ngram: share of a sequence's steps after which there is something to draft (default: 1). `run` "
          "measures it",
          between(0, 1)),
    field(
        "tree_widths", &SpeculativeSection::tree_widths,
        "branches drafted after every token of each level, such as 3,2,1: 3 + 6 + 6 tokens; default: a chain",
        between(1, 64)),
    field("prompt_lookup_max", &SpeculativeSection::prompt_lookup_max,
          "ngram: most tokens that must repeat before what followed them is drafted", between(1, 64)),
    field("prompt_lookup_min", &SpeculativeSection::prompt_lookup_min, "ngram: fewest such tokens",
          between(1, 64))};

struct EngineSection {
  std::string behavior = "vllm";
  std::int64_t tensor_parallel_size = 1, pipeline_parallel_size = 1, data_parallel_size = 1,
               expert_parallel_size = 1;
  bool enable_expert_parallel = false;  // expert_parallel_size = tensor x data
  bool enable_eplb = false;
  std::int64_t num_redundant_experts = 0;
  std::optional<bool> enable_sequence_parallelism;
  std::string dtype = "auto";
  std::optional<std::string> quantization;  // null: the model's quantization_config
  std::string kv_cache_dtype = "auto";
  std::optional<std::int64_t> max_model_len, max_num_seqs, max_num_batched_tokens, block_size;
  std::optional<double> gpu_memory_utilization;
  std::optional<bool> enable_chunked_prefill, enable_prefix_caching;
  std::optional<std::int64_t> long_prefill_token_threshold;
  std::optional<bool> scheduler_reserve_full_isl, async_scheduling;
  std::optional<std::string> scheduling_policy;
  std::optional<double> watermark;
  bool enforce_eager = false;
  std::optional<std::vector<std::int64_t>> cuda_graph_sizes;
  std::optional<std::int64_t> max_cudagraph_capture_size;
  std::optional<bool> fuse_norm_residual, fuse_rope_kv_write;
  std::optional<std::int64_t> num_gpu_blocks_override;
  // SGLang's own (refused with another behaviour). Those that mean what a key above means are resolved into
  // it: max_running_requests, page_size, mem_fraction_static, disable_radix_cache, disable_overlap_schedule.
  std::optional<std::int64_t> chunked_prefill_size, max_prefill_tokens, max_running_requests, page_size;
  std::optional<double> mem_fraction_static, schedule_conservativeness;
  std::optional<std::string> schedule_policy;
  std::optional<bool> enable_mixed_chunk, disable_radix_cache, disable_overlap_schedule;
  std::optional<std::int64_t> scheduler_recv_interval, pp_max_micro_batch_size;
  std::optional<bool> enable_dynamic_chunking;
  std::optional<bool> enable_priority_scheduling, schedule_low_priority_values_first,
      disable_priority_preemption;
  std::optional<std::int64_t> priority_scheduling_preemption_threshold;
  // TensorRT-LLM's own, likewise.
  std::optional<std::int64_t> max_batch_size, max_num_tokens, tokens_per_block, chunk_unit_size;
  std::optional<double> kv_cache_free_gpu_memory_fraction;
  std::optional<bool> enable_chunked_context, enable_block_reuse;
  std::optional<std::string> capacity_scheduler_policy, context_chunking_policy;
  std::optional<std::int64_t> batch_wait_timeout_iters;
  std::optional<double> batch_wait_max_tokens_ratio;
  // Of the systems with a small scheduler of their own, likewise.
  std::optional<std::int64_t> chunk_size, low_chunk_size, high_chunk_size, chunk_schedule_max_tokens,
      chunk_schedule_stages;
  std::optional<bool> enable_dynamic_chunking_schedule, remove_padding;
  std::optional<std::int64_t> max_queue_delay_microseconds;
  std::optional<std::vector<std::int64_t>> preferred_batch_size;
  std::optional<std::int64_t> running_max_req_size, batch_max_tokens, router_max_wait_tokens;
  std::optional<double> mem_fraction;
  std::optional<std::int64_t> max_ragged_batch_size, max_ragged_sequence_count;
  std::optional<std::int64_t> max_batch_prefill_tokens, max_batch_total_tokens, max_waiting_tokens;
  std::optional<double> waiting_served_ratio;
  std::optional<std::int64_t> n_parallel, n_batch, n_ubatch;
  std::optional<std::int64_t> max_prefill_token_num, num_tokens_per_iter, max_prefill_iters, prefill_interval,
      cache_block_seq_len;
  std::optional<double> cache_max_entry_count;
  std::optional<std::int64_t> global_batch_size, average_prefill_length, average_decode_length;
  HostTimes host_times;
  std::optional<std::string> preemption_mode;
  std::optional<double> swap_space_gib, cpu_offload_gib;
  std::optional<std::string> kv_layout, kv_reservation;
  LayerStreaming layer_streaming;
  std::optional<LoraSection> lora;
  std::optional<SpeculativeSection> speculative_config;
  std::vector<KvTierSection> kv_tiers;
  std::optional<std::string> kv_load_policy, kv_load_mode;
};
template <>
inline constexpr auto fields_of<EngineSection> = std::tuple{
    field("behavior", &EngineSection::behavior,
          "serving system and version whose rules apply, such as vllm-0.19"),
    field("tensor_parallel_size", &EngineSection::tensor_parallel_size, "devices that split every layer",
          at_least(1)),
    field("pipeline_parallel_size", &EngineSection::pipeline_parallel_size,
          "groups of layers on devices of their own", at_least(1)),
    field("data_parallel_size", &EngineSection::data_parallel_size, "copies of the attention part",
          at_least(1)),
    field("expert_parallel_size", &EngineSection::expert_parallel_size,
          "ranks that split the experts; divides tensor x data", at_least(1)),
    field("enable_expert_parallel", &EngineSection::enable_expert_parallel,
          "shorthand for expert_parallel_size = tensor x data"),
    field("enable_eplb", &EngineSection::enable_eplb,
          "place experts so that the expert-parallel ranks have equal loads (with workload.expert_skew)"),
    field("num_redundant_experts", &EngineSection::num_redundant_experts,
          "with enable_eplb: copies of the busiest experts, over all expert-parallel ranks",
          between(0, 65536)),
    field("enable_sequence_parallelism", &EngineSection::enable_sequence_parallelism,
          "split norms and residual stream by tokens over the tensor-parallel ranks"),
    field("dtype", &EngineSection::dtype, "type of activations and plain weights", one_of(kDtypeNames)),
    field("quantization", &EngineSection::quantization, "weight format; null takes the model's own",
          one_of(kQuantizationNames)),
    field("kv_cache_dtype", &EngineSection::kv_cache_dtype, "element type of the KV cache",
          one_of(kKvDtypeNames)),
    field("max_model_len", &EngineSection::max_model_len, "longest prompt plus output, in tokens",
          at_least(2)),
    field("max_num_seqs", &EngineSection::max_num_seqs, "sequences that run at once, on each rank",
          at_least(1)),
    field("max_num_batched_tokens", &EngineSection::max_num_batched_tokens, "tokens in one step",
          at_least(1)),
    field("block_size", &EngineSection::block_size, "tokens in one KV block", at_least(1)),
    field("gpu_memory_utilization", &EngineSection::gpu_memory_utilization,
          "share of device memory that may be used", above_up_to(0, 1)),
    field("enable_chunked_prefill", &EngineSection::enable_chunked_prefill, "split long prompts over steps"),
    field("enable_prefix_caching", &EngineSection::enable_prefix_caching,
          "reuse KV blocks of equal prompt beginnings"),
    field("long_prefill_token_threshold", &EngineSection::long_prefill_token_threshold,
          "most tokens of one prompt in a step; 0 is no limit", at_least(0)),
    field("scheduler_reserve_full_isl", &EngineSection::scheduler_reserve_full_isl,
          "admit a prompt only if blocks for all of it are free"),
    field("async_scheduling", &EngineSection::async_scheduling, "schedule the next step while this one runs"),
    field("scheduling_policy", &EngineSection::scheduling_policy,
          "vLLM: order of waiting requests, and who is preempted", one_of(kSchedulingPolicyNames)),
    field("watermark", &EngineSection::watermark, "share of blocks kept free at admission", between(0, 1)),
    field("enforce_eager", &EngineSection::enforce_eager, "no CUDA graphs"),
    field("cuda_graph_sizes", &EngineSection::cuda_graph_sizes, "batch sizes with a captured graph"),
    field("max_cudagraph_capture_size", &EngineSection::max_cudagraph_capture_size,
          "largest of the default sizes with a captured graph", at_least(1)),
    field("fuse_norm_residual", &EngineSection::fuse_norm_residual,
          "add to the residual stream inside the next norm (default: true)"),
    field("fuse_rope_kv_write", &EngineSection::fuse_rope_kv_write,
          "turn queries and keys and write the KV cache in one kernel (default: false)"),
    field("num_gpu_blocks_override", &EngineSection::num_gpu_blocks_override,
          "KV blocks, whatever memory says", at_least(2)),
    field("chunked_prefill_size", &EngineSection::chunked_prefill_size,
          "SGLang: prompt tokens in one prefill step; -1 never splits a prompt", at_least(-1)),
    field("max_prefill_tokens", &EngineSection::max_prefill_tokens,
          "SGLang: prompt tokens beyond which a prefill step takes no further request", at_least(1)),
    field("max_running_requests", &EngineSection::max_running_requests, "SGLang's max_num_seqs", at_least(1)),
    field("page_size", &EngineSection::page_size, "SGLang's block_size", at_least(1)),
    field("mem_fraction_static", &EngineSection::mem_fraction_static,
          "SGLang: share of device memory for weights and KV cache", above_up_to(0, 1)),
    field("schedule_conservativeness", &EngineSection::schedule_conservativeness,
          "SGLang: scales the share of the remaining output that admission expects", above(0)),
    field("schedule_policy", &EngineSection::schedule_policy, "SGLang: order of waiting requests"),
    field("enable_mixed_chunk", &EngineSection::enable_mixed_chunk,
          "SGLang: running requests decode in prefill steps too"),
    field("disable_radix_cache", &EngineSection::disable_radix_cache,
          "SGLang: enable_prefix_caching turned round"),
    field("disable_overlap_schedule", &EngineSection::disable_overlap_schedule,
          "SGLang: async_scheduling turned round"),
    field("pp_max_micro_batch_size", &EngineSection::pp_max_micro_batch_size,
          "SGLang: running requests of a pipeline's micro-batch (default: max_num_seqs / stages)",
          at_least(1)),
    field("enable_dynamic_chunking", &EngineSection::enable_dynamic_chunking,
          "SGLang: chunks by a fit of measured prefill times in a pipeline; not modelled, only false"),
    field("scheduler_recv_interval", &EngineSection::scheduler_recv_interval,
          "SGLang: decode steps between two looks at the queue of new requests", at_least(1)),
    field("enable_priority_scheduling", &EngineSection::enable_priority_scheduling,
          "SGLang: waiting requests by priority, higher values first"),
    field("schedule_low_priority_values_first", &EngineSection::schedule_low_priority_values_first,
          "SGLang: lower values first"),
    field("disable_priority_preemption", &EngineSection::disable_priority_preemption,
          "SGLang: running requests don't give way to those of better priority"),
    field("priority_scheduling_preemption_threshold",
          &EngineSection::priority_scheduling_preemption_threshold,
          "SGLang: by how much more a priority must be better to preempt (default: 10)", at_least(0)),
    field("max_batch_size", &EngineSection::max_batch_size,
          "max_num_seqs of TensorRT-LLM, Orca, FasterTransformer, Triton, TGI and LMDeploy", at_least(1)),
    field("max_num_tokens", &EngineSection::max_num_tokens, "TensorRT-LLM's max_num_batched_tokens",
          at_least(1)),
    field("tokens_per_block", &EngineSection::tokens_per_block, "TensorRT-LLM's block_size", at_least(1)),
    field("chunk_unit_size", &EngineSection::chunk_unit_size,
          "TensorRT-LLM: chunks of prompts are multiples of this (default: tokens_per_block)", at_least(1)),
    field("kv_cache_free_gpu_memory_fraction", &EngineSection::kv_cache_free_gpu_memory_fraction,
          "TensorRT-LLM: share of the memory left after loading that the KV cache takes", above_up_to(0, 1)),
    field("enable_chunked_context", &EngineSection::enable_chunked_context,
          "TensorRT-LLM's enable_chunked_prefill"),
    field("enable_block_reuse", &EngineSection::enable_block_reuse, "TensorRT-LLM's enable_prefix_caching"),
    field("capacity_scheduler_policy", &EngineSection::capacity_scheduler_policy,
          "TensorRT-LLM: who may hold KV blocks", one_of(kCapacityPolicyNames)),
    field("context_chunking_policy", &EngineSection::context_chunking_policy,
          "TensorRT-LLM: how prompts share a step", one_of(kChunkingPolicyNames)),
    field("batch_wait_timeout_iters", &EngineSection::batch_wait_timeout_iters,
          "TensorRT-LLM: most steps that prompts wait for company while others generate; 0 is none",
          at_least(0)),
    field("batch_wait_max_tokens_ratio", &EngineSection::batch_wait_max_tokens_ratio,
          "TensorRT-LLM: share of max_num_tokens that ends that wait", between(0, 1)),
    field("chunk_size", &EngineSection::chunk_size, "Sarathi-Serve's max_num_batched_tokens", at_least(1)),
    field("enable_dynamic_chunking_schedule", &EngineSection::enable_dynamic_chunking_schedule,
          "Sarathi-Serve: chunks shrink while a prompt is computed"),
    field("low_chunk_size", &EngineSection::low_chunk_size,
          "Sarathi-Serve: tokens of a prompt's last chunks, a multiple of 32", at_least(1)),
    field("high_chunk_size", &EngineSection::high_chunk_size,
          "Sarathi-Serve: tokens of its first ones, a multiple of 32 (default: chunk_size)", at_least(1)),
    field("chunk_schedule_max_tokens", &EngineSection::chunk_schedule_max_tokens,
          "Sarathi-Serve: prompt tokens over which they shrink (default: max_model_len)", at_least(1)),
    field("chunk_schedule_stages", &EngineSection::chunk_schedule_stages,
          "Sarathi-Serve: steps in which they shrink (default: 16)", at_least(1)),
    field("remove_padding", &EngineSection::remove_padding,
          "FasterTransformer, Triton: pack prompts instead of padding them to the longest (default: true)"),
    field("max_queue_delay_microseconds", &EngineSection::max_queue_delay_microseconds,
          "Triton: longest that a request waits for others to join its batch", at_least(0)),
    field("preferred_batch_size", &EngineSection::preferred_batch_size,
          "Triton: batch sizes that do not wait (default: max_batch_size)", at_least(1)),
    field("running_max_req_size", &EngineSection::running_max_req_size, "LightLLM's max_num_seqs",
          at_least(1)),
    field("batch_max_tokens", &EngineSection::batch_max_tokens, "LightLLM's max_num_batched_tokens",
          at_least(1)),
    field("mem_fraction", &EngineSection::mem_fraction, "LightLLM's gpu_memory_utilization",
          above_up_to(0, 1)),
    field("router_max_wait_tokens", &EngineSection::router_max_wait_tokens,
          "LightLLM: decode steps between two looks at the queue (default: 10)", at_least(0)),
    field("max_ragged_batch_size", &EngineSection::max_ragged_batch_size,
          "DeepSpeed-FastGen's max_num_batched_tokens", at_least(1)),
    field("max_ragged_sequence_count", &EngineSection::max_ragged_sequence_count,
          "DeepSpeed-FastGen's max_num_seqs", at_least(1)),
    field("max_batch_prefill_tokens", &EngineSection::max_batch_prefill_tokens,
          "TGI's max_num_batched_tokens", at_least(1)),
    field("max_batch_total_tokens", &EngineSection::max_batch_total_tokens,
          "TGI: prompt and output tokens of the running batch (default: what the KV cache holds)",
          at_least(1)),
    field("waiting_served_ratio", &EngineSection::waiting_served_ratio,
          "TGI: share of the running requests that must wait before they may join (default: 0.3)",
          at_least(0)),
    field("max_waiting_tokens", &EngineSection::max_waiting_tokens,
          "TGI: tokens of the running batch after which fewer may join (default: 20)", at_least(0)),
    field("n_parallel", &EngineSection::n_parallel, "llama.cpp's max_num_seqs: slots", at_least(1)),
    field("n_batch", &EngineSection::n_batch, "llama.cpp's max_num_batched_tokens", at_least(1)),
    field("n_ubatch", &EngineSection::n_ubatch, "llama.cpp: tokens computed at once (default: 512)",
          at_least(1)),
    field("max_prefill_token_num", &EngineSection::max_prefill_token_num,
          "LMDeploy: prompt tokens of a step (default: 8192 for TurboMind, 4096 for the PyTorch engine)",
          at_least(1)),
    field("num_tokens_per_iter", &EngineSection::num_tokens_per_iter,
          "TurboMind: tokens that a step takes at least, if there are so many (default: 0)", at_least(0)),
    field("max_prefill_iters", &EngineSection::max_prefill_iters,
          "TurboMind: most steps that a prompt may be spread over for its sake (default: 1)", at_least(1)),
    field("prefill_interval", &EngineSection::prefill_interval,
          "LMDeploy's PyTorch engine: decode steps between two looks at the queue (default: 16)",
          at_least(1)),
    field("cache_block_seq_len", &EngineSection::cache_block_seq_len, "TurboMind's block_size", at_least(1)),
    field("cache_max_entry_count", &EngineSection::cache_max_entry_count,
          "LMDeploy's gpu_memory_utilization: share of the free memory", above_up_to(0, 1)),
    field("global_batch_size", &EngineSection::global_batch_size, "NanoFlow's max_num_batched_tokens",
          at_least(1)),
    field("average_prefill_length", &EngineSection::average_prefill_length,
          "NanoFlow: prompt tokens that it expects of a request (default: the workload's mean)", at_least(1)),
    field("average_decode_length", &EngineSection::average_decode_length,
          "NanoFlow: output tokens that it expects (default: the workload's mean)", at_least(1)),
    field("host_times", &EngineSection::host_times, "terms of the engine model (default: the behaviour's)"),
    field("speculative_config", &EngineSection::speculative_config,
          "speculative decoding: a cheap guess at several tokens, verified in one step"),
    field("preemption_mode", &EngineSection::preemption_mode,
          "what a sequence that is preempted for want of KV blocks does with them (default: recompute)",
          one_of(kPreemptionNames)),
    field(
        "kv_layout", &EngineSection::kv_layout,
        "KV memory of a sequence in blocks as it grows, or in one region from the start, found first-fit or "
        "by a buddy allocator (default: paged)",
        one_of(kKvLayoutNames)),
    field("kv_reservation", &EngineSection::kv_reservation,
          "tokens of a contiguous region: the longest sequence's, prompt and output rounded up to a power of "
          "two, or prompt and output as they will be (default: max_model_len)",
          one_of(kKvReservationNames)),
    field("swap_space_gib", &EngineSection::swap_space_gib,
          "host memory of each device for swapped blocks, in GiB (default with swap: 4)", at_least(0)),
    field("cpu_offload_gib", &EngineSection::cpu_offload_gib,
          "weights of each device that stay in host memory and are read from there, in GiB", at_least(0)),
    field("layer_streaming", &EngineSection::layer_streaming, "weights fetched layer by layer"),
    field("lora", &EngineSection::lora, "low-rank adapters (vLLM)"),
    field("kv_tiers", &EngineSection::kv_tiers,
          "KV cache tiers below device memory, the nearest first (vLLM), such as [{\"kind\": \"host\", "
          "\"capacity_gib\": 100}]"),
    field(
        "kv_load_policy", &EngineSection::kv_load_policy,
        "whether blocks found in a tier are always loaded, or where that is faster than computing them again "
        "(default: always)",
        one_of(kKvLoadPolicies)),
    field("kv_load_mode", &EngineSection::kv_load_mode,
          "a request waits for its blocks while others run, or is computed while they come layer by layer "
          "(default: async)",
          one_of(kKvLoadModes))};

// Replicas of one kind, such as one side of a disaggregated deployment: where their engines differ from
// `engine` and their devices from `hardware`. With `device` nothing else of `hardware` holds for them.
struct PoolSection {
  std::optional<std::int64_t> replicas;
  std::optional<std::string> device;
  std::optional<std::int64_t> devices_per_node;
  std::optional<double> usd_per_device_hour;
  std::optional<std::string> scaleup_bandwidth, network_bandwidth, host_memory, host_link_bandwidth,
      storage_bandwidth;
  std::optional<std::int64_t> tensor_parallel_size, pipeline_parallel_size, data_parallel_size,
      expert_parallel_size;
  std::optional<bool> enable_expert_parallel;
  std::optional<std::int64_t> max_num_seqs, max_num_batched_tokens;
  std::optional<double> gpu_memory_utilization;
  std::optional<bool> enable_chunked_prefill, enable_prefix_caching, async_scheduling, enforce_eager;
  std::optional<std::vector<std::int64_t>> cuda_graph_sizes;
  std::optional<std::int64_t> num_gpu_blocks_override;
};
template <>
inline constexpr auto fields_of<PoolSection> = std::tuple{
    field("replicas", &PoolSection::replicas, "engine replicas of this kind (default: 1)", at_least(1)),
    field("device", &PoolSection::device,
          "another device than the hardware's, of which then nothing else holds here"),
    field("devices_per_node", &PoolSection::devices_per_node, "instead of the hardware's", at_least(1)),
    field("usd_per_device_hour", &PoolSection::usd_per_device_hour, "instead of the hardware's", at_least(0)),
    field("scaleup_bandwidth", &PoolSection::scaleup_bandwidth, "instead of the hardware's"),
    field("network_bandwidth", &PoolSection::network_bandwidth, "instead of the hardware's"),
    field("host_memory", &PoolSection::host_memory, "instead of the hardware's"),
    field("host_link_bandwidth", &PoolSection::host_link_bandwidth, "instead of the hardware's"),
    field("storage_bandwidth", &PoolSection::storage_bandwidth, "instead of the hardware's"),
    field("tensor_parallel_size", &PoolSection::tensor_parallel_size, "instead of the engine's", at_least(1)),
    field("pipeline_parallel_size", &PoolSection::pipeline_parallel_size, "instead of the engine's",
          at_least(1)),
    field("data_parallel_size", &PoolSection::data_parallel_size, "instead of the engine's", at_least(1)),
    field("expert_parallel_size", &PoolSection::expert_parallel_size, "instead of the engine's", at_least(1)),
    field("enable_expert_parallel", &PoolSection::enable_expert_parallel, "instead of the engine's"),
    field("max_num_seqs", &PoolSection::max_num_seqs, "instead of the engine's", at_least(1)),
    field("max_num_batched_tokens", &PoolSection::max_num_batched_tokens, "instead of the engine's",
          at_least(1)),
    field("gpu_memory_utilization", &PoolSection::gpu_memory_utilization, "instead of the engine's",
          above_up_to(0, 1)),
    field("enable_chunked_prefill", &PoolSection::enable_chunked_prefill, "instead of the engine's"),
    field("enable_prefix_caching", &PoolSection::enable_prefix_caching, "instead of the engine's"),
    field("async_scheduling", &PoolSection::async_scheduling, "instead of the engine's"),
    field("enforce_eager", &PoolSection::enforce_eager, "instead of the engine's"),
    field("cuda_graph_sizes", &PoolSection::cuda_graph_sizes, "instead of the engine's"),
    field("num_gpu_blocks_override", &PoolSection::num_gpu_blocks_override, "instead of the engine's",
          at_least(2))};

// One kind of replicas among unlike ones that serve whole requests behind the same router.
struct ReplicaPoolSection : PoolSection {
  std::optional<std::int64_t> weight;
  std::optional<std::string> behavior, quantization, kv_cache_dtype;
};
template <>
inline constexpr auto fields_of<ReplicaPoolSection> = std::tuple_cat(
    fields_of<PoolSection>,
    std::tuple{field("weight", &ReplicaPoolSection::weight,
                     "share of the load that the router gives each replica, relative to the others'; 0: none "
                     "(default: 1)",
                     between(0, 1000)),
               field("behavior", &ReplicaPoolSection::behavior, "instead of the engine's"),
               field("quantization", &ReplicaPoolSection::quantization, "instead of the engine's",
                     one_of(kQuantizationNames)),
               field("kv_cache_dtype", &ReplicaPoolSection::kv_cache_dtype, "instead of the engine's",
                     one_of(kKvDtypeNames))});

// What carries KV blocks from prefill to decode engines, a port of it for each device.
struct KvLinkSection {
  std::optional<std::string> name, bandwidth;
  std::optional<double> latency_us;
  std::optional<std::string> overlap;
  std::optional<std::int64_t> engines_per_port;
};
inline constexpr std::string_view kOverlapNames[] = {"none", "layerwise"};
template <>
inline constexpr auto fields_of<KvLinkSection> = std::tuple{
    field("name", &KvLinkSection::name,
          "a link of the database, such as \"InfiniBand NDR\" (default: the devices' network, of both sides "
          "the "
          "slower)"),
    field("bandwidth", &KvLinkSection::bandwidth,
          "one direction a device, such as \"50 GB/s\", instead of the link's"),
    field("latency_us", &KvLinkSection::latency_us, "of a transfer, instead of the link's", at_least(0)),
    field("overlap", &KvLinkSection::overlap,
          "none (default): the decode engine pulls a prompt's cache when it is computed; layerwise: the "
          "prefill engine pushes each layer as soon as it is computed",
          one_of(kOverlapNames)),
    field("engines_per_port", &KvLinkSection::engines_per_port,
          "neighbouring engines of a side that share each port, such as those of a node its network "
          "adapters (default: 1)",
          at_least(1))};

// Mooncake's conductor.
struct ConductorSection {
  std::optional<double> kvcache_balancing_threshold, ttft_slo_ms, tbt_slo_ms, decode_time_s;
};
template <>
inline constexpr auto fields_of<ConductorSection> = std::tuple{
    field("kvcache_balancing_threshold", &ConductorSection::kvcache_balancing_threshold,
          "the longest cached prefix anywhere over an engine's own above which it is fetched from there "
          "(default: 1)",
          at_least(1)),
    field("ttft_slo_ms", &ConductorSection::ttft_slo_ms,
          "requests predicted to miss it are refused when they come (default: none is)", above(0)),
    field("tbt_slo_ms", &ConductorSection::tbt_slo_ms,
          "the same for the time between tokens of their decode engine (default: none is)", above(0)),
    field("decode_time_s", &ConductorSection::decode_time_s,
          "seconds for which each request is taken to decode, by which the decode engine's load is predicted "
          "for the end of the prompt (default: its load at the arrival)",
          above(0))};

// Kubernetes' HorizontalPodAutoscaler, by its defaults.
struct AutoscaleSection {
  std::int64_t min_replicas = 1;
  std::string metric = "outstanding";
  std::optional<double> target;
  double interval_s = 15, startup_s = 120, scale_down_window_s = 300, tolerance = 0.1;
};
template <>
inline constexpr auto fields_of<AutoscaleSection> = std::tuple{
    field("min_replicas", &AutoscaleSection::min_replicas,
          "fewest, and so many at the start; at 0 the first request starts one. The most is replicas",
          at_least(0)),
    field("metric", &AutoscaleSection::metric,
          "outstanding: requests sent and not answered, for each replica; ttft_ms: mean time to first token "
          "of an "
          "interval",
          one_of(kScaleMetricNames)),
    field("target", &AutoscaleSection::target, "what the metric should be", above(0)),
    field("interval_s", &AutoscaleSection::interval_s, "seconds between decisions", above(0)),
    field("startup_s", &AutoscaleSection::startup_s, "seconds until a new replica serves", at_least(0)),
    field("scale_down_window_s", &AutoscaleSection::scale_down_window_s,
          "seconds for which fewer replicas must have sufficed", at_least(0)),
    field("tolerance", &AutoscaleSection::tolerance, "relative distance from the target that changes nothing",
          at_least(0))};

inline constexpr std::string_view kFirstTokenNames[] = {"prefill", "decode"};

struct ClusterSection {
  std::string router = "round_robin";
  std::optional<std::int64_t> router_prefix_tokens;
  std::optional<double> router_load_bound, router_prefix_weight, router_queue_weight, router_kv_weight,
      kv_overlap_score_weight;
  std::optional<std::int64_t> replicas;
  std::optional<PoolSection> prefill, decode;
  std::optional<KvLinkSection> kv_link;
  std::optional<ConductorSection> conductor;
  std::optional<std::string> first_token;
  std::optional<AutoscaleSection> autoscale;
  std::optional<std::vector<ReplicaPoolSection>> pools;
};
template <>
inline constexpr auto fields_of<ClusterSection> = std::tuple{
    field("router", &ClusterSection::router, "how requests are spread over replicas", one_of(kRouterNames)),
    field("router_prefix_tokens", &ClusterSection::router_prefix_tokens,
          "prefix_affine: leading tokens by which prompts are told apart (default: 512)", at_least(1)),
    field("router_load_bound", &ClusterSection::router_load_bound,
          "prefix_affine: outstanding requests of a replica over the mean above which others are taken "
          "(default: 1.25)",
          at_least(1)),
    field("router_prefix_weight", &ClusterSection::router_prefix_weight,
          "precise_prefix: weight of the cached part of the prompt (default: 2)", at_least(0)),
    field("router_queue_weight", &ClusterSection::router_queue_weight,
          "precise_prefix: weight of a short queue (default: 1)", at_least(0)),
    field("router_kv_weight", &ClusterSection::router_kv_weight,
          "precise_prefix: weight of free KV memory (default: 1)", at_least(0)),
    field("kv_overlap_score_weight", &ClusterSection::kv_overlap_score_weight,
          "kv_cost: weight of prompt tokens to be computed beside those held (default: 1)", at_least(0)),
    field("replicas", &ClusterSection::replicas,
          "engine replicas; default: devices over what one replica takes", at_least(1)),
    field("prefill", &ClusterSection::prefill, "engines that compute prompts alone; with decode"),
    field("decode", &ClusterSection::decode, "engines that go on from there; with prefill"),
    field("kv_link", &ClusterSection::kv_link, "link that carries KV blocks between them"),
    field("conductor", &ClusterSection::conductor, "router mooncake's"),
    field("first_token", &ClusterSection::first_token,
          "whose first token the client gets: that of the prefill engine (default), or the one that the "
          "decode engine makes after the transfer",
          one_of(kFirstTokenNames)),
    field("pools", &ClusterSection::pools,
          "unlike replicas behind one router, a list: each has replicas, weight, device and its hardware's "
          "keys, "
          "and behavior, quantization, kv_cache_dtype and the keys of prefill instead of the engine's"),
    field("autoscale", &ClusterSection::autoscale, "replicas that come and go with the load")};

struct SloSection {
  std::optional<double> ttft_ms, tpot_ms, itl_ms, e2el_ms;
  double percentile = 99;
};
template <>
inline constexpr auto fields_of<SloSection> = std::tuple{
    field("ttft_ms", &SloSection::ttft_ms, "longest time to first token", above(0)),
    field("tpot_ms", &SloSection::tpot_ms, "longest mean time per output token after the first", above(0)),
    field("itl_ms", &SloSection::itl_ms, "longest gap between two tokens (applied to its percentile)",
          above(0)),
    field("e2el_ms", &SloSection::e2el_ms, "longest end-to-end latency", above(0)),
    field("percentile", &SloSection::percentile, "share of requests that must meet the limits, in percent",
          above_up_to(0, 100))};

struct PlanSection {
  std::string objective = "usd_per_million_tokens";
  RawJson search;  // object: scalar keys of hardware, engine or cluster -> list of values
  std::optional<std::int64_t> max_candidates;
};
template <>
inline constexpr auto fields_of<PlanSection> = std::tuple{
    field("objective", &PlanSection::objective, "what the best plan has least (or most) of",
          one_of(kObjectiveNames)),
    field("search", &PlanSection::search,
          "lists of values to try: device, count, tensor_parallel_size, quantization, ... (default: a "
          "built-in space)"),
    field("max_candidates", &PlanSection::max_candidates, "most candidates to simulate", at_least(1))};

struct Scenario {
  std::string name;
  RawJson model;  // preset, path, or {"config": {...}}
  HardwareConfig hardware;
  EngineSection engine;
  ClusterSection cluster;
  WorkloadConfig workload;
  SloSection slo;
  PlanSection plan;
};
template <>
inline constexpr auto fields_of<Scenario> = std::tuple{
    field("name", &Scenario::name, "what reports call it"),
    field("model", &Scenario::model, "preset, path of a Hugging Face config.json, or {\"config\": {...}}"),
    field("hardware", &Scenario::hardware, "devices and prices"),
    field("engine", &Scenario::engine, "serving system, parallelism, precision, limits"),
    field("cluster", &Scenario::cluster, "replicas and router"),
    field("workload", &Scenario::workload, "requests: a trace, or synthetic"),
    field("slo", &Scenario::slo, "latency limits"),
    field("plan", &Scenario::plan, "objective and search space of `plan`")};

// Where a scenario came from: `folder` for its relative paths, `file` for its messages.
struct ScenarioSource {
  std::filesystem::path folder;
  std::string file;
};

// Reads a scenario and applies a JSON merge patch (RFC 7386) made from flags. Errors name file:/json/pointer.
Scenario read_scenario(const std::filesystem::path& file, const std::string& patch_json = "");
Scenario scenario_from_json(const Json& json, const std::string& where);
Json scenario_to_json(const Scenario& scenario);
Json scenario_schema();

}  // namespace foretoken
