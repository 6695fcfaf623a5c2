// Checked access to the keys of a Hugging Face config.
#include "model/config_reader.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"

namespace foretoken {
namespace {

// Words in the names of keys that describe blocks of a layer. A key with one of them that no reader asked for
// stands for something whose cost is not modelled.
constexpr std::array kBlockWords{"lora_rank",
                                 "_experts",
                                 "experts_per_tok",
                                 "moe_layer",
                                 "ssm_",
                                 "mamba",
                                 "compress",
                                 "latent",
                                 "kv_shared",
                                 "cross_attention_layers",
                                 "engram",
                                 "per_layer_input",
                                 "hc_mult",
                                 "attn_res_",
                                 "sparse_",
                                 "linear_attn",
                                 "linear_num",
                                 "linear_key",
                                 "linear_value",
                                 "index_topk",
                                 "index_n_heads",
                                 "altup",
                                 "laurel",
                                 "layer_types",
                                 "block_configs",
                                 "hybrid_",
                                 "recurrent",
                                 "layers_block_type",
                                 "double_wide",
                                 "attention_chunk",
                                 "num_global_key",
                                 "block_types",
                                 "num_loop",
                                 "lru_width",
                                 "swa_num",
                                 "attn_module_list",
                                 "attn_layer_",
                                 "expert_layer_",
                                 "conv_L",
                                 "conv_bias",
                                 "full_attn_idxs",
                                 "router_lora",
                                 "output_gate",
                                 "attn_gate",
                                 "layer_pattern",
                                 "attention_layers",
                                 "memory_tokens",
                                 "meta_tokens",
                                 "hash_layers",
                                 "embed_proj",
                                 "mixer",
                                 "moe_intermediate"};
// Keys that contain such a word and cost nothing that a count needs.
constexpr std::array kHarmless{"norm_topk_prob",
                               "output_router_logits",
                               "num_expert_group",
                               "n_group",
                               "max_window_layers",
                               "moe_layer_freq",
                               "index_topk_freq",
                               "index_topk_pattern",
                               "index_share_for_mtp_iteration",
                               "use_mamba_kernels",
                               "index_skip_topk_offset",
                               "mlp_layer_types",
                               "compress_rope_theta",
                               "mamba_ssm_dtype",
                               "mamba_chunk_size",
                               "tie_encoder_decoder",
                               "vocab_size_per_layer_input",
                               "cross_attention_hidden_size",
                               "output_hidden_states"};

bool switched_on(const Json& v) {
  if (v.is_boolean()) return v.get<bool>();
  if (v.is_number()) return v.get<double>() != 0;
  if (v.is_array() || v.is_object()) return !v.empty();
  return false;  // text and null name methods, not sizes
}

}  // namespace

ConfigReader::ConfigReader(const Json& config, std::string where)
    : config_(&config), where_(std::move(where)) {
  if (!config.is_object())
    throw Error(where_, "expected an object: the content of a Hugging Face config.json");
}

std::string ConfigReader::path(std::string_view key) const {
  return fmt::format("{}{}{}", where_, where_.find(":/") == std::string::npos ? ":/" : "/", key);
}

void ConfigReader::fail(std::string_view key, const std::string& message) const {
  throw Error(path(key), message);
}

bool ConfigReader::has(std::string_view key) const {
  const auto it = config_->find(std::string(key));
  return it != config_->end() && !it->is_null();
}

const Json* ConfigReader::find(std::string_view key) const {
  const auto it = config_->find(std::string(key));
  if (it == config_->end() || it->is_null()) return nullptr;
  read_.emplace(key);
  return &*it;
}

std::string_view ConfigReader::present(KeyList keys) const {
  for (const std::string_view key : keys)
    if (has(key)) return key;
  return *keys.begin();
}

std::int64_t ConfigReader::integer(const Json& value, std::string_view key, std::int64_t min,
                                   std::int64_t max) const {
  if (!value.is_number() || value.is_boolean())
    fail(key, fmt::format("expected a whole number, not {}", value.dump().substr(0, 60)));
  const double v = value.get<double>();
  if (!std::isfinite(v) || v != std::floor(v)) fail(key, fmt::format("{} is no whole number", v));
  if (v < static_cast<double>(min)) fail(key, fmt::format("{} is below {}", v, min));
  if (v > static_cast<double>(max))
    fail(key, fmt::format("{} is above {}, the largest that is believed", v, max));
  return static_cast<std::int64_t>(v);
}

std::int64_t ConfigReader::size(KeyList keys, std::int64_t max) const {
  const std::string_view key = present(keys);
  const Json* value = find(key);
  if (value == nullptr) fail(key, "missing; the model's size can't be known without it");
  return integer(*value, key, 1, max);
}

std::int64_t ConfigReader::size_or(KeyList keys, std::int64_t otherwise, std::int64_t max) const {
  const std::string_view key = present(keys);
  const Json* value = find(key);
  return value == nullptr ? otherwise : integer(*value, key, 1, max);
}

std::int64_t ConfigReader::count_or(KeyList keys, std::int64_t otherwise, std::int64_t max) const {
  const std::string_view key = present(keys);
  const Json* value = find(key);
  return value == nullptr ? otherwise : integer(*value, key, 0, max);
}

bool ConfigReader::flag_or(KeyList keys, bool otherwise) const {
  const std::string_view key = present(keys);
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) fail(key, "expected true or false");
  return value->get<bool>();
}

double ConfigReader::number(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) fail(key, "missing; the model's size can't be known without it");
  if (!value->is_number()) fail(key, "expected a number");
  const double v = value->get<double>();
  if (!std::isfinite(v) || v <= 0 || v > 1e6) fail(key, fmt::format("{} is not between 0 and 1e6", v));
  return v;
}

std::string ConfigReader::text_or(std::string_view key, const std::string& otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) fail(key, "expected a text");
  return value->get<std::string>();
}

std::optional<std::vector<std::int64_t>> ConfigReader::integers(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) fail(key, "expected an array of whole numbers");
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < value->size(); ++i)
    out.push_back(integer((*value)[i], fmt::format("{}/{}", key, i), 0, kMaxPositions));
  return out;
}

std::optional<std::vector<std::string>> ConfigReader::names(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) fail(key, "expected an array of texts");
  std::vector<std::string> out;
  for (std::size_t i = 0; i < value->size(); ++i) {
    if (!(*value)[i].is_string()) fail(fmt::format("{}/{}", key, i), "expected a text");
    out.push_back((*value)[i].get<std::string>());
  }
  return out;
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, "expected an object");
  return ConfigReader(*value, path(key));
}

void ConfigReader::ignore(KeyList keys) const {
  for (const std::string_view key : keys) read_.emplace(key);
}

void ConfigReader::refuse_unread() const {
  for (const auto& [key, value] : config_->items()) {
    if (read_.contains(key) || !switched_on(value)) continue;
    bool harmless = false;
    for (const std::string_view word : kHarmless) harmless = harmless || key == word;
    if (harmless) continue;
    for (const std::string_view word : kBlockWords)
      if (key.find(word) != std::string::npos)
        fail(key, fmt::format("is not modelled for this model_type and changes its cost; "
                              "remove the key (or set it to null) only if the model really is without it"));
  }
}

}  // namespace foretoken
