// TensorRT-LLM's rules (docs/policies.md) one by one, against schedules computed by hand. Blocks of 4 tokens,
// steps of 1000 ps.
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
using Capacity = TrtllmConfig::Capacity;
using Chunking = TrtllmConfig::Chunking;

ServeOptions trtllm(std::int64_t usable_blocks, std::int64_t max_num_tokens, Capacity capacity) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, max_num_tokens, 64);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kTrtllm;
  c.trtllm.capacity_scheduler_policy = capacity;
  return o;
}
SchedulerConfig& config(ServeOptions& o) { return o.engines[0].scheduler; }

// To their ends the requests need 5, 6 and 2 of 10 blocks: the second doesn't fit beside the first, and the
// third, which would, never overtakes.
TEST(Trtllm, NoEvictReservesBlocksToTheEnd) {
  ListWorkload w;
  w.add(0, 8, 12);
  w.add(0, 8, 16);
  w.add(0, 4, 4);
  const Served r = run(w, trtllm(10, 100, Capacity::kGuaranteedNoEvict));
  EXPECT_EQ(r.batches[0], "p0:8/0!");
  EXPECT_EQ(r.batches[1], "d0@9");
  EXPECT_EQ(r.batches[11], "d0@19");
  EXPECT_EQ(r.batches[12], "p1:8/0! p2:4/0!");
  EXPECT_EQ(run(w, trtllm(11, 100, Capacity::kGuaranteedNoEvict)).batches[0], "p0:8/0! p1:8/0!");
}

TEST(Trtllm, NoEvictNeverPreempts) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    toy::PoissonWorkload w(500, 30, 100, 60, seed, true);
    toy::ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
    const ServeResult r = serve(w, backend, trtllm(150, 512, Capacity::kGuaranteedNoEvict));
    EXPECT_EQ(r.metrics.preemptions, 0);
    EXPECT_EQ(r.discarded_tokens, 0);
    EXPECT_GT(r.metrics.mean_waiting, 1);
  }
}

// 8 blocks. All start; at the 17th token of request 0 no block is free, so request 1, which started last of
// those that run, is paused. It comes back with its 9 tokens of output when request 0 has ended.
TEST(Trtllm, MaxUtilizationPausesTheLastStarted) {
  ListWorkload w;
  w.add(0, 8, 12);
  w.add(0, 8, 16);
  w.add(0, 4, 4);
  ServeOptions o = trtllm(8, 100, Capacity::kMaxUtilization);
  config(o).enable_prefix_caching = false;
  const Served r = run(w, o);
  EXPECT_EQ(r.batches[0], "p0:8/0! p1:8/0! p2:4/0!");
  EXPECT_EQ(r.batches[8], "d0@16 d1@16");
  EXPECT_EQ(r.batches[9], "d0@17");
  EXPECT_EQ(r.batches[11], "d0@19");
  EXPECT_EQ(r.batches[12], "p1:17/0!");
  EXPECT_EQ(r.result.metrics.preemptions, 1);
  EXPECT_EQ(r.result.discarded_tokens, 16);
  config(o).enable_prefix_caching = true;
  EXPECT_EQ(run(w, o).batches[12], "p1:5/12!")
      << "its blocks are found again, but for the one that was taken";
}

TEST(Trtllm, StaticBatchAdmitsNobodyWhileOneGenerates) {
  ListWorkload w;
  w.add(0, 4, 2);
  w.add(0, 4, 4);
  w.add(500, 4, 1);
  EXPECT_THAT(run(w, trtllm(100, 100, Capacity::kStaticBatch)).batches,
              ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "d1@6", "d1@7", "p2:4/0!"));
  EXPECT_THAT(run(w, trtllm(100, 100, Capacity::kGuaranteedNoEvict)).batches,
              ElementsAre("p0:4/0! p1:4/0!", "p2:4/0! d0@5 d1@5", "d1@6", "d1@7"));
}

TEST(Trtllm, ChunksFirstComeFirstServedInUnits) {
  ListWorkload w;
  w.add(0, 10, 1);
  w.add(0, 6, 1);
  EXPECT_THAT(run(w, trtllm(100, 8, Capacity::kGuaranteedNoEvict)).batches,
              ElementsAre("p0:8/0", "p0:2/8! p1:6/0!"));
  EXPECT_THAT(run(w, trtllm(100, 7, Capacity::kGuaranteedNoEvict)).batches,
              ElementsAre("p0:4/0", "p0:6/4!", "p1:6/0!"));
  ServeOptions o = trtllm(100, 10, Capacity::kGuaranteedNoEvict);
  config(o).trtllm.chunk_unit_size = 8;
  ListWorkload longer;
  longer.add(0, 20, 1);
  EXPECT_THAT(run(longer, o).batches, ElementsAre("p0:8/0", "p0:8/8", "p0:4/16!"));
}

TEST(Trtllm, ChunksOfEqualProgress) {
  ListWorkload w;
  w.add(0, 10, 1);
  w.add(0, 6, 1);
  ServeOptions o = trtllm(100, 8, Capacity::kGuaranteedNoEvict);
  config(o).trtllm.context_chunking_policy = Chunking::kEqualProgress;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0 p1:4/0", "p0:6/4! p1:2/4!"));
}

TEST(Trtllm, WithoutChunksAPromptFitsWholeOrWaits) {
  ListWorkload w;
  w.add(0, 6, 2);
  w.add(0, 4, 1);
  w.add(0, 9, 1);
  ServeOptions o = trtllm(100, 8, Capacity::kGuaranteedNoEvict);
  config(o).enable_chunked_prefill = false;
  const Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:6/0!", "p1:4/0! d0@7"));
  EXPECT_EQ(r.result.rejected, 1);
  EXPECT_THAT(r.result.rejected_reason, testing::HasSubstr("enable_chunked_context"));
}

TEST(Trtllm, GenerationTakesFromTheTokensOfAStep) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(500, 8, 1);
  EXPECT_THAT(run(w, trtllm(100, 8, Capacity::kGuaranteedNoEvict)).batches,
              ElementsAre("p0:4/0!", "p1:4/0 d0@5", "p1:4/4! d0@6"));
  ServeOptions o = trtllm(100, 8, Capacity::kGuaranteedNoEvict);
  config(o).max_num_seqs = 1;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:8/0!"));
}

// Both share two blocks: the second waits a step and finds them.
TEST(Trtllm, APromptWaitsForABlockThatAnotherComputes) {
  ListWorkload w;
  w.add(0, 9, 1, {{1, 8}});
  w.add(0, 9, 1, {{1, 8}});
  EXPECT_THAT(run(w, trtllm(100, 100, Capacity::kGuaranteedNoEvict)).batches,
              ElementsAre("p0:9/0!", "p1:1/8!"));
  ServeOptions o = trtllm(100, 100, Capacity::kGuaranteedNoEvict);
  config(o).enable_prefix_caching = false;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:9/0! p1:9/0!"));
}

// While another generates a prompt waits two steps, or until the step would hold enough tokens.
TEST(Trtllm, PromptsWaitForCompany) {
  ListWorkload w;
  w.add(0, 4, 6);
  w.add(500, 4, 1);
  ServeOptions o = trtllm(100, 100, Capacity::kGuaranteedNoEvict);
  config(o).trtllm.batch_wait_timeout_iters = 2;
  config(o).trtllm.batch_wait_max_tokens_ratio = 0.5;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:4/0! d0@7", "d0@8", "d0@9"));
  config(o).trtllm.batch_wait_max_tokens_ratio = 0.05;
  EXPECT_EQ(run(w, o).batches[1], "p1:4/0! d0@5") << "five tokens are the share of a hundred";
}

TEST(Trtllm, WrongUnitsAreRefused) {
  ListWorkload w;
  w.add(0, 4, 1);
  ServeOptions o = trtllm(100, 8, Capacity::kGuaranteedNoEvict);
  config(o).trtllm.chunk_unit_size = 6;
  EXPECT_THROW(run(w, o), Error);
  config(o).trtllm.chunk_unit_size = 12;
  EXPECT_THROW(run(w, o), Error) << "a unit must fit a step";
}

}  // namespace
}  // namespace foretoken
