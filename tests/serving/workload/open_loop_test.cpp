// Arrival processes: rates, burstiness, stages, shared prefixes, independence of draws.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/random.h"
#include "serving/content.h"
#include "support.h"

namespace foretoken {
namespace {

using test::drain;
using test::make;
using test::synthetic;

struct Gaps {
  double mean = 0, cv = 0;
};
Gaps gaps_of(const std::vector<Request>& requests) {
  std::vector<double> gaps;
  for (std::size_t i = 1; i < requests.size(); ++i) {
    gaps.push_back(to_seconds(requests[i].arrival - requests[i - 1].arrival).value);
  }
  double sum = 0, squares = 0;
  for (const double g : gaps) sum += g;
  const double mean = sum / static_cast<double>(gaps.size());
  for (const double g : gaps) squares += (g - mean) * (g - mean);
  return {mean, std::sqrt(squares / static_cast<double>(gaps.size())) / mean};
}

TEST(OpenLoop, PoissonGapsAreExponential) {
  WorkloadConfig c = synthetic(100, 10);
  c.request_rate = 8;
  c.num_prompts = 200'000;
  const auto workload = make(c);
  EXPECT_EQ(workload->total_requests(), 200'000);
  EXPECT_EQ(workload->means().request_rate, 8);
  EXPECT_EQ(workload->describe(), "synthetic, 200,000 requests at 8 a second");
  const Gaps gaps = gaps_of(drain(*workload));
  EXPECT_NEAR(gaps.mean, 0.125, 0.00125);
  EXPECT_NEAR(gaps.cv, 1, 0.01);
}

TEST(OpenLoop, BurstinessIsTheGammaShape) {
  for (const double shape : {0.25, 1.0, 4.0}) {
    WorkloadConfig c = synthetic(100, 10);
    c.request_rate = 20;
    c.arrival = "gamma";
    c.burstiness = shape;
    c.num_prompts = 200'000;
    const Gaps gaps = gaps_of(drain(*make(c)));
    EXPECT_NEAR(gaps.mean, 0.05, 0.05 * 0.02) << shape;
    EXPECT_NEAR(gaps.cv, 1 / std::sqrt(shape), 0.02 / std::sqrt(shape)) << shape;
  }
}

TEST(OpenLoop, ConstantArrivalsAreEvenlySpaced) {
  WorkloadConfig c = synthetic(100, 10);
  c.request_rate = 4;
  c.arrival = "constant";
  c.num_prompts = 3;
  const auto requests = drain(*make(c));
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].arrival, 0);
  EXPECT_EQ(requests[1].arrival, 250'000'000'000);
  EXPECT_EQ(requests[2].arrival, 500'000'000'000);
}

TEST(OpenLoop, StagesFollowOneAnother) {
  WorkloadConfig c = synthetic(100, 10);
  c.arrival = "constant";
  c.stages = {{2, 3}, {10, 1}, {1, 4}};
  const auto workload = make(c);
  EXPECT_EQ(workload->total_requests(), 20);  // 6 + 10 + 4
  EXPECT_DOUBLE_EQ(workload->means().request_rate, 20.0 / 8);
  int in_second_stage = 0;
  for (const Request& r : drain(*workload)) {
    const double t = to_seconds(r.arrival).value;
    in_second_stage += t >= 3 && t < 4;
    EXPECT_LT(t, 8);
  }
  EXPECT_EQ(in_second_stage, 10);
}

TEST(OpenLoop, PoissonStagesHaveTheirOwnRates) {
  WorkloadConfig c = synthetic(100, 10);
  c.stages = {{100, 100}, {10, 1000}};
  const auto workload = make(c);
  const auto requests = drain(*workload);
  EXPECT_EQ(static_cast<std::int64_t>(requests.size()), workload->total_requests());
  EXPECT_NEAR(static_cast<double>(requests.size()), 20'000, 600);
  std::int64_t first = 0;
  for (const Request& r : requests) first += r.arrival < 100 * 1'000'000'000'000;
  EXPECT_NEAR(static_cast<double>(first), 10'000, 400);
}

TEST(OpenLoop, AllAtOnceArrivesAtZero) {
  WorkloadConfig c = synthetic(100, 10);
  c.all_at_once = true;
  c.num_prompts = 5;
  const auto workload = make(c);
  EXPECT_EQ(workload->means().request_rate, 0);
  EXPECT_EQ(workload->longest(), 110);
  std::int64_t id = 0;
  for (const Request& r : drain(*workload)) {
    EXPECT_EQ(r.arrival, 0);
    EXPECT_EQ(r.id, id++);
    EXPECT_EQ(r.num_runs, 0);
  }
  EXPECT_EQ(id, 5);
}

TEST(OpenLoop, DrawsDependOnTheRequestAlone) {
  WorkloadConfig c = synthetic(100, 10);
  c.input_len = test::lognormal(1000, 5000);
  c.output_len = test::uniform(1, 500);
  c.request_rate = 8;
  c.num_prompts = 200;
  const auto all = drain(*make(c));
  EXPECT_EQ(drain(*make(c)).back().arrival, all.back().arrival);
  c.num_prompts = 50;
  c.arrival = "constant";
  c.input_len = test::fixed(3);
  const auto part = drain(*make(c));
  for (std::size_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i].output_len, all[i].output_len);
  c.seed = 1;
  const auto other = drain(*make(c));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), other.begin(), [](const Request& a, const Request& b) {
                return a.output_len == b.output_len;
              }) == false);
}

TEST(OpenLoop, SharedPrefixesLeadPrivateRests) {
  WorkloadConfig c = synthetic(300, 10);
  c.input_len = test::uniform(50, 300);
  c.request_rate = 8;
  c.num_prompts = 3000;
  c.shared_prefix = SharedPrefix{.groups = 3, .users_per_group = 5, .prefix_len = 100};
  const auto workload = make(c);
  std::map<std::uint64_t, int> groups;
  double input = 0;
  while (workload->next_arrival()) {
    const Request r = workload->pop();
    const auto runs = workload->content(r);
    ASSERT_EQ(runs.size(), 2u);
    EXPECT_EQ(runs[0].tokens, 100);
    ++groups[runs[0].content];
    EXPECT_EQ(runs[1].content, private_prompt_content(r.id));
    EXPECT_EQ(runs[0].tokens + runs[1].tokens, r.input_len);
    EXPECT_GE(r.input_len, 101);
    input += r.input_len;
    workload->finished(r, r.arrival);
  }
  ASSERT_EQ(groups.size(), 3u);
  for (std::int64_t g = 0; g < 3; ++g) EXPECT_NEAR(groups[shared_prefix_content(g)], 1000, 120);
  EXPECT_NEAR(input / 3000 / workload->means().input_len, 1, 0.02);
}

TEST(OpenLoop, AMillionRequestsStream) {
  WorkloadConfig c = synthetic(300, 10);
  c.request_rate = 1000;
  c.num_prompts = 1'000'000;
  c.shared_prefix = SharedPrefix{.groups = 3, .users_per_group = 5, .prefix_len = 100};
  const auto workload = make(c);
  std::int64_t count = 0;
  std::int32_t largest_slot = 0;
  while (workload->next_arrival()) {
    const Request r = workload->pop();
    largest_slot = std::max(largest_slot, r.first_run);
    workload->finished(r, r.arrival);
    ++count;
  }
  EXPECT_EQ(count, 1'000'000);
  EXPECT_LE(largest_slot, 1);  // contents are kept for the request in flight and the one ahead
}

TEST(OpenLoop, ContentIdsOfDifferentKindsNeverMeet) {
  std::set<std::uint64_t> ids;
  for (std::int64_t i = 0; i < 1000; ++i) {
    ids.insert({private_prompt_content(i), generated_content(i), shared_prefix_content(i),
                hashed_block_content(static_cast<std::uint64_t>(i)),
                hashed_block_content(mix64(static_cast<std::uint64_t>(i + 1)))});
  }
  EXPECT_EQ(ids.size(), 5000u);
}

}  // namespace
}  // namespace foretoken
