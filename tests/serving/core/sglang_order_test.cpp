// SGLang's orders of waiting requests and its priorities, against schedules worked by hand, and which of them
// let a request starve. Every step takes 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;
using Order = SglangConfig::Order;

// 4000 tokens in pages of one, a request at a time, no overlap.
ServeOptions sglang(Order order, bool caching = false, std::int64_t chunk = -1) {
  ServeOptions o = toy::options(4001, 1, 8192, 1);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kSglang;
  c.enable_prefix_caching = caching;
  c.sglang.chunked_prefill_size = chunk;
  c.sglang.overlap = false;
  c.sglang.schedule_policy = order;
  return o;
}
SglangConfig& config(ServeOptions& o) { return o.engines[0].scheduler.sglang; }

// In the order of their first step.
std::vector<RequestId> started(const ListWorkload& w, const ServeOptions& o) {
  std::vector<RequestRecord> records = run(w, o).result.records;
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.scheduled < b.scheduled; });
  std::vector<RequestId> ids;
  for (const RequestRecord& r : records) ids.push_back(r.id);
  return ids;
}

TEST(SglangOrder, LongestOutputFirst) {
  ListWorkload w;
  w.add(0, 5, 1);
  w.add(0, 5, 4);
  w.add(0, 5, 2);
  w.add(0, 5, 4);
  EXPECT_THAT(started(w, sglang(Order::kLof)), ElementsAre(1, 3, 2, 0));
  EXPECT_THAT(started(w, sglang(Order::kFcfs)), ElementsAre(0, 1, 2, 3));
}

// While request 1 is computed 20 prompt tokens pass: request 2 has waited 20 for 100 of its own, request 3
// 20 for 10. Before that all have waited for none, so the first comes first.
TEST(SglangOrder, HighestResponseRatioNext) {
  ListWorkload w;
  w.add(0, 40, 1);
  w.add(100, 20, 1);
  w.add(100, 100, 1);
  w.add(100, 10, 1);
  EXPECT_THAT(started(w, sglang(Order::kHrrn, true)), ElementsAre(0, 1, 3, 2));
  EXPECT_THAT(started(w, sglang(Order::kHrrn, false)), ElementsAre(0, 1, 2, 3)) << "fcfs without a cache";
  EXPECT_THAT(started(w, sglang(Order::kShortestPrefillFirst, true)), ElementsAre(0, 3, 1, 2));
}

// Of waiting requests one goes on from prefix 1 and two from prefix 2; the last from none, at the root.
TEST(SglangOrder, DepthFirstByWeight) {
  ListWorkload w;
  w.add(0, 45, 1, {{1, 40}});
  w.add(0, 45, 1, {{2, 40}});
  w.add(1500, 45, 1, {});
  w.add(1500, 45, 1, {{1, 40}});
  w.add(1500, 45, 1, {{2, 40}});
  w.add(1500, 45, 1, {{2, 40}});
  EXPECT_THAT(started(w, sglang(Order::kDfsWeight, true)), ElementsAre(0, 1, 4, 5, 3, 2));
  EXPECT_THAT(started(w, sglang(Order::kDfsWeight, false)), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(SglangOrder, ARandomOrderIsItsSeeds) {
  ListWorkload w;
  for (int i = 0; i < 8; ++i) w.add(0, 5, 1);
  std::set<std::vector<RequestId>> orders;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    ServeOptions o = sglang(Order::kRandom);
    config(o).seed = seed;
    std::vector<RequestId> ids = started(w, o);
    EXPECT_EQ(ids, started(w, o));
    orders.insert(ids);
    std::sort(ids.begin(), ids.end());
    EXPECT_THAT(ids, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  }
  EXPECT_GT(orders.size(), 18u);
}

// Chunks of 8: the prompt in chunks leaves room for a shorter one that waits, and none begins beside it that
// would be in chunks too.
TEST(SglangOrder, ShortestPrefillFirstReservesRoomInAChunk) {
  ListWorkload w;
  w.add(0, 20, 1);
  w.add(500, 3, 1);
  ServeOptions o = sglang(Order::kShortestPrefillFirst, true, 8);
  o.engines[0].scheduler.max_num_seqs = 8;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0", "p0:5/8 p1:3/0!", "p0:7/13!"));
  config(o).schedule_policy = Order::kFcfs;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:8/0", "p0:8/8", "p0:4/16! p1:3/0!"));
  ListWorkload two;
  two.add(0, 10, 1);
  two.add(500, 20, 1);
  config(o).schedule_policy = Order::kShortestPrefillFirst;
  EXPECT_THAT(run(two, o).batches, ElementsAre("p0:8/0", "p0:2/8!", "p1:8/0", "p1:8/8", "p1:4/16!"));
  config(o).schedule_policy = Order::kFcfs;
  EXPECT_THAT(run(two, o).batches, ElementsAre("p0:8/0", "p0:2/8! p1:6/0", "p1:8/6", "p1:6/14!"));
}

TEST(SglangOrder, HigherPrioritiesFirstUnlessToldOtherwise) {
  ListWorkload w;
  for (const std::int32_t priority : {0, 3, 9, 3}) {
    w.add(0, 5, 2);
    w.prioritize(priority);
  }
  ServeOptions o = sglang(Order::kFcfs);
  config(o).enable_priority_scheduling = true;
  EXPECT_THAT(started(w, o), ElementsAre(2, 1, 3, 0));
  config(o).schedule_low_priority_values_first = true;
  EXPECT_THAT(started(w, o), ElementsAre(0, 1, 3, 2));
  config(o).enable_priority_scheduling = false;
  EXPECT_THAT(started(w, o), ElementsAre(0, 1, 2, 3));
}

TEST(SglangOrder, LongestOutputFirstWithinAPriority) {
  ListWorkload w;
  const std::int32_t priorities[] = {0, 1, 1, 0}, outputs[] = {9, 2, 5, 10};
  for (int i = 0; i < 4; ++i) {
    w.add(0, 5, outputs[i]);
    w.prioritize(priorities[i]);
  }
  ServeOptions o = sglang(Order::kLof);
  config(o).enable_priority_scheduling = true;
  EXPECT_THAT(started(w, o), ElementsAre(2, 1, 3, 0));
}

// A better priority by more than the threshold interrupts who runs; what that had computed is lost.
TEST(SglangOrder, PriorityPreemptsBeyondTheThreshold) {
  const auto batches = [](std::int32_t priority, bool preempts = true) {
    ListWorkload w;
    w.add(0, 5, 4);
    w.add(500, 4, 1);
    w.prioritize(priority);
    ServeOptions o = sglang(Order::kFcfs);
    config(o).enable_priority_scheduling = true;
    config(o).disable_priority_preemption = !preempts;
    return run(w, o).batches;
  };
  EXPECT_THAT(batches(11), ElementsAre("p0:5/0!", "p1:4/0!", "p0:6/0!", "d0@7", "d0@8"));
  EXPECT_THAT(batches(10), ElementsAre("p0:5/0!", "d0@6", "d0@7", "d0@8", "p1:4/0!"));
  EXPECT_THAT(batches(11, false), ElementsAre("p0:5/0!", "d0@6", "d0@7", "d0@8", "p1:4/0!"));
}

// Of three that run the worst gives way, and among equals the one that came last; no more than are needed.
TEST(SglangOrder, TheWorstGivesWay) {
  ListWorkload w;
  for (const std::int32_t priority : {0, 5, 0}) {
    w.add(0, 5, 8);
    w.prioritize(priority);
  }
  w.add(500, 4, 1);
  w.prioritize(100);
  ServeOptions o = sglang(Order::kFcfs);
  o.engines[0].scheduler.max_num_seqs = 3;
  config(o).enable_priority_scheduling = true;
  const toy::Served r = run(w, o);
  EXPECT_EQ(r.batches[1], "p3:4/0!");
  EXPECT_EQ(r.batches[2], "p2:6/0!") << "it comes back as soon as there is a place";
  EXPECT_EQ(r.result.records[0].preemptions + r.result.records[1].preemptions, 0);
  EXPECT_EQ(r.result.records[2].preemptions, 1);
}

// A request is there from the beginning while others keep coming, one a step, as fast as they are served.
// fcfs and hrrn start it soon; the others only when nobody comes any more.
TEST(SglangOrder, WhoStarves) {
  constexpr int kOthers = 300;
  const auto waits = [](Order order, bool priorities, std::int32_t long_prompt, std::int32_t output) {
    ListWorkload w;
    w.add(0, 10, output + 1);
    w.prioritize(1);
    w.add(1, long_prompt, output);
    for (int i = 0; i < kOthers; ++i) {
      w.add(2 + 1000 * i, 10, output + 1 - (order != Order::kLof));
      w.prioritize(1);
    }
    ServeOptions o = sglang(order, true);
    config(o).enable_priority_scheduling = priorities;
    return run(w, o).result.records[1].scheduled / 1000;
  };
  EXPECT_LE(waits(Order::kFcfs, false, 100, 1), 3);
  EXPECT_LE(waits(Order::kHrrn, false, 100, 1), 15);
  EXPECT_GE(waits(Order::kShortestPrefillFirst, false, 100, 1), kOthers);
  EXPECT_GE(waits(Order::kFcfs, true, 10, 1), kOthers) << "priorities";
  EXPECT_GE(waits(Order::kLof, false, 10, 1), kOthers);
}

TEST(SglangOrder, RefusedByName) {
  ListWorkload w;
  w.add(0, 4, 2);
  const auto where = [&](Order order, bool caching, bool priorities) -> std::string {
    ServeOptions o = sglang(order, caching);
    config(o).enable_priority_scheduling = priorities;
    try {
      run(w, o);
    } catch (const Error& e) {
      return e.where();
    }
    return {};
  };
  EXPECT_EQ(where(Order::kShortestPrefillFirst, false, false), "schedule_policy");
  EXPECT_EQ(where(Order::kShortestPrefillFirst, true, false), "");
  EXPECT_EQ(where(Order::kLpm, true, true), "enable_priority_scheduling");
  EXPECT_EQ(where(Order::kLof, true, true), "");
}

}  // namespace
}  // namespace foretoken
