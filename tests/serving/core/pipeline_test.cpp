// Several batches in flight (pipeline parallelism): a sequence decodes again only when its token is out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;

TEST(Pipeline, TwoBatchesOverlap) {
  toy::ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 4, 3);
  ServeOptions o = toy::options(100, 4, 4, 16);
  o.engines[0].scheduler.pipeline_depth = 2;
  toy::BatchLog log(1000, 0.5);
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "p1:4/0!", "d0@5", "d1@5", "d0@6", "d1@6"));
  EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 1500, 2000, 2500));
  EXPECT_EQ(r.records[0].finish, 3000);
  EXPECT_EQ(r.records[1].first_token, 1500);
  EXPECT_EQ(r.records[1].finish, 3500);
  EXPECT_DOUBLE_EQ(r.metrics.busy_share, 1.0);
}

TEST(Pipeline, ChunksOfAPromptFollowEachOther) {
  toy::ListWorkload w;
  w.add(0, 12, 2);
  ServeOptions o = toy::options(100, 4, 4, 16);
  o.engines[0].scheduler.pipeline_depth = 2;
  toy::BatchLog log(1000, 0.5);
  serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0", "p0:4/4", "p0:4/8!", "d0@13"));
  EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 2000));
}

TEST(Pipeline, NoMoreBatchesInFlightThanItsDepth) {
  toy::ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 4, 1);
  ServeOptions o = toy::options(100, 4, 4, 16);
  o.engines[0].scheduler.pipeline_depth = 2;
  toy::BatchLog log(1000, 0.25);
  serve(w, log, o);
  EXPECT_THAT(log.starts, ElementsAre(0, 250, 1000, 1250));
}

TEST(Pipeline, SmallPoolsServeEveryoneAndConserveTokens) {
  std::int64_t preemptions = 0, swaps = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(600); ++seed) {
    CounterRandom random(seed, 5);
    toy::ListWorkload w;
    const std::int64_t requests = random.uniform_int(1, 60);
    Picoseconds clock = 0;
    for (std::int64_t i = 0; i < requests; ++i) {
      clock += random.uniform_int(0, 3000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 40)),
            static_cast<std::int32_t>(random.uniform_int(1, 30)));
    }
    ServeOptions o =
        toy::options(random.uniform_int(20, 40), 4, random.uniform_int(2, 40), random.uniform_int(1, 20));
    o.engines[0].scheduler.pipeline_depth = static_cast<int>(random.uniform_int(2, 4));
    o.engines[0].ranks = static_cast<int>(random.uniform_int(1, 2));
    o.engines[0].scheduler.enable_prefix_caching = random.uniform() < 0.5;
    o.engines[0].scheduler.num_host_blocks = random.uniform() < 0.5 ? random.uniform_int(1, 20) : 0;
    toy::ToyBackend backend(random.uniform_int(100, 2000), 30, 20, {1});
    backend.pipeline(1.0 / o.engines[0].scheduler.pipeline_depth);
    const ServeResult r = serve(w, backend, o);
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    ASSERT_EQ(r.metrics.completed, requests);
    std::int64_t needed = 0;
    for (const RequestRecord& record : r.records) needed += record.input_len + record.output_len - 1;
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    ASSERT_LE(r.swapped_in_blocks, r.swapped_out_blocks) << seed;
    preemptions += r.metrics.preemptions;
    swaps += r.swapped_out_blocks;
  }
  EXPECT_GT(preemptions, 500);
  EXPECT_GT(swaps, 500);
}

}  // namespace
}  // namespace foretoken
