#include "policies.h"

#include <algorithm>

namespace foretoken::toy {

bool is_block_policy(SchedulerPolicy policy) {
  return policy != SchedulerPolicy::kVllmV1 && policy != SchedulerPolicy::kSglang &&
         policy != SchedulerPolicy::kTrtllm;
}

bool has_prefix_cache(SchedulerPolicy policy) {
  return policy == SchedulerPolicy::kVllmV1 || policy == SchedulerPolicy::kSglang ||
         policy == SchedulerPolicy::kTrtllm || policy == SchedulerPolicy::kVllmV0 ||
         policy == SchedulerPolicy::kTurbomind || policy == SchedulerPolicy::kLmdeployPytorch ||
         policy == SchedulerPolicy::kTgi || policy == SchedulerPolicy::kLightllm ||
         policy == SchedulerPolicy::kLlamaCpp;
}

bool preempts(SchedulerPolicy policy) {
  return !is_block_policy(policy) || policy == SchedulerPolicy::kVllmV0 ||
         policy == SchedulerPolicy::kSarathi || policy == SchedulerPolicy::kFastgen ||
         policy == SchedulerPolicy::kTurbomind || policy == SchedulerPolicy::kLmdeployPytorch ||
         policy == SchedulerPolicy::kNanoflow || policy == SchedulerPolicy::kSplitwise;
}

std::string name_of(const testing::TestParamInfo<SchedulerPolicy>& info) {
  switch (info.param) {
    case SchedulerPolicy::kVllmV1:
      return "VllmV1";
    case SchedulerPolicy::kSglang:
      return "Sglang";
    case SchedulerPolicy::kTrtllm:
      return "Trtllm";
    case SchedulerPolicy::kVllmV0:
      return "VllmV0";
    case SchedulerPolicy::kOrca:
      return "Orca";
    case SchedulerPolicy::kSarathi:
      return "Sarathi";
    case SchedulerPolicy::kStaticBatch:
      return "StaticBatch";
    case SchedulerPolicy::kLightllm:
      return "Lightllm";
    case SchedulerPolicy::kFastgen:
      return "Fastgen";
    case SchedulerPolicy::kTgi:
      return "Tgi";
    case SchedulerPolicy::kLlamaCpp:
      return "LlamaCpp";
    case SchedulerPolicy::kTurbomind:
      return "Turbomind";
    case SchedulerPolicy::kLmdeployPytorch:
      return "LmdeployPytorch";
    case SchedulerPolicy::kNanoflow:
      return "Nanoflow";
    case SchedulerPolicy::kLoongserve:
      return "Loongserve";
    case SchedulerPolicy::kSplitwise:
      return "Splitwise";
    case SchedulerPolicy::kInfiniteLlm:
      return "InfiniteLlm";
    case SchedulerPolicy::kTransformers:
      return "Transformers";
  }
  return "unknown";
}

void choose_block_policy(SchedulerConfig& c, SchedulerPolicy policy, CounterRandom random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  c.policy = policy;
  c.enable_prefix_caching = false;
  c.num_host_blocks = 0;
  c.reservation = KvReservation::kPaged;
  c.watermark = 0;
  const auto more_memory = [&] { c.num_blocks += pick(0, 4) * c.max_model_len / c.block_size; };
  const auto whole_prompts = [&] {
    c.max_num_batched_tokens = std::max(c.max_num_batched_tokens, c.max_model_len + pick(0, 100));
  };
  const auto all_decode = [&] {
    c.max_num_batched_tokens = std::max(c.max_num_batched_tokens, c.max_num_seqs + pick(0, 10));
  };
  const auto remember = [&] {  // llama.cpp's prompts in host memory, and chunks that are shifted
    if (c.enable_prefix_caching && chance(0.6))
      c.llama_cpp.prompt_cache_blocks = pick(1, 400) / c.block_size + 1;
    if (c.enable_prefix_caching && chance(0.3)) c.llama_cpp.n_cache_reuse = pick(1, 6);
  };
  switch (policy) {
    case SchedulerPolicy::kVllmV0:
      c.watermark = chance(0.7) ? 0.01 : 0.15;
      c.enable_chunked_prefill = !c.by_priority && chance(0.4);
      c.enable_prefix_caching = c.pipeline_depth == 1 && chance(0.6);
      if (c.pipeline_depth == 1 && !c.by_priority && !c.enable_chunked_prefill && !c.enable_prefix_caching)
        c.num_host_blocks = chance(0.7) ? pick(1, 60) : 0;
      if (!c.enable_chunked_prefill) {
        whole_prompts();
        break;
      }
      all_decode();
      c.max_num_batched_tokens = (c.max_num_batched_tokens + c.block_size - 1) / c.block_size * c.block_size;
      break;
    case SchedulerPolicy::kOrca:
      c.reservation = static_cast<KvReservation>(pick(1, 3));
      c.contiguous = chance(0.6);
      c.buddy = c.contiguous && chance(0.4);
      whole_prompts();
      all_decode();
      more_memory();
      break;
    case SchedulerPolicy::kSarathi:
      c.watermark = chance(0.7) ? 0.01 : 0.15;
      all_decode();
      if (!chance(0.3)) break;
      c.sarathi.low_chunk_size = 32 * (1 + c.max_num_seqs / 32);
      c.sarathi.high_chunk_size = c.sarathi.low_chunk_size + 32 * pick(0, 3);
      c.sarathi.chunk_schedule_max_tokens = pick(1, c.max_model_len);
      c.sarathi.chunk_schedule_stages = pick(1, 6);
      c.max_num_batched_tokens = std::max(c.max_num_batched_tokens, c.sarathi.high_chunk_size);
      break;
    case SchedulerPolicy::kStaticBatch:
      c.reservation = static_cast<KvReservation>(pick(1, 3));
      c.static_batch.remove_padding = chance(0.5);
      c.static_batch.max_queue_delay = chance(0.5) ? 0 : pick(1, 20'000);
      if (chance(0.4))
        c.static_batch.preferred_batch_size = {pick(1, c.max_num_seqs), pick(1, c.max_num_seqs)};
      whole_prompts();
      more_memory();
      break;
    case SchedulerPolicy::kLightllm:
      c.num_blocks = 1 + (c.num_blocks - 1) * c.block_size + pick(0, 60);
      c.block_size = 1;
      c.lightllm.router_max_wait_tokens = pick(0, 12);
      if (!chance(0.6)) break;  // else version 1.0
      c.lightllm.router_max_wait_tokens = pick(1, 12);
      c.lightllm.chunked_prefill_size = pick(1, c.max_num_batched_tokens);
      c.num_blocks += 14 + 2 * c.max_model_len;
      c.enable_prefix_caching = chance(0.8);
      break;
    case SchedulerPolicy::kFastgen:
      all_decode();
      break;
    case SchedulerPolicy::kTgi:
      c.tgi.waiting_served_ratio = 0.3 * static_cast<double>(pick(0, 4));
      c.tgi.max_waiting_tokens = pick(0, 30);
      c.tgi.max_batch_total_tokens = chance(0.7) ? 0 : pick(20, 2 * c.max_model_len);
      c.max_num_batched_tokens = std::max<std::int64_t>(c.max_num_batched_tokens, 40);
      more_memory();
      if (!chance(0.6)) break;  // else version 3
      c.tgi.support_chunking = true;
      c.max_num_batched_tokens = pick(1, 60);
      all_decode();
      c.enable_prefix_caching = chance(0.8);
      break;
    case SchedulerPolicy::kLlamaCpp:
      c.max_num_seqs = std::min<std::int64_t>(c.max_num_seqs, 6);
      c.llama_cpp.n_ubatch = chance(0.3) ? pick(1, 6) : pick(7, 60);
      c.enable_prefix_caching = chance(0.7);
      c.llama_cpp.slot_prompt_similarity = chance(0.3) ? 0 : 0.1F * static_cast<float>(pick(1, 6));
      c.llama_cpp.similarity_of_slot = chance(0.3);
      c.llama_cpp.last_unused_first = chance(0.7);
      c.llama_cpp.kv_unified = chance(0.4);
      all_decode();
      if (c.llama_cpp.kv_unified) {  // room for all, or some are answered with errors
        c.block_size = 1;
        c.num_blocks = 1 + (chance(0.6) ? c.max_num_seqs * c.max_model_len : pick(1, 3) * c.max_model_len);
        remember();
        break;
      }
      c.reservation = KvReservation::kMaxModelLen;
      c.num_blocks = 1 + c.max_num_seqs * ((c.max_model_len + c.block_size - 1) / c.block_size);
      remember();
      break;
    case SchedulerPolicy::kTurbomind:
      all_decode();
      c.lmdeploy.num_tokens_per_iter = chance(0.5) ? 0 : pick(1, 60);
      c.lmdeploy.max_prefill_iters = pick(1, 4);
      c.enable_prefix_caching = chance(0.6);
      break;
    case SchedulerPolicy::kLmdeployPytorch:
      c.lmdeploy.prefill_interval = pick(1, 20);
      c.enable_prefix_caching = chance(0.6);
      break;
    case SchedulerPolicy::kTransformers:
      whole_prompts();
      more_memory();
      break;
    case SchedulerPolicy::kSplitwise:
      whole_prompts();
      c.splitwise.max_preemptions = pick(0, 5);
      break;
    case SchedulerPolicy::kNanoflow:
      all_decode();
      c.nanoflow.average_prefill_length = pick(1, c.max_model_len / 4);
      c.nanoflow.average_decode_length = pick(1, c.max_model_len / 4);
      c.schedules_ahead = chance(0.7);
      break;
    default:
      break;
  }
}

void choose_caching_policy(SchedulerConfig& s, SchedulerPolicy policy, CounterRandom& random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  s.policy = policy;
  if (policy == SchedulerPolicy::kVllmV1) {
    s.num_host_blocks = chance(0.6) ? pick(1, 40) : 0;
    if (chance(0.2)) {
      s.reservation = static_cast<KvReservation>(pick(1, 3));
      s.enable_prefix_caching = false;
      s.num_host_blocks = 0;
    }
  } else if (policy == SchedulerPolicy::kSglang) {
    s.sglang.chunked_prefill_size = chance(0.2) ? -1 : pick(1, 20) * s.block_size;
    s.sglang.max_prefill_tokens = pick(10, 120);
    s.sglang.schedule_conservativeness = chance(0.3) ? 1.0 : 0.05;
    s.sglang.schedule_policy = chance(0.4) ? SglangConfig::Order::kLpm : SglangConfig::Order::kFcfs;
    s.sglang.enable_mixed_chunk = chance(0.4);
    s.sglang.overlap = chance(0.6);
  } else {
    s.trtllm.capacity_scheduler_policy =
        chance(0.5) ? TrtllmConfig::Capacity::kMaxUtilization : TrtllmConfig::Capacity::kGuaranteedNoEvict;
    s.max_num_batched_tokens = std::max<std::int64_t>(s.max_num_batched_tokens, 3 * s.block_size);
  }
}

void pipeline(SchedulerConfig& c, int stages, CounterRandom& random) {
  if (c.policy == SchedulerPolicy::kVllmV0) {  // its virtual engines neither share nor swap
    c.enable_prefix_caching = false;
    c.num_host_blocks = 0;
  }
  c.llama_cpp.prompt_cache_blocks = 0;
  c.pipeline_depth = stages;
  c.sglang.overlap = c.sglang.enable_mixed_chunk = false;
  c.sglang.scheduler_recv_interval = 1;
  c.sglang.pp_max_micro_batch_size = random.uniform() < 0.5 ? 0 : random.uniform_int(1, 10);
  // Virtual engines share the blocks.
  if (c.policy == SchedulerPolicy::kVllmV0) c.num_blocks = 1 + (c.num_blocks - 1) * stages;
}

void choose_sglang_order(SchedulerConfig& c, CounterRandom random) {
  using Order = SglangConfig::Order;
  SglangConfig& s = c.sglang;
  const std::int64_t which = random.uniform_int(0, 9);
  if (which < 3) return;
  if (which < 7) {
    constexpr Order kOthers[] = {Order::kDfsWeight, Order::kLof, Order::kRandom, Order::kHrrn,
                                 Order::kShortestPrefillFirst};
    s.schedule_policy = kOthers[random.uniform_int(0, 4)];
    if (s.schedule_policy == Order::kShortestPrefillFirst && !(c.enable_prefix_caching && c.caches_tokens))
      s.schedule_policy = Order::kHrrn;
    return;
  }
  s.schedule_policy = random.uniform() < 0.5 ? Order::kFcfs : Order::kLof;
  s.enable_priority_scheduling = true;
  s.schedule_low_priority_values_first = random.uniform() < 0.5;
  s.disable_priority_preemption = random.uniform() < 0.3;
  s.priority_scheduling_preemption_threshold = random.uniform_int(0, 2);
}

}  // namespace foretoken::toy
