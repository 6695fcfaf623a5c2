// Which replica, and which rank in it.
#include "serving/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "toy.h"

namespace foretoken {
namespace {

// States by replica, as a test sets them.
struct States : ReplicaView {
  std::vector<ReplicaState> of;
  ReplicaState state(std::int32_t replica, const Request&) override {
    return of[static_cast<std::size_t>(replica)];
  }
};

Request request(RequestId id, std::int32_t input = 100, std::int32_t output = 10, std::int32_t session = -1) {
  Request r;
  r.id = id, r.input_len = input, r.output_len = output, r.session = session;
  return r;
}

std::vector<std::int32_t> picks(Router& router, std::int64_t count, bool send = true) {
  States none;
  std::vector<std::int32_t> picked;
  for (std::int64_t i = 0; i < count; ++i) {
    picked.push_back(router.pick(request(i), {}, none));
    if (send) router.sent(picked.back(), request(i));
  }
  return picked;
}

TEST(Router, RoundRobinTakesTurns) {
  Router router({RouterKind::kRoundRobin}, 3);
  EXPECT_THAT(picks(router, 5), testing::ElementsAre(0, 1, 2, 0, 1));
}

TEST(Router, LeastOutstandingLowestIndexOnTies) {
  Router router({RouterKind::kLeastOutstanding}, 3);
  EXPECT_THAT(picks(router, 4), testing::ElementsAre(0, 1, 2, 0));
  router.left(2, request(2));
  EXPECT_THAT(picks(router, 1), testing::ElementsAre(2));
}

TEST(Router, LeastTokensWeighsPromptsAndOutputs) {
  Router router({RouterKind::kLeastTokens}, 2);
  States none;
  router.sent(0, request(0, 500, 10));
  router.sent(1, request(1, 100, 20));
  router.sent(1, request(2, 300, 89));
  EXPECT_EQ(router.pick(request(3), {}, none), 1);  // 510 against 509
  router.sent(1, request(3, 1, 1));
  EXPECT_EQ(router.pick(request(4), {}, none), 0);
}

TEST(Router, LeastLoadIsTheFirstLeastElement) {
  CounterRandom random(1, 1);
  for (const std::size_t count : {1u, 2u, 3u, 7u, 64u, 1250u}) {
    LeastLoad loads(count);
    std::vector<std::int64_t> plain(count);
    for (int i = 0; i < 3000; ++i) {
      const std::int64_t at = random.uniform_int(0, static_cast<std::int64_t>(count) - 1);
      const std::int64_t change = random.uniform_int(-2, 3);
      loads.add(static_cast<std::int32_t>(at), change);
      plain[static_cast<std::size_t>(at)] += change;
      ASSERT_EQ(loads.least(), std::min_element(plain.begin(), plain.end()) - plain.begin());
    }
    EXPECT_EQ(loads.sum(), std::accumulate(plain.begin(), plain.end(), std::int64_t{0}));
  }
}

TEST(Router, ChanceIsEvenAndASeedRepeatsIt) {
  for (const RouterKind kind : {RouterKind::kRandom, RouterKind::kPowerOfTwo}) {
    Router router({kind, 7}, 4), again({kind, 7}, 4), other({kind, 8}, 4);
    const auto picked = picks(router, 4000);
    EXPECT_EQ(picked, picks(again, 4000));
    EXPECT_NE(picked, picks(other, 4000));
    // 1,000 each: five standard deviations of a binomial, and nearly none where the better of two is taken.
    for (std::int32_t r = 0; r < 4; ++r)
      EXPECT_NEAR(static_cast<double>(std::count(picked.begin(), picked.end(), r)), 1000,
                  kind == RouterKind::kRandom ? 137 : 5);
  }
}

// Of two replicas both are drawn: the one with less outstanding, the first on ties. Of three the fullest is
// never taken, whichever two are drawn.
TEST(Router, TheBetterOfTwoIsTheOneWithLessOutstanding) {
  Router two({RouterKind::kPowerOfTwo, 3}, 2);
  EXPECT_THAT(picks(two, 4), testing::ElementsAre(0, 1, 0, 1));
  two.sent(0, request(10));
  two.sent(0, request(11));
  EXPECT_THAT(picks(two, 3), testing::ElementsAre(1, 1, 0));
  Router three({RouterKind::kPowerOfTwo, 3}, 3);
  three.sent(2, request(0));
  std::set<std::int32_t> picked;
  States none;
  for (RequestId i = 1; i < 50; ++i) picked.insert(three.pick(request(i), {}, none));
  EXPECT_THAT(picked, testing::ElementsAre(0, 1));
}

// Mitzenmacher 2001: the fullest of n bins holds about log n / log log n balls by chance, log log n / log 2
// when each ball takes the emptier of two.
TEST(Router, TheBetterOfTwoSpreadsFarBetterThanChance) {
  const auto fullest = [](RouterKind kind) {
    Router router({kind, 1}, 1000);
    picks(router, 1000);
    std::int64_t most = 0;
    for (std::int32_t r = 0; r < 1000; ++r) most = std::max(most, router.outstanding(r));
    return most;
  };
  EXPECT_GE(fullest(RouterKind::kRandom), 5);
  EXPECT_LE(fullest(RouterKind::kPowerOfTwo), 3);
}

TEST(Router, ASessionStaysWhereItBegan) {
  Router router({RouterKind::kSessionSticky}, 3);
  States none;
  const auto send = [&](const Request& r) {
    const std::int32_t at = router.pick(r, {}, none);
    router.sent(at, r);
    return at;
  };
  EXPECT_EQ(send(request(0, 100, 10, 5)), 0);
  EXPECT_EQ(send(request(1, 100, 10, 2)), 1);
  EXPECT_EQ(send(request(2, 100, 10, 5)), 0);
  EXPECT_EQ(send(request(3)), 2);  // belongs to none: the least outstanding
  EXPECT_EQ(send(request(4, 100, 10, 2)), 1);
}

TEST(Router, APrefixHasItsReplicaUntilThatIsOverloaded) {
  RouterConfig config{RouterKind::kPrefixAffine};
  config.prefix_tokens = 64;
  Router router(config, 4);
  States none;
  const std::vector<ContentRun> prefix{{11, 80}}, same_start{{11, 64}, {12, 500}}, other{{13, 80}};
  const std::int32_t home = router.pick(request(0), prefix, none);
  EXPECT_EQ(router.pick(request(1), same_start, none), home);  // alike in the first 64 tokens
  std::set<std::int32_t> homes;
  for (std::uint64_t c = 100; c < 150; ++c)
    homes.insert(router.pick(request(2), std::vector<ContentRun>{{c, 80}}, none));
  EXPECT_EQ(homes.size(), 4);  // prefixes spread
  // The bound: with 8 requests out, 1.25 x 9 / 4 rounds up to 3, so home takes 3 of one prefix and no fourth.
  std::vector<std::int64_t> out(4);
  for (std::int64_t i = 0; i < 100; ++i) {
    const std::int32_t at = router.pick(request(i), prefix, none);
    router.sent(at, request(i));
    ++out[static_cast<std::size_t>(at)];
    EXPECT_LE(static_cast<double>(out[static_cast<std::size_t>(at)]),
              std::ceil(1.25 * static_cast<double>(i + 1) / 4));
  }
  EXPECT_EQ(router.pick(request(200), {}, none),
            std::min_element(out.begin(), out.end()) - out.begin());  // shares nothing
}

TEST(Router, PrecisePrefixWeighsCacheQueueAndMemory) {
  Router router({RouterKind::kPrecisePrefix}, 3);
  States v;
  v.of = {{4, 0.5, 0}, {2, 0.5, 80}, {0, 0.5, 40}};
  // 2 x (0, 1, 1/2) + (0, 1/2, 1) + 0.5 each = 0.5, 3, 2.5
  EXPECT_EQ(router.pick(request(0), {}, v), 1);
  v.of[1].kv_usage = 1;  // 2.5 and 2.5: the lower index
  EXPECT_EQ(router.pick(request(0), {}, v), 1);
  v.of[1].waiting = 3;
  EXPECT_EQ(router.pick(request(0), {}, v), 2);
  for (ReplicaState& s : v.of) s = {1, 0.3, 7};
  EXPECT_EQ(router.pick(request(0), {}, v), 0);
}

TEST(Router, KvCostCountsWhatIsToComputeAndWhatIsHeld) {
  Router router({RouterKind::kKvCost}, 2);
  States v;
  v.of = {{0, 0, 90, 50, 100}, {0, 0, 0, 0, 30}};
  // A prompt of 100: 50 + 10 + 100 + 10 = 170 against 0 + 100 + 30 + 100 = 230.
  EXPECT_EQ(router.pick(request(0), {}, v), 0);
  v.of[0].prompt_tokens = 161;
  EXPECT_EQ(router.pick(request(0), {}, v), 1);
  RouterConfig heavy{RouterKind::kKvCost};
  heavy.overlap_weight = 2;  // 120 + 171 against 200 + 130
  Router again(heavy, 2);
  EXPECT_EQ(again.pick(request(0), {}, v), 0);
}

// Eight system prompts of 60 tokens, six replicas: who follows prefixes computes each about once.
TEST(Router, FollowingPrefixesReusesMore) {
  const auto reused = [](RouterKind kind) {
    toy::ListWorkload w;
    for (int i = 0; i < 240; ++i) w.add(i * 9000, 64, 4, {{static_cast<std::uint64_t>(i * 7 % 8 + 1), 60}});
    toy::ToyBackend backend(1000, 100, 10, {1});
    ServeOptions o = toy::options(200, 4, 8192, 16);
    o.replicas = 6;
    o.router.kind = kind;
    const ServeResult r = serve(w, backend, o);
    EXPECT_EQ(r.metrics.completed, 240);
    return r.reused_tokens;
  };
  const std::int64_t by_turns = reused(RouterKind::kRoundRobin);
  EXPECT_GE(reused(RouterKind::kPrefixAffine),
            (240 - 16) * 60);  // each is missed once, or twice by the bound
  EXPECT_GT(reused(RouterKind::kPrecisePrefix), by_turns);
  EXPECT_GT(reused(RouterKind::kKvCost), by_turns);
}

TEST(Router, RanksByWaitingTimesFourPlusRunning) {
  EXPECT_EQ(pick_rank(std::vector<RankLoad>{{1, 0}, {0, 3}}), 1);
  EXPECT_EQ(pick_rank(std::vector<RankLoad>{{1, 0}, {0, 4}}), 0);
}

TEST(Router, RanksStepTogetherAndTheSlowestSetsThePace) {
  toy::ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 2);
  w.add(1500, 4, 1);
  ServeOptions o = toy::options(100, 4, 100, 16);
  o.engines[0].ranks = 2;
  toy::BatchLog log;
  serve(w, log, o);
  // Waiting counts fourfold: 0 to rank 0, 1 to rank 1, 2 to rank 0; at 1500 they run 2 and 1: rank 1.
  EXPECT_THAT(log.batches,
              testing::ElementsAre("p0:4/0! p2:4/0! | p1:4/0!", "d0@5 d2@5 | d1@5", "| p3:4/0!"));
}

TEST(Router, OneReplicaWithNRanksDiffersFromNReplicas) {
  // Independent replicas do not wait for each other.
  const auto mean_e2el = [](int replicas, int ranks) {
    toy::ListWorkload w;
    for (int i = 0; i < 8; ++i) w.add(i * 1000, i % 2 ? 400 : 4, 20);
    toy::ToyBackend backend(1000, 100, 10, {1});
    ServeOptions o = toy::options(1000, 4, 8192, 16);
    o.replicas = replicas;
    o.engines[0].ranks = ranks;
    return serve(w, backend, o).metrics.e2el.mean;
  };
  EXPECT_LT(mean_e2el(2, 1), mean_e2el(1, 2));
}

}  // namespace
}  // namespace foretoken
