// What the readers of the families share: sizes, attention, windows, experts, lists of layers.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "model/hf_families.h"

namespace foretoken {

std::string describe(const LayerKind& kind) {
  std::string name;
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer))
    name = a->window > 0 ? (a->chunked ? "chunked_attention" : "sliding_attention")
                         : (a->index_heads > 0 ? "sparse_attention" : "attention");
  else if (const auto* l = std::get_if<MlaAttention>(&kind.mixer))
    name = l->has_indexer ? "indexed_mla" : (l->index_top_k > 0 ? "sparse_mla" : "mla");
  else if (const auto* c = std::get_if<CompressedAttention>(&kind.mixer))
    name = c->ratio == 0 ? "window_attention" : fmt::format("compressed_attention_{}", c->ratio);
  else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
    switch (r->kind) {
      case RecurrentMixer::Kind::kGatedDelta:
        name = "gated_delta";
        break;
      case RecurrentMixer::Kind::kMamba2:
        name = "mamba2";
        break;
      case RecurrentMixer::Kind::kLightning:
        name = "lightning";
        break;
      case RecurrentMixer::Kind::kMamba1:
        name = "mamba";
        break;
      case RecurrentMixer::Kind::kKda:
        name = "kda";
        break;
    }
  }
  std::string mlp;
  if (std::holds_alternative<DenseMlp>(kind.mlp)) mlp = "mlp";
  if (std::holds_alternative<MoeMlp>(kind.mlp)) mlp = "moe";
  if (name.empty()) return mlp.empty() ? "empty" : mlp;
  return mlp.empty() ? name : name + "+" + mlp;
}

int LayerList::kind_index(LayerKind kind) {
  kind.name = describe(kind);
  for (std::size_t i = 0; i < model_.kinds.size(); ++i) {
    LayerKind other = model_.kinds[i];
    other.name = kind.name;  // names may have been made unique
    if (other == kind) return static_cast<int>(i);
  }
  if (model_.kinds.size() > std::numeric_limits<std::uint8_t>::max())
    throw Error(reader_.where(), "more than 256 different kinds of layer");
  const std::string base = kind.name;
  const auto taken = [&](const std::string& n) {
    return std::any_of(model_.kinds.begin(), model_.kinds.end(),
                       [&](const LayerKind& k) { return k.name == n; });
  };
  for (int n = 2; taken(kind.name); ++n) kind.name = fmt::format("{}_{}", base, n);
  model_.kinds.push_back(std::move(kind));
  return static_cast<int>(model_.kinds.size()) - 1;
}

void LayerList::add(LayerKind kind) {
  model_.layers.push_back(static_cast<std::uint8_t>(kind_index(std::move(kind))));
}

void read_common(const ConfigReader& r, ModelConfig& m, bool tied_default) {
  m.hidden = r.size({"hidden_size", "n_embd", "d_model", "hidden_dim"}, 1 << 20);
  m.vocab = r.size({"vocab_size"}, kMaxVocab);
  m.num_layers = r.size({"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, kMaxLayers);
  m.max_positions = r.size_or({"max_position_embeddings", "n_positions", "n_ctx", "max_seq_len",
                               "max_sequence_length", "model_max_length", "seq_length"},
                              0, kMaxPositions);
  m.tied_embeddings = r.flag_or({"tie_word_embeddings"}, tied_default);
  m.final_norm_parameters = m.hidden;
  const std::string_view key = r.present({"torch_dtype", "dtype"});
  if (const Json* v = r.find(key)) {
    if (!v->is_string()) r.fail(key, "expected a text such as \"bfloat16\"");
    const auto type = dtype_from_name(v->get<std::string>());
    if (!type)
      r.fail(key,
             fmt::format("unknown type \"{}\"; use bfloat16, float16 or float32", v->get<std::string>()));
    m.dtype = *type;
  }
}

std::int64_t read_head_dim(const ConfigReader& r, std::int64_t hidden, std::int64_t heads) {
  const std::int64_t given = r.size_or({"head_dim", "attention_head_dim", "kv_channels"}, 0, kMaxHeadDim);
  if (given > 0) return given;
  // Qwen3's own default differs from hidden size over heads.
  if (r.text_or("model_type", "").starts_with("qwen3")) return 128;
  if (hidden % heads != 0)
    r.fail(r.present({"num_attention_heads", "n_head", "num_heads", "n_heads"}),
           fmt::format("{} heads don't divide hidden size {}, and there is no head_dim", heads, hidden));
  return hidden / heads;
}

GqaAttention read_gqa(const ConfigReader& r, const ModelConfig& m, const FamilyTraits& t) {
  GqaAttention a;
  a.heads = r.size({"num_attention_heads", "n_head", "num_heads", "n_heads"}, kMaxHeads);
  a.kv_heads = r.size_or({"num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"},
                         a.heads, kMaxHeads);
  if (a.heads % a.kv_heads != 0)
    r.fail(r.present({"num_key_value_heads", "num_kv_heads", "n_head_kv", "num_attention_heads"}),
           fmt::format("{} query heads are no multiple of {} key-value heads", a.heads, a.kv_heads));
  a.head_dim = read_head_dim(r, m.hidden, a.heads);
  a.v_head_dim = r.size_or({"v_head_dim"}, a.head_dim, kMaxHeadDim);
  a.qkv_bias = t.qkv_bias;
  a.output_bias = t.output_bias;
  if (t.bias_from_config && r.has("attention_bias")) {
    a.qkv_bias = r.flag_or({"attention_bias"}, false);
    a.output_bias = a.qkv_bias && t.bias_covers_output;
  }
  a.qk_norm = t.qk_norm;
  return a;
}

std::vector<std::string> read_layer_types(const ConfigReader& r, std::string_view key, std::int64_t layers,
                                          std::initializer_list<std::string_view> known) {
  auto types = r.names(key);
  if (!types) return {};
  check_pattern_length(r, key, types->size(), layers);
  const std::vector<std::string> names(known.begin(), known.end());
  for (std::size_t i = 0; i < types->size(); ++i)
    if (std::find(names.begin(), names.end(), (*types)[i]) == names.end())
      r.fail(fmt::format("{}/{}", key, i),
             fmt::format("layer type \"{}\" is not modelled here; known: {}{}", (*types)[i],
                         join(names, ", "), did_you_mean((*types)[i], names)));
  return *types;
}

void check_pattern_length(const ConfigReader& r, std::string_view key, std::size_t length,
                          std::int64_t layers) {
  if (static_cast<std::int64_t>(length) != layers)
    r.fail(key, fmt::format("has {} entries for {} layers", length, layers));
}

std::vector<std::int64_t> read_windows(const ConfigReader& r, const ModelConfig& m, const FamilyTraits& t) {
  using Window = FamilyTraits::Window;
  const auto layers = static_cast<std::size_t>(m.num_layers);
  std::vector<std::int64_t> out(layers, 0);
  const std::int64_t window = r.count_or({"sliding_window", "sliding_window_size"}, 0, kMaxPositions);
  r.ignore({"sliding_window_size", "max_window_layers", "_sliding_window_pattern"});
  const bool enabled = r.flag_or({"use_sliding_window"}, true);
  const auto types = read_layer_types(r, "layer_types", m.num_layers,
                                      {"full_attention", "sliding_attention", "chunked_attention"});
  if (!types.empty()) {
    for (std::size_t i = 0; i < layers; ++i) {
      if (types[i] == "sliding_attention") {
        if (window == 0) r.fail("sliding_window", "missing, though layer_types has sliding_attention");
        out[i] = window;
      } else if (types[i] == "chunked_attention") {
        out[i] = -r.size({"attention_chunk_size"}, kMaxPositions);
      }
    }
    r.ignore({"sliding_window_pattern"});
    return out;
  }
  if (window == 0 || !enabled) return out;
  switch (t.window) {
    case Window::kNone:
      break;
    case Window::kAll:
      std::fill(out.begin(), out.end(), window);
      break;
    case Window::kFlag: {  // Qwen2: off unless asked for, and only from layer max_window_layers on
      if (!r.has("use_sliding_window")) break;
      const std::int64_t from = r.count_or({"max_window_layers"}, 28, kMaxPositions);
      for (std::size_t i = 0; i < layers; ++i)
        if (static_cast<std::int64_t>(i) >= from) out[i] = window;
      break;
    }
    case Window::kAlternate:
      for (std::size_t i = 0; i < layers; i += 2) out[i] = window;
      break;
    case Window::kPattern: {  // every n-th layer is full
      std::int64_t n = t.pattern;
      const std::string_view key = r.present({"sliding_window_pattern", "_sliding_window_pattern"});
      if (const Json* p = r.find(key); p != nullptr && p->is_string()) {
        const std::string letters = p->get<std::string>();  // EXAONE 4: "LLLG"
        if (letters.empty() || letters.find_first_not_of("LG") != std::string::npos)
          r.fail(key, fmt::format("pattern \"{}\" has letters other than L (sliding) and G (full)", letters));
        for (std::size_t i = 0; i < layers; ++i)
          if (letters[i % letters.size()] == 'L') out[i] = window;
        break;
      }
      n = r.size_or({key}, n, kMaxLayers);
      for (std::size_t i = 0; i < layers; ++i)
        if ((static_cast<std::int64_t>(i) + 1) % n != 0) out[i] = window;
      break;
    }
  }
  return out;
}

MoeMlp read_moe(const ConfigReader& r) {
  MoeMlp moe;
  moe.experts =
      r.size({"num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"}, kMaxExperts);
  r.ignore({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "experts_per_token"});
  const KeyList top_keys{
      "num_experts_per_tok", "num_experts_per_token", "moe_top_k",         "moe_topk",    "moe_k",
      "top_k_experts",       "num_selected_experts",  "experts_per_token", "expert_top_k"};
  const std::string_view top_key = r.present(top_keys);
  if (!r.has(top_key))
    r.fail(top_key, fmt::format("missing: {} experts without a number of experts a token", moe.experts));
  moe.top_k = r.size(top_keys, kMaxExperts);
  if (moe.top_k > moe.experts)
    r.fail(top_key, fmt::format("{} experts a token of {} experts", moe.top_k, moe.experts));
  return moe;
}

void set_mtp(const ConfigReader& r, ModelConfig& m, std::int64_t layers, const LayerKind& kind,
             bool own_embeddings) {
  if (layers <= 0) return;
  m.mtp_layers = static_cast<int>(layers);
  m.mtp_kind = LayerList(m, r).kind_index(kind);
  // A projection of the previous hidden state beside the next token's embedding, and three norms.
  m.mtp_extra_parameters =
      2 * m.hidden * m.hidden + 3 * m.hidden + (own_embeddings ? 2 * m.vocab * m.hidden : 0);
}

}  // namespace foretoken
