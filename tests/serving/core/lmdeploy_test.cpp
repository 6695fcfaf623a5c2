// LMDeploy's two engines (docs/policies.md) against schedules computed by hand. Blocks of 4 tokens, steps of
// 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions engine(SchedulerPolicy policy, std::int64_t usable_blocks, std::int64_t tokens,
                    std::int64_t sequences) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, tokens, sequences);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = policy;
  c.enable_prefix_caching = false;
  c.max_model_len = 64;
  return o;
}
ServeOptions turbomind(std::int64_t usable_blocks = 100, std::int64_t tokens = 100,
                       std::int64_t sequences = 4) {
  return engine(SchedulerPolicy::kTurbomind, usable_blocks, tokens, sequences);
}
ServeOptions pytorch(std::int64_t interval, std::int64_t usable_blocks = 100, std::int64_t tokens = 100,
                     std::int64_t sequences = 4) {
  ServeOptions o = engine(SchedulerPolicy::kLmdeployPytorch, usable_blocks, tokens, sequences);
  o.engines[0].scheduler.lmdeploy.prefill_interval = interval;
  return o;
}
LmdeployConfig& knobs(ServeOptions& o) { return o.engines[0].scheduler.lmdeploy; }

// Request 2 takes the place that request 1 leaves, and shares its first step with a decode.
TEST(Turbomind, TheBatchPersists) {
  ListWorkload w;
  w.add(0, 5, 3);
  w.add(0, 4, 2);
  w.add(500, 3, 1);
  EXPECT_THAT(run(w, turbomind(100, 100, 2)).batches,
              ElementsAre("p0:5/0! p1:4/0!", "d0@6 d1@5", "p2:3/0! d0@7"));
}

TEST(Turbomind, AtMostOnePromptIsSplit) {
  ListWorkload w;
  w.add(0, 4, 2);
  w.add(0, 6, 1);
  w.add(0, 1, 1);
  EXPECT_THAT(run(w, turbomind(100, 6)).batches, ElementsAre("p0:4/0! p1:2/0", "p1:4/2! p2:1/0! d0@5"));
}

// 11 tokens beside the one that every member has: 4 a step for three steps, and what was once asked for
// stays.
TEST(Turbomind, PromptsAreSpreadOverMaxPrefillIters) {
  ListWorkload w;
  w.add(0, 12, 1);
  EXPECT_THAT(run(w, turbomind()).batches, ElementsAre("p0:12/0!"));
  ServeOptions o = turbomind();
  knobs(o).max_prefill_iters = 3;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:5/0", "p0:5/5", "p0:2/10!"));
  knobs(o).num_tokens_per_iter = 7;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:7/0", "p0:5/7!"));
}

// A member has room for one token more than it computes. Request 1 finds none and waits with its cache, of
// which request 0 then takes the tail; it goes on from what is left.
TEST(Turbomind, WhoCameLastKeepsWhatIsNotTaken) {
  ListWorkload w;
  w.add(0, 7, 6);
  w.add(0, 7, 4);
  const Served r = run(w, turbomind(5));
  EXPECT_THAT(r.batches, ElementsAre("p0:7/0! p1:7/0!", "d0@8", "d0@9", "d0@10", "d0@11", "d0@12", "p1:4/4!",
                                     "d1@9", "d1@10"));
  EXPECT_EQ(r.result.records[1].preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 3);
}

// Memory for all of a prompt is not there; a later one finds its own.
TEST(Turbomind, WhoFindsBlocksPasses) {
  ListWorkload w;
  w.add(0, 7, 3);
  w.add(0, 15, 1);
  w.add(0, 3, 1);
  EXPECT_THAT(run(w, turbomind(5)).batches, ElementsAre("p0:7/0! p2:3/0!", "d0@8", "d0@9", "p1:15/0!"));
}

// A request of 20 tokens computes 19 of them, for which 5 blocks of 4 would do; the next token's is wanted
// too.
TEST(Turbomind, ARequestNeedsRoomForItsLastToken) {
  ListWorkload w;
  w.add(0, 9, 12);
  EXPECT_EQ(run(w, turbomind(5)).result.rejected, 1);
  EXPECT_EQ(run(w, turbomind(6)).result.metrics.completed, 1);
}

// While request 1's prompt is computed the next loop is decided, so request 0 decodes in it alone. Rows of
// those who have ended go on to the end of the loop.
TEST(LmdeployPytorch, LoopsOfDecodes) {
  ListWorkload w;
  w.add(0, 4, 5);
  w.add(500, 4, 3);
  const Served r = run(w, pytorch(3));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0!", "p1:4/0!", "d0@5", "d0@6", "d0@7", "d0@8 d1@5", "d1@6 d0@9",
                                     "d0@10 d1@7"));
  EXPECT_EQ(r.result.discarded_tokens, 3);
}

TEST(LmdeployPytorch, ALongPromptRunsAloneInParts) {
  ListWorkload w;
  w.add(0, 14, 1);
  w.add(0, 2, 1);
  w.add(0, 3, 1);
  w.add(0, 2, 1);
  EXPECT_THAT(run(w, pytorch(3, 100, 6)).batches,
              ElementsAre("p0:6/0", "p0:6/6", "p0:2/12!", "p1:2/0! p2:3/0!", "p3:2/0!"));
}

// Three of six within reach are half: they decode before the one prompt that waits.
TEST(LmdeployPytorch, DecodesGoFirstWhereEnoughRunAndFewWait) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 2, 9);
  w.add(1500, 2, 9);
  w.add(2500, 2, 9);
  const Served r = run(w, pytorch(1, 100, 100, 6));
  EXPECT_THAT(
      std::vector(r.batches.begin(), r.batches.begin() + 5),
      ElementsAre("p0:2/0! p1:2/0! p2:2/0!", "d0@3 d1@3 d2@3", "p3:2/0!", "d0@4 d1@4 d2@4", "p4:2/0!"));
}

// A loop of four wants room for four more tokens. Request 1 waits with its cache and comes back as a prompt
// of one token; then request 0 does, whose cache request 1 takes.
TEST(LmdeployPytorch, WhoFindsNoRoomForALoopWaits) {
  ListWorkload w;
  w.add(0, 6, 6);
  w.add(0, 6, 6);
  const Served r = run(w, pytorch(4, 5, 100, 2));
  EXPECT_THAT(r.batches, ElementsAre("p0:6/0! p1:6/0!", "d0@7", "d0@8", "d0@9", "d0@10", "p1:1/6!", "d1@8",
                                     "d1@9", "d1@10", "d1@11", "p0:11/0!"));
  EXPECT_EQ(r.result.records[0].preemptions + r.result.records[1].preemptions, 2);
  EXPECT_EQ(r.result.discarded_tokens, 10);
}

}  // namespace
}  // namespace foretoken
