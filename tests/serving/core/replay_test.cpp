// A recorded timeline gives its durations back and must be reproduced exactly, or refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "base/error.h"
#include "policies.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

toy::ListWorkload requests(int count = 60) {
  toy::ListWorkload w;
  CounterRandom random(4, 4);
  Picoseconds clock = 0;
  for (int i = 0; i < count; ++i) {
    clock += random.uniform_int(0, 20000);
    w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 60)),
          static_cast<std::int32_t>(random.uniform_int(1, 60)), {{1, 20}});
  }
  return w;
}

ServeOptions setting() {
  ServeOptions o = toy::options(60, 4, 32, 16);
  o.replicas = 2;
  return o;
}

auto key(const TimelineWriter::StepEvent& e) {
  return std::tuple(e.engine, e.start, e.time.next_start, e.time.tokens_out, e.steps, e.first, e.increment,
                    e.prefill_tokens, e.decode_tokens, e.running, e.waiting, e.kv_usage);
}
auto key(const RequestRecord& r) {
  return std::tuple(r.id, r.engine, r.queued, r.scheduled, r.prefill_done, r.first_token, r.finish,
                    r.preemptions, r.cached_tokens);
}

Recording record(Backend& backend, const toy::ListWorkload& workload, ServeOptions o) {
  Recording recording;
  o.timeline = &recording;
  toy::ListWorkload w = workload;
  serve(w, backend, o);
  return recording;
}

TEST(Replay, ReproducesTheTimelineExactly) {
  for (const bool spans : {true, false}) {
    ServeOptions o = setting();
    o.use_spans = spans;
    toy::ToyBackend toy(1000, 30, 20, {2});
    const Recording recorded = record(toy, requests(), o);
    ReplayBackend replay(recorded);
    const Recording again = record(replay, requests(), o);
    ASSERT_EQ(recorded.steps.size(), again.steps.size());
    ASSERT_EQ(recorded.requests.size(), 60u);
    for (std::size_t i = 0; i < recorded.steps.size(); ++i)
      ASSERT_EQ(key(recorded.steps[i]), key(again.steps[i]));
    for (std::size_t i = 0; i < recorded.requests.size(); ++i) {
      ASSERT_EQ(key(recorded.requests[i]), key(again.requests[i]));
    }
  }
}

TEST(Replay, ARecordingWithSpansServesSingleStepsAndTheOtherWayRound) {
  for (const bool spans : {true, false}) {
    ServeOptions o = setting();
    o.use_spans = spans;
    toy::ToyBackend toy(1000, 30, 20, {2});
    const Recording recorded = record(toy, requests(), o);
    ReplayBackend replay(recorded);
    o.use_spans = !spans;
    const Recording again = record(replay, requests(), o);
    ASSERT_EQ(recorded.requests.size(), again.requests.size());
    for (std::size_t i = 0; i < recorded.requests.size(); ++i) {
      ASSERT_EQ(key(recorded.requests[i]), key(again.requests[i]));
    }
  }
}

// The same under every policy, over random knobs.
class ReplayOfPolicies : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(BlockPolicies, ReplayOfPolicies, testing::ValuesIn(toy::kBlockPolicies),
                         toy::name_of);
INSTANTIATE_TEST_SUITE_P(CachingPolicies, ReplayOfPolicies, testing::ValuesIn(toy::kCachingPolicies),
                         toy::name_of);

TEST_P(ReplayOfPolicies, ReproducesTheTimelineExactly) {
  for (std::uint64_t seed = 0; seed < toy::seeds(50); ++seed) {
    ServeOptions o = setting();
    SchedulerConfig& c = o.engines[0].scheduler;
    c.max_model_len = 120;
    CounterRandom knobs(seed, 30);
    if (toy::is_block_policy(GetParam()))
      toy::choose_block_policy(c, GetParam(), knobs);
    else
      toy::choose_caching_policy(c, GetParam(), knobs);
    toy::ToyBackend toy(1000, 30, 20, {2});
    const Recording recorded = record(toy, requests(), o);
    for (const bool spans : {true, false}) {
      o.use_spans = spans;
      ReplayBackend replay(recorded);
      const Recording again = record(replay, requests(), o);
      ASSERT_EQ(recorded.requests.size(), again.requests.size());
      ASSERT_GT(recorded.requests.size(), 0u);
      for (std::size_t i = 0; i < recorded.requests.size(); ++i)
        ASSERT_EQ(key(recorded.requests[i]), key(again.requests[i])) << seed;
      if (!spans) continue;
      ASSERT_EQ(recorded.steps.size(), again.steps.size());
      for (std::size_t i = 0; i < recorded.steps.size(); ++i)
        ASSERT_EQ(key(recorded.steps[i]), key(again.steps[i])) << seed;
    }
  }
}

TEST(Replay, APipelineToo) {
  ServeOptions o = setting();
  o.engines[0].scheduler.pipeline_depth = 3;
  toy::ToyBackend toy(1000, 30, 20, {2});
  toy.pipeline(0.4);
  const Recording recorded = record(toy, requests(), o);
  ReplayBackend replay(recorded);
  const Recording again = record(replay, requests(), o);
  ASSERT_EQ(recorded.steps.size(), again.steps.size());
  for (std::size_t i = 0; i < recorded.steps.size(); ++i)
    ASSERT_EQ(key(recorded.steps[i]), key(again.steps[i]));
}

// What was declined is recorded, what was worth it isn't: it may be asked for again before it is loaded, with
// fewer blocks or a link that is less busy.
TEST(Replay, ALoadIsDeclinedAsItWas) {
  Recording recording;
  recording.tier({0, 0, 7, 1, -1, 8, 100, 100, 30, true, 16});
  TierLoad load{0, 0, 7, 1, 8, 16, 32, 1, 30};
  ReplayBackend replay(recording);
  const auto asked_otherwise = [&](auto member, auto value) {
    TierLoad other = load;
    other.*member = value;
    return replay.worth_loading(other);
  };
  EXPECT_TRUE(asked_otherwise(&TierLoad::request, 6));
  EXPECT_TRUE(asked_otherwise(&TierLoad::tier, 0));
  EXPECT_TRUE(asked_otherwise(&TierLoad::blocks, 1));
  EXPECT_TRUE(asked_otherwise(&TierLoad::cached, 0));
  EXPECT_TRUE(asked_otherwise(&TierLoad::wait, 0));
  EXPECT_FALSE(replay.worth_loading(load));
  EXPECT_TRUE(replay.worth_loading(load)) << "once";
}

TEST(Replay, RefusesAnotherRun) {
  toy::ToyBackend toy(1000, 30, 20, {2});
  const Recording recorded = record(toy, requests(), setting());
  {
    ServeOptions other = setting();
    other.engines[0].scheduler.max_num_batched_tokens = 31;
    ReplayBackend replay(recorded);
    EXPECT_THROW(record(replay, requests(), other), Error);
  }
  {
    ReplayBackend replay(recorded);
    EXPECT_THROW(record(replay, requests(61), setting()), Error) << "more steps than recorded";
  }
  {
    toy::ListWorkload later;
    later.add(5, 10, 10);
    ReplayBackend replay(recorded);
    try {
      record(replay, later, setting());
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.where(), "timeline");
      EXPECT_THAT(e.message(), testing::HasSubstr("engine 0, 5 ps"));
    }
  }
}

}  // namespace
}  // namespace foretoken
