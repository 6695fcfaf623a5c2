// Parameter totals, active parameters and KV bytes of the presets against published counts, digit for digit.
#include "model/parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "base/json_full.h"
#include "model/hf_config.h"
#include "model/kv_cache.h"

namespace foretoken {
namespace {

const std::filesystem::path kSource = FORETOKEN_SOURCE_DIR;
const std::filesystem::path kPresets = kSource / "model/presets";

TEST(PublishedParameters, EveryRowOfTheGoldenFile) {
  CsvReader csv(kSource / "tests/published/parameters.csv");
  const auto preset = csv.column("preset"), total = csv.column("total"), active = csv.column("active"),
             kv = csv.column("kv_bytes_per_token"), source = csv.column("source");
  int rows = 0;
  while (csv.next()) {
    ++rows;
    SCOPED_TRACE(csv.text(preset));
    const ModelConfig model = load_model(csv.text(preset), kPresets);
    const Parameters p = count_parameters(model);
    if (csv.text(source) == "approximate") {
      EXPECT_NEAR(static_cast<double>(p.total) / csv.number(total), 1.0, 0.02);
      EXPECT_NEAR(static_cast<double>(p.active) / csv.number(active), 1.0, 0.02);
      continue;
    }
    EXPECT_EQ(p.total, csv.integer(total));
    if (!csv.text(active).empty()) {
      EXPECT_EQ(p.active, csv.integer(active));
    }
    if (!csv.text(kv).empty()) {
      EXPECT_EQ(kv_bytes_per_token(model, DType::kBf16), csv.number(kv));
    }
  }
  EXPECT_GE(rows, 55);
}

TEST(PublishedParameters, EveryPresetLoads) {
  for (const Preset& preset : list_presets(kPresets)) {
    SCOPED_TRACE(preset.name);
    const ModelConfig model = load_model(preset.name, kPresets);
    EXPECT_EQ(static_cast<std::int64_t>(model.layers.size()), model.num_layers);
    const Parameters p = count_parameters(model);
    EXPECT_GT(p.total, 100'000'000);
    EXPECT_LE(p.active, p.total);
    EXPECT_GT(p.active, 0);
  }
}

// Prediction layers are counted apart: GLM-4.5 with its own embedding and head (358,337,791,296 on Hugging
// Face), DeepSeek-V3 without (685 B in all with the shared tables).
TEST(PublishedParameters, PredictionLayers) {
  const auto mtp = [](const char* name) { return count_parameters(load_model(name, kPresets)).mtp; };
  const Parameters glm = count_parameters(load_model("glm-4.5", kPresets));
  EXPECT_EQ(glm.total + glm.mtp, 358'337'791'296);
  EXPECT_EQ(mtp("deepseek-v3"), 11'610'068'224);
  EXPECT_EQ(mtp("deepseek-v3.2"), 11'624'027'648);
  EXPECT_EQ(mtp("glm-5"), 9'952'920'576);
  EXPECT_EQ(mtp("kimi-k2"), 0);
}

// A larger collection of configs, where it is at hand: each is read to its recorded total or refused with a
// remedy.
TEST(PublishedParameters, CollectionOfConfigs) {
  const char* given = std::getenv("FORETOKEN_SHARED");
  const std::filesystem::path data =
      (given != nullptr ? std::filesystem::path(given) : kSource / "../shared") / "data";
  if (!std::filesystem::exists(data / "model_configs")) GTEST_SKIP() << "no collection at " << data;
  const Json reference = read_json(data / "reference_values.json");
  int read = 0, exact = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data / "model_configs")) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() != ".json" || stem.starts_with("_")) continue;
    SCOPED_TRACE(stem);
    try {
      const Parameters p = count_parameters(load_model(entry.path().string(), kPresets));
      ++read;
      if (!reference.contains(stem) || stem.find("V4") != std::string::npos) continue;
      EXPECT_EQ(p.total, reference[stem]["total"].get<std::int64_t>());
      ++exact;
    } catch (const Error& e) {
      EXPECT_NE(e.message().find("use the config.json"), std::string::npos) << e.what();
    }
  }
  EXPECT_GE(read, 90);
  EXPECT_GE(exact, 55);
}

}  // namespace
}  // namespace foretoken
