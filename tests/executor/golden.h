// The golden models of tests/golden, made by make_logits.py there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json_full.h"
#include "executor/checkpoint.h"
#include "model/hf_config.h"

namespace foretoken {

inline std::filesystem::path golden_folder() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests" / "golden";
}

// Every folder there.
inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder()))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

struct Golden {
  explicit Golden(const std::string& name) : folder(golden_folder() / name) {
    config = read_json(folder / "config.json");
    model = read_hf_config(config, name, name);
    const Json j = read_json(folder / "logits.json");
    tokens = j["tokens"].get<std::vector<std::int32_t>>();
    logits = j["logits"].get<std::vector<std::vector<double>>>();
    numerics = read_numerics(config, model, static_cast<std::int64_t>(tokens.size()), name);
  }
  std::unique_ptr<Checkpoint> checkpoint() const { return safetensors_checkpoint(folder, model, numerics); }

  std::filesystem::path folder;
  Json config;
  ModelConfig model;
  Numerics numerics;
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<double>> logits;  // [token][vocab]
};

}  // namespace foretoken
