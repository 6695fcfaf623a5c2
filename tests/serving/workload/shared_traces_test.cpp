// The published traces in scenarios/traces have the counts and means of their README.
#include <gtest/gtest.h>

#include "serving/trace_reader.h"
#include "support.h"

namespace foretoken {
namespace {

std::filesystem::path shipped(const std::string& name) {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "scenarios/traces" / name;
}

TEST(ShippedTraces, AzureConversations) {
  WorkloadConfig c;
  c.trace = shipped("azure-conv-2023.csv.gz").string();
  const auto workload = test::make(c);
  EXPECT_EQ(workload->total_requests(), 19'366);
  EXPECT_EQ(workload->describe(), "Azure trace, 19,366 requests");
  EXPECT_NEAR(workload->means().input_len, 1154.6974, 1e-4);
  EXPECT_NEAR(workload->means().output_len, 211.1259, 1e-4);
  EXPECT_NEAR(workload->means().request_rate, 19'365 / 3501.721937, 1e-6);
  EXPECT_EQ(workload->longest(), 14'089);
  const auto requests = test::drain(*workload);
  ASSERT_EQ(requests.size(), 19'366u);
  EXPECT_EQ(requests.back().arrival, 3'501'721'937'000'000);
}

TEST(ShippedTraces, AzureCode) {
  const TraceSummary s = scan_trace(shipped("azure-code-2023.csv.gz"), true);
  EXPECT_EQ(s.requests, 8'819);
  EXPECT_NEAR(static_cast<double>(s.input_tokens) / 8819, 2047.8483, 1e-4);
  EXPECT_NEAR(static_cast<double>(s.output_tokens) / 8819, 27.8825, 1e-4);
}

TEST(ShippedTraces, MooncakeSharesPrefixes) {
  const TraceSummary s = scan_trace(shipped("mooncake-conversation.jsonl.gz"), true);
  EXPECT_EQ(s.requests, 12'031);
  EXPECT_NEAR(static_cast<double>(s.input_tokens) / 12031, 12035.0613, 1e-4);
  EXPECT_NEAR(static_cast<double>(s.output_tokens) / 12031, 342.6189, 1e-4);
  EXPECT_EQ(s.last_arrival, 3'536'999'000'000'000);
  WorkloadConfig c;
  c.trace = shipped("mooncake-conversation.jsonl.gz").string();
  c.num_prompts = 500;
  const auto workload = test::make(c);
  const Request first = workload->pop();
  const ContentRun system_prompt = workload->content(first)[0];
  int shared = 0;
  while (workload->next_arrival()) {
    const Request r = workload->pop();
    const auto runs = workload->content(r);
    std::int64_t tokens = 0;
    for (const ContentRun& run : runs) tokens += run.tokens;
    EXPECT_EQ(tokens, r.input_len);
    shared += runs[0].content == system_prompt.content;
    workload->finished(r, r.arrival);
  }
  EXPECT_GT(shared, 100);  // most conversations begin with the same block
}

}  // namespace
}  // namespace foretoken
