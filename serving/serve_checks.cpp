#include "serving/serve_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "base/error.h"

namespace foretoken {
namespace {

void require(bool ok, const char* key, const std::string& message) {
  if (!ok) throw Error(key, message);
}

// Of the policies on top of BlockScheduler.
void check_block_policy(const SchedulerConfig& c) {
  const bool is_v0 = c.policy == SchedulerPolicy::kVllmV0;
  const bool is_llama_cpp = c.policy == SchedulerPolicy::kLlamaCpp;
  const bool has_cache = is_v0 || is_llama_cpp || c.policy == SchedulerPolicy::kTurbomind ||
                         c.policy == SchedulerPolicy::kLmdeployPytorch ||
                         (c.policy == SchedulerPolicy::kTgi && c.tgi.support_chunking) ||
                         (c.policy == SchedulerPolicy::kLightllm && c.lightllm.chunked_prefill_size > 0);
  require(!c.enable_prefix_caching || has_cache, "enable_prefix_caching",
          "the prefix cache is modelled for vLLM, SGLang, TensorRT-LLM, LMDeploy, tgi-3, lightllm-1.0 and "
          "llama.cpp; turn it off");
  if (is_v0) {
    require(!c.enable_prefix_caching || c.pipeline_depth == 1, "enable_prefix_caching",
            "the caches of virtual engines are not modelled; turn it off in a pipeline");
    require(c.num_host_blocks == 0 || c.pipeline_depth == 1, "preemption_mode",
            "swap is not modelled for virtual engines; use recompute in a pipeline");
    require(c.num_host_blocks == 0 || !c.enable_prefix_caching, "preemption_mode",
            "swap is not modelled beside vLLM V0's prefix cache; use recompute");
    require(c.num_host_blocks == 0 || !c.enable_chunked_prefill, "preemption_mode",
            "swap is not modelled beside vLLM V0's chunked prefill; use recompute");
    require(!c.by_priority || !c.enable_chunked_prefill, "scheduling_policy",
            "vLLM V0 preempts by priority without chunked prefill alone; turn it off or use fcfs");
    require(!c.enable_prefix_caching || !c.enable_chunked_prefill || !c.caches_tokens ||
                c.max_num_batched_tokens % c.block_size == 0,
            "max_num_batched_tokens",
            fmt::format("{} is no multiple of the {} tokens of a block, of which vLLM V0's chunks consist "
                        "beside a prefix cache",
                        c.max_num_batched_tokens, c.block_size));
  }
  require(c.draft_tokens == 0 || is_v0, "speculative_config",
          "speculative decoding is modelled for vLLM, SGLang and TensorRT-LLM; leave it out");
  require(c.disable_by_batch_size >= 0, "disable_by_batch_size", "must be at least 2");
  require(c.beam_width == 1, "beam_width", "beam search is modelled for vLLM V1's scheduler alone; use 1");
  require(c.lora.max_loras == 0, "lora", "adapters are modelled for vLLM V1's scheduler alone; leave it out");
  require(c.policy != SchedulerPolicy::kVllmV0 || !c.caches_tokens || c.num_blocks > c.pipeline_depth,
          "num_gpu_blocks", "each virtual engine of a pipeline needs a block; lower pipeline_parallel_size");
  const bool is_whole = (is_v0 && !c.enable_chunked_prefill) || c.policy == SchedulerPolicy::kOrca ||
                        c.policy == SchedulerPolicy::kStaticBatch ||
                        c.policy == SchedulerPolicy::kTransformers;
  require(!is_whole || c.max_num_batched_tokens >= c.max_model_len, "max_num_batched_tokens",
          fmt::format("is {}, below max_model_len ({}): prompts are not split, so a step must hold the "
                      "longest; raise it",
                      c.max_num_batched_tokens, c.max_model_len));
  const bool is_mixed = (is_v0 && c.enable_chunked_prefill) || c.policy == SchedulerPolicy::kOrca ||
                        c.policy == SchedulerPolicy::kSarathi || c.policy == SchedulerPolicy::kFastgen ||
                        c.policy == SchedulerPolicy::kLlamaCpp || c.policy == SchedulerPolicy::kTurbomind ||
                        c.policy == SchedulerPolicy::kNanoflow ||
                        (c.policy == SchedulerPolicy::kTgi && c.tgi.support_chunking);
  require(!is_mixed || c.max_num_batched_tokens >= c.max_num_seqs, "max_num_batched_tokens",
          fmt::format("{} tokens are fewer than max_num_seqs {}: all sequences decode in one step; raise it",
                      c.max_num_batched_tokens, c.max_num_seqs));
  const SarathiConfig& s = c.sarathi;
  if (s.chunk_schedule_stages > 0) {
    require(s.low_chunk_size >= 1 && s.low_chunk_size <= s.high_chunk_size, "low_chunk_size",
            fmt::format("{} is not from 1 to high_chunk_size {}", s.low_chunk_size, s.high_chunk_size));
    require(
        s.low_chunk_size % 32 == 0 && s.high_chunk_size % 32 == 0, "high_chunk_size",
        fmt::format("{} and low_chunk_size {} must be multiples of 32", s.high_chunk_size, s.low_chunk_size));
    require(s.high_chunk_size <= c.max_num_batched_tokens, "high_chunk_size",
            fmt::format("{} is above the {} tokens that a step may hold", s.high_chunk_size,
                        c.max_num_batched_tokens));
    require(s.chunk_schedule_max_tokens >= 1, "chunk_schedule_max_tokens", "must be at least 1");
    require(c.max_num_seqs < s.low_chunk_size, "low_chunk_size",
            fmt::format("{} must be above max_num_seqs {}, or decodes leave a prompt no token",
                        s.low_chunk_size, c.max_num_seqs));
  }
  require(c.policy != SchedulerPolicy::kStaticBatch || c.pipeline_depth == 1 || !c.caches_tokens ||
              c.reservation != KvReservation::kPaged,
          "kv_reservation", "the memory of a static batch in a pipeline is reserved; use exact");
  require(c.static_batch.max_queue_delay >= 0, "max_queue_delay_microseconds", "must be at least 0");
  for (const std::int64_t size : c.static_batch.preferred_batch_size)
    require(size >= 1 && size <= c.max_num_seqs, "preferred_batch_size",
            fmt::format("{} is not from 1 to max_batch_size {}", size, c.max_num_seqs));
  require(c.lightllm.router_max_wait_tokens >= 0, "router_max_wait_tokens", "must be at least 0");
  const std::int64_t chunk = c.lightllm.chunked_prefill_size;
  require(chunk >= 0 && chunk <= c.max_num_batched_tokens, "chunked_prefill_size",
          fmt::format("{} is not from 0 to batch_max_tokens {}", chunk, c.max_num_batched_tokens));
  require(chunk == 0 || c.lightllm.router_max_wait_tokens >= 1, "router_max_wait_tokens",
          "is counted by from 1 on beside chunks; use 1");
  require(c.tgi.waiting_served_ratio >= 0, "waiting_served_ratio", "must be at least 0");
  require(c.tgi.max_waiting_tokens >= 0, "max_waiting_tokens", "must be at least 0");
  require(c.tgi.max_batch_total_tokens >= 0, "max_batch_total_tokens", "must be at least 0");
  if (is_llama_cpp) {
    const bool unified = c.llama_cpp.kv_unified;
    require(c.reservation == (unified ? KvReservation::kPaged : KvReservation::kMaxModelLen),
            "kv_reservation",
            "llama.cpp's slots have the length of their context, unless they share one cache; use "
            "max_model_len, or paged with kv_unified");
    require(!unified || c.block_size == 1, "block_size",
            "llama.cpp's common cache is given out token by token; use 1");
    const std::int64_t slot = (c.max_model_len + c.block_size - 1) / c.block_size;
    require(unified || !c.caches_tokens || c.max_num_seqs * slot <= c.num_blocks - 1, "num_gpu_blocks",
            "must hold a context for each of llama.cpp's slots; raise it or lower n_parallel");
    require(c.llama_cpp.n_ubatch >= 1, "n_ubatch", "must be at least 1");
    require(c.llama_cpp.slot_prompt_similarity >= 0 && c.llama_cpp.slot_prompt_similarity <= 1,
            "slot_prompt_similarity", "must be from 0 to 1");
    require(c.llama_cpp.n_cache_reuse >= 0, "cache_reuse", "must be at least 0");
    require(c.llama_cpp.prompt_cache_blocks >= 0, "cache_ram", "must be at least 0 blocks");
    require(c.llama_cpp.prompt_cache_blocks == 0 || (c.enable_prefix_caching && c.pipeline_depth == 1),
            "cache_ram", "keeps what cache_prompt finds again, and is not modelled in a pipeline; use 0");
  }
  require(c.lmdeploy.num_tokens_per_iter >= 0, "num_tokens_per_iter", "must be at least 0");
  require(c.lmdeploy.max_prefill_iters >= 1, "max_prefill_iters", "must be at least 1");
  require(c.lmdeploy.prefill_interval >= 1, "prefill_interval", "must be at least 1");
  require(c.nanoflow.average_prefill_length >= 0, "average_prefill_length", "must be at least 0");
  require(c.nanoflow.average_decode_length >= 0, "average_decode_length", "must be at least 0");
}

bool reserves_memory(SchedulerPolicy p) {
  return p == SchedulerPolicy::kVllmV1 || p == SchedulerPolicy::kOrca || p == SchedulerPolicy::kStaticBatch ||
         p == SchedulerPolicy::kLlamaCpp;
}

void check_tiers(const SchedulerConfig& c) {
  if (c.kv_tiers.tiers.empty()) return;
  const bool hicache = c.policy == SchedulerPolicy::kSglang;
  require(hicache || c.policy == SchedulerPolicy::kVllmV1, "kv_tiers",
          "are modelled for vLLM V1's scheduler and SGLang's alone");
  if (hicache) {
    require(c.kv_tiers.tiers.size() <= 2, "kv_tiers",
            "are host memory and storage below it, at most, under SGLang's scheduler");
    for (const KvTierConfig& tier : c.kv_tiers.tiers) {
      require(!tier.shared, "kv_tiers", "are what each rank has to itself under SGLang's scheduler");
      require(tier.eviction == KvTierConfig::Eviction::kLru, "kv_tiers",
              "give away what was used least recently under SGLang's scheduler; use lru");
    }
    require(c.kv_tiers.tiers.back().write == KvTierConfig::Write::kThrough || c.kv_tiers.tiers.size() == 1,
            "write_policy", "of storage is write_through under SGLang's scheduler");
    require(c.kv_tiers.prefetch_threshold >= 1, "kv_tiers", "are prefetched from one token on at least");
    require(c.kv_tiers.layers > 0 && !c.kv_tiers.by_cost, "kv_tiers",
            "are always loaded from, layer by layer, under SGLang's scheduler");
  }
  require(c.caches_tokens && c.enable_prefix_caching, "kv_tiers",
          "are searched by the prefix cache; turn enable_prefix_caching on");
  require(c.reservation == KvReservation::kPaged, "kv_tiers", "hold blocks; use kv_layout paged");
  require(c.num_host_blocks == 0, "preemption_mode",
          "what is preempted is found in the KV tiers again; use recompute beside them");
  require(c.pipeline_depth == 1, "kv_tiers", "are modelled without a pipeline; use pipeline_parallel_size 1");
  require(c.draft_tokens == 0, "kv_tiers", "don't hold a draft model's cache; leave speculative_config out");
  require(c.beam_width == 1, "kv_tiers", "are not modelled for several beams; use beam_width 1");
  require(c.lora.max_loras == 0, "kv_tiers", "are not modelled with adapters; leave lora out");
  require(!c.by_priority, "kv_tiers", "are not modelled with priorities; use scheduling_policy fcfs");
  require(c.kv_tiers.layers >= 0, "kv_tiers", "need at least one layer");
  for (const KvTierConfig& tier : c.kv_tiers.tiers)
    require(tier.blocks >= 1 && tier.blocks <= std::numeric_limits<std::int32_t>::max(), "capacity_gib",
            fmt::format("of a KV tier is {} blocks, not from 1 to 2147483647", tier.blocks));
  for (std::size_t t = 1; t < c.kv_tiers.tiers.size(); ++t) {
    require(c.kv_tiers.tiers[t].write != KvTierConfig::Write::kSelective, "write_policy",
            "write_through_selective is the first tier's alone");
    require(c.kv_tiers.tiers[t].shared || !c.kv_tiers.tiers[t - 1].shared, "shared",
            "is a KV tier above one that each rank has to itself; share the lower one, too");
  }
}

// What the policies other than vLLM's need to make progress.
void check_policy(const SchedulerConfig& c) {
  require(c.num_host_blocks >= 0 && c.num_host_blocks <= std::numeric_limits<std::int32_t>::max(),
          "swap_space_gib",
          fmt::format("{} blocks in host memory are not from 0 to 2147483647", c.num_host_blocks));
  if (c.reservation != KvReservation::kPaged) {
    require(reserves_memory(c.policy), "kv_layout",
            "contiguous is modelled for vLLM's scheduler, Orca, static batches and llama.cpp alone");
    require(c.contiguous || c.policy == SchedulerPolicy::kOrca, "kv_layout",
            "blocks anywhere are reserved by Orca alone");
    require(!c.buddy || c.policy == SchedulerPolicy::kOrca, "kv_layout",
            "a buddy allocator is modelled for Orca alone");
    require(!c.enable_prefix_caching || c.policy == SchedulerPolicy::kLlamaCpp, "enable_prefix_caching",
            "contiguous regions share nothing; turn it off");
    require(c.num_host_blocks == 0, "preemption_mode",
            "nobody is preempted whose memory is reserved; use recompute");
    require(c.draft_tokens == 0, "kv_layout", "contiguous has no room for drafted tokens; use paged");
  }
  require(c.draft_tokens == 0 || c.pipeline_depth == 1, "speculative_config",
          "speculative decoding is modelled without a pipeline; use pipeline_parallel_size 1");
  require(c.draft_tokens == 0 || c.num_host_blocks == 0, "preemption_mode",
          "the draft model's cache is not swapped; use recompute beside speculative decoding");
  require(c.draft_tokens >= 0 && c.draft_tokens < c.max_num_batched_tokens, "num_speculative_tokens",
          fmt::format("{} drafted tokens and the one before them don't fit max_num_batched_tokens {}",
                      c.draft_tokens, c.max_num_batched_tokens));
  require(c.lookahead >= 0 && c.draft_tokens <= std::numeric_limits<std::int16_t>::max(),
          "num_speculative_tokens", "must be from 0 to 32767");
  require(!c.by_priority || ((c.policy == SchedulerPolicy::kVllmV1 || c.policy == SchedulerPolicy::kVllmV0) &&
                             c.num_host_blocks == 0 && c.beam_width == 1 && !c.prefill_only),
          "scheduling_policy",
          "priorities are modelled for vLLM, without swapping, beam search and prefill apart; use fcfs");
  require(c.prefill_window.order == PrefillOrder::kFcfs || c.policy == SchedulerPolicy::kVllmV1,
          "prefill_policy", "is modelled under vLLM's scheduler alone; use fcfs");
  require(c.prefill_window.requests >= 1, "prefill_sched_batch", "must be at least 1");
  require(c.splitwise.max_preemptions >= 0 && c.splitwise.max_preemptions < 255, "max_preemptions",
          "must be from 0 to 254");
  if (c.policy == SchedulerPolicy::kVllmV1) return;
  require(c.num_host_blocks == 0 || c.policy == SchedulerPolicy::kVllmV0, "preemption_mode",
          "swap is modelled for vLLM's schedulers alone");
  require(c.pipeline_depth == 1 || runs_in_pipelines(c.policy), "pipeline_parallel_size",
          "this system has no pipeline, or none whose micro-batches are modelled; use 1");
  if (c.policy == SchedulerPolicy::kSglang) {
    const SglangConfig& s = c.sglang;
    require(s.chunked_prefill_size < 1 || s.chunked_prefill_size % c.block_size == 0, "chunked_prefill_size",
            fmt::format("{} is no multiple of the page size {}", s.chunked_prefill_size, c.block_size));
    require(s.max_prefill_tokens >= 1, "max_prefill_tokens", "must be at least 1");
    require(s.schedule_conservativeness > 0, "schedule_conservativeness", "must be above 0");
    require(c.draft_tokens == 0 || (!s.overlap && !s.enable_mixed_chunk), "speculative_config",
            "SGLang drafts tokens without its overlap scheduler and mixed chunks");
    using Order = SglangConfig::Order;
    require(!s.enable_priority_scheduling || s.schedule_policy == Order::kFcfs ||
                s.schedule_policy == Order::kLof,
            "enable_priority_scheduling", "SGLang takes fcfs and lof alone beside it");
    require(s.priority_scheduling_preemption_threshold >= 0, "priority_scheduling_preemption_threshold",
            "must be at least 0");
    require(c.pipeline_depth == 1 || (!s.overlap && !s.enable_mixed_chunk), "pipeline_parallel_size",
            "SGLang has no overlap scheduler and no mixed chunks in a pipeline; turn them off");
    require(c.pipeline_depth == 1 || s.scheduler_recv_interval == 1, "scheduler_recv_interval",
            "is modelled without a pipeline; use 1");
    require(s.pp_max_micro_batch_size >= 0, "pp_max_micro_batch_size", "must be at least 1");
    require(s.schedule_policy != Order::kShortestPrefillFirst || (c.enable_prefix_caching && c.caches_tokens),
            "schedule_policy", "shortest-prefill-first needs the prefix cache");
    return;
  }
  if (c.policy != SchedulerPolicy::kTrtllm) {
    check_block_policy(c);
    return;
  }
  const std::int64_t unit = c.trtllm.chunk_unit_size > 0 ? c.trtllm.chunk_unit_size : c.block_size;
  require(unit % c.block_size == 0, "chunk_unit_size",
          fmt::format("{} is no multiple of the {} tokens of a block", unit, c.block_size));
  require(!c.enable_chunked_prefill || c.max_num_batched_tokens >= unit, "max_num_tokens",
          fmt::format("{} is below the chunk unit of {} tokens", c.max_num_batched_tokens, unit));
}

}  // namespace

void check(const EngineConfig& engine, const Backend& backend) {
  const SchedulerConfig& c = engine.scheduler;
  require(engine.ranks >= 1, "data_parallel_size", "must be at least 1");
  require(c.max_num_seqs >= 1, "max_num_seqs", "must be at least 1");
  require(c.max_num_batched_tokens >= 1, "max_num_batched_tokens", "must be at least 1");
  require(c.max_model_len >= 2 && c.max_model_len <= std::numeric_limits<std::int32_t>::max(),
          "max_model_len", "must be from 2 to 2147483647");
  require(c.block_size >= 1, "block_size", "must be at least 1");
  require(c.pipeline_depth >= 1, "pipeline_parallel_size", "must be at least 1");
  require(c.pipeline_depth == 1 || engine.ranks == 1 || c.policy == SchedulerPolicy::kVllmV1,
          "data_parallel_size", "ranks that step together are modelled in pipelines of vLLM V1 alone; use 1");
  require(c.watermark >= 0 && c.watermark < 1, "watermark", "must be from 0 to below 1");
  require(c.long_prefill_token_threshold >= 0, "long_prefill_token_threshold", "must be at least 0 (0: off)");
  require(!c.caches_tokens || (c.num_blocks >= 2 && c.num_blocks <= std::numeric_limits<std::int32_t>::max()),
          "num_gpu_blocks",
          fmt::format("a pool of {} blocks can't be served from; it takes at least 2, one is the null block",
                      c.num_blocks));
  check_policy(c);
  check_tiers(c);
  require(c.policy != SchedulerPolicy::kVllmV1 || c.enable_chunked_prefill ||
              c.max_num_batched_tokens >= c.max_model_len,
          "max_num_batched_tokens",
          fmt::format(
              "is {}, below max_model_len ({}): without chunked prefill a prompt must fit one step; raise "
              "it or set enable_chunked_prefill",
              c.max_num_batched_tokens, c.max_model_len));
  const auto windows = backend.windows();
  if (windows.empty() || windows.size() > kMaxAttentionGroups || windows[0] != 0) {
    throw std::logic_error("Backend::windows must begin with 0 and name at most kMaxAttentionGroups groups");
  }
}

namespace {

// Whose caches may come from another engine.
bool serves_apart(SchedulerPolicy p) {
  return p == SchedulerPolicy::kVllmV1 || p == SchedulerPolicy::kSplitwise;
}

// Routers under which engines of both roles do either work.
void check_flexible(const ServeOptions& options, std::size_t prefill) {
  const bool is_tetri = options.router.kind == RouterKind::kTetriInfer;
  const std::string name(kRouterNames[static_cast<std::size_t>(options.router.kind)]);
  require(prefill > 0, "router",
          name +
              " chooses an engine for the prompt and one for the tokens; give prefill and decode, or use "
              "another router");
  require(!options.decode_makes_first_token, "first_token",
          name + " gives the client the token that the prompt ends with; use prefill");
  for (const EngineConfig& e : options.engines) {
    require(e.ranks == 1, "data_parallel_size",
            name + " is modelled for engines of one rank; use independent replicas");
    require(options.kv_link.layers == 0 || e.scheduler.pipeline_depth == 1, "overlap",
            "layerwise is modelled for engines without a pipeline; use pipeline_parallel_size 1");
    require(!e.scheduler.by_priority, "scheduling_policy",
            "priorities are not modelled where prompts and tokens are made apart; use fcfs");
    require(!is_tetri || e.scheduler.policy == SchedulerPolicy::kVllmV1, "behavior",
            "tetriinfer is modelled over vLLM's scheduler alone");
  }
  require(options.splitwise.prompt_max_pending_tokens >= 0, "prompt_max_pending_batch_tokens",
          "must be at least 0");
  const TetriInferConfig& t = options.tetri_infer;
  require(t.length_granularity >= 1, "length_granularity", "must be at least 1");
  require(t.length_accuracy >= 0 && t.length_accuracy <= 1, "length_accuracy", "must be from 0 to 1");
  require(t.heavy_decode_tokens >= 0, "heavy_decode_tokens", "must be at least 0");
  require(t.load_interval >= 0, "load_interval_ms", "must be at least 0");
  require(!t.flip_idle || *t.flip_idle > 0, "flip_idle_s", "must be above 0");
}

}  // namespace

std::size_t prefill_engines(const std::vector<EngineConfig>& engines) {
  const auto count = [&](EngineRole role) {
    return std::count_if(engines.begin(), engines.end(),
                         [&](const EngineConfig& e) { return e.role == role; });
  };
  const auto prefill = count(EngineRole::kPrefill), decode = count(EngineRole::kDecode);
  if (prefill == 0 && decode == 0) return 0;
  require(prefill > 0, "prefill", "engines that only decode need one that prefills");
  require(decode > 0, "decode", "engines that only prefill need one that decodes");
  require(count(EngineRole::kWhole) == 0, "prefill", "engines either split requests or serve whole ones");
  for (std::size_t i = 0; i < engines.size(); ++i) {
    const EngineConfig& e = engines[i];
    const bool prefills = static_cast<std::ptrdiff_t>(i) < prefill;
    require((e.role == EngineRole::kPrefill) == prefills, "prefill", "engines that only prefill come first");
    require(serves_apart(e.scheduler.policy), "behavior",
            "disaggregated serving is modelled for vLLM's scheduler and Splitwise's alone");
    require(e.scheduler.block_size == engines[0].scheduler.block_size, "block_size",
            "must be the same for prefill and decode");
    require(e.scheduler.max_model_len == engines[0].scheduler.max_model_len, "max_model_len",
            "must be the same for prefill and decode");
    require(e.scheduler.kv_tiers.tiers.empty(), "kv_tiers",
            "are modelled for engines that serve whole requests");
  }
  return static_cast<std::size_t>(prefill);
}

void check_transfers(const ServeOptions& options, std::size_t prefill) {
  const KvLinkConfig& link = options.kv_link;
  require(link.layers >= 0 && link.latency >= 0, "kv_link", "layers and latency must be at least 0");
  require(link.layerwise_min_tokens >= 0, "layerwise_min_tokens", "must be at least 0");
  const bool flexible =
      options.router.kind == RouterKind::kSplitwise || options.router.kind == RouterKind::kTetriInfer;
  for (std::size_t e = 0; e < options.engines.size(); ++e)
    require(options.engines[e].scheduler.prefill_only == (e < prefill && !flexible), "prefill",
            "prefill_only belongs to the role of an engine, and to none where routers give it its work");
  require(link.engines_per_port >= 1, "engines_per_port", "must be at least 1");
  for (std::size_t e = 0; e < prefill && link.layers > 0; ++e)
    require(
        options.engines[e].scheduler.pipeline_depth == 1, "overlap",
        "layerwise is modelled for prefill engines without a pipeline; use pipeline_parallel_size 1 there");
  if (flexible) check_flexible(options, prefill);
  if (options.router.kind != RouterKind::kMooncake) return;
  require(
      prefill > 0, "router",
      "mooncake chooses a prefill and a decode engine for each request; give both, or use another router");
  require(options.estimates != nullptr, "router",
          "mooncake decides by predicted times, which are missing; use another router");
  const ConductorConfig& c = options.conductor;
  require(c.balancing_threshold >= 1, "kvcache_balancing_threshold", "must be at least 1");
  require(!c.decode_time || *c.decode_time > 0, "decode_time_s", "must be above 0");
  require(c.rejection == Rejection::kEarly || link.layers == 0, "rejection",
          "a request whose layers are on their way is not refused; refuse early, or move whole caches");
  for (std::size_t e = 0; e < prefill; ++e) {
    require(options.engines[e].scheduler.kv_tiers.tiers.empty(), "kv_tiers",
            "mooncake is modelled for prefixes in device memory; leave the tiers out, or use another router");
    require(options.engines[e].ranks == 1, "data_parallel_size",
            "mooncake is modelled for prefill engines of one rank; use independent replicas there");
  }
}

void check_autoscale(const ServeOptions& options, std::size_t replicas) {
  const AutoscaleConfig& a = options.autoscale;
  if (!a.on) return;
  require(options.engines.size() == 1, "autoscale", "is modelled for replicas that are all alike");
  require(a.min_replicas >= 0 && a.min_replicas <= a.max_replicas &&
              a.max_replicas == static_cast<std::int64_t>(replicas),
          "min_replicas", fmt::format("{} is not from 0 to {}", a.min_replicas, replicas));
  require(a.target > 0 && a.tolerance >= 0, "target", "must be above 0");
  require(a.interval > 0 && a.startup >= 0 && a.scale_down_window >= 0, "interval_s", "must be above 0");
}

}  // namespace foretoken
