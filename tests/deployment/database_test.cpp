// Scenarios resolved with the built-in database and presets.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

class WithDatabase : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    database_ =
        std::make_unique<Database>(Database::open(FORETOKEN_BINARY_DIR "/share/foretoken/foretoken.sqlite"));
  }
  static void TearDownTestSuite() { database_.reset(); }
  static Resources resources() {
    Resources r;
    r.database = database_.get();
    r.preset_folder = FORETOKEN_SOURCE_DIR "/model/presets";
    r.scenario_file = "s.json";
    return r;
  }
  static Scenario parse(const std::string& text) {
    return scenario_from_json(parse_json(text, "s.json"), "s.json:");
  }
  static std::variant<Deployment, Infeasible> result(const std::string& text) {
    const Scenario s = parse(text);
    return resolve(s, resources(), load_scenario_model(s, resources()), 1500, 8000);
  }
  static std::unique_ptr<Database> database_;
};
std::unique_ptr<Database> WithDatabase::database_;

TEST_F(WithDatabase, ExampleOfTheContract) {
  const Deployment d = deployment_of(result(R"({"model": "llama-3.3-70b",
    "hardware": {"device": "h200-sxm", "count": 8, "devices_per_node": 8, "usd_per_device_hour": 3.0},
    "engine": {"behavior": "vllm-0.19", "tensor_parallel_size": 4, "data_parallel_size": 2, "quantization": "fp8",
      "kv_cache_dtype": "fp8_e4m3", "max_model_len": 32768, "max_num_seqs": 256, "max_num_batched_tokens": 8192}})"));
  EXPECT_EQ(d.device.name, "H200-SXM-141GB");
  EXPECT_EQ(d.mapping.replicas, 1);
  EXPECT_EQ(d.mapping.engines(), 2);
  EXPECT_EQ(d.usd_per_device_hour, 3.0);
  EXPECT_GT(d.topology.intra_node.bandwidth.value, 300e9);
  // 80 layers x 2 x 2 heads x 128 x 1 B = 40,960 B a token on each of 4 ranks.
  EXPECT_EQ(d.memory.block_bytes, 40960.0 * 16);
  EXPECT_GT(d.memory.kv_cache_tokens, 2'000'000);
  const std::string command = vllm_command(d);
  EXPECT_EQ(command.substr(0, 41), "vllm serve meta-llama/Llama-3.3-70B-Instr") << command;
}

TEST_F(WithDatabase, UnknownDeviceAndModel) {
  EXPECT_EQ(
      error_of([] { result(R"({"model": "llama-3.1-8b", "hardware": {"device": "h1000"}})"); }).substr(0, 25),
      "s.json:/hardware/device: ");
  EXPECT_EQ(error_of([] { result(R"({"model": "llama-3.1-8b"})"); }),
            "s.json:/hardware/device: a device is needed; `foretoken hw list` shows them");
  EXPECT_NE(error_of([] { result(R"({"model": "lama-3.1-8c", "hardware": {"device": "h100"}})"); }),
            "no error");
}

// Every preset on every number of ranks of a node is either a deployment with room, or a verdict with a
// reason.
TEST_F(WithDatabase, EveryPresetIsAPlanOrAVerdict) {
  int plans = 0, verdicts = 0;
  for (const Preset& preset : list_presets(resources().preset_folder))
    for (const char* device : {"h200", "a100"})
      for (const int tp : {1, 4, 8}) {
        const auto r = result(fmt::format(
            R"({{"model": "{}", "hardware": {{"device": "{}"}}, "engine": {{"tensor_parallel_size": {}}}}})",
            preset.name, device, tp));
        if (const auto* verdict = std::get_if<Infeasible>(&r)) {
          EXPECT_FALSE(verdict->reason.empty());
          ++verdicts;
          continue;
        }
        const auto& d = std::get<Deployment>(r);
        const MemoryPlan& m = d.memory;
        EXPECT_TRUE(m.fits && m.reason.empty()) << preset.name;
        EXPECT_LE(m.weights_bytes + m.activation_peak_bytes + m.overhead_bytes + m.kv_cache_bytes,
                  m.budget_bytes * (1 + 1e-12));
        EXPECT_LE(static_cast<double>(m.num_gpu_blocks) * m.block_bytes, m.kv_cache_bytes * (1 + 1e-12));
        EXPECT_GE(m.num_gpu_blocks, 2);
        ++plans;
      }
  EXPECT_GT(plans, 100);
  EXPECT_GT(verdicts, 20);
}

}  // namespace
}  // namespace foretoken
