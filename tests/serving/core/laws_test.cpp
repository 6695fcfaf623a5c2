// Laws of queueing that hold whatever the policy, and what the policy owes to them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "toy.h"

namespace foretoken {
namespace {

using toy::PoissonWorkload;
using toy::ToyBackend;

// One server, deterministic service: mean wait rho / (2 (1 - rho)) services (Pollaczek-Khinchine).
TEST(Laws, MD1MeanWait) {
  for (const double rho : {0.3, 0.6}) {
    const Picoseconds service = 1'000'000'000;  // 1 ms
    PoissonWorkload w(200'000, rho * 1000, 1, 1, 11);
    ToyBackend backend(service);
    ServeOptions o = toy::options(100, 16, 8192, 1);
    const ServeResult r = serve(w, backend, o);
    double wait = 0;
    for (const RequestRecord& record : r.records) wait += to_ms(record.scheduled - record.queued);
    wait /= static_cast<double>(r.records.size());
    const double expected = rho / (2 * (1 - rho));
    EXPECT_NEAR(wait / expected, 1, 0.03) << rho;
    EXPECT_NEAR(r.metrics.busy_share, rho, 0.01);
  }
}

// 104 days of 100 engines: as picoseconds more than 64 bits hold.
TEST(Laws, ManyEnginesForLongAreBusyAllTheTime) {
  toy::ListWorkload w;
  for (int i = 0; i < 100; ++i) w.add(0, 1, 90);
  ToyBackend backend(to_picoseconds(Seconds{1e5}));
  ServeOptions o = toy::options(100, 16, 8192, 1);
  o.replicas = 100;
  const ServeResult r = serve(w, backend, o);
  EXPECT_DOUBLE_EQ(r.metrics.busy_share, 1);
  EXPECT_DOUBLE_EQ(r.metrics.mean_running, 100);
}

// Time averages over the whole run, which begins and ends empty: exact, not asymptotic.
TEST(Laws, LittleHoldsExactly) {
  for (const int ranks : {1, 2}) {
    PoissonWorkload w(5000, 40, 300, 60, 3, true);
    ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
    ServeOptions o = toy::options(600, 16, 2048, 64);
    o.engines[0].ranks = ranks;
    o.replicas = 2;
    o.ingress = 3'000'000'000;
    o.egress = 2'000'000'000;
    const ServeResult r = serve(w, backend, o);
    double waiting = 0, running = 0;
    for (const RequestRecord& record : r.records) {
      // Running from admission on, but for the time spent preempted.
      waiting += to_ms(record.scheduled - record.queued);
      running += to_ms(record.finish - o.egress - record.scheduled);
    }
    const double duration_ms = r.metrics.duration * 1000;
    EXPECT_NEAR((r.metrics.mean_running + r.metrics.mean_waiting) / ((waiting + running) / duration_ms), 1,
                1e-9);
    if (r.metrics.preemptions == 0) {
      EXPECT_NEAR(r.metrics.mean_waiting, waiting / duration_ms, 1e-9 * (1 + r.metrics.mean_waiting));
    }
    EXPECT_GT(r.metrics.mean_running, 1);
  }
}

TEST(Laws, MoreLoadIsNeverFasterOnAverage) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    double last = 0;
    for (const double rate : {1.0, 3.0, 6.0, 9.0, 12.0, 18.0}) {
      PoissonWorkload w(2000, rate, 300, 100, seed, true);
      ToyBackend backend(12'000'000'000, 25'000'000, 100'000'000, {20'000});
      const double mean = serve(w, backend, toy::options(2000, 16, 2048, 32)).metrics.e2el.mean;
      EXPECT_GT(mean, last) << "seed " << seed << ", rate " << rate;
      last = mean;
    }
  }
}

TEST(Laws, FirstComeFirstServed) {
  PoissonWorkload w(3000, 30, 300, 60, 8, true);
  ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  const ServeResult r = serve(w, backend, toy::options(400, 16, 512, 64));
  ASSERT_EQ(r.records.size(), 3000u);
  for (std::size_t i = 1; i < r.records.size(); ++i) {
    ASSERT_LE(r.records[i - 1].queued, r.records[i].queued);
    ASSERT_LE(r.records[i - 1].scheduled, r.records[i].scheduled) << i;
  }
}

TEST(Laws, TimesOfARequestAreInOrder) {
  PoissonWorkload w(3000, 30, 300, 60, 8, true);
  ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  ServeOptions o = toy::options(400, 16, 512, 64);
  o.ingress = 7;
  o.egress = 9;
  std::int64_t gaps = 0;
  const ServeResult r = serve(w, backend, o);
  for (const RequestRecord& x : r.records) {
    ASSERT_EQ(x.queued, x.arrival + 7);
    ASSERT_LE(x.queued, x.scheduled);
    ASSERT_LE(x.scheduled, x.prefill_done);
    ASSERT_LT(x.prefill_done, x.first_token - 9);
    ASSERT_LE(x.first_token, x.finish);
    gaps += x.output_len - 1;
  }
  EXPECT_EQ(r.metrics.itl.count, gaps) << "one gap for every token but the first";
}

// The gaps of all requests add up to what lies between their first and last tokens.
TEST(Laws, GapsAddUp) {
  PoissonWorkload w(2000, 30, 300, 60, 9, true);
  ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  const ServeResult r = serve(w, backend, toy::options(150, 16, 512, 64));
  EXPECT_GT(r.metrics.preemptions, 0);
  double between = 0;
  for (const RequestRecord& x : r.records) between += to_ms(x.finish - x.first_token);
  EXPECT_NEAR(r.metrics.itl.mean * static_cast<double>(r.metrics.itl.count) / between, 1, 1e-9);
}

}  // namespace
}  // namespace foretoken
