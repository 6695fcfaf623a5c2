// Prefix caches beside those of vLLM, SGLang and TensorRT-LLM (docs/policies.md), and the schedulers that
// came with them: Text Generation Inference 3, LightLLM 1.0, LMDeploy's engines, against schedules computed
// by hand. Steps of 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions engine(SchedulerPolicy policy, std::int64_t usable_blocks, int block_size, std::int64_t tokens) {
  ServeOptions o = toy::options(usable_blocks + 1, block_size, tokens, 4);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = policy;
  c.max_model_len = 64;
  return o;
}
ServeOptions tgi3(std::int64_t tokens, std::int64_t usable = 200) {
  ServeOptions o = engine(SchedulerPolicy::kTgi, usable, 1, tokens);
  o.engines[0].scheduler.tgi.support_chunking = true;
  return o;
}
ServeOptions lightllm(std::int64_t chunk, std::int64_t wait, std::int64_t usable = 200) {
  ServeOptions o = engine(SchedulerPolicy::kLightllm, usable, 1, 100);
  o.engines[0].scheduler.lightllm = {wait, chunk};
  return o;
}

// Six tokens a step: request 1 gets what request 0 leaves, and the rest beside it in the next step.
TEST(Tgi3, TheLastPromptIsSplit) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(500, 7, 2);
  EXPECT_THAT(run(w, tgi3(6)).batches, ElementsAre("p0:4/0!", "p1:5/0 d0@5", "p1:2/5! d0@6", "d0@7 d1@8"));
}

TEST(Tgi3, WhoHasJoinedDecodesBeforeOthersMay) {
  ListWorkload w;
  w.add(0, 4, 5);
  w.add(500, 2, 2);
  w.add(1500, 2, 1);
  EXPECT_THAT(run(w, tgi3(6)).batches,
              ElementsAre("p0:4/0!", "p1:2/0! d0@5", "d0@6 d1@3", "p2:2/0! d0@7", "d0@8"));
}

// A prompt can be found when its request has ended, not before; its last token is computed again.
TEST(Tgi3, PromptsAreKeptWhenTheirRequestsEnd) {
  ListWorkload w;
  w.add(0, 8, 2, {{1, 8}});
  w.add(500, 8, 1, {{1, 8}});
  w.add(5000, 8, 1, {{1, 8}});
  const Served r = run(w, tgi3(60));
  EXPECT_THAT(r.batches, ElementsAre("p0:8/0!", "p1:8/0! d0@9", "p2:1/7!"));
  EXPECT_EQ(r.result.records[2].cached_tokens, 7);
}

// Request 2 does not fit while request 1 runs, and all that nobody holds goes for nothing (content 1). Later
// request 3 takes the tail of content 2.
TEST(Tgi3, WhoDoesNotFitEmptiesTheCache) {
  ListWorkload w;
  w.add(0, 8, 1, {{1, 8}});
  w.add(3000, 6, 3, {{2, 6}});
  w.add(3500, 10, 4);
  w.add(20'000, 8, 1, {{1, 8}});
  w.add(30'000, 6, 1, {{2, 6}});
  EXPECT_THAT(run(w, tgi3(60, 20)).batches, ElementsAre("p0:8/0!", "p1:6/0!", "d1@7", "d1@8", "p2:10/0!",
                                                        "d2@11", "d2@12", "d2@13", "p3:8/0!", "p4:4/2!"));
}

TEST(Tgi3, BlocksAreThoseOfMaxBatchTotalTokens) {
  ListWorkload w;
  w.add(0, 9, 3);
  ServeOptions o = tgi3(60);
  o.engines[0].scheduler.tgi.max_batch_total_tokens = 11;
  EXPECT_EQ(run(w, o).result.rejected, 0);
  o.engines[0].scheduler.tgi.max_batch_total_tokens = 10;
  EXPECT_EQ(run(w, o).result.rejected, 1);
}

// The queue is looked at after every second decode, and so often a chunk of four is computed beside it.
TEST(Lightllm1, ChunksBetweenDecodes) {
  ListWorkload w;
  w.add(0, 3, 8);
  w.add(500, 10, 2);
  EXPECT_THAT(run(w, lightllm(4, 2)).batches,
              ElementsAre("p0:3/0!", "d0@4", "d0@5", "p1:4/0", "d0@6", "d0@7", "p1:4/4", "d0@8", "d0@9",
                          "p1:2/8!", "d0@10 d1@11"));
}

// What was generated is kept too; who finds all but the last token decodes at once.
TEST(Lightllm1, ItsTreeKeepsWhatWasComputed) {
  ListWorkload w;
  w.add(0, 6, 3, {{1, 6}});
  w.add(10'000, 9, 1, {{1, 6}});
  w.add(20'000, 6, 1, {{1, 6}});
  EXPECT_THAT(run(w, lightllm(50, 6)).batches, ElementsAre("p0:6/0!", "d0@7", "d0@8", "p1:3/6!", "d2@6"));
}

// 4 tokens and one more, 3 decodes for the wait of its chunk, 2 for its output, 6 to be safe: 16.
TEST(Lightllm1, TheExpectedPeakHasRoomForChunks) {
  ListWorkload w;
  w.add(0, 4, 3);
  EXPECT_EQ(run(w, lightllm(4, 2, 16)).result.rejected, 1);
  EXPECT_EQ(run(w, lightllm(4, 2, 17)).result.rejected, 0);
}

// Full blocks of four, found from the step after; a token of the prompt is always computed.
TEST(TurbomindPrefixes, AreFoundFromTheNextStepOn) {
  ListWorkload w;
  w.add(0, 8, 2, {{1, 8}});
  w.add(500, 11, 1, {{1, 8}});
  EXPECT_THAT(run(w, engine(SchedulerPolicy::kTurbomind, 100, 4, 100)).batches,
              ElementsAre("p0:8/0!", "p1:3/8! d0@9"));
  ListWorkload same;
  same.add(0, 8, 2, {{1, 8}});
  same.add(500, 8, 1, {{1, 8}});
  EXPECT_THAT(run(same, engine(SchedulerPolicy::kTurbomind, 100, 4, 100)).batches,
              ElementsAre("p0:8/0!", "p1:4/4! d0@9"));
}

// As without the cache (lmdeploy_test.cpp): of who came last what is not taken is its own again.
TEST(TurbomindPrefixes, WhoCameLastKeepsWhatIsNotTaken) {
  ListWorkload w;
  w.add(0, 7, 6);
  w.add(0, 7, 4);
  const Served r = run(w, engine(SchedulerPolicy::kTurbomind, 5, 4, 100));
  EXPECT_THAT(r.batches, ElementsAre("p0:7/0! p1:7/0!", "d0@8", "d0@9", "d0@10", "d0@11", "d0@12", "p1:4/4!",
                                     "d1@9", "d1@10"));
  EXPECT_EQ(r.result.discarded_tokens, 3);
}

// Blocks are in the trie when they are given out, so that a step's prompts share what the first computes.
TEST(LmdeployPytorchPrefixes, AreSharedInAStep) {
  ListWorkload w;
  w.add(0, 10, 1, {{1, 8}});
  w.add(0, 10, 1, {{1, 8}});
  EXPECT_THAT(run(w, engine(SchedulerPolicy::kLmdeployPytorch, 100, 4, 100)).batches,
              ElementsAre("p0:10/0! p1:2/8!"));
}

}  // namespace
}  // namespace foretoken
