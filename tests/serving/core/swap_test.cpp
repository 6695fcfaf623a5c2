// Preemption by swapping: blocks go to host memory and come back as they were, nothing is lost while there is
// room, and who finds none is computed again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ShadowMemory;

ServeOptions with_swap(std::int64_t host_blocks) {
  ServeOptions o = toy::options(5, 4, 100, 16);
  o.engines[0].scheduler.enable_prefix_caching = false;
  o.engines[0].scheduler.num_host_blocks = host_blocks;
  return o;
}

// 4 usable blocks of 4: request 1 is preempted when its 9th token needs a third block. Its two blocks wait in
// host memory until request 0 is done, and its 9th token is all that is left to compute.
TEST(Swap, BlocksComeBackAndNothingIsComputedTwice) {
  toy::ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 8, 4);
  ShadowMemory memory(w, 4);
  const ServeResult r = serve(w, memory, with_swap(2));
  EXPECT_THAT(memory.batches, ElementsAre("p0:4/0 p1:8/0", "out2 d0@5", "d0@6", "d0@7", "d0@8", "d0@9",
                                          "in2 d1@9", "d1@10", "d1@11"));
  EXPECT_EQ(r.metrics.preemptions, 1);
  EXPECT_EQ(r.discarded_tokens, 0);
  EXPECT_EQ(r.swapped_out_blocks, 2);
  EXPECT_EQ(r.swapped_in_blocks, 2);
  EXPECT_EQ(r.peak_host_blocks, 2);
}

TEST(Swap, WithoutRoomInHostMemoryItIsComputedAgain) {
  toy::ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 8, 4);
  toy::ListWorkload same = w;
  ShadowMemory none(same, 4), little(w, 4);
  serve(same, none, with_swap(0));
  const ServeResult r = serve(w, little, with_swap(1));
  EXPECT_EQ(none.batches, little.batches);
  EXPECT_EQ(r.discarded_tokens, 8);
  EXPECT_EQ(r.swapped_out_blocks, 0);
}

struct Random {
  toy::ListWorkload workload;
  ServeOptions options;
};
Random random_case(std::uint64_t seed, std::int64_t host_blocks) {
  CounterRandom random(seed, 12);
  Random c;
  const std::int64_t requests = random.uniform_int(2, 50);
  Picoseconds clock = 0;
  for (std::int64_t i = 0; i < requests; ++i) {
    clock += random.uniform_int(0, 2000);
    c.workload.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 40)),
                   static_cast<std::int32_t>(random.uniform_int(1, 40)));
  }
  c.options =
      toy::options(random.uniform_int(22, 40), 4, random.uniform_int(4, 60), random.uniform_int(2, 20));
  c.options.engines[0].scheduler.enable_prefix_caching = false;
  c.options.engines[0].scheduler.num_host_blocks = host_blocks;
  return c;
}

// Every cached token is found where it was put, through any number of swaps; blocks are conserved on both
// sides; and room for everybody loses nothing, no room everything that recomputing loses.
TEST(Swap, TokensAndBlocksAreConserved) {
  constexpr std::int64_t kHostBlocks[] = {0, 6, 15, 1000};
  std::int64_t swaps = 0, both = 0, discarded[4] = {};
  for (std::uint64_t seed = 0; seed < toy::seeds(300); ++seed) {
    for (std::size_t i = 0; i < std::size(kHostBlocks); ++i) {
      const std::int64_t host = kHostBlocks[i];
      Random c = random_case(seed, host);
      ShadowMemory memory(c.workload, 4);
      const ServeResult r = serve(c.workload, memory, c.options);
      ASSERT_FALSE(r.aborted) << r.abort_reason;
      std::int64_t needed = 0;
      for (const RequestRecord& record : r.records) needed += record.input_len + record.output_len - 1;
      ASSERT_EQ(r.scheduled_tokens - r.discarded_tokens, needed) << seed;
      ASSERT_EQ(r.swapped_out_blocks, r.swapped_in_blocks) << seed;
      ASSERT_LE(r.peak_host_blocks, host) << seed;
      ASSERT_TRUE(host > 0 || r.swapped_out_blocks == 0);
      ASSERT_TRUE(host < 1000 || r.discarded_tokens == 0) << seed;
      discarded[i] += r.discarded_tokens;
      swaps += r.swapped_out_blocks;
      both += r.swapped_out_blocks > 0 && r.discarded_tokens > 0;
    }
  }
  EXPECT_GT(swaps, 5000);
  // A single run may be unlucky in whom little room serves; on the whole more room loses less.
  for (std::size_t i = 1; i < std::size(kHostBlocks); ++i) EXPECT_LT(discarded[i], discarded[i - 1]);
  EXPECT_GT(both, 20) << "runs in which some were swapped and some computed again";
}

}  // namespace
}  // namespace foretoken
