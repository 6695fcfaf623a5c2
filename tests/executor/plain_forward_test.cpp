// Numerics, checkpoints and the plain forward pass against logits that Hugging Face's classes computed.
#include "plain_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "golden.h"

namespace foretoken {
namespace {

class PlainForward : public testing::TestWithParam<std::string> {};

TEST_P(PlainForward, ComputesTheLogitsOfHuggingFace) {
  const Golden golden(GetParam());
  const Rows logits = plain_forward(golden.model, golden.numerics, *golden.checkpoint(), golden.tokens);
  ASSERT_EQ(logits.size(), golden.logits.size());
  double worst = 0;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    ASSERT_EQ(logits[t].size(), golden.logits[t].size());
    for (std::size_t i = 0; i < logits[t].size(); ++i)
      worst = std::max(worst, std::abs(logits[t][i] - golden.logits[t][i]));
    const auto best = [](const std::vector<double>& row) {
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    EXPECT_EQ(best(logits[t]), best(golden.logits[t])) << "token " << t;
  }
  EXPECT_LT(worst, 1e-4);
  RecordProperty("largest_difference", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(Families, PlainForward, testing::ValuesIn(golden_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace foretoken
