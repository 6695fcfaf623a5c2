// What Infinite-LLM (Lin et al. 2024, arXiv 2401.02669v2) states of LLaMA2-7B on 32 A100 of 80 GB, an
// instance on each: contexts of 2,000K tokens, up to 19 times those of the same instances by themselves
// (vLLM-multi). Its traces and rates are not at hand, so of throughput orders are compared. Priced by the
// roofline.
#include <fmt/format.h>

#include "fixtures.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

Scenario instances(const std::string& engine, int replicas, const std::string& workload = "{}") {
  return test_scenario(fmt::format(
      R"({{"model": {{"name": "LLaMA2-7B", "config": {{"model_type": "llama", "hidden_size": 4096,
          "architectures": ["LlamaForCausalLM"], "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "torch_dtype": "float16",
          "max_position_embeddings": 4194304, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}}}},
          "hardware": {{"device": "a100-sxm-80gb", "network_bandwidth": "125 MB/s"}},
          "engine": {}, "cluster": {{"replicas": {}, "router": "round_robin"}}, "workload": {}}})",
      engine, replicas, workload));
}

TEST(InfiniteLlm, LongestContext) {
  const Deployment d = resolve_or_fail(
      instances(R"({"behavior": "infinite-llm", "max_model_len": 2000000})", 32), 2000000, 2000000);
  EXPECT_GE(d.memory.kv_cache_tokens * 32, 2000000);
  const auto alone = [](std::int64_t length) {
    return resolve_or_fail(instances(fmt::format(R"({{"behavior": "infinite-llm", "max_model_len": {},
                                                     "lend_limit": 0}})",
                                                 length),
                                     32),
                           static_cast<double>(length), length);
  };
  EXPECT_THROW(alone(2000000 / 19 * 2), std::runtime_error);
  EXPECT_GT(alone(50000).memory.kv_cache_tokens, 50000);
}

// Eight instances near what they can serve, requests dealt in turns.
ServingMetrics served(double lend_limit, const char* input_len) {
  const Priced p(resolve_or_fail(
      instances(fmt::format(R"({{"behavior": "infinite-llm", "max_model_len": 61000, "lend_limit": {}}})",
                            lend_limit),
                8,
                fmt::format(R"({{"num_prompts": 400, "request_rate": 4, "input_len": {},
                                 "output_len": {{"distribution": "uniform", "min": 50, "max": 800}}}})",
                            input_len)),
      6500, 61000));
  SimulateOptions o;
  o.intervals = false;
  const Simulation s = simulate(p.deployment, p.cost, test_resources(), o);
  EXPECT_GE(s.served.metrics.completed, 395);  // a few are longer than 61,000 tokens
  return s.served.metrics;
}

// Lengths of "1 to 60K" tokens: where they differ lending gains, where they are alike nothing.
TEST(InfiniteLlm, GainsWithTheSpreadOfLengths) {
  constexpr const char* kEven = R"({"distribution": "uniform", "min": 5000, "max": 7000})";
  constexpr const char* kUneven = R"({"distribution": "lognormal", "mean": 6000, "p99": 50000})";
  const ServingMetrics with = served(1, kUneven), without = served(0, kUneven);
  EXPECT_GT(with.request_throughput, without.request_throughput);
  const ServingMetrics even = served(1, kEven), even_without = served(0, kEven);
  EXPECT_NEAR(even.request_throughput, even_without.request_throughput, 1e-3);
}

}  // namespace
}  // namespace foretoken
