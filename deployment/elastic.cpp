// What elastic instances (LoongServe) and instances that lend KV memory (Infinite-LLM) are not modelled with,
// by name.
#include <fmt/format.h>

#include "base/error.h"
#include "deployment/parts.h"

namespace foretoken {

void refuse_with_elastic(const Deployment& d, const std::string& where) {
  const bool elastic = d.behavior.policy == SchedulerPolicy::kLoongserve;
  if (!elastic && d.behavior.policy != SchedulerPolicy::kInfiniteLlm) return;
  const std::string who = elastic ? "elastic instances" : "instances that lend KV memory";
  const EngineSection& e = d.scenario.engine;
  const ClusterSection& c = d.scenario.cluster;
  const auto refuse = [&](bool wrong, std::string_view key, const std::string& what) {
    if (wrong) throw Error(fmt::format("{}/{}", where, key), fmt::format("{} {}", what, d.behavior.name));
  };
  refuse(elastic && c.router != ClusterSection().router, "cluster/router",
         "replicas are one pool with one queue: leave it out under");
  refuse(c.autoscale.has_value(), "cluster/autoscale", "is not modelled for " + who + ": leave it out under");
  refuse(e.data_parallel_size > 1, "engine/data_parallel_size",
         "the " + who + " are cluster.replicas: use 1 under");
  refuse(d.mapping.expert_parallel > 1, "engine/expert_parallel_size",
         "experts over several devices are not modelled for " + who + ": use 1 under");
  refuse(e.layer_streaming.layers.has_value(), "engine/layer_streaming",
         "is not modelled for steps of several instances: leave it out under");
  refuse(e.cpu_offload_gib.value_or(0) > 0, "engine/cpu_offload_gib",
         "is not modelled for steps of several instances: leave it out under");
  if (d.mapping.replicas > 1 && !(d.topology.intra_node.bandwidth.value > 0))
    throw Error(
        where + "/hardware/scaleup_bandwidth",
        fmt::format("no link between devices is known for {}; give its bandwidth (such as \"50 GB/s\"), "
                    "or use one replica",
                    d.device.name));
  for (const std::uint8_t kind : d.model.layers) {
    const auto* a = std::get_if<GqaAttention>(&d.model.kinds[kind].mixer);
    if (a == nullptr || a->window > 0 || a->chunked || a->index_heads > 0)
      throw Error(
          where + "/model",
          fmt::format("{} has layers that don't attend to all keys and values; attention over several "
                      "instances is modelled for those that do",
                      d.model.name));
  }
}

}  // namespace foretoken
