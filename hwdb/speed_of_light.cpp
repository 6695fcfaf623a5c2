// The physical limit of an operator on a device.
#include <algorithm>

#include "hwdb/kernel_table.h"

namespace foretoken {
namespace {

Seconds over(double bytes, BytesPerSecond bandwidth) {
  return bandwidth.value > 0 ? Bytes(bytes) / bandwidth : Seconds(0);
}

// Least bytes that one device must send over its scale-up link and over its share of the network (all ports
// of a node in use). formulas.md 2.7: ring and direct algorithms alike send this much at the least.
Seconds collective_limit(const CollectiveShape& c, const Topology& topology) {
  if (c.ranks <= 1) return Seconds(0);
  const double s = c.message_bytes, n = c.ranks;
  const double g = std::min(c.ranks, std::max(1, c.ranks_per_node));  // ranks of a node
  const double nodes = n / g;
  const Link& intra = topology.intra_node;
  double inside = 0, outside = 0;
  switch (c.kind) {
    case Collective::kAllReduce:
      // A switch that adds up receives each byte once and sends the sum once.
      inside = intra.reduces_in_network ? s : 2 * (g - 1) / g * s;
      if (g < 2) inside = 0;
      outside = 2 * (nodes - 1) / nodes * s / g;
      break;
    case Collective::kAllGather:
    case Collective::kReduceScatter:
      inside = (g - 1) / n * s;  // own node's parts; the others' arrive over the network once
      outside = (nodes - 1) / nodes * s / g;
      break;
    case Collective::kAllToAll:
      inside = (g - 1) / n * s;
      outside = c.network_bytes >= 0 ? c.network_bytes : (n - g) / n * s;
      break;
    case Collective::kSendRecv:
      inside = nodes > 1 ? 0 : s;
      outside = nodes > 1 ? s : 0;
      break;
  }
  return std::max(over(inside, intra.bandwidth),
                  nodes > 1 ? over(outside, topology.inter_node.bandwidth) : Seconds(0));
}

// An operator's activations were written by the one before it. Half of the last-level cache holds them:
// beyond that, streaming rates of element-wise kernels fall to memory's (profiles of Vidur on A40 and of
// LLMServingSim on RTX 4090 and RTX PRO 6000, see docs/cost-model.md).
constexpr double kCacheShare = 0.5;
// Bytes a clock that a multiprocessor moves to and from it: 14 on A40, 19 on A100, 24 on H100 (Vidur's
// additions).
constexpr double kCacheBytesPerClock = 14;

}  // namespace

Seconds activation_stream(Bytes bytes, const Device& device, double memory_share) {
  const BytesPerSecond memory(device.memory_bandwidth.value * memory_share);
  const double cache =
      device.vendor == "NVIDIA" ? device.sm_count * device.boost_mhz * 1e6 * kCacheBytesPerClock : 0;
  if (cache <= memory.value) return over(bytes.value, memory);
  const double held = std::min(bytes.value, kCacheShare * device.last_level_cache.value);
  return Seconds(held / cache) + over(bytes.value - held, memory);
}

Seconds speed_of_light(const Op& op, const Device& device, const Topology& topology) {
  if (const auto* c = std::get_if<CollectiveShape>(&op.shape)) return collective_limit(*c, topology);
  if (const auto* c = std::get_if<CopyShape>(&op.shape)) return over(c->bytes, device.pcie_bandwidth);
  const FlopsPerSecond peak = device.peak(compute_type(op, device.has_fp4()));
  const Seconds arithmetic = peak.value > 0 ? flops(op) / peak : Seconds(0);
  if (std::holds_alternative<ElementwiseShape>(op.shape))
    return std::max(arithmetic, activation_stream(bytes(op), device, 1.0));
  return std::max(arithmetic, over(bytes(op).value, device.memory_bandwidth));
}

}  // namespace foretoken
