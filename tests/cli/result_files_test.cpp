// Importers of other tools' results: the same run written by each tool must give the same numbers under our
// definitions (TTFT 100 ms, TPOT 20 ms, 11 output tokens, so E2EL = 100 + 10 x 20 = 300 ms).
#include "cli/result_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace foretoken {
namespace {

std::vector<MeasuredRun> read(const std::string& text) {
  const std::string path = testing::TempDir() + "result-" + std::to_string(::getpid()) + ".json";
  OutputFile file(path);
  file.write(text);
  file.commit();
  auto result = read_result_file(path);
  std::filesystem::remove(path);
  return result;
}

void expect_the_run(const MeasuredRun& r) {
  EXPECT_DOUBLE_EQ(r.metrics.at("mean_ttft_ms"), 100);
  EXPECT_DOUBLE_EQ(r.metrics.at("mean_tpot_ms"), 20);
  EXPECT_DOUBLE_EQ(r.metrics.at("mean_e2el_ms"), 300);
  EXPECT_DOUBLE_EQ(r.metrics.at("request_throughput"), 2);
}

TEST(ResultFiles, VllmBench) {
  const auto r =
      read(R"({"backend":"vllm","completed":10,"failed":1,"request_throughput":2,"request_goodput:":1.5,
    "mean_ttft_ms":100,"mean_tpot_ms":20,"mean_itl_ms":20,"mean_e2el_ms":300,"max_concurrency":null})");
  ASSERT_EQ(r.size(), 1u);
  EXPECT_EQ(r[0].kind, "vllm bench serve");
  expect_the_run(r[0]);
  EXPECT_DOUBLE_EQ(r[0].metrics.at("request_goodput"), 1.5);  // the old key with its colon
  EXPECT_NE(r[0].notes.at(0).find("1 requests failed"), std::string::npos);
}

TEST(ResultFiles, JsonLinesAreSeveralResults) {
  const auto r = read(
      "{\"completed\":1,\"request_throughput\":2,\"mean_ttft_ms\":100,\"mean_tpot_ms\":20,\"mean_e2e_latency_"
      "ms\":300}\n"
      "{\"completed\":2,\"request_throughput\":3,\"mean_e2e_latency_ms\":301}\n");
  ASSERT_EQ(r.size(), 2u);
  EXPECT_EQ(r[0].kind, "SGLang bench_serving");
  expect_the_run(r[0]);
  EXPECT_DOUBLE_EQ(r[1].metrics.at("mean_e2el_ms"), 301);
}

TEST(ResultFiles, AiPerfSaysInterTokenLatencyForTpot) {
  const auto r = read(R"({"request_throughput":{"unit":"requests/sec","avg":2},
    "time_to_first_token":{"unit":"ms","avg":100,"p99":150},
    "inter_token_latency":{"unit":"ms","avg":20},
    "inter_chunk_latency":{"unit":"us","avg":21000},
    "request_latency":{"unit":"s","avg":0.3}})");
  ASSERT_EQ(r.size(), 1u);
  expect_the_run(r[0]);
  EXPECT_DOUBLE_EQ(r[0].metrics.at("mean_itl_ms"), 21);
  EXPECT_DOUBLE_EQ(r[0].metrics.at("p99_ttft_ms"), 150);
}

TEST(ResultFiles, GuideLlmTpotIncludesTheFirstTokenAndIsNotOurs) {
  const auto r = read(R"({"benchmarks":[{"metrics":{
    "requests_per_second":{"successful":{"mean":2}},
    "request_latency":{"successful":{"mean":0.3,"percentiles":{"p99":0.4}}},
    "time_to_first_token_ms":{"successful":{"mean":100}},
    "time_per_output_token_ms":{"successful":{"mean":27.3}},
    "inter_token_latency_ms":{"successful":{"mean":20}}}}]})");
  ASSERT_EQ(r.size(), 1u);
  expect_the_run(r[0]);
  EXPECT_DOUBLE_EQ(r[0].metrics.at("p99_e2el_ms"), 400);
  EXPECT_EQ(r[0].metrics.count("mean_itl_ms"), 0u);
}

TEST(ResultFiles, AScenarioIsNoResult) {
  EXPECT_TRUE(read(R"({"model":"m","hardware":{"device":"h100"}})").empty());
}

std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ResultFiles, AValueOfTheWrongTypeIsNamedByItsPointer) {
  EXPECT_NE(error_of(R"({"completed":1,"request_throughput":2,"mean_ttft_ms":"fast"})")
                .find(":/mean_ttft_ms: holds \"fast\" where a number"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"request_latency":{"unit":"s","avg":0.3},"time_to_first_token":{"avg":[1]}})")
                .find(":/time_to_first_token/avg: holds [1]"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"request_latency":{"unit":7,"avg":0.3}})").find(":/request_latency/unit: holds 7"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"records":{"request_latency":{"avg":1},"goodput":{"avg":true}}})")
                .find(":/records/goodput/avg: holds true"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"benchmarks":[{"metrics":{"request_latency":{"successful":{"mean":"x"}}}}]})")
                .find(":/benchmarks/0/metrics/request_latency/successful/mean: holds"),
            std::string::npos);
}

TEST(ResultFiles, AFileOfNoKnownToolListsThem) {
  for (const char* text : {"{}", R"({"a":1})", "[]", "3"}) {
    const std::string message = error_of(text);
    EXPECT_NE(message.find("neither a scenario nor a result of a known tool"), std::string::npos) << text;
    EXPECT_NE(message.find("SGLang bench_serving / bench_one_batch, AIPerf"), std::string::npos) << text;
  }
}

TEST(ResultFiles, BrokenFilesAreErrorsWithTheirPlace) {
  EXPECT_THROW(read("{\"completed\":"), Error);
  EXPECT_THROW(read("[1,2]"), Error);
  EXPECT_THROW(read(R"({"benchmarks":[]})"), Error);
  EXPECT_THROW(read(R"({"benchmarks":[{"metrics":3}]})"), Error);
  EXPECT_THROW(read(R"({"request_latency":{"unit":"weeks","avg":1}})"), Error);
  EXPECT_THROW(read(R"({"format":1,"context":{},"steps":[]})"), Error);
}

}  // namespace
}  // namespace foretoken
