// The one serving loop: requests, a router, engines with their scheduler and KV blocks, a backend that says
// how long steps take, all in virtual time. Simulator and executor differ in the backend alone.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "serving/autoscaler.h"
#include "serving/backend.h"
#include "serving/conductor.h"
#include "serving/kv_tier_config.h"
#include "serving/lora.h"
#include "serving/metrics.h"
#include "serving/mixed_pools.h"
#include "serving/over_time.h"
#include "serving/router.h"
#include "serving/tetri_infer.h"
#include "serving/timeline.h"
#include "serving/workload.h"

namespace foretoken {

// Whose rules decide (docs/policies.md).
enum class SchedulerPolicy {
  kVllmV1,
  kSglang,
  kTrtllm,
  kVllmV0,
  kOrca,
  kSarathi,
  kStaticBatch,  // FasterTransformer, under Triton's dynamic batcher or not
  kLightllm,
  kFastgen,
  kTgi,
  kLlamaCpp,
  kTurbomind,  // LMDeploy's engines
  kLmdeployPytorch,
  kNanoflow,
  kLoongserve,   // a pool of elastic instances in place of engines (elastic/serve.h)
  kSplitwise,    // its machine-level scheduler
  kInfiniteLlm,  // instances that lend KV memory, in place of engines (lending/serve.h)
  kTransformers  // static batches as Hugging Face's generate() runs them
};

// Whose way to keep the stages of a pipeline busy is modelled.
constexpr bool runs_in_pipelines(SchedulerPolicy p) {
  return p == SchedulerPolicy::kVllmV1 || p == SchedulerPolicy::kVllmV0 || p == SchedulerPolicy::kOrca ||
         p == SchedulerPolicy::kSarathi || p == SchedulerPolicy::kSglang || p == SchedulerPolicy::kTrtllm ||
         p == SchedulerPolicy::kStaticBatch || p == SchedulerPolicy::kLlamaCpp;
}

// KV memory: blocks as a sequence grows, or one contiguous region for as long as it lives, of the longest
// sequence's length, of prompt and output rounded up to a power of two, or of what it will need (Kwon et al.
// 2023, 6.1: Orca's Max, Pow2 and Oracle).
enum class KvReservation { kPaged, kMaxModelLen, kPowerOfTwo, kExact };

// What only SGLang has, by its names and defaults.
struct SglangConfig {
  // schedule_policy
  enum class Order { kFcfs, kLpm, kDfsWeight, kLof, kRandom, kHrrn, kShortestPrefillFirst };
  std::int64_t chunked_prefill_size = 8192;  // below 1: prompts are never split
  std::int64_t max_prefill_tokens = 16384;
  double schedule_conservativeness = 1.0;
  Order schedule_policy = Order::kFcfs;
  bool enable_mixed_chunk = false;
  bool overlap = true;  // off: disable_overlap_schedule
  // Decode steps between two looks at the queue of new requests; after a prefill it is looked at in any case.
  std::int64_t scheduler_recv_interval = 1;
  // Higher values go first, or lower ones; a running request gives way to one that waits if its priority is
  // worse by more than the threshold.
  bool enable_priority_scheduling = false, schedule_low_priority_values_first = false;
  bool disable_priority_preemption = false;
  std::int64_t priority_scheduling_preemption_threshold = 10;
  std::uint64_t seed = 0;  // of a random order
  // In a pipeline: running requests of a micro-batch; 0: max_num_seqs divided by the stages, at least 1.
  std::int64_t pp_max_micro_batch_size = 0;
};

// What only TensorRT-LLM has, by its names and defaults.
struct TrtllmConfig {
  enum class Capacity { kGuaranteedNoEvict, kMaxUtilization, kStaticBatch };
  enum class Chunking { kFirstComeFirstServed, kEqualProgress };
  Capacity capacity_scheduler_policy = Capacity::kGuaranteedNoEvict;
  Chunking context_chunking_policy = Chunking::kFirstComeFirstServed;
  std::int64_t chunk_unit_size = 0;  // a multiple of block_size; 0: block_size
  // While others generate, prompts wait for so many steps, or until the step holds this share of
  // max_num_batched_tokens; 0 is off.
  std::int64_t batch_wait_timeout_iters = 0;
  double batch_wait_max_tokens_ratio = 0;
};

// What only Sarathi-Serve has: chunks that shrink while a prompt is computed
// (enable_dynamic_chunking_schedule).
struct SarathiConfig {
  std::int64_t low_chunk_size = 0, high_chunk_size = 0, chunk_schedule_max_tokens = 0;
  std::int64_t chunk_schedule_stages = 0;  // 0: every chunk is chunk_size, which is max_num_batched_tokens
};

// FasterTransformer's remove_padding, and Triton's dynamic batcher.
struct StaticBatchConfig {
  bool remove_padding = true;       // off: prompts are padded to the longest of the batch
  Picoseconds max_queue_delay = 0;  // max_queue_delay_microseconds
  std::vector<std::int64_t> preferred_batch_size;
};

struct LightllmConfig {
  std::int64_t router_max_wait_tokens = 10;  // decode steps between two looks at the queue
  std::int64_t chunked_prefill_size = 0;     // of versions from 1.0 on; 0: of 2023, whole prompts
};

// Text Generation Inference's; max_num_batched_tokens is its max_batch_prefill_tokens.
struct TgiConfig {
  bool support_chunking = false;  // version 3: the keys below that speak of waiting mean nothing
  double waiting_served_ratio = 0.3;
  std::int64_t max_waiting_tokens = 20;
  std::int64_t max_batch_total_tokens = 0;  // 0: what the KV cache holds
};

// llama.cpp's server, as of December 2025; max_num_batched_tokens is n_batch, enable_prefix_caching
// cache_prompt.
struct LlamaCppConfig {
  std::int64_t n_ubatch = 512;  // tokens of a step
  // A request takes the idle slot whose tokens begin like its prompt, if that is more than this share of the
  // prompt, or, with similarity_of_slot, of what the slot holds; 0: the least recently used one.
  float slot_prompt_similarity = 0.1F;
  bool similarity_of_slot = false;
  bool last_unused_first = true;  // of slots that were never used; else the first
  // All slots share the blocks, of one token each, and keep theirs when a request ends.
  bool kv_unified = false;
  // Tokens of a slot that come again later in the prompt are shifted there, so many in a row at least; 0:
  // none.
  std::int64_t n_cache_reuse = 0;
  // Host memory for prompts that lose their slot, in blocks; 0: none.
  std::int64_t prompt_cache_blocks = 0;
};

// LMDeploy's, by its names and defaults.
struct LmdeployConfig {
  // TurboMind: a step holds at least so many tokens, and as many as it takes to compute all prompts in
  // max_prefill_iters steps.
  std::int64_t num_tokens_per_iter = 0, max_prefill_iters = 1;
  std::int64_t prefill_interval = 16;  // PyTorch engine: decode steps between two looks at the queue
};

struct SplitwiseConfig {
  std::int64_t max_preemptions = 4;  // steps that a sequence may be passed over before it goes first
};

// TetriInfer's prefill engines, under vLLM's scheduler: so many requests of the queue are put in order at a
// time (PrefillSchedBatch).
enum class PrefillOrder { kFcfs, kSjf, kLjf };
struct PrefillWindow {
  PrefillOrder order = PrefillOrder::kFcfs;
  std::int64_t requests = 16;
};

// NanoFlow's; max_num_batched_tokens is its global_batch_size. 0: the workload's mean.
struct NanoflowConfig {
  std::int64_t average_prefill_length = 0, average_decode_length = 0;
};

// LoongServe's, by its names and defaults. Replicas are its elastic instances.
struct LoongserveConfig {
  std::int64_t max_wait_tokens = 10;                      // decode steps between two looks at the queue
  std::int64_t min_comp_bound_decoding_batch_size = 100;  // rows that a master takes before there is another
  std::int64_t max_num_ooe = 10;  // times in a row that requests may be dispatched past earlier ones
  double max_prefill_time = 500;  // ms, of prompts that are not alone
  double avg_decoding_time = 30;  // ms, of a decode step, as dispatching expects it
  bool use_fixed_sp = false;      // all instances are one group
  bool disable_scale_up = false;  // groups keep to the instances that their prefills left them
  // What deciding rests on: a prefill over k instances of prompts of l_i tokens takes
  // prefill_model[k - 1] . {1, sum of l_i, sum of l_i^2} ms; a token's cache moves in so many ps.
  std::vector<std::array<double, 3>> prefill_model;
  Picoseconds move_per_token = 0;
};

// Infinite-LLM's. Replicas are its instances.
struct LendingConfig {
  Picoseconds heartbeat = 100'000'000'000;  // between two plans of the gManager
  std::int64_t debtor_batch = 64;           // instances with fewer decoding sequences may become debtors
  double creditor_usage = 0.7;              // instances that use less of their memory may become creditors
  double lend_limit = 1;                    // share of its blocks that an instance lends at the most
  std::int64_t move_tokens = 16;            // that a debtor sends away beside a step, by the gManager's order
  // What the plan rests on: a decode step of 2^i sequences takes step_ms[i] without attention, which takes
  // attention_ms for each cached token, and exchange_ms more where some of these lie elsewhere.
  std::vector<double> step_ms;
  double attention_ms = 0, exchange_ms = 0;
};

// What instances have lent to each other.
struct LendingCounts {
  std::int64_t borrowers = 0;      // requests that have had blocks elsewhere
  std::int64_t moved_blocks = 0;   // from debtors to creditors
  std::int64_t peak_lent = 0;      // blocks, of all instances at one time
  std::int64_t refused_moves = 0;  // ordered, and the creditor had no room any more
};

// One rank's scheduler and memory. Defaults are vLLM V1's. The names that the systems share a meaning under
// are vLLM's: max_num_seqs is also max_running_requests and max_batch_size, max_num_batched_tokens
// max_num_tokens, block_size page_size and tokens_per_block, enable_prefix_caching the radix cache and block
// reuse, enable_chunked_prefill enable_chunked_context.
struct SchedulerConfig {
  SchedulerPolicy policy = SchedulerPolicy::kVllmV1;
  SglangConfig sglang;
  TrtllmConfig trtllm;
  SarathiConfig sarathi;
  StaticBatchConfig static_batch;
  LightllmConfig lightllm;
  TgiConfig tgi;
  LlamaCppConfig llama_cpp;
  LmdeployConfig lmdeploy;
  NanoflowConfig nanoflow;
  LoongserveConfig loongserve;
  SplitwiseConfig splitwise;
  LendingConfig lending;
  PrefillWindow prefill_window;
  std::int64_t max_num_seqs = 256;
  std::int64_t max_num_batched_tokens = 8192;
  std::int64_t max_model_len = 32768;
  std::int64_t long_prefill_token_threshold = 0;  // 0: off
  bool enable_chunked_prefill = true;
  bool enable_prefix_caching = true;
  bool reserve_full_prompt = true;  // scheduler_reserve_full_isl
  double watermark = 0.0;           // share of blocks kept free at admission
  std::int64_t num_blocks = 0;      // the pool, null block included
  int block_size = 16;
  // preemption_mode "swap": host memory for the blocks of preempted sequences, which are copied back before
  // they go on; who finds no room there is computed again. 0: all are. vLLM V0's rule.
  std::int64_t num_host_blocks = 0;
  KvReservation reservation = KvReservation::kPaged;  // without prefix caching where it is not paged
  bool contiguous = true;                             // what is reserved is one region, not blocks anywhere
  bool buddy = false;                                 // regions are a buddy allocator's
  bool caches_tokens = true;                          // false: the model has no KV cache (pure recurrent)
  int pipeline_depth = 1;                             // batches in flight
  bool by_priority = false;  // scheduling_policy "priority", vLLM's: by (priority, arrival)
  // Speculative decoding: most drafted tokens that a sequence verifies in a step, 0: none are drafted. Their
  // KV slots are part of the step; `lookahead` more are taken for those that the draft model then writes.
  int draft_tokens = 0, lookahead = 0;
  // vLLM V0: nobody speculates in a step while so many run; 0: off.
  std::int64_t disable_by_batch_size = 0;
  // Tokens of a sequence's next decode step under SGLang and TensorRT-LLM: the newest one and its drafts.
  std::int32_t generated(std::int64_t computed, std::int64_t drafts) const {
    return static_cast<std::int32_t>(std::min(1 + drafts, max_model_len - computed));
  }
  // Slots of a step that ends with so many tokens in the cache, those of the draft model included.
  std::int64_t with_lookahead(std::int64_t tokens) const {
    return lookahead == 0 ? tokens : std::min(tokens + lookahead, max_model_len);
  }
  // Asynchronous: a step is decided when the one before it starts, so that what arrives meanwhile waits for
  // the step after. Used with pipeline_depth 1.
  bool schedules_ahead = false;
  // Ends with the prompt and its first token; the rest is another engine's.
  bool prefill_only = false;
  bool tells_lengths = false;  // sequences' lengths are asked for between decisions
  LoraConfig lora;             // of vLLM's policy alone
  KvTiersConfig kv_tiers;      // of vLLM V1 and SGLang
  // Beam search, vLLM's policy alone: a request takes so many sequences of max_num_seqs, with a row each in
  // a step. The prompt's full blocks are theirs together, from there on each has blocks of its own.
  int beam_width = 1;
};

// What an engine does of a request: all of it, or, in a disaggregated deployment, the prompt or the rest.
enum class EngineRole { kWhole, kPrefill, kDecode };

struct EngineConfig {  // one replica: ranks that step together (1 unless attention data-parallel with shared
                       // experts)
  SchedulerConfig scheduler;
  int ranks = 1;
  EngineRole role = EngineRole::kWhole;
};

// What carries caches between engines (docs/policies.md).
struct KvLinkConfig {
  // Of the model, where each goes as soon as it is computed; 0: whole caches, once their prompts are.
  std::int64_t layers = 0;
  Picoseconds latency = 0;   // part of each transfer; what goes behind another one doesn't wait for it
  int engines_per_port = 1;  // neighbours on either side that send and receive through one port
  // Shorter prompts go whole even so (Splitwise: layer by layer they'd only disturb their own computing).
  std::int64_t layerwise_min_tokens = 0;
};

struct ServeOptions {
  // One entry: used for all `replicas`; else one for each. Engines that only prefill come before those that
  // only decode.
  std::vector<EngineConfig> engines;
  int replicas = 1;
  // Disaggregated: the client's first token is the one that the decode engine makes of the prompt's last
  // token once the cache is there (vLLM), not the one that the prefill engine ends with (DistServe).
  bool decode_makes_first_token = false;
  KvLinkConfig kv_link;
  // Disaggregated: of the prefill engines; decode engines by the same rule if it looks at loads alone, else
  // by the fewest outstanding requests.
  RouterConfig router;
  // Of router kMooncake, which decides by estimates.
  ConductorConfig conductor;
  TimeEstimates* estimates = nullptr;
  // Of the routers of these names; engines of both roles then compute prompts and make tokens.
  MixedPoolsConfig splitwise;
  TetriInferConfig tetri_infer;
  // Of `replicas` engines alike as many serve as it decides; requests that come while none does wait in front
  // of the router. Not with engines that only prefill.
  AutoscaleConfig autoscale;
  Slo slo;
  bool use_spans = true;
  bool keep_records = false;
  bool sample_over_time = false;
  Picoseconds sample_period = OverTime().period;  // shorter in tests
  Picoseconds ingress = 0;                        // client to engine queue, per request
  Picoseconds egress = 0;                         // token produced to token at the client
  TimelineWriter* timeline = nullptr;             // Perfetto trace, or a recording; may be null
  std::function<void(double done_share)> progress;
  const std::atomic<bool>* stop = nullptr;  // set: throw Interrupted
  // Give up (ServeResult::aborted) when a request can never be served, or when mean waiting grows past this
  // many requests an engine (planner: overloaded candidates need not be finished); 0: never.
  std::int64_t abort_backlog = 0;
};

// What one engine has done.
struct EngineTotals {
  std::int64_t requests = 0;  // that ended there; whose prompts were computed there if it only prefills
  std::int64_t steps = 0;
  double busy_seconds = 0;  // in steps
  double peak_kv_usage = 0;
};

struct ServeResult {
  ServingMetrics metrics;
  std::vector<EngineTotals> engines;
  std::vector<RequestRecord> records;
  bool aborted = false;
  std::string abort_reason;
  std::int64_t rejected =
      0;  // prompts longer than max_model_len or than the whole pool; and by the conductor
  std::string rejected_reason;
  std::int64_t rejected_ttft = 0,
               rejected_tbt = 0;       // of these by the conductor, for the limit that they'd miss
  std::int64_t rejected_computed = 0;  // of rejected_tbt those whose prompts had been computed
  std::int64_t prefix_fetches = 0,
               fetched_tokens = 0;  // by the conductor, from one prefill engine to another
  MixedPoolCounts mixed_pools;      // router splitwise's
  TetriInferCounts tetri_infer;
  LendingCounts lending;  // policy kInfiniteLlm's
  // Prompt and output tokens that went through the engines (over completed requests, input + output - 1 each,
  // input + beams x (output - 1) in beam search) are scheduled + reused - discarded - unaccepted: computed in
  // steps, found in the prefix cache, lost to preemption, drafted and not used.
  std::int64_t scheduled_tokens = 0, reused_tokens = 0, discarded_tokens = 0, unaccepted_tokens = 0;
  // Copied to host memory and back. Fewer come back than went only where a sequence ended meanwhile.
  // Over requests that have left and were not paged: the tokens of their regions, and those of them that were
  // ever filled.
  std::int64_t reserved_tokens = 0, filled_tokens = 0;
  double unfilled_share() const {
    return reserved_tokens > 0 ? 1 - static_cast<double>(filled_tokens) / static_cast<double>(reserved_tokens)
                               : 0;
  }
  // Beam search, over requests that have left: KV blocks that they held at their end, and those that their
  // beams would have held apart.
  std::int64_t beam_blocks = 0, unshared_beam_blocks = 0;
  double shared_block_share() const {
    return unshared_beam_blocks > 0
               ? 1 - static_cast<double>(beam_blocks) / static_cast<double>(unshared_beam_blocks)
               : 0;
  }
  OverTime over_time;  // empty unless it is asked for
  // Replicas that serve, start or end, over time; how often one started after the beginning, and ended.
  double replica_seconds = 0;
  std::int64_t most_replicas = 0, replica_starts = 0, replica_ends = 0;
  std::int64_t swapped_out_blocks = 0, swapped_in_blocks = 0, peak_host_blocks = 0;
  // Of each tier of the KV cache, all ranks together; prompt tokens looked for at first admission, and found
  // in device memory.
  std::vector<KvTierCounts> kv_tiers;
  std::int64_t queried_tokens = 0, device_hit_tokens = 0;
  std::int64_t kv_loads = 0;     // requests that waited for their blocks
  Picoseconds kv_load_wait = 0;  // they all together
  Picoseconds kv_stall = 0;      // steps that did
};

ServeResult serve(Workload& workload, Backend& backend, const ServeOptions& options);

}  // namespace foretoken
