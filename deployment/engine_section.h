// Sections of the scenario file that speak of one engine: its devices, and everything that is set of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/fields.h"

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
inline constexpr std::string_view kPrefetchPolicies[] = {"best_effort", "wait_complete", "timeout"};
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
      prefill_step_ms, prefill_layer_us, prefill_layer_doubling_us, kernel_us, device_time_factor;
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
          "a kernel in a captured graph beside its time alone; negative: kernels overlap"),
    field("device_time_factor", &HostTimes::device_time_factor,
          "what operators take of the time that they are predicted to take (default: 1, or as calibrated)",
          between(0.1, 10))};

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
  std::optional<std::int64_t> prompt_lookup_max, prompt_lookup_min, disable_by_batch_size;
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
          between(1, 64)),
    field("disable_by_batch_size", &SpeculativeSection::disable_by_batch_size,
          "vLLM V0: nobody speculates while so many requests run (default: never)", at_least(2))};

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
  std::optional<bool> fuse_norm_residual, fuse_rope_kv_write, fuse_quantization;
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
  // HiCache, resolved into kv_tiers.
  std::optional<bool> enable_hierarchical_cache;
  std::optional<double> hicache_ratio, hicache_size;
  std::optional<std::string> hicache_write_policy, hicache_io_backend, hicache_storage_backend,
      hicache_storage_prefetch_policy;
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
  std::optional<std::int64_t> max_preemptions;
  std::optional<double> waiting_served_ratio;
  std::optional<std::int64_t> n_parallel, n_batch, n_ubatch, n_ctx, cache_reuse, cache_ram;
  std::optional<bool> cache_prompt, kv_unified;
  std::optional<double> slot_prompt_similarity;
  std::optional<std::int64_t> max_prefill_token_num, num_tokens_per_iter, max_prefill_iters, prefill_interval,
      cache_block_seq_len;
  std::optional<double> cache_max_entry_count;
  std::optional<std::int64_t> global_batch_size, average_prefill_length, average_decode_length;
  std::optional<std::int64_t> max_wait_tokens, min_comp_bound_decoding_batch_size, max_num_ooe;
  std::optional<double> max_prefill_time, avg_decoding_time;
  std::optional<bool> use_fixed_sp, disable_scale_up;
  std::optional<double> heartbeat_ms, creditor_usage, lend_limit;
  std::optional<std::int64_t> debtor_batch_size, move_tokens;
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
    field("fuse_quantization", &EngineSection::fuse_quantization,
          "norms and gates round to the 8 bits of the products that read them (default: false)"),
    field("num_gpu_blocks_override", &EngineSection::num_gpu_blocks_override,
          "KV blocks, whatever memory says", at_least(2)),
    field("chunked_prefill_size", &EngineSection::chunked_prefill_size,
          "SGLang: prompt tokens in one prefill step; -1 never splits a prompt. LightLLM 1.0: of each prompt "
          "(default: 4096)",
          at_least(-1)),
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
          "max_num_seqs of TensorRT-LLM, Orca, FasterTransformer, Triton, transformers, TGI and LMDeploy",
          at_least(1)),
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
    field("running_max_req_size", &EngineSection::running_max_req_size,
          "max_num_seqs of LightLLM and LoongServe", at_least(1)),
    field("batch_max_tokens", &EngineSection::batch_max_tokens,
          "max_num_batched_tokens of LightLLM and LoongServe", at_least(1)),
    field("mem_fraction", &EngineSection::mem_fraction, "gpu_memory_utilization of LightLLM and LoongServe",
          above_up_to(0, 1)),
    field("router_max_wait_tokens", &EngineSection::router_max_wait_tokens,
          "LightLLM: decode steps between two looks at the queue (default: 10, of version 1.0 6)",
          at_least(0)),
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
    field("max_preemptions", &EngineSection::max_preemptions,
          "Splitwise: steps that a sequence may be passed over before it goes before prompts (default: 4)",
          between(0, 254)),
    field("n_parallel", &EngineSection::n_parallel, "llama.cpp's max_num_seqs: slots", at_least(1)),
    field("n_batch", &EngineSection::n_batch, "llama.cpp's max_num_batched_tokens", at_least(1)),
    field("n_ubatch", &EngineSection::n_ubatch, "llama.cpp: tokens computed at once (default: 512)",
          at_least(1)),
    field("n_ctx", &EngineSection::n_ctx,
          "llama.cpp: tokens of all slots (default: max_model_len with kv_unified, else that of each slot)",
          at_least(1)),
    field("kv_unified", &EngineSection::kv_unified,
          "llama.cpp: slots share one KV cache (default: with n_parallel left out, from b6925)"),
    field("cache_prompt", &EngineSection::cache_prompt,
          "llama.cpp's enable_prefix_caching: of what its slot holds a request reuses the beginning that it "
          "shares"),
    field("slot_prompt_similarity", &EngineSection::slot_prompt_similarity,
          "llama.cpp: share that must be common for a slot to be chosen by what it holds (default: 0.1, "
          "before b6451 0.5; 0: the least recently used)",
          between(0, 1)),
    field("cache_reuse", &EngineSection::cache_reuse,
          "llama.cpp: fewest tokens of a later chunk of what its slot holds that a prompt reuses, shifted to "
          "its place (default: 0, none)",
          at_least(0)),
    field(
        "cache_ram", &EngineSection::cache_ram,
        "llama.cpp: MiB of host memory for prompts that lose their slot (default: 8192, before b6700 0; -1: "
        "as many tokens as n_ctx)",
        at_least(-1)),
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
    field("max_wait_tokens", &EngineSection::max_wait_tokens,
          "LoongServe: decode steps between two looks at the queue (default: 10)", at_least(0)),
    field("min_comp_bound_decoding_batch_size", &EngineSection::min_comp_bound_decoding_batch_size,
          "LoongServe: sequences from which on decoding has several masters (default: 100)", at_least(1)),
    field("max_num_ooe", &EngineSection::max_num_ooe,
          "LoongServe: times in a row that requests start before earlier ones (default: 10)", at_least(0)),
    field("max_prefill_time", &EngineSection::max_prefill_time,
          "LoongServe: longest prefill of more than one request, in ms (default: 500)", above(0)),
    field("avg_decoding_time", &EngineSection::avg_decoding_time,
          "LoongServe: a decode step as dispatching expects it, in ms (default: 30)", above(0)),
    field("use_fixed_sp", &EngineSection::use_fixed_sp,
          "LoongServe: all instances compute every step together"),
    field("disable_scale_up", &EngineSection::disable_scale_up,
          "LoongServe: no group of decodes takes another instance or moves"),
    field("heartbeat_ms", &EngineSection::heartbeat_ms,
          "Infinite-LLM: between two plans of who lends KV memory to whom (default: 100)", above(0)),
    field("debtor_batch_size", &EngineSection::debtor_batch_size,
          "Infinite-LLM: instances that decode fewer sequences may become debtors (default: 64)",
          at_least(0)),
    field("creditor_usage", &EngineSection::creditor_usage,
          "Infinite-LLM: instances that use less than this share of their KV memory may become creditors "
          "(default: 0.7)",
          between(0, 1)),
    field("lend_limit", &EngineSection::lend_limit,
          "Infinite-LLM: most that an instance lends, as a share of its KV memory; 0: nothing (default: 1)",
          between(0, 1)),
    field("move_tokens", &EngineSection::move_tokens,
          "Infinite-LLM: cached tokens that a debtor sends away beside a decode step (default: 16)",
          at_least(1)),
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
    field("enable_hierarchical_cache", &EngineSection::enable_hierarchical_cache,
          "SGLang: HiCache, a tier in host memory; resolved into kv_tiers"),
    field("hicache_ratio", &EngineSection::hicache_ratio,
          "SGLang: HiCache's room over that of the device's KV cache (default: 2)", above(0)),
    field("hicache_size", &EngineSection::hicache_size,
          "SGLang: HiCache's room of each device in GB of 1e9 bytes, instead of the ratio", above(0)),
    field("hicache_write_policy", &EngineSection::hicache_write_policy,
          "SGLang: when HiCache writes (default: write_through)", one_of(kKvTierWritePolicies)),
    field("hicache_io_backend", &EngineSection::hicache_io_backend,
          "SGLang: who copies for HiCache; modelled is kernel (default: kernel)"),
    field("hicache_storage_backend", &EngineSection::hicache_storage_backend,
          "SGLang: a product below HiCache's host memory; not modelled by name, refused: kv_tiers says what "
          "it holds and how fast it is"),
    field("hicache_storage_prefetch_policy", &EngineSection::hicache_storage_prefetch_policy,
          "SGLang: until when a request waits for what comes from HiCache's storage (default: best_effort)",
          one_of(kPrefetchPolicies)),
    field(
        "kv_tiers", &EngineSection::kv_tiers,
        "KV cache tiers below device memory, the nearest first (vLLM, SGLang), such as [{\"kind\": \"host\", "
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

}  // namespace foretoken
