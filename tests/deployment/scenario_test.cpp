// Scenario files: reading, patching, writing, and every way in which they can be wrong.
#include "deployment/scenario.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "../base/mutated.h"
#include "base/error.h"
#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

constexpr const char* kExample = R"({ "name": "llama-3.3-70b-chat",
  "model": "llama-3.3-70b",                    // preset, or path to a Hugging Face config.json, or {"config": {...}}
  "hardware": { "device": "h200-sxm", "count": 8, "devices_per_node": 8, "usd_per_device_hour": 3.0 },
  "engine": { "behavior": "vllm-0.19",         /* whose scheduling rules, by version */
    "tensor_parallel_size": 4, "pipeline_parallel_size": 1, "data_parallel_size": 2, "expert_parallel_size": 1,
    "dtype": "bfloat16", "quantization": "fp8", "kv_cache_dtype": "fp8_e4m3", "max_model_len": 32768,
    "max_num_seqs": 256, "max_num_batched_tokens": 8192, "block_size": 16, "gpu_memory_utilization": 0.9,
    "enable_chunked_prefill": true, "enable_prefix_caching": true },
  "cluster": { "router": "round_robin", "replicas": 1 },
  "workload": { "trace": "traces/azure-conv-2023.csv.gz", "num_prompts": 5000, "rate_scale": 1.0 },
  "slo": { "ttft_ms": 500, "tpot_ms": 40, "percentile": 99 },
  "plan": { "objective": "usd_per_million_tokens", "search": { "tensor_parallel_size": [1,2,4,8] } }
})";

Scenario parse(const std::string& text) { return scenario_from_json(parse_json(text, "s.json"), "s.json:"); }
std::string error(const std::string& text) {
  return error_of([&] { parse(text); });
}

class ScenarioFile : public testing::Test {
 protected:
  void SetUp() override {
    path_ =
        std::filesystem::path(testing::TempDir()) /
        ("scenario_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + ".json");
    std::ofstream(path_) << kExample;
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::filesystem::path path_;
};

TEST_F(ScenarioFile, ExampleOfTheContract) {
  const Scenario s = read_scenario(path_);
  EXPECT_EQ(s.name, "llama-3.3-70b-chat");
  EXPECT_EQ(s.model.text, "\"llama-3.3-70b\"");
  EXPECT_EQ(s.hardware.count, 8);
  EXPECT_EQ(s.engine.data_parallel_size, 2);
  EXPECT_EQ(s.engine.quantization, "fp8");
  EXPECT_EQ(s.workload.num_prompts, 5000);
  EXPECT_EQ(s.slo.ttft_ms, 500);
  EXPECT_EQ(s.plan.search.text, R"({"tensor_parallel_size":[1,2,4,8]})");
  EXPECT_FALSE(s.engine.watermark.has_value());
}

TEST_F(ScenarioFile, MergePatchSetsAddsAndRemoves) {
  const Scenario s = read_scenario(
      path_,
      R"({"engine": {"tensor_parallel_size": 8, "quantization": null, "watermark": 0.01}, "slo": null})");
  EXPECT_EQ(s.engine.tensor_parallel_size, 8);
  EXPECT_FALSE(s.engine.quantization.has_value());
  EXPECT_EQ(s.engine.watermark, 0.01);
  EXPECT_FALSE(s.slo.ttft_ms.has_value());
  EXPECT_EQ(s.engine.max_num_seqs, 256);
  EXPECT_EQ(error_of([&] { read_scenario(path_, "[1]"); }),
            "patch: an object is expected, not the array [1]");
  EXPECT_EQ(error_of([&] { read_scenario(path_, R"({"engine": {"tensor_parallel_size": 0}})"); }),
            path_.string() + ":/engine/tensor_parallel_size: 0 is too small; at least 1 is accepted");
}

TEST_F(ScenarioFile, WritingAndReadingGivesTheSame) {
  const Scenario s = read_scenario(path_);
  const Json once = scenario_to_json(s);
  EXPECT_EQ(dump_json(scenario_to_json(scenario_from_json(once, "again"))), dump_json(once));
  EXPECT_FALSE(once["engine"].contains("speculative_config"));  // absent members are not written
  EXPECT_EQ(once["engine"]["max_model_len"], 32768);
}

TEST(Scenario, UnknownKeysNameTheNearest) {
  EXPECT_EQ(error(R"({"engine": {"tensor_paralel_size": 2}})"),
            "s.json:/engine/tensor_paralel_size: unknown key; did you mean \"tensor_parallel_size\"?");
  EXPECT_EQ(error(R"({"hardware": {"devise": "h100"}})"),
            "s.json:/hardware/devise: unknown key; did you mean \"device\"?");
  EXPECT_EQ(error(R"({"zzzzzzzzzz": 1})"),
            "s.json:/zzzzzzzzzz: unknown key; known keys: name, model, hardware, engine, cluster, workload, "
            "slo, plan");
}

TEST(Scenario, HostileValues) {
  EXPECT_EQ(error("[]"), "s.json:: an object is expected, not the array []");
  EXPECT_EQ(error(R"({"engine": 3})"), "s.json:/engine: an object is expected, not the number 3");
  EXPECT_EQ(error(R"({"engine": {"tensor_parallel_size": -1}})"),
            "s.json:/engine/tensor_parallel_size: -1 is too small; at least 1 is accepted");
  EXPECT_EQ(error(R"({"engine": {"tensor_parallel_size": "4"}})"),
            "s.json:/engine/tensor_parallel_size: a whole number is expected, not the string \"4\"");
  EXPECT_EQ(error(R"({"engine": {"tensor_parallel_size": 1.5}})"),
            "s.json:/engine/tensor_parallel_size: a whole number is expected, not the number 1.5");
  EXPECT_EQ(error(R"({"engine": {"max_num_seqs": 1e30}})"),
            "s.json:/engine/max_num_seqs: 1e+30 is too large");
  EXPECT_EQ(error(R"({"engine": {"gpu_memory_utilization": 0}})"),
            "s.json:/engine/gpu_memory_utilization: 0 is outside (0, 1]");
  EXPECT_EQ(error(R"({"engine": {"gpu_memory_utilization": 1.01}})"),
            "s.json:/engine/gpu_memory_utilization: 1.01 is outside (0, 1]");
  EXPECT_NE(error(R"({"engine": {"gpu_memory_utilization": NaN}})"), "no error");
  EXPECT_NE(error(R"({"engine": {"gpu_memory_utilization": 1e999}})"), "no error");
  EXPECT_NE(error(R"({"engine": {"block_size": 16, "block_size": 32}})"), "no error");
  EXPECT_EQ(error(R"({"engine": {"dtype": "bfloat"}})"),
            "s.json:/engine/dtype: \"bfloat\" is not one of auto, bfloat16, float16, float32; did you mean "
            "\"bfloat16\"?");
  EXPECT_EQ(error(R"({"slo": {"percentile": 101}})"), "s.json:/slo/percentile: 101 is outside (0, 100]");
  EXPECT_EQ(error(R"({"engine": {"enforce_eager": "yes"}})"),
            "s.json:/engine/enforce_eager: true or false is expected, not the string \"yes\"");
  EXPECT_EQ(error(R"({"hardware": {"device": null}})"),
            "s.json:/hardware/device: a string is expected, not null");
}

TEST(Scenario, NullOfAFreeMemberIsAbsent) {
  const Scenario s =
      parse(R"({"model": null, "engine": {"speculative_config": null}, "cluster": {"pools": null}})");
  EXPECT_TRUE(s.model.text.empty());
  EXPECT_FALSE(s.engine.speculative_config);
  EXPECT_FALSE(s.cluster.pools);
}

TEST(Scenario, SchemaSaysWhatTheReaderAccepts) {
  const Json schema = scenario_schema();
  const Json& engine = schema["properties"]["engine"];
  EXPECT_EQ(engine["additionalProperties"], false);
  EXPECT_EQ(engine["properties"]["tensor_parallel_size"]["minimum"], 1);
  EXPECT_EQ(engine["properties"]["dtype"]["enum"].size(), 4u);
  EXPECT_FALSE(engine["properties"]["max_model_len"]["description"].get<std::string>().empty());
  EXPECT_EQ(schema["type"], "object");
}

// What is read is written and read as the same; what is not is an Error and nothing else.
TEST(Scenario, MutatedFilesAreRefusedOrRead) {
  int refused = 0, accepted = 0;
  for (std::uint64_t i = 0; i < 10000; ++i) {
    const std::string text = test::mutated(kExample, test::kBrokenPieces, i);
    try {
      const Json json = parse_json(text, "s.json");
      const std::string once = dump_json(json);
      ASSERT_EQ(dump_json(parse_json(once, "again")), once) << text;
      const Json scenario = scenario_to_json(scenario_from_json(json, "s.json:"));
      ASSERT_EQ(scenario_to_json(scenario_from_json(scenario, "s.json:")), scenario) << text;
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5000);
  EXPECT_GT(accepted, 300);
}

TEST(Scenario, ANumberStandsForALengthThatIsFixed) {
  const auto read = [](const char* text) { return scenario_from_json(Json::parse(text), "s.json"); };
  const Scenario number = read(R"({"workload": {"input_len": 512}})"),
                 object = read(R"({"workload": {"input_len": {"distribution": "fixed", "value": 512}}})");
  EXPECT_EQ(number.workload.input_len->value, 512);
  EXPECT_EQ(scenario_to_json(number), scenario_to_json(object));
  EXPECT_EQ(error(R"({"workload": {"input_len": 0}})"),
            "s.json:/workload/input_len/value: 0 is too small; at least 1 is accepted");
  EXPECT_EQ(error(R"({"workload": {"input_len": "long"}})"),
            "s.json:/workload/input_len: a number or an object is expected, not the string \"long\"");
  const Json length = scenario_schema()["properties"]["workload"]["properties"]["input_len"]["anyOf"][0];
  EXPECT_EQ(length["anyOf"][0]["anyOf"][0]["minimum"], 1);
  EXPECT_EQ(length["anyOf"][1]["type"], "object");
}

}  // namespace
}  // namespace foretoken
