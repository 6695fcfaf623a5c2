// Gemma: tied embeddings, heads wider than hidden / heads, from the second generation on four norms and
// windows.
#include <fmt/format.h>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

using QkNorm = GqaAttention::QkNorm;
using Window = FamilyTraits::Window;

void build(const ConfigReader& r, ModelConfig& m, const FamilyTraits& t, GqaAttention attention) {
  LayerKind kind;
  kind.mlp = DenseMlp{.inter = r.size({"intermediate_size"})};
  kind.norms = t.norms;
  kind.norm_parameters = t.norms * m.hidden;
  LayerList layers(m, r);
  for (const std::int64_t window : read_windows(r, m, t)) {
    attention.window = window;
    kind.mixer = attention;
    layers.add(kind);
  }
}

void read_gemma(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const FamilyTraits t{.tied = true};
  build(r, m, t, read_gqa(r, m, t));
}

void read_gemma2(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const FamilyTraits t{.norms = 4, .tied = true, .window = Window::kAlternate};
  build(r, m, t, read_gqa(r, m, t));
}

// Published configs of Gemma 3 leave out what equals the defaults of their class: 8 heads of 256, 4 key-value
// heads, a vocabulary of 262,208.
void read_gemma3(const ConfigReader& r, ModelConfig& m) {
  Json whole = r.json();
  for (const auto& [key, value] : {std::pair<const char*, std::int64_t>{"vocab_size", 262208},
                                   {"num_attention_heads", 8},
                                   {"num_key_value_heads", 4},
                                   {"head_dim", 256},
                                   {"sliding_window", 4096},
                                   {"max_position_embeddings", 131072}})
    if (!r.has(key)) whole[key] = value;
  const ConfigReader full(whole, r.where());
  r.ignore({"layer_types"});
  read_common(full, m, true);
  const FamilyTraits t{
      .qk_norm = QkNorm::kPerHead, .norms = 4, .tied = true, .window = Window::kPattern, .pattern = 6};
  build(full, m, t, read_gqa(full, m, t));
}

void read_gemma4(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const FamilyTraits t{.qk_norm = QkNorm::kPerHead, .tied = true};
  for (const std::string_view key : {"num_kv_shared_layers", "hidden_size_per_layer_input"})
    if (r.count_or({key}, 0) > 0)
      r.fail(key, "is not modelled (caches shared by layers, embeddings for each layer)");
  if (r.flag_or({"use_double_wide_mlp"}, false)) r.fail("use_double_wide_mlp", "is not modelled");
  GqaAttention local = read_gqa(r, m, t);
  GqaAttention full = local;
  local.window = r.size({"sliding_window"}, kMaxPositions);
  full.head_dim = full.v_head_dim = r.size_or({"global_head_dim"}, local.head_dim, kMaxHeadDim);
  full.kv_heads = r.size_or({"num_global_key_value_heads"}, local.kv_heads, kMaxHeads);
  if (full.heads % full.kv_heads != 0)
    r.fail("num_global_key_value_heads",
           fmt::format("{} heads are no multiple of {}", full.heads, full.kv_heads));
  full.shared_kv_projection = r.flag_or({"attention_k_eq_v"}, false);

  LayerKind kind;
  const std::int64_t inter = r.size({"intermediate_size"});
  if (r.flag_or({"enable_moe_block"}, false)) {
    // A dense part and experts side by side, each with norms of its own; the router scales its input and each
    // expert.
    MoeMlp moe = read_moe(r);
    moe.inter = r.size({"moe_intermediate_size", "expert_intermediate_size"});
    moe.shared_inter = inter;
    moe.extra_parameters = m.hidden + moe.experts;
    kind.mlp = moe;
    kind.norms = 7;
  } else {
    kind.mlp = DenseMlp{.inter = inter};
    kind.norms = 4;
  }
  kind.norm_parameters = kind.norms * m.hidden + 1;  // and one scale of the layer's output
  const auto types =
      read_layer_types(r, "layer_types", m.num_layers, {"full_attention", "sliding_attention"});
  if (types.empty()) r.fail("layer_types", "missing: which layers have a sliding window");
  LayerList layers(m, r);
  for (const std::string& type : types) {
    kind.mixer = type == "full_attention" ? full : local;
    layers.add(kind);
  }
}

}  // namespace

void add_gemma_families(Families& f) {
  f["gemma"] = read_gemma;
  f["gemma2"] = read_gemma2;
  f["gemma3_text"] = read_gemma3;
  f["gemma4_text"] = read_gemma4;
}

}  // namespace foretoken
