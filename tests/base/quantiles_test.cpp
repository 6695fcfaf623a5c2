// Histogram of picoseconds: exact counts and sums, quantiles within 0.1 %, the same in any order.
#include "base/quantiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "base/random.h"

namespace foretoken {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

void expect_same(const LogHistogram& a, const LogHistogram& b) {
  EXPECT_EQ(a.count(), b.count());
  EXPECT_EQ(a.min(), b.min());
  EXPECT_EQ(a.max(), b.max());
  EXPECT_EQ(a.mean(), b.mean());
  EXPECT_EQ(a.stddev(), b.stddev());
  for (double q = 0; q <= 1; q += 0.001) ASSERT_EQ(a.quantile(q), b.quantile(q)) << q;
}

TEST(LogHistogram, SmallValuesAreExact) {
  LogHistogram h;
  for (const int v : {3, 1, 2, 10}) h.add(v);
  EXPECT_EQ(h.quantile(0), 1);
  EXPECT_EQ(h.quantile(0.5), 2.5);
  EXPECT_EQ(h.quantile(1), 10);
  EXPECT_EQ(h.mean(), 4);
  EXPECT_NEAR(h.stddev(), std::sqrt(12.5), 1e-12);
}

TEST(LogHistogram, EmptySingleAndExtremes) {
  LogHistogram h;
  EXPECT_EQ(h.quantile(0.5), 0);
  EXPECT_EQ(h.mean(), 0);
  EXPECT_EQ(h.stddev(), 0);
  h.add(123456789012345);
  for (const double q : {0.0, 0.5, 1.0}) EXPECT_EQ(h.quantile(q), 123456789012345.0);
  EXPECT_EQ(h.stddev(), 0);
  h.add(kLargest, 1000);
  h.add(0);
  EXPECT_EQ(h.quantile(1), static_cast<double>(kLargest));
  EXPECT_EQ(h.quantile(0), 0);
  EXPECT_NEAR(h.mean() / static_cast<double>(kLargest), 1000.0 / 1002, 1e-4);
  EXPECT_THROW(h.add(-1), std::logic_error);
  EXPECT_THROW(h.add(1, -1), std::logic_error);
  EXPECT_THROW(h.add_ramp(kLargest - 5, 2, 10, 1), std::logic_error);
}

TEST(LogHistogram, QuantilesWithinATenthOfAPercent) {
  for (const double spread : {0.01, 0.5, 3.0}) {
    CounterRandom random(1, 9);
    for (const int n : {2, 10, 1000, 50'000}) {
      LogHistogram h;
      std::vector<double> values;
      double sum = 0;
      for (int i = 0; i < n; ++i) {
        const auto v = static_cast<std::int64_t>(3e10 * exact_exp(spread * random.normal()));
        h.add(v);
        values.push_back(static_cast<double>(v));
        sum += static_cast<double>(v);
      }
      std::sort(values.begin(), values.end());
      for (double q = 0; q <= 1; q += 0.005) {
        const double truth = linear_quantile(values, q);
        EXPECT_NEAR(h.quantile(q), truth, 0.001 * truth) << n << " " << q;
      }
      double squares = 0;
      for (const double v : values) squares += (v - sum / n) * (v - sum / n);
      EXPECT_NEAR(h.mean(), sum / n, 1e-12 * sum);
      // A midpoint is off by at most half a bucket, 2^-11 of the value, so sigma by at most 2^-11 of the root
      // mean square.
      const double root_mean_square = std::sqrt(squares / n + sum / n * (sum / n));
      EXPECT_NEAR(h.stddev(), std::sqrt(squares / n), 0x1p-11 * root_mean_square + 1);
    }
  }
}

TEST(LogHistogram, RampEqualsTheLoop) {
  struct Ramp {
    std::int64_t first, increment, steps, count;
  };
  const Ramp ramps[] = {{0, 1, 5000, 1},
                        {1000, 3, 777, 2},
                        {5'000'000'000, 1'234'567, 3000, 4},
                        {1023, 0, 10, 7},
                        {kLargest - 9999, 1, 10'000, 1},
                        {100'000, -7, 10'001, 3},
                        {17, 1, 1, 1},
                        {2048, 1'000'000'007, 4000, 1},
                        {12, 5, 0, 3},
                        {0, kLargest, 2, 5}};
  LogHistogram all_ramps, all_loops;
  for (const Ramp& r : ramps) {
    LogHistogram ramp, loop;
    ramp.add_ramp(r.first, r.increment, r.steps, r.count);
    for (std::int64_t i = 0; i < r.steps; ++i) loop.add(r.first + i * r.increment, r.count);
    expect_same(ramp, loop);
    all_ramps.merge(ramp);
    all_loops.merge(loop);
  }
  expect_same(all_ramps, all_loops);
}

TEST(LogHistogram, RampCostIsPerBucketNotPerStep) {
  LogHistogram h;
  h.add_ramp(1'000'000'000, 1, 1'000'000'000'000, 1);  // 10^12 steps would take an hour one by one
  EXPECT_EQ(h.count(), 1'000'000'000'000);
  EXPECT_EQ(h.mean(), 1'000'000'000 + (1e12 - 1) / 2);
}

TEST(LogHistogram, AnyOrderOfAddsAndMergesGivesTheSame) {
  CounterRandom random(2, 2);
  std::vector<std::int64_t> values;
  for (int i = 0; i < 5000; ++i) values.push_back(random.uniform_int(0, 1'000'000'000'000));
  LogHistogram forward, backward, parts[7], merged;
  for (const auto v : values) forward.add(v);
  std::reverse(values.begin(), values.end());
  for (const auto v : values) backward.add(v);
  for (std::size_t i = 0; i < values.size(); ++i) parts[i % 7].add(values[i]);
  for (int i = 6; i >= 0; --i) merged.merge(parts[i]);
  expect_same(forward, backward);
  expect_same(forward, merged);
}

TEST(LinearQuantile, AsNumpy) {
  const std::vector<double> v{1, 2, 4, 8};
  EXPECT_EQ(linear_quantile(v, 0.5), 3);
  EXPECT_NEAR(linear_quantile(v, 0.9), 6.8, 1e-12);  // numpy.percentile([1, 2, 4, 8], 90)
  EXPECT_EQ(linear_quantile(v, 1), 8);
  EXPECT_EQ(linear_quantile({}, 0.5), 0);
}

}  // namespace
}  // namespace foretoken
