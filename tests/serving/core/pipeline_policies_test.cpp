// Pipelines of vLLM V0, Orca and Sarathi-Serve: schedules worked by hand, and laws over random loads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "policies.h"
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
  if (policy == SchedulerPolicy::kOrca) c.reservation = KvReservation::kExact;
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
  const std::pair<SchedulerPolicy, std::int64_t> cases[] = {
      {SchedulerPolicy::kOrca, 1}, {SchedulerPolicy::kSarathi, 2}, {SchedulerPolicy::kVllmV0, 16}};
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
  explicit Inspector(int depth) : share_(1000 / depth) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& batch = step.ranks[0];
    const auto note = [&](std::int32_t slot, RequestId id, std::int32_t tokens) {
      EXPECT_LE(busy_until_[id], step.start) << "request " << id << " is in two steps at once";
      busy_until_[id] = step.start + 1000;
      EXPECT_GE((*batch.sequences)[slot].capacity, tokens);
      EXPECT_EQ((*batch.sequences)[slot].request.id, id);
    };
    for (const PrefillPart& p : batch.prefill) note(p.slot, p.request, p.cached + p.new_tokens);
    for (const DecodePart& d : batch.decode) note(d.slot, d.request, d.context);
    most = std::max(most, batch.decode_sequences + static_cast<std::int32_t>(batch.prefill.size()));
    overlapping += step.start < last_end_;
    last_end_ = step.start + 1000;
    return {share_, 1000};
  }
  std::int32_t most = 0;
  std::int64_t overlapping = 0;

 private:
  std::map<RequestId, Picoseconds> busy_until_;
  Picoseconds share_, last_end_ = 0;
  std::vector<std::int64_t> windows_{0};
};

TEST(PipelinePolicies, SmallPoolsServeEveryoneWithinTheLimits) {
  std::int64_t preemptions = 0, overlapping = 0;
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    CounterRandom random(seed, 60);
    const SchedulerPolicy policies[] = {SchedulerPolicy::kVllmV0, SchedulerPolicy::kOrca,
                                        SchedulerPolicy::kSarathi};
    const SchedulerPolicy policy = policies[seed % 3];
    ServeOptions o = pipeline(policy, random.uniform_int(1, 12));
    SchedulerConfig& c = o.engines[0].scheduler;
    c.max_model_len = 72;
    c.pipeline_depth = static_cast<int>(random.uniform_int(2, 4));
    c.max_num_batched_tokens = random.uniform_int(10, 60);
    c.num_blocks = 22 + random.uniform_int(0, 30);
    toy::choose_block_policy(c, policy, CounterRandom(seed, 61));
    c.by_priority = policy == SchedulerPolicy::kVllmV0 && !c.enable_chunked_prefill && random.uniform() < 0.5;
    if (policy == SchedulerPolicy::kVllmV0) c.num_blocks *= c.pipeline_depth;
    ListWorkload w;
    Picoseconds clock = 0;
    for (int i = 0; i < 50; ++i) {
      clock += random.uniform_int(0, 2000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 40)),
            static_cast<std::int32_t>(random.uniform_int(1, 30)));
    }
    w.draw_priorities(CounterRandom(seed, 62), 2);
    Inspector inspector(c.pipeline_depth);
    const ServeResult r = serve(w, inspector, o);
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    ASSERT_EQ(r.metrics.completed + r.rejected, 50) << seed;
    std::int64_t needed = 0;
    for (const RequestRecord& x : r.records) needed += x.input_len + x.output_len - 1;
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    const std::int64_t cap = policy == SchedulerPolicy::kSarathi
                                 ? std::max<std::int64_t>(1, c.max_num_seqs / c.pipeline_depth)
                                 : c.max_num_seqs;
    ASSERT_LE(inspector.most, cap) << seed;
    preemptions += r.metrics.preemptions;
    overlapping += inspector.overlapping;
  }
  EXPECT_GT(preemptions, 500);
  EXPECT_GT(overlapping, 10'000);
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
       {SchedulerPolicy::kSglang, SchedulerPolicy::kTrtllm, SchedulerPolicy::kTgi, SchedulerPolicy::kFastgen,
        SchedulerPolicy::kLightllm, SchedulerPolicy::kStaticBatch})
    EXPECT_EQ(where(p), "pipeline_parallel_size");
  EXPECT_EQ(where(SchedulerPolicy::kSarathi), "");
  EXPECT_EQ(where(SchedulerPolicy::kSarathi, 2), "data_parallel_size");
}

}  // namespace
}  // namespace foretoken
