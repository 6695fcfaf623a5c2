// Splitwise: which machines get a request, when they change pools, what a machine computes first; and replays
// of routers that choose both engines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;

Request request(RequestId id, std::int32_t input, std::int32_t output) {
  Request r;
  r.id = id, r.input_len = input, r.output_len = output;
  return r;
}

struct Cluster {
  MixedPools pools;
  bool queues = false;
  std::pair<int, int> assign(RequestId id, std::int32_t input, std::int32_t output, Picoseconds now = 0) {
    const auto a = pools.assign(
        request(id, input, output), [this](std::int32_t) { return queues; }, now);
    return {a.prompt, a.token};
  }
};

TEST(MixedPools, TheMachinesWithTheLeastInFrontOfThem) {
  Cluster c{{{20}, 2, {100, 100, 100, 100}, 1000}};
  EXPECT_EQ(c.assign(0, 10, 5), std::pair(0, 2));
  EXPECT_EQ(c.assign(1, 10, 5), std::pair(1, 3));
  EXPECT_EQ(c.assign(2, 4, 5), std::pair(0, 2));
  EXPECT_EQ(c.assign(3, 9, 1), std::pair(1, 1)) << "goes nowhere else";
  c.pools.computed(0, 0);
  EXPECT_EQ(c.assign(4, 30, 5), std::pair(0, 3)) << "4 tokens against 19, and nobody queues";
}

TEST(MixedPools, ATokenMachineHelpsWherePromptsQueue) {
  Cluster c{{{20}, 1, {100, 100, 100}, 1000}};
  c.queues = true;
  EXPECT_EQ(c.assign(0, 10, 5), std::pair(0, 1));
  EXPECT_EQ(c.assign(1, 10, 5), std::pair(0, 2)) << "20 tokens are not above the limit";
  EXPECT_EQ(c.assign(2, 10, 20), std::pair(1, 1)) << "fewest pending tokens; as much memory as machine 2";
  EXPECT_TRUE(c.pools.is_mixed(1));
  EXPECT_EQ(c.assign(3, 8, 2, 50), std::pair(1, 2)) << "the mixed pool comes before another token machine";
  c.pools.computed(2, 60);
  EXPECT_TRUE(c.pools.is_mixed(1)) << "a prompt is left";
  c.pools.computed(3, 100);
  EXPECT_FALSE(c.pools.is_mixed(1));
  EXPECT_EQ(c.pools.counts(500).joined, 1);
  EXPECT_EQ(c.pools.counts(500).whole_requests, 1);
  EXPECT_EQ(c.pools.counts(500).mixed_time, 100);
}

TEST(MixedPools, APromptMachineHelpsWhereMemoryIsShort) {
  Cluster c{{{20}, 2, {30, 30, 30}, 1000}};
  EXPECT_EQ(c.assign(0, 10, 10), std::pair(0, 2));
  EXPECT_EQ(c.assign(1, 5, 10, 7), std::pair(1, 1)) << "20 + 15 tokens are more than machine 2 has";
  EXPECT_TRUE(c.pools.is_mixed(1));
  c.pools.computed(1, 20);
  c.pools.ended(1, 40);
  EXPECT_FALSE(c.pools.is_mixed(1));
  EXPECT_EQ(c.pools.counts(100).mixed_time, 33);
  c.pools.computed(0, 40);
  c.pools.moved(0);
  c.pools.goes_on(0, 50);
  c.pools.ended(0, 60);
  EXPECT_EQ(c.assign(2, 9, 20), std::pair(0, 2)) << "all memory is free again";
}

TEST(MixedPools, WithoutAnyPlaceOneMachineDoesBoth) {
  Cluster c{{{5}, 1, {20, 20}, 1000}};
  c.queues = true;
  EXPECT_EQ(c.assign(0, 10, 4), std::pair(1, 1)) << "the token machine joins";
  EXPECT_EQ(c.assign(1, 10, 20), std::pair(0, 0)) << "10 pending tokens there, none here";
  EXPECT_TRUE(c.pools.is_mixed(0) && c.pools.is_mixed(1));
}

// Steps of 1000, moves of 250.
TEST(MixedServing, RequestsThatFindAQueueAreServedByTheOtherMachine) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 8, 3);
  ServeOptions o = toy::options(20, 4, 8, 8);
  toy::share(o, 1, 1, RouterKind::kSplitwise);
  o.splitwise.prompt_max_pending_tokens = 8;
  toy::ToyBackend backend(1000);
  backend.link(250, 0);
  const ServeResult r = serve(w, backend, o);
  ASSERT_EQ(r.records.size(), 3u);
  std::vector<std::tuple<RequestId, int, Picoseconds, Picoseconds, Picoseconds>> seen;
  for (const RequestRecord& x : r.records)
    seen.emplace_back(x.id, x.engine, x.first_token, x.moved, x.finish);
  EXPECT_THAT(seen, ElementsAre(std::tuple(0, 1, 1000, 1250, 4000), std::tuple(1, 1, 1000, 0, 3000),
                                std::tuple(2, 0, 2000, 0, 4000)));
  EXPECT_EQ(r.mixed_pools.joined, 2);
  EXPECT_EQ(r.mixed_pools.whole_requests, 2);
  EXPECT_EQ(r.metrics.transfers.count, 1);
  EXPECT_EQ(r.engines[0].requests, 2) << "a prompt, and a whole one";
}

// A budget of ten tokens: a prompt of ten leaves no room for who decodes, once; then it goes first.
TEST(SplitwiseMachine, PromptsFirstUntilSomebodyWasPassedOverTooOften) {
  ListWorkload w;
  w.add(0, 4, 5);
  for (int i = 1; i < 4; ++i) w.add(1000 * i, 10, 2);
  ServeOptions o = toy::options(40, 4, 10, 8);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kSplitwise;
  c.enable_prefix_caching = false;
  c.splitwise.max_preemptions = 1;
  EXPECT_THAT(toy::run(w, o).batches, ElementsAre("p0:4/0!", "p1:10/0!", "d0@5 d1@11", "p2:10/0!",
                                                  "d0@6 d2@11", "p3:10/0!", "d0@7 d3@11", "d0@8"));
  c.splitwise.max_preemptions = 4;
  EXPECT_THAT(toy::run(w, o).batches, ElementsAre("p0:4/0!", "p1:10/0!", "p2:10/0!", "p3:10/0!",
                                                  "d0@5 d1@11 d2@11 d3@11", "d0@6", "d0@7", "d0@8"));
}

TEST(SplitwiseMachine, APromptLongerThanTheBudgetGoesAlone) {
  ListWorkload w;
  w.add(0, 6, 2);
  w.add(0, 25, 2);
  ServeOptions o = toy::options(40, 4, 10, 8);
  o.engines[0].scheduler.policy = SchedulerPolicy::kSplitwise;
  o.engines[0].scheduler.enable_prefix_caching = false;
  EXPECT_THAT(toy::run(w, o).batches, ElementsAre("p0:6/0!", "p1:25/0!", "d0@7 d1@26"));
}

// Short prompts go whole when they are computed, long ones layer by layer.
TEST(MixedServing, ShortPromptsAreNotSentByLayers) {
  ListWorkload w;
  w.add(0, 7, 2);
  w.add(10'000, 8, 2);
  ServeOptions o = toy::options(20, 4, 100, 8);
  toy::share(o, 1, 1, RouterKind::kSplitwise);
  o.kv_link.layers = 4;
  o.kv_link.layerwise_min_tokens = 8;
  Recording recording;
  o.timeline = &recording;
  toy::ToyBackend backend(1000);
  backend.link(0, 50);
  serve(w, backend, o);
  ASSERT_EQ(recording.transfers.size(), 2u);
  EXPECT_EQ(recording.transfers[0].start, 1000);
  EXPECT_EQ(recording.transfers[0].end, 1350);
  EXPECT_EQ(recording.transfers[1].start, 10'250);
  EXPECT_EQ(recording.transfers[1].end, 11'100);
}

// A recorded timeline fed back gives itself, under each router that chooses both engines.
TEST(RoutersOfBothSides, AReplayGivesTheSameTimeline) {
  toy::ToyEstimates estimates(100, 20, 10'000, 1000);
  for (const RouterKind kind : {RouterKind::kMooncake, RouterKind::kSplitwise, RouterKind::kTetriInfer}) {
    for (const bool layers : {false, true}) {
      SCOPED_TRACE(kRouterNames[static_cast<std::size_t>(kind)]);
      const auto record = [&](Backend& backend) {
        ListWorkload w;
        CounterRandom random(4, 4);
        Picoseconds clock = 0;
        for (int i = 0; i < 150; ++i) {
          clock += random.uniform_int(0, 6000);
          w.add(clock, static_cast<std::int32_t>(random.uniform_int(20, 60)),
                static_cast<std::int32_t>(random.uniform_int(1, 60)),
                {{1 + static_cast<std::uint64_t>(i % 3), 20}});
        }
        ServeOptions o = toy::options(60, 4, 40, 16);
        toy::share(o, 2, 2, kind);
        for (int e = 0; e < 2; ++e) o.engines[e].scheduler.prefill_only = kind == RouterKind::kMooncake;
        o.estimates = &estimates;
        o.splitwise.prompt_max_pending_tokens = 60;
        o.tetri_infer.length_granularity = 10;
        o.tetri_infer.load_interval = 3000;
        o.kv_link.layers = layers ? 4 : 0;
        Recording recording;
        o.timeline = &recording;
        const ServeResult r = serve(w, backend, o);
        EXPECT_EQ(r.records.size(), 150u);
        if (kind == RouterKind::kMooncake) {
          EXPECT_GT(r.prefix_fetches, 0);
        }
        if (kind == RouterKind::kSplitwise) {
          EXPECT_GT(r.mixed_pools.joined, 5);
        }
        return recording;
      };
      toy::ToyBackend toy(1000, 30, 20, {2});
      toy.link(100, 20);
      const Recording first = record(toy);
      ReplayBackend replay(first);
      const Recording second = record(replay);
      const auto step = [](const TimelineWriter::StepEvent& e) {
        return std::tuple(e.engine, e.start, e.steps, e.first, e.increment, e.prefill_tokens, e.decode_tokens,
                          e.running, e.waiting, e.kv_usage);
      };
      const auto move = [](const TimelineWriter::TransferEvent& t) {
        return std::tuple(t.request, t.from, t.to, t.tokens, t.done, t.asked, t.start, t.duration, t.end);
      };
      const auto life = [](const RequestRecord& r) {
        return std::tuple(r.id, r.engine, r.queued, r.scheduled, r.first_token, r.handed_over, r.moved,
                          r.finish);
      };
      ASSERT_EQ(first.steps.size(), second.steps.size());
      ASSERT_EQ(first.transfers.size(), second.transfers.size());
      ASSERT_GT(first.transfers.size(), 25u);
      ASSERT_EQ(first.requests.size(), second.requests.size());
      for (std::size_t i = 0; i < first.steps.size(); ++i)
        ASSERT_EQ(step(first.steps[i]), step(second.steps[i]));
      for (std::size_t i = 0; i < first.transfers.size(); ++i)
        ASSERT_EQ(move(first.transfers[i]), move(second.transfers[i]));
      for (std::size_t i = 0; i < first.requests.size(); ++i)
        ASSERT_EQ(life(first.requests[i]), life(second.requests[i]));
    }
  }
}

TEST(RoutersOfBothSides, WhatTheyCannotDoIsRefused) {
  const auto message = [](RouterKind kind, auto change) {
    ServeOptions o = toy::options(20, 4, 100, 8);
    toy::share(o, 1, 1, kind);
    change(o);
    return toy::refusal_of(o);
  };
  for (const RouterKind kind : {RouterKind::kSplitwise, RouterKind::kTetriInfer}) {
    EXPECT_EQ(message(kind, [](ServeOptions&) {}), "");
    EXPECT_THAT(message(kind, [](ServeOptions& o) { o.engines[1].ranks = 2; }), HasSubstr("one rank"));
    EXPECT_THAT(message(kind, [](ServeOptions& o) { o.decode_makes_first_token = true; }),
                HasSubstr("the prompt ends with"));
    EXPECT_THAT(message(kind, [](ServeOptions& o) { o.engines[0].scheduler.prefill_only = true; }),
                HasSubstr("to none where routers"));
    EXPECT_THAT(message(kind,
                        [](ServeOptions& o) {
                          o.kv_link.layers = 2;
                          o.engines[1].scheduler.pipeline_depth = 2;
                        }),
                HasSubstr("without a pipeline"));
    EXPECT_THAT(message(kind,
                        [](ServeOptions& o) {
                          const RouterConfig router = o.router;
                          o = toy::options(20, 4, 100, 8);
                          o.router = router;
                        }),
                HasSubstr("give prefill and decode"));
  }
  EXPECT_THAT(message(RouterKind::kTetriInfer,
                      [](ServeOptions& o) {
                        for (EngineConfig& e : o.engines) {
                          e.scheduler.policy = SchedulerPolicy::kSplitwise;
                          e.scheduler.enable_prefix_caching = false;
                        }
                      }),
              HasSubstr("over vLLM's scheduler alone"));
}

}  // namespace
}  // namespace foretoken
