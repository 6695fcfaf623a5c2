// quantization_config of Hugging Face checkpoints: the format of the weights and the modules that keep their
// own type.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <regex>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

// '*' matches any text; a pattern also matches everything below the module that it names.
bool glob_match(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (p == pattern.size() && text[t] == '.') {
      return true;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

struct Pattern {
  std::string text;
  std::optional<std::regex> regex;

  bool matches(const std::string& module) const {
    if (regex) return std::regex_search(module, *regex, std::regex_constants::match_continuous);
    if (text.find('*') != std::string::npos) return glob_match(text, module);
    // Whole names between dots, anywhere: "self_attn" and "model.layers.3.self_attn", but not "gate" in
    // "gate_up".
    return ("." + module + ".").find("." + text + ".") != std::string::npos;
  }
};

std::vector<Pattern> read_patterns(const ConfigReader& q) {
  std::vector<Pattern> out;
  for (const std::string_view key :
       {"ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude"}) {
    if (!q.has(key)) continue;
    const auto names = q.names(key);
    for (std::size_t i = 0; i < names->size(); ++i) {
      const std::string& name = (*names)[i];
      if (name.size() > 400) q.fail(fmt::format("{}/{}", key, i), "is longer than any module's name");
      Pattern p{.text = name, .regex = std::nullopt};
      if (name.starts_with("re:")) {
        try {
          p.regex.emplace(name.substr(3), std::regex::ECMAScript);
        } catch (const std::regex_error&) {
          q.fail(fmt::format("{}/{}", key, i), fmt::format("\"{}\" is no regular expression", name));
        }
      }
      out.push_back(std::move(p));
    }
  }
  return out;
}

// Names by which checkpoints call one module of each component, after "layers.<i>.".
struct ComponentNames {
  std::string_view component;
  std::array<std::string_view, 4> modules;
};
constexpr std::array<ComponentNames, 5> kComponents{
    {{"attention", {"self_attn.o_proj", "attn.wo_a", "attention.o_proj", "mixer.o_proj"}},
     {"linear_attention", {"linear_attn.out_proj", "mixer.out_proj", "self_attn.o_proj.kda", ""}},
     {"mlp", {"mlp.down_proj", "feed_forward.down_proj", "mixer.down_proj", "ffn.w2"}},
     {"experts",
      {"mlp.experts.0.down_proj", "ffn.experts.0.w2", "block_sparse_moe.experts.0.w2",
       "mixer.experts.0.down_proj"}},
     {"shared_experts",
      {"mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj", "ffn.shared_experts.w2",
       "mixer.shared_experts.down_proj"}}}};
constexpr std::array<std::string_view, 4> kPrefixes{"model.layers.", "model.language_model.layers.",
                                                    "language_model.model.layers.", "layers."};

bool any_matches(const std::vector<Pattern>& patterns, const std::string& module) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const Pattern& p) { return p.matches(module); });
}

bool has_component(const LayerKind& kind, std::string_view component) {
  if (component == "attention")
    return !std::holds_alternative<NoMixer>(kind.mixer) &&
           !std::holds_alternative<RecurrentMixer>(kind.mixer);
  if (component == "linear_attention") return std::holds_alternative<RecurrentMixer>(kind.mixer);
  if (component == "mlp") return std::holds_alternative<DenseMlp>(kind.mlp);
  const auto* moe = std::get_if<MoeMlp>(&kind.mlp);
  return moe != nullptr && (component == "experts" || moe->shared_inter > 0);
}

// A component is excluded when most of the layers that have it are.
bool mostly_excluded(const ModelConfig& m, const ComponentNames& names,
                     const std::vector<Pattern>& patterns) {
  // Without a digit no pattern tells layers apart: one layer answers for all.
  const bool same = std::none_of(patterns.begin(), patterns.end(), [](const Pattern& p) {
    return p.text.find_first_of("0123456789") != std::string::npos;
  });
  int with = 0, excluded = 0;
  for (std::size_t i = 0; i < m.layers.size(); ++i) {
    if (!has_component(m.kinds[m.layers[i]], names.component)) continue;
    ++with;
    bool hit = false;
    for (const std::string_view prefix : kPrefixes)
      for (const std::string_view module : names.modules)
        if (!hit && !module.empty()) hit = any_matches(patterns, fmt::format("{}{}.{}", prefix, i, module));
    excluded += hit ? 1 : 0;
    if (same) break;
  }
  return with > 0 && 2 * excluded > with;
}

WeightFormat format_from_algorithm(const ConfigReader& q, std::string_view key,
                                   const std::string& algorithm) {
  const std::string a = lower(algorithm);
  if (a == "fp8" || a == "fp8_per_channel_per_token") return WeightFormat::kFp8;
  if (a == "fp8_pb_wo" || a == "fp8_block" || a == "fp8_block_scales") return WeightFormat::kFp8Block;
  if (a == "nvfp4" || a == "w4a16_nvfp4" || a == "nvfp4_awq") return WeightFormat::kNvfp4;
  if (a == "mxfp4" || a == "w4a8_mxfp4_fp8") return WeightFormat::kMxfp4;
  if (a == "w4a16_awq" || a == "w4a16") return WeightFormat::kInt4Wo;
  if (a == "int8_sq" || a == "w8a8_sq_per_channel") return WeightFormat::kInt8;
  q.fail(key,
         fmt::format(
             "quantisation \"{}\" is not modelled; known: FP8, FP8_PB_WO, NVFP4, MXFP4, W4A16_AWQ, INT8_SQ",
             algorithm));
}

WeightFormat format_of_group(const ConfigReader& group) {
  const auto weights = group.object("weights");
  if (!weights) group.fail("weights", "missing: bits and type of the weights");
  const std::int64_t bits = weights->size({"num_bits"}, 64);
  const std::string type = weights->text_or("type", "int"), strategy = weights->text_or("strategy", "");
  const std::int64_t size = weights->count_or({"group_size"}, 0, 1 << 20);
  if (bits == 8 && type == "float") return strategy == "block" ? WeightFormat::kFp8Block : WeightFormat::kFp8;
  if (bits == 8) return WeightFormat::kInt8;
  if (bits == 4 && type == "int") return WeightFormat::kInt4Wo;
  if (bits == 4 && type == "float") return size == 32 ? WeightFormat::kMxfp4 : WeightFormat::kNvfp4;
  weights->fail("num_bits", fmt::format("{} bits of type {} are not modelled", bits, type));
}

WeightFormat format_from_groups(const ConfigReader& q) {
  const auto groups = q.object("config_groups");
  if (!groups) q.fail("config_groups", "missing: how the weights are quantised");
  for (const auto& [name, value] : groups->json().items()) {
    if (!value.is_object()) groups->fail(name, "expected an object");
    return format_of_group(ConfigReader(value, groups->path(name)));
  }
  q.fail("config_groups", "is empty");
}

WeightFormat int_bits(const ConfigReader& q) {
  const std::int64_t bits = q.size_or({"bits", "w_bit"}, 4, 64);
  if (bits == 4) return WeightFormat::kInt4Wo;
  if (bits == 8) return WeightFormat::kInt8;
  q.fail(q.present({"bits", "w_bit"}), fmt::format("{}-bit weights are not modelled; 4 and 8 are", bits));
}

WeightFormat read_format(const ConfigReader& q, QuantizationSpec& spec) {
  const std::string method = lower(q.text_or("quant_method", ""));
  if (method == "fp8") {
    if (q.has("moe_quant_algo"))
      spec.experts = format_from_algorithm(q, "moe_quant_algo", q.text_or("moe_quant_algo", ""));
    return q.has("weight_block_size") ? WeightFormat::kFp8Block : WeightFormat::kFp8;
  }
  if (method == "fbgemm_fp8") return WeightFormat::kFp8;
  if (method == "mxfp4") return WeightFormat::kMxfp4;
  if (method == "awq" || method == "gptq" || method == "auto-round" || method == "auto_round")
    return int_bits(q);
  if (method == "compressed-tensors" || method == "compressed_tensors") return format_from_groups(q);
  if (method == "bitsandbytes")
    return q.flag_or({"load_in_8bit"}, false) ? WeightFormat::kInt8 : WeightFormat::kInt4Wo;
  if (q.has("quant_algo") || method.starts_with("modelopt") || method == "nvfp4" || method == "hf_quant") {
    const std::string algorithm = q.text_or("quant_algo", method == "nvfp4" ? "NVFP4" : "");
    if (algorithm.empty()) return q.has("config_groups") ? format_from_groups(q) : WeightFormat::kPlain;
    return format_from_algorithm(q, "quant_algo", algorithm);
  }
  q.fail("quant_method",
         fmt::format("\"{}\" is not modelled; known: fp8, fbgemm_fp8, compressed-tensors, modelopt, mxfp4, "
                     "awq, gptq, bitsandbytes",
                     method));
}

}  // namespace

void read_quantization(const ConfigReader& r, ModelConfig& m) {
  const auto q = r.object("quantization_config");
  const std::string expert_type = r.text_or("expert_dtype", "");
  if (!q) return;
  QuantizationSpec& spec = m.quantization;
  // modelopt's hf_quant_config.json nests the same keys once more.
  const auto nested = q->object("quantization");
  const ConfigReader& source = nested ? *nested : *q;
  spec.format = read_format(source, spec);
  if (expert_type == "fp4" && spec.experts == WeightFormat::kPlain) spec.experts = WeightFormat::kMxfp4;
  spec.kv_fp8 = lower(source.text_or("kv_cache_quant_algo", "")) == "fp8";
  const auto patterns = read_patterns(source);
  for (const ComponentNames& names : kComponents) {
    // Experts with a format of their own are what the patterns leave out of the common one.
    if (names.component == "experts" && spec.experts != WeightFormat::kPlain) continue;
    if (!patterns.empty() && mostly_excluded(m, names, patterns)) spec.excluded.emplace_back(names.component);
  }
  spec.excluded.emplace_back("lm_head");
  // gpt-oss: the format exists for experts alone.
  if (spec.format == WeightFormat::kMxfp4 && m.model_type == "gpt_oss" && !spec.is_excluded("attention"))
    spec.excluded.emplace_back("attention");
}

}  // namespace foretoken
