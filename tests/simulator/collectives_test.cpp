// Collectives without measured rows: limits, monotonicity, NCCL's published latencies.
#include "simulator/collectives.h"

#include <gtest/gtest.h>

#include "simulator/closed_forms.h"

namespace foretoken {
namespace {

Device hopper() {
  Device d;
  d.name = "toy";
  d.vendor = "NVIDIA";
  d.architecture = "Hopper";
  return d;
}

Topology nvlink(int per_node = 8) {
  Topology t;
  t.devices_per_node = per_node;
  t.intra_node = {Link::Kind::kScaleUp, "NVLink4", BytesPerSecond(450e9), Seconds(1e-6), "test"};
  t.inter_node = {Link::Kind::kNetwork, "IB", BytesPerSecond(50e9), Seconds(5e-6), "test"};
  return t;
}

CollectiveShape all_reduce(double bytes, int ranks) {
  return {Collective::kAllReduce, bytes, ranks, 8, DType::kBf16};
}

TEST(Collectives, OneRankCostsNothing) {
  EXPECT_EQ(collective_time(all_reduce(1e6, 1), hopper(), nvlink()).value, 0.0);
}

TEST(Collectives, GrowWithTheMessage) {
  for (const Collective kind : {Collective::kAllReduce, Collective::kAllGather, Collective::kReduceScatter,
                                Collective::kAllToAll, Collective::kSendRecv})
    for (const int ranks : {2, 4, 8, 16}) {
      double last = 0;
      for (double bytes = 256; bytes < 2e9; bytes *= 1.7) {
        const double t = collective_time({kind, bytes, ranks, 8, DType::kBf16}, hopper(), nvlink()).value;
        EXPECT_GE(t, last) << ranks << " ranks, " << bytes << " bytes";
        last = t;
      }
    }
}

TEST(Collectives, FasterLinksAreNeverSlower) {
  for (double bytes = 1024; bytes < 1e9; bytes *= 3) {
    Topology fast = nvlink();
    fast.intra_node.bandwidth = BytesPerSecond(900e9);
    EXPECT_LE(collective_time(all_reduce(bytes, 8), hopper(), fast).value,
              collective_time(all_reduce(bytes, 8), hopper(), nvlink()).value);
  }
}

// 8 x H200 custom all-reduce in a graph: 4.8, 7.9, 14.1 us for 2 KB, 128 KB, 1 MB (aiconfigurator data);
// within a third without having seen a row.
TEST(Collectives, SmallMessagesUseTheCustomKernel) {
  const double bytes[] = {2048, 131072, 1048576}, us[] = {4.8, 7.9, 14.1};
  for (int i = 0; i < 3; ++i) {
    const double t = collective_time(all_reduce(bytes[i], 8), hopper(), nvlink()).value * 1e6;
    EXPECT_NEAR(t / us[i], 1.0, 0.34) << bytes[i];
    EXPECT_LT(t, nccl_time(all_reduce(bytes[i], 8), hopper(), nvlink()).value * 1e6);
  }
}

// 512 MB over 8 x H200: 2,040 us (NCCL 2.29.2).
TEST(Collectives, LargeMessagesApproachTheSwitch) {
  const double t = collective_time(all_reduce(536870912, 8), hopper(), nvlink()).value * 1e6;
  EXPECT_NEAR(t / 2040, 1.0, 0.1);
}

// A ring over nodes leaves each through all its interfaces (8 x 50 GB/s), without the switch's reduction.
TEST(Collectives, NodesAreSlowerThanOneNode) {
  for (const double bytes : {1e4, 1e6, 1e8})
    EXPECT_GT(collective_time(all_reduce(bytes, 16), hopper(), nvlink()).value,
              collective_time(all_reduce(bytes, 8), hopper(), nvlink()).value);
  EXPECT_GE(collective_time(all_reduce(1e9, 16), hopper(), nvlink()).value, 2 * 15.0 / 16 * 1e9 / 400e9);
}

}  // namespace
}  // namespace foretoken
