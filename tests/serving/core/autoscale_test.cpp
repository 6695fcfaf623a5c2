// Replicas that come and go: the rule, and what it makes of small loads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "serving/autoscaler.h"
#include "toy.h"

namespace foretoken {
namespace {

AutoscaleConfig config(std::int64_t min, std::int64_t max, double target) {
  AutoscaleConfig a;
  a.on = true;
  a.min_replicas = min;
  a.max_replicas = max;
  a.target = target;
  a.interval = 1000;
  a.startup = 3000;
  a.scale_down_window = 5000;
  return a;
}

TEST(Autoscaler, FollowsTheRatioBeyondItsTolerance) {
  Autoscaler s(config(1, 100, 1));
  EXPECT_EQ(s.desired(0, 10, 1.0999), 10);
  EXPECT_EQ(s.desired(1, 10, 1.11), 12);  // 11.1 rounded up
  EXPECT_EQ(s.desired(2, 10, 5), 20);     // at most doubled
  EXPECT_EQ(s.desired(3, 2, 50), 6);      // or four more
  EXPECT_EQ(s.desired(4, 60, 3), 100);    // at most all
}

TEST(Autoscaler, GoesDownToTheHighestOfItsWindow) {
  Autoscaler s(config(2, 100, 1));
  EXPECT_EQ(s.desired(0, 10, 0.8), 8);
  EXPECT_EQ(s.desired(1000, 8, 1.0), 8);
  EXPECT_EQ(s.desired(2000, 8, 0.5), 8);   // 4, but 8 was wanted at 1000
  EXPECT_EQ(s.desired(6000, 8, 0.5), 8);   // still within 5000
  EXPECT_EQ(s.desired(6001, 8, 0.1), 4);   // 2, but 4 was wanted at 2000 and 6000
  EXPECT_EQ(s.desired(20000, 4, 0.0), 2);  // at least min_replicas
}

// A step takes 100, prompts and tokens nothing more; one sequence at a time.
ServeOptions one_at_a_time(const AutoscaleConfig& a) {
  ServeOptions o = toy::options(1000, 4, 8192, 1);
  o.replicas = static_cast<int>(a.max_replicas);
  o.router.kind = RouterKind::kLeastOutstanding;
  o.autoscale = a;
  o.keep_records = true;
  return o;
}

TEST(Autoscale, ReplicasStartLateAndEndWhenTheyAreEmpty) {
  toy::ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 4, 20);  // 2,000 each
  w.add(20000, 4, 1);
  toy::ToyBackend backend(100);
  const AutoscaleConfig a = config(1, 3, 1);
  const ServeResult r = serve(w, backend, one_at_a_time(a));
  // At 1,000 four are outstanding: two replicas more, from 4,000 on. But all requests are at replica 0 by
  // then, which is done with them at 8,000; the last comes when one replica is left.
  ASSERT_EQ(r.records.size(), 5u);
  for (const RequestRecord& q : r.records) EXPECT_EQ(q.engine, 0);
  EXPECT_EQ(r.records[3].finish, 8000);
  EXPECT_EQ(r.most_replicas, 3);
  EXPECT_EQ(r.replica_starts, 2);
  EXPECT_EQ(r.replica_ends, 2);
  // 3 are wanted until 3,000, 2 at 4,000 and 5,000 (outstanding: 2), 1 from 6,000 on; 5,000 after each one
  // goes. Paid: one to the end at 20,100, two more from 1,000, of which one until 9,000 and one until 11,000.
  EXPECT_DOUBLE_EQ(r.replica_seconds * kPicosPerSecond, 20100 + 8000 + 10000);
}

TEST(Autoscale, TheFirstRequestStartsAReplicaAndTheOthersWait) {
  toy::ListWorkload w;
  w.add(500, 4, 1);
  w.add(700, 4, 1);
  w.add(3600, 4, 1);
  toy::ToyBackend backend(100);
  const ServeResult r = serve(w, backend, one_at_a_time(config(0, 2, 4)));
  ASSERT_EQ(r.metrics.completed, 3);
  EXPECT_EQ(r.records[0].queued, 3500);
  EXPECT_EQ(r.records[1].queued, 3500);
  EXPECT_EQ(r.records[0].finish, 3600);
  EXPECT_EQ(r.records[1].finish, 3700);
  EXPECT_EQ(r.records[2].finish, 3800);
  EXPECT_EQ(r.replica_starts, 1);
  // Two wait for 3,000 and 2,800; in the engine the second waits 100, the third 100 more.
  EXPECT_DOUBLE_EQ(r.metrics.mean_waiting * r.metrics.duration * kPicosPerSecond, 3000 + 2800 + 100 + 100);
}

TEST(Autoscale, ALoadThatFallsSilentEndsEveryReplicaAndStartsCold) {
  toy::ListWorkload w;
  const std::vector<ContentRun> prefix{{7, 40}};
  w.add(0, 44, 1, prefix);
  w.add(3500, 44, 1, prefix);    // warm
  w.add(60000, 44, 30, prefix);  // it is gone by now
  toy::ToyBackend backend(100);
  AutoscaleConfig a = config(0, 1, 4);
  a.scale_down_window = 0;
  const ServeResult r = serve(w, backend, one_at_a_time(a));
  ASSERT_EQ(r.metrics.completed, 3);
  EXPECT_EQ(r.records[1].cached_tokens, 40);
  EXPECT_EQ(r.records[2].cached_tokens, 0);
  EXPECT_EQ(r.replica_starts, 2);
}

TEST(Autoscale, ByTimeToFirstTokenMoreReplicasMeetIt) {
  const auto late = [](bool scaled) {
    toy::PoissonWorkload w(4000, 5e8, 4, 20, 1);  // a request every 2,000 on average: two replicas' worth
    toy::ToyBackend backend(200);
    AutoscaleConfig a = config(1, 8, to_ms(2000));
    a.metric = ScaleMetric::kTtft;
    a.on = scaled;
    ServeOptions o = one_at_a_time(a);
    if (!scaled) o.replicas = 1;
    const ServeResult r = serve(w, backend, o);
    EXPECT_EQ(r.metrics.completed, 4000);
    return r.metrics.ttft.p50;
  };
  EXPECT_LT(late(true), to_ms(4000));
  EXPECT_GT(late(false), to_ms(100000));
}

TEST(Autoscale, ImpossibleLimitsAreRefused) {
  toy::ListWorkload w;
  w.add(0, 4, 1);
  toy::ToyBackend backend(100);
  const auto refused = [&](auto change) {
    AutoscaleConfig a = config(1, 2, 4);
    ServeOptions o = one_at_a_time(a);
    change(o);
    EXPECT_THROW(serve(w, backend, o), Error);
  };
  refused([](ServeOptions& o) { o.autoscale.min_replicas = 3; });
  refused([](ServeOptions& o) { o.autoscale.target = 0; });
  refused([](ServeOptions& o) { o.autoscale.interval = 0; });
  refused([](ServeOptions& o) { toy::disaggregate(o, 1, 1); });
}

}  // namespace
}  // namespace foretoken
