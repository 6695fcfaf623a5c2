// Mixtures of experts with keys of their own: DBRX, ERNIE 4.5, Hunyuan, Ling, Jamba.
#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

using QkNorm = GqaAttention::QkNorm;

// Layers with the same attention, dense where `is_moe` is false.
void add_layers(const ConfigReader& r, ModelConfig& m, const GqaAttention& attention, const MoeMlp& moe,
                const DenseMlp& dense, const std::vector<bool>& is_moe) {
  LayerList layers(m, r);
  LayerKind kind;
  kind.mixer = attention;
  kind.norm_parameters = 2 * m.hidden;
  for (const bool routed : is_moe) {
    if (routed)
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
}

// A number, or one for every layer that must all be the same.
std::int64_t uniform(const ConfigReader& r, std::string_view key, std::int64_t otherwise, std::int64_t max) {
  const Json* v = r.find(key);
  if (v == nullptr || !v->is_array()) return r.size_or({key}, otherwise, max);
  const auto list = r.integers(key);
  if (list->empty()) return otherwise;
  for (const std::int64_t n : *list)
    if (n != list->front()) r.fail(key, "values that differ by layer are not modelled");
  if (list->front() < 1 || list->front() > max)
    r.fail(key, fmt::format("{} is not between 1 and {}", list->front(), max));
  return list->front();
}

void read_dbrx(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const auto attn = r.object("attn_config");
  const auto ffn = r.object("ffn_config");
  if (!attn || !ffn) r.fail(attn ? "ffn_config" : "attn_config", "missing");
  GqaAttention a = read_gqa(r, m, {});
  a.kv_heads = attn->size_or({"kv_n_heads"}, 1, kMaxHeads);
  if (a.heads % a.kv_heads != 0)
    attn->fail("kv_n_heads", fmt::format("{} heads are no multiple of {}", a.heads, a.kv_heads));
  MoeMlp moe = read_moe(*ffn);
  moe.inter = ffn->size({"ffn_hidden_size"});
  add_layers(r, m, a, moe, {}, std::vector<bool>(static_cast<std::size_t>(m.num_layers), true));
}

void read_ernie_moe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const bool bias = r.flag_or({"use_bias"}, false);
  const GqaAttention a = read_gqa(r, m, {.qkv_bias = bias, .output_bias = bias});
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size"});
  moe.shared_inter = r.count_or({"moe_num_shared_experts"}, 0, 64) * moe.inter;
  moe.router_bias = r.flag_or({"moe_use_aux_free"}, true);
  const std::int64_t first = r.count_or({"moe_layer_start_index"}, 0, kMaxLayers);
  // -1 stands for the last layer.
  std::int64_t last = m.num_layers - 1;
  if (const Json* v = r.find("moe_layer_end_index"); v != nullptr && !(v->is_number_integer() && *v == -1))
    last = r.count_or({"moe_layer_end_index"}, last, kMaxLayers);
  const std::int64_t every = r.size_or({"moe_layer_interval"}, 1, kMaxLayers);
  std::vector<bool> is_moe;
  for (std::int64_t i = 0; i < m.num_layers; ++i)
    is_moe.push_back(i >= first && i <= last && (i + 1) % every == 0);
  DenseMlp dense{.inter = 0, .gated = true, .bias = bias};
  if (std::find(is_moe.begin(), is_moe.end(), false) != is_moe.end())
    dense.inter = r.size({"intermediate_size"});
  add_layers(r, m, a, moe, dense, is_moe);
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), m.kinds[m.layers.back()], false);
}

void read_hunyuan_moe(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  if (r.flag_or({"use_cla"}, false))
    r.fail("use_cla", "attention that shares caches across layers is not modelled");
  const bool norm = r.flag_or({"use_qk_norm"}, true);
  const GqaAttention a = read_gqa(r, m, {.qk_norm = norm ? QkNorm::kPerHead : QkNorm::kNone});
  MoeMlp moe;
  moe.experts = uniform(r, "num_experts", 1, kMaxExperts);
  if (!r.has("moe_topk"))
    r.fail("moe_topk", fmt::format("missing: {} experts without a number of experts a token", moe.experts));
  moe.top_k = uniform(r, "moe_topk", 1, kMaxExperts);
  if (moe.top_k > moe.experts)
    r.fail("moe_topk", fmt::format("{} experts a token of {} experts", moe.top_k, moe.experts));
  moe.inter = uniform(r, "moe_intermediate_size", 0, kMaxWidth);
  if (moe.inter == 0) moe.inter = r.size({"intermediate_size"});
  if (r.flag_or({"use_mixed_mlp_moe"}, true))
    moe.shared_inter = uniform(r, "num_shared_expert", 1, 64) * moe.inter;
  r.ignore({"num_shared_expert", "moe_layer_num_skipped"});
  const std::int64_t skipped = r.count_or({"moe_layer_num_skipped"}, 0, kMaxLayers);
  DenseMlp dense;
  if (skipped > 0) dense.inter = r.size({"intermediate_size"});
  std::vector<bool> is_moe;
  for (std::int64_t i = 0; i < m.num_layers; ++i) is_moe.push_back(i >= skipped);
  add_layers(r, m, a, moe, dense, is_moe);
}

void read_bailing(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const bool norm = r.flag_or({"use_qk_norm"}, false);
  GqaAttention a = read_gqa(r, m,
                            {.qkv_bias = r.flag_or({"use_qkv_bias"}, false),
                             .output_bias = r.flag_or({"use_bias"}, false),
                             .qk_norm = norm ? QkNorm::kPerHead : QkNorm::kNone});
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size"});
  moe.shared_inter = r.count_or({"moe_shared_expert_intermediate_size"}, moe.inter) *
                     r.count_or({"num_shared_experts"}, 0, 64);
  moe.router_bias = r.flag_or({"moe_router_enable_expert_bias"}, false);
  const std::int64_t first = r.count_or({"first_k_dense_replace"}, 0, kMaxLayers);
  DenseMlp dense;
  if (first > 0) dense.inter = r.size({"intermediate_size"});
  std::vector<bool> is_moe;
  for (std::int64_t i = 0; i < m.num_layers; ++i) is_moe.push_back(i >= first);
  add_layers(r, m, a, moe, dense, is_moe);
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), m.kinds[m.layers.back()], false);
}

// Mamba (first version) with attention every attn_layer_period layers and experts every expert_layer_period.
void read_jamba(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const GqaAttention attention = read_gqa(r, m, {});
  RecurrentMixer x;
  x.kind = RecurrentMixer::Kind::kMamba1;
  x.k_heads = 1;
  x.v_heads = r.size_or({"mamba_expand"}, 2, 64) * m.hidden;
  x.v_dim = 1;
  x.k_dim = r.size_or({"mamba_d_state"}, 16, kMaxHeadDim);
  x.conv_kernel = r.size_or({"mamba_d_conv"}, 4, 64);
  const Json* rank = r.find("mamba_dt_rank");  // a number or "auto"
  x.dt_rank =
      rank == nullptr || rank->is_string() ? (m.hidden + 15) / 16 : r.size({"mamba_dt_rank"}, kMaxHeadDim);
  x.conv_bias = r.flag_or({"mamba_conv_bias"}, true);
  x.projection_bias = r.flag_or({"mamba_proj_bias"}, false);
  const std::int64_t period = r.size_or({"attn_layer_period"}, 8, kMaxLayers),
                     offset = r.count_or({"attn_layer_offset"}, 4, kMaxLayers);
  const std::int64_t expert_period = r.size_or({"expert_layer_period"}, 2, kMaxLayers);
  const std::int64_t expert_offset = r.count_or({"expert_layer_offset"}, 1, kMaxLayers);
  const DenseMlp dense{.inter = r.size({"intermediate_size"})};
  MoeMlp moe;
  const bool routed = r.count_or({"num_experts"}, 16, kMaxExperts) > 1;
  if (routed) {
    moe = read_moe(r);
    moe.inter = dense.inter;
  }
  r.ignore({"num_experts", "num_experts_per_tok"});
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::int64_t i = 0; i < m.num_layers; ++i) {
    if (i % period == offset % period)
      kind.mixer = attention;
    else
      kind.mixer = x;
    if (routed && i % expert_period == expert_offset % expert_period)
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
}

}  // namespace

void add_other_moe_families(Families& f) {
  f["dbrx"] = read_dbrx;
  f["ernie4_5_moe"] = read_ernie_moe;
  f["hunyuan_v1_moe"] = read_hunyuan_moe;
  f["bailing_moe"] = read_bailing;
  f["bailing_moe_v2"] = read_bailing;
  f["jamba"] = read_jamba;
}

}  // namespace foretoken
