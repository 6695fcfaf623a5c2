// SGLang's rules (docs/policies.md) one by one, against schedules computed by hand. Every step takes 1000 ps.
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

// Tokens of KV cache, pages of one; without the overlap scheduler, unless a test is about it.
ServeOptions sglang(std::int64_t tokens, std::int64_t chunk = -1) {
  ServeOptions o = toy::options(tokens + 1, 1, 8192, 64);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kSglang;
  c.sglang.chunked_prefill_size = chunk;
  c.sglang.overlap = false;
  return o;
}
SchedulerConfig& config(ServeOptions& o) { return o.engines[0].scheduler; }

TEST(Sglang, PrefillGoesFirstAndAlone) {
  ListWorkload w;
  w.add(0, 5, 3);
  w.add(500, 4, 2);
  EXPECT_THAT(run(w, sglang(1000)).batches, ElementsAre("p0:5/0!", "p1:4/0!", "d0@6 d1@5", "d0@7"));
}

TEST(Sglang, OnePromptInChunksAtATime) {
  ListWorkload w;
  w.add(0, 10, 2);
  w.add(0, 3, 1);
  EXPECT_THAT(run(w, sglang(1000, 4)).batches,
              ElementsAre("p0:4/0", "p0:4/4", "p0:2/8! p1:2/0", "p1:1/2!", "d0@11"));
}

// max_prefill_tokens stops a batch before the prompt that reaches it, but never keeps a prompt out for good.
TEST(Sglang, MaxPrefillTokens) {
  ListWorkload w;
  w.add(0, 9, 1);
  w.add(0, 3, 1);
  w.add(0, 3, 1);
  ServeOptions o = sglang(1000);
  config(o).sglang.max_prefill_tokens = 6;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:9/0!", "p1:3/0!", "p2:3/0!"));
  config(o).sglang.max_prefill_tokens = 7;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:9/0!", "p1:3/0! p2:3/0!"));
}

// New requests are looked for after a prefill, and after every third decode step.
TEST(Sglang, RequestsAreReceivedAtIntervals) {
  ListWorkload w;
  w.add(0, 5, 6);
  w.add(1500, 4, 1);
  ServeOptions o = sglang(1000);
  EXPECT_EQ(run(w, o).batches[2], "p1:4/0!");
  config(o).sglang.scheduler_recv_interval = 3;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:5/0!", "d0@6", "d0@7", "d0@8", "p1:4/0!", "d0@9", "d0@10"));
}

TEST(Sglang, MixedChunksCountTheDecodes) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(500, 6, 1);
  ServeOptions o = sglang(1000, 4);
  config(o).sglang.enable_mixed_chunk = true;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "p1:3/0 d0@5", "p1:3/3! d0@6", "d0@7"));
}

// Once the batch is full, only a decode step that drops an ended request makes it try again.
TEST(Sglang, ADecodeStepLiesBetweenAnEndAndTheNextAdmission) {
  ListWorkload w;
  w.add(0, 10, 3);
  w.add(0, 10, 6);
  w.add(0, 5, 1);
  ServeOptions o = sglang(1000);
  config(o).max_num_seqs = 2;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:10/0! p1:10/0!", "d0@11 d1@11", "d0@12 d1@12", "d1@13",
                                             "p2:5/0!", "d1@14", "d1@15"));
}

// Overlapped, the step after the last token computes one more row, and the end shows a step later still.
TEST(Sglang, OverlapSeesAnEndOneStepLate) {
  ListWorkload w;
  w.add(0, 5, 2);
  ServeOptions o = sglang(1000);
  config(o).sglang.overlap = true;
  const Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:5/0!", "d0@6", "d0@7"));
  EXPECT_EQ(r.result.records[0].finish, 2000);
  EXPECT_EQ(r.result.scheduled_tokens, 7);
  EXPECT_EQ(r.result.discarded_tokens, 1);

  ListWorkload full;
  full.add(0, 10, 3);
  full.add(0, 10, 6);
  full.add(0, 5, 1);
  config(o).max_num_seqs = 2;
  EXPECT_THAT(run(full, o).batches, ElementsAre("p0:10/0! p1:10/0!", "d0@11 d1@11", "d0@12 d1@12",
                                                "d1@13 d0@13", "d1@14", "p2:5/0!", "d1@15 d2@6", "d1@16"));
}

// 100 tokens. Request 0 is charged its prompt, all of its output and a page: 81; request 1 (50) must wait.
TEST(Sglang, AdmissionChargesTheWholeOutputOfNewRequests) {
  ListWorkload w;
  w.add(0, 40, 40);
  w.add(0, 30, 20);
  const Served r = run(w, sglang(100));
  EXPECT_EQ(r.batches[0], "p0:40/0!");
  EXPECT_EQ(r.batches[1], "d0@41");
  EXPECT_EQ(r.batches[40], "p1:30/0!");
  ServeOptions o = sglang(132);
  EXPECT_EQ(run(w, o).batches[0], "p0:40/0! p1:30/0!") << "81 + 50 < 132";
  o = sglang(131);
  EXPECT_EQ(run(w, o).batches[0], "p0:40/0!");
}

// Running requests are charged new_token_ratio of what they may still produce: here 39 x 0.7, so of 100
// tokens 100 - 40 - 27.3 = 32.7 remain.
TEST(Sglang, AdmissionEstimatesTheOutputOfRunningRequests) {
  ListWorkload fits, waits;
  fits.add(0, 40, 40);
  fits.add(500, 30, 2);
  waits.add(0, 40, 40);
  waits.add(500, 30, 3);
  EXPECT_EQ(run(fits, sglang(100)).batches[1], "p1:30/0!");
  EXPECT_EQ(run(waits, sglang(100)).batches[1], "d0@41");
  ServeOptions o = sglang(100);
  config(o).sglang.schedule_conservativeness = 0.1;
  EXPECT_EQ(run(waits, o).batches[1], "p1:30/0!");
}

// 34 tokens, hardly anything reserved. After 8 decode steps nothing is free; both have 9 tokens of output, so
// the longer prompt goes, and its cached prompt is evicted for the twenty tokens that are kept for who stays.
TEST(Sglang, RetractionTakesTheLeastOutputAndTheLongestInput) {
  ListWorkload w;
  w.add(0, 8, 15);
  w.add(500, 10, 10);
  ServeOptions o = sglang(34);
  config(o).sglang.schedule_conservativeness = 0.1;
  const Served r = run(w, o);
  ASSERT_EQ(r.batches.size(), 17u);
  EXPECT_EQ(r.batches[1], "p1:10/0!");
  EXPECT_EQ(r.batches[9], "d0@16 d1@18");
  EXPECT_EQ(r.batches[10], "d0@17");
  EXPECT_EQ(r.batches[15], "d0@22");
  EXPECT_EQ(r.batches[16], "p1:19/0!") << "prompt and output are computed again";
  EXPECT_EQ(r.result.records[1].preemptions, 1);
  EXPECT_EQ(r.result.records[0].preemptions, 0);
  EXPECT_EQ(r.result.discarded_tokens, 18);

  ListWorkload least;  // the shorter prompt, but less output
  least.add(0, 10, 15);
  least.add(1500, 8, 10);
  const Served s = run(least, o);
  EXPECT_EQ(s.result.records[0].preemptions + s.result.records[1].preemptions, 1);
  for (const RequestRecord& record : s.result.records) EXPECT_EQ(record.preemptions, record.id == 1 ? 1 : 0);
}

TEST(Sglang, TheRadixCacheIsTokenGranular) {
  ListWorkload w;
  w.add(0, 12, 1, {{1, 12}});
  w.add(0, 12, 1, {{1, 12}});     // in the same batch: not found yet
  w.add(2000, 12, 1, {{1, 12}});  // all but the last token
  w.add(4000, 20, 1, {{1, 7}, {2, 13}});
  EXPECT_THAT(run(w, sglang(1000)).batches, ElementsAre("p0:12/0! p1:12/0!", "p2:1/11!", "p3:13/7!"));
  ServeOptions o = sglang(1000);
  config(o).enable_prefix_caching = false;
  EXPECT_EQ(run(w, o).batches[1], "p2:12/0!");
  o = sglang(1000);
  config(o).block_size = 4;
  EXPECT_EQ(run(w, o).batches[1], "p2:4/8!") << "whole pages";
}

TEST(Sglang, TheNextTurnFindsTheAnswer) {
  ListWorkload w;
  w.add(0, 6, 4, {}, 0);
  w.converse(2, 3, 500);
  EXPECT_THAT(run(w, sglang(1000)).batches,
              ElementsAre("p0:6/0!", "d0@7", "d0@8", "d0@9", "p1:4/9!", "d1@14", "d1@15", "d1@16"));
}

TEST(Sglang, LpmPutsCachedPrefixesFirstAndRepeatedOnesLast) {
  ListWorkload w;
  w.add(0, 50, 1, {{1, 50}});
  w.add(500, 40, 1, {{2, 40}});
  w.add(500, 40, 1, {{2, 40}});  // finds it when it has been computed
  w.add(500, 5, 1);
  w.add(500, 60, 1, {{1, 50}});
  ServeOptions o = sglang(1000);
  EXPECT_EQ(run(w, o).batches[1], "p1:40/0! p2:40/0! p3:5/0! p4:10/50!");
  config(o).sglang.schedule_policy = SglangConfig::Order::kLpm;
  EXPECT_EQ(run(w, o).batches[1], "p4:10/50! p1:40/0! p3:5/0! p2:40/0!");
}

TEST(Sglang, WhatCannotBeServedIsRefused) {
  ListWorkload w;
  w.add(0, 99, 5);
  w.add(0, 98, 50);
  const Served r = run(w, sglang(100));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, testing::HasSubstr("KV cache of 100 tokens"));
  EXPECT_EQ(r.result.records[0].output_len, 1) << "cut: prompt and output stay below the tokens there are";
  ServeOptions o = sglang(100);
  config(o).pipeline_depth = 2, config(o).sglang.enable_mixed_chunk = true;
  EXPECT_THROW(run(w, o), Error);
  o = sglang(100, 6);
  config(o).block_size = 4;
  EXPECT_THROW(run(w, o), Error);
}

}  // namespace
}  // namespace foretoken
