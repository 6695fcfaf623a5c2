// Contiguous KV memory: regions never overlap and join again; admission waits for what is reserved, not for
// what is needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "serving/region_pool.h"
#include "serving/scheduler/reservation.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;

TEST(RegionPool, RegionsAreDisjointAndJoinAgain) {
  CounterRandom random(3, 1);
  RegionPool pool(200);
  EXPECT_EQ(pool.usable(), 199) << "block 0 is never handed out";
  std::vector<std::pair<RegionPool::Block, std::int64_t>> held;
  std::set<std::int64_t> blocks;
  for (int i = 0; i < 20000; ++i) {
    const std::int64_t count = random.uniform_int(1, 40);
    if (random.uniform() < 0.5) {
      const RegionPool::Block first = pool.allocate(count);
      // The longest run of free blocks decides.
      std::int64_t longest = 0, run = 0;
      for (std::int64_t b = 1; b < 200; ++b)
        longest = std::max(longest, run = blocks.contains(b) ? 0 : run + 1);
      ASSERT_EQ(first >= 0, longest >= count);
      if (first < 0) continue;
      for (std::int64_t b = first; b < first + count; ++b)
        ASSERT_TRUE(b >= 1 && b < 200 && blocks.insert(b).second);
      held.emplace_back(first, count);
    } else if (!held.empty()) {
      const auto which =
          static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(held.size()) - 1));
      const auto [first, length] = held[which];
      pool.release(first, length);
      for (std::int64_t b = first; b < first + length; ++b) blocks.erase(b);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    }
    ASSERT_EQ(pool.used(), static_cast<std::int64_t>(blocks.size()));
  }
  for (const auto& [first, length] : held) pool.release(first, length);
  EXPECT_EQ(pool.allocate(199), 1);
}

TEST(Regions, AreAsLongAsTheReservationSays) {
  SchedulerConfig c;
  c.max_model_len = 100;
  Request r;
  r.input_len = 10, r.output_len = 25;
  c.reservation = KvReservation::kMaxModelLen;
  EXPECT_EQ(reserved_tokens(c, r), 100);
  c.reservation = KvReservation::kPowerOfTwo;
  EXPECT_EQ(reserved_tokens(c, r), 10 + 32);
  r.output_len = 80;
  EXPECT_EQ(reserved_tokens(c, r), 100) << "never beyond the longest sequence";
  r.output_len = 25;
  c.reservation = KvReservation::kExact;
  EXPECT_EQ(reserved_tokens(c, r), 35);
}

// 3 blocks take 4, at 1, 5, 9, ...; a hole of 4 across that grid is none.
TEST(RegionPool, ABuddyAllocatorRoundsUpAndAligns) {
  RegionPool pool(17, true);
  EXPECT_EQ(pool.allocate(1), 1);
  EXPECT_EQ(pool.allocate(3), 5) << "not 2";
  EXPECT_EQ(pool.used(), 5);
  EXPECT_EQ(pool.allocate(2), 3);
  EXPECT_EQ(pool.allocate(8), 9);
  EXPECT_EQ(pool.allocate(2), -1) << "one is left, at 2";
  EXPECT_EQ(pool.allocate(1), 2);
  pool.release(5, 3);
  pool.release(3, 2);
  EXPECT_EQ(pool.allocate(4), 5) << "3 to 8 are free, 3 to 6 are no buddies";
  pool.release(5, 4);
  for (const auto& [first, count] : {std::pair(1, 1), std::pair(2, 1), std::pair(9, 8)})
    pool.release(first, count);
  EXPECT_EQ(pool.used(), 0);
  EXPECT_EQ(pool.allocate(16), 1) << "all joined again";
}

ServeOptions contiguous(KvReservation reservation) {
  ServeOptions o = toy::options(13, 4, 100, 16);  // 48 places
  o.engines[0].scheduler.enable_prefix_caching = false;
  o.engines[0].scheduler.max_model_len = 24;
  o.engines[0].scheduler.reservation = reservation;
  return o;
}

// Three requests of 4 + 3 tokens in 48 places: two regions of 24 fit, three of 8 do.
TEST(Regions, WhatIsReservedSetsHowManyRun) {
  toy::ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 3);
  const toy::Served longest = run(w, contiguous(KvReservation::kMaxModelLen)),
                    exact = run(w, contiguous(KvReservation::kExact));
  EXPECT_THAT(longest.batches,
              ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "d0@6 d1@6", "p2:4/0!", "d2@5", "d2@6"));
  EXPECT_THAT(exact.batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0!", "d0@5 d1@5 d2@5", "d0@6 d1@6 d2@6"));
  EXPECT_EQ(longest.result.reserved_tokens, 3 * 24);
  EXPECT_EQ(longest.result.filled_tokens, 3 * 6) << "the last token is never cached";
  EXPECT_EQ(exact.result.reserved_tokens, 3 * 8) << "whole blocks";
  EXPECT_DOUBLE_EQ(longest.result.unfilled_share(), 0.75);
  EXPECT_EQ(longest.result.metrics.peak_kv_usage, 1);
}

// Kwon et al. 2023, figure 2 and section 6: the better the guess, the more of the memory holds tokens.
TEST(Regions, BetterGuessesWasteLess) {
  double waste = 1, running = 0;
  for (const KvReservation r :
       {KvReservation::kMaxModelLen, KvReservation::kPowerOfTwo, KvReservation::kExact}) {
    toy::PoissonWorkload w(600, 1e9, 40, 30, 5, true);
    ServeOptions o = toy::options(400, 4, 512, 256);
    o.engines[0].scheduler.enable_prefix_caching = false;
    o.engines[0].scheduler.max_model_len = 256;
    o.engines[0].scheduler.reservation = r;
    toy::ToyBackend backend(1000, 10, 10, {1});
    const ServeResult served = serve(w, backend, o);
    EXPECT_EQ(served.metrics.completed, 600);
    EXPECT_EQ(served.metrics.preemptions, 0);
    EXPECT_LT(served.unfilled_share(), waste);
    EXPECT_GT(served.metrics.mean_running, running);
    waste = served.unfilled_share();
    running = served.metrics.mean_running;
  }
  EXPECT_LT(waste, 0.1) << "a part of the last block, and the last token's place";
}

}  // namespace
}  // namespace foretoken
