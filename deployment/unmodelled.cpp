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
  refuse(e.kv_tiers, where, "engine", "kv_tiers", "a KV cache in device memory is", "[]");
  const ClusterSection& c = scenario.cluster;
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
