// Contradictions in a workload, and the messages that resolve them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support.h"

namespace foretoken {
namespace {

using test::error_of;
using test::make;
using test::synthetic;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message(const WorkloadConfig& c, const std::filesystem::path& folder = ".") {
  return error_of([&] { make(c, folder); });
}

TEST(WorkloadConfig, NothingGivenNamesTheKeys) {
  EXPECT_EQ(message(synthetic(1, 1)),
            "s.json:/workload: nothing says when requests come; give trace, request_rate, stages, "
            "max_concurrency or "
            "all_at_once");
  WorkloadConfig c;
  c.request_rate = 1;
  EXPECT_THAT(message(c),
              StartsWith("s.json:/workload: input_len is missing; give input_len and output_len"));
  c.input_len = test::fixed(5);
  EXPECT_THAT(message(c), HasSubstr("output_len is missing"));
}

TEST(WorkloadConfig, ATraceBringsItsOwnLengths) {
  WorkloadConfig c = synthetic(1, 1);
  c.trace = "t.csv";
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/input_len: the trace brings its own"));
  c.input_len.reset();
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/output_len:"));
  c.output_len.reset();
  c.shared_prefix = SharedPrefix{};
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/shared_prefix:"));
}

TEST(WorkloadConfig, OneTimingOnly) {
  WorkloadConfig c = synthetic(1, 1);
  c.request_rate = 1;
  c.stages = {{1, 1}};
  EXPECT_THAT(message(c), HasSubstr("remove one of request_rate and stages"));
  c.request_rate.reset();
  c.max_concurrency = 3;
  EXPECT_THAT(message(c), HasSubstr("remove one of max_concurrency and stages"));
  c.stages.clear();
  c.all_at_once = true;
  EXPECT_THAT(message(c), HasSubstr("remove all_at_once or max_concurrency"));
  c.max_concurrency.reset();
  c.rate_scale = 2;
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/rate_scale: only the recorded arrivals"));
  c.rate_scale = 1;
  c.arrival = "gamma";
  EXPECT_THAT(message(c), HasSubstr("gamma arrivals need request_rate or stages"));
}

TEST(WorkloadConfig, BurstinessNeedsGamma) {
  WorkloadConfig c = synthetic(1, 1);
  c.request_rate = 1;
  c.burstiness = 0.5;
  EXPECT_THAT(message(c), HasSubstr("set \"arrival\": \"gamma\""));
}

TEST(WorkloadConfig, NumPromptsFitsWhatThereIs) {
  const test::TemporaryFolder folder;
  folder.write("t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n1,1,1\n");
  WorkloadConfig c;
  c.trace = "t.csv";
  c.num_prompts = 3;
  EXPECT_EQ(message(c, folder.path()),
            "s.json:/workload/num_prompts: 3, but t.csv has 2 requests; lower it or remove it");
  c = synthetic(1, 1);
  c.stages = {{2, 2}};
  c.arrival = "constant";
  c.num_prompts = 5;
  EXPECT_THAT(message(c), HasSubstr("5, but the stages yield 4 requests"));
}

TEST(WorkloadConfig, NumPromptsDefaults) {
  WorkloadConfig c = synthetic(1, 1);
  c.request_rate = 1;
  EXPECT_EQ(make(c)->total_requests(), 1000);
  c.request_rate.reset();
  c.max_concurrency = 5;
  EXPECT_EQ(make(c)->total_requests(), 50);
  c.max_concurrency.reset();
  c.all_at_once = true;
  EXPECT_EQ(make(c)->total_requests(), 1000);
}

TEST(WorkloadConfig, SharedPrefixHasToFit) {
  WorkloadConfig c = synthetic(100, 1);
  c.request_rate = 1;
  c.shared_prefix = SharedPrefix{.prefix_len = 100};
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/shared_prefix/prefix_len: 100 tokens, but input_len"));
  c.shared_prefix = SharedPrefix{.prefix_len = 10, .think_time_s = 1};
  EXPECT_THAT(message(c), HasSubstr("set \"multi_turn\": true"));
  c.shared_prefix = SharedPrefix{.groups = 2, .users_per_group = 3, .multi_turn = true};
  c.request_rate.reset();
  c.max_concurrency = 7;
  EXPECT_THAT(
      message(c),
      HasSubstr("7 conversations at a time (max_concurrency) need as many users; 2 groups of 3 have 6"));
}

TEST(WorkloadConfig, StaysOnTheVirtualClock) {
  WorkloadConfig c = synthetic(100, 1);
  c.request_rate = 1e-6;
  EXPECT_THAT(message(c), HasSubstr("1,000 requests take more than 92 days"));
  c.request_rate = 1;
  c.shared_prefix = SharedPrefix{.multi_turn = true, .turns = 4, .think_time_s = 1e7};
  EXPECT_THAT(message(c), HasSubstr("/think_time_s: a conversation lasts more than 92 days"));
  c = synthetic(100, 1);
  c.stages = {{1, 1}, {1, 1e7}};
  EXPECT_THAT(message(c), StartsWith("s.json:/workload/stages: longer than 92 days"));
}

TEST(WorkloadConfig, LengthsOnlyNeedArrivals) {
  const test::TemporaryFolder folder;
  folder.write("t.csv", "num_prefill_tokens,num_decode_tokens\n5,1\n6,1\n");
  WorkloadConfig c;
  c.trace = "t.csv";
  EXPECT_THAT(message(c, folder.path()), HasSubstr("lengths but no arrivals; add request_rate"));
  c.request_rate = 10;
  const auto workload = make(c, folder.path());
  EXPECT_EQ(workload->total_requests(), 2);
  EXPECT_EQ(workload->means().request_rate, 10);
  EXPECT_EQ(test::drain(*workload)[1].input_len, 6);
}

TEST(WorkloadConfig, TraceWithStagesTakesAsManyAsArrive) {
  const test::TemporaryFolder folder;
  folder.write("t.csv", "num_prefill_tokens,num_decode_tokens\n5,1\n7,1\n900,1\n");
  WorkloadConfig c;
  c.trace = "t.csv";
  c.arrival = "constant";
  c.stages = {{1, 2}};
  const auto workload = make(c, folder.path());
  EXPECT_EQ(workload->total_requests(), 2);
  EXPECT_DOUBLE_EQ(workload->means().input_len, 6);
  EXPECT_EQ(test::drain(*workload).back().arrival, 1'000'000'000'000);
}

}  // namespace
}  // namespace foretoken
