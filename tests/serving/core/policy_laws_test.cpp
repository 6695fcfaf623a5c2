// What holds under every scheduler on top of BlockScheduler, over random loads and knobs: every request ends
// once, limits hold in every step, nobody overtakes where the system lets nobody.
#include <gtest/gtest.h>

#include <set>

#include "policies.h"
#include "toy.h"

namespace foretoken {
namespace {

// Steps of a fixed length that are held to the engine's limits.
class Inspector : public Backend {
 public:
  explicit Inspector(const SchedulerConfig& config) : config_(config) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& batch = step.ranks[0];
    std::set<std::int32_t> slots;
    std::int64_t rows = 0;
    for (const PrefillPart& p : batch.prefill) {
      EXPECT_GT(p.new_tokens, 0);
      rows += p.new_tokens;
      if (p.slot < 0) continue;
      EXPECT_TRUE(slots.insert(p.slot).second) << "twice in a step";
      const Sequence& s = (*batch.sequences)[p.slot];
      EXPECT_LE(p.cached + p.new_tokens, s.num_tokens);
      EXPECT_EQ(p.last, p.cached + p.new_tokens == s.num_tokens);
      EXPECT_GE(s.capacity, p.cached + p.new_tokens) << "a token without a place";
      mixes = mixes || batch.decode_sequences > 0;
      splits = splits || !p.last;
    }
    for (const DecodePart& d : batch.decode) {
      if (d.slot < 0) continue;
      EXPECT_TRUE(slots.insert(d.slot).second) << "twice in a step";
      EXPECT_GE((*batch.sequences)[d.slot].capacity, d.context);
    }
    rows += batch.decode_sequences;
    EXPECT_FALSE(batch.empty());
    EXPECT_LE(static_cast<std::int64_t>(slots.size()), config_.max_num_seqs);
    // Steps with prompts are held to the prompts' budget, steps of decodes alone to max_num_seqs.
    if (config_.policy == SchedulerPolicy::kTgi) {
      if (!batch.prefill.empty()) {
        EXPECT_LT(rows, config_.max_num_batched_tokens + config_.block_size) << "rounded up to blocks";
      }
    } else if (!batch.prefill.empty() || (config_.policy != SchedulerPolicy::kLightllm &&
                                          config_.policy != SchedulerPolicy::kLmdeployPytorch)) {
      EXPECT_LE(rows, config_.policy == SchedulerPolicy::kLlamaCpp ? config_.llama_cpp.n_ubatch
                                                                   : config_.max_num_batched_tokens);
    }
    return {1000, 1000};
  }
  bool mixes = false, splits = false;

 private:
  const SchedulerConfig config_;
  std::vector<std::int64_t> windows_{0};
};

class PolicyLaws : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(BlockPolicies, PolicyLaws, testing::ValuesIn(toy::kBlockPolicies), toy::name_of);

TEST_P(PolicyLaws, EveryRequestEndsOnceWithinTheLimits) {
  bool mixes = false, splits = false;
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    CounterRandom random(seed, 40);
    ServeOptions o = toy::options(40, static_cast<int>(random.uniform_int(1, 5)), random.uniform_int(10, 60),
                                  random.uniform_int(1, 12));
    SchedulerConfig& c = o.engines[0].scheduler;
    c.max_model_len = 80;
    c.num_blocks = 2 + (c.max_model_len + random.uniform_int(0, 100)) / c.block_size;
    toy::choose_block_policy(c, GetParam(), CounterRandom(seed, 41));
    toy::ListWorkload w;
    Picoseconds clock = 0;
    for (int i = 0; i < 60; ++i) {
      clock += random.uniform_int(0, 3000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 50)),
            static_cast<std::int32_t>(random.uniform_int(1, 40)));
    }
    Inspector inspector(c);
    const ServeResult r = serve(w, inspector, o);
    ASSERT_FALSE(r.aborted) << seed << r.abort_reason;
    ASSERT_EQ(r.metrics.completed + r.rejected, 60) << seed;
    std::set<RequestId> ids;
    Picoseconds admitted = 0;
    for (const RequestRecord& x : r.records) {
      ASSERT_TRUE(ids.insert(x.id).second) << seed;
      if (GetParam() != SchedulerPolicy::kTurbomind) {  // lets later ones pass who find blocks
        ASSERT_GE(x.scheduled, admitted) << "first come first served, seed " << seed;
      }
      admitted = x.scheduled;
      ASSERT_LT(x.scheduled, x.first_token);
      ASSERT_LE(x.first_token, x.finish);
    }
    mixes = mixes || inspector.mixes;
    splits = splits || inspector.splits;
  }
  const SchedulerPolicy p = GetParam();
  const bool iteration_level = p == SchedulerPolicy::kOrca || p == SchedulerPolicy::kSarathi ||
                               p == SchedulerPolicy::kFastgen || p == SchedulerPolicy::kLlamaCpp ||
                               p == SchedulerPolicy::kTurbomind || p == SchedulerPolicy::kNanoflow ||
                               p == SchedulerPolicy::kSplitwise ||
                               p == SchedulerPolicy::kVllmV0 ||  // in chunks
                               p == SchedulerPolicy::kTgi;       // version 3
  EXPECT_EQ(mixes, iteration_level) << "prompts and decodes in one step";
  EXPECT_EQ(splits, (iteration_level && p != SchedulerPolicy::kOrca && p != SchedulerPolicy::kSplitwise) ||
                        p == SchedulerPolicy::kLmdeployPytorch || p == SchedulerPolicy::kLightllm)
      << "parts of prompts";
}

}  // namespace
}  // namespace foretoken
