// strategies: what is modelled, what it changes, what it was checked against; and what is refused by name.
#include "base/json_full.h"
#include "base/text.h"
#include "cli/output.h"
#include "cli/scenario_flags.h"
#include "cli/verbs.h"
#include "deployment/behavior.h"

namespace foretoken {
namespace {

struct Strategy {
  const char *area, *name, *keys, *changes, *checked;
};

constexpr Strategy kStrategies[] = {
    {"parallelism", "tensor parallelism", "tensor_parallel_size",
     "heads and widths divided; two all-reduces a layer; KV heads replicated where they don't divide",
     "parameter and KV counts of shards; NCCL tuning model"},
    {"parallelism", "pipeline parallelism", "pipeline_parallel_size",
     "layers divided into stages; a batch in flight for each stage; activations sent between them (vLLM, "
     "Orca, "
     "Sarathi-Serve)",
     "conservation of layers and work over stages; schedules worked by hand"},
    {"parallelism", "data parallelism", "data_parallel_size, replicas",
     "independent engines behind the router", "equals the same number of single engines"},
    {"parallelism", "expert parallelism", "expert_parallel_size, enable_expert_parallel",
     "experts divided over ranks that step together; all-to-all; expected number of experts hit",
     "closed form of distinct experts against enumeration"},
    {"parallelism", "hot experts", "expert_skew, enable_eplb, num_redundant_experts",
     "experts chosen by Zipf's law; all wait for the fullest rank; copies of the busiest experts and a "
     "packing "
     "even it out",
     "draws of tokens; a skew of 0 is even; packing never fuller than chance"},
    {"parallelism", "sequence parallelism", "enable_sequence_parallelism",
     "norms and residual stream divided by tokens; reduce-scatter and all-gather for each all-reduce",
     "volume of the collectives; executed: the same logits, bit for bit"},
    {"cluster", "prefill and decode apart", "cluster/prefill, decode, kv_link, first_token",
     "prompts on engines of their own; their cache moves over links; the decode engine pulls",
     "executed: the same tokens, bit for bit; Little's law; DistServe's sizes, its queueing formula and "
     "goodput"},
    {"cluster", "layer-wise transfer", "cluster/kv_link/overlap, engines_per_port",
     "layers of a prompt's cache go while it is computed; ports that engines share",
     "schedules worked by hand; executed: the same tokens, bit for bit; the closed form of exposed time"},
    {"cluster", "KV cache centric scheduling", "router mooncake; cluster/conductor",
     "both engines by predicted time to first token; prefixes fetched from other prefill engines; early "
     "rejection, with or without prediction, and rejection of computed prompts",
     "choices and schedules worked by hand; spans against single steps; Mooncake's order of the three"},
    {"cluster", "mixed pools", "router splitwise; cluster/splitwise; behavior splitwise",
     "prompt and token machine at arrival by shortest queue; machines that help the other kind out; prompts "
     "before tokens",
     "choices and schedules worked by hand; spans against single steps; replays; executed: the same tokens"},
    {"cluster", "placement by predicted lengths", "router tetriinfer; cluster/tetriinfer",
     "output ranges with an accuracy, two decode engines of which the lighter one takes it, admission by "
     "predicted memory, engines that change sides",
     "choices and schedules worked by hand; spans against single steps; replays; executed: the same tokens"},
    {"memory", "paged KV cache", "block_size, gpu_memory_utilization, num_gpu_blocks_override",
     "blocks that fit beside weights, activations and graphs", "block counts reported by vLLM"},
    {"memory", "sliding windows and hybrid layers", "(the model's config)",
     "windowed layers keep and read their window only; recurrent layers keep a state",
     "published cache sizes"},
    {"memory", "latent attention", "(the model's config)", "one latent a token instead of keys and values",
     "published cache sizes of DeepSeek models"},
    {"memory", "KV cache quantization", "kv_cache_dtype", "bytes a token; bandwidth of decode attention",
     "KV cache laws"},
    {"memory", "contiguous KV cache", "kv_layout, kv_reservation",
     "a region for each sequence's longest length, a guess or the truth; fewer run at once, none is "
     "preempted",
     "paged and contiguous execution say the same; the order of waste in Kwon et al. 2023"},
    {"memory", "offloaded weights", "cpu_offload_gib, host_link_bandwidth",
     "the first layers' weights are read over the link to host memory each step; room for more cache",
     "every matrix of the offloaded layers crosses the link once"},
    {"memory", "streamed weights", "layer_streaming, host_link_bandwidth, storage_bandwidth",
     "layers are fetched into a ring of buffers while earlier ones compute, or in turns with them",
     "event graph of fetches and layers; streamed and resident execution say the same"},
    {"compute", "weight quantization", "quantization",
     "bytes of weights with their scales; matrix units of the format",
     "published checkpoint sizes; measured GEMM rows"},
    {"compute", "low-rank adapters", "lora",
     "slots of adapters beside the weights; at most max_loras in a batch; two products a projection for "
     "each; "
     "copies from host memory",
     "executed: several in a batch equal each alone, merged weights; replayed schedules"},
    {"compute", "CUDA graphs", "cuda_graph_sizes, enforce_eager",
     "decode batches padded to captured sizes; no launch time for each kernel",
     "graph padding rules of vLLM"},
    {"compute", "measured operators", "(hardware database)",
     "prices from measured rows where there are any, else the roofline; the basis of every number is "
     "reported",
     "held-out rows of the hardware database"},
    {"scheduling", "continuous batching", "max_num_seqs, max_num_batched_tokens",
     "running requests first, then waiting ones, within the token budget",
     "vLLM V1's rules; step-by-step golden runs"},
    {"scheduling", "chunked prefill", "enable_chunked_prefill, long_prefill_token_threshold",
     "long prompts split over steps and mixed with decode", "vLLM V1's rules; conservation of tokens"},
    {"scheduling", "preemption by recomputing", "watermark, scheduler_reserve_full_isl",
     "the latest request gives its blocks back and starts again", "vLLM V1's rules"},
    {"scheduling", "preemption by swapping", "preemption_mode, swap_space_gib, host_link_bandwidth",
     "the latest request's blocks are copied to host memory and back; recomputed where there is no room",
     "vLLM V0's rule; swapped and uninterrupted execution say the same"},
    {"scheduling", "prompts first and whole",
     "behavior vllm-0.7, tgi, lightllm, lightllm-1.0, lmdeploy-pytorch",
     "steps of prompts alone stall decodes; who joins when is each system's rule",
     "schedules worked by hand"},
    {"scheduling", "iteration-level scheduling", "behavior orca, kv_layout, kv_reservation",
     "whole prompts join running requests; memory reserved to the end, in regions or blocks",
     "Kwon et al. 2023, figure 2: what the memory holds"},
    {"scheduling", "stall-free chunks",
     "behavior sarathi, deepspeed-fastgen, tgi-3, lmdeploy-turbomind, llama.cpp; chunk_size",
     "decodes first, chunks of prompts fill the step", "schedules worked by hand"},
    {"scheduling", "nano-batches", "behavior nanoflow; global_batch_size, average_decode_length",
     "prompts fill a dense batch while the expected peak of memory allows; compute-, memory- and "
     "network-bound "
     "operators share the device",
     "schedules worked by hand; the published bound of LLaMA-2-70B on eight A100"},
    {"scheduling", "static and dynamic batching",
     "behavior fastertransformer, triton; remove_padding, max_queue_delay_microseconds",
     "who starts together ends together; batches wait for company; padding is computed",
     "schedules worked by hand"},
    {"scheduling", "generate() of Hugging Face transformers", "behavior transformers; max_batch_size",
     "padded batches to the end of the last; modules launched kernel by kernel; a cache that is copied in "
     "every "
     "step",
     "schedules worked by hand; spans against single steps; executed: the same tokens; two measured "
     "settings"},
    {"scheduling", "priorities", "priority_classes, scheduling_policy, enable_priority_scheduling",
     "who waits by priority; who is preempted for memory (vLLM) or for a place (vLLM V0, SGLang); metrics by "
     "class",
     "schedules worked by hand; a search over who waits"},
    {"scheduling", "orders of the queue", "schedule_policy",
     "SGLang: longest cached prefix or output, tree order, chance, response ratio, shortest prompt",
     "schedules worked by hand; which of them starve"},
    {"scheduling", "asynchronous scheduling", "async_scheduling", "host time hidden behind the device's",
     "bounds: never slower than synchronous"},
    {"caching", "prefix caching", "enable_prefix_caching, shared_prefix, traces with hash_ids",
     "full blocks of equal beginnings computed once; least recently used go first",
     "hit rates against the ideal of an unbounded cache"},
    {"caching", "slots that keep their tokens",
     "behavior llama.cpp; cache_prompt, slot_prompt_similarity, kv_unified, cache_ram, cache_reuse",
     "a request takes the idle slot that begins like its prompt, else the least recently used one; slots of "
     "a context each or one cache for all",
     "schedules worked by hand; executed: the same tokens"},
    {"caching", "KV tiers", "kv_tiers, kv_load_policy, kv_load_mode, enable_hierarchical_cache",
     "blocks in host memory and on storage, loaded while others run or layer by layer, or computed again "
     "where that is faster; under vLLM's scheduler and, as HiCache, SGLang's; written through, on second use "
     "or on eviction; evicted by recency or frequency",
     "Mooncake's hit rates by capacity and its equation 2; executed: the tokens of plain serving"},
    {"decoding", "speculative decoding", "speculative_config",
     "a draft model (chain or tree) or prompt lookup guesses tokens; one step verifies them, rejected "
     "ones are rolled back; slots, weights, cache and passes of the draft model",
     "expected tokens a step (Leviathan et al. 2023); executed: the tokens of plain decoding, bit for bit"},
    {"decoding", "sampling", "temperature, top_k, top_p",
     "logits ordered where few tokens may be drawn; executed with a draw for each place of a request",
     "executed: the same tokens in every batch"},
    {"decoding", "beam search", "beam_width",
     "w sequences a request: a row each in every step, the prompt's KV blocks once, the rest w times",
     "executed: a plain search over whole sequences finds the same; replayed schedules"},
    {"cluster", "routing", "router, replicas",
     "nine rules: turns, chance, least requests or tokens, the better of two, sessions, prefixes by hash, "
     "cached "
     "prefixes with queue and memory (llm-d), tokens to compute and held (Dynamo)",
     "hand-computed choices; one replica equals no router"},
    {"cluster", "unlike replicas", "cluster/pools",
     "pools on devices of their own with limits, formats and systems of their own; weights for the router",
     "equal pools are replicas, to the byte; executed: the same tokens; schedules worked by hand"},
    {"cluster", "elastic sequence parallelism", "behavior loongserve; use_fixed_sp, disable_scale_up",
     "replicas are elastic instances: groups for each prefill by dynamic programming, caches over several of "
     "them, several masters in decode; ring attention",
     "schedules worked by hand; laws over random loads; LoongServe's order against chunks and "
     "disaggregation; executed: the tokens of plain serving"},
    {"cluster", "lent KV memory", "behavior infinite-llm; lend_limit, heartbeat_ms, move_tokens",
     "replicas lend KV blocks to those whose requests need more; attention over both, blocks moved by "
     "predicted "
     "throughput",
     "schedules worked by hand; blocks conserved over random loads; Infinite-LLM's orders; executed: the "
     "tokens of plain serving"},
    {"cluster", "autoscaling", "autoscale",
     "Kubernetes' rule by load or time to first token; startup, cold caches, cost",
     "hand-computed decisions; a fixed number where the rule is off"},
    {"workload", "arrivals", "request_rate, arrival, burstiness, stages",
     "Poisson, constant, gamma; stages of rates", "moments of the distributions"},
    {"workload", "closed loops and conversations", "max_concurrency, shared_prefix",
     "each end starts the next; a turn repeats the conversation so far", "number in flight never exceeded"},
    {"workload", "agents with tools", "agentic, traces with sub_requests",
     "a call follows its tool, with all that was said before in its prompt",
     "timing by hand; prefix hits of the growth"},
    {"workload", "traces", "trace, rate_scale",
     "Azure, Mooncake, BurstGPT, Splitwise, Vidur, LLMServingSim, vLLM files",
     "row counts and totals of the files"},
};

Table modelled_table() {
  Table t;
  t.title = "Modelled";
  t.columns = {{"area", "area"},
               {"technique", "technique", 4, true},
               {"keys", "keys", 4, true},
               {"changes", "changes", 4, true},
               {"checked_against", "checked against", 4, true}};
  for (const Strategy& s : kStrategies)
    t.add({std::string(s.area), std::string(s.name), std::string(s.keys), std::string(s.changes),
           std::string(s.checked)});
  t.notes.push_back("Engine behaviours: " + join(modelled_behaviors(), ", ") +
                    "; other versions take the nearest modelled one, and the result says which.");
  return t;
}

// Systems and rules that people ask for and this build lacks.
struct Refused {
  std::string_view key, what;
};
constexpr Refused kRefused[] = {
    {"engine/schedule_policy routing-key", "SGLang's order by keys of a router"},
    {"engine/pipeline_parallel_size",
     "under LMDeploy, which has no pipeline, and TGI, LightLLM, FastGen and NanoFlow"},
    {"engine/hicache_storage_backend, hicache_io_backend direct",
     "HiCache's storage by product (kv_tiers has it by speed), its copies by page"},
    {"engine/enable_dynamic_chunking", "SGLang's chunks by measured prefill times in a pipeline"},
    {"engine/quantization, kv_cache_dtype, cpu_offload_gib, cuda_graph_sizes",
     "under transformers, with models of experts, latent or recurrent layers there; its continuous batching"},
    {"engine/enable_prefix_caching, speculative_config, preemption_mode swap",
     "under other systems than vLLM, SGLang and TensorRT-LLM; prefix caches also of LMDeploy, tgi-3 and "
     "lightllm-1.0, and llama.cpp's slots keep prefixes (docs/policies.md)"},
};

Table refused_table() {
  Table t;
  t.title = "Refused by name: a scenario that asks for one of these is an error";
  t.columns = {{"key", "key", 4, true}, {"meaning", "meaning", 4, true}};
  for (const Refused& r : kRefused) t.add({std::string(r.key), std::string(r.what)});
  return t;
}

}  // namespace

int run_strategies(const Invocation& invocation) {
  Output out(invocation);
  const Table modelled = modelled_table(), refused = refused_table();
  const Json json{{"format", 1},
                  {"modelled", to_json(modelled)},
                  {"refused", to_json(refused)},
                  {"behaviors", modelled_behaviors()}};
  out.write({"Techniques", {}, {modelled, refused}, 0, dump_json(json), {}});
  return kDone;
}

}  // namespace foretoken
