// Refuses, by name, techniques that a scenario asks for and this build does not model.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "deployment/parts.h"

namespace foretoken {
void refuse_unmodelled(const Scenario& scenario, const std::string& where) {
  const ClusterSection& c = scenario.cluster;
  if (c.autoscale) {
    const std::string at = where + "/cluster/autoscale";
    if (!c.autoscale->target)
      throw Error(at + "/target", fmt::format("is missing: how {} should be",
                                              c.autoscale->metric == "ttft_ms"
                                                  ? "many milliseconds to the first token there"
                                                  : "many outstanding requests a replica there"));
    if (c.prefill || c.decode)
      throw Error(
          at,
          "replicas that come and go are modelled where they serve whole requests; leave it out beside "
          "prefill and decode");
    if (c.pools) throw Error(at, "is modelled for replicas that are all alike; leave it out beside pools");
  }
  if (std::find(std::begin(kRouterNames), std::end(kRouterNames), c.router) == std::end(kRouterNames))
    throw Error(
        where + "/cluster/router",
        fmt::format("\"{}\" is not modelled by this build; it models {}", c.router,
                    join(std::vector<std::string>(std::begin(kRouterNames), std::end(kRouterNames)), ", ")));
  const auto belongs = [&](bool given, std::string_view key, std::string_view router) {
    if (given && c.router != router)
      throw Error(
          fmt::format("{}/cluster/{}", where, key),
          fmt::format("belongs to router \"{}\", and the router is \"{}\"; leave it out", router, c.router));
  };
  belongs(c.router_prefix_tokens.has_value(), "router_prefix_tokens", "prefix_affine");
  belongs(c.router_load_bound.has_value(), "router_load_bound", "prefix_affine");
  belongs(c.router_prefix_weight.has_value(), "router_prefix_weight", "precise_prefix");
  belongs(c.router_queue_weight.has_value(), "router_queue_weight", "precise_prefix");
  belongs(c.router_kv_weight.has_value(), "router_kv_weight", "precise_prefix");
  belongs(c.kv_overlap_score_weight.has_value(), "kv_overlap_score_weight", "kv_cost");
  belongs(c.conductor.has_value(), "conductor", "mooncake");
  belongs(c.splitwise.has_value(), "splitwise", "splitwise");
  belongs(c.tetriinfer.has_value(), "tetriinfer", "tetriinfer");
  const bool chooses_both = c.router == "mooncake" || c.router == "splitwise" || c.router == "tetriinfer";
  if (chooses_both && !c.prefill && !c.decode)
    throw Error(where + "/cluster/router",
                c.router +
                    " chooses a prefill and a decode engine for each request; give cluster.prefill and "
                    "cluster.decode, or use another router");
}

}  // namespace foretoken
