// The published traces in scenarios/traces have the counts and means of their README.
#include <gtest/gtest.h>

#include <cstdlib>

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

// Measured data that is not part of the program: every trace of it reads, with the counts its index gives.
TEST(SharedTraces, AllRead) {
  const char* given = std::getenv("FORETOKEN_SHARED");
  const std::filesystem::path shared =
      given ? std::filesystem::path(given) : std::filesystem::path(FORETOKEN_SOURCE_DIR) / "../shared";
  if (!std::filesystem::exists(shared / "data/traces")) GTEST_SKIP() << "no shared data beside the sources";
  struct Expected {
    std::string file, format;
    std::int64_t requests;
    bool in_order = true;
  };
  for (const Expected& e : {
           Expected{"traces/azure2023_conv.csv.gz", "Azure", 19'366},
           Expected{"traces/mooncake_synthetic.jsonl.gz", "Mooncake", 3'993},
           Expected{"traces/vidur_splitwise_conv.csv.gz", "Vidur", 19'366},
           Expected{"traces/vidur_arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz", "Vidur",
                    28'257},
           Expected{"traces/apex_traces.csv.gz", "APEX", 11'252,
                    false},  // twelve traces, one after the other
           Expected{"e2e/llmservingsim/workload_sharegpt-llama-3.1-8b-300-sps10.csv", "LLMServingSim", 300},
           Expected{"e2e/llmservingsim/ispass26_workload_sharegpt_pulse_req50_n6_delay15_pc.csv",
                    "LLMServingSim", 300},
       }) {
    const TraceSummary s = scan_trace(shared / "data" / e.file, e.in_order);
    EXPECT_EQ(s.format, e.format) << e.file;
    EXPECT_EQ(s.requests, e.requests) << e.file;
  }
}

// Our own copies were made from these; Vidur's is the same recording in its own columns.
TEST(SharedTraces, VidursCopyIsTheAzureTrace) {
  const char* given = std::getenv("FORETOKEN_SHARED");
  const std::filesystem::path shared =
      given ? std::filesystem::path(given) : std::filesystem::path(FORETOKEN_SOURCE_DIR) / "../shared";
  const auto file = shared / "data/traces/vidur_splitwise_conv.csv.gz";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no shared data beside the sources";
  const auto ours = open_trace(shipped("azure-conv-2023.csv.gz")), theirs = open_trace(file);
  TraceEntry a, b;
  while (ours->next(a)) {
    ASSERT_TRUE(theirs->next(b));
    EXPECT_EQ(a.input_len, b.input_len);
    EXPECT_EQ(a.output_len, b.output_len);
    EXPECT_NEAR(to_seconds(a.arrival).value, to_seconds(b.arrival).value, 1e-6);
  }
}

}  // namespace
}  // namespace foretoken
