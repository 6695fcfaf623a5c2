// Random numbers: the same bytes everywhere, and the moments the distributions must have.
#include "base/random.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace foretoken {
namespace {

// Distance in representable doubles between the result and the long double value (64-bit mantissa on x86).
double ulps(double got, long double truth) {
  const double near = static_cast<double>(truth);
  const double ulp = std::nextafter(std::abs(near), std::numeric_limits<double>::infinity()) - std::abs(near);
  return static_cast<double>(std::abs(static_cast<long double>(got) - truth) / static_cast<long double>(ulp));
}

TEST(ExactFunctions, LogIsWithinTwoUlp) {
  CounterRandom random(1, 1);
  double worst = 0;
  for (int i = 0; i < 300'000; ++i) {
    // All magnitudes, the neighbourhood of 1, and (0, 1), which the distributions use.
    const double any = std::bit_cast<double>(random.bits() >> 1);
    const double values[] = {any, 1 + (random.uniform() - 0.5) * 1e-3, random.uniform(),
                             0.5 + random.uniform()};
    for (const double x : values)
      if (std::isfinite(x) && x > 0)
        worst = std::max(worst, ulps(exact_log(x), std::log(static_cast<long double>(x))));
  }
  EXPECT_LT(worst, 2.0);
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_EQ(exact_log(1), 0);
  EXPECT_EQ(exact_log(0), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(exact_log(-1)));
  EXPECT_NEAR(exact_log(std::numeric_limits<double>::denorm_min()), -744.4400719213812, 1e-12);
}

TEST(ExactFunctions, ExpIsWithinTwoUlp) {
  CounterRandom random(1, 2);
  double worst = 0;
  for (int i = 0; i < 300'000; ++i) {
    const double values[] = {(random.uniform() - 0.5) * 1415, random.uniform() - 0.5,
                             (random.uniform() - 0.5) * 1e-6};
    for (const double x : values)
      worst = std::max(worst, ulps(exact_exp(x), std::exp(static_cast<long double>(x))));
  }
  EXPECT_LT(worst, 2.0);
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_EQ(exact_exp(0), 1);
  EXPECT_EQ(exact_exp(-1e9), 0);
  EXPECT_EQ(exact_exp(1e9), std::numeric_limits<double>::infinity());
  EXPECT_GT(exact_exp(-745), 0);
  EXPECT_LT(exact_exp(709.78), std::numeric_limits<double>::infinity());
}

TEST(ExactFunctions, InverseNormalInvertsTheDistribution) {
  // Wichura's own check values, AS 241: p = 0.25, 0.001, 1e-20.
  EXPECT_NEAR(inverse_normal(0.25), -0.6744897501960817, 1e-15);
  EXPECT_NEAR(inverse_normal(0.001), -3.090232306167814, 1e-14);
  EXPECT_NEAR(inverse_normal(1e-20), -9.262340089798408, 1e-13);
  EXPECT_EQ(inverse_normal(0.5), 0);
  for (double p = 0.0005; p < 1; p += 0.0005) {
    EXPECT_NEAR(0.5 * std::erfc(-inverse_normal(p) / std::sqrt(2.0)), p, 1e-15);
  }
  EXPECT_THROW(inverse_normal(0), std::logic_error);
  EXPECT_THROW(inverse_normal(1), std::logic_error);
}

TEST(Random, PublishedSplitMix64Sequence) {
  // The generator seeded with 1234567: state advances by the golden ratio, output is the finaliser. Values of
  // the reference implementation (prng.di.unimi.it/splitmix64.c).
  const std::uint64_t golden = 0x9e3779b97f4a7c15u;
  EXPECT_EQ(mix64(1234567u + golden), 6457827717110365317u);
  EXPECT_EQ(mix64(1234567u + 2 * golden), 3203168211198807973u);
  EXPECT_EQ(mix64(1234567u + 3 * golden), 9817491932198370423u);
}

TEST(Random, DrawsDependOnSeedStreamAndIndexOnly) {
  CounterRandom a(7, 3, 11), b(7, 3, 11);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.bits(), b.bits());
  const std::uint64_t first = CounterRandom(7, 3, 11).bits();
  EXPECT_NE(first, CounterRandom(8, 3, 11).bits());
  EXPECT_NE(first, CounterRandom(7, 4, 11).bits());
  EXPECT_NE(first, CounterRandom(7, 3, 12).bits());
  EXPECT_NE(CounterRandom(7, 3, 4).bits(), CounterRandom(7, 4, 3).bits());
}

TEST(Random, ConsecutiveIndexesAreUncorrelated) {
  // First draws of neighbouring requests: mean product of centred uniforms has standard error 1/12/sqrt(n).
  const int n = 200'000;
  double sum = 0, before = CounterRandom(1, 1, 0).uniform();
  for (int i = 1; i <= n; ++i) {
    const double u = CounterRandom(1, 1, static_cast<std::uint64_t>(i)).uniform();
    sum += (u - 0.5) * (before - 0.5);
    before = u;
  }
  EXPECT_LT(std::abs(sum / n), 5.0 / 12 / std::sqrt(n));
}

TEST(Random, UniformIntIsUnbiasedWithinItsBounds) {
  CounterRandom random(5, 1);
  std::vector<int> counts(6);
  const int n = 600'000;
  for (int i = 0; i < n; ++i) {
    const auto v = random.uniform_int(-2, 3);
    ASSERT_TRUE(v >= -2 && v <= 3);
    ++counts[static_cast<std::size_t>(v + 2)];
  }
  double chi2 = 0;
  for (const int c : counts) chi2 += (c - n / 6.0) * (c - n / 6.0) / (n / 6.0);
  EXPECT_LT(chi2, 25.7);  // 5 degrees of freedom, p = 1e-4
  EXPECT_EQ(random.uniform_int(9, 9), 9);
  random.uniform_int(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
  EXPECT_THROW(random.uniform_int(2, 1), std::logic_error);
}

struct Moments {
  double mean, variance;
};
template <class Draw>
Moments moments(int n, Draw draw) {
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double v = draw();
    sum += v;
    squares += v * v;
  }
  const double mean = sum / n;
  return {mean, squares / n - mean * mean};
}

TEST(Random, MomentsOfTheDistributions) {
  CounterRandom random(11, 1);
  const int n = 400'000;
  const double root = std::sqrt(n);
  const Moments uniform = moments(n, [&] { return random.uniform(); });
  EXPECT_NEAR(uniform.mean, 0.5, 5 * 0.2887 / root);
  EXPECT_NEAR(uniform.variance, 1.0 / 12, 5 * 0.0745 / root);
  const Moments exponential = moments(n, [&] { return random.exponential(); });
  EXPECT_NEAR(exponential.mean, 1, 5 / root);
  EXPECT_NEAR(exponential.variance, 1, 5 * 2.83 / root);
  const Moments normal = moments(n, [&] { return random.normal(); });
  EXPECT_NEAR(normal.mean, 0, 5 / root);
  EXPECT_NEAR(normal.variance, 1, 5 * 1.42 / root);
  for (const double shape : {0.25, 0.5, 1.0, 2.5, 20.0}) {
    // Gamma(k): mean k, variance k, fourth central moment 3k^2 + 6k.
    const Moments gamma = moments(n, [&] { return random.gamma(shape); });
    EXPECT_NEAR(gamma.mean, shape, 5 * std::sqrt(shape) / root) << shape;
    EXPECT_NEAR(gamma.variance, shape, 5 * std::sqrt(2 * shape * shape + 6 * shape) / root) << shape;
  }
  EXPECT_THROW(random.gamma(0), std::logic_error);
}

TEST(Random, GoldenDrawsAreTheSameOnEveryMachine) {
  CounterRandom random(42, 1, 7);
  std::uint64_t digest = 0;
  for (int i = 0; i < 1000; ++i) {
    for (const double v :
         {random.uniform(), random.exponential(), random.normal(), random.gamma(0.5), random.gamma(3)})
      digest = mix64(digest ^ std::bit_cast<std::uint64_t>(v));
  }
  EXPECT_EQ(digest, 6890607130166428931u);
}

}  // namespace
}  // namespace foretoken
