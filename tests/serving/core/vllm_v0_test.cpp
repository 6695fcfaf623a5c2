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
  c.enable_prefix_caching = false;
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
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.enable_prefix_caching = true; }),
              HasSubstr("enable_prefix_caching"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.num_host_blocks = 5; }), HasSubstr("preemption_mode"));
  EXPECT_THAT(refused([](SchedulerConfig& c) { c.draft_tokens = 2; }), HasSubstr("speculative_config"));
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
