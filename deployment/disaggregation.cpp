// Prefill and decode on engines of their own: each side is a deployment with the scenario's engine and its
// own overrides; between them a link.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "deployment/parts.h"
#include "model/kv_cache.h"

namespace foretoken {
namespace {

constexpr std::int64_t kTetriInferChunk = 512;  // ChunkSize, the paper's for OPT-13B on its devices

// Both ends take part: the slower one's network.
Link slower(const Link& a, const Link& b) {
  Link link = a.bandwidth < b.bandwidth ? a : b;
  link.latency = std::max(a.latency, b.latency);
  return link;
}

Link kv_link(const Scenario& scenario, const Resources& resources, const Disaggregation& pools,
             const std::string& where) {
  Link link = slower(pools.prefill.topology.inter_node, pools.decode.topology.inter_node);
  if (const auto& given = scenario.cluster.kv_link) {
    const std::string at = where + "/cluster/kv_link";
    if (given->name) {
      if (resources.database == nullptr) throw Error(at + "/name", "no hardware database is open");
      link = resources.database->link(*given->name, at + "/name");
    }
    if (given->bandwidth) {
      link.bandwidth = parse_bandwidth(*given->bandwidth, at + "/bandwidth");
      link.source = "scenario";
    }
    if (given->latency_us) link.latency = Seconds(*given->latency_us * 1e-6);
  }
  if (!(link.bandwidth.value > 0) || !std::isfinite(link.bandwidth.value))
    throw Error(where + "/cluster/kv_link",
                "no network of the device is known; give the link's bandwidth (such as \"50 GB/s\")");
  return link;
}

// Bytes of a prompt's cache in the layers of one stage, on each of `ranks` tensor-parallel ranks.
double stage_bytes(const Deployment& d, Shard stage, int ranks, std::int64_t tokens) {
  stage.tensor_parallel = ranks;
  return kv_bytes(d.model, stage, d.precision.kv, tokens, d.scheduler.block_size) +
         recurrent_state_bytes(d.model, stage);
}

// Of routers that give engines of both sides either work.
void check_flexible(const ClusterSection& c, const Disaggregation& pools, SchedulerPolicy policy,
                    const std::string& where) {
  if (c.first_token.value_or("prefill") == "decode")
    throw Error(where + "/cluster/first_token",
                c.router + " gives the client the token that the prompt ends with; use \"prefill\"");
  if (c.router == "tetriinfer" && policy != SchedulerPolicy::kVllmV1)
    throw Error(where + "/engine/behavior",
                fmt::format("tetriinfer is modelled over vLLM's scheduler alone, not over {}'s",
                            pools.decode.behavior.name));
  for (const bool prefill : {true, false})
    if ((prefill ? pools.prefill : pools.decode).mapping.ranks_per_engine() > 1)
      throw Error(where + "/cluster/router",
                  c.router +
                      " is modelled for engines whose data-parallel ranks are independent; leave "
                      "expert parallelism out, or use another router");
}

}  // namespace

std::variant<Deployment, Infeasible> resolve_pools(const Scenario& scenario, const Resources& resources,
                                                   const ModelConfig& model, const Device& device,
                                                   const Topology& topology, double mean_tokens,
                                                   std::int64_t longest, const std::string& where) {
  const ClusterSection& c = scenario.cluster;
  if (c.pools)
    throw Error(
        where + "/cluster/pools",
        "replicas that serve whole requests are not modelled beside engines that split them; leave out "
        "either pools, or prefill, decode, kv_link and first_token");
  if (!c.prefill || !c.decode)
    throw Error(
        where + "/cluster/" + (c.prefill ? "decode" : "prefill"),
        "is missing: prefill, decode, kv_link and first_token are those of a disaggregated deployment, "
        "which has engines on both sides");
  if (c.replicas)
    throw Error(
        where + "/cluster/replicas",
        "each side of a disaggregated deployment has its own: give prefill.replicas and decode.replicas");
  // A request that arrives with its cache would have to wait for its adapter's slot.
  if (scenario.engine.lora)
    throw Error(
        where + "/engine/lora",
        "adapters with prefill and decode on engines of their own are not modelled by this build; leave "
        "it out");
  if (scenario.engine.preemption_mode.value_or("") == "swap")
    throw Error(where + "/engine/preemption_mode",
                "swap is not modelled for engines that do prefill or decode alone; use \"recompute\"");
  if (!scenario.engine.kv_tiers.empty())
    throw Error(where + "/engine/kv_tiers",
                "are not modelled for engines that do prefill or decode alone; leave them out");
  if (scenario.engine.kv_layout.value_or("") == "contiguous")
    throw Error(where + "/engine/kv_layout",
                "contiguous is not modelled for engines that do prefill or decode alone; use \"paged\"");
  if (scenario.workload.beam_width.value_or(1) > 1)
    throw Error(
        where + "/workload/beam_width",
        "beam search is not modelled where prefill and decode are split, for the prompt's cache would "
        "arrive without its beams; use 1");
  if (scenario.engine.speculative_config)
    throw Error(where + "/engine/speculative_config",
                "speculative decoding is not modelled where prefill and decode are split, for the draft "
                "model's cache would have to move, too; leave it out");
  auto pools = std::make_shared<Disaggregation>();
  for (const bool prefill : {true, false}) {
    const char* const name = prefill ? "prefill" : "decode";
    PoolSection section = prefill ? *c.prefill : *c.decode;
    if (prefill && c.router == "tetriinfer" && !scenario.engine.max_num_batched_tokens &&
        !section.max_num_batched_tokens)
      section.max_num_batched_tokens = kTetriInferChunk;
    auto verdict = resolve_pool(scenario, section, std::string(name) + " engines", resources, model, device,
                                topology, mean_tokens, longest, where);
    if (auto* no = std::get_if<Infeasible>(&verdict)) return std::move(*no);
    (prefill ? pools->prefill : pools->decode) = std::move(std::get<Deployment>(verdict));
  }
  const SchedulerPolicy policy = pools->decode.scheduler.policy;
  if (policy != SchedulerPolicy::kVllmV1 && policy != SchedulerPolicy::kSplitwise)
    throw Error(where + "/engine/behavior",
                fmt::format("disaggregated serving is modelled for vLLM's scheduler and Splitwise's alone, "
                            "not for {}",
                            pools->decode.behavior.name));
  // Under these routers engines of both sides do either work.
  const bool flexible = c.router == "splitwise" || c.router == "tetriinfer";
  if (flexible) check_flexible(c, *pools, policy, where);
  pools->prefill.scheduler.prefill_only = !flexible;
  if (pools->prefill.precision.kv != pools->decode.precision.kv)
    throw Error(where + "/engine/kv_cache_dtype",
                fmt::format("the cache moves as it is, and would be {} on {} and {} on {}; name one for both",
                            name_of(pools->prefill.precision.kv), pools->prefill.device.name,
                            name_of(pools->decode.precision.kv), pools->decode.device.name));
  pools->link = kv_link(scenario, resources, *pools, where);
  pools->decode_makes_first_token = c.first_token == "decode";
  if (c.kv_link) {
    pools->by_layers = c.kv_link->overlap == "layerwise";
    pools->engines_per_port = static_cast<int>(c.kv_link->engines_per_port.value_or(1));
    if (c.kv_link->layerwise_min_tokens && !pools->by_layers)
      throw Error(where + "/cluster/kv_link/layerwise_min_tokens",
                  "belongs to overlap \"layerwise\"; leave it out, or ask for that");
    pools->layerwise_min_tokens = c.kv_link->layerwise_min_tokens.value_or(0);
  }
  if (pools->by_layers && (pools->prefill.mapping.pipeline_parallel > 1 ||
                           (flexible && pools->decode.mapping.pipeline_parallel > 1)))
    throw Error(where + "/cluster/kv_link/overlap",
                "layerwise is modelled for engines that compute prompts without a pipeline; give "
                "pipeline_parallel_size 1 there, or use \"none\"");
  if (c.router == "mooncake" && pools->prefill.mapping.ranks_per_engine() > 1)
    throw Error(where + "/cluster/router",
                "mooncake is modelled for prefill engines whose data-parallel ranks are independent; leave "
                "expert parallelism out there, or use another router");
  if (c.conductor && c.conductor->rejection.value_or("early") != "early") {
    const std::string at = where + "/cluster/conductor/rejection";
    if (!c.conductor->tbt_slo_ms)
      throw Error(at, "says when tbt_slo_ms refuses a request; give that too, or leave it out");
    if (pools->by_layers)
      throw Error(at,
                  "a request whose layers are on their way is not refused here; use \"early\", or overlap "
                  "\"none\"");
  }

  Deployment d = pools->decode;
  d.scenario.cluster = c;
  fill_pool(*d.scenario.cluster.prefill, pools->prefill);
  fill_pool(*d.scenario.cluster.decode, pools->decode);
  d.pools = std::move(pools);
  if (auto no = join_kinds(d, scenario, {&*c.prefill, &*c.decode})) return std::move(*no);
  return d;
}

// Each decode rank takes in what it will hold, replicated heads and latents included; the prefill ranks of a
// stage share what is asked for of their layers.
double moved_bytes(const Disaggregation& pools, std::int64_t tokens, MoveEnds ends) {
  const Deployment& target = ends.to_prefill ? pools.prefill : pools.decode;
  const Deployment& source = ends.from_prefill ? pools.prefill : pools.decode;
  const Mapping &from = source.mapping, &to = target.mapping;
  double in = 0, asked = 0, whole = 0;
  for (const Shard& stage : to.stages) {
    const double each = stage_bytes(target, stage, to.tensor_parallel, tokens);
    in = std::max(in, each);
    asked += each * to.tensor_parallel;
    whole += stage_bytes(target, stage, 1, tokens);
  }
  double out = 0;
  for (const Shard& stage : from.stages) {
    const double own = stage_bytes(source, stage, 1, tokens);
    if (whole > 0) out = std::max(out, own / whole * asked / from.tensor_parallel);
  }
  return std::max(in, out);
}

Seconds move_time(const Disaggregation& pools, std::int64_t tokens, MoveEnds ends) {
  return pools.link.latency + Bytes(moved_bytes(pools, tokens, ends)) / pools.link.bandwidth;
}

Seconds rest_move_time(const Disaggregation& pools, std::int64_t done, std::int64_t tokens, MoveEnds ends) {
  const Seconds whole = move_time(pools, tokens, ends);
  return done > 0 ? whole - move_time(pools, done, ends) : whole;
}

void refuse_instances(const Scenario& scenario, std::string_view verb, const std::string& where) {
  const SchedulerPolicy policy = find_behavior(scenario.engine.behavior, where + "/engine/behavior").policy;
  if (policy == SchedulerPolicy::kLoongserve || policy == SchedulerPolicy::kInfiniteLlm)
    throw Error(
        where + "/engine/behavior",
        fmt::format("{} covers engines that serve by themselves; `foretoken simulate` and `run` serve a pool "
                    "of {} instances",
                    verb, policy == SchedulerPolicy::kLoongserve ? "elastic" : "lending"));
}

void refuse_pools(const Scenario& scenario, std::string_view verb, const std::string& where) {
  refuse_instances(scenario, verb, where);
  if (scenario.cluster.pools)
    throw Error(
        where + "/cluster/pools",
        fmt::format("{} covers replicas that are alike; `foretoken simulate` and `run` serve unlike ones",
                    verb));
  if (!scenario.cluster.prefill && !scenario.cluster.decode) return;
  throw Error(
      where + "/cluster/prefill",
      fmt::format("{} covers engines that serve whole requests; `foretoken simulate` and `run` serve a "
                  "disaggregated deployment",
                  verb));
}

}  // namespace foretoken
