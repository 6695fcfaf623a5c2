// Kinds of engines that differ: the scenario of one alone, and what deployments of several have in common.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

// Each override of a pool with the engine's member that it stands for.
template <class Visit>
void for_engine_overrides(PoolSection& pool, EngineSection& engine, Visit&& visit) {
  visit(pool.tensor_parallel_size, engine.tensor_parallel_size);
  visit(pool.pipeline_parallel_size, engine.pipeline_parallel_size);
  visit(pool.data_parallel_size, engine.data_parallel_size);
  visit(pool.expert_parallel_size, engine.expert_parallel_size);
  visit(pool.enable_expert_parallel, engine.enable_expert_parallel);
  visit(pool.max_num_seqs, engine.max_num_seqs);
  visit(pool.max_num_batched_tokens, engine.max_num_batched_tokens);
  visit(pool.gpu_memory_utilization, engine.gpu_memory_utilization);
  visit(pool.enable_chunked_prefill, engine.enable_chunked_prefill);
  visit(pool.enable_prefix_caching, engine.enable_prefix_caching);
  visit(pool.async_scheduling, engine.async_scheduling);
  visit(pool.enforce_eager, engine.enforce_eager);
  visit(pool.cuda_graph_sizes, engine.cuda_graph_sizes);
  visit(pool.num_gpu_blocks_override, engine.num_gpu_blocks_override);
}

// And with that of the hardware.
template <class Visit>
void for_hardware_overrides(PoolSection& pool, HardwareConfig& hardware, Visit&& visit) {
  visit(pool.device, hardware.device);
  visit(pool.devices_per_node, hardware.devices_per_node);
  visit(pool.usd_per_device_hour, hardware.usd_per_device_hour);
  visit(pool.scaleup_bandwidth, hardware.scaleup_bandwidth);
  visit(pool.network_bandwidth, hardware.network_bandwidth);
  visit(pool.host_memory, hardware.host_memory);
  visit(pool.host_link_bandwidth, hardware.host_link_bandwidth);
  visit(pool.storage_bandwidth, hardware.storage_bandwidth);
}

Scenario scenario_of(const Scenario& scenario, PoolSection pool) {
  Scenario s = scenario;
  s.cluster = ClusterSection();
  s.cluster.replicas = pool.replicas.value_or(1);
  s.hardware.count.reset();
  if (pool.device) s.hardware = HardwareConfig();
  const auto take = [](auto& given, auto& member) {
    if (given) member = *given;
  };
  for_engine_overrides(pool, s.engine, take);
  for_hardware_overrides(pool, s.hardware, take);
  return s;
}

}  // namespace

std::variant<Deployment, Infeasible> resolve_pool(const Scenario& scenario, const PoolSection& pool,
                                                  const std::string& name, const Resources& resources,
                                                  const ModelConfig& model, const Device& device,
                                                  const Topology& topology, double mean_tokens,
                                                  std::int64_t longest, const std::string& where) {
  const Scenario alone = scenario_of(scenario, pool);
  if (pool.device && resources.database == nullptr)
    throw Error(where + "/cluster", name + " name a device, and no hardware database is open");
  auto verdict = pool.device ? resolve(alone, resources, model, mean_tokens, longest)
                             : resolve_on(alone, resources, model, device, topology, mean_tokens, longest);
  if (auto* no = std::get_if<Infeasible>(&verdict)) no->reason = fmt::format("{}: {}", name, no->reason);
  return verdict;
}

void fill_pool(PoolSection& pool, const Deployment& chosen) {
  EngineSection engine = chosen.scenario.engine;
  HardwareConfig hardware = chosen.scenario.hardware;
  const auto take = [](auto& given, const auto& member) { given = member; };
  for_engine_overrides(pool, engine, take);
  if (pool.device) for_hardware_overrides(pool, hardware, take);
  pool.replicas = chosen.mapping.replicas;
}

std::optional<Infeasible> join_kinds(Deployment& d, const Scenario& scenario,
                                     const std::vector<const PoolSection*>& pools) {
  const std::vector<const Deployment*> kinds = d.kinds();
  HardwareConfig& hardware = d.scenario.hardware;
  hardware = scenario.hardware;
  d.has_price = true;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    d.has_price &= kinds[i]->has_price;
    if (!pools[i]->device && !pools[i]->usd_per_device_hour)
      hardware.usd_per_device_hour = kinds[i]->scenario.hardware.usd_per_device_hour;
    for (const std::string& w : kinds[i]->warnings)
      if (std::find(d.warnings.begin(), d.warnings.end(), w) == d.warnings.end()) d.warnings.push_back(w);
  }
  if (hardware.count && *hardware.count < d.devices())
    return Infeasible{
        "too few devices",
        fmt::format("{} take {} devices, hardware.count is {}",
                    d.pools ? "prefill and decode engines" : "the pools", d.devices(), *hardware.count),
        {}};
  if (!hardware.count) hardware.count = d.devices();
  return std::nullopt;
}

std::vector<const Deployment*> Deployment::kinds() const {
  if (pools) return {&pools->prefill, &pools->decode};
  if (replica_pools.empty()) return {this};
  std::vector<const Deployment*> all;
  for (const Deployment& pool : replica_pools) all.push_back(&pool);
  return all;
}

int Deployment::devices() const {
  int n = 0;
  for (const Deployment* kind : kinds()) n += kind->mapping.devices();
  return n;
}

int Deployment::engines() const {
  int n = 0;
  for (const Deployment* kind : kinds()) n += kind->mapping.engines();
  return n;
}

double Deployment::usd_per_hour() const {
  double usd = 0;
  for (const Deployment* kind : kinds()) usd += kind->usd_per_device_hour * kind->mapping.devices();
  return usd;
}

const Deployment& Deployment::of_engine(std::int32_t engine) const {
  const std::vector<const Deployment*> all = kinds();
  for (const Deployment* kind : all) {
    if (engine < kind->mapping.engines()) return *kind;
    engine -= kind->mapping.engines();
  }
  return *all.back();
}

}  // namespace foretoken
