// Hugging Face transformers: measured decoding that nothing here was fitted to, and what vLLM's authors state
// of it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/csv.h"
#include "fixtures.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

TEST(Transformers, DecodingOfMistral7b) {
  const char* shared = std::getenv("FORETOKEN_SHARED");
  const std::filesystem::path file =
      std::filesystem::path(shared == nullptr ? "" : shared) / "data/e2e/e2e_long.csv";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "the measurements are not here";
  const Priced p(resolve_or_fail(test_scenario(R"({"model": "mistral-7b-v0.2",
    "hardware": {"device": "rtx-4090"}, "engine": {"behavior": "transformers", "dtype": "float16",
    "max_model_len": 8192}})"),
                                 5000, 8192),
                 true);
  StepPricer pricer(p.deployment, p.cost);
  CsvReader rows(file);
  const std::size_t framework = rows.column("framework"), tokens = rows.column("osl"), value = rows.column("value");
  int found = 0;
  while (rows.next()) {
    if (rows.text(framework) != "huggingface transformers") continue;
    Probe probe;
    probe.sequences = 1;
    probe.context = rows.number(tokens) / 2;
    const StepEstimate step = pricer.estimate("", probe, false);
    RecordProperty("tokens_per_s_" + std::to_string(found), std::to_string(1 / step.seconds));
    RecordProperty("host_ms_" + std::to_string(found), std::to_string(1e3 * step.host_seconds));
    EXPECT_GT(1 / step.seconds, rows.number(value));
    EXPECT_LT(1 / step.seconds, 2.5 * rows.number(value));
    ++found;
  }
  EXPECT_EQ(found, 2);
}

// Requests a second of 600 that are all there.
double offline(const std::string& engine) {
  const Priced p(resolve_or_fail(test_scenario(R"({"model": "llama-2-13b",
    "hardware": {"device": "a100-sxm-40gb"}, "engine": {"dtype": "float16", "max_model_len": 2048, )" + engine +
                                               R"(},
    "workload": {"num_prompts": 600, "request_rate": 1000000,
      "input_len": {"distribution": "lognormal", "mean": 161.31, "p99": 791, "max": 1024},
      "output_len": {"distribution": "lognormal", "mean": 337.99, "p99": 1583, "max": 1024}}})"),
                                 500, 2048),
                 true);
  SimulateOptions o;
  o.intervals = false;
  return simulate(p.deployment, p.cost, test_resources(), o).served.metrics.request_throughput;
}

TEST(Transformers, ThroughputOfVllmOverIt) {
  const double vllm = offline(R"("behavior": "vllm-0.6")");
  for (const char* batch : {"1", "4", "8", "16"}) {
    const double ratio =
        vllm / offline(std::string(R"("behavior": "transformers", "max_batch_size": )") + batch);
    RecordProperty(std::string("ratio_at_batch_") + batch, std::to_string(ratio));
    EXPECT_GT(ratio, 1);
  }
}

}  // namespace
}  // namespace foretoken
