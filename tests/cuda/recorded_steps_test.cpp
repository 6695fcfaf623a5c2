// Decoding steps that are recorded once and run again, padded to the sizes of recordings, beside steps that
// are launched one by one.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "tests/executor/model_support.h"

namespace foretoken::test {
namespace {

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(double{a[i]} - b[i]));
  return a.size() == b.size() ? most : INFINITY;
}

struct Decoding {
  Runner runner;
  std::vector<Runner::Sequence> sequences;
  Decoding(const SmallModel& model, const Layout& layout, std::size_t count)
      : runner(model, layout, tested_kernels()) {
    for (std::size_t i = 0; i < count; ++i) {
      sequences.push_back(runner.sequence(static_cast<std::int32_t>(30 * i), 1, 200));
      runner.step(
          {{&sequences[i], some_tokens(5 + 11 * static_cast<std::int64_t>(i), 128, static_cast<int>(i))}});
    }
  }
  std::vector<std::vector<float>> decode(std::size_t first, std::size_t count, std::int32_t token) {
    std::vector<Runner::Part> parts;
    for (std::size_t i = first; i < first + count; ++i)
      parts.push_back({&sequences[i], {token + static_cast<std::int32_t>(i)}, true});
    return runner.step(parts);
  }
};

class Recorded : public testing::TestWithParam<Json (*)()> {};

TEST_P(Recorded, StepsAreThoseThatAreLaunched) {
  const SmallModel model(GetParam()());
  Layout eager = small_layout(), recorded = small_layout();
  recorded.step_sizes = {1, 2, 4, 8};
  Decoding a(model, eager, 5), b(model, recorded, 5);
  // The same sizes again and again, smaller ones between them, other sequences in the same places.
  const std::pair<std::size_t, std::size_t> steps[] = {{0, 5}, {0, 5}, {2, 3}, {0, 1},
                                                       {4, 1}, {1, 3}, {0, 5}, {3, 2}};
  std::int32_t token = 3;
  for (const auto& [first, count] : steps) {
    const auto expected = a.decode(first, count, token), got = b.decode(first, count, token);
    ASSERT_EQ(got.size(), count) << "rows that pad a step have no logits";
    for (std::size_t i = 0; i < count; ++i)
      EXPECT_LT(distance(got[i], expected[i]), 1e-5) << first << " " << i;
    token += 7;
  }
  const auto launched = a.runner.transformer().operators_run(),
             again = b.runner.transformer().operators_run();
  ASSERT_EQ(launched.size(), again.size());
  for (std::size_t i = 0; i < launched.size(); ++i) {
    EXPECT_EQ(launched[i].op.name, again[i].op.name);
    EXPECT_EQ(launched[i].layer, again[i].layer);
    EXPECT_GE(again[i].seconds, 0);
  }
}

TEST_P(Recorded, LengthsGrowUnderOneRecording) {
  const SmallModel model(GetParam()());
  Layout eager = small_layout(), recorded = small_layout();
  recorded.step_sizes = {1};
  Decoding a(model, eager, 1), b(model, recorded, 1);
  for (std::int32_t i = 0; i < 40; ++i)
    EXPECT_LT(distance(a.decode(0, 1, i)[0], b.decode(0, 1, i)[0]), 1e-5) << i;
}

TEST_P(Recorded, AStepAloneIsTimedAsAWhole) {
  const SmallModel model(GetParam()());
  Layout layout = small_layout();
  layout.step_sizes = {1, 2}, layout.operator_times = OperatorTimes::kNone;
  Decoding d(model, layout, 2);
  d.decode(0, 2, 1);
  d.decode(0, 2, 2);
  double seconds = 0;
  for (const OperatorRun& o : d.runner.transformer().operators_run()) seconds += o.seconds;
  EXPECT_EQ(seconds, 0) << "operators have no times of their own";
  EXPECT_FALSE(d.runner.transformer().operators_run().empty());
}

// By what is recorded of kernels: every operator that launches has a time, launched or recorded, and together
// they are no more than the step.
TEST_P(Recorded, OperatorsAreTimedByActivities) {
  const SmallModel model(GetParam()());
  Layout layout = small_layout();
  layout.step_sizes = {1, 2}, layout.operator_times = OperatorTimes::kActivities;
  Decoding d(model, layout, 2);
  for (int step = 0; step < 5; ++step) {  // prompts, then launched, recorded and replayed steps
    const auto start = std::chrono::steady_clock::now();
    d.decode(0, 2, step + 1);
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double seconds = 0;
    for (const OperatorRun& o : d.runner.transformer().operators_run()) {
      seconds += o.seconds;
      if (o.op.name == "input_norm" || o.op.name == "o_proj" || o.op.name == "lm_head") {
        EXPECT_GT(o.seconds, 0);
      }
    }
    EXPECT_GT(seconds, 0);
    EXPECT_LT(seconds, took);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Recorded,
                         testing::Values(dense_config, moe_config, latent_config, windowed_config),
                         [](const auto& family) {
                           return std::string(std::array{"dense", "moe", "latent", "window"}[family.index]);
                         });

}  // namespace
}  // namespace foretoken::test
