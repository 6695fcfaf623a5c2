// vLLM V0's rules (docs/policies.md) one by one, against schedules computed by hand. Blocks of 4 tokens,
// steps of 1000 ps.
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

ServeOptions vllm_v0(std::int64_t usable_blocks, std::int64_t budget, std::int64_t max_num_seqs = 16) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, budget, max_num_seqs);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kVllmV0;
  c.enable_prefix_caching = c.enable_chunked_prefill = false;
  c.max_model_len = budget;
  return o;
}

// Two prompts fill 12 of 16 tokens, the third would be the 17th. It is taken by the next step, before anybody
// decodes.
TEST(VllmV0, PromptsGoFirstWholeAndAlone) {
  ListWorkload w;
  w.add(0, 8, 3);
  w.add(0, 4, 2);
  w.add(0, 5, 2);
  const Served r = run(w, vllm_v0(100, 16));
  EXPECT_THAT(r.batches, ElementsAre("p0:8/0! p1:4/0!", "p2:5/0!", "d0@9 d1@5 d2@6", "d0@10"));
  EXPECT_EQ(r.result.records[1].first_token, 1000);
  EXPECT_EQ(r.result.records[1].finish, 3000);
}

// Whoever arrives while others decode stops them for a step.
TEST(VllmV0, AnArrivalStallsDecodes) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(1500, 6, 2);
  const Served r = run(w, vllm_v0(100, 16));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0!", "d0@5", "p1:6/0!", "d0@6 d1@7", "d0@7"));
}

TEST(VllmV0, MaxNumSeqsAndTheQueueIsNotOvertaken) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 2);
  EXPECT_THAT(run(w, vllm_v0(100, 16, 2)).batches,
              ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "p2:4/0!", "d2@5"));
  ListWorkload sizes;
  sizes.add(0, 8, 2);
  sizes.add(0, 12, 2);
  sizes.add(0, 4, 2);  // would fit beside the first
  EXPECT_EQ(run(sizes, vllm_v0(100, 16)).batches[0], "p0:8/0!");
}

// Of 10 blocks one stays free: the third prompt of 3 blocks leaves 1 after 6 are taken, the same prompt does
// not fit where the watermark is 2.
TEST(VllmV0, TheWatermarkStaysFreeAtAdmission) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 12, 2);
  ServeOptions o = vllm_v0(10, 100);
  o.engines[0].scheduler.watermark = 0.1;  // int(0.1 * 11)
  EXPECT_EQ(run(w, o).batches[0], "p0:12/0! p1:12/0! p2:12/0!");
  o.engines[0].scheduler.watermark = 0.2;
  EXPECT_EQ(run(w, o).batches[0], "p0:12/0! p1:12/0!");
}

// 4 blocks. Both prompts fill two each. At the 9th token request 0 takes request 1's, which came last; it is
// computed again with the token that it has when request 0 has ended.
TEST(VllmV0, TheLastComerIsPreemptedAndComputedAgain) {
  ListWorkload w;
  w.add(0, 8, 4);
  w.add(0, 7, 4);
  const Served r = run(w, vllm_v0(4, 100));
  EXPECT_THAT(r.batches,
              ElementsAre("p0:8/0! p1:7/0!", "d0@9", "d0@10", "d0@11", "p1:8/0!", "d1@9", "d1@10"));
  EXPECT_EQ(r.result.metrics.preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 7);
  EXPECT_EQ(r.result.scheduled_tokens, 15 + 3 + 8 + 2);
}

// Request 0 has room in its last block, request 1 has none and is last: it gives way itself.
TEST(VllmV0, WhoIsLastGivesWayItself) {
  ListWorkload w;
  w.add(0, 7, 3);
  w.add(0, 8, 2);
  const Served r = run(w, vllm_v0(4, 100));
  EXPECT_THAT(r.batches, ElementsAre("p0:7/0! p1:8/0!", "d0@8", "d0@9", "p1:9/0!"));
  EXPECT_EQ(r.result.metrics.preemptions, 1);
}

TEST(VllmV0, RefusesWhatTheWatermarkKeepsOut) {
  ListWorkload w;
  w.add(0, 30, 10);
  w.add(0, 4, 2);
  ServeOptions o = vllm_v0(10, 100);
  o.engines[0].scheduler.watermark = 0.1;
  const Served r = run(w, o);
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, HasSubstr("needs 10 KV blocks beside the 1 of the watermark"));
}

ServeOptions with_cache(std::int64_t usable_blocks, std::int64_t budget = 100) {
  ServeOptions o = vllm_v0(usable_blocks, budget);
  o.engines[0].scheduler.enable_prefix_caching = true;
  return o;
}

// Not in the step that computes it, and all of it but the last token.
TEST(VllmV0, APrefixIsFoundFromTheNextStepOn) {
  ListWorkload w;
  w.add(0, 10, 2, {{1, 8}});
  w.add(0, 12, 2, {{1, 8}});
  w.add(2500, 12, 1, {{1, 8}});
  w.add(3500, 8, 1, {{1, 8}});
  const Served r = run(w, with_cache(100));
  EXPECT_THAT(r.batches, ElementsAre("p0:10/0! p1:12/0!", "d0@11 d1@13", "p2:4/8!", "p3:1/7!"));
  EXPECT_EQ(r.result.reused_tokens, 8 + 7);
  EXPECT_EQ(r.result.records[3].cached_tokens, 7);
}

// Request 1 would take nothing that is not there already, but V0 wants its 3 blocks free, and there are 2.
TEST(VllmV0, CachedBlocksCountAsNeeded) {
  ListWorkload w;
  w.add(0, 12, 3, {{1, 12}});
  w.add(500, 12, 2, {{1, 12}});
  EXPECT_THAT(run(w, with_cache(5)).batches, ElementsAre("p0:12/0!", "d0@13", "d0@14", "p1:1/11!", "d1@13"));
}

// Of 5 blocks requests 0 and 1 hold all at their second step. For its third token request 0 wants a free one:
// request 1 goes to host memory with the 9 tokens that it has. It comes back as soon as 3 blocks are free,
// before anybody who waits.
TEST(VllmV0, SwapsWhoIsPreempted) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(0, 8, 4);
  w.add(4500, 4, 1);
  ServeOptions o = vllm_v0(5, 100);
  o.engines[0].scheduler.num_host_blocks = 3;
  toy::ShadowMemory memory(w, 4);
  const ServeResult r = serve(w, memory, o);
  EXPECT_THAT(memory.batches, ElementsAre("p0:4/0 p1:8/0", "d0@5 d1@9", "out3 d0@6", "in3 d0@7 d1@10",
                                          "out3 d0@8", "d0@9", "in3 d1@11", "p2:4/0"));
  EXPECT_EQ(r.discarded_tokens, 0);
  EXPECT_EQ(r.swapped_in_blocks, 6);
  EXPECT_EQ(r.peak_host_blocks, 3);
}

ServeOptions in_chunks(std::int64_t usable_blocks, std::int64_t budget) {
  ServeOptions o = vllm_v0(usable_blocks, budget, std::min<std::int64_t>(budget, 16));
  o.engines[0].scheduler.max_model_len = 100;
  o.engines[0].scheduler.enable_chunked_prefill = true;
  return o;
}

TEST(VllmV0, ChunksGoBesideDecodesWhichComeFirst) {
  ListWorkload w;
  w.add(0, 12, 3);
  w.add(0, 6, 2);
  EXPECT_THAT(run(w, in_chunks(100, 8)).batches,
              ElementsAre("p0:8/0", "p0:4/8! p1:4/0", "p1:2/4! d0@13", "d0@14 d1@7"));
}

// Beside a decode 7 tokens are left of 8, a block of 4 of them for a prompt that they don't finish.
TEST(VllmV0, BesideAPrefixCacheChunksAreWholeBlocks) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(500, 20, 1);
  ServeOptions o = in_chunks(100, 8);
  o.engines[0].scheduler.enable_prefix_caching = true;
  EXPECT_THAT(run(w, o).batches,
              ElementsAre("p0:4/0!", "p1:4/0 d0@5", "p1:4/4 d0@6", "p1:4/8 d0@7", "p1:8/12!"));
}

// 5 blocks: for its 9th token request 0 takes those of request 1, whose prompt has begun. Request 2, which
// waits, starts in the same step; request 1 is behind it then, at the head of the queue.
TEST(VllmV0, WhoIsPreemptedInChunksQueuesAfterTheStep) {
  ListWorkload w;
  w.add(0, 7, 3);
  w.add(500, 11, 1);
  w.add(500, 3, 1);
  EXPECT_THAT(run(w, in_chunks(5, 8)).batches,
              ElementsAre("p0:7/0!", "p1:7/0 d0@8", "p2:3/0! d0@9", "p1:8/0", "p1:3/8!"));
}

TEST(VllmV0, RefusesWhatItDoesNotHave) {
  ListWorkload w;
  w.add(0, 4, 2);
  const auto refused = [&](auto change) {
    ServeOptions o = vllm_v0(10, 100);
    change(o.engines[0].scheduler);
    try {
      run(w, o);
    } catch (const Error& e) {
      return e.where() + ": " + e.message();
    }
    return std::string();
  };
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.enable_prefix_caching = true, c.pipeline_depth = 2; }),
              HasSubstr("turn it off in a pipeline"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.num_host_blocks = 5, c.pipeline_depth = 2; }),
              HasSubstr("use recompute in a pipeline"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.num_host_blocks = 5, c.enable_prefix_caching = true; }),
              HasSubstr("prefix cache; use recompute"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.num_host_blocks = 5, c.enable_chunked_prefill = true; }),
              HasSubstr("chunked prefill; use recompute"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.by_priority = c.enable_chunked_prefill = true; }),
              HasSubstr("scheduling_policy"));
  EXPECT_THAT(refused([](SchedulerConfig& c) {
                c.enable_prefix_caching = c.enable_chunked_prefill = true;
                c.max_num_batched_tokens = 98;
              }),
              HasSubstr("no multiple of the 4 tokens of a block"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.draft_tokens = 2, c.pipeline_depth = 2; }),
              HasSubstr("speculative_config"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.beam_width = 2; }), HasSubstr("beam_width"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.lora.max_loras = 2; }), HasSubstr("lora"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.pipeline_depth = 200; }),
              HasSubstr("lower pipeline_parallel_size"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.reservation = KvReservation::kExact; }),
              HasSubstr("kv_layout"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.max_num_batched_tokens = 99; }), HasSubstr("raise it"));
}

}  // namespace
}  // namespace foretoken
