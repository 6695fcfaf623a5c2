// NanoFlow's batches (docs/policies.md) against schedules computed by hand. Blocks of 4 tokens, steps of
// 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions nanoflow(std::int64_t usable_blocks, std::int64_t tokens, std::int64_t prompt,
                      std::int64_t output) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, tokens, tokens);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kNanoflow;
  c.enable_prefix_caching = false;
  c.max_model_len = 64;
  c.nanoflow = {prompt, output};
  return o;
}

// Prompts fill what decodes leave of 6 tokens. A row of who has ended is computed once more.
TEST(Nanoflow, FillsTheStepAndLearnsOfEndsLate) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 7, 1);
  const Served r = run(w, nanoflow(100, 6, 4, 4));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! p1:2/0", "p1:5/2! d0@5", "d0@6 d1@8", "d0@7"));
  EXPECT_EQ(r.result.discarded_tokens, 2);
}

// Its row and its memory make place a step later: request 1 has the only place there is.
TEST(Nanoflow, ARowInVainTakesItsPlace) {
  ListWorkload w;
  w.add(0, 1, 2);
  w.add(0, 1, 1);
  EXPECT_THAT(run(w, nanoflow(100, 1, 1, 2)).batches,
              ElementsAre("p0:1/0!", "d0@2", "d0@3", "p1:1/0!", "d1@2"));
}

// Requests of 8 + 8 tokens in 20 blocks, of which 18 may be planned with. Two that have 8 tokens are expected
// to hold 10 blocks at 17 tokens each, and 8 are left for one of average lengths (4). In the next step three
// and a prompt that has begun are expected to hold 8 + 10 blocks when the first two end, which leaves none.
TEST(Nanoflow, StartsWhileTheExpectedPeakLeavesRoom) {
  ListWorkload w;
  for (int i = 0; i < 6; ++i) w.add(0, 8, 8);
  const Served r = run(w, nanoflow(20, 16, 8, 8));
  EXPECT_THAT(std::vector(r.batches.begin(), r.batches.begin() + 4),
              ElementsAre("p0:8/0! p1:8/0!", "p2:8/0! p3:6/0 d0@9 d1@9", "p3:2/6! d0@10 d1@10 d2@9",
                          "d0@11 d1@11 d2@10 d3@9"));
  EXPECT_EQ(r.result.metrics.preemptions, 0);
  EXPECT_EQ(r.result.metrics.completed, 6);
}

// Outputs four times as long as expected: memory runs out, and who came last is computed again.
TEST(Nanoflow, LongerThanExpectedIsPreempted) {
  ListWorkload w;
  for (int i = 0; i < 6; ++i) w.add(0, 8, 32);
  const Served r = run(w, nanoflow(24, 16, 8, 8));
  EXPECT_GT(r.result.metrics.preemptions, 0);
  EXPECT_EQ(r.result.metrics.completed, 6);
}

TEST(Nanoflow, AveragesThatNeverFitAreRefused) {
  ListWorkload w;
  w.add(0, 8, 8);
  const Served r = run(w, nanoflow(10, 16, 20, 20));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, HasSubstr("average_decode_length"));
}

}  // namespace
}  // namespace foretoken
