// Orca, Sarathi-Serve and DeepSpeed-FastGen (docs/policies.md): prompts and decodes in one step. Schedules
// computed by hand; blocks of 4 tokens, steps of 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions policy(SchedulerPolicy which, std::int64_t usable_blocks, std::int64_t budget,
                    std::int64_t max_num_seqs) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, budget, max_num_seqs);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = which;
  c.enable_prefix_caching = false;
  c.max_model_len = 24;
  return o;
}
SchedulerConfig& config(ServeOptions& o) { return o.engines[0].scheduler; }

ServeOptions orca(std::int64_t usable_blocks, std::int64_t max_batch_size) {
  ServeOptions o = policy(SchedulerPolicy::kOrca, usable_blocks, 100, max_batch_size);
  config(o).reservation = KvReservation::kMaxModelLen;
  return o;
}

// A batch of two: whoever ends makes room for the next in the very next iteration.
TEST(Orca, WholePromptsJoinRunningRequests) {
  ListWorkload w;
  w.add(0, 4, 2);
  w.add(0, 6, 4);
  w.add(0, 5, 2);
  EXPECT_THAT(run(w, orca(100, 2)).batches,
              ElementsAre("p0:4/0! p1:6/0!", "d0@5 d1@7", "p2:5/0! d1@8", "d1@9 d2@6"));
}

// Each reserves the 6 blocks of 24 tokens. Of 13 blocks two requests run, whatever they need; with exactly
// what they need, prompt and output, three of 2 blocks do.
TEST(Orca, MemoryIsReservedToTheEnd) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 3);
  ServeOptions o = orca(13, 8);
  const Served longest = run(w, o);
  EXPECT_THAT(longest.batches,
              ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "d0@6 d1@6", "p2:4/0!", "d2@5", "d2@6"));
  EXPECT_EQ(longest.result.reserved_tokens, 3 * 24);
  EXPECT_EQ(longest.result.filled_tokens, 3 * 6);
  config(o).reservation = KvReservation::kExact;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0!", "d0@5 d1@5 d2@5", "d0@6 d1@6 d2@6"));
}

// 9 blocks, exact reservations of 3, 2 and 3. When request 1 ends, its two blocks lie between those of others
// and the ninth behind them: no region of 3 is free, but blocks anywhere are.
TEST(Orca, RegionsBreakUpMemoryBlocksDoNot) {
  ListWorkload w;
  w.add(0, 6, 6);  // 12 tokens: blocks 1 to 3
  w.add(0, 6, 2);  // 8 tokens: blocks 4 and 5
  w.add(0, 4, 5);  // 9 tokens: blocks 6 to 8
  w.add(0, 6, 6);  // 12 tokens: three blocks
  ServeOptions o = orca(9, 8);
  config(o).reservation = KvReservation::kExact;
  const Served regions = run(w, o);
  EXPECT_EQ(regions.batches[0], "p0:6/0! p1:6/0! p2:4/0!");
  EXPECT_EQ(regions.batches[2], "d0@8 d2@6") << "4, 5 and 9 are free";
  EXPECT_EQ(regions.batches[5], "p3:6/0! d0@11") << "request 2 has ended";
  config(o).contiguous = false;
  EXPECT_EQ(run(w, o).batches[2], "p3:6/0! d0@8 d2@6");
}

ServeOptions sarathi(std::int64_t usable_blocks, std::int64_t chunk_size, std::int64_t max_num_seqs = 4) {
  return policy(SchedulerPolicy::kSarathi, usable_blocks, chunk_size, max_num_seqs);
}

// Chunks of 8 tokens, decodes included.
TEST(Sarathi, DecodesFirstThenChunksFillTheStep) {
  ListWorkload w;
  w.add(0, 5, 4);
  w.add(0, 12, 2);
  EXPECT_THAT(run(w, sarathi(100, 8)).batches,
              ElementsAre("p0:5/0! p1:3/0", "p1:7/3 d0@6", "p1:2/10! d0@7", "d0@8 d1@13"));
}

TEST(Sarathi, AStartedPromptGoesBeforeANewOne) {
  ListWorkload w;
  w.add(0, 10, 1);
  w.add(0, 3, 1);
  EXPECT_THAT(run(w, sarathi(100, 6)).batches, ElementsAre("p0:6/0", "p0:4/6! p1:2/0", "p1:1/2!"));
}

// The blocks of a whole prompt are taken with its first chunk: 6 blocks hold the 5 of request 0 and not the 2
// of request 1, though the chunk's 4 tokens would fit one.
TEST(Sarathi, APromptIsAdmittedWithAllOfItsBlocks) {
  ListWorkload w;
  w.add(0, 18, 2);
  w.add(0, 8, 1);
  const Served r = run(w, sarathi(6, 10));
  EXPECT_THAT(r.batches, ElementsAre("p0:10/0", "p0:8/10!", "d0@19", "p1:8/0!"));
  EXPECT_EQ(run(w, sarathi(7, 10)).batches[1], "p0:8/10! p1:2/0");
}

// A decode wants a free block even where its last one has room: with all of 4 blocks taken, request 0 takes
// request 1's at its 8th token. Request 1 starts again at once with what is free.
TEST(Sarathi, ADecodeWantsAFreeBlock) {
  ListWorkload w;
  w.add(0, 7, 2);
  w.add(0, 7, 2);
  const Served r = run(w, sarathi(4, 20));
  EXPECT_THAT(r.batches, ElementsAre("p0:7/0! p1:7/0!", "p1:8/0! d0@8"));
  EXPECT_EQ(r.result.metrics.preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 7);
}

// Three stages of 50 tokens: chunks of 96, 64 and 32, whichever stage a chunk begins in; what is beyond the
// last stage is computed like it.
TEST(Sarathi, ChunksShrinkByStages) {
  ListWorkload w;
  w.add(0, 230, 1);
  ServeOptions o = sarathi(100, 96);
  config(o).max_model_len = 300;
  config(o).sarathi = {32, 96, 150, 3};
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:96/0", "p0:64/96", "p0:32/160", "p0:32/192", "p0:6/224!"));
  config(o).sarathi.low_chunk_size = 40;
  EXPECT_THROW(run(w, o), Error);
}

ServeOptions fastgen(std::int64_t usable_blocks, std::int64_t batch, std::int64_t sequences = 4) {
  return policy(SchedulerPolicy::kFastgen, usable_blocks, batch, sequences);
}

// 8 tokens a step: short prompts are fused, a long one is split, its rest comes first in the next step.
TEST(Fastgen, SplitsAndFusesToFillTheStep) {
  ListWorkload w;
  w.add(0, 5, 3);
  w.add(0, 12, 2);
  w.add(0, 4, 1);
  EXPECT_THAT(run(w, fastgen(100, 8)).batches,
              ElementsAre("p0:5/0! p1:3/0", "p1:7/3 d0@6", "p1:2/10! p2:4/0! d0@7", "d1@13"));
}

TEST(Fastgen, ARestOfOneTokenGoesFirstAmongPrompts) {
  ListWorkload w;
  w.add(0, 9, 1);
  w.add(0, 4, 1);
  EXPECT_THAT(run(w, fastgen(100, 8)).batches, ElementsAre("p0:8/0", "p0:1/8! p1:4/0!"));
}

// 4 blocks. A prompt starts where all of it would fit; here request 1's 8 tokens do beside request 0's.
// Then request 0 decodes into its block, request 1 gets none, is passed over and asked first from then on,
// until nobody can go on and request 0, asked last, is computed again.
TEST(Fastgen, WhenNobodyCanGoOnTheLastStartsAgain) {
  ListWorkload w;
  w.add(0, 7, 4);
  w.add(0, 8, 3);
  const Served r = run(w, fastgen(4, 20));
  EXPECT_THAT(r.batches, ElementsAre("p0:7/0! p1:8/0!", "d0@8", "d1@9", "d1@10", "p0:9/0!", "d0@10"));
  EXPECT_EQ(r.result.metrics.preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 8);
}

TEST(Fastgen, SequencesOfAStepAreLimited) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 2, 2);
  EXPECT_THAT(run(w, fastgen(100, 8, 2)).batches,
              ElementsAre("p0:2/0! p1:2/0!", "d0@3 d1@3", "p2:2/0!", "d2@3"));
  ServeOptions o = fastgen(100, 3, 4);
  EXPECT_THROW(run(w, o), Error) << "a step that can't hold a token of each sequence";
}

}  // namespace
}  // namespace foretoken
