// Reads Hugging Face config.json files and the built-in presets.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/model_config.h"

namespace foretoken {

// Throws Error{where:/key/path} for missing, contradictory or unsupported keys.
ModelConfig read_hf_config(const Json& config, const std::string& where, const std::string& name);

// `name`: a preset ("llama-3.3-70b"), a Hugging Face id with or without its organisation, or a path to a
// config.json (or a folder that holds one). preset_folder holds *.json presets. base: folder for relative
// paths.
ModelConfig load_model(const std::string& name, const std::filesystem::path& preset_folder,
                       const std::filesystem::path& base = {});

// The config.json that load_model() reads.
std::filesystem::path model_file(const std::string& name, const std::filesystem::path& preset_folder,
                                 const std::filesystem::path& base = {});

struct Preset {
  std::string name;  // file stem
  std::string hugging_face_id;
};
std::vector<Preset> list_presets(const std::filesystem::path& preset_folder);

}  // namespace foretoken
