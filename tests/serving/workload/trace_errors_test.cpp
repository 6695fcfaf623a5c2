// Damaged and foreign files: each message says where and what to do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../base/mutated.h"
#include "base/file.h"
#include "serving/trace_reader.h"
#include "support.h"

namespace foretoken {
namespace {

using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string message(const std::string& text, const std::string& name = "t.csv") {
  const TemporaryFolder folder;
  const auto path = folder.write(name, text);
  return test::error_of([&] { scan_trace(path, true); });
}

const std::string kAzure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";

TEST(TraceErrors, OutOfOrderSaysByHowMuchAndHowToSort) {
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:46.1805900,374,44\n"),
              AllOf(HasSubstr("t.csv:3: the request arrives 500 ms before the one above it"),
                    HasSubstr("sort"), HasSubstr("-k1,1; }")));
  EXPECT_THAT(message("{\"timestamp\": 9, \"input_length\": 1, \"output_length\": 1}\n"
                      "{\"timestamp\": 8, \"input_length\": 1, \"output_length\": 1}\n"),
              AllOf(HasSubstr("t.csv:2: "), HasSubstr("jq -c -s 'sort_by(.timestamp)[]'")));
}

TEST(TraceErrors, OrderMattersOnlyWhereArrivalsAreUsed) {
  const TemporaryFolder folder;
  const auto path = folder.write("t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n5,1,1\n1,1,1\n");
  EXPECT_EQ(scan_trace(path, false).requests, 2);
}

TEST(TraceErrors, Holes) {
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,,44\n"), HasSubstr("t.csv:3: ContextTokens is empty"));
  EXPECT_THAT(message(kAzure + ",3,44\n"), HasSubstr("TIMESTAMP is empty"));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,374\n"), HasSubstr("t.csv:3: "));
  EXPECT_THAT(message("{\"timestamp\": 9, \"input_length\": 1}\n"),
              HasSubstr("t.csv:1: output_length is missing"));
  EXPECT_THAT(message("{\"timestamp\": null, \"input_length\": 1, \"output_length\": 1}\n"),
              HasSubstr("timestamp is missing"));
}

TEST(TraceErrors, EmptyFiles) {
  EXPECT_THAT(message(""), HasSubstr("the file is empty; traces read: Azure CSV"));
  EXPECT_THAT(message("\n\n"), HasSubstr("the file is empty"));
  EXPECT_THAT(message("TIMESTAMP,ContextTokens,GeneratedTokens\n"), HasSubstr("a header but no requests"));
  EXPECT_THAT(message("Timestamp,Request tokens,Response tokens\n1,1,0\n"),
              HasSubstr("all 1 requests failed"));
}

TEST(TraceErrors, TokensHaveToBePositive) {
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,374,0\n"), HasSubstr("t.csv:3: GeneratedTokens is 0"));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,-4,1\n"), HasSubstr("ContextTokens is -4"));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,nan,1\n"), HasSubstr("t.csv:3: "));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,1.5,1\n"), HasSubstr("not a whole number"));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,2147483647,1\n"),
              HasSubstr("more than 2,147,483,647 tokens together"));
  EXPECT_THAT(message(kAzure + "2023-11-16 18:15:47,9000000000000000000,1\n"), HasSubstr("tokens together"));
  EXPECT_THAT(message("{\"timestamp\": 9, \"input_length\": 1.5, \"output_length\": 1}\n"),
              HasSubstr("input_length is 1.5"));
  EXPECT_THAT(message("{\"timestamp\": NaN, \"input_length\": 1, \"output_length\": 1}\n"),
              HasSubstr("t.csv"));
}

TEST(TraceErrors, Clocks) {
  const std::string header = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
  EXPECT_THAT(message(header + "-1,1,1\n"), HasSubstr("arrived_at is negative"));
  EXPECT_THAT(message(header + "1700000000,1,1\n"), HasSubstr("days after the start"));
  EXPECT_THAT(message(header + "inf,1,1\n"), HasSubstr("t.csv:2: "));
  EXPECT_THAT(message("TIMESTAMP,ContextTokens,GeneratedTokens\n16/11/2023 18:15,1,1\n"),
              HasSubstr("\"16/11/2023 18:15\" is not a time"));
  EXPECT_THAT(message(kAzure + "2024-11-16 18:15:47,1,1\n"), HasSubstr("366 days after the start"));
}

TEST(TraceErrors, NotATrace) {
  EXPECT_THAT(message("name,colour\na,b\n"), AllOf(HasSubstr("not a trace (its header is \"name,colour\")"),
                                                   HasSubstr("vLLM --save-detailed JSON")));
  EXPECT_THAT(message("{\"model\": \"x\"}\n"),
              HasSubstr("not a trace (the first object has none of the known keys)"));
  EXPECT_THAT(message("[1, 2]\n"), HasSubstr("a JSON array is not a trace"));
  EXPECT_THAT(message("[{\"id\": \"a\", \"conversations\": []}]\n"), HasSubstr("depend on a tokenizer"));
  EXPECT_THAT(message(std::string("\x89PNG\r\n\x1a\n\0\0", 10)), HasSubstr("t.csv"));
  EXPECT_THAT(message("{\"timestamp\": 0, \n"), HasSubstr("t.csv"));
}

TEST(TraceErrors, MixedColumns) {
  EXPECT_THAT(message("TIMESTAMP,ContextTokens,num_decode_tokens\n2023-11-16 18:15:47,1,1\n"),
              HasSubstr("the column GeneratedTokens is missing"));
  EXPECT_THAT(message("arrived_at,num_prefill_tokens,num_decode_tokens,weight\n0,1,1,1\n"),
              HasSubstr("\"weight\" is not a column of Vidur traces; remove it"));
  EXPECT_THAT(message("arrived_at,num_prefill_tokens,num_decode_tokens,priority\n0,1,1,3000000000\n"),
              HasSubstr("priority 3000000000 is outside"));
  EXPECT_THAT(message("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n{\"input_toks\": 4}\n"),
              HasSubstr("t.csv:2: \"input_toks\" is not a key of Mooncake traces"));
  EXPECT_THAT(message("arrival_timestamp,batch_size,prompt_size,token_size\n0,4,1,1\n"),
              HasSubstr("batch_size is not 1"));
}

TEST(TraceErrors, HashesHaveToFitTheLength) {
  EXPECT_THAT(
      message("{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [1, 2, 3]}\n"),
      HasSubstr("3 hash_ids do not fit 600 prompt tokens: blocks of 512 tokens make 2"));
  EXPECT_THAT(
      message("{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [1, 2.5]}\n"),
      HasSubstr("neither a whole number nor a text"));
}

TEST(TraceErrors, TruncatedGzip) {
  const TemporaryFolder folder;
  std::string text = kAzure;
  for (int i = 0; i < 5000; ++i)
    text += "2023-11-16 18:15:47," + std::to_string(1 + i * 7919 % 3001) + ",9\n";
  const auto path = folder.write_gzip("t.csv.gz", text);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_THAT(test::error_of([&] { scan_trace(path, true); }), HasSubstr("gzip data end early"));
}

TEST(TraceErrors, VllmWithoutDetails) {
  EXPECT_THAT(message("{\"input_lens\": [1, 2], \"output_lens\": [1]}\n"),
              HasSubstr(":/output_lens: 1 values, but input_lens has 2"));
  EXPECT_THAT(message("{\"input_lens\": [1, 2]}\n"), HasSubstr("--save-detailed"));
  EXPECT_THAT(message("{\"input_lens\": [1]}\n{\"input_lens\": [1]}\n"), HasSubstr("t.csv"));
  EXPECT_THAT(message("{\"input_lens\": [-1], \"output_lens\": [1]}\n"),
              HasSubstr("/input_lens/0: input_lens is -1"));
}

// From the last moment of the clock back to its first: more than a signed count of picoseconds holds.
TEST(TraceErrors, BackOverTheWholeClock) {
  EXPECT_THAT(message("TIMESTAMP,ContextTokens,GeneratedTokens\n2000-01-01 00:00:00,3,4\n"
                      "2000-04-13 00:00:00,3,4\n1990-01-01 00:00:00,3,4\n"),
              HasSubstr("t.csv:4: the request arrives 17899200 s before the one above it"));
}

// Every format, damaged: an Error or a trace, and nothing else.
TEST(TraceErrors, MutatedTracesAreRefusedOrRead) {
  const TemporaryFolder folder;
  int refused = 0, accepted = 0, files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(FORETOKEN_SOURCE_DIR "/tests/fuzz/traces")) {
    ++files;
    const std::string good = read_file(entry.path());
    scan_trace(entry.path(), false);
    for (std::uint64_t i = 0; i < 500; ++i) {
      const auto path = folder.write("t", test::mutated(good, test::kBrokenPieces, i));
      try {
        scan_trace(path, i % 2 == 0);
        ++accepted;
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_EQ(files, 11);
  EXPECT_GT(refused, 2000);
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace foretoken
