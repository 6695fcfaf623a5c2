// The physical limit: arithmetic by hand.
#include <gtest/gtest.h>

#include "built_in.h"

namespace foretoken {
namespace {

using test::built_in;
using test::gemm;
using test::op_with;

class SpeedOfLight : public testing::Test {
 protected:
  Device h100 = built_in().device("h100");
  Topology node = built_in().topology(h100, 8);
  double limit(const Op& op) { return speed_of_light(op, h100, node).value; }
};

TEST_F(SpeedOfLight, LargeProductsAreBoundByArithmetic) {
  EXPECT_DOUBLE_EQ(limit(gemm(8192, 8192, 8192)), 2.0 * 8192 * 8192 * 8192 / 989.4e12);
  EXPECT_DOUBLE_EQ(limit(gemm(8192, 8192, 8192, WeightFormat::kFp8)), 2.0 * 8192 * 8192 * 8192 / 1978.9e12);
}

TEST_F(SpeedOfLight, OneRowIsBoundByItsWeights) {
  const double bytes = 2.0 * (8192.0 * 8192 + 8192 + 8192);
  EXPECT_DOUBLE_EQ(limit(gemm(1, 8192, 8192)), bytes / 3350e9);
}

// L40S: 142 multiprocessors at 2520 MHz move 14 bytes a clock to and from a cache of 96 MB, of which half
// holds a step's activations.
TEST_F(SpeedOfLight, ActivationsThatFitTheCacheAreNotReadFromMemory) {
  const Device l40s = built_in().device("l40s");
  const double cache = 142 * 2520e6 * 14, held = l40s.last_level_cache.value / 2;
  const auto seconds = [&](double bytes, double share = 1) {
    return activation_stream(Bytes(bytes), l40s, share).value;
  };
  EXPECT_DOUBLE_EQ(seconds(1e6), 1e6 / cache);
  EXPECT_DOUBLE_EQ(seconds(1e6, 0.8), 1e6 / cache);
  EXPECT_DOUBLE_EQ(seconds(held + 864e6, 0.5), held / cache + 2e-3);
  for (double bytes = 1e3; bytes < 1e12; bytes *= 2) {
    EXPECT_LT(seconds(bytes), seconds(2 * bytes));
    EXPECT_LT(seconds(bytes), bytes / 864e9);
  }
  Device without = l40s;
  without.last_level_cache = Bytes(0);
  EXPECT_DOUBLE_EQ(activation_stream(Bytes(1e6), without, 1).value, 1e6 / 864e9);
  const Op norm = op_with(ElementwiseShape{.rows = 100, .bytes_per_row = 1e4});
  EXPECT_DOUBLE_EQ(speed_of_light(norm, l40s, node).value, 1e6 / cache);
}

TEST_F(SpeedOfLight, CollectivesAreBoundByOneLink) {
  CollectiveShape c{.kind = Collective::kAllGather, .message_bytes = 8e9, .ranks = 8};
  EXPECT_DOUBLE_EQ(limit(op_with(c)), 7e9 / 450e9);
  c.kind = Collective::kAllReduce;  // the switch adds up
  EXPECT_DOUBLE_EQ(limit(op_with(c)), 8e9 / 450e9);
  node.intra_node.reduces_in_network = false;  // a ring sends 2 (n - 1) / n
  EXPECT_DOUBLE_EQ(limit(op_with(c)), 14e9 / 450e9);
  c.ranks = 1;
  EXPECT_EQ(limit(op_with(c)), 0);
}

TEST_F(SpeedOfLight, NodesAreBoundByTheNetwork) {
  // 16 ranks of 2 nodes: each node receives half over its 8 ports.
  const CollectiveShape gather{
      .kind = Collective::kAllGather, .message_bytes = 16e9, .ranks = 16, .ranks_per_node = 8};
  EXPECT_DOUBLE_EQ(limit(op_with(gather)), 16e9 / 2 / 8 / 50e9);
  const CollectiveShape all{
      .kind = Collective::kAllToAll, .message_bytes = 16e9, .ranks = 16, .ranks_per_node = 8};
  EXPECT_DOUBLE_EQ(limit(op_with(all)), 8e9 / 50e9);
  const CollectiveShape send{
      .kind = Collective::kSendRecv, .message_bytes = 1e9, .ranks = 2, .ranks_per_node = 1};
  EXPECT_DOUBLE_EQ(limit(op_with(send)), 1e9 / 50e9);
}

TEST_F(SpeedOfLight, CopiesCrossTheHostLink) { EXPECT_DOUBLE_EQ(limit(op_with(CopyShape{64e9})), 1.0); }

}  // namespace
}  // namespace foretoken
