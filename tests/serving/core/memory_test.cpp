// Where tokens lie: whatever a scheduler shares, evicts, swaps, retracts or takes over from its cache, every
// sequence finds its own tokens in the blocks that it names. Small memories, shared beginnings,
// conversations.
#include <gtest/gtest.h>

#include "policies.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

struct Case {
  toy::ListWorkload workload;
  ServeOptions options;
};

Case random_case(std::uint64_t seed, SchedulerPolicy policy) {
  CounterRandom random(seed, 21);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  Case c;
  c.options = toy::options(0, static_cast<int>(chance(0.4) ? 1 : pick(2, 5)), pick(6, 60), pick(2, 20));
  SchedulerConfig& s = c.options.engines[0].scheduler;
  s.policy = policy;
  s.max_model_len = 90;
  s.num_blocks = 2 + (s.max_model_len + pick(0, 120)) / s.block_size;
  s.enable_prefix_caching = chance(0.8);
  s.schedules_ahead = chance(0.3);
  c.options.use_spans = false;
  if (toy::is_block_policy(policy)) {
    toy::choose_block_policy(s, policy, CounterRandom(seed, 22));
  } else {
    toy::choose_caching_policy(s, policy, random);
  }
  const bool sessions = chance(0.4);
  Picoseconds clock = 0;
  for (std::int64_t i = pick(2, 60); i > 0; --i) {
    clock += pick(0, 2500);
    std::vector<ContentRun> runs;
    if (chance(0.6)) runs.push_back({static_cast<std::uint64_t>(pick(1, 3)), pick(1, 30)});
    if (!runs.empty() && chance(0.3)) runs.push_back({static_cast<std::uint64_t>(pick(4, 6)), pick(1, 20)});
    c.workload.add(clock, static_cast<std::int32_t>(pick(1, 45)), static_cast<std::int32_t>(pick(1, 40)),
                   runs, sessions && chance(0.4) ? static_cast<std::int32_t>(i) : -1);
  }
  if (sessions) c.workload.converse(3, 5, pick(0, 3000));
  return c;
}

// Two steps overlap, or more.
class StagedMemory : public toy::ShadowMemory {
 public:
  using ShadowMemory::ShadowMemory;
  StepTime run(const Step& step) override {
    const StepTime t = ShadowMemory::run(step);
    return {t.next_start / 2, t.tokens_out};
  }
};

class Memory : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, Memory,
                         testing::Values(SchedulerPolicy::kVllmV1, SchedulerPolicy::kSglang,
                                         SchedulerPolicy::kTrtllm));
INSTANTIATE_TEST_SUITE_P(BlockPolicies, Memory, testing::ValuesIn(toy::kBlockPolicies), toy::name_of);

TEST_P(Memory, EverySequenceFindsItsTokens) {
  std::int64_t preemptions = 0, reused = 0, completed = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(500); ++seed) {
    Case c = random_case(seed, GetParam());
    SchedulerConfig& s = c.options.engines[0].scheduler;
    CounterRandom random(seed, 23);
    const bool staged = runs_in_pipelines(GetParam()) && seed % 3 == 0;
    if (staged) toy::pipeline(s, 2 + static_cast<int>(seed % 2), random);
    toy::ShadowMemory whole(c.workload, s.block_size);
    StagedMemory stages(c.workload, s.block_size);
    toy::ShadowMemory& memory = staged ? stages : whole;
    ServeResult r;
    ASSERT_NO_THROW(r = serve(c.workload, memory, c.options)) << "seed " << seed;
    ASSERT_FALSE(r.aborted) << seed << r.abort_reason;
    std::int64_t needed = 0;
    for (const RequestRecord& x : r.records) needed += x.input_len + x.output_len - 1;
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    preemptions += r.metrics.preemptions;
    reused += r.reused_tokens;
    completed += r.metrics.completed;
  }
  EXPECT_TRUE(toy::preempts(GetParam()) ? preemptions > 200 : preemptions == 0);
  EXPECT_TRUE(toy::has_prefix_cache(GetParam()) ? reused > 5000 : reused == 0);
  EXPECT_GT(completed, 10000);
}

// Steps of a fixed length, whatever is in them.
class FixedStep : public Backend {
 public:
  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step&) override { return {1000, 1000}; }

 private:
  std::vector<std::int64_t> windows_{0};
};

// A backend that asks for pages changes no decision.
TEST_P(Memory, NamingBlocksDecidesNothing) {
  for (std::uint64_t seed = 0; seed < toy::seeds(200); ++seed) {
    Case a = random_case(seed, GetParam()), b = random_case(seed, GetParam());
    toy::ShadowMemory named(a.workload, a.options.engines[0].scheduler.block_size);
    FixedStep nameless;
    const ServeResult x = serve(a.workload, named, a.options), y = serve(b.workload, nameless, b.options);
    ASSERT_EQ(x.records.size(), y.records.size());
    for (std::size_t i = 0; i < x.records.size(); ++i)
      ASSERT_EQ(x.records[i].finish, y.records[i].finish) << seed;
    ASSERT_EQ(x.reused_tokens, y.reused_tokens);
  }
}

}  // namespace
}  // namespace foretoken
