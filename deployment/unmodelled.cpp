// Refuses, by name, techniques that a scenario asks for and this build does not model.
#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

// `harmless`: the JSON text that asks for what is modelled anyway.
void refuse(const RawJson& value, const std::string& where, std::string_view section, std::string_view key,
            std::string_view modelled, std::string_view harmless = {}) {
  if (value.text.empty() || value.text == "null" || (!harmless.empty() && value.text == harmless)) return;
  throw Error(fmt::format("{}/{}/{}", where, section, key),
              fmt::format("{} is not modelled by this build ({}); leave it out", key, modelled));
}

}  // namespace

void refuse_unmodelled(const Scenario& scenario, const std::string& where) {
  const EngineSection& e = scenario.engine;
  refuse(e.preemption_mode, where, "engine", "preemption_mode", "recompute is", "\"recompute\"");
  refuse(e.kv_layout, where, "engine", "kv_layout", "paged is", "\"paged\"");
  refuse(e.swap_space_gib, where, "engine", "swap_space_gib", "preemption by recomputing is", "0");
  refuse(e.cpu_offload_gib, where, "engine", "cpu_offload_gib", "weights in device memory are", "0");
  refuse(e.layer_streaming, where, "engine", "layer_streaming", "weights in device memory are", "false");
  refuse(e.lora, where, "engine", "lora", "the base model alone is");
  refuse(e.kv_tiers, where, "engine", "kv_tiers", "a KV cache in device memory is", "[]");
  const ClusterSection& c = scenario.cluster;
  constexpr std::string_view kWhole = "replicas that do both prefill and decode are";
  refuse(c.prefill, where, "cluster", "prefill", kWhole);
  refuse(c.decode, where, "cluster", "decode", kWhole);
  refuse(c.kv_link, where, "cluster", "kv_link", kWhole);
  refuse(c.pools, where, "cluster", "pools", "equal replicas are", "[]");
  refuse(c.autoscale, where, "cluster", "autoscale", "a fixed number of replicas is");
  std::vector<std::string> routers;
  for (const std::string_view name : kRouterNames) {
    if (name == c.router) return;
    routers.emplace_back(name);
  }
  throw Error(where + "/cluster/router", fmt::format("\"{}\" is not modelled by this build; it models {}",
                                                     c.router, join(routers, ", ")));
}

}  // namespace foretoken
