// Knobs and limits of the systems with a small scheduler of their own (block_systems.h) and of vLLM V0.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/text.h"
#include "deployment/knobs.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

constexpr double kWatermark = 0.01;  // vLLM V0 and Sarathi-Serve
constexpr std::int64_t kVllmV0Tokens = 2048, kVllmV0Seqs = 256, kVllmV0LargestGraph = 256;
constexpr std::int64_t kVllmV0LongContext = 32'768, kVllmV0OldChunk = 512;  // vllm pull request 10544
constexpr std::int64_t kSarathiSeqs = 128;  // its copies of Orca and FasterTransformer too
constexpr std::int64_t kSarathiChunk = 512, kSarathiStages = 16;
constexpr std::int64_t kLightllmSeqs = 1000;
constexpr std::int64_t kLightllmChunk = 4096, kLightllmLookEvery = 6, kLightllmLargestGraph = 256;
constexpr std::int64_t kTgi3Tokens = 4096;  // of devices that its launcher does not know
constexpr std::int64_t kFastgenTokens = 768, kFastgenSeqs = 512;
constexpr std::int64_t kTgiConcurrent = 128;   // max_concurrent_requests: no batch is larger
constexpr std::int64_t kTgiPromptMargin = 50;  // max_batch_prefill_tokens beyond the longest prompt
constexpr std::int64_t kTgiGraphs[] = {1, 2, 4, 8, 16, 32};
constexpr std::int64_t kLlamaCppBatch = 2048;
constexpr std::int64_t kTurbomindPrompts = 8192, kLmdeployPytorchPrompts = 4096;
constexpr std::int64_t kNanoflowTokens = 2048;
constexpr std::int64_t kSplitwiseTokens = 2048, kSplitwiseSeqs = 512;
constexpr std::int64_t kPlannedTokens = 8192;  // of a step that the system itself does not limit
constexpr std::int64_t kMostTokens = 2'147'483'647, kMostSequences = 1'000'000, kMostBlockSize = 65'536;

bool reserves(SchedulerPolicy p) {
  return p == SchedulerPolicy::kOrca || p == SchedulerPolicy::kStaticBatch || p == SchedulerPolicy::kLlamaCpp;
}

// What has a prefix cache, whether it is on by default or not.
bool caches_prefixes(const Behavior& b) {
  return b.prefix_caching || b.policy == SchedulerPolicy::kTurbomind ||
         b.policy == SchedulerPolicy::kLmdeployPytorch;
}

struct QueueLimits {
  std::int64_t tokens, sequences;
};
bool has_windows(const ModelConfig& model) {
  const std::vector<std::int64_t> windows = model.attention_windows();
  return std::any_of(windows.begin(), windows.end(), [](std::int64_t w) { return w > 0; });
}

// LMDeploy's max_batch_size goes by the device's name (utils.py, get_max_batch_size).
std::int64_t lmdeploy_sequences(const std::string& device) {
  const std::string name = lower(device);
  const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
  return is("a100") || is("a800") ? 256 : is("h100") || is("h800") ? 512 : 128;
}
QueueLimits default_queue_limits(const Behavior& b, const EngineSection& e, const std::string& device) {
  const std::int64_t max_model_len = *e.max_model_len;
  switch (b.policy) {
    case SchedulerPolicy::kVllmV0:
    case SchedulerPolicy::kInfiniteLlm:
      return {std::max(kVllmV0Tokens, max_model_len), kVllmV0Seqs};
    case SchedulerPolicy::kSarathi:
      return {kSarathiChunk, kSarathiSeqs};
    case SchedulerPolicy::kLightllm:
      if (b.major >= 1) {
        const std::int64_t chunk = e.chunked_prefill_size.value_or(kLightllmChunk);
        return {std::min(max_model_len, 2 * chunk), kLightllmSeqs};
      }
      [[fallthrough]];
    case SchedulerPolicy::kLoongserve:  // more where its memory holds more (resolve.cpp)
      return {std::max(kPlannedTokens, max_model_len), kLightllmSeqs};
    case SchedulerPolicy::kFastgen:
      return {kFastgenTokens, kFastgenSeqs};
    case SchedulerPolicy::kTgi:
      return {b.major >= 3 ? kTgi3Tokens : max_model_len - 1 + kTgiPromptMargin, kTgiConcurrent};
    case SchedulerPolicy::kLlamaCpp:
      return {kLlamaCppBatch, 1};  // slots: take_slots
    case SchedulerPolicy::kTurbomind:
      return {kTurbomindPrompts, lmdeploy_sequences(device)};
    case SchedulerPolicy::kLmdeployPytorch:
      return {kLmdeployPytorchPrompts, lmdeploy_sequences(device)};
    case SchedulerPolicy::kSplitwise:
      return {kSplitwiseTokens, kSplitwiseSeqs};
    case SchedulerPolicy::kNanoflow:
      return {kNanoflowTokens, kNanoflowTokens};
    case SchedulerPolicy::kTransformers:  // batch_size of its pipelines
      return {std::max(kPlannedTokens, max_model_len), 1};
    default:  // Orca, static batches
      return {std::max(kPlannedTokens, max_model_len), kSarathiSeqs};
  }
}

// Common keys that say what the system does not do.
void refuse_common_keys(const EngineSection& e, const Behavior& b, const Knobs& k) {
  const auto refuse = [&](bool wrong, std::string_view key, const std::string& what) {
    if (wrong) k.fail(key, fmt::format("{} {}", what, b.name));
  };
  if (b.family == "vllm") {
    refuse(e.long_prefill_token_threshold.value_or(0) > 0, "long_prefill_token_threshold",
           "is of vLLM V1 (vllm-0.8 and later); leave it out under");
    refuse(e.scheduler_reserve_full_isl.has_value(), "scheduler_reserve_full_isl",
           "is of vLLM V1 (vllm-0.20 and later); leave it out under");
  }
  refuse(
      b.family != "vllm" && b.policy != SchedulerPolicy::kLlamaCpp &&
          e.enable_prefix_caching.value_or(false) && !caches_prefixes(b),
      "enable_prefix_caching",
      "is modelled for vLLM, SGLang, TensorRT-LLM, LMDeploy, tgi-3, lightllm-1.0 and llama.cpp: turn it off "
      "under");
  refuse(b.policy == SchedulerPolicy::kTgi && b.major >= 3 && e.waiting_served_ratio.has_value(),
         "waiting_served_ratio", "means nothing beside chunks: leave it out under");
  refuse(b.policy == SchedulerPolicy::kTgi && b.major >= 3 && e.max_waiting_tokens.has_value(),
         "max_waiting_tokens", "means nothing beside chunks: leave it out under");
  refuse(b.family == "lightllm" && b.major < 1 && e.chunked_prefill_size.has_value(), "chunked_prefill_size",
         "is of lightllm-1.0: leave it out under");
  if (e.async_scheduling && *e.async_scheduling != b.async_scheduling)
    k.fail(
        "async_scheduling",
        b.async_scheduling
            ? fmt::format("is how {} works; leave it out", b.name)
            : fmt::format("is modelled for vLLM V1, SGLang, TensorRT-LLM and NanoFlow: turn it off under {}",
                          b.name));
  if (b.overlaps_operators) {
    refuse(e.data_parallel_size > 1, "data_parallel_size",
           "operators that run together are priced for one rank at a time: use replicas under");
    refuse(e.layer_streaming.layers.has_value(), "layer_streaming",
           "fetches beside operators that run together are not modelled: leave it out under");
    refuse(e.cpu_offload_gib.value_or(0) > 0, "cpu_offload_gib",
           "reads from host memory beside operators that run together are not modelled: leave it out under");
  }
  refuse(b.family != "vllm" && e.speculative_config.has_value(), "speculative_config",
         "is modelled for vLLM, SGLang and TensorRT-LLM: leave it out under");
  if (b.family != "vllm" && e.enable_chunked_prefill && *e.enable_chunked_prefill != b.chunked_prefill)
    k.fail("enable_chunked_prefill",
           b.chunked_prefill
               ? fmt::format("prompts are always split under {}; leave it out", b.name)
               : fmt::format("prompts are never split under {}; leave it out, or use a behaviour that does, "
                             "such as sarathi or vllm-0.8",
                             b.name));
  refuse((b.policy == SchedulerPolicy::kLightllm || b.policy == SchedulerPolicy::kLoongserve) &&
             e.block_size.value_or(1) != 1,
         "block_size", "memory is taken token by token: leave it out under");
}

void fill_sarathi(EngineSection& e, const Knobs& k) {
  if (!e.enable_dynamic_chunking_schedule) e.enable_dynamic_chunking_schedule = e.low_chunk_size.has_value();
  if (!*e.enable_dynamic_chunking_schedule) {
    if (e.low_chunk_size || e.high_chunk_size || e.chunk_schedule_max_tokens || e.chunk_schedule_stages)
      k.fail("enable_dynamic_chunking_schedule",
             "is off, and the chunks of a schedule are given: turn it on or leave those out");
    return;
  }
  if (!e.low_chunk_size) k.fail("low_chunk_size", "is needed for a schedule of chunks, such as 256");
  if (!e.high_chunk_size) e.high_chunk_size = *e.max_num_batched_tokens;
  if (!e.chunk_schedule_max_tokens) e.chunk_schedule_max_tokens = *e.max_model_len;
  if (!e.chunk_schedule_stages) e.chunk_schedule_stages = kSarathiStages;
}

// Chunks of at most a step's tokens; a look at the queue as often as its version does.
void fill_lightllm_1(EngineSection& e, const Knobs& k) {
  if (!e.chunked_prefill_size) e.chunked_prefill_size = std::min(kLightllmChunk, *e.max_num_batched_tokens);
  if (*e.chunked_prefill_size < 1 || *e.chunked_prefill_size > *e.max_num_batched_tokens)
    k.fail("chunked_prefill_size", fmt::format("{} is not from 1 to the {} tokens of batch_max_tokens",
                                               *e.chunked_prefill_size, *e.max_num_batched_tokens));
  if (!e.router_max_wait_tokens) e.router_max_wait_tokens = kLightllmLookEvery;
  if (*e.router_max_wait_tokens < 1)
    k.fail("router_max_wait_tokens", "is counted from 1 on beside chunks; use 1");
}

void fill_lightllm(EngineSection& e) {
  e.running_max_req_size = e.max_num_seqs;
  e.batch_max_tokens = e.max_num_batched_tokens;
  e.mem_fraction = e.gpu_memory_utilization;
}

// What vLLM V0 has besides its default scheduler, and what of that is not modelled together.
void fill_vllm_v0(EngineSection& e, const Behavior& b, const ModelConfig& model, const Knobs& k) {
  if (!e.enable_chunked_prefill) e.enable_chunked_prefill = vllm_v0_chunks(e, model);
  if (!e.enable_prefix_caching) e.enable_prefix_caching = false;
  const bool chunks = *e.enable_chunked_prefill, caches = *e.enable_prefix_caching;
  const bool swaps = e.preemption_mode.value_or("") == "swap";
  const bool by_priority = e.scheduling_policy.value_or("") == "priority";
  const auto refuse = [&](bool wrong, const char* key, const char* what) {
    if (wrong) k.fail(key, what);
  };
  refuse(chunks && e.speculative_config && b.minor == 6 && b.patch >= 0 && b.patch < 4,
         "enable_chunked_prefill", "and speculative decoding go together since vLLM 0.6.4; turn it off");
  refuse(caches && model.is_recurrent(), "enable_prefix_caching",
         "keeps no recurrent states under vLLM V0; turn it off");
  refuse(caches && e.pipeline_parallel_size > 1, "enable_prefix_caching",
         "is not modelled for vLLM V0's virtual engines; turn it off, or use pipeline_parallel_size 1");
  refuse(swaps && e.pipeline_parallel_size > 1, "preemption_mode",
         "swap is not modelled for vLLM V0's virtual engines; use recompute");
  refuse(
      swaps && caches, "preemption_mode",
      "swap is not modelled beside vLLM V0's prefix cache; use recompute, or turn enable_prefix_caching off");
  refuse(swaps && chunks, "preemption_mode",
         "swap is not modelled beside vLLM V0's chunked prefill, its default above 32,768 tokens of "
         "max_model_len; use recompute, or turn enable_chunked_prefill off");
  refuse(by_priority && chunks, "scheduling_policy",
         "vLLM V0 preempts by priority without chunked prefill alone, its default above 32,768 tokens of "
         "max_model_len; turn enable_chunked_prefill off, or use fcfs");
}

// A system's own keys say what the common ones say, and what its defaults are.
void fill_own_keys(EngineSection& e, const Behavior& b, const Knobs& k, const std::string& where) {
  switch (b.policy) {
    case SchedulerPolicy::kSarathi:
      e.chunk_size = e.max_num_batched_tokens;
      fill_sarathi(e, k);
      break;
    case SchedulerPolicy::kStaticBatch:
      if (!e.remove_padding) e.remove_padding = true;
      if (b.family == "triton") {
        if (!e.max_queue_delay_microseconds) e.max_queue_delay_microseconds = 0;
        if (!e.preferred_batch_size) e.preferred_batch_size.emplace();
      }
      e.max_batch_size = e.max_num_seqs;
      break;
    case SchedulerPolicy::kOrca:
    case SchedulerPolicy::kTransformers:
      e.max_batch_size = e.max_num_seqs;
      break;
    case SchedulerPolicy::kLoongserve: {
      const LoongserveConfig defaults;
      const auto fill = [](auto& key, auto value) { key = key.value_or(value); };
      fill(e.max_wait_tokens, defaults.max_wait_tokens);
      fill(e.min_comp_bound_decoding_batch_size, defaults.min_comp_bound_decoding_batch_size);
      fill(e.max_num_ooe, defaults.max_num_ooe);
      fill(e.max_prefill_time, defaults.max_prefill_time);
      fill(e.avg_decoding_time, defaults.avg_decoding_time);
      fill(e.use_fixed_sp, defaults.use_fixed_sp);
      fill(e.disable_scale_up, defaults.disable_scale_up);
      fill_lightllm(e);
      break;
    }
    case SchedulerPolicy::kInfiniteLlm: {
      const LendingConfig defaults;
      if (!e.heartbeat_ms) e.heartbeat_ms = to_ms(defaults.heartbeat);
      if (!e.debtor_batch_size) e.debtor_batch_size = defaults.debtor_batch;
      if (!e.creditor_usage) e.creditor_usage = defaults.creditor_usage;
      if (!e.lend_limit) e.lend_limit = defaults.lend_limit;
      if (!e.move_tokens) e.move_tokens = defaults.move_tokens;
      break;
    }
    case SchedulerPolicy::kLightllm:
      fill_lightllm(e);
      if (b.major >= 1) fill_lightllm_1(e, k);
      if (!e.router_max_wait_tokens) e.router_max_wait_tokens = LightllmConfig().router_max_wait_tokens;
      break;
    case SchedulerPolicy::kFastgen:
      e.max_ragged_batch_size = e.max_num_batched_tokens;
      e.max_ragged_sequence_count = e.max_num_seqs;
      break;
    case SchedulerPolicy::kTgi:
      e.max_batch_size = e.max_num_seqs;
      e.max_batch_prefill_tokens = e.max_num_batched_tokens;
      if (b.major >= 3) break;
      if (!e.waiting_served_ratio) e.waiting_served_ratio = TgiConfig().waiting_served_ratio;
      if (!e.max_waiting_tokens) e.max_waiting_tokens = TgiConfig().max_waiting_tokens;
      break;
    case SchedulerPolicy::kLlamaCpp:
      fill_slots(e, b, where);
      break;
    case SchedulerPolicy::kTurbomind:
      e.max_batch_size = e.max_num_seqs;
      e.cache_max_entry_count = e.gpu_memory_utilization;
      e.cache_block_seq_len = e.block_size;
      if (!e.num_tokens_per_iter) e.num_tokens_per_iter = LmdeployConfig().num_tokens_per_iter;
      if (!e.max_prefill_iters) e.max_prefill_iters = LmdeployConfig().max_prefill_iters;
      break;
    case SchedulerPolicy::kLmdeployPytorch:
      e.max_batch_size = e.max_num_seqs;
      e.cache_max_entry_count = e.gpu_memory_utilization;
      e.max_prefill_token_num = e.max_num_batched_tokens;
      if (!e.prefill_interval) e.prefill_interval = LmdeployConfig().prefill_interval;
      break;
    case SchedulerPolicy::kSplitwise:
      if (!e.max_preemptions) e.max_preemptions = SplitwiseConfig().max_preemptions;
      break;
    case SchedulerPolicy::kNanoflow:
      e.global_batch_size = e.max_num_batched_tokens;
      break;
    default:
      break;
  }
}

// A step of TurboMind holds max_prefill_token_num tokens and one more for each place of the batch.
void fill_turbomind_tokens(EngineSection& e, const QueueLimits& limits, const Knobs& k) {
  if (!e.max_num_seqs) e.max_num_seqs = limits.sequences;
  if (!e.max_prefill_token_num)
    e.max_prefill_token_num = e.max_num_batched_tokens
                                  ? std::max<std::int64_t>(1, *e.max_num_batched_tokens - *e.max_num_seqs)
                                  : limits.tokens;
  const std::int64_t tokens = *e.max_prefill_token_num + *e.max_num_seqs;
  if (e.max_num_batched_tokens && *e.max_num_batched_tokens != tokens)
    k.fail("max_num_batched_tokens",
           fmt::format("is {}, and max_prefill_token_num {} with max_num_seqs {} makes {}; give one",
                       *e.max_num_batched_tokens, *e.max_prefill_token_num, *e.max_num_seqs, tokens));
  e.max_num_batched_tokens = tokens;
}

}  // namespace

// EngineArgs.create_engine_config: long contexts, without windows, speculation and adapters; not with MLA.
bool vllm_v0_chunks(const EngineSection& e, const ModelConfig& model) {
  const bool slides = has_windows(model);
  const bool latent = std::any_of(model.kinds.begin(), model.kinds.end(), [](const LayerKind& kind) {
    return std::holds_alternative<MlaAttention>(kind.mixer);
  });
  return *e.max_model_len > kVllmV0LongContext && !slides && !latent && !model.is_recurrent() &&
         !e.speculative_config;
}

std::int64_t vllm_v0_tokens(const Behavior& b, bool chunked_prefill, std::int64_t max_model_len) {
  if (!chunked_prefill) return std::max(kVllmV0Tokens, max_model_len);
  return b.minor == 6 && b.patch >= 0 && b.patch <= 4 ? kVllmV0OldChunk : kVllmV0Tokens;
}

void take_block_knobs(EngineSection& e, const Behavior& b, const std::string& where) {
  const Knobs k(b, where);
  k.alias(e.chunk_size, "chunk_size", "sarathi", e.max_num_batched_tokens, "max_num_batched_tokens");
  k.only(e.enable_dynamic_chunking_schedule, "enable_dynamic_chunking_schedule", "sarathi");
  k.only(e.low_chunk_size, "low_chunk_size", "sarathi");
  k.only(e.high_chunk_size, "high_chunk_size", "sarathi");
  k.only(e.chunk_schedule_max_tokens, "chunk_schedule_max_tokens", "sarathi");
  k.only(e.chunk_schedule_stages, "chunk_schedule_stages", "sarathi");

  k.only(e.remove_padding, "remove_padding", "fastertransformer triton");
  k.only(e.max_queue_delay_microseconds, "max_queue_delay_microseconds", "triton");
  k.only(e.preferred_batch_size, "preferred_batch_size", "triton");

  k.alias(e.running_max_req_size, "running_max_req_size", "lightllm loongserve", e.max_num_seqs,
          "max_num_seqs");
  k.alias(e.batch_max_tokens, "batch_max_tokens", "lightllm loongserve", e.max_num_batched_tokens,
          "max_num_batched_tokens");
  k.alias(e.mem_fraction, "mem_fraction", "lightllm loongserve", e.gpu_memory_utilization,
          "gpu_memory_utilization");
  k.only(e.router_max_wait_tokens, "router_max_wait_tokens", "lightllm");

  k.alias(e.max_ragged_batch_size, "max_ragged_batch_size", "deepspeed-fastgen", e.max_num_batched_tokens,
          "max_num_batched_tokens");
  k.alias(e.max_ragged_sequence_count, "max_ragged_sequence_count", "deepspeed-fastgen", e.max_num_seqs,
          "max_num_seqs");

  k.alias(e.max_batch_prefill_tokens, "max_batch_prefill_tokens", "tgi", e.max_num_batched_tokens,
          "max_num_batched_tokens");
  k.only(e.max_batch_total_tokens, "max_batch_total_tokens", "tgi");
  k.only(e.waiting_served_ratio, "waiting_served_ratio", "tgi");
  k.only(e.max_waiting_tokens, "max_waiting_tokens", "tgi");

  k.only(e.max_prefill_token_num, "max_prefill_token_num", "lmdeploy-turbomind lmdeploy-pytorch");
  if (b.policy == SchedulerPolicy::kLmdeployPytorch)
    k.alias(e.max_prefill_token_num, "max_prefill_token_num", "lmdeploy-pytorch", e.max_num_batched_tokens,
            "max_num_batched_tokens");
  k.only(e.num_tokens_per_iter, "num_tokens_per_iter", "lmdeploy-turbomind");
  k.only(e.max_prefill_iters, "max_prefill_iters", "lmdeploy-turbomind");
  k.only(e.prefill_interval, "prefill_interval", "lmdeploy-pytorch");
  k.alias(e.cache_block_seq_len, "cache_block_seq_len", "lmdeploy-turbomind", e.block_size, "block_size");
  k.alias(e.cache_max_entry_count, "cache_max_entry_count", "lmdeploy-turbomind lmdeploy-pytorch",
          e.gpu_memory_utilization, "gpu_memory_utilization");

  k.alias(e.global_batch_size, "global_batch_size", "nanoflow", e.max_num_batched_tokens,
          "max_num_batched_tokens");
  k.only(e.average_prefill_length, "average_prefill_length", "nanoflow");
  k.only(e.average_decode_length, "average_decode_length", "nanoflow");

  k.only(e.max_wait_tokens, "max_wait_tokens", "loongserve");
  k.only(e.min_comp_bound_decoding_batch_size, "min_comp_bound_decoding_batch_size", "loongserve");
  k.only(e.max_num_ooe, "max_num_ooe", "loongserve");
  k.only(e.max_prefill_time, "max_prefill_time", "loongserve");
  k.only(e.avg_decoding_time, "avg_decoding_time", "loongserve");
  k.only(e.use_fixed_sp, "use_fixed_sp", "loongserve");
  k.only(e.disable_scale_up, "disable_scale_up", "loongserve");
  k.only(e.heartbeat_ms, "heartbeat_ms", "infinite-llm");
  k.only(e.debtor_batch_size, "debtor_batch_size", "infinite-llm");
  k.only(e.creditor_usage, "creditor_usage", "infinite-llm");
  k.only(e.lend_limit, "lend_limit", "infinite-llm");
  k.only(e.move_tokens, "move_tokens", "infinite-llm");
  k.only(e.max_preemptions, "max_preemptions", "splitwise");
  if (is_block_policy(b.policy)) refuse_common_keys(e, b, k);
}

void fill_block_limits(EngineSection& e, const Behavior& b, const std::string& device_name,
                       const ModelConfig& model, const std::string& where) {
  const Knobs k(b, where);
  const auto check = [&](std::int64_t value, std::int64_t most, const char* key) {
    if (value < 1 || value > most)
      k.fail(key, fmt::format("{} is outside [1, {}]", with_commas(value), with_commas(most)));
  };
  QueueLimits limits = default_queue_limits(b, e, device_name);
  const bool is_v0 = b.policy == SchedulerPolicy::kVllmV0;
  if (is_v0) {
    fill_vllm_v0(e, b, model, k);
    limits.tokens = vllm_v0_tokens(b, *e.enable_chunked_prefill, *e.max_model_len);
  } else {
    const bool windows = b.policy == SchedulerPolicy::kTgi && has_windows(model);
    if (!e.enable_prefix_caching) e.enable_prefix_caching = default_prefix_caching(b, model) && !windows;
    if (*e.enable_prefix_caching && windows)
      k.fail("enable_prefix_caching", fmt::format("takes no sliding windows under {}; turn it off", b.name));
    if (*e.enable_prefix_caching && model.is_recurrent() && b.policy != SchedulerPolicy::kLlamaCpp)
      k.fail("enable_prefix_caching", fmt::format("keeps no recurrent states under {}; turn it off", b.name));
    e.enable_chunked_prefill = b.chunked_prefill;
  }
  e.async_scheduling = b.async_scheduling;
  if (!e.block_size) e.block_size = e.kv_unified.value_or(false) ? 1 : b.block_size;
  check(*e.block_size, kMostBlockSize, "block_size");
  if (b.policy == SchedulerPolicy::kTgi && b.major >= 3 && *e.block_size != 1 && *e.block_size != 256)
    k.fail("block_size",
           fmt::format("{} is neither flashinfer's block of 1 nor flashdecoding's of 256 tokens; "
                       "leave it out",
                       *e.block_size));
  if (b.policy == SchedulerPolicy::kTurbomind) fill_turbomind_tokens(e, limits, k);
  if (!e.max_num_batched_tokens)
    e.max_num_batched_tokens = std::max(limits.tokens, e.max_num_seqs.value_or(1));
  check(*e.max_num_batched_tokens, kMostTokens, "max_num_batched_tokens");
  if (!e.max_num_seqs) e.max_num_seqs = std::min(limits.sequences, *e.max_num_batched_tokens);
  check(*e.max_num_seqs, kMostSequences, "max_num_seqs");
  if (*e.max_num_batched_tokens < *e.max_num_seqs)
    k.fail("max_num_batched_tokens",
           fmt::format("{} is below max_num_seqs {}; raise it or lower max_num_seqs",
                       *e.max_num_batched_tokens, *e.max_num_seqs));
  const bool is_whole = (is_v0 && !*e.enable_chunked_prefill) || b.policy == SchedulerPolicy::kOrca ||
                        b.policy == SchedulerPolicy::kStaticBatch ||
                        b.policy == SchedulerPolicy::kTransformers ||
                        b.policy == SchedulerPolicy::kInfiniteLlm;
  if (is_v0 && *e.enable_chunked_prefill && *e.enable_prefix_caching &&
      *e.max_num_batched_tokens % *e.block_size != 0)
    k.fail("max_num_batched_tokens",
           fmt::format("{} is no multiple of block_size {}, of which chunks consist beside a prefix cache",
                       *e.max_num_batched_tokens, *e.block_size));
  if (is_whole && *e.max_num_batched_tokens < *e.max_model_len)
    k.fail("max_num_batched_tokens",
           fmt::format("{} is below max_model_len {}, and prompts are not split under {}; raise it or lower "
                       "max_model_len",
                       *e.max_num_batched_tokens, *e.max_model_len, b.name));
  if (!e.gpu_memory_utilization) e.gpu_memory_utilization = b.gpu_memory_utilization;
  if (!(*e.gpu_memory_utilization > 0) || *e.gpu_memory_utilization > 1)
    k.fail("gpu_memory_utilization", fmt::format("{} is outside (0, 1]", *e.gpu_memory_utilization));
  const bool has_watermark = b.policy == SchedulerPolicy::kVllmV0 || b.policy == SchedulerPolicy::kSarathi ||
                             b.policy == SchedulerPolicy::kInfiniteLlm;
  if (has_watermark && !e.watermark) e.watermark = kWatermark;
  if (e.watermark && !(*e.watermark >= 0 && *e.watermark < 1))
    k.fail("watermark", fmt::format("{} is outside [0, 1)", *e.watermark));
  if (e.num_gpu_blocks_override && *e.num_gpu_blocks_override < 2)
    k.fail("num_gpu_blocks_override", "must be at least 2");
  if (!e.cuda_graph_sizes && !e.enforce_eager) {
    e.cuda_graph_sizes.emplace();
    if (b.policy == SchedulerPolicy::kVllmV0)
      e.cuda_graph_sizes = vllm_graph_sizes_up_to(
          b, std::min(e.max_cudagraph_capture_size.value_or(kVllmV0LargestGraph), *e.max_num_seqs));
    if (b.policy == SchedulerPolicy::kLmdeployPytorch)  // the next power of two
      for (std::uint64_t size = 1; size <= std::bit_ceil(static_cast<std::uint64_t>(*e.max_num_seqs));
           size *= 2)
        e.cuda_graph_sizes->push_back(static_cast<std::int64_t>(size));
    if (b.policy == SchedulerPolicy::kLightllm && b.major >= 1)  // all up to 32, then every sixteenth
      for (std::int64_t size = 1; size <= std::min(kLightllmLargestGraph, *e.max_num_seqs);
           size += size < 32 ? 1 : 16)
        e.cuda_graph_sizes->push_back(size);
    if (b.policy == SchedulerPolicy::kTgi)
      e.cuda_graph_sizes->assign(std::begin(kTgiGraphs), std::end(kTgiGraphs));
  }
  fill_own_keys(e, b, k, where);
}

void set_block_policy(SchedulerConfig& s, const EngineSection& e, const Behavior& b) {
  s.reserve_full_prompt = true;
  if (reserves(s.policy) && !e.kv_unified.value_or(false)) {
    s.contiguous = e.kv_layout.value_or("contiguous") != "paged";
    s.buddy = e.kv_layout.value_or("contiguous") == "buddy";
  }
  if (e.enable_dynamic_chunking_schedule.value_or(false))
    s.sarathi = {*e.low_chunk_size, *e.high_chunk_size, *e.chunk_schedule_max_tokens,
                 *e.chunk_schedule_stages};
  s.static_batch.remove_padding = e.remove_padding.value_or(true);
  s.static_batch.max_queue_delay = e.max_queue_delay_microseconds.value_or(0) * Picoseconds{1'000'000};
  s.static_batch.preferred_batch_size = e.preferred_batch_size.value_or(std::vector<std::int64_t>());
  if (e.router_max_wait_tokens) s.lightllm.router_max_wait_tokens = *e.router_max_wait_tokens;
  if (s.policy == SchedulerPolicy::kLightllm)
    s.lightllm.chunked_prefill_size = e.chunked_prefill_size.value_or(0);
  s.tgi.support_chunking = s.policy == SchedulerPolicy::kTgi && b.major >= 3;
  if (e.waiting_served_ratio) s.tgi.waiting_served_ratio = *e.waiting_served_ratio;
  if (e.max_waiting_tokens) s.tgi.max_waiting_tokens = *e.max_waiting_tokens;
  s.tgi.max_batch_total_tokens = e.max_batch_total_tokens.value_or(0);
  // TGI rounds its budget of a prefill step up to blocks.
  if (s.policy == SchedulerPolicy::kTgi && !s.tgi.support_chunking)
    s.max_num_batched_tokens = (s.max_num_batched_tokens + s.block_size - 1) / s.block_size * s.block_size;
  const auto take = [](const std::optional<std::int64_t>& from, std::int64_t& to) { to = from.value_or(to); };
  take(e.num_tokens_per_iter, s.lmdeploy.num_tokens_per_iter);
  take(e.max_prefill_iters, s.lmdeploy.max_prefill_iters);
  take(e.prefill_interval, s.lmdeploy.prefill_interval);
  take(e.average_prefill_length, s.nanoflow.average_prefill_length);
  take(e.average_decode_length, s.nanoflow.average_decode_length);
  LoongserveConfig& l = s.loongserve;
  take(e.max_wait_tokens, l.max_wait_tokens);
  take(e.min_comp_bound_decoding_batch_size, l.min_comp_bound_decoding_batch_size);
  take(e.max_num_ooe, l.max_num_ooe);
  l.max_prefill_time = e.max_prefill_time.value_or(l.max_prefill_time);
  l.avg_decoding_time = e.avg_decoding_time.value_or(l.avg_decoding_time);
  l.use_fixed_sp = e.use_fixed_sp.value_or(l.use_fixed_sp);
  l.disable_scale_up = e.disable_scale_up.value_or(l.disable_scale_up);
  LendingConfig& lending = s.lending;
  if (e.heartbeat_ms) lending.heartbeat = to_picoseconds(Seconds(*e.heartbeat_ms * 1e-3));
  take(e.debtor_batch_size, lending.debtor_batch);
  lending.creditor_usage = e.creditor_usage.value_or(lending.creditor_usage);
  lending.lend_limit = e.lend_limit.value_or(lending.lend_limit);
  take(e.move_tokens, lending.move_tokens);
  take(e.max_preemptions, s.splitwise.max_preemptions);
}

}  // namespace foretoken
