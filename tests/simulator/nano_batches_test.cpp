// Steps whose operators run together (docs/cost-model.md, nano-batches).
#include "simulator/nano_batches.h"

#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// The published configuration's 640 of 2048.
TEST(NanoBatches, TwoOfUnequalSize) {
  EXPECT_EQ(nano_batches(2048), (std::array<std::int64_t, 2>{640, 1408}));
  EXPECT_EQ(nano_batches(1), (std::array<std::int64_t, 2>{0, 1}));
}

// 10 of memory-bound work beside 100 of products: at a share of 0.1 it takes 10 / 0.25 = 40 and the products
// lose 4. 50 would take 200 then; at 0.2 they take 125, and so do the products.
TEST(NanoBatches, TheSmallestSharesWithWhichNobodyIsLate) {
  EXPECT_DOUBLE_EQ(overlapped(100, 10, 0), 104);
  EXPECT_DOUBLE_EQ(overlapped(100, 50, 0), 125);
  EXPECT_DOUBLE_EQ(overlapped(100, 0, 20), 100 + 0.1 * 20 / 0.4);
  EXPECT_DOUBLE_EQ(overlapped(100, 10, 20), 104 + 5);
  EXPECT_DOUBLE_EQ(overlapped(0, 10, 0), 10);
}

TEST(NanoBatches, BetweenTheLargestAndTheSum) {
  for (const double memory : {0.0, 1.0, 30.0, 100.0, 400.0})
    for (const double network : {0.0, 1.0, 30.0, 100.0, 400.0}) {
      const double t = overlapped(100, memory, network);
      EXPECT_LE(t, 100 + memory + network);
      EXPECT_GE(t, std::max({100.0, memory, network}));
      EXPECT_LE(t, overlapped(100, memory + 1, network));
      EXPECT_LE(t, overlapped(101, memory, network));
    }
}

Priced nanoflow(const char* tensor_parallel) {
  return Priced(resolve_or_fail(test_scenario(std::string(R"({"model": "llama-2-70b",
    "hardware": {"device": "a100-sxm-80gb", "count": )") +
                                              tensor_parallel + R"(}, "engine": {"behavior": "nanoflow",
    "max_model_len": 2048, "tensor_parallel_size": )" +
                                              tensor_parallel +
                                              R"(}, "workload": {"num_prompts": 400, "request_rate": 1000,
    "input_len": {"value": 512}, "output_len": {"value": 256}}})"),
                                768, 768),
                true);
}

// An estimate lists the whole step's operators and what overlapping saves; they add up to its time, which is
// what a step of the simulation takes.
TEST(NanoBatches, AnEstimateIsWhatTheStepTakes) {
  const Priced p = nanoflow("8");
  Probe probe;
  probe.sequences = 1024;
  probe.context = 700;
  PrefillPart part;
  part.new_tokens = 1024;
  part.last = true;
  probe.prefill.push_back(part);
  StepPricer pricer(p.deployment, p.cost);
  const StepEstimate e = pricer.estimate("dense", probe, true);
  double sum = e.host_seconds, saved = 0;
  for (const auto& o : e.operators) {
    sum += o.seconds;
    if (o.name == "overlap_of_nano_batches") saved = -o.seconds;
  }
  EXPECT_NEAR(sum, e.seconds, 1e-9);
  EXPECT_GT(saved, 0.02 * e.seconds);
  EXPECT_GE(e.high - e.seconds, saved) << "what is saved is as uncertain as it is large";

  PredictedBackend backend(p.deployment, p.cost);
  Batch b;
  b.prefill = probe.prefill;
  b.decode_sequences = 1024;
  b.sampled_rows = 1025;
  b.contexts[0] = 1024 * 700;
  b.growing[0] = 1024;
  const std::vector<Batch> batches{b};
  const StepTime t = backend.run(Step{0, 0, batches});
  EXPECT_NEAR(to_seconds(t.tokens_out).value / e.seconds, 1, 0.02);
  EXPECT_EQ(backend.run_span(Step{0, 0, batches}, 10).steps, 0) << "priced one by one";
}

}  // namespace
}  // namespace foretoken
