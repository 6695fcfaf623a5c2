// What NanoFlow (Zhu et al. 2024, arXiv 2408.12757) and its repository state of LLaMA-2-70B on eight A100.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/nano_batches.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// pipeline/eval/plot_all.py: "optimal" tokens, prompt and output, a second and GPU. It is what 260 TFLOP/s
// make of 2 x 70 billion FLOPs a token.
constexpr double kOptimum = 1857;
// The paper's abstract (version 1): 68.5 % of it is reached.
constexpr double kReached = 0.685;

Priced llama(const char* behavior, int input, int output) {
  const std::string lengths = "\"input_len\": {\"value\": " + std::to_string(input) +
                              "}, \"output_len\": {\"value\": " + std::to_string(output) + "}";
  return Priced(resolve_or_fail(
                    test_scenario(std::string(R"({"model": "llama-2-70b",
    "hardware": {"device": "a100-sxm-80gb", "count": 8},
    "engine": {"behavior": ")") + behavior +
                                  R"(", "dtype": "float16", "tensor_parallel_size": 8, "max_model_len": 2048},
    "workload": {"num_prompts": 6000, "request_rate": 1000000, )" +
                                  lengths + "}}"),
                    input + output, input + output),
                true);
}

double tokens_per_gpu(const Priced& p, double scale = 1) {
  SimulateOptions o;
  o.intervals = false;
  return scale * simulate(p.deployment, p.cost, test_resources(), o).served.metrics.total_token_throughput /
         8;
}

// The matrix products of a dense batch of 2048 alone bound the throughput.
TEST(Nanoflow, TheOptimumIsWhatTheProductsTake) {
  const Priced p = llama("nanoflow", 512, 512);
  Work w;
  w.decode_sequences = w.padded_tokens = w.group_tokens = 2048;
  w.contexts = {2048};
  double products = 0, flops_of_all = 0;
  for (const Op& op : operators(p.deployment.model, p.deployment.mapping.stages.front(), w,
                                p.deployment.precision, p.deployment.fusion)
                          .ops) {
    if (!std::holds_alternative<GemmShape>(op.shape) || op.scope != OpScope::kTokens) continue;
    products += static_cast<double>(op.count) * p.cost.price(op).time.value;
    flops_of_all += static_cast<double>(op.count) * flops(op).value;
  }
  // 68.5 billion parameters in the layers' products, not 70.
  EXPECT_NEAR(8 * flops_of_all / 2048 / 2e9, 68.5, 0.5);
  EXPECT_NEAR(2048 / products / 8 / kOptimum, 1, 0.15);
}

TEST(Nanoflow, WhatIsReached) {
  const double reached = tokens_per_gpu(llama("nanoflow", 512, 512)) / kOptimum;
  std::printf("512-512 %.3f 1024-512 %.3f 512-1024 %.3f sarathi %.3f\n", reached,
              tokens_per_gpu(llama("nanoflow", 1024, 512)) / kOptimum,
              tokens_per_gpu(llama("nanoflow", 512, 1024)) / kOptimum,
              tokens_per_gpu(llama("sarathi", 512, 512)) / kOptimum);
  EXPECT_NEAR(reached, kReached, 0.2);
}

}  // namespace
}  // namespace foretoken
