// Mixtures of experts over softmax attention with heads of its own.
#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

using QkNorm = GqaAttention::QkNorm;
using Window = FamilyTraits::Window;

struct MoeModel {
  FamilyTraits traits{};
  MoeMlp moe{};
  DenseMlp dense{};
  std::vector<bool> is_moe{};  // by layer; empty: all
  bool sinks = false;
};

std::int64_t dense_inter(const ConfigReader& r) { return r.size({"intermediate_size"}); }

void build(const ConfigReader& r, ModelConfig& m, const MoeModel& spec) {
  const FamilyTraits& t = spec.traits;
  m.final_norm_parameters = t.norm_vectors * m.hidden;
  GqaAttention attention = read_gqa(r, m, t);
  attention.sinks = spec.sinks;
  const auto windows = read_windows(r, m, t);
  LayerKind kind;
  kind.norms = t.norms;
  kind.norm_parameters = t.norms * t.norm_vectors * m.hidden;
  LayerList layers(m, r);
  for (std::size_t i = 0; i < windows.size(); ++i) {
    attention.window = std::abs(windows[i]);
    attention.chunked = windows[i] < 0;
    kind.mixer = attention;
    if (spec.is_moe.empty() || spec.is_moe[i])
      kind.mlp = spec.moe;
    else
      kind.mlp = spec.dense;
    layers.add(kind);
  }
}

LayerKind last_kind(const ModelConfig& m) { return m.kinds[m.layers.back()]; }

// first_k_dense_replace and moe_layer_freq (a number or one flag a layer).
std::vector<bool> dense_first(const ConfigReader& r, const ModelConfig& m) {
  const std::int64_t first = r.count_or({"first_k_dense_replace"}, 0, kMaxLayers);
  std::vector<bool> out(static_cast<std::size_t>(m.num_layers));
  const Json* freq = r.find("moe_layer_freq");
  if (freq != nullptr && freq->is_array()) {
    const auto flags = r.integers("moe_layer_freq");
    check_pattern_length(r, "moe_layer_freq", flags->size(), m.num_layers);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = (*flags)[i] != 0;
    return out;
  }
  const std::int64_t every = r.size_or({"moe_layer_freq"}, 1, kMaxLayers);
  for (std::int64_t i = 0; i < m.num_layers; ++i)
    out[static_cast<std::size_t>(i)] = i >= first && i % every == 0;
  return out;
}

bool any(const std::vector<bool>& flags, bool value) {
  return std::find(flags.begin(), flags.end(), value) != flags.end();
}

void read_mixtral(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec{.traits = {.window = Window::kAll}};
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  build(r, m, spec);
}

void read_qwen_moe(const ConfigReader& r, ModelConfig& m, const FamilyTraits& traits, bool shared) {
  read_common(r, m, false);
  MoeModel spec{.traits = traits};
  spec.moe = read_moe(r);
  spec.moe.inter = r.size({"moe_intermediate_size"});
  if (shared) {
    spec.moe.shared_inter = r.count_or({"shared_expert_intermediate_size"}, 0);
    spec.moe.shared_gate = spec.moe.shared_inter > 0;
  }
  const std::int64_t step = r.size_or({"decoder_sparse_step"}, 1, kMaxLayers);
  spec.is_moe.assign(static_cast<std::size_t>(m.num_layers), false);
  for (std::int64_t i = 0; i < m.num_layers; ++i)
    spec.is_moe[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
  for (const std::int64_t i : r.integers("mlp_only_layers").value_or(std::vector<std::int64_t>{})) {
    if (i >= m.num_layers) r.fail("mlp_only_layers", fmt::format("layer {} of {}", i, m.num_layers));
    spec.is_moe[static_cast<std::size_t>(i)] = false;
  }
  if (any(spec.is_moe, false)) spec.dense.inter = dense_inter(r);
  build(r, m, spec);
}
void read_qwen2_moe(const ConfigReader& r, ModelConfig& m) {
  const bool bias = r.flag_or({"qkv_bias"}, true);
  read_qwen_moe(r, m, {.qkv_bias = bias, .window = Window::kFlag, .bias_from_config = false}, true);
}
void read_qwen3_moe(const ConfigReader& r, ModelConfig& m) {
  read_qwen_moe(r, m, {.qk_norm = QkNorm::kPerHead, .window = Window::kFlag}, false);
}

void read_phimoe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec{.traits = {.norm_vectors = 2, .window = Window::kAll}};
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  if (r.flag_or({"lm_head_bias"}, false)) m.other_parameters = m.vocab;
  build(r, m, spec);
}

void read_olmoe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec{.traits = {.qk_norm = QkNorm::kFull}};
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  build(r, m, spec);
}

void read_granitemoe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec;
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  spec.moe.shared_inter = r.count_or({"shared_intermediate_size"}, 0);
  build(r, m, spec);
}

void read_gpt_oss(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec{.traits = {.qkv_bias = true, .output_bias = true, .window = Window::kAlternate},
                .sinks = true};
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  spec.moe.router_bias = true;
  spec.moe.expert_bias = true;
  build(r, m, spec);
}

void read_glm4_moe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const bool norm = r.flag_or({"use_qk_norm"}, false);
  MoeModel spec{.traits = {.qk_norm = norm ? QkNorm::kPerHead : QkNorm::kNone, .bias_covers_output = false}};
  spec.moe = read_moe(r);
  spec.moe.inter = r.size({"moe_intermediate_size"});
  spec.moe.shared_inter = r.count_or({"n_shared_experts"}, 0, 64) * spec.moe.inter;
  spec.moe.router_bias = true;
  spec.is_moe = dense_first(r, m);
  if (any(spec.is_moe, false)) spec.dense.inter = dense_inter(r);
  build(r, m, spec);
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), last_kind(m), true);
}

void read_minimax_m2(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const std::string norm = r.text_or("qk_norm_type", "per_layer");
  const bool has_norm = r.flag_or({"use_qk_norm"}, true);
  if (norm != "per_layer" && norm != "per_head") r.fail("qk_norm_type", "expected per_layer or per_head");
  const QkNorm kind = norm == "per_layer" ? QkNorm::kFull : QkNorm::kPerHead;
  MoeModel spec{.traits = {.qk_norm = has_norm ? kind : QkNorm::kNone, .bias_from_config = false}};
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  spec.moe.shared_inter = r.count_or({"shared_intermediate_size"}, 0);
  spec.moe.router_bias = r.flag_or({"use_routing_bias"}, true);
  // attn_type_list: 0 linear, 1 softmax.
  if (const auto types = r.integers("attn_type_list"))
    for (const std::int64_t t : *types)
      if (t != 1) r.fail("attn_type_list", "linear-attention layers are not modelled for minimax_m2");
  build(r, m, spec);
  if (r.flag_or({"use_mtp"}, false))
    set_mtp(r, m, r.count_or({"num_mtp_modules"}, 1, 64) * r.count_or({"mtp_transformer_layers"}, 1, 64),
            last_kind(m), false);
}

void read_minimax_m3(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const bool norm = r.flag_or({"use_qk_norm"}, true);
  FamilyTraits traits{.qk_norm = norm ? QkNorm::kPerHead : QkNorm::kNone};
  GqaAttention full = read_gqa(r, m, traits);
  if (r.text_or("qk_norm_type", "per_head") == "per_layer" && norm) full.qk_norm = QkNorm::kFull;
  full.output_gate = r.flag_or({"attention_output_gate"}, false);
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size", "intermediate_size"});
  moe.shared_inter = r.count_or({"shared_intermediate_size"}, 0) * r.count_or({"n_shared_experts"}, 1, 64);
  moe.router_bias = r.flag_or({"use_routing_bias"}, true);
  const auto is_moe = dense_first(r, m);
  DenseMlp dense;
  if (any(is_moe, false)) dense.inter = r.size({"dense_intermediate_size", "intermediate_size"});
  std::vector<std::int64_t> sparse(static_cast<std::size_t>(m.num_layers), 0);
  GqaAttention chosen = full;
  if (const auto s = r.object("sparse_attention_config"); s && s->flag_or({"use_sparse_attention"}, true)) {
    chosen.index_heads = s->size({"sparse_num_index_heads"}, kMaxHeads);
    chosen.index_head_dim = s->size({"sparse_index_dim"}, kMaxHeadDim);
    // The local and the initial blocks are among the chosen ones.
    const std::int64_t blocks = s->size({"sparse_topk_blocks"}, 1 << 20);
    chosen.index_top_k = blocks * s->size({"sparse_block_size"}, 1 << 16);
    if (auto flags = s->integers("sparse_attention_freq")) {
      check_pattern_length(*s, "sparse_attention_freq", flags->size(), m.num_layers);
      sparse = *flags;
    } else {
      std::fill(sparse.begin(), sparse.end(), 1);
    }
  }
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < is_moe.size(); ++i) {
    kind.mixer = sparse[i] != 0 ? chosen : full;
    if (is_moe[i])
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
  const std::int64_t mtp = r.count_or({"num_mtp_modules", "num_nextn_predict_layers"}, 0, 64);
  set_mtp(r, m, mtp, last_kind(m), false);
}

void read_mimo_v2(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  GqaAttention full = read_gqa(r, m, {.bias_covers_output = false});
  full.sinks = r.flag_or({"add_full_attention_sink_bias"}, false);
  GqaAttention local = full;
  local.heads = r.size_or({"swa_num_attention_heads"}, full.heads, kMaxHeads);
  local.kv_heads = r.size_or({"swa_num_key_value_heads"}, full.kv_heads, kMaxHeads);
  if (local.heads % local.kv_heads != 0)
    r.fail("swa_num_key_value_heads",
           fmt::format("{} heads are no multiple of {}", local.heads, local.kv_heads));
  local.head_dim = r.size_or({"swa_head_dim"}, full.head_dim, kMaxHeadDim);
  local.v_head_dim = r.size_or({"swa_v_head_dim"}, full.v_head_dim, kMaxHeadDim);
  local.sinks = r.flag_or({"add_swa_attention_sink_bias"}, false);
  local.window = r.size({"sliding_window", "sliding_window_size"}, kMaxPositions);
  r.ignore({"sliding_window_size", "attention_chunk_size"});  // the chunk is the sliding window's older name
  const auto pattern = r.integers("hybrid_layer_pattern");
  if (!pattern) r.fail("hybrid_layer_pattern", "missing: which layers have a sliding window");
  check_pattern_length(r, "hybrid_layer_pattern", pattern->size(), m.num_layers);
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size"});
  moe.shared_inter = r.count_or({"n_shared_experts"}, 0, 64) * moe.inter;
  moe.router_bias = r.text_or("topk_method", "noaux_tc") == "noaux_tc";
  const auto is_moe = dense_first(r, m);
  const DenseMlp dense{.inter = dense_inter(r)};
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < is_moe.size(); ++i) {
    if ((*pattern)[i] > 1) r.fail("hybrid_layer_pattern", "entries are 0 (full) or 1 (sliding window)");
    kind.mixer = (*pattern)[i] == 1 ? local : full;
    if (is_moe[i])
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
}

void read_step(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MoeModel spec{.traits = {.qk_norm = QkNorm::kPerHead}};
  spec.moe = read_moe(r);
  spec.moe.inter = r.size({"moe_intermediate_size"});
  spec.moe.shared_inter = r.count_or({"share_expert_dim"}, 0) * r.count_or({"n_shared_experts"}, 1, 64);
  spec.moe.router_bias = r.flag_or({"use_moe_router_bias"}, true);
  spec.is_moe = dense_first(r, m);
  if (any(spec.is_moe, false)) spec.dense.inter = dense_inter(r);
  build(r, m, spec);
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), last_kind(m), false);
}

void read_llama4(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  r.ignore({"use_qk_norm"});  // norms without weights
  const auto n = static_cast<std::size_t>(m.num_layers);
  MoeModel spec;
  spec.moe = read_moe(r);
  spec.moe.inter = dense_inter(r);
  spec.moe.shared_inter = spec.moe.inter;
  spec.is_moe.assign(n, false);
  if (const auto list = r.integers("moe_layers"); list && !list->empty()) {
    for (const std::int64_t i : *list) {
      if (i >= m.num_layers) r.fail("moe_layers", fmt::format("layer {} of {}", i, m.num_layers));
      spec.is_moe[static_cast<std::size_t>(i)] = true;
    }
    r.ignore({"interleave_moe_layer_step"});
  } else {
    const auto step = static_cast<std::size_t>(r.size_or({"interleave_moe_layer_step"}, 1, kMaxLayers));
    for (std::size_t i = step - 1; i < n; i += step) spec.is_moe[i] = true;
  }
  if (any(spec.is_moe, false)) spec.dense.inter = r.size({"intermediate_size_mlp"});
  // no_rope_layers: 1 where the layer rotates and sees its chunk only; by default every fourth is full.
  std::vector<std::int64_t> rotates(n, 1);
  const auto flags = r.integers("no_rope_layers");
  if (flags && !flags->empty()) {
    check_pattern_length(r, "no_rope_layers", flags->size(), m.num_layers);
    rotates = *flags;
  } else {
    const auto interval = static_cast<std::size_t>(r.size_or({"no_rope_layer_interval"}, 4, kMaxLayers));
    for (std::size_t i = interval - 1; i < n; i += interval) rotates[i] = 0;
  }
  const std::int64_t chunk = r.count_or({"attention_chunk_size"}, 0, kMaxPositions);
  r.ignore({"layer_types"});  // the same pattern in other words
  const GqaAttention attention = read_gqa(r, m, spec.traits);
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < n; ++i) {
    GqaAttention a = attention;
    a.rotary = rotates[i] != 0;
    a.window = a.rotary ? chunk : 0;
    a.chunked = a.window > 0;
    kind.mixer = a;
    if (spec.is_moe[i])
      kind.mlp = spec.moe;
    else
      kind.mlp = spec.dense;
    layers.add(kind);
  }
}

}  // namespace

void add_moe_families(Families& f) {
  f["mixtral"] = read_mixtral;
  f["qwen2_moe"] = read_qwen2_moe;
  f["qwen3_moe"] = read_qwen3_moe;
  f["qwen3_vl_moe_text"] = read_qwen3_moe;
  f["phimoe"] = read_phimoe;
  f["olmoe"] = read_olmoe;
  f["granitemoe"] = read_granitemoe;
  f["granitemoeshared"] = read_granitemoe;
  f["gpt_oss"] = read_gpt_oss;
  f["glm4_moe"] = read_glm4_moe;
  f["glm4v_moe_text"] = read_glm4_moe;
  f["minimax_m2"] = read_minimax_m2;
  f["minimax_m3"] = read_minimax_m3;
  f["mimo_v2_flash"] = read_mimo_v2;
  f["mimo_v2"] = read_mimo_v2;
  f["step3p7"] = read_step;
  f["llama4_text"] = read_llama4;
}

}  // namespace foretoken
