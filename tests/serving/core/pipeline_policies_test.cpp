// Pipelines of the systems other than vLLM V1 (pipeline_test.cpp): schedules worked by hand, and laws over
// random loads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "policies.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;

// Two stages: a step takes 1000 ps and lets the next one start after 500.
ServeOptions pipeline(SchedulerPolicy policy, std::int64_t max_num_seqs, std::int64_t blocks = 101) {
  ServeOptions o = toy::options(blocks, 4, 1024, max_num_seqs);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = policy;
  c.max_model_len = 1024;
  c.enable_prefix_caching = false;
  c.enable_chunked_prefill = policy != SchedulerPolicy::kVllmV0;
  c.pipeline_depth = 2;
  if (policy == SchedulerPolicy::kOrca || policy == SchedulerPolicy::kStaticBatch)
    c.reservation = KvReservation::kExact;
  c.sglang.overlap = false;
  return o;
}
struct Log {
  std::vector<std::string> batches;
  std::vector<Picoseconds> starts;
  ServeResult result;
};
Log serve_log(ListWorkload w, const ServeOptions& o) {
  toy::BatchLog log(1000, 0.5);
  ServeResult result = serve(w, log, o);
  return {log.batches, log.starts, std::move(result)};
}

// Each micro-batch is a request of its own, by the cap (Orca, Sarathi-Serve) or by the virtual engine.
TEST(PipelinePolicies, MicroBatchesOverlap) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 4, 3);
  const std::pair<SchedulerPolicy, std::int64_t> cases[] = {{SchedulerPolicy::kOrca, 1},
                                                            {SchedulerPolicy::kSarathi, 2},
                                                            {SchedulerPolicy::kVllmV0, 16},
                                                            {SchedulerPolicy::kSglang, 2},
                                                            {SchedulerPolicy::kTrtllm, 1}};
  for (const auto& [policy, max_num_seqs] : cases) {
    const Log log = serve_log(w, pipeline(policy, max_num_seqs));
    EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "p1:4/0!", "d0@5", "d1@5", "d0@6", "d1@6"));
    EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 1500, 2000, 2500));
    EXPECT_EQ(log.result.records[1].finish, 3500);
  }
}

// Sarathi-Serve shares max_num_seqs between the stages; Orca's max_batch_size is each batch's.
TEST(PipelinePolicies, HowManyRunInAMicroBatch) {
  ListWorkload w;
  for (int i = 0; i < 5; ++i) w.add(0, 4, 1);
  EXPECT_THAT(serve_log(w, pipeline(SchedulerPolicy::kSarathi, 4)).batches,
              ElementsAre("p0:4/0! p1:4/0!", "p2:4/0! p3:4/0!", "p4:4/0!"));
  EXPECT_THAT(serve_log(w, pipeline(SchedulerPolicy::kOrca, 4)).batches,
              ElementsAre("p0:4/0! p1:4/0! p2:4/0! p3:4/0!", "p4:4/0!"));
  EXPECT_THAT(serve_log(w, pipeline(SchedulerPolicy::kVllmV0, 4)).batches,
              ElementsAre("p0:4/0! p2:4/0! p4:4/0!", "p1:4/0! p3:4/0!"));
  EXPECT_THAT(serve_log(w, pipeline(SchedulerPolicy::kTrtllm, 4)).batches,
              ElementsAre("p0:4/0! p1:4/0! p2:4/0! p3:4/0!", "p4:4/0!"));
  ServeOptions o = pipeline(SchedulerPolicy::kSglang, 4);
  EXPECT_THAT(serve_log(w, o).batches, ElementsAre("p0:4/0! p1:4/0!", "p2:4/0! p3:4/0!", "p4:4/0!"));
  o.engines[0].scheduler.sglang.pp_max_micro_batch_size = 3;  // and four in all
  EXPECT_THAT(serve_log(w, o).batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0!", "p3:4/0!", "p4:4/0!"));
}

// SGLang's micro-batches take turns, each with its own running requests: what comes joins the one whose turn
// it is, and is prefilled before that one's decodes.
TEST(PipelinePolicies, SglangsMicroBatchesTakeTurns) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(100, 4, 2);
  w.add(900, 4, 2);
  const Log log = serve_log(w, pipeline(SchedulerPolicy::kSglang, 4));
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "p1:4/0!", "p2:4/0!", "d1@5", "d0@5 d2@5", "d0@6"));
  EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 1500, 2000, 3000));
}

// Chunks of a prompt follow each other in successive micro-batches; whose turn the last one is keeps it.
TEST(PipelinePolicies, ChunksFollowEachOtherUnderSglangAndTensorRtLlm) {
  ListWorkload w;
  w.add(0, 12, 2);
  for (const SchedulerPolicy policy : {SchedulerPolicy::kSglang, SchedulerPolicy::kTrtllm}) {
    ServeOptions o = pipeline(policy, 4);
    o.engines[0].scheduler.max_num_batched_tokens = o.engines[0].scheduler.sglang.chunked_prefill_size = 4;
    const Log log = serve_log(w, o);
    EXPECT_THAT(log.batches, ElementsAre("p0:4/0", "p0:4/4", "p0:4/8!", "d0@13"));
    EXPECT_THAT(log.starts, ElementsAre(0, 500, 1000, 2000));
  }
}

// TensorRT-LLM looks two tokens ahead. The request that started last is in flight when the first one lacks a
// block: it is paused when its token is out.
TEST(PipelinePolicies, TensorRtLlmPausesWhoIsInFlightWhenItsTokenIsOut) {
  ListWorkload w;
  w.add(0, 4, 8);
  w.add(0, 4, 8);
  ServeOptions o = pipeline(SchedulerPolicy::kTrtllm, 1, 4);  // three blocks
  o.engines[0].scheduler.trtllm.capacity_scheduler_policy = TrtllmConfig::Capacity::kMaxUtilization;
  const Log log = serve_log(w, o);
  EXPECT_EQ(log.result.records[0].preemptions, 0);
  EXPECT_EQ(log.result.records[1].preemptions, 1);
  EXPECT_EQ(log.result.metrics.completed, 2);
  EXPECT_THAT(log.batches[0], "p0:4/0!");
  EXPECT_THAT(log.batches[1], "p1:4/0!");
  EXPECT_THAT(log.batches[2], "d0@5");
}

// FasterTransformer: an even share of the batch for each stage, all of it where that is not whole; tokens of
// all before the next ones. Rows of who has ended stay.
TEST(PipelinePolicies, AStaticBatchGoesThroughInMicroBatches) {
  ListWorkload w;
  for (const int output : {3, 1, 2, 2}) w.add(0, 4, output);
  const ServeOptions o = pipeline(SchedulerPolicy::kStaticBatch, 4);
  const Log log = serve_log(w, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0! p1:4/0!", "p2:4/0! p3:4/0!", "d0@5 hole1", "d2@5 d3@5",
                                       "d0@6 hole1", "hole2 hole3"));
  EXPECT_THAT(log.starts, ElementsAre(0, 500, 1500, 2000, 3000, 3500));
  ListWorkload odd;
  for (int i = 0; i < 3; ++i) odd.add(0, 4, 2);
  const Log whole = serve_log(odd, o);
  EXPECT_THAT(whole.batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0!", "d0@5 d1@5 d2@5"));
  EXPECT_THAT(whole.starts, ElementsAre(0, 1000));
  // Above 1024 tokens prompts are split further.
  ListWorkload longer;
  for (int i = 0; i < 8; ++i) longer.add(0, 512, 2);
  ServeOptions large = pipeline(SchedulerPolicy::kStaticBatch, 8, 2000);
  large.engines[0].scheduler.max_num_batched_tokens = 8192;
  const Log split = serve_log(longer, large);
  ASSERT_EQ(split.batches.size(), 6u);
  EXPECT_EQ(split.batches[0], "p0:512/0! p1:512/0!");
  EXPECT_EQ(split.batches[4], "d0@513 d1@513 d2@513 d3@513");
}

// vLLM V1 lets the chunks of a prompt follow each other through the stages; Sarathi-Serve waits for each.
TEST(PipelinePolicies, ASequenceIsInOneStepAtATime) {
  ListWorkload w;
  w.add(0, 12, 2);
  ServeOptions o = pipeline(SchedulerPolicy::kSarathi, 2);
  o.engines[0].scheduler.max_num_batched_tokens = 4;
  const Log log = serve_log(w, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0", "p0:4/4", "p0:4/8!", "d0@13"));
  EXPECT_THAT(log.starts, ElementsAre(0, 1000, 2000, 3000));
}

// A virtual engine has half of the ten blocks: a request of 24 tokens fits no half.
TEST(PipelinePolicies, VirtualEnginesDivideTheBlocks) {
  ListWorkload w;
  w.add(0, 8, 4);
  w.add(0, 20, 5);
  w.add(0, 8, 4);
  ServeOptions o = pipeline(SchedulerPolicy::kVllmV0, 16, 11);
  const Log log = serve_log(w, o);
  EXPECT_EQ(log.result.rejected, 1);
  EXPECT_THAT(log.result.rejected_reason, testing::HasSubstr("needs 6 KV blocks"));
  EXPECT_EQ(log.result.metrics.completed, 2);
  o.engines[0].scheduler.pipeline_depth = 1;
  EXPECT_EQ(serve_log(w, o).result.rejected, 0);
}

// One that decodes gives its blocks up itself where all who came later are in flight.
TEST(PipelinePolicies, WhoIsInFlightIsNotPreempted) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(0, 4, 4);
  ServeOptions o = pipeline(SchedulerPolicy::kSarathi, 2, 4);  // three blocks
  const Log log = serve_log(w, o);
  EXPECT_THAT(log.batches,
              ElementsAre("p0:4/0!", "p1:4/0!", "d0@5", "d0@6", "d0@7", "p1:5/0!", "d1@6", "d1@7"));
  EXPECT_EQ(log.result.records[0].preemptions, 0);
  EXPECT_EQ(log.result.records[1].preemptions, 1);
}

// Steps of a fixed length, checked for sequences in two of them at once and for slots beyond their blocks.
class Inspector : public Backend {
 public:
  // Under SGLang, TensorRT-LLM and llama.cpp parts of one prompt may be in several steps; SGLang counts pages
  // elsewhere.
  Inspector(int depth, SchedulerPolicy policy)
      : chunks_follow_(!toy::is_block_policy(policy) || policy == SchedulerPolicy::kLlamaCpp),
        names_capacity_(policy != SchedulerPolicy::kSglang),
        share_(1000 / depth) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& batch = step.ranks[0];
    const auto note = [&](std::int32_t slot, RequestId id, std::int32_t tokens) {
      EXPECT_LE(busy_until_[id], step.start) << "request " << id << " is in two steps at once";
      busy_until_[id] = step.start + 1000;
      EXPECT_TRUE(!names_capacity_ || (*batch.sequences)[slot].capacity >= tokens);
      EXPECT_EQ((*batch.sequences)[slot].request.id, id);
    };
    std::int32_t parts = 0;
    for (const PrefillPart& p : batch.prefill) {
      if (p.slot < 0) continue;
      ++parts;
      if (chunks_follow_ && !p.last) {
        EXPECT_LE(busy_until_[p.request], step.start) << "request " << p.request;
      } else {
        note(p.slot, p.request, p.cached + p.new_tokens);
      }
    }
    for (const DecodePart& d : batch.decode)
      if (d.slot >= 0) note(d.slot, d.request, d.context);
    most = std::max(most, batch.decode_sequences + parts);
    overlapping += step.start < last_end_;
    last_end_ = step.start + 1000;
    return {share_, 1000};
  }
  std::int32_t most = 0;
  std::int64_t overlapping = 0;

 private:
  std::map<RequestId, Picoseconds> busy_until_;
  const bool chunks_follow_, names_capacity_;
  Picoseconds share_, last_end_ = 0;
  std::vector<std::int64_t> windows_{0};
};

class PipelineLaws : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, PipelineLaws,
                         testing::ValuesIn(std::begin(toy::kPipelinePolicies) + 1,  // V1 has tests of its own
                                           std::end(toy::kPipelinePolicies)),
                         toy::name_of);

TEST_P(PipelineLaws, SmallPoolsServeEveryoneWithinTheLimits) {
  const SchedulerPolicy policy = GetParam();
  const bool caches = !toy::is_block_policy(policy);
  std::int64_t preemptions = 0, overlapping = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(500); ++seed) {
    CounterRandom random(seed, 60);
    ServeOptions o = pipeline(policy, random.uniform_int(1, 12));
    SchedulerConfig& c = o.engines[0].scheduler;
    c.max_model_len = 72;
    c.max_num_batched_tokens = random.uniform_int(10, 60);
    c.num_blocks = 22 + random.uniform_int(0, 30);
    if (!caches) toy::choose_block_policy(c, policy, CounterRandom(seed, 61));
    c.by_priority = policy == SchedulerPolicy::kVllmV0 && !c.enable_chunked_prefill && random.uniform() < 0.5;
    c.sglang.chunked_prefill_size = random.uniform_int(1, 6) * c.block_size;
    toy::choose_sglang_order(c, CounterRandom(seed, 63));
    if (random.uniform() < 0.6) c.trtllm.capacity_scheduler_policy = TrtllmConfig::Capacity::kMaxUtilization;
    toy::pipeline(c, static_cast<int>(random.uniform_int(2, 4)), random);
    ListWorkload w;
    Picoseconds clock = 0;
    for (int i = 0; i < 50; ++i) {
      clock += random.uniform_int(0, 2000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 40)),
            static_cast<std::int32_t>(random.uniform_int(1, 30)));
    }
    w.draw_priorities(CounterRandom(seed, 62), 2);
    Inspector inspector(c.pipeline_depth, policy);
    const ServeResult r = serve(w, inspector, o);
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    ASSERT_EQ(r.metrics.completed + r.rejected, 50) << seed;
    std::int64_t needed = 0;
    for (const RequestRecord& x : r.records) needed += x.input_len + x.output_len - 1;
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    std::int64_t cap = c.max_num_seqs;
    if (policy == SchedulerPolicy::kSarathi) cap = std::max<std::int64_t>(1, cap / c.pipeline_depth);
    // SGLang's own cap is exceeded by prompts in chunks, which end where there is no place for them, and
    // stay.
    ASSERT_LE(inspector.most, cap) << seed;
    preemptions += r.metrics.preemptions;
    overlapping += inspector.overlapping;
  }
  EXPECT_EQ(preemptions > 100, toy::preempts(policy));
  EXPECT_GT(overlapping, 2'000);
}

TEST(PipelinePolicies, RefusedByNameElsewhere) {
  ListWorkload w;
  w.add(0, 4, 2);
  const auto where = [&](SchedulerPolicy policy, int ranks = 1) -> std::string {
    ServeOptions o = pipeline(policy, 4);
    o.engines[0].ranks = ranks;
    try {
      serve_log(w, o);
    } catch (const Error& e) {
      return e.where();
    }
    return {};
  };
  for (const SchedulerPolicy p :
       {SchedulerPolicy::kTgi, SchedulerPolicy::kFastgen, SchedulerPolicy::kLightllm,
        SchedulerPolicy::kTurbomind, SchedulerPolicy::kLmdeployPytorch, SchedulerPolicy::kNanoflow})
    EXPECT_EQ(where(p), "pipeline_parallel_size");
  for (const SchedulerPolicy p :
       {SchedulerPolicy::kSglang, SchedulerPolicy::kTrtllm, SchedulerPolicy::kStaticBatch})
    EXPECT_EQ(where(p), "");
  EXPECT_EQ(where(SchedulerPolicy::kSarathi), "");
  EXPECT_EQ(where(SchedulerPolicy::kSarathi, 2), "data_parallel_size");
}

}  // namespace
}  // namespace foretoken
