// Files that the tools themselves wrote (tool_results/README.md) are read as the numbers of expected.csv,
// which were computed from their records of single requests by our definitions (docs/metrics.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "cli/result_files.h"

namespace foretoken {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kFolder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/cli/tool_results";

std::vector<MeasuredRun> read(const std::string& file) {
  return read_result_file((kFolder / file).string(), file);
}

MeasuredRun one(const std::string& file) {
  auto runs = read(file);
  EXPECT_EQ(runs.size(), 1u) << file;
  return runs.at(0);
}

// Columns: file, metric, value ("-": must be absent), tolerance (relative).
TEST(ToolResults, AreReadByOurDefinitions) {
  std::map<std::string, MeasuredRun> runs;
  std::set<std::string> checked;
  const std::string text = read_file(kFolder / "expected.csv");
  std::size_t rows = 0;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty() || line.starts_with("file,")) continue;
    const std::vector<std::string> row = split(line, ',');
    ASSERT_EQ(row.size(), 4u) << line;
    if (runs.count(row[0]) == 0) runs.emplace(row[0], one(row[0]));
    const MeasuredRun& run = runs.at(row[0]);
    const auto found = run.metrics.find(row[1]);
    checked.insert(row[0] + row[1]);
    ++rows;
    if (row[1] == "failed") {
      EXPECT_EQ(run.failed, *parse_double(row[2])) << line;
    } else if (row[2] == "-") {
      EXPECT_TRUE(found == run.metrics.end()) << line;
    } else if (found == run.metrics.end()) {
      ADD_FAILURE() << "absent: " << line;
    } else {
      EXPECT_NEAR(found->second / *parse_double(row[2]), 1, *parse_double(row[3])) << line;
    }
  }
  EXPECT_GT(rows, 200u);
  // Nothing is read that was not computed, but for what the tools alone know.
  for (const auto& [file, run] : runs)
    for (const auto& [metric, value] : run.metrics)
      EXPECT_TRUE(checked.count(file + metric) || metric.starts_with("p50_"))
          << file << " " << metric << " " << value;
}

TEST(ToolResults, SayTheirLoad) {
  const auto closed = [](const std::string& file) {
    const MeasuredRun run = one(file);
    EXPECT_EQ(run.load.max_concurrency, 4) << file;
    EXPECT_FALSE(run.load.request_rate) << file;
    EXPECT_FALSE(run.load.all_at_once) << file;
    EXPECT_EQ(run.load.num_prompts, 60) << file;
    EXPECT_DOUBLE_EQ(run.load.input_len->mean, 100) << file;
    if (!run.kind.starts_with("SGLang")) {
      EXPECT_EQ(run.load.model, "mock") << file;
    }
  };
  for (const char* file : {"vllm-0.33.0-closed.json", "sglang-0.5.23-chat-chunks.jsonl",
                           "aiperf-0.13.0-closed.json", "guidellm-0.8.1-closed.json.gz"})
    closed(file);
  const auto open = [](const std::string& file, double rate, const std::string& arrival, int prompts) {
    const MeasuredRun run = one(file);
    EXPECT_EQ(run.load.request_rate, rate) << file;
    EXPECT_EQ(run.load.arrival, arrival) << file;
    EXPECT_FALSE(run.load.max_concurrency) << file;
    EXPECT_EQ(run.load.num_prompts, prompts) << file;
  };
  open("vllm-0.33.0-chunks.json", 20, "gamma", 80);
  open("sglang-0.5.23-rate.jsonl", 20, "poisson", 60);
  open("aiperf-0.13.0-chunks.json", 20, "poisson", 80);
  open("aiperf-0.13.0-per-chunk-usage.json", 20, "constant", 40);
  open("guidellm-0.8.1-chunks.json.gz", 15, "poisson", 60);
  EXPECT_EQ(one("vllm-0.33.0-chunks.json").load.burstiness, 0.5);
  EXPECT_NE(one("vllm-0.33.0-closed.json").load.trace, "");  // every request's lengths
  EXPECT_EQ(one("sglang-0.5.23-rate.jsonl").load.input_len->min, 50);
  const MeasuredRun genai = one("genai-perf-24.12-streaming.json");
  EXPECT_EQ(genai.kind, "GenAI-Perf");
  EXPECT_EQ(genai.load.max_concurrency, 100);
  EXPECT_EQ(genai.load.model, "ensemble");
}

TEST(ToolResults, AnAppendedFileHoldsItsRuns) {
  const auto runs = read("vllm-0.33.0-append.json");
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].load.max_concurrency, 2);
  EXPECT_EQ(runs[1].load.max_concurrency, 4);
  EXPECT_EQ(runs[1].name, "vllm-0.33.0-append.json#2");
}

TEST(ToolResults, WhatIsLeftOutIsSaid) {
  const auto notes = [](const std::string& file) {
    std::string all;
    for (const std::string& n : one(file).notes) all += n + "\n";
    return all;
  };
  EXPECT_THAT(notes("genai-perf-24.12-whole.json"), HasSubstr("run without --streaming"));
  EXPECT_THAT(notes("aiperf-0.13.0-per-chunk-usage.json"), HasSubstr("run with --per-chunk-usage"));
  EXPECT_THAT(notes("guidellm-0.8.1-chunks.json.gz"), HasSubstr("computed from the report's requests"));
  for (const char* file : {"vllm-0.33.0-chunks.json", "aiperf-0.13.0-chunks.json",
                           "sglang-0.5.23-chat-chunks.jsonl", "guidellm-0.8.1-chunks.json.gz"})
    EXPECT_THAT(notes(file), HasSubstr("requests failed")) << file;
}

TEST(ToolResults, FilesBesideTheResultsAreNamed) {
  const auto error_of = [](const std::string& text) -> std::string {
    const std::string path = testing::TempDir() + "beside.json";
    OutputFile file(path);
    file.write(text);
    file.commit();
    try {
      read_result_file(path, "beside.json");
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  const char* remedy =
      "give profile_export_aiperf.json (or profile_export_genai_perf.json) of each run instead";
  for (const char* text : {R"({"aggregation_type":"sweep","per_combination_metrics":[]})",
                           R"({"metadata":{"benchmark_phase":"profiling"},"metrics":{}})",
                           R"({"service_kind":"openai","endpoint":"v1/chat/completions","experiments":[]})"})
    EXPECT_THAT(error_of(text), HasSubstr(remedy)) << text;
}

TEST(ToolResults, EqualNamesAreToldApartByTheirFolders) {
  EXPECT_EQ(short_names({"a/r.json", "b/s.json"}), (std::vector<std::string>{"r.json", "s.json"}));
  EXPECT_EQ(short_names({"x/c1/art/r.json", "x/c8/art/r.json", "s.json"}),
            (std::vector<std::string>{"c1/art/r.json", "c8/art/r.json", "s.json"}));
  EXPECT_EQ(short_names({"r.json", "c8/r.json"}), (std::vector<std::string>{"r.json", "c8/r.json"}));
  EXPECT_EQ(short_names({"/a/r.json", "/a/r.json"}), (std::vector<std::string>{"a/r.json", "a/r.json"}));
}

}  // namespace
}  // namespace foretoken
