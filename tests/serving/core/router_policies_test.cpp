// LightLLM, Text Generation Inference and llama.cpp (docs/policies.md), against schedules computed by hand.
// Steps of 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions policy(SchedulerPolicy which, std::int64_t usable_blocks, int block_size, std::int64_t budget,
                    std::int64_t max_num_seqs) {
  ServeOptions o = toy::options(usable_blocks + 1, block_size, budget, max_num_seqs);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = which;
  c.enable_prefix_caching = false;
  c.max_model_len = 100;
  return o;
}
SchedulerConfig& config(ServeOptions& o) { return o.engines[0].scheduler; }

ServeOptions lightllm(std::int64_t tokens, std::int64_t max_wait) {
  ServeOptions o = policy(SchedulerPolicy::kLightllm, tokens, 1, 100, 8);
  config(o).lightllm.router_max_wait_tokens = max_wait;
  return o;
}

// Request 1 arrives while request 0 decodes and waits until three decode steps have gone by since a prefill.
TEST(Lightllm, LooksAtTheQueueEveryMaxWaitTokens) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(500, 3, 4);
  EXPECT_THAT(run(w, lightllm(50, 3)).batches,
              ElementsAre("p0:4/0!", "d0@5", "d0@6", "d0@7", "p1:3/0!", "d0@8 d1@4", "d0@9 d1@5", "d1@6"));
  EXPECT_THAT(run(w, lightllm(50, 0)).batches,
              ElementsAre("p0:4/0!", "p1:3/0!", "d0@5 d1@4", "d0@6 d1@5", "d0@7 d1@6", "d0@8", "d0@9"));
}

TEST(Lightllm, AnIdleServerLooksAtOnce) {
  ListWorkload w;
  w.add(0, 4, 2);
  w.add(5000, 4, 1);
  EXPECT_THAT(run(w, lightllm(50, 10)).batches, ElementsAre("p0:4/0!", "d0@5", "p1:4/0!"));
}

// Both are new: (held, to come) are (5, 5) and (4, 1), sorted by what is to come. The peak is
// max(5 x 1 + 5, 1 x 2 + 5 + 4) = 11, which must be below what the cache holds: 12 will do, 11 won't, though
// both prompts and all of their output are 14 tokens.
TEST(Lightllm, AdmitsWhereTheExpectedPeakFits) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 3, 2);
  EXPECT_EQ(run(w, lightllm(12, 10)).batches[0], "p0:4/0! p1:3/0!");
  EXPECT_EQ(run(w, lightllm(11, 10)).batches[0], "p0:4/0!");
  const Served r = run(w, lightllm(12, 10));
  EXPECT_EQ(r.result.metrics.preemptions, 0);
  EXPECT_LE(r.result.metrics.peak_kv_usage, 1);
}

// After k decodes request 0 has (5 + k, 8 - k), and request 1, asked after three, would have (3, 3). Peaks:
// 17, 18, 19 while request 0 outlasts request 1 (3 x 2 + 3 + 5 + k), then (8 - k) x 2 + 3 + 5 + k = 18,
// 17, 16.
TEST(Lightllm, WhoDoesNotFitWaitsUntilThePeakIsLower) {
  ListWorkload w;
  w.add(0, 4, 10);
  w.add(3500, 2, 4);
  const Served r = run(w, lightllm(17, 0));
  EXPECT_EQ(r.batches[8], "d0@12");
  EXPECT_EQ(r.batches[9], "p1:2/0!") << "k = 8";
  EXPECT_EQ(r.batches[10], "d0@13 d1@3");
  EXPECT_EQ(run(w, lightllm(18, 0)).batches[4], "p1:2/0!") << "k = 3";
  const Served never = run(w, lightllm(15, 0));
  EXPECT_EQ(never.batches[9], "d0@13");
  EXPECT_EQ(never.batches[10], "p1:2/0!") << "request 0 has ended";
}

TEST(Lightllm, RefusesWhatNeverFits) {
  ListWorkload w;
  w.add(0, 10, 10);
  w.add(0, 4, 2);
  const Served r = run(w, lightllm(20, 10));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, HasSubstr("not below the 20 tokens"));
}

ServeOptions tgi(std::int64_t usable_blocks, double ratio, std::int64_t max_waiting) {
  ServeOptions o = policy(SchedulerPolicy::kTgi, usable_blocks, 4, 16, 8);
  config(o).tgi.waiting_served_ratio = ratio;
  config(o).tgi.max_waiting_tokens = max_waiting;
  return o;
}

// Four run, ratio 0.5: one who waits is too few until the batch has got 4 tokens since it began. The second
// batch decodes with the first one.
TEST(Tgi, FewWaitForMaxWaitingTokens) {
  ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 2, 6);
  w.add(500, 3, 2);
  const Served r = run(w, tgi(100, 0.5, 4));
  EXPECT_THAT(r.batches, ElementsAre("p0:2/0! p1:2/0! p2:2/0! p3:2/0!", "d0@3 d1@3 d2@3 d3@3",
                                     "d0@4 d1@4 d2@4 d3@4", "d0@5 d1@5 d2@5 d3@5", "p4:3/0!",
                                     "d0@6 d1@6 d2@6 d3@6 d4@4", "d0@7 d1@7 d2@7 d3@7"));
}

// Two who wait are enough beside four; they are joined at once.
TEST(Tgi, EnoughAreJoinedAtOnce) {
  ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 2, 3);
  w.add(500, 3, 1);
  w.add(500, 3, 1);
  EXPECT_EQ(run(w, tgi(100, 0.5, 20)).batches[1], "p4:3/0! p5:3/0!");
}

// Prompts of 16 tokens in all; who was joined decodes before others are.
TEST(Tgi, AJoinedBatchDecodesOnce) {
  ListWorkload w;
  w.add(0, 4, 4);
  for (int i = 0; i < 2; ++i) w.add(500, 12, 2);
  EXPECT_THAT(run(w, tgi(100, 0.3, 20)).batches,
              ElementsAre("p0:4/0!", "p1:12/0!", "d0@5 d1@13", "p2:12/0!", "d0@6 d2@13", "d0@7"));
}

// 10 blocks of 4. Requests take the blocks of prompt and output but its last token at once: 5 each (4 + 14 -
// 1 = 17 tokens). The third waits for a place to end.
TEST(Tgi, BlocksToTheEndAreTakenAtOnce) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 14);
  const Served r = run(w, tgi(10, 0, 0));
  EXPECT_EQ(r.batches[0], "p0:4/0! p1:4/0!");
  EXPECT_EQ(r.batches[13], "d0@17 d1@17");
  EXPECT_EQ(r.batches[14], "p2:4/0!");
  EXPECT_EQ(r.result.metrics.preemptions, 0);
}

// max_batch_total_tokens: prompts and outputs that may be in the batch, 18 for each request here.
TEST(Tgi, TotalTokensOfABatch) {
  ListWorkload w;
  for (int i = 0; i < 2; ++i) w.add(0, 4, 14);
  ServeOptions o = tgi(100, 0, 0);
  config(o).tgi.max_batch_total_tokens = 36;
  EXPECT_EQ(run(w, o).batches[0], "p0:4/0! p1:4/0!");
  config(o).tgi.max_batch_total_tokens = 35;
  EXPECT_EQ(run(w, o).batches[0], "p0:4/0!");
  config(o).tgi.max_batch_total_tokens = 17;
  EXPECT_THAT(run(w, o).result.rejected_reason, HasSubstr("max_batch_total_tokens 17"));
}

TEST(Tgi, PromptsBeyondABatchAreRefused) {
  ListWorkload w;
  w.add(0, 17, 2);
  const Served r = run(w, tgi(100, 0, 0));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, HasSubstr("max_batch_prefill_tokens 16"));
}

ServeOptions llama_cpp(std::int64_t n_parallel, std::int64_t n_batch, std::int64_t n_ubatch) {
  ServeOptions o = policy(SchedulerPolicy::kLlamaCpp, 25 * n_parallel, 4, n_batch, n_parallel);
  config(o).reservation = KvReservation::kMaxModelLen;
  config(o).llama_cpp.n_ubatch = n_ubatch;
  config(o).llama_cpp.last_unused_first = false;
  return o;
}

// Slots 0 and 1. Slot by slot, generating ones count first: of 8 tokens request 0's prompt takes 6, request
// 1's two.
TEST(LlamaCpp, BatchesAreFilledSlotBySlot) {
  ListWorkload w;
  w.add(0, 6, 3);
  w.add(0, 9, 2);
  w.add(0, 2, 1);
  EXPECT_THAT(run(w, llama_cpp(2, 8, 8)).batches,
              ElementsAre("p1:2/0 p0:6/0!", "p1:7/2! d0@7", "d0@8 d1@10", "p2:2/0!"));
}

// A batch of 8 in pieces of 3: the decode goes with the last, when the batch's tokens are sampled.
TEST(LlamaCpp, ABatchIsComputedInMicroBatches) {
  ListWorkload w;
  w.add(0, 2, 3);
  w.add(500, 7, 1);
  EXPECT_THAT(run(w, llama_cpp(2, 8, 3)).batches,
              ElementsAre("p0:2/0!", "p1:3/0", "p1:3/3", "p1:1/6! d0@3", "d0@4"));
}

// The slot that has been idle for longest is next: request 2 gets slot 0, which was free first, and its
// prompt comes before request 1's rest.
TEST(LlamaCpp, TheLongestIdleSlotIsTaken) {
  ListWorkload w;
  w.add(0, 2, 1);
  w.add(0, 14, 1);
  w.add(500, 4, 1);
  EXPECT_THAT(run(w, llama_cpp(2, 6, 6)).batches,
              ElementsAre("p1:4/0 p0:2/0!", "p1:2/4 p2:4/0!", "p1:6/6", "p1:2/12!"));
}

// As of December 2025.
ServeOptions caching_slots(std::int64_t n_parallel) {
  ServeOptions o = llama_cpp(n_parallel, 8, 8);
  config(o).enable_prefix_caching = true;
  config(o).llama_cpp.last_unused_first = true;
  return o;
}

// Content 7 is the beginning that prompts share. Slot 1 is taken first, and keeps 6 tokens and one of the
// answer; 5 of request 1's 8 are there. Request 2 begins like nothing and takes slot 0; request 3 finds 5 in
// what request 1 left, request 4 its whole prompt, whose last token is computed.
TEST(LlamaCpp, ASlotKeepsItsTokensForThePromptThatBeginsWithThem) {
  ListWorkload w;
  w.add(0, 6, 2, {{7, 6}});
  w.add(5000, 8, 1, {{7, 5}});
  w.add(9000, 4, 1, {{9, 4}});
  w.add(12000, 6, 1, {{7, 6}});
  w.add(15000, 6, 1, {{7, 6}});
  const Served r = run(w, caching_slots(2));
  EXPECT_THAT(r.batches, ElementsAre("p0:6/0!", "d0@7", "p1:3/5!", "p2:4/0!", "p3:1/5!", "p4:1/5!"));
  EXPECT_EQ(r.result.reused_tokens, 15);
}

// 3 tokens are more than a tenth of the prompt's 8, and less than half of the slot's 7.
TEST(LlamaCpp, OlderServersMeasureTheSlotNotThePrompt) {
  ListWorkload w;
  w.add(0, 6, 2, {{7, 6}});
  w.add(5000, 8, 1, {{7, 3}});
  ServeOptions o = caching_slots(2);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:6/0!", "d0@7", "p1:5/3!"));
  config(o).llama_cpp.similarity_of_slot = true;
  config(o).llama_cpp.slot_prompt_similarity = 0.5F;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:6/0!", "d0@7", "p1:8/0!"));
}

ServeOptions remembering_slot(std::int64_t blocks) {
  ServeOptions o = caching_slots(1);
  config(o).llama_cpp.prompt_cache_blocks = blocks;
  return o;
}

// One slot, blocks of 4. Requests 1, 2 and 3 begin unlike what it holds, which is copied to host memory.
// There request 2 finds 6 of its tokens in the 7 that request 0 left, and request 3 the 8 that request 1
// left.
TEST(LlamaCpp, WhatLosesItsSlotComesBackFromHostMemory) {
  ListWorkload w;
  w.add(0, 6, 2, {{7, 6}});
  w.add(5000, 8, 1, {{8, 8}});
  w.add(10'000, 8, 1, {{7, 6}});
  w.add(15'000, 8, 1, {{8, 8}});
  ListWorkload same = w;
  toy::ShadowMemory memory(w, 4), none(same, 4);
  const ServeResult r = serve(w, memory, remembering_slot(100));
  EXPECT_THAT(memory.batches,
              ElementsAre("p0:6/0", "d0@7", "out2 p1:8/0", "out2 in2 p2:2/6", "out2 in2 p3:1/7"));
  EXPECT_EQ(r.reused_tokens, 13);
  EXPECT_EQ(r.swapped_out_blocks, 6);
  EXPECT_EQ(r.swapped_in_blocks, 4);
  EXPECT_EQ(serve(same, none, remembering_slot(0)).reused_tokens, 0);
}

// Two blocks each: with room for two of them request 0's are gone when request 2's come.
TEST(LlamaCpp, TheOldestPromptLeavesHostMemory) {
  ListWorkload w;
  w.add(0, 6, 2, {{7, 6}});
  w.add(5000, 8, 1, {{8, 8}});
  w.add(10'000, 8, 1, {{9, 8}});
  w.add(15'000, 6, 1, {{7, 6}});
  ListWorkload same = w;
  toy::ShadowMemory little(w, 4), enough(same, 4);
  serve(w, little, remembering_slot(2));
  EXPECT_THAT(little.batches, ElementsAre("p0:6/0", "d0@7", "out2 p1:8/0", "out2 p2:8/0", "out2 p3:6/0"));
  serve(same, enough, remembering_slot(4));
  EXPECT_EQ(enough.batches.back(), "out2 in2 p3:1/5");
}

// Request 1 goes on where 6 of 7 tokens are kept; request 2 keeps two of 8, a quarter.
TEST(LlamaCpp, ASlotThatLosesLittleIsNotCopied) {
  ListWorkload w;
  w.add(0, 6, 2, {{7, 6}});
  w.add(5000, 8, 1, {{7, 6}});
  w.add(10'000, 8, 1, {{7, 2}});
  toy::ShadowMemory memory(w, 4);
  serve(w, memory, remembering_slot(100));
  EXPECT_THAT(memory.batches, ElementsAre("p0:6/0", "d0@7", "p1:2/6", "out2 p2:6/2"));
}

// Request 1 leaves out 4 tokens in the middle of what the slot holds, 6 of which come after them.
TEST(LlamaCpp, ChunksThatComeAgainLaterAreShifted) {
  ListWorkload w;
  w.add(0, 16, 1, {{7, 6}, {9, 4}, {8, 6}});
  w.add(10'000, 14, 1, {{7, 6}, {8, 6}});
  ServeOptions o = caching_slots(1);
  EXPECT_EQ(run(w, o).batches.back(), "p1:8/6!");
  config(o).llama_cpp.n_cache_reuse = 7;
  EXPECT_EQ(run(w, o).batches.back(), "p1:8/6!");
  config(o).llama_cpp.n_cache_reuse = 6;
  EXPECT_EQ(run(w, o).batches.back(), "p1:2/12!");
  toy::ShadowMemory memory(w, config(o).block_size);
  serve(w, memory, o);
  EXPECT_EQ(memory.batches.back(), "shift6 p1:2/12");
}

// A chunk is shifted forwards, never behind tokens that the slot does not hold.
TEST(LlamaCpp, NoChunkIsShiftedBehindNewTokens) {
  ListWorkload w;
  w.add(0, 12, 1, {{7, 6}, {8, 6}});
  w.add(10'000, 16, 1, {{8, 6}, {9, 4}, {7, 6}});
  ServeOptions o = caching_slots(1);
  config(o).llama_cpp.n_cache_reuse = 4;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0", "p0:4/8!", "p1:8/6", "p1:2/14!"));
}

ServeOptions unified(std::int64_t cells) {
  ServeOptions o = caching_slots(2);
  SchedulerConfig& c = config(o);
  c.reservation = KvReservation::kPaged;
  c.block_size = 1;
  c.num_blocks = cells + 1;
  c.max_model_len = cells;
  c.llama_cpp.kv_unified = true;
  return o;
}

// Of 12 tokens slot 1 keeps 6; request 1 takes slot 0 and needs 7, so slot 1 is emptied. Request 2 takes it
// and finds nothing, and request 3 finds what slot 0 has kept.
TEST(LlamaCpp, IdleSlotsMakeRoomInACommonCache) {
  ListWorkload w;
  w.add(0, 5, 2, {{7, 5}});
  w.add(5000, 7, 1, {{9, 7}});
  w.add(8000, 5, 1, {{7, 5}});
  w.add(9500, 7, 1, {{9, 7}});
  EXPECT_THAT(run(w, unified(12)).batches, ElementsAre("p0:5/0!", "d0@6", "p1:7/0!", "p2:5/0!", "p3:1/6!"));
}

// Slot 1 keeps request 0's 6 tokens and slot 0 request 1's 4. Request 2 is unlike both and takes slot 1,
// request 3 slot 0, which gives up its 4: 6 cells are then free beside the 5 of request 2 of 12, not of 10.
TEST(LlamaCpp, APromptInHostMemoryNeedsRoomInTheCommonCache) {
  ListWorkload w;
  w.add(0, 5, 2, {{7, 5}});
  w.add(5000, 4, 1, {{9, 4}});
  w.add(8000, 5, 4, {{8, 5}});
  w.add(8500, 5, 1, {{7, 5}});
  ListWorkload same = w;
  ServeOptions o = unified(12);
  config(o).llama_cpp.prompt_cache_blocks = 100;
  toy::ShadowMemory memory(w, 1);
  serve(w, memory, o);
  EXPECT_THAT(memory.batches,
              ElementsAre("p0:5/0", "d0@6", "p1:4/0", "out6 p2:5/0", "out4 in6 p3:1/4 d2@6", "d2@7", "d2@8"));
  ServeOptions tight = unified(10);
  config(tight).llama_cpp.prompt_cache_blocks = 100;
  toy::ShadowMemory less(same, 1);
  serve(same, less, tight);
  EXPECT_EQ(less.batches[4], "out4 p3:3/0 d2@6");
}

// A token is free where two are wanted: the batch is computed token by token. Request 1 ends with its own,
// and its slot makes room for request 0.
TEST(LlamaCpp, ABatchWithoutRoomIsHalved) {
  ListWorkload w;
  w.add(0, 5, 5);
  w.add(0, 4, 3);
  EXPECT_THAT(run(w, unified(11)).batches,
              ElementsAre("p0:4/0 p1:4/0!", "p0:1/4! d1@5", "d1@6", "d0@6", "d0@7", "d0@8", "d0@9"));
}

// Nothing is free and nobody idle: both requests get an error, and who waits starts.
TEST(LlamaCpp, ACommonCacheThatIsFullFailsAllThatRun) {
  ListWorkload w;
  w.add(0, 5, 5);
  w.add(0, 4, 5);
  w.add(0, 3, 1);
  const Served r = run(w, unified(10));
  EXPECT_EQ(r.batches.back(), "p2:3/0!");
  EXPECT_EQ(r.batches.size(), 3);
  EXPECT_EQ(r.result.rejected, 2);
  EXPECT_EQ(r.result.metrics.completed, 1);
  EXPECT_THAT(r.result.rejected_reason, HasSubstr("Context size has been exceeded"));
}

// Two stages of 500. Pieces follow each other, also into the next batch, as the first one samples nothing;
// the token is out at 2500, when its decode starts.
TEST(LlamaCpp, PiecesOfABatchFillAPipeline) {
  ListWorkload w;
  w.add(0, 14, 2);
  ServeOptions o = llama_cpp(1, 8, 4);
  config(o).pipeline_depth = 2;
  toy::BatchLog log(1000, 0.5);
  serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0", "p0:4/4", "p0:4/8", "p0:2/12!", "d0@15"));
  EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 1500, 2500));
}

}  // namespace
}  // namespace foretoken
