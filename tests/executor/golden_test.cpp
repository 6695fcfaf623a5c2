// The executor's logits of tiny random models against Hugging Face transformers
// (tests/golden/make_logits.py): decoded token by token, and as a whole prompt.
#include "golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;

class GoldenModel : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, GoldenModel, testing::ValuesIn(golden_names()),
                         [](const auto& family) { return family.param; });

TEST_P(GoldenModel, LogitsAreThoseOfTransformers) {
  const Golden golden(GetParam());
  SmallModel model(golden.config, 1, static_cast<std::int64_t>(golden.tokens.size()));
  model.weights = golden.checkpoint();
  Layout layout = small_layout();
  layout.max_length = 64;
  const auto expect = [&](const std::vector<float>& logits, std::size_t position, const char* how) {
    const auto& row = golden.logits[position];
    double most = 0;
    for (std::size_t v = 0; v < row.size(); ++v) most = std::max(most, std::fabs(logits[v] - row[v]));
    EXPECT_LT(most, 1e-4) << how << ", position " << position;
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(),
              std::max_element(row.begin(), row.end()) - row.begin());
  };
  for (const Kernels* kernels : {&reference_kernels(), &tested_kernels()}) {
    Runner runner(model, layout, *kernels);
    auto decoded = runner.sequence(0, 1, 64), prompt = runner.sequence(100, 1, 64);
    for (std::size_t i = 0; i < golden.tokens.size(); ++i)
      expect(runner.step({{&decoded, {golden.tokens[i]}, i > 0}})[0], i, kernels->name());
    expect(runner.step({{&prompt, golden.tokens}})[0], golden.tokens.size() - 1, "whole prompt");
  }
}

}  // namespace
}  // namespace foretoken
