// The knobs that SGLang and TensorRT-LLM have under names of their own, and these systems' limits by default.
#include "deployment/knobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "deployment/block_systems.h"
#include "deployment/parts.h"

namespace foretoken {

void Knobs::check_family(std::string_view key, std::string_view families) const {
  const std::vector<std::string> known = split(std::string(families), ' ');
  if (std::find(known.begin(), known.end(), behavior_.family) != known.end()) return;
  const auto title = [](const std::string& family) {
    if (const auto block = block_system_title(family); !block.empty()) return std::string(block);
    return std::string(family == "sglang" ? "SGLang" : family == "trtllm" ? "TensorRT-LLM" : "vLLM");
  };
  std::vector<std::string> titles;
  for (const std::string& family : known) titles.push_back(title(family));
  fail(key, fmt::format("is a knob of {}, and the behaviour is {}; leave it out", join(titles, ", "),
                        behavior_.name));
}

void Knobs::negated(const std::optional<bool>& own, std::string_view key, std::optional<bool>& common,
                    std::string_view common_key) const {
  only(own, key, "sglang");
  if (!own) return;
  if (common && *common == *own)
    fail(key, fmt::format("is {}, and {} is {} too: they contradict each other", *own, common_key, *common));
  common = !*own;
}

void Knobs::differ(std::string_view key, const std::string& own, std::string_view common_key,
                   const std::string& common) const {
  fail(key, fmt::format("is {}, and {} is {}: they mean the same; give one", own, common_key, common));
}

std::string Knobs::shown(bool value) { return fmt::format("{}", value); }
std::string Knobs::shown(std::int64_t value) { return fmt::format("{}", value); }
std::string Knobs::shown(double value) { return fmt::format("{}", value); }

void Knobs::fail(std::string_view key, const std::string& message) const {
  throw Error(at_ + std::string(key), message);
}

namespace {

void check_positive(std::int64_t value, std::int64_t most, const std::string& where) {
  if (value < 1 || value > most)
    throw Error(where, fmt::format("{} is outside [1, {}]", with_commas(value), with_commas(most)));
}

}  // namespace

void take_own_knobs(EngineSection& e, const Behavior& behavior, const std::string& where) {
  const Knobs k(behavior, where);
  k.only(e.long_prefill_token_threshold, "long_prefill_token_threshold", "vllm");
  k.only(e.scheduler_reserve_full_isl, "scheduler_reserve_full_isl", "vllm");
  k.only(e.watermark, "watermark", "vllm sarathi infinite-llm");

  k.only(e.max_prefill_tokens, "max_prefill_tokens", "sglang");
  k.only(e.schedule_conservativeness, "schedule_conservativeness", "sglang");
  k.only(e.schedule_policy, "schedule_policy", "sglang");
  k.only(e.enable_mixed_chunk, "enable_mixed_chunk", "sglang");
  k.only(e.scheduler_recv_interval, "scheduler_recv_interval", "sglang");
  k.only(e.pp_max_micro_batch_size, "pp_max_micro_batch_size", "sglang");
  k.only(e.enable_dynamic_chunking, "enable_dynamic_chunking", "sglang");
  k.only(e.chunked_prefill_size, "chunked_prefill_size", "sglang lightllm");
  k.only(e.enable_hierarchical_cache, "enable_hierarchical_cache", "sglang");
  k.only(e.hicache_ratio, "hicache_ratio", "sglang");
  k.only(e.hicache_size, "hicache_size", "sglang");
  k.only(e.hicache_write_policy, "hicache_write_policy", "sglang");
  k.only(e.hicache_io_backend, "hicache_io_backend", "sglang");
  k.only(e.hicache_storage_backend, "hicache_storage_backend", "sglang");
  k.only(e.hicache_storage_prefetch_policy, "hicache_storage_prefetch_policy", "sglang");
  k.alias(e.max_running_requests, "max_running_requests", "sglang", e.max_num_seqs, "max_num_seqs");
  k.alias(e.page_size, "page_size", "sglang", e.block_size, "block_size");
  k.alias(e.mem_fraction_static, "mem_fraction_static", "sglang", e.gpu_memory_utilization,
          "gpu_memory_utilization");
  k.negated(e.disable_radix_cache, "disable_radix_cache", e.enable_prefix_caching, "enable_prefix_caching");
  k.negated(e.disable_overlap_schedule, "disable_overlap_schedule", e.async_scheduling, "async_scheduling");

  k.only(e.chunk_unit_size, "chunk_unit_size", "trtllm");
  k.only(e.capacity_scheduler_policy, "capacity_scheduler_policy", "trtllm");
  k.only(e.context_chunking_policy, "context_chunking_policy", "trtllm");
  k.only(e.batch_wait_timeout_iters, "batch_wait_timeout_iters", "trtllm");
  k.only(e.batch_wait_max_tokens_ratio, "batch_wait_max_tokens_ratio", "trtllm");
  k.alias(e.max_batch_size, "max_batch_size",
          "trtllm orca fastertransformer triton tgi lmdeploy-turbomind lmdeploy-pytorch transformers",
          e.max_num_seqs, "max_num_seqs");
  k.alias(e.max_num_tokens, "max_num_tokens", "trtllm", e.max_num_batched_tokens, "max_num_batched_tokens");
  k.alias(e.tokens_per_block, "tokens_per_block", "trtllm", e.block_size, "block_size");
  k.alias(e.kv_cache_free_gpu_memory_fraction, "kv_cache_free_gpu_memory_fraction", "trtllm",
          e.gpu_memory_utilization, "gpu_memory_utilization");
  k.alias(e.enable_chunked_context, "enable_chunked_context", "trtllm", e.enable_chunked_prefill,
          "enable_chunked_prefill");
  k.alias(e.enable_block_reuse, "enable_block_reuse", "trtllm", e.enable_prefix_caching,
          "enable_prefix_caching");
  take_block_knobs(e, behavior, where);
}

namespace {

void fill_sglang(EngineSection& e, std::int64_t default_chunk, const std::string& at) {
  if (!e.chunked_prefill_size) {
    e.chunked_prefill_size =
        !e.enable_chunked_prefill.value_or(true) ? -1 : e.max_num_batched_tokens.value_or(default_chunk);
  } else if (e.enable_chunked_prefill && *e.enable_chunked_prefill != (*e.chunked_prefill_size > 0)) {
    throw Error(at + "chunked_prefill_size",
                fmt::format("is {}, and enable_chunked_prefill is {}: they contradict each other",
                            *e.chunked_prefill_size, *e.enable_chunked_prefill));
  } else if (*e.chunked_prefill_size > 0 && e.max_num_batched_tokens &&
             *e.max_num_batched_tokens != *e.chunked_prefill_size) {
    throw Error(at + "chunked_prefill_size",
                fmt::format("is {}, and max_num_batched_tokens is {}: they mean the same; give one",
                            *e.chunked_prefill_size, *e.max_num_batched_tokens));
  }
  if (!e.max_prefill_tokens) e.max_prefill_tokens = SglangConfig().max_prefill_tokens;
  const bool chunked = *e.chunked_prefill_size > 0;
  e.enable_chunked_prefill = chunked;
  e.max_num_batched_tokens =
      chunked ? *e.chunked_prefill_size : std::max(*e.max_prefill_tokens, *e.max_model_len);
  if (chunked && *e.chunked_prefill_size % *e.block_size != 0)
    throw Error(at + "chunked_prefill_size",
                fmt::format("{} is no multiple of the page size {}", *e.chunked_prefill_size, *e.block_size));
  if (!e.schedule_policy) e.schedule_policy = "fcfs";
  if (!e.schedule_conservativeness) e.schedule_conservativeness = 1.0;
  if (!e.enable_mixed_chunk) e.enable_mixed_chunk = false;
  if (!e.scheduler_recv_interval) e.scheduler_recv_interval = 1;
  if (*e.scheduler_recv_interval > 1 && e.data_parallel_size > 1)
    throw Error(at + "scheduler_recv_interval",
                "SGLang refuses it with attention data parallelism; leave it out");
  if (e.enable_dynamic_chunking.value_or(false))
    throw Error(
        at + "enable_dynamic_chunking",
        "is not modelled: its chunks follow prefill times that SGLang measures when it starts; leave it "
        "out");
  e.enable_dynamic_chunking = false;
  if (e.pipeline_parallel_size > 1) {
    if (*e.enable_mixed_chunk)
      throw Error(at + "enable_mixed_chunk", "SGLang refuses it in a pipeline; leave it out");
    if (*e.scheduler_recv_interval > 1)
      throw Error(at + "scheduler_recv_interval", "is modelled without a pipeline; leave it out");
  }
  e.disable_radix_cache = !*e.enable_prefix_caching;
  e.disable_overlap_schedule = !*e.async_scheduling;
  e.page_size = e.block_size;
}

void fill_trtllm(EngineSection& e, const BatchLimits& limits, const std::string& at) {
  if (!e.max_num_batched_tokens) e.max_num_batched_tokens = limits.max_num_batched_tokens;
  if (!e.max_num_seqs) e.max_num_seqs = limits.max_num_seqs;
  if (!e.chunk_unit_size) e.chunk_unit_size = e.block_size;
  if (*e.chunk_unit_size % *e.block_size != 0)
    throw Error(at + "chunk_unit_size",
                fmt::format("{} is no multiple of tokens_per_block {}", *e.chunk_unit_size, *e.block_size));
  if (*e.enable_chunked_prefill && *e.max_num_batched_tokens < *e.chunk_unit_size)
    throw Error(at + "max_num_batched_tokens", fmt::format("{} is below chunk_unit_size {}; raise it",
                                                           *e.max_num_batched_tokens, *e.chunk_unit_size));
  if (!e.capacity_scheduler_policy) e.capacity_scheduler_policy = "guaranteed_no_evict";
  if (!e.context_chunking_policy) e.context_chunking_policy = "first_come_first_served";
  if (!e.batch_wait_timeout_iters) e.batch_wait_timeout_iters = 0;
  if (!e.batch_wait_max_tokens_ratio) e.batch_wait_max_tokens_ratio = 0.0;
  e.max_batch_size = e.max_num_seqs;
  e.max_num_tokens = e.max_num_batched_tokens;
  e.tokens_per_block = e.block_size;
  e.enable_chunked_context = e.enable_chunked_prefill;
  e.enable_block_reuse = e.enable_prefix_caching;
}

}  // namespace

void fill_other_limits(EngineSection& e, const Behavior& behavior, const Device& device,
                       const ModelConfig& model, const std::string& where) {
  constexpr std::int64_t kMostTokens = 2'147'483'647, kMostSequences = 1'000'000, kMostBlockSize = 65'536;
  const std::string at = where + "/engine/";
  const double gib = device.memory.value / kGiB;
  const BatchLimits limits = default_limits(behavior, gib, device.name);
  const bool is_sglang = behavior.policy == SchedulerPolicy::kSglang;
  if (!e.block_size) e.block_size = behavior.block_size;
  check_positive(*e.block_size, kMostBlockSize, at + "block_size");
  if (!e.enable_prefix_caching) e.enable_prefix_caching = default_prefix_caching(behavior, model);
  if (e.speculative_config && e.async_scheduling.value_or(false))
    throw Error(at + "async_scheduling",
                fmt::format("{} drafts tokens without its overlap scheduler; leave it out", behavior.name));
  const bool pipelined = e.pipeline_parallel_size > 1;
  if (pipelined && e.async_scheduling.value_or(false))
    throw Error(
        at + "async_scheduling",
        fmt::format("{} has no overlap scheduler in a pipeline, whose micro-batches overlap; leave it out",
                    behavior.name));
  if (!e.async_scheduling)
    e.async_scheduling = behavior.async_scheduling && !e.speculative_config && !pipelined;
  if (is_sglang) {
    fill_sglang(e, limits.max_num_batched_tokens, at);
    if (!e.max_num_seqs) e.max_num_seqs = limits.max_num_seqs;
    e.max_running_requests = e.max_num_seqs;
  } else {
    if (!e.enable_chunked_prefill) e.enable_chunked_prefill = behavior.chunked_prefill;
    fill_trtllm(e, limits, at);
  }
  check_positive(*e.max_num_batched_tokens, kMostTokens, at + "max_num_batched_tokens");
  check_positive(*e.max_num_seqs, kMostSequences, at + "max_num_seqs");

  const auto tensor_parallel = static_cast<int>(e.tensor_parallel_size);
  const std::int64_t largest =
      e.max_cudagraph_capture_size.value_or(default_largest_graph(behavior, gib, tensor_parallel));
  if (!e.cuda_graph_sizes && !e.enforce_eager)
    e.cuda_graph_sizes = graph_sizes_up_to(behavior, std::min(largest, *e.max_num_seqs));
  if (!e.gpu_memory_utilization)
    e.gpu_memory_utilization =
        default_memory_share(behavior, gib, *e.max_num_batched_tokens, largest, tensor_parallel,
                             static_cast<int>(e.pipeline_parallel_size));
  if (!(*e.gpu_memory_utilization > 0) || *e.gpu_memory_utilization > 1)
    throw Error(at + "gpu_memory_utilization",
                fmt::format("{} is outside (0, 1]", *e.gpu_memory_utilization));
  if (is_sglang)
    e.mem_fraction_static = e.gpu_memory_utilization;
  else
    e.kv_cache_free_gpu_memory_fraction = e.gpu_memory_utilization;
  if (e.num_gpu_blocks_override && *e.num_gpu_blocks_override < 2)
    throw Error(at + "num_gpu_blocks_override", "must be at least 2");
}

void fill_micro_batch_size(EngineSection& e) {
  if (e.pipeline_parallel_size > 1 && !e.pp_max_micro_batch_size)
    e.pp_max_micro_batch_size = std::max<std::int64_t>(1, *e.max_num_seqs / e.pipeline_parallel_size);
}

void fill_running_requests(EngineSection& e, std::int64_t kv_cache_tokens) {
  const double by_memory = 512 * static_cast<double>(kv_cache_tokens) /
                           static_cast<double>(std::max<std::int64_t>(*e.max_model_len, 1));
  e.max_num_seqs = static_cast<std::int64_t>(std::clamp(by_memory, 2048.0, 4096.0));
  e.max_running_requests = e.max_num_seqs;
}

void take_host_times(const HostTimes& times, Behavior& b) {
  const auto take = [](const std::optional<double>& value, double unit, Seconds& to) {
    if (value) to = Seconds(*value * unit);
  };
  constexpr double kMilli = 1e-3, kMicro = 1e-6;
  take(times.step_us, kMicro, b.host_step);
  take(times.sequence_us, kMicro, b.host_per_sequence);
  take(times.ingress_ms, kMilli, b.ingress);
  take(times.egress_ms, kMilli, b.egress);
  take(times.launch_eager_us, kMicro, b.launch_eager);
  take(times.launch_graph_us, kMicro, b.launch_graph);
  take(times.prefill_step_ms, kMilli, b.prefill_step);
  take(times.prefill_layer_us, kMicro, b.prefill_layer);
  take(times.prefill_layer_doubling_us, kMicro, b.prefill_layer_doubling);
  take(times.kernel_us, kMicro, b.kernel);
  b.device_time_factor = times.device_time_factor.value_or(b.device_time_factor);
}

void set_policy(SchedulerConfig& s, const EngineSection& e, const Behavior& behavior) {
  s.policy = behavior.policy;
  if (is_block_policy(behavior.policy)) return set_block_policy(s, e, behavior);
  if (behavior.policy == SchedulerPolicy::kSglang) {
    s.sglang.chunked_prefill_size = *e.chunked_prefill_size;
    s.sglang.max_prefill_tokens = *e.max_prefill_tokens;
    s.sglang.schedule_conservativeness = *e.schedule_conservativeness;
    s.sglang.enable_mixed_chunk = *e.enable_mixed_chunk;
    s.sglang.overlap = *e.async_scheduling;
    s.sglang.scheduler_recv_interval = *e.scheduler_recv_interval;
    s.sglang.pp_max_micro_batch_size = e.pp_max_micro_batch_size.value_or(0);
  } else if (behavior.policy == SchedulerPolicy::kTrtllm) {
    using Capacity = TrtllmConfig::Capacity;
    s.trtllm.capacity_scheduler_policy =
        *e.capacity_scheduler_policy == "max_utilization" ? Capacity::kMaxUtilization
        : *e.capacity_scheduler_policy == "static_batch"  ? Capacity::kStaticBatch
                                                          : Capacity::kGuaranteedNoEvict;
    s.trtllm.context_chunking_policy = *e.context_chunking_policy == "equal_progress"
                                           ? TrtllmConfig::Chunking::kEqualProgress
                                           : TrtllmConfig::Chunking::kFirstComeFirstServed;
    s.trtllm.chunk_unit_size = *e.chunk_unit_size;
    // With attention data parallelism another rule holds prompts back (attention_dp_config).
    if (e.data_parallel_size == 1) {
      s.trtllm.batch_wait_timeout_iters = *e.batch_wait_timeout_iters;
      s.trtllm.batch_wait_max_tokens_ratio = *e.batch_wait_max_tokens_ratio;
    }
  }
}

}  // namespace foretoken
