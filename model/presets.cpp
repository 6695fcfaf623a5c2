// Built-in configs by name, Hugging Face id or path.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/csv.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "model/hf_config.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;

// Python writes infinities and NaN as bare words, which JSON doesn't have; no size is read from such a value.
std::string plain_json(std::string text) {
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted) {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == '"')
        quoted = false;
      continue;
    }
    if (text[i] == '"') {
      quoted = true;
      continue;
    }
    for (const auto& [word, plain] : {std::pair<std::string_view, std::string_view>{"-Infinity", "null"},
                                      {"Infinity", "null"},
                                      {"NaN", "null"}})
      if (text.compare(i, word.size(), word) == 0) {
        text.replace(i, word.size(), plain);
        i += plain.size() - 1;
        break;
      }
  }
  return text;
}

ModelConfig load_file(const fs::path& path, const std::string& name) {
  const std::string where = path.string();
  const Json config = parse_json(plain_json(read_file(path)), where);
  // modelopt puts the format into a file of its own beside the config.
  const fs::path beside = path.parent_path() / "hf_quant_config.json";
  if (path.filename() == "config.json" && config.is_object() && !config.contains("quantization_config") &&
      fs::exists(beside)) {
    Json whole = config;
    Json format = read_json(beside);
    format["quant_method"] = "modelopt";
    if (format.contains("quantization") && format["quantization"].is_object())
      format["quantization"]["quant_method"] = "modelopt";
    whole["quantization_config"] = std::move(format);
    return read_hf_config(whole, where, name);
  }
  return read_hf_config(config, where, name);
}

std::string base_name(std::string_view id) {
  const auto slash = id.rfind('/');
  return lower(slash == std::string_view::npos ? id : id.substr(slash + 1));
}

struct Suffix {
  std::string_view text;
  WeightFormat format;
};
// Variants that share their base model's architecture, and the formats that their names stand for.
constexpr std::array<Suffix, 19> kSuffixes{{{"-instruct", WeightFormat::kPlain},
                                            {"-chat", WeightFormat::kPlain},
                                            {"-base", WeightFormat::kPlain},
                                            {"-it", WeightFormat::kPlain},
                                            {"-pt", WeightFormat::kPlain},
                                            {"-hf", WeightFormat::kPlain},
                                            {"-bf16", WeightFormat::kPlain},
                                            {"-thinking", WeightFormat::kPlain},
                                            {"-2507", WeightFormat::kPlain},
                                            {"-0528", WeightFormat::kPlain},
                                            {"-0324", WeightFormat::kPlain},
                                            {"-0905", WeightFormat::kPlain},
                                            {"-fp8", WeightFormat::kFp8},
                                            {"-nvfp4", WeightFormat::kNvfp4},
                                            {"-fp4", WeightFormat::kNvfp4},
                                            {"-awq", WeightFormat::kInt4Wo},
                                            {"-gptq", WeightFormat::kInt4Wo},
                                            {"-int4", WeightFormat::kInt4Wo},
                                            {"-w8a8", WeightFormat::kInt8}}};

// The makers of these families publish fp8 with scales of 128 x 128 blocks.
bool publishes_block_scales(const std::string& model_type) {
  for (const std::string_view start : {"qwen3", "deepseek", "minimax", "kimi", "mimo", "step"})
    if (model_type.starts_with(start)) return true;
  return false;
}

struct Catalogue {
  std::vector<Preset> presets;
  std::vector<std::pair<std::string, std::string>> aliases;  // lower-case name, preset

  const std::string* find(const std::string& wanted) const {
    for (const Preset& p : presets)
      if (p.name == wanted || lower(p.hugging_face_id) == wanted || base_name(p.hugging_face_id) == wanted)
        return &p.name;
    for (const auto& [alias, name] : aliases)
      if (alias == wanted) return &name;
    return nullptr;
  }
};

Catalogue read_catalogue(const fs::path& folder) {
  Catalogue c;
  c.presets = list_presets(folder);
  const fs::path aliases = folder / "ALIASES.csv";
  if (!fs::exists(aliases)) return c;
  CsvReader csv(aliases);
  const std::size_t alias = csv.column("alias"), name = csv.column("name");
  while (csv.next()) c.aliases.emplace_back(lower(csv.text(alias)), csv.text(name));
  return c;
}

[[noreturn]] void refuse_name(const std::string& name, const Catalogue& catalogue, const fs::path& folder) {
  const std::string wanted = base_name(name);
  std::vector<std::string> names;
  for (const Preset& p : catalogue.presets) names.push_back(p.name);
  std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(a, wanted) < edit_distance(b, wanted);
  });
  names.resize(std::min<std::size_t>(names.size(), 5));
  throw Error(name, names.empty()
                        ? fmt::format("no presets in {}", folder.string())
                        : fmt::format("no such model preset or config file; nearest presets: {}. A path to a "
                                      "Hugging Face config.json works too",
                                      join(names, ", ")));
}

}  // namespace

std::vector<Preset> list_presets(const fs::path& preset_folder) {
  std::vector<Preset> out;
  const fs::path sources = preset_folder / "SOURCES.csv";
  if (!fs::exists(sources)) return out;
  CsvReader csv(sources);
  const std::size_t name = csv.column("name"), id = csv.column("hugging_face_id");
  while (csv.next()) out.push_back({csv.text(name), csv.text(id)});
  return out;
}

namespace {

// A model's config.json, the name that it goes by and the weight format that its name asks for.
struct Located {
  fs::path file;
  std::string name;
  WeightFormat format = WeightFormat::kPlain;
};

Located locate(const std::string& name, const fs::path& preset_folder, const fs::path& base) {
  if (name.empty()) throw Error("model", "is empty; give a preset's name or a path to a config.json");
  const fs::path path = fs::path(name).is_absolute() || base.empty() ? fs::path(name) : base / name;
  const bool looks_like_file = name.ends_with(".json");
  std::error_code ignored;
  if (looks_like_file || name.find('/') != std::string::npos) {
    if (fs::is_directory(path, ignored)) {
      const fs::path config = path / "config.json";
      if (!fs::exists(config)) throw Error(config.string(), "the folder has no config.json");
      return {config, path.filename().string()};
    }
    if (looks_like_file || fs::is_regular_file(path, ignored)) {
      const bool generic = path.filename() == "config.json" && path.has_parent_path();
      return {path, generic ? path.parent_path().filename().string() : path.stem().string()};
    }
  }
  const Catalogue catalogue = read_catalogue(preset_folder);
  std::string wanted = lower(name);
  WeightFormat format = WeightFormat::kPlain;
  const std::string* found = catalogue.find(wanted);
  if (found == nullptr) found = catalogue.find(wanted = base_name(name));
  for (bool shorter = true; found == nullptr && shorter;) {
    shorter = false;
    for (const Suffix& suffix : kSuffixes) {
      if (!wanted.ends_with(suffix.text)) continue;
      wanted.resize(wanted.size() - suffix.text.size());
      if (suffix.format != WeightFormat::kPlain) format = suffix.format;
      shorter = true;
      break;
    }
    if (shorter) found = catalogue.find(wanted);
  }
  if (found == nullptr) refuse_name(name, catalogue, preset_folder);
  return {preset_folder / (*found + ".json"), *found, format};
}

}  // namespace

fs::path model_file(const std::string& name, const fs::path& preset_folder, const fs::path& base) {
  return locate(name, preset_folder, base).file;
}

ModelConfig load_model(const std::string& name, const fs::path& preset_folder, const fs::path& base) {
  auto [file, found, format] = locate(name, preset_folder, base);
  ModelConfig model = load_file(file, found);
  if (format != WeightFormat::kPlain && model.quantization.format == WeightFormat::kPlain) {
    if (format == WeightFormat::kFp8 && publishes_block_scales(model.model_type))
      format = WeightFormat::kFp8Block;
    model.quantization.format = format;
    model.quantization.excluded = {"lm_head"};
  }
  return model;
}

}  // namespace foretoken
