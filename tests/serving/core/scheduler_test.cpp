// vLLM V1's rules (docs: serving policies) one by one, against schedules computed by hand. Every step takes
// 1000 ps.
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

TEST(VllmV1, OneBudgetRunningFirstThenWaiting) {
  ListWorkload w;
  w.add(0, 5, 3);
  w.add(0, 10, 2);
  const Served r = run(w, toy::options(100, 4, 8, 16));
  EXPECT_THAT(r.batches, ElementsAre("p0:5/0! p1:3/0", "p1:7/3! d0@6", "d0@7 d1@11"));
  ASSERT_EQ(r.result.records.size(), 2u);
  EXPECT_EQ(r.result.records[0].first_token, 1000);
  EXPECT_EQ(r.result.records[0].finish, 3000);
  EXPECT_EQ(r.result.records[1].scheduled, 0);
  EXPECT_EQ(r.result.records[1].prefill_done, 1000) << "start of the step that completes its prompt";
  EXPECT_EQ(r.result.records[1].first_token, 2000);
}

TEST(VllmV1, ARunningPromptGoesBeforeThoseAdmittedLater) {
  ListWorkload w;
  w.add(0, 12, 3);
  w.add(0, 2, 3);
  EXPECT_THAT(run(w, toy::options(100, 4, 6, 16)).batches,
              ElementsAre("p0:6/0", "p0:6/6!", "p1:2/0! d0@13", "d0@14 d1@3", "d1@4"));
}

TEST(VllmV1, MaxNumSeqs) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 2, 2);
  EXPECT_THAT(run(w, toy::options(100, 4, 100, 2)).batches,
              ElementsAre("p0:2/0! p1:2/0!", "d0@3 d1@3", "p2:2/0!", "d2@3"));
}

TEST(VllmV1, LongPrefillTokenThreshold) {
  ListWorkload w;
  w.add(0, 10, 1);
  w.add(0, 3, 1);
  ServeOptions o = toy::options(100, 4, 100, 16);
  o.engines[0].scheduler.long_prefill_token_threshold = 4;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0 p1:3/0!", "p0:4/4", "p0:2/8!"));
}

TEST(VllmV1, WithoutChunkedPrefillAPromptFitsWholeOrWaits) {
  ListWorkload w;
  w.add(0, 6, 2);
  w.add(0, 5, 1);
  w.add(0, 1, 1);  // would fit the rest of the budget, but never overtakes
  ServeOptions o = toy::options(100, 4, 8, 16);
  o.engines[0].scheduler.enable_chunked_prefill = false;
  o.engines[0].scheduler.max_model_len = 8;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:6/0!", "p1:5/0! p2:1/0! d0@7"));
  o.engines[0].scheduler.max_num_batched_tokens = 7;
  EXPECT_THROW(run(w, o), Error);
}

// 4 usable blocks of 4. Step 1: request 0 takes the last free block for its 5th token; request 1 finds none
// for its 9th and is itself the tail of the running list. It comes back with prompt and output, when request
// 0 is done.
TEST(VllmV1, PreemptionRecomputes) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 8, 4);
  ServeOptions o = toy::options(5, 4, 100, 16);
  o.engines[0].scheduler.enable_prefix_caching = false;
  const Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! p1:8/0!", "d0@5", "d0@6", "d0@7", "d0@8", "d0@9", "p1:9/0!",
                                     "d1@10", "d1@11"));
  EXPECT_EQ(r.result.records[1].preemptions, 1);
  EXPECT_EQ(r.result.metrics.preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 8);
}

// The same with the prefix cache. Freed tail first, the queue is [second, first] block of request 1; request
// 0's 9th token takes the second, so the first is found again.
TEST(VllmV1, APreemptedRequestFindsItsOwnBlocks) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 8, 4);
  const Served r = run(w, toy::options(5, 4, 100, 16));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! p1:8/0!", "d0@5", "d0@6", "d0@7", "d0@8", "d0@9", "p1:5/4!",
                                     "d1@10", "d1@11"));
  EXPECT_EQ(r.result.reused_tokens, 4);
  EXPECT_EQ(r.result.records[1].cached_tokens, 0) << "counts the first admission";
}

TEST(VllmV1, TheTailIsTheVictim) {
  ListWorkload w;
  w.add(0, 8, 3);
  w.add(0, 2, 3);
  w.add(0, 2, 3);
  ServeOptions o = toy::options(5, 4, 100, 16);
  o.engines[0].scheduler.enable_prefix_caching = false;
  // 8 + 2 + 2 tokens fill the 4 blocks; request 0's 9th token costs request 2 its block, not request 1.
  EXPECT_THAT(run(w, o).batches,
              ElementsAre("p0:8/0! p1:2/0! p2:2/0!", "d0@9 d1@3", "d0@10 d1@4", "p2:3/0!", "d2@4"));
}

// The victims go before those that already wait, in their old order.
TEST(VllmV1, VictimsArePrependedToWaiting) {
  ListWorkload w;
  w.add(0, 20, 1);  // in chunks of 8: the second and third preempt the others
  w.add(0, 2, 2);
  w.add(0, 2, 2);
  w.add(0, 2, 1);
  ServeOptions o = toy::options(6, 4, 12, 3);
  o.engines[0].scheduler.long_prefill_token_threshold = 8;
  o.engines[0].scheduler.reserve_full_prompt = false;
  o.engines[0].scheduler.enable_prefix_caching = false;
  // Step 0: 2 + 1 + 1 blocks of 5. Step 1: request 0 needs 2, one is free: request 2 goes.
  // Step 2: it needs a fifth block; one is free since request 1 ended.
  EXPECT_THAT(run(w, o).batches,
              ElementsAre("p0:8/0 p1:2/0! p2:2/0!", "p0:8/8 d1@3", "p0:4/16!", "p2:3/0! p3:2/0!"));
}

// Without reserve_full_prompt the chunk of the preempted request would fit at once (8 tokens, 2 free blocks);
// yet it waits for the next step.
TEST(VllmV1, NoAdmissionInAStepThatPreempted) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 8, 2);
  ServeOptions o = toy::options(5, 4, 100, 16);
  o.engines[0].scheduler.enable_prefix_caching = false;
  o.engines[0].scheduler.reserve_full_prompt = false;
  o.engines[0].scheduler.long_prefill_token_threshold = 8;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0! p1:8/0!", "d0@5", "p1:8/0 d0@6", "p1:1/8!"));
}

TEST(VllmV1, AdmissionNeverPreemptsNorOvertakes) {
  ListWorkload w;
  w.add(0, 8, 3);
  w.add(0, 12, 1);  // 3 blocks, 2 are free
  w.add(0, 4, 1);   // would fit, but waits behind
  ServeOptions o = toy::options(5, 4, 100, 16);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0!", "d0@9", "d0@10", "p1:12/0! p2:4/0!"));
}

TEST(VllmV1, ReserveFullPromptLooksAtTheWholePrompt) {
  ListWorkload w;
  w.add(0, 8, 2);
  w.add(0, 16, 1);  // 4 blocks; 3 are free; a first chunk would need 2
  ServeOptions o = toy::options(6, 4, 16, 16);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0!", "d0@9", "p1:16/0!"));
  o.engines[0].scheduler.reserve_full_prompt = false;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0! p1:8/0", "d0@9", "p1:8/8!"))
      << "the second chunk finds no room, request 1 preempts itself, and finds its first chunk again";
}

// int(0.2 * 11) = 2 blocks are kept free at admission while something runs.
TEST(VllmV1, WatermarkCountsOnlyWhileSomethingRuns) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 32, 1);  // 8 blocks of the 9 that request 0 leaves
  ServeOptions o = toy::options(11, 4, 100, 16);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0! p1:32/0!", "d0@5", "d0@6"));
  o.engines[0].scheduler.watermark = 0.2;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:32/0!"));
  ListWorkload alone;
  alone.add(0, 40, 1);  // all 10 blocks
  EXPECT_THAT(run(alone, o).batches, ElementsAre("p0:40/0!"));
}

TEST(VllmV1, OneBlockIsTheNullBlock) {
  ListWorkload w;
  w.add(0, 8, 1);  // 8 tokens in the cache: 2 blocks
  w.add(0, 8, 2);  // 9
  const Served r = run(w, toy::options(3, 4, 100, 16));
  EXPECT_THAT(r.batches, ElementsAre("p0:8/0!"));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, testing::HasSubstr("needs 3 KV blocks"));
}

TEST(VllmV1, MaxModelLenCutsTheOutputAndRejectsThePrompt) {
  ListWorkload w;
  w.add(0, 6, 100);
  w.add(0, 8, 1);
  ServeOptions o = toy::options(100, 4, 100, 16);
  o.engines[0].scheduler.max_model_len = 8;
  const Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:6/0!", "d0@7"));
  EXPECT_EQ(r.result.records[0].output_len, 2);
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_FALSE(r.result.aborted);
}

TEST(VllmV1, WithoutAKvCacheBlocksDoNotMatter) {
  ListWorkload w;
  w.add(0, 50, 2);
  w.add(0, 50, 2);
  ServeOptions o = toy::options(0, 4, 200, 16);
  o.engines[0].scheduler.caches_tokens = false;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:50/0! p1:50/0!", "d0@51 d1@51"));
}

}  // namespace
}  // namespace foretoken
