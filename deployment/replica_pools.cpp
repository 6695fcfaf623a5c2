// Unlike replicas behind one router (cluster.pools): each pool is a deployment with the scenario's engine and
// hardware and its own overrides; each serves whole requests.
#include <fmt/format.h>

#include "base/error.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

// Routers that know weights, and those whose own rule has none.
bool weighs(std::string_view router) {
  return router == "round_robin" || router == "random" || router == "least_outstanding" ||
         router == "least_tokens" || router == "session_sticky";
}

void check_weights(const ClusterSection& c, const std::string& at) {
  bool any = false;
  for (std::size_t i = 0; i < c.pools->size(); ++i) {
    const std::int64_t weight = (*c.pools)[i].weight.value_or(1);
    any |= weight > 0;
    if (weight > 1 && !weighs(c.router))
      throw Error(fmt::format("{}/{}/weight", at, i),
                  fmt::format("router \"{}\" knows no weights; leave it out, or take round_robin, random, "
                              "least_outstanding, least_tokens or session_sticky",
                              c.router));
  }
  if (!any) throw Error(at, "no pool has a weight above 0: nobody would be served");
}

}  // namespace

std::variant<Deployment, Infeasible> resolve_replica_pools(const Scenario& scenario,
                                                           const Resources& resources,
                                                           const ModelConfig& model, const Device& device,
                                                           const Topology& topology, double mean_tokens,
                                                           std::int64_t longest, const std::string& where) {
  const ClusterSection& c = scenario.cluster;
  const std::string at = where + "/cluster/pools";
  if (c.pools->empty()) throw Error(at, "is empty; give at least one pool, or leave it out");
  if (c.replicas)
    throw Error(where + "/cluster/replicas", "each pool has its own replicas; leave it out beside pools");
  if (!scenario.engine.kv_tiers.empty() || scenario.engine.enable_hierarchical_cache.value_or(false))
    throw Error(where + "/engine/kv_tiers",
                "tiers below unlike replicas are not modelled; leave it out beside pools");
  check_weights(c, at);
  std::vector<Deployment> pools;
  std::vector<const PoolSection*> sections;
  for (const ReplicaPoolSection& pool : *c.pools) {
    Scenario one = scenario;
    if (pool.behavior) one.engine.behavior = *pool.behavior;
    if (pool.quantization) one.engine.quantization = pool.quantization;
    if (pool.kv_cache_dtype) one.engine.kv_cache_dtype = *pool.kv_cache_dtype;
    auto verdict = resolve_pool(one, pool, fmt::format("pool {}", pools.size()), resources, model, device,
                                topology, mean_tokens, longest, where);
    if (auto* no = std::get_if<Infeasible>(&verdict)) return std::move(*no);
    pools.push_back(std::move(std::get<Deployment>(verdict)));
    sections.push_back(&pool);
    const Behavior &first = pools.front().behavior, &own = pools.back().behavior;
    if (own.ingress != first.ingress || own.egress != first.egress)
      throw Error(fmt::format("{}/{}/behavior", at, pools.size() - 1),
                  fmt::format("{} takes another time from the client to its queue and back than {}, and one "
                              "router stands before both; choose systems with a server alike",
                              own.name, first.name));
  }
  Deployment d = pools.front();
  d.scenario.cluster = c;
  d.scenario.engine = scenario.engine;  // what was chosen is each pool's own
  for (std::size_t i = 0; i < pools.size(); ++i) {
    ReplicaPoolSection& own = (*d.scenario.cluster.pools)[i];
    fill_pool(own, pools[i]);
    own.weight = own.weight.value_or(1);
    own.behavior = pools[i].behavior.name;
    own.kv_cache_dtype = pools[i].scenario.engine.kv_cache_dtype;
    own.quantization = pools[i].scenario.engine.quantization;
  }
  d.warnings.clear();
  d.replica_pools = std::move(pools);
  if (auto no = join_kinds(d, scenario, sections)) return std::move(*no);
  return d;
}

}  // namespace foretoken
