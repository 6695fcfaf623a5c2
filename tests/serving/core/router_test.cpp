// Which replica, and which rank in it.
#include "serving/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

TEST(Router, RoundRobinTakesTurns) {
  Router router(RouterKind::kRoundRobin);
  const std::vector<std::int64_t> outstanding{5, 0, 9};
  std::vector<int> picked;
  for (int i = 0; i < 5; ++i) picked.push_back(router.pick(outstanding));
  EXPECT_THAT(picked, testing::ElementsAre(0, 1, 2, 0, 1));
}

TEST(Router, LeastOutstandingLowestIndexOnTies) {
  Router router(RouterKind::kLeastOutstanding);
  EXPECT_EQ(router.pick(std::vector<std::int64_t>{3, 1, 1}), 1);
  EXPECT_EQ(router.pick(std::vector<std::int64_t>{0, 0, 0}), 0);
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
