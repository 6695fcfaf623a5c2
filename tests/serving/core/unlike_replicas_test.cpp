// Replicas that differ behind one router: each by its own limits, the router by weights, and nothing else
// than with replicas that are alike.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "seeds.h"
#include "serving/router.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;

Request request(RequestId id, std::int32_t input = 100, std::int32_t output = 10, std::int32_t session = -1) {
  Request r;
  r.id = id, r.input_len = input, r.output_len = output, r.session = session;
  return r;
}

// A router that looks at no engine.
struct Blind : ReplicaView {
  ReplicaState state(std::int32_t, const Request&) override { throw std::logic_error("looked"); }
};

Router router_of(RouterKind kind, std::vector<std::int64_t> weights) {
  RouterConfig config;
  config.kind = kind;
  config.weights = std::move(weights);
  return {config, config.weights.size()};
}

std::vector<std::int32_t> picks(Router& router, std::int64_t count, bool send = true) {
  Blind blind;
  std::vector<std::int32_t> picked;
  for (std::int64_t i = 0; i < count; ++i) {
    picked.push_back(router.pick(request(i), {}, blind));
    if (send) router.sent(picked.back(), request(i));
  }
  return picked;
}

// The order that nginx's commit message of its smooth turns gives for 5, 1, 1: a a b a c a a, and again.
TEST(UnlikeReplicas, WeightedTurnsAreSmooth) {
  Router router = router_of(RouterKind::kRoundRobin, {5, 1, 1});
  EXPECT_THAT(picks(router, 14), ElementsAre(0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0));
  Router equal = router_of(RouterKind::kRoundRobin, {2, 2, 2});
  EXPECT_THAT(picks(equal, 5), ElementsAre(0, 1, 2, 0, 1)) << "as without weights";
}

// Loads over weights: 0/1 0/3; 1/1 0/3; 1/1 1/3; 1/1 2/3; then 1/1 is not above 3/3.
TEST(UnlikeReplicas, LeastOutstandingOverTheWeight) {
  Router router = router_of(RouterKind::kLeastOutstanding, {1, 3});
  EXPECT_THAT(picks(router, 6), ElementsAre(0, 1, 1, 1, 0, 1));
  router.left(0, request(0));
  router.left(0, request(4));
  EXPECT_THAT(picks(router, 1), ElementsAre(0)) << "0/1 against 4/3";
}

TEST(UnlikeReplicas, LeastTokensOverTheWeight) {
  Router router = router_of(RouterKind::kLeastTokens, {1, 4});
  Blind blind;
  router.sent(0, request(0, 90, 10));
  router.sent(1, request(1, 300, 99));
  EXPECT_EQ(router.pick(request(2), {}, blind), 1) << "100/1 against 399/4";
  router.sent(1, request(3, 1, 1));
  EXPECT_EQ(router.pick(request(4), {}, blind), 0) << "100/1 against 401/4";
}

TEST(UnlikeReplicas, ChanceByWeight) {
  Router router = router_of(RouterKind::kRandom, {1, 0, 3});
  std::vector<int> times(3);
  for (const std::int32_t r : picks(router, 40000, false)) ++times[static_cast<std::size_t>(r)];
  EXPECT_EQ(times[1], 0);
  EXPECT_NEAR(times[2] / 40000.0, 0.75, 0.011);  // five standard deviations
  Router equal = router_of(RouterKind::kRandom, {1, 1, 1}), plain({RouterKind::kRandom}, 3);
  EXPECT_EQ(picks(equal, 200, false), picks(plain, 200, false)) << "the same draws";
}

TEST(UnlikeReplicas, ASessionsHomeIsChosenByWeight) {
  Router router = router_of(RouterKind::kSessionSticky, {1, 3});
  Blind blind;
  std::vector<std::int32_t> homes;
  for (RequestId i = 0; i < 8; ++i) {
    const Request r = request(i, 10, 1, static_cast<std::int32_t>(i % 4));
    homes.push_back(router.pick(r, {}, blind));
    router.sent(homes.back(), r);
  }
  EXPECT_THAT(homes, ElementsAre(0, 1, 1, 1, 0, 1, 1, 1)) << "and stays";
}

TEST(UnlikeReplicas, NoWeightGetsNothing) {
  for (const RouterKind kind : {RouterKind::kRoundRobin, RouterKind::kRandom, RouterKind::kLeastOutstanding,
                                RouterKind::kLeastTokens, RouterKind::kPowerOfTwo}) {
    Router router = router_of(kind, {0, 1, 0});
    EXPECT_THAT(picks(router, 4), ElementsAre(1, 1, 1, 1)) << static_cast<int>(kind);
  }
}

// The first computes 4 tokens a step, the second 100. Times in steps of 1000:
//   0: p0 4 of 6 | p1 all        1000: p0 the rest | d1 and done at 2000      2000: d0, done at 3000
// Request 2 comes at 2500, when the first has one and the second none.
TEST(UnlikeReplicas, EachByItsOwnLimits) {
  class Log : public toy::BatchLog {
   public:
    StepTime run(const Step& step) override {
      engines.push_back(step.engine);
      return BatchLog::run(step);
    }
    std::vector<std::int32_t> engines;
  } log;
  ListWorkload w;
  w.add(0, 6, 2);
  w.add(0, 6, 2);
  w.add(2500, 5, 1);
  ServeOptions o = toy::options(20, 4, 4, 2);
  o.engines.push_back(o.engines.front());
  o.engines[1].scheduler.max_num_batched_tokens = 100;
  o.replicas = 2;
  o.router.kind = RouterKind::kLeastOutstanding;
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0", "p1:6/0!", "p0:2/4!", "d1@7", "d0@7", "p2:5/0!"));
  EXPECT_THAT(log.engines, ElementsAre(0, 1, 0, 1, 0, 1));
  EXPECT_THAT(log.starts, ElementsAre(0, 0, 1000, 1000, 2000, 2500));
  ASSERT_EQ(r.records.size(), 3u);
  EXPECT_EQ(r.records[0].finish, 3000);
  EXPECT_EQ(r.records[1].finish, 2000);
  EXPECT_EQ(r.records[2].finish, 3500);
  ASSERT_EQ(r.engines.size(), 2u);
  EXPECT_EQ(r.engines[0].requests, 1);
  EXPECT_EQ(r.engines[1].requests, 2);
  EXPECT_EQ(r.engines[0].steps, 3);
  EXPECT_DOUBLE_EQ(r.engines[1].busy_seconds, 3000e-12);
}

// The cached part of a prompt is in whole blocks of each engine's own size: of 12 tokens of a prefix in
// blocks of 4 three, in blocks of 8 one.
TEST(UnlikeReplicas, PrefixesInBlocksOfEachSize) {
  ListWorkload w;
  for (int i = 0; i < 6; ++i) w.add(i * 100000, 13, 1, {{77, 12}});
  ServeOptions o = toy::options(20, 4, 100, 4);
  o.engines.push_back(o.engines.front());
  o.engines[1].scheduler.block_size = 8;
  o.replicas = 2;
  toy::BatchLog log;
  const ServeResult r = serve(w, log, o);  // in turns
  ASSERT_EQ(r.records.size(), 6u);
  for (const RequestRecord& x : r.records)
    EXPECT_EQ(x.cached_tokens, x.id < 2 ? 0 : x.engine == 0 ? 12 : 8) << x.id;

  // A router that looks for the prefix finds more of it on the first, and sends everybody there.
  ListWorkload again;
  for (int i = 0; i < 6; ++i) again.add(i * 100000, 13, 1, {{77, 12}});
  o.router.kind = RouterKind::kPrecisePrefix;
  const ServeResult s = serve(again, log, o);
  for (const RequestRecord& x : s.records) EXPECT_EQ(x.engine, 0) << x.id;
}

// Many requests on three kinds: a list of equal engines is what a number of them is, the recorded durations
// give the same times again, and everybody ends once.
TEST(UnlikeReplicas, EqualOnesAreReplicasAndRecordingsReplay) {
  for (std::uint64_t seed = 0; seed < toy::seeds(40); ++seed) {
    for (const bool equal : {true, false}) {
      const auto workload = [&] {
        ListWorkload w;
        CounterRandom random(seed, 1);
        Picoseconds clock = 0;
        for (int i = 0; i < 60; ++i) {
          clock += random.uniform_int(0, 20000);
          w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 60)),
                static_cast<std::int32_t>(random.uniform_int(1, 60)), {{1, 20}});
        }
        return w;
      };
      ServeOptions o = toy::options(60, 4, 32, 16);
      o.replicas = 3;
      o.router.kind = static_cast<RouterKind>(seed % static_cast<std::uint64_t>(RouterKind::kMooncake));
      ServeOptions listed = o;
      listed.engines.assign(3, o.engines.front());
      if (!equal) {
        listed.engines[1].scheduler.max_num_seqs = 3;
        listed.engines[2].scheduler.num_blocks = 40;
        listed.engines[2].scheduler.block_size = 5;
      }
      Recording recorded, again;
      listed.timeline = &recorded;
      ListWorkload w = workload();
      toy::ToyBackend toy(1000, 30, 20, {2});
      const ServeResult r = serve(w, toy, listed);
      ASSERT_EQ(r.metrics.completed, 60);
      std::int64_t ended = 0;
      for (const EngineTotals& e : r.engines) ended += e.requests;
      ASSERT_EQ(ended, 60);
      // Told how long the steps took, or with a number instead of a list.
      ReplayBackend replay(recorded);
      ListWorkload other = workload();
      ServeOptions& second = equal ? o : listed;
      second.timeline = &again;
      const ServeResult s = equal ? serve(other, toy, second) : serve(other, replay, second);
      ASSERT_EQ(recorded.requests.size(), again.requests.size());
      for (std::size_t i = 0; i < again.requests.size(); ++i) {
        const RequestRecord &x = recorded.requests[i], &y = again.requests[i];
        ASSERT_EQ(std::tuple(x.id, x.engine, x.scheduled, x.first_token, x.finish, x.cached_tokens),
                  std::tuple(y.id, y.engine, y.scheduled, y.first_token, y.finish, y.cached_tokens));
      }
      ASSERT_EQ(r.metrics.num_steps, s.metrics.num_steps);
      ASSERT_EQ(r.metrics.busy_share, s.metrics.busy_share);
    }
  }
}

}  // namespace
}  // namespace foretoken
