// Logits of tiny random models against Hugging Face transformers (tests/golden/make_logits.py): every family
// that the executor says it runs.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;
namespace fs = std::filesystem;

fs::path folder(const std::string& family) {
  return fs::path(FORETOKEN_SOURCE_DIR) / "tests/golden" / family;
}

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder("")))
    if (entry.is_directory()) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

class Golden : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Families, Golden, testing::ValuesIn(families()),
                         [](const auto& family) { return family.param; });

TEST_P(Golden, LogitsAreThoseOfTransformers) {
  const Json json = read_json(folder(GetParam()) / "config.json"),
             expected = read_json(folder(GetParam()) / "logits.json");
  const auto tokens = expected.at("tokens").get<std::vector<std::int32_t>>();
  const auto length = static_cast<std::int64_t>(tokens.size());
  SmallModel model(json, 1, length);
  model.weights = safetensors_checkpoint(folder(GetParam()), model.config, model.numerics);
  Layout layout = small_layout();
  layout.max_length = 64;
  for (const Kernels* kernels : {&reference_kernels(), cpu_kernels()}) {
    Runner whole(model, layout, *kernels);
    auto s = whole.sequence(0, 1, 64);
    for (std::int64_t i = 0; i < length; ++i) {
      // All positions: the first ones one after the other, the last one with the whole prompt as well.
      const auto logits = whole.step({{&s, {tokens[static_cast<std::size_t>(i)]}, i > 0}})[0];
      const auto row = expected.at("logits")[static_cast<std::size_t>(i)].get<std::vector<double>>();
      double most = 0;
      for (std::size_t v = 0; v < row.size(); ++v) most = std::max(most, std::fabs(logits[v] - row[v]));
      ASSERT_LT(most, 1e-4) << kernels->name() << ", position " << i;
      EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(),
                std::max_element(row.begin(), row.end()) - row.begin());
    }
    auto prompt = whole.sequence(100, 1, 64);
    const auto logits = whole.step({{&prompt, tokens}})[0];
    const auto row = expected.at("logits").back().get<std::vector<double>>();
    for (std::size_t v = 0; v < row.size(); ++v) ASSERT_NEAR(logits[v], row[v], 1e-4) << kernels->name();
  }
}

TEST(GoldenFiles, AllFamiliesAreThere) { EXPECT_GE(families().size(), 20u); }

}  // namespace
}  // namespace foretoken
