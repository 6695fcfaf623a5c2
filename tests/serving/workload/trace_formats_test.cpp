// Each format that is read, from a few lines in its own words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/content.h"
#include "serving/trace_reader.h"
#include "support.h"

namespace foretoken {
namespace {

using test::TemporaryFolder;
using ::testing::ElementsAre;

struct Read {
  std::string format;
  bool has_arrivals = false;
  std::vector<Picoseconds> arrivals;
  std::vector<std::pair<std::int64_t, std::int64_t>> lengths;
  std::vector<TraceEntry> entries;
  std::int64_t left_out = 0;
};

Read read_path(const std::filesystem::path& path) {
  Read read;
  const auto reader = open_trace(path);
  TraceEntry entry;
  while (reader->next(entry)) {
    read.arrivals.push_back(entry.arrival);
    read.lengths.emplace_back(entry.input_len, entry.output_len);
    read.entries.push_back(entry);
  }
  read.format = reader->format();
  read.has_arrivals = reader->has_arrivals();
  read.left_out = reader->left_out();
  return read;
}

Read read(const std::string& text) {
  const TemporaryFolder folder;
  return read_path(folder.write("trace", text));
}

TEST(TraceFormats, Azure2023) {
  const Read r = read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      "2023-11-16 18:15:46.6805900,374,44\r\n"
      "2023-11-16 18:15:50.9951690,396,109\r\n");
  EXPECT_EQ(r.format, "Azure");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 4'314'579'000'000));
  EXPECT_THAT(r.lengths, ElementsAre(std::pair(374, 44), std::pair(396, 109)));
}

TEST(TraceFormats, AzureWithOffsetsKeepsTheTimestamps) {
  const Read r = read(
      "arrival_s,TIMESTAMP,ContextTokens,GeneratedTokens\n0.0,2023-12-31 23:59:59.9799600,4808,10\n"
      "0.052,2024-01-01 00:00:00.0319600,3180,8\n");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 52'000'000'000));
}

TEST(TraceFormats, Azure2024HasZones) {
  const Read r = read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
      "2024-05-10T02:00:01.009930+02:00,2399,6\n2024-05-10T00:00:02Z,3,4\n");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 1'000'000'000'000, 1'990'070'000'000));
}

TEST(TraceFormats, TimestampsCountLeapDays) {
  using trace_detail::parse_timestamp;
  EXPECT_EQ(parse_timestamp("1970-01-01 00:00:00", "").seconds, 0);
  EXPECT_EQ(parse_timestamp("2024-02-29 12:00:00", "").seconds, 1'709'208'000);
  EXPECT_EQ(parse_timestamp("2024-03-01 00:00:00-0130", "").seconds, 1'709'251'200 + 5400);
}

TEST(TraceFormats, MooncakeSharesBlocksOf512Tokens) {
  const Read r = read(
      "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 500, \"hash_ids\": [0, 1, 2]}\n"
      "{\"timestamp\": 27482, \"input_length\": 1030, \"output_length\": 490, \"hash_ids\": [0, 1, 15]}\n");
  EXPECT_EQ(r.format, "Mooncake");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 27'482'000'000'000));
  const auto& a = r.entries[0].runs;
  const auto& b = r.entries[1].runs;
  ASSERT_EQ(a.size(), 3u);
  ASSERT_EQ(b.size(), 3u);
  EXPECT_EQ(a[0].content, hashed_block_content(0));
  EXPECT_EQ(a[1].content, b[1].content);
  EXPECT_NE(a[2].content, b[2].content);
  EXPECT_EQ(a[0].tokens, 512);
  EXPECT_EQ(a[2].tokens, 1100 - 1024);
  EXPECT_EQ(b[2].tokens, 6);
}

TEST(TraceFormats, BailianSharesBlocksOf16Tokens) {
  const Read r = read(
      "{\"chat_id\": 159, \"parent_chat_id\": -1, \"timestamp\": 61.114, \"input_length\": 33, "
      "\"output_length\": 132, "
      "\"type\": \"text\", \"turn\": 1, \"hash_ids\": [10, 11, 12]}\n"
      "{\"chat_id\": 160, \"parent_chat_id\": 159, \"timestamp\": 61.5, \"input_length\": 40, "
      "\"output_length\": 7, "
      "\"type\": \"text\", \"turn\": 2, \"hash_ids\": [10, 11]}\n");
  EXPECT_EQ(r.format, "Qwen Bailian");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 386'000'000'000));
  EXPECT_EQ(r.entries[0].runs[2].tokens, 1);
  EXPECT_EQ(r.entries[1].runs.size(), 2u);  // full blocks only: the workload adds the rest
  EXPECT_EQ(r.entries[1].turn, 2);
}

TEST(TraceFormats, BlocksHashedInFullLeaveAPrivateRest) {
  const TemporaryFolder folder;
  folder.write("t.jsonl",
               "{\"chat_id\": 1, \"timestamp\": 5, \"input_length\": 40, \"output_length\": 7, \"hash_ids\": "
               "[8, 9]}\n");
  WorkloadConfig c;
  c.trace = "t.jsonl";
  const auto workload = test::make(c, folder.path());
  const Request request = workload->pop();
  const auto runs = workload->content(request);
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[2].content, private_prompt_content(0));
  EXPECT_EQ(runs[2].tokens, 8);
}

TEST(TraceFormats, BurstGptLeavesOutFailedRequests) {
  const Read r = read(
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log "
      "Type\n5,ChatGPT,472,18,490,Conversation log\n"
      "45,ChatGPT,1087,0,1087,Conversation log\n118.5,GPT-4,417,276,693,API log\n");
  EXPECT_EQ(r.format, "BurstGPT");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 113'500'000'000'000));
  EXPECT_EQ(r.left_out, 1);
  const Read newer = read(
      "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      "0,same,1,GPT-4,100,10,110,Conversation log\n");
  EXPECT_EQ(newer.format, "BurstGPT");
}

TEST(TraceFormats, Splitwise) {
  const Read r = read(
      "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,0."
      "25,1,374,44\n"
      "1,2,0,0.5,1,396,109\n");
  EXPECT_EQ(r.format, "Splitwise");
  EXPECT_THAT(r.arrivals, ElementsAre(0, 250'000'000'000));
}

TEST(TraceFormats, VidurWithAndWithoutArrivals) {
  EXPECT_THAT(
      read("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n").arrivals,
      ElementsAre(0, 4'314'579'000'000));
  const Read lengths =
      read("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n");
  EXPECT_FALSE(lengths.has_arrivals);
  EXPECT_THAT(lengths.lengths, ElementsAre(std::pair(3772, 54)));
}

TEST(TraceFormats, LlmServingSimInEitherOrderAndAsJson) {
  const Read csv = read("input_toks,output_toks,arrival_time_ns\n128,512,46926808\n");
  EXPECT_EQ(csv.format, "LLMServingSim");
  EXPECT_THAT(csv.arrivals, ElementsAre(46'926'808'000));
  EXPECT_THAT(read("arrival_time_ns,input_toks,output_toks\n7,2,3\n").lengths, ElementsAre(std::pair(2, 3)));
  const Read json = read("{\"input_toks\": 128, \"output_toks\": 512, \"arrival_time_ns\": 46926808}\n");
  EXPECT_EQ(json.format, "LLMServingSim");
  EXPECT_THAT(json.arrivals, ElementsAre(46'926'808'000));
}

TEST(TraceFormats, TokenIdsShareTheirCommonBeginning) {
  const auto line = [](int last) {
    std::string ids;
    for (int i = 0; i < 39; ++i) ids += std::to_string(i) + ",";
    return "{\"input_toks\": 40, \"output_toks\": 1, \"arrival_time_ns\": 0, \"input_tok_ids\": [" + ids +
           std::to_string(last) + "]}\n";
  };
  const Read r = read(line(100) + line(101));
  const auto& a = r.entries[0].runs;
  const auto& b = r.entries[1].runs;
  ASSERT_EQ(a.size(), 3u);
  EXPECT_EQ(a[0].content, b[0].content);
  EXPECT_EQ(a[1].content, b[1].content);
  EXPECT_NE(a[2].content, b[2].content);
  EXPECT_EQ(a[2].tokens, 8);
  EXPECT_NE(a[0].content, a[1].content);
}

TEST(TraceFormats, Apex) {
  const Read json =
      read("{\"StartTimeOffset\": 3772092432, \"ContextTokens\": 304, \"GeneratedTokens\": 822}\n");
  EXPECT_EQ(json.format, "APEX");
  EXPECT_THAT(json.arrivals, ElementsAre(3'772'092'432'000));
  const Read csv = read(
      "tokenizer,workload,rate,arrival_ns,context_tokens,generated_tokens\nllama,creation,025,3772092432,304,"
      "822\n");
  EXPECT_EQ(csv.format, "APEX");
  EXPECT_THAT(csv.arrivals, ElementsAre(3'772'092'432'000));
}

TEST(TraceFormats, VllmDetailedResults) {
  const std::string line =
      "{\"backend\": \"vllm\", \"request_rate\": \"inf\", \"input_lens\": [10, 20, 30], \"output_lens\": [5, "
      "0, 7], "
      "\"start_times\": [100.5, 100.25, 100.75], \"errors\": [\"\", \"x\", \"\"]}\n";
  const Read r = read(line);
  EXPECT_EQ(r.format, "vLLM");
  EXPECT_THAT(r.arrivals, ElementsAre(250'000'000'000, 500'000'000'000));  // the failed one came first
  EXPECT_EQ(r.left_out, 1);
  EXPECT_EQ(read("{\n  \"input_lens\": [3],\n  \"output_lens\": [4]\n}\n").has_arrivals, false);
}

TEST(TraceFormats, GzipReadsTheSame) {
  const TemporaryFolder folder;
  const std::string text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n";
  EXPECT_EQ(read_path(folder.write_gzip("t.csv.gz", text)).arrivals, read(text).arrivals);
}

TEST(TraceFormats, RateScaleAndMeansOfATrace) {
  const TemporaryFolder folder;
  folder.write("t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,2\n2,20,4\n4,30,600\n");
  WorkloadConfig c;
  c.trace = (folder.path() / "t.csv").string();
  c.rate_scale = 4;
  const auto workload = test::make(c);
  EXPECT_EQ(workload->describe(), "Vidur trace, 3 requests");
  EXPECT_DOUBLE_EQ(workload->means().request_rate, 2);
  EXPECT_DOUBLE_EQ(workload->means().output_len, 202);
  EXPECT_EQ(workload->longest(), 630);
  EXPECT_EQ(test::drain(*workload)[2].arrival, 1'000'000'000'000);
  c.num_prompts = 2;
  EXPECT_EQ(test::drain(*test::make(c)).size(), 2u);
}

}  // namespace
}  // namespace foretoken
