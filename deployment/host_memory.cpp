// What a deployment keeps in host memory: the swap space of preempted sequences.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "deployment/parts.h"
#include "model/kv_cache.h"

namespace foretoken {
namespace {

constexpr double kDefaultSwapGib = 4;  // vLLM V0's --swap-space
constexpr double kMostBlocks = 2'147'483'647;

}  // namespace

void read_swap(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  const bool swaps = e.preemption_mode && *e.preemption_mode == "swap";
  if (!swaps) {
    if (e.swap_space_gib.value_or(0) > 0)
      throw Error(where + "/engine/swap_space_gib",
                  "takes effect with preemption_mode swap alone; set that or leave it out");
    return;
  }
  const std::string at = where + "/engine/preemption_mode";
  if (d.behavior.policy != SchedulerPolicy::kVllmV1)
    throw Error(at, fmt::format("swap is a mode of vLLM's scheduler, and the behaviour is {}; use recompute",
                                d.behavior.name));
  for (const LayerKind& kind : d.model.kinds)
    if (std::holds_alternative<RecurrentMixer>(kind.mixer))
      throw Error(at, fmt::format("swap is not modelled for {}, whose recurrent states lie in no block; use "
                                  "recompute",
                                  d.model.name));
  if (!e.swap_space_gib) e.swap_space_gib = kDefaultSwapGib;
  use_host_link(d, where);
}

void use_host_link(Deployment& d, const std::string& where) {
  const std::string at = where + "/hardware/host_link_bandwidth";
  BytesPerSecond& link = d.device.pcie_bandwidth;
  // A processor's host memory is its own: a copy reads and writes each byte there.
  if (d.shares_host_memory) link = d.device.memory_bandwidth / 2;
  if (const auto& given = d.scenario.hardware.host_link_bandwidth) link = parse_bandwidth(*given, at);
  if (!(link.value > 0) || !std::isfinite(link.value))
    throw Error(at,
                fmt::format("no link to host memory is known for {}; give its bandwidth, such as \"64 GB/s\"",
                            d.device.name));
}

void plan_host_memory(Deployment& d) {
  MemoryPlan& m = d.memory;
  const double swap =
      d.scenario.engine.preemption_mode.value_or("") == "swap" ? *d.scenario.engine.swap_space_gib * kGiB : 0;
  m.host_bytes = swap;
  if (!(swap > 0)) return;
  double block = 0;
  for (const Shard& shard : d.mapping.stages)
    block = std::max(block, kv_bytes_per_token(d.model, shard, d.precision.kv) * m.block_size);
  if (block > 0)
    m.num_host_blocks = static_cast<std::int64_t>(std::min(std::floor(swap / block), kMostBlocks));
}

std::optional<Infeasible> host_memory_verdict(const Deployment& d, const std::string& where) {
  const auto& given = d.scenario.hardware.host_memory;
  if (!given || d.shares_host_memory || !(d.memory.host_bytes > 0)) return std::nullopt;
  const double has = parse_bytes(*given, where + "/hardware/host_memory").value;
  const double devices =
      static_cast<double>(std::min<std::int64_t>(d.mapping.devices(), d.topology.devices_per_node));
  if (devices * d.memory.host_bytes <= has) return std::nullopt;
  return Infeasible{
      "does not fit in memory",
      fmt::format("{:.0f} devices of a node keep {:.1f} GiB each in host memory, which has {:.1f} GiB: "
                  "lower --swap-space-gib or raise --host-memory",
                  devices, d.memory.host_bytes / kGiB, has / kGiB),
      d.memory};
}

}  // namespace foretoken
