#include "simulator/collectives.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace foretoken {
namespace {

// nccl/src/graph/tuning.cc, microseconds. Order of protocols: LL, LL128, Simple.
constexpr std::array<double, 3> kTreeBase = {6.8, 14.0, 8.4}, kRingBase = {6.6, 14.0, 8.4};
constexpr std::array<double, 3> kNvlinkTree = {0.6, 1.25, 4.0}, kNvlinkRing = {0.6, 1.9, 3.4};
constexpr std::array<double, 3> kPciTree = {1.0, 1.9, 4.0}, kPciRing = {1.0, 2.5, 5.7};
constexpr std::array<double, 3> kNetTree = {5.0, 8.5, 14.0}, kNetRing = {2.7, 4.0, 14.0};
constexpr double kNvlsLatency = 25.0;

struct Span {
  int ranks, nodes;
  double bus;  // bytes/s through the slowest link of the ring, one direction a device
  bool nvlink, network;
  bool nvls;        // in-switch reduction: Hopper and later, one node
  double ll_limit;  // bytes/s cap of the LL protocol
};

Span span_of(const CollectiveShape& c, const Device& device, const Topology& topology) {
  Span s{};
  s.ranks = c.ranks;
  const int per_node = std::max(1, std::min(c.ranks_per_node, topology.devices_per_node));
  s.nodes = (c.ranks + per_node - 1) / per_node;
  s.network = s.nodes > 1;
  s.nvlink = topology.intra_node.kind == Link::Kind::kScaleUp;
  s.bus = topology.intra_node.bandwidth.value;
  // A ring that crosses nodes leaves each node through all of its network interfaces together.
  if (s.network) s.bus = std::min(s.bus, topology.inter_node.bandwidth.value * std::min(per_node, c.ranks));
  const bool hopper = device.architecture.starts_with("Hopper"),
             blackwell = device.architecture.starts_with("Blackwell");
  s.nvls = s.nvlink && !s.network && s.ranks > 2 && (hopper || blackwell);
  s.ll_limit = hopper || blackwell ? 141e9 : 87.7e9;
  return s;
}

double efficiency(int protocol, const Span& s) {
  if (protocol == 0) return std::min(0.5, s.ll_limit / s.bus);
  if (protocol == 1) return 0.92 * 120.0 / 128.0;
  return 0.92;
}

double hop(const std::array<double, 3>& nvlink, const std::array<double, 3>& pci, int protocol,
           const Span& s) {
  return s.nvlink ? nvlink[protocol] : pci[protocol];
}

}  // namespace

Seconds nccl_time(const CollectiveShape& c, const Device& device, const Topology& topology) {
  if (c.ranks <= 1 || c.message_bytes <= 0) return Seconds(0);
  const Span s = span_of(c, device, topology);
  const double n = c.ranks, size = c.message_bytes;
  double best = std::numeric_limits<double>::infinity();
  // Ring traffic of each rank over the bus, and the steps that a chunk makes around it.
  double traffic = 0, steps = 0;
  switch (c.kind) {
    case Collective::kAllReduce:
      traffic = 2 * (n - 1) / n * size;
      steps = 2 * (n - 1);
      break;
    case Collective::kAllGather:
    case Collective::kReduceScatter:
    case Collective::kAllToAll:
      traffic = (n - 1) / n * size;
      steps = n - 1;
      break;
    case Collective::kSendRecv:
      traffic = size;
      steps = 1;
      break;
  }
  // All-to-all and point-to-point leave a node only for the share that goes to other nodes.
  double bus = s.bus, inside = 0;
  if (s.network && c.kind == Collective::kSendRecv) bus = topology.inter_node.bandwidth.value;
  if (s.network && c.kind == Collective::kAllToAll) {
    inside = traffic / topology.intra_node.bandwidth.value;
    bus = topology.inter_node.bandwidth.value;
    traffic = c.network_bytes >= 0 ? c.network_bytes : (n - n / s.nodes) / n * size;
  }
  const double inter_steps = s.network ? steps * s.nodes / n : 0;
  for (int p = 0; p < 3; ++p) {
    const double latency =
        kRingBase[p] + (steps - inter_steps) * hop(kNvlinkRing, kPciRing, p, s) + inter_steps * kNetRing[p];
    best = std::min(best, latency * 1e-6 + std::max(inside, traffic / bus) / efficiency(p, s));
    if (c.kind != Collective::kAllReduce) continue;
    // Double binary tree: depth over the nodes, a chain inside each of them.
    const double depth = s.network ? std::log2(static_cast<double>(s.nodes)) : 0;
    const double tree =
        kTreeBase[p] + 2 * ((n / s.nodes - 1) * hop(kNvlinkTree, kPciTree, p, s) + depth * kNetTree[p]);
    best = std::min(best, tree * 1e-6 + 2 * size / (bus * 0.92 * efficiency(p, s)));
  }
  if (s.nvls && c.kind == Collective::kAllReduce) {
    // Reduction in the switch: bus bandwidth of 512 MB on 8 devices is 445 to 460 of 450 GB/s on Hopper and
    // 684 to 704 of 900 on B200 (data set ops/aiconfigurator, nccl_collectives).
    const double share = device.architecture.starts_with("Blackwell") ? 0.77 : 1.01;
    best = std::min(best, kNvlsLatency * 1e-6 + traffic / (s.bus * share));
  }
  return Seconds(best);
}

Seconds custom_all_reduce_time(const CollectiveShape& c, const Device& device, const Topology& topology) {
  const double infinite = std::numeric_limits<double>::infinity();
  if (c.kind != Collective::kAllReduce) return Seconds(infinite);
  if (c.ranks <= 1) return Seconds(0);
  if (topology.intra_node.kind != Link::Kind::kScaleUp || c.ranks > std::min(8, topology.devices_per_node) ||
      c.ranks > c.ranks_per_node || c.message_bytes > 8.0 * kMiB || device.vendor != "NVIDIA")
    return Seconds(infinite);
  const double n = c.ranks, bandwidth = topology.intra_node.bandwidth.value;
  // One kernel launched from a graph plus the flag exchange through NVLink (formulas.md 2.12: 4.5 us).
  constexpr double kOneShot = 4.5e-6, kTwoShot = 6.5e-6;
  const double one_shot = kOneShot + (n - 1) * c.message_bytes / (0.8 * bandwidth);
  const double two_shot = kTwoShot + 2 * (n - 1) / n * c.message_bytes / (0.75 * bandwidth);
  return Seconds(std::min(one_shot, two_shot));
}

Seconds collective_time(const CollectiveShape& c, const Device& device, const Topology& topology) {
  return std::min(nccl_time(c, device, topology), custom_all_reduce_time(c, device, topology));
}

}  // namespace foretoken
