// Dispatch of a Hugging Face config by its model_type, and the checks that hold for every family.
#include "model/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "model/hf_families.h"
#include "model/weights.h"

namespace foretoken {
namespace {

const Families& families() {
  static const Families table = [] {
    Families f;
    add_llama_families(f);
    add_moe_families(f);
    add_other_moe_families(f);
    add_gemma_families(f);
    add_deepseek_families(f);
    add_hybrid_families(f);
    add_legacy_families(f);
    return f;
  }();
  return table;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& [name, reader] : families()) names.push_back(name);
  return names;
}

[[noreturn]] void refuse_type(const ConfigReader& r, const std::string& type) {
  auto names = family_names();
  std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(a, type) < edit_distance(b, type);
  });
  r.fail("model_type",
         fmt::format("\"{}\" is not modelled; nearest first, these are: {}", type, join(names, ", ")));
}

// Counts are whole 64-bit numbers: the sum over the layers must stay far below their range.
void check_total(const ConfigReader& r, const ModelConfig& m) {
  double total = static_cast<double>(m.vocab) * static_cast<double>(m.hidden) * 2;
  std::vector<double> of_kind(m.kinds.size(), 0.0);
  for (std::size_t k = 0; k < m.kinds.size(); ++k)
    for (const WeightPart& part : weight_parts(m, m.kinds[k]))
      of_kind[k] += static_cast<double>(part.parameters);
  for (const std::uint8_t k : m.layers) total += of_kind[k];
  if (!(total < 1e15))
    throw Error(
        r.where(),
        fmt::format("the sizes make {:.3g} parameters, more than any model that can be believed", total));
}

// The configs beside DeepSeek's own inference code name the same sizes in other words, each read under its
// own path.
Json from_inference_config(const ConfigReader& r) {
  Json j = Json::object();
  for (const auto& [key, theirs, required] :
       {std::tuple<const char*, const char*, bool>{"vocab_size", "vocab_size", true},
        {"hidden_size", "dim", true},
        {"intermediate_size", "inter_dim", true},
        {"moe_intermediate_size", "moe_inter_dim", true},
        {"num_hidden_layers", "n_layers", true},
        {"first_k_dense_replace", "n_dense_layers", false},
        {"num_attention_heads", "n_heads", true},
        {"n_routed_experts", "n_routed_experts", true},
        {"n_shared_experts", "n_shared_experts", false},
        {"num_experts_per_tok", "n_activated_experts", true},
        {"q_lora_rank", "q_lora_rank", false},
        {"kv_lora_rank", "kv_lora_rank", true},
        {"qk_nope_head_dim", "qk_nope_head_dim", true},
        {"qk_rope_head_dim", "qk_rope_head_dim", true},
        {"v_head_dim", "v_head_dim", true}}) {
    const std::int64_t n = required ? r.size({theirs}, kMaxVocab) : r.count_or({theirs}, 0, kMaxVocab);
    if (n > 0) j[key] = n;
  }
  const bool sigmoid = r.text_or("score_func", "softmax") == "sigmoid";
  j["model_type"] = sigmoid ? "deepseek_v3" : "deepseek_v2";
  if (sigmoid) j["topk_method"] = "noaux_tc";
  if (r.text_or("dtype", "bf16") == "fp8")
    j["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  return j;
}

// Multimodal configs nest the language model; the rest of them costs nothing per generated token.
const Json* language_part(const Json& config) {
  for (const char* key : {"text_config", "llm_config", "language_config"}) {
    const auto it = config.find(key);
    if (it != config.end() && it->is_object() && it->contains("model_type")) return &*it;
  }
  return nullptr;
}

std::string language_key(const Json& config) {
  for (const char* key : {"text_config", "llm_config", "language_config"})
    if (config.contains(key) && config[key].is_object()) return key;
  return "text_config";
}

}  // namespace

ModelConfig read_hf_config(const Json& config, const std::string& where, const std::string& name) {
  const ConfigReader outer(config, where);
  if (const Json* part = language_part(config)) {
    Json inner = *part;
    // What the wrapper says of the whole model holds for its language part.
    for (const char* key : {"tie_word_embeddings", "torch_dtype", "dtype", "quantization_config"})
      if (outer.has(key) && (!inner.contains(key) || inner[key].is_null())) inner[key] = config[key];
    ModelConfig language = read_hf_config(inner, outer.path(language_key(config)), name);
    for (const char* key : {"vision_config", "audio_config", "vision_tower_config"})
      if (outer.has(key))
        language.not_counted += (language.not_counted.empty() ? "" : ", ") + std::string(key);
    return language;
  }
  ModelConfig m;
  m.name = name;
  m.model_type = outer.text_or("model_type", "");
  if (m.model_type.empty()) {
    if (outer.has("moe_inter_dim") && outer.has("n_activated_experts"))
      return read_hf_config(from_inference_config(outer), where, name);
    outer.fail("model_type", "missing; use the config.json of the model's Hugging Face repository");
  }
  const auto it = families().find(m.model_type);
  if (it == families().end()) refuse_type(outer, m.model_type);
  it->second(outer, m);
  read_quantization(outer, m);
  outer.refuse_unread();
  check_total(outer, m);
  return m;
}

}  // namespace foretoken
