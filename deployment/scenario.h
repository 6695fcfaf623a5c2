// The scenario file as structs with field tables: what a user writes, before anything is derived. A resolved
// scenario has every optional filled and is stored in every result.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/fields.h"
#include "base/json.h"
#include "deployment/engine_section.h"
#include "serving/router.h"
#include "serving/workload.h"

namespace foretoken {

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
  std::optional<std::int64_t> engines_per_port, layerwise_min_tokens;
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
          at_least(1)),
    field("layerwise_min_tokens", &KvLinkSection::layerwise_min_tokens,
          "layerwise: shorter prompts go whole (default: 0; Splitwise: 512)", at_least(0))};

// Mooncake's conductor. Names in the order of Rejection.
inline constexpr std::string_view kRejectionNames[] = {"early", "late", "both"};

struct ConductorSection {
  std::optional<double> kvcache_balancing_threshold, ttft_slo_ms, tbt_slo_ms, decode_time_s;
  std::optional<std::string> rejection;
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
          above(0)),
    field(
        "rejection", &ConductorSection::rejection,
        "when tbt_slo_ms refuses a request: early (when it comes), late (when its prompt is computed, which "
        "is lost then) or both (default: early)",
        one_of(kRejectionNames))};

struct SplitwiseSection {
  std::optional<std::int64_t> prompt_max_pending_batch_tokens;
};
template <>
inline constexpr auto fields_of<SplitwiseSection> = std::tuple{
    field("prompt_max_pending_batch_tokens", &SplitwiseSection::prompt_max_pending_batch_tokens,
          "tokens in front of a prompt, itself among them, above which a machine where requests wait doesn't "
          "get it (default: 8192)",
          at_least(0))};

inline constexpr std::string_view kPrefillPolicyNames[] = {"fcfs", "sjf", "ljf"};
inline constexpr std::string_view kDecodePolicyNames[] = {"greedy", "reserve_static", "reserve_dynamic"};
struct TetriInferSection {
  std::optional<std::string> prefill_policy, decode_policy;
  std::optional<std::int64_t> prefill_sched_batch, length_granularity, heavy_decode_tokens;
  std::optional<double> length_accuracy, load_interval_ms, flip_idle_s;
};
template <>
inline constexpr auto fields_of<TetriInferSection> = std::tuple{
    field("prefill_policy", &TetriInferSection::prefill_policy,
          "order of the prompts that wait: fcfs, sjf (shortest first) or ljf (longest first) (default: sjf)",
          one_of(kPrefillPolicyNames)),
    field("prefill_sched_batch", &TetriInferSection::prefill_sched_batch,
          "prompts that are put in that order at a time (default: 16)", at_least(1)),
    field("length_granularity", &TetriInferSection::length_granularity,
          "output tokens of a range that a request's length is predicted to lie in (default: 200)",
          at_least(1)),
    field("length_accuracy", &TetriInferSection::length_accuracy,
          "share of requests whose range is predicted rightly (default: 0.749)", between(0, 1)),
    field("heavy_decode_tokens", &TetriInferSection::heavy_decode_tokens,
          "predicted output tokens above which a request is heavy (default: 128)", at_least(0)),
    field(
        "decode_policy", &TetriInferSection::decode_policy,
        "whom a decode engine takes in: greedy (who has room now), reserve_static (whose predicted memory is "
        "free) or reserve_dynamic (whose memory lasts until the first of the others is predicted to end) "
        "(default: reserve_dynamic)",
        one_of(kDecodePolicyNames)),
    field("load_interval_ms", &TetriInferSection::load_interval_ms,
          "between two broadcasts of the decode engines' loads (default: 100; 0: loads as they are)",
          at_least(0)),
    field("flip_idle_s", &TetriInferSection::flip_idle_s,
          "seconds after which an idle engine may change sides (default: 60; 0: never)", at_least(0))};

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
  std::optional<SplitwiseSection> splitwise;
  std::optional<TetriInferSection> tetriinfer;
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
    field("splitwise", &ClusterSection::splitwise, "router splitwise's"),
    field("tetriinfer", &ClusterSection::tetriinfer, "router tetriinfer's"),
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
