// From a scenario to a deployment: defaults of the behaviour, precision, mapping, memory, prices; wrong input
// is an error, an impossible combination a verdict.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/fields_json.h"
#include "base/file.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

constexpr std::int64_t kMostTokens = 2'147'483'647;  // batches count in 32 bits
constexpr std::int64_t kMostSequences = 1'000'000, kMostBlockSize = 65'536, kMostGraphs = 4096;
constexpr std::int64_t kUnknownModelLength = 32'768;
constexpr std::int64_t kElasticTokens = 8192;  // of an instance's step, at the least

std::string prefix_of(const Resources& resources) {
  return resources.scenario_file.empty() ? std::string() : resources.scenario_file + ":";
}

void check_range(std::int64_t value, std::int64_t low, std::int64_t high, const std::string& where) {
  if (value < low || value > high)
    throw Error(where, fmt::format("{} is outside [{}, {}]", with_commas(value), with_commas(low),
                                   with_commas(high)));
}
void check_share(double value, bool zero_allowed, const std::string& where) {
  if (!(value <= 1) || !(zero_allowed ? value >= 0 : value > 0))
    throw Error(where, fmt::format("{} is outside {}0, 1]", value, zero_allowed ? '[' : '('));
}

bool has_cache(const ModelConfig& model) {
  return std::any_of(model.layers.begin(), model.layers.end(), [&](std::uint8_t kind) {
    const auto& mixer = model.kinds[kind].mixer;
    return !std::holds_alternative<RecurrentMixer>(mixer) && !std::holds_alternative<NoMixer>(mixer);
  });
}

void fill_lengths(EngineSection& e, const ModelConfig& model, std::int64_t longest, const std::string& where,
                  std::vector<std::string>& warnings) {
  const std::int64_t most =
      model.max_positions > 0 ? std::min(model.max_positions, kMostTokens) : kMostTokens;
  if (!e.max_model_len) {
    if (longest > 0)
      e.max_model_len = std::min(most, std::max<std::int64_t>(longest, 2));
    else
      e.max_model_len = model.max_positions > 0 ? most : kUnknownModelLength;
  }
  const std::string at = where + "/engine/max_model_len";
  check_range(*e.max_model_len, 1, kMostTokens, at);
  if (*e.max_model_len > most)
    throw Error(at,
                fmt::format("{} is above the {} positions of {}; lower it to {} or less",
                            with_commas(*e.max_model_len), with_commas(most), model.name, with_commas(most)));
  if (longest > *e.max_model_len)
    warnings.push_back(
        fmt::format("requests of up to {} tokens are longer than max_model_len {}: they are rejected",
                    with_commas(longest), with_commas(*e.max_model_len)));
}

void fill_limits(EngineSection& e, const Behavior& behavior, const Device& device, const ModelConfig& model,
                 const std::string& where) {
  const std::string at = where + "/engine/";
  const BatchLimits limits = default_limits(behavior, device.memory.value / kGiB, device.name);
  if (!e.enable_chunked_prefill) e.enable_chunked_prefill = behavior.chunked_prefill;
  if (!e.enable_prefix_caching) e.enable_prefix_caching = default_prefix_caching(behavior, model);
  if (!e.max_num_batched_tokens) {
    e.max_num_batched_tokens = limits.max_num_batched_tokens;
    // Whole prompts must fit a step.
    if (!*e.enable_chunked_prefill)
      e.max_num_batched_tokens = std::max(*e.max_num_batched_tokens, *e.max_model_len);
    if (e.max_num_seqs) e.max_num_batched_tokens = std::max(*e.max_num_batched_tokens, *e.max_num_seqs);
  }
  check_range(*e.max_num_batched_tokens, 1, kMostTokens, at + "max_num_batched_tokens");
  if (!e.max_num_seqs) e.max_num_seqs = std::min(limits.max_num_seqs, *e.max_num_batched_tokens);
  check_range(*e.max_num_seqs, 1, kMostSequences, at + "max_num_seqs");
  if (*e.max_num_batched_tokens < *e.max_num_seqs)
    throw Error(at + "max_num_batched_tokens",
                fmt::format("{} is below max_num_seqs {}; raise it or lower max_num_seqs",
                            *e.max_num_batched_tokens, *e.max_num_seqs));
  if (!*e.enable_chunked_prefill && *e.max_num_batched_tokens < *e.max_model_len)
    throw Error(at + "max_num_batched_tokens",
                fmt::format("{} is below max_model_len {} and chunked prefill is off; raise it to {} or turn "
                            "enable_chunked_prefill on",
                            *e.max_num_batched_tokens, *e.max_model_len, *e.max_model_len));
  if (!e.block_size) e.block_size = behavior.block_size;
  check_range(*e.block_size, 1, kMostBlockSize, at + "block_size");
  if (!e.gpu_memory_utilization) e.gpu_memory_utilization = behavior.gpu_memory_utilization;
  check_share(*e.gpu_memory_utilization, false, at + "gpu_memory_utilization");
  if (!e.watermark) e.watermark = 0.0;
  check_share(*e.watermark, true, at + "watermark");
  if (!e.long_prefill_token_threshold) e.long_prefill_token_threshold = 0;
  check_range(*e.long_prefill_token_threshold, 0, kMostTokens, at + "long_prefill_token_threshold");
  if (!e.scheduler_reserve_full_isl) e.scheduler_reserve_full_isl = behavior.reserve_full_prompt;
  // vLLM looks drafts up between steps, so it schedules none ahead.
  if (looks_up_drafts(e) && e.async_scheduling.value_or(false))
    throw Error(at + "async_scheduling", "vLLM does not schedule ahead where ngram drafts; leave it out");
  if (!e.async_scheduling)
    e.async_scheduling = default_async_scheduling(behavior, e.pipeline_parallel_size) && !looks_up_drafts(e);
  if (e.num_gpu_blocks_override)
    check_range(*e.num_gpu_blocks_override, 2, kMostTokens, at + "num_gpu_blocks_override");
}

void fill_graphs(EngineSection& e, const Behavior& behavior, bool own_memory, const std::string& where) {
  if (e.enforce_eager) e.cuda_graph_sizes.emplace();
  if (!e.cuda_graph_sizes)
    e.cuda_graph_sizes = e.max_cudagraph_capture_size
                             ? vllm_graph_sizes_up_to(behavior, *e.max_cudagraph_capture_size)
                             : default_graph_sizes(behavior, *e.max_num_seqs, own_memory);
  auto& sizes = *e.cuda_graph_sizes;
  const std::string at = where + "/engine/cuda_graph_sizes";
  if (sizes.size() > kMostGraphs)
    throw Error(at, fmt::format("{} sizes are too many; at most {} are accepted", sizes.size(), kMostGraphs));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    check_range(sizes[i], 1, kMostTokens, fmt::format("{}/{}", at, i));
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
}

void warn_about_mapping(const Mapping& m, const Scenario& s, const ModelConfig& model,
                        std::vector<std::string>& warnings) {
  const std::int64_t node = s.hardware.devices_per_node;
  if (s.hardware.count && *s.hardware.count > m.devices())
    warnings.push_back(
        s.cluster.replicas
            ? fmt::format("{} replicas of {} devices leave {} of {} devices idle", m.replicas,
                          m.devices_per_replica(), *s.hardware.count - m.devices(), *s.hardware.count)
            : fmt::format("hardware.count {} is no multiple of the {} devices of a replica: {} stay idle",
                          *s.hardware.count, m.devices_per_replica(), *s.hardware.count - m.devices()));
  if (m.tensor_parallel > node)
    warnings.push_back(
        fmt::format("tensor parallelism over {} devices spans nodes of {}: its collectives use the "
                    "network; pipeline_parallel_size {} keeps them inside",
                    m.tensor_parallel, node, (m.tensor_parallel + node - 1) / node));
  if (m.expert_parallel > node)
    warnings.push_back(
        fmt::format("expert parallelism over {} devices spans nodes of {}: its all-to-all uses the "
                    "network",
                    m.expert_parallel, node));
  if (m.data_parallel > 1 && m.expert_parallel == 1 && has_experts(model))
    warnings.push_back(
        "data-parallel ranks hold all experts each and run independently; enable_expert_parallel shares "
        "them");
}

void apply_links(const HardwareConfig& h, Topology& topology, const std::string& where) {
  const auto replace = [&](const std::optional<std::string>& text, Link& link, const char* key) {
    if (!text) return;
    const std::string at = where + "/hardware/" + key;
    link.bandwidth = parse_bandwidth(*text, at);
    if (!(link.bandwidth.value > 0) || !std::isfinite(link.bandwidth.value))
      throw Error(at, fmt::format("\"{}\" is not a positive bandwidth", *text));
    link.source = "scenario";
  };
  replace(h.scaleup_bandwidth, topology.intra_node, "scaleup_bandwidth");
  replace(h.network_bandwidth, topology.inter_node, "network_bandwidth");
  if (h.host_memory && !(parse_bytes(*h.host_memory, where + "/hardware/host_memory").value > 0))
    throw Error(where + "/hardware/host_memory",
                fmt::format("\"{}\" is not a positive size", *h.host_memory));
}

void fill_price(Deployment& d, const std::string& where) {
  const auto& given = d.scenario.hardware.usd_per_device_hour;
  if (given && (!std::isfinite(*given) || *given < 0))
    throw Error(where + "/hardware/usd_per_device_hour", fmt::format("{} is not a price", *given));
  d.has_price = given || d.device.usd_per_hour;
  if (!d.has_price) return;
  d.usd_per_device_hour = given ? *given : *d.device.usd_per_hour;
  d.scenario.hardware.usd_per_device_hour = d.usd_per_device_hour;
}

SchedulerConfig scheduler_of(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  SchedulerConfig s;
  s.max_num_seqs = *e.max_num_seqs;
  s.max_num_batched_tokens = *e.max_num_batched_tokens;
  s.max_model_len = *e.max_model_len;
  s.long_prefill_token_threshold = e.long_prefill_token_threshold.value_or(0);
  s.enable_chunked_prefill = *e.enable_chunked_prefill;
  s.enable_prefix_caching = *e.enable_prefix_caching;
  s.reserve_full_prompt = e.scheduler_reserve_full_isl.value_or(true);
  s.watermark = e.watermark.value_or(0);
  s.num_blocks = d.memory.num_gpu_blocks;
  s.block_size = static_cast<int>(*e.block_size);
  if (e.kv_reservation)
    s.reservation = *e.kv_reservation == "exact"          ? KvReservation::kExact
                    : *e.kv_reservation == "power_of_two" ? KvReservation::kPowerOfTwo
                                                          : KvReservation::kMaxModelLen;
  s.num_host_blocks = d.memory.num_host_blocks;
  s.kv_tiers = kv_tiers_config(d);
  s.caches_tokens = has_cache(d.model);
  s.pipeline_depth = d.mapping.pipeline_parallel;
  s.schedules_ahead = e.async_scheduling.value_or(false);
  s.lora = lora_config(d.scenario);
  s.beam_width = static_cast<int>(d.scenario.workload.beam_width.value_or(1));
  if (d.speculation) {
    s.draft_tokens = d.speculation->tokens();
    // vLLM V0 drafts in the step that verifies.
    const bool is_v0 = d.behavior.policy == SchedulerPolicy::kVllmV0;
    s.lookahead = d.speculation->draft && !is_v0 ? s.draft_tokens : 0;
    s.disable_by_batch_size = e.speculative_config->disable_by_batch_size.value_or(0);
  }
  set_policy(s, e, d.behavior);
  set_slots(s, d);
  set_orders(s, d.scenario);
  return s;
}

void warn_about_checkpoint(Deployment& d) {
  const WeightFormat format = d.precision.weights;
  if (format == d.model.quantization.format || format == WeightFormat::kPlain || format == WeightFormat::kFp8)
    return;
  d.warnings.push_back(fmt::format("{} weights need a checkpoint in that format; {} is not one",
                                   name_of(format), d.model.name));
}

// What `calibrate --from` found on this device with this engine; the scenario's own host_times come after.
void take_fitted_terms(const Resources& resources, const std::string& device, Behavior& b,
                       std::vector<std::string>& warnings) {
  if (!resources.fitted_terms || resources.database == nullptr) return;
  const std::vector<EngineTerm> terms = resources.database->engine_terms(device, b.name);
  if (terms.empty()) return;
  HostTimes times;
  std::string said;
  for (const EngineTerm& t : terms) {
    for_each_field<HostTimes>([&](const auto& f) {
      if (f.name == t.term) times.*f.member = t.value;
    });
    said += fmt::format("{}{} {:.4g}", said.empty() ? "" : ", ", t.term, t.value);
  }
  take_host_times(times, b);
  warnings.push_back(
      fmt::format("{} on {} is as calibrated on {}: {} ({} runs of {}); `foretoken hw forget` "
                  "removes it",
                  b.name, device, terms.front().date, said, terms.front().runs, terms.front().model));
}

void warn_about_behavior(const Behavior& b, std::vector<std::string>& warnings) {
  const std::string asked = lower(b.asked);
  if (asked == b.family || asked == b.name || asked.starts_with(b.name + ".")) return;
  warnings.push_back(fmt::format("\"{}\" is modelled as {}", b.asked, b.name));
}

}  // namespace

bool default_prefix_caching(const Behavior& behavior, const ModelConfig& model) {
  // vLLM leaves it off where a recurrent state would have to be kept for every block.
  return behavior.prefix_caching && !model.is_recurrent();
}

ModelText model_text_of(const RawJson& model, const std::string& where, const Resources& resources) {
  const Json json = parse_json(model.text, where);
  if (!json.is_string()) return {json.at("config").dump(), where + "/config"};
  const auto file = model_file(json.get<std::string>(), resources.preset_folder, resources.scenario_folder);
  return {read_file(file), file.string()};
}

ModelText scenario_model_text(const Scenario& scenario, const Resources& resources) {
  return model_text_of(scenario.model, prefix_of(resources) + "/model", resources);
}

ModelConfig load_model_of(const RawJson& model, const std::string& name, const std::string& where,
                          const Resources& resources) {
  if (model.text.empty())
    throw Error(where,
                "a model is needed: a preset (`foretoken model list`), a path to a config.json, or "
                "{\"config\": {...}}");
  const Json json = parse_json(model.text, where);
  if (json.is_string()) {
    const auto given = json.get<std::string>();
    try {
      return load_model(given, resources.preset_folder, resources.scenario_folder);
    } catch (const Error& e) {
      // A name that is no model is the scenario's mistake; anything else is inside the config file.
      if (e.where() != given) throw;
      throw Error(where, "\"" + given + "\": " + e.message());
    }
  }
  if (!json.is_object()) fail_type(json, where, "a name, a path or an object with \"config\"");
  std::string own = name;
  for (const auto& [key, value] : json.items()) {
    if (key == "config") continue;
    if (key != "name") fail_unknown_key(key, where + "/" + key, {"config", "name"});
    if (!value.is_string()) fail_type(value, where + "/name", "a string");
    own = value.get<std::string>();
  }
  if (!json.contains("config"))
    throw Error(where, "\"config\" is missing: it holds the keys of a config.json");
  return read_hf_config(json["config"], where + "/config", own);
}

ModelConfig load_scenario_model(const Scenario& scenario, const Resources& resources) {
  return load_model_of(scenario.model, scenario.name.empty() ? "custom" : scenario.name,
                       prefix_of(resources) + "/model", resources);
}

std::variant<Deployment, Infeasible> resolve(const Scenario& scenario, const Resources& resources,
                                             const ModelConfig& model, double mean_tokens,
                                             std::int64_t longest) {
  const std::string at = prefix_of(resources) + "/hardware/device";
  if (scenario.hardware.device.empty()) throw Error(at, "a device is needed; `foretoken hw list` shows them");
  if (resources.database == nullptr) throw Error(at, "no hardware database is open");
  const Device device = resources.database->device(scenario.hardware.device, at);
  check_range(scenario.hardware.devices_per_node, 1, kMostSequences,
              prefix_of(resources) + "/hardware/devices_per_node");
  const Topology topology =
      resources.database->topology(device, static_cast<int>(scenario.hardware.devices_per_node));
  return resolve_on(scenario, resources, model, device, topology, mean_tokens, longest);
}

std::variant<Deployment, Infeasible> resolve_on(const Scenario& scenario, const Resources& resources,
                                                const ModelConfig& model, const Device& device,
                                                const Topology& topology, double mean_tokens,
                                                std::int64_t longest) {
  const std::string where = prefix_of(resources);
  refuse_unmodelled(scenario, where);
  check_range(scenario.hardware.devices_per_node, 1, kMostSequences, where + "/hardware/devices_per_node");
  const ClusterSection& cluster = scenario.cluster;
  if (cluster.prefill || cluster.decode || cluster.kv_link || cluster.first_token)
    return resolve_pools(scenario, resources, model, device, topology, mean_tokens, longest, where);
  if (cluster.pools)
    return resolve_replica_pools(scenario, resources, model, device, topology, mean_tokens, longest, where);
  Deployment d;
  d.scenario = scenario;
  d.model = model;
  d.device = device;
  d.shares_host_memory = !(device.memory.value > 0);
  if (const auto& host = scenario.hardware.host_memory; host && d.shares_host_memory)
    d.device.memory = parse_bytes(*host, where + "/hardware/host_memory") /
                      static_cast<double>(scenario.hardware.devices_per_node);
  if (!(d.device.memory.value > 0))
    throw Error(
        where + "/hardware/host_memory",
        fmt::format("the memory of {} is not known; give that of a node, such as \"512 GiB\"", device.name));
  d.fusion.sorts_logits = scenario.workload.sorts_logits();
  d.fusion.ranks_beams = scenario.workload.beam_width.value_or(1) > 1;
  d.fusion.norm_residual = scenario.engine.fuse_norm_residual.value_or(d.fusion.norm_residual);
  d.fusion.rope_kv_write = scenario.engine.fuse_rope_kv_write.value_or(d.fusion.rope_kv_write);
  d.fusion.quantisation = scenario.engine.fuse_quantization.value_or(d.fusion.quantisation);
  d.topology = topology;
  d.topology.devices_per_node = static_cast<int>(scenario.hardware.devices_per_node);
  apply_links(scenario.hardware, d.topology, where);
  EngineSection& e = d.scenario.engine;
  d.behavior = find_behavior(e.behavior, where + "/engine/behavior");
  if (resources.executed)
    d.behavior = as_executed(d.behavior);
  else
    take_fitted_terms(resources, device.name, d.behavior, d.warnings);
  take_host_times(e.host_times, d.behavior);
  warn_about_behavior(d.behavior, d.warnings);
  if (d.behavior.policy == SchedulerPolicy::kTransformers) refuse_with_transformers(e, model, where);
  if (d.behavior.composed_modules) take_composed_modules(d.fusion, e, model);
  if (model.attention_windows().size() > kMaxAttentionGroups)
    throw Error(where + "/model",
                fmt::format("{} has {} different attention windows; at most {} are modelled", model.name,
                            model.attention_windows().size(), kMaxAttentionGroups));

  if (e.enable_sequence_parallelism.value_or(false) && d.behavior.family != "vllm")
    throw Error(where + "/engine/enable_sequence_parallelism",
                fmt::format("is vLLM's and not known to {}; leave it out", d.behavior.name));
  take_slots(e, d.behavior, model, e.max_model_len.has_value(), where);
  fill_lengths(e, model, longest, where, d.warnings);
  take_own_knobs(e, d.behavior, where);
  check_orders(d.scenario, d.behavior, where);
  read_kv_layout(d, where);
  const bool own_limits = d.behavior.policy != SchedulerPolicy::kVllmV1;
  const bool running_given = e.max_num_seqs.has_value(), tokens_given = e.max_num_batched_tokens.has_value();
  const bool elastic = d.behavior.policy == SchedulerPolicy::kLoongserve;
  const bool lends = d.behavior.policy == SchedulerPolicy::kInfiniteLlm && e.lend_limit.value_or(1) > 0;
  if (e.pipeline_parallel_size > 1 && !runs_in_pipelines(d.behavior.policy))
    return Infeasible{
        "pipeline not modelled",
        fmt::format("{} has no pipeline, or none whose micro-batches are modelled: those of vLLM, SGLang, "
                    "TensorRT-LLM, Orca, Sarathi-Serve, FasterTransformer and llama.cpp are",
                    d.behavior.name),
        std::nullopt};
  if (is_block_policy(d.behavior.policy))
    fill_block_limits(e, d.behavior, device.name, model, where);
  else if (own_limits)
    fill_other_limits(e, d.behavior, device, model, where);
  else
    fill_limits(e, d.behavior, device, model, where);
  fill_graphs(e, d.behavior, !d.shares_host_memory, where);
  auto precision = choose_precision(e, model, device, d.behavior, where, d.warnings);
  if (auto* verdict = std::get_if<Infeasible>(&precision)) return std::move(*verdict);
  d.precision = std::get<Precision>(precision);

  auto mapping = make_mapping(d.scenario, model, d.precision.weights, where);
  if (auto* verdict = std::get_if<Infeasible>(&mapping)) return std::move(*verdict);
  d.mapping = std::move(std::get<Mapping>(mapping));
  // vLLM's --all2all-backend is allgather_reducescatter unless DeepEP and its like are asked for.
  if (d.behavior.family == "vllm")
    for (Shard& shard : d.mapping.stages) shard.expert_all_to_all = false;
  const Lora lora = take_lora(e, model, d.behavior, where);
  for (Shard& shard : d.mapping.stages) shard.lora = lora;
  warn_about_mapping(d.mapping, d.scenario, model, d.warnings);
  if (d.mapping.devices_per_replica() > 1 && !(d.topology.intra_node.bandwidth.value > 0))
    throw Error(
        where + "/hardware/scaleup_bandwidth",
        fmt::format("no link between devices is known for {}; give its bandwidth (such as \"50 GB/s\"), or "
                    "use one device for each replica",
                    device.name));
  e.behavior = d.behavior.name;
  e.expert_parallel_size = d.mapping.expert_parallel;
  d.scenario.cluster.replicas = d.mapping.replicas;
  if (!d.scenario.hardware.count) d.scenario.hardware.count = d.mapping.devices();
  d.graph_sizes = *e.cuda_graph_sizes;
  d.one_attention_call = d.behavior.policy == SchedulerPolicy::kVllmV1 && d.device.vendor == "NVIDIA" &&
                         d.precision.kv == d.precision.activation &&
                         (d.device.generation.starts_with("8.") || d.device.generation.starts_with("12."));
  read_swap(d, where);
  read_prompt_cache(d, where);
  read_kv_tiers(d, where);
  place_weights(d, where);

  refuse_with_beams(d, where);
  refuse_with_elastic(d, where);

  auto speculation = make_speculation(d, scenario, resources, where);
  if (auto* verdict = std::get_if<Infeasible>(&speculation)) return std::move(*verdict);
  d.speculation = std::move(std::get<std::optional<Speculation>>(speculation));

  MemoryLimits limits;
  limits.rule = d.behavior.memory_rule;
  limits.gpu_memory_utilization = *e.gpu_memory_utilization;
  // Splitwise computes a prompt beyond its budget alone.
  limits.max_num_batched_tokens = d.behavior.policy == SchedulerPolicy::kSplitwise
                                      ? std::max(*e.max_num_batched_tokens, *e.max_model_len)
                                      : *e.max_num_batched_tokens;
  limits.max_num_seqs = *e.max_num_seqs;
  // TensorRT-LLM measures with prompts of the longest length, SGLang's logits live in its reserve.
  if (own_limits && !is_block_policy(d.behavior.policy))
    limits.sampled_rows =
        std::max<std::int64_t>(1, *e.max_num_batched_tokens / std::max<std::int64_t>(*e.max_model_len, 1));
  // vLLM profiles its rejection sampler with one drafted token a sequence.
  if (d.speculation) limits.sampled_rows = 2 * limits.max_num_seqs;
  if (d.speculation) limits.draft = d.speculation->draft.get();
  limits.max_model_len = *e.max_model_len;
  limits.block_size = static_cast<int>(*e.block_size);
  limits.reference_tokens =
      mean_tokens > 0
          ? static_cast<std::int64_t>(std::ceil(std::min(mean_tokens, static_cast<double>(kMostTokens))))
          : 0;
  // A request's cache may lie in all of the pool's instances, and they compute the longest prompt together.
  if (elastic || lends) {
    limits.sharing_instances = d.mapping.replicas;
    limits.max_num_batched_tokens = std::max(kElasticTokens, *e.max_model_len / d.mapping.replicas);
  }
  limits.stream_buffers = d.streaming.buffers;
  limits.captured_graphs =
      d.behavior.graph_memory_counted ? static_cast<std::int64_t>(d.graph_sizes.size()) : 0;
  limits.num_gpu_blocks_override = e.num_gpu_blocks_override.value_or(0);
  if (d.shares_host_memory) limits.shared_bytes = host_bytes(d);
  d.memory = plan_memory(model, d.mapping, d.precision, d.device.memory, limits);
  if (!d.memory.fits) return Infeasible{"does not fit in memory", d.memory.reason, d.memory};
  if (auto verdict = slots_verdict(d)) return std::move(*verdict);
  size_hicache(d);
  plan_host_memory(d);
  if (auto verdict = host_memory_verdict(d, where)) return std::move(*verdict);

  if (d.behavior.policy == SchedulerPolicy::kSglang) {
    if (!running_given) fill_running_requests(e, d.memory.kv_cache_tokens);
    fill_micro_batch_size(e);
  }
  if (elastic && !tokens_given)
    e.max_num_batched_tokens = e.batch_max_tokens = std::min(
        kMostTokens,
        std::max({d.memory.kv_cache_tokens * d.mapping.replicas / 6, *e.max_model_len, *e.max_num_seqs}));
  fill_price(d, where);
  d.scheduler = scheduler_of(d);
  if (d.speculation && d.speculation->draft) {
    auto draft = std::make_shared<Deployment>(*d.speculation->draft);
    draft->memory = d.memory;
    draft->scheduler = d.scheduler;
    draft->preset_folder = resources.preset_folder;  // its name in commands
    d.speculation->draft = std::move(draft);
  }
  d.preset_folder = resources.preset_folder;
  warn_about_checkpoint(d);
  if (!model.not_counted.empty())
    d.warnings.push_back(model.name + ": only the language model is counted; left out: " + model.not_counted);
  return d;
}

}  // namespace foretoken
