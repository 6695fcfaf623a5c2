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
  auto result = read_result_file(path, "result.json");
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

// What files say of the load. Real shapes: vLLM 0.24, SGLang 0.5, AIPerf 0.10, GenAI-Perf 0.0.16, GuideLLM
// 0.2 and 0.5.
TEST(ResultFiles, VllmSaysItsLoad) {
  const auto r = read(R"({"date":"20260101-120000","backend":"vllm","model_id":"meta-llama/Llama-3.1-8B",
    "num_prompts":12,"request_rate":2.5,"burstiness":0.5,"max_concurrency":8,"duration":4,"completed":10,"failed":2,
    "total_input_tokens":1000,"total_output_tokens":110,"request_throughput":2.5,"mean_ttft_ms":100})");
  const MeasuredLoad& load = r.at(0).load;
  EXPECT_EQ(load.model, "meta-llama/Llama-3.1-8B");
  EXPECT_EQ(load.request_rate, 2.5);
  EXPECT_EQ(load.arrival, "gamma");
  EXPECT_EQ(load.burstiness, 0.5);
  EXPECT_EQ(load.max_concurrency, 8);
  EXPECT_EQ(load.num_prompts, 12);
  EXPECT_DOUBLE_EQ(load.input_len->mean, 100);  // 1000 tokens of 10 requests that completed
  EXPECT_DOUBLE_EQ(load.output_len->mean, 11);
  EXPECT_EQ(r[0].failed, 2);
  EXPECT_FALSE(load.all_at_once);
}

TEST(ResultFiles, WithoutRateAndLimitEverythingIsSentAtOnce) {
  const auto at_once =
      read(R"({"request_rate":"inf","max_concurrency":null,"completed":4,"request_throughput":2})");
  EXPECT_TRUE(at_once.at(0).load.all_at_once);
  EXPECT_FALSE(at_once[0].load.request_rate);
  const auto limited =
      read(R"({"request_rate":"inf","max_concurrency":2,"completed":4,"request_throughput":2})");
  EXPECT_FALSE(limited.at(0).load.all_at_once);
  const auto ramped = read(R"({"ramp_up_strategy":"linear","completed":4,"request_throughput":2})");
  EXPECT_NE(ramped.at(0).unusable.find("ramped up"), std::string::npos);
}

TEST(ResultFiles, VllmThroughputAndLatencyAreOfflineRuns) {
  const auto t = read(R"({"elapsed_time":4,"num_requests":8,"total_num_tokens":880,"requests_per_second":2,
    "tokens_per_second":220})");
  EXPECT_EQ(t.at(0).kind, "vllm bench throughput");
  EXPECT_DOUBLE_EQ(t[0].metrics.at("duration"), 4);
  EXPECT_DOUBLE_EQ(t[0].metrics.at("total_token_throughput"), 220);  // input and output
  EXPECT_EQ(t[0].metrics.count("output_throughput"), 0u);
  EXPECT_TRUE(t[0].load.all_at_once && t[0].load.in_process);
  EXPECT_EQ(t[0].load.num_prompts, 8);
  const auto l =
      read(R"({"avg_latency":1.5,"std_latency":0.1,"latencies":[1.4,1.6],"percentiles":{"50":1.5}})");
  EXPECT_EQ(l.at(0).kind, "vllm bench latency");
  EXPECT_DOUBLE_EQ(l[0].metrics.at("duration"), 1.5);
  EXPECT_FALSE(l[0].load.num_prompts);
}

TEST(ResultFiles, SglangWritesInfinityAndDrawsLengthsUniformly) {
  const auto r =
      read(R"({"backend":"sglang","dataset_name":"random","request_rate":Infinity,"max_concurrency":16,
    "random_input_len":1000,"random_output_len":100,"random_range_ratio":0.5,"duration":10,"completed":20,
    "total_input_tokens":15000,"total_output_tokens":1500,"request_throughput":2,"output_throughput":150,
    "total_throughput":1650,"mean_e2e_latency_ms":300,"mean_ttft_ms":100,"mean_tpot_ms":20,"accept_length":null})");
  EXPECT_EQ(r.at(0).kind, "SGLang bench_serving");
  expect_the_run(r[0]);
  EXPECT_EQ(r[0].load.max_concurrency, 16);
  EXPECT_FALSE(r[0].load.request_rate);
  EXPECT_EQ(r[0].load.input_len->min, 500);
  EXPECT_EQ(r[0].load.input_len->max, 1000);
  EXPECT_DOUBLE_EQ(r[0].load.input_len->mean, 750);
  EXPECT_DOUBLE_EQ(r[0].metrics.at("total_token_throughput"), 1650);
}

TEST(ResultFiles, SglangOneBatchIsPerWholeDuration) {
  // Newer servers' files leave the time to the last first token out: 8 x 64 / (2 - 0.4) = 320.
  const auto server =
      read(R"({"run_name":"default","batch_size":8,"input_len":256,"output_len":64,"latency":2,
    "input_throughput":5120,"output_throughput":320,"overall_throughput":1280,"last_ttft":0.4,"acc_length":-1})");
  EXPECT_EQ(server.at(0).kind, "SGLang bench_one_batch_server");
  EXPECT_DOUBLE_EQ(server[0].metrics.at("output_throughput"), 256);  // 8 x 64 / 2
  EXPECT_DOUBLE_EQ(server[0].metrics.at("duration"), 2);
  EXPECT_FALSE(server[0].load.in_process);
  const auto alone =
      read(R"({"run_name":"a","batch_size":8,"input_len":256,"output_len":64,"prefill_latency":0.1,
    "prefill_throughput":20480,"median_decode_latency":0.02,"median_decode_throughput":400,"total_latency":1.36,
    "overall_throughput":1882})");
  EXPECT_EQ(alone.at(0).kind, "SGLang bench_one_batch");
  EXPECT_DOUBLE_EQ(alone[0].metrics.at("mean_ttft_ms"), 100);
  EXPECT_DOUBLE_EQ(alone[0].metrics.at("median_itl_ms"), 20);
  EXPECT_EQ(alone[0].load.num_prompts, 8);
  EXPECT_DOUBLE_EQ(alone[0].load.output_len->mean, 64);
  EXPECT_TRUE(alone[0].load.all_at_once && alone[0].load.in_process);
}

constexpr const char* kNvidia = R"("request_throughput":{"unit":"requests/sec","avg":2},
  "time_to_first_token":{"unit":"ms","avg":100},"inter_token_latency":{"unit":"ms","avg":20},
  "request_latency":{"unit":"ms","avg":300},"request_count":{"unit":"requests","avg":96},
  "input_sequence_length":{"unit":"tokens","avg":550,"std":0},
  "output_sequence_length":{"unit":"tokens","avg":11,"std":3},)";

TEST(ResultFiles, AiPerfSaysItsLoadInPhases) {
  const auto r = read("{\"aiperf_version\":\"0.10.0\"," + std::string(kNvidia) + R"("input_config":{
    "models":{"items":[{"name":"llama-3.1-8b"}]},"phases":[
    {"name":"warmup","type":"concurrency","exclude_from_results":true,"requests":16,"concurrency":4},
    {"name":"profiling","type":"concurrency","requests":96,"concurrency":16}]},"was_cancelled":false})");
  expect_the_run(r.at(0));
  EXPECT_EQ(r[0].kind, "AIPerf");
  EXPECT_EQ(r[0].load.model, "llama-3.1-8b");
  EXPECT_EQ(r[0].load.max_concurrency, 16);
  EXPECT_EQ(r[0].load.num_prompts, 96);
  EXPECT_DOUBLE_EQ(r[0].load.input_len->mean, 550);
  EXPECT_EQ(r[0].load.output_len->std, 3);
  const auto cancelled =
      read("{\"aiperf_version\":\"0.10.0\"," + std::string(kNvidia) + R"("was_cancelled":true})");
  EXPECT_NE(cancelled.at(0).unusable.find("cancelled"), std::string::npos);
}

TEST(ResultFiles, GenAiPerfSaysItsLoadInFlagsOrAsStimulus) {
  const auto flags = read("{" + std::string(kNvidia) + R"("input_config":{"model":["llama"],
    "formatted_model_name":"llama","concurrency":null,"request_rate":4.0,"request_count":50,
    "profile_export_file":"profile_export.json"}})");
  EXPECT_EQ(flags.at(0).kind, "GenAI-Perf");
  EXPECT_EQ(flags[0].load.request_rate, 4.0);
  EXPECT_EQ(flags[0].load.num_prompts, 50);
  EXPECT_EQ(flags[0].load.model, "llama");
  const auto stimulus = read("{" + std::string(kNvidia) + R"("input_config":{"model_names":["llama"],
    "perf_analyzer":{"stimulus":{"concurrency":10}}}})");
  EXPECT_EQ(stimulus.at(0).kind, "GenAI-Perf");
  EXPECT_EQ(stimulus[0].load.max_concurrency, 10);
  const auto loadgen = read("{" + std::string(kNvidia) + R"("input_config":{"endpoint":{"model_names":["m"]},
    "loadgen":{"concurrency":3,"request_count":9}}})");
  EXPECT_EQ(loadgen.at(0).kind, "AIPerf");
  EXPECT_EQ(loadgen[0].load.max_concurrency, 3);
  EXPECT_EQ(loadgen[0].load.model, "m");
}

std::string guidellm(const std::string& strategy, const std::string& deviation) {
  return R"({"benchmarks":[{"config":{)" + strategy + R"(,"backend":{"model":"Qwen/Qwen3-8B"}},"metrics":{
    "request_totals":{"successful":30,"errored":1,"incomplete":2,"total":33},
    "requests_per_second":{"successful":{"mean":2}},
    "request_latency":{"successful":{"mean":0.3}},
    "time_to_first_token_ms":{"successful":{"mean":100}},
    "prompt_token_count":{"successful":{"mean":512,"std_dev":0,"total_sum":15360}},
    "output_token_count":{"successful":{"mean":11,"std_dev":)" +
         deviation + R"(,"total_sum":330}},
    "inter_token_latency_ms":{"successful":{"mean":20,"percentiles":{"p99":25}}}}}]})";
}

TEST(ResultFiles, GuideLlmIsWeightedByTokens) {
  const auto equal = read(guidellm(R"("strategy":{"type_":"concurrent","streams":8})", "0"));
  expect_the_run(equal.at(0));
  EXPECT_DOUBLE_EQ(equal[0].metrics.at("p99_tpot_ms"), 25);
  EXPECT_EQ(equal[0].load.max_concurrency, 8);
  EXPECT_EQ(equal[0].load.model, "Qwen/Qwen3-8B");
  EXPECT_DOUBLE_EQ(equal[0].load.input_len->mean, 512);
  EXPECT_EQ(equal[0].failed, 1);
  // Answers of 5 and 17 tokens: the mean over their 4 + 16 gaps is our ITL, not the mean of two TPOTs.
  const auto unequal = read(guidellm(R"("strategy":{"type_":"poisson","rate":2.5})", "6"));
  EXPECT_EQ(unequal.at(0).metrics.count("mean_tpot_ms"), 0u);
  EXPECT_EQ(unequal[0].metrics.count("p99_tpot_ms"), 0u);
  EXPECT_DOUBLE_EQ(unequal[0].metrics.at("mean_itl_ms"), 20);
  EXPECT_EQ(unequal[0].load.request_rate, 2.5);
  EXPECT_EQ(unequal[0].load.arrival, "poisson");
}

TEST(ResultFiles, GuideLlmOfAllVersionsSaysItsStrategy) {
  const auto old = read(R"({"benchmarks":[{"args":{"strategy":{"type_":"constant","rate":3}},
    "request_totals":{"successful":5},"metrics":{"request_latency":{"successful":{"mean":1}}}}]})");
  EXPECT_EQ(old.at(0).load.request_rate, 3);
  EXPECT_EQ(old[0].load.arrival, "constant");
  EXPECT_DOUBLE_EQ(old[0].metrics.at("completed"), 5);
  EXPECT_EQ(read(guidellm(R"("strategy":{"type_":"synchronous","max_concurrency":1})", "0"))[0]
                .load.max_concurrency,
            1);
  EXPECT_TRUE(
      read(guidellm(R"("strategy":{"type_":"throughput","max_concurrency":null})", "0"))[0].load.all_at_once);
}

TEST(ResultFiles, NumbersThatAreNoneAreNamed) {
  EXPECT_NE(error_of(R"({"completed":1,"request_throughput":2,"mean_ttft_ms":NaN})")
                .find(":/mean_ttft_ms: is NaN: nothing was measured there"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"completed":1,"request_throughput":2,"mean_tpot_ms":-3.5})")
                .find(":/mean_tpot_ms: is -3.5, below 0"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"completed":1,"request_throughput":2,"label":"NaN","max_concurrency":2.5})")
                .find(":/max_concurrency: holds 2.5 where a whole number"),
            std::string::npos);
}

}  // namespace
}  // namespace foretoken
