// Lengths: parameters are met by large samples, means are exact, impossible parameters are refused.
#include "serving/length_distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support.h"

namespace foretoken {
namespace {

using test::error_of;
using test::TemporaryFolder;
using ::testing::HasSubstr;

LengthSampler sampler(const LengthDistribution& d) { return LengthSampler(d, ".", "/input_len"); }

std::vector<double> draw(const LengthSampler& s, std::int64_t count) {
  std::vector<double> lengths;
  for (std::int64_t i = 0; i < count; ++i) {
    lengths.push_back(static_cast<double>(s.draw(CounterRandom(7, 2, static_cast<std::uint64_t>(i)))));
  }
  return lengths;
}

double mean_of(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}

TEST(LengthDistribution, NormalCdfIsTheInverseOfTheQuantile) {
  for (const double p : {1e-12, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-6}) {
    EXPECT_NEAR(normal_cdf(inverse_normal(p)) / p, 1, 1e-8) << p;
  }
  EXPECT_EQ(normal_cdf(40), 1);
  EXPECT_EQ(normal_cdf(-40), 0);
}

TEST(LengthDistribution, LognormalMeetsMeanAndPercentile) {
  const LengthSampler s = sampler(test::lognormal(1200, 8000));
  auto lengths = draw(s, 200'000);
  EXPECT_NEAR(mean_of(lengths) / 1200, 1, 0.01);
  std::sort(lengths.begin(), lengths.end());
  EXPECT_NEAR(lengths[198'000] / 8000, 1, 0.03);  // sampling error of this quantile is 1 %
  EXPECT_NEAR(s.mean() / 1200, 1, 1e-5);
  // Both equations hold exactly, with the smaller of the two roots.
  EXPECT_NEAR(std::exp(s.mu() + s.sigma() * s.sigma() / 2), 1200, 1e-8);
  EXPECT_NEAR(std::exp(s.mu() + 2.3263478740408408 * s.sigma()), 8000, 1e-7);
  EXPECT_LT(s.sigma(), 2.3263478740408408);
}

TEST(LengthDistribution, PercentileWithinOnePercentOfNarrowerLengths) {
  auto lengths = draw(sampler(test::lognormal(500, 1000)), 200'000);
  EXPECT_NEAR(mean_of(lengths) / 500, 1, 0.01);
  std::sort(lengths.begin(), lengths.end());
  EXPECT_NEAR(lengths[198'000] / 1000, 1, 0.01);
}

TEST(LengthDistribution, MeanCountsEveryClip) {
  LengthDistribution d = test::lognormal(60, 700);
  d.min = 20;
  d.max = 100;
  for (const std::int64_t at_least : {std::int64_t{1}, std::int64_t{50}}) {
    const LengthSampler s = sampler(d);
    auto lengths = draw(s, 200'000);
    for (double& x : lengths) x = std::max(x, static_cast<double>(at_least));
    EXPECT_NEAR(mean_of(lengths) / s.mean(at_least), 1, 0.004);
  }
  const LengthSampler s = sampler(d);
  EXPECT_EQ(s.largest(), 100);
  for (const double x : draw(s, 10'000)) {
    EXPECT_GE(x, 20);
    EXPECT_LE(x, 100);
  }
  EXPECT_EQ(s.mean(100), 100);
}

TEST(LengthDistribution, LognormalWithoutSpreadIsFixed) {
  const LengthSampler s = sampler(test::lognormal(300, 300));
  EXPECT_EQ(s.sigma(), 0);
  for (const double x : draw(s, 100)) EXPECT_EQ(x, 300);
  EXPECT_EQ(s.mean(), 300);
}

TEST(LengthDistribution, UniformIncludesBothEnds) {
  const LengthSampler s = sampler(test::uniform(5, 8));
  const auto lengths = draw(s, 10'000);
  for (const double x : {5.0, 6.0, 7.0, 8.0}) {
    EXPECT_NEAR(static_cast<double>(std::count(lengths.begin(), lengths.end(), x)), 2500, 200);
  }
  EXPECT_DOUBLE_EQ(s.mean(), 6.5);
  EXPECT_DOUBLE_EQ(s.mean(7), (7 + 7 + 7 + 8) / 4.0);
}

TEST(LengthDistribution, EmpiricalFollowsWeights) {
  const TemporaryFolder folder;
  folder.write("lengths.csv", "length,weight\n100,1\n\n300,3\n100,0\n");
  LengthDistribution d;
  d.distribution = "empirical";
  d.file = "lengths.csv";
  const LengthSampler s(d, folder.path(), "/input_len");
  const auto lengths = draw(s, 10'000);
  EXPECT_NEAR(static_cast<double>(std::count(lengths.begin(), lengths.end(), 300)), 7500, 200);
  EXPECT_DOUBLE_EQ(s.mean(), 250);
  EXPECT_DOUBLE_EQ(s.mean(200), 275);
  EXPECT_EQ(s.largest(), 300);
}

TEST(LengthDistribution, RefusesWhatCannotBe) {
  EXPECT_THAT(error_of([] { sampler(test::lognormal(100, 2000)); }),
              HasSubstr("/input_len/p99: no lognormal"));
  EXPECT_THAT(error_of([] { sampler(test::lognormal(100, 2000)); }), HasSubstr("the most is 14.97 times"));
  EXPECT_THAT(error_of([] { sampler(test::lognormal(100, 90)); }), HasSubstr("below the mean"));
  EXPECT_THAT(error_of([] { sampler(test::uniform(9, 8)); }), HasSubstr("min 9 is above max 8"));
  EXPECT_THAT(error_of([] { sampler(test::fixed(1.5)); }),
              HasSubstr("/input_len/value: 1.5 is not a whole number"));
  EXPECT_THAT(error_of([] { sampler(test::fixed(3e9)); }),
              HasSubstr("not a whole number of tokens from 1 to"));
  EXPECT_THAT(error_of([] { sampler(LengthDistribution{}); }), HasSubstr("needs \"value\""));
  LengthDistribution d = test::fixed(3);
  d.p99 = 4;
  EXPECT_THAT(error_of([&] { sampler(d); }),
              HasSubstr("/input_len/p99: a fixed distribution has no \"p99\""));
}

TEST(LengthDistribution, RefusesBadFilesOfLengths) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& text) {
    LengthDistribution d;
    d.distribution = "empirical";
    d.file = folder.write("lengths.txt", text).string();
    return error_of([&] { sampler(d); });
  };
  EXPECT_THAT(message("10\nten\n"), HasSubstr("lengths.txt:2: \"ten\" is neither a length"));
  EXPECT_THAT(message("10\n0\n"), HasSubstr("lengths.txt:2: 0 is not a whole number"));
  EXPECT_THAT(message("10,-1\n"), HasSubstr("the weight -1 is negative"));
  EXPECT_THAT(message("length\n"), HasSubstr("no length in the file"));
}

}  // namespace
}  // namespace foretoken
