// Latent attention: DeepSeek V2 to V3.2, Kimi K2, GLM-5; compressed attention: DeepSeek V4.
#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

MlaAttention read_mla(const ConfigReader& r) {
  MlaAttention a;
  a.heads = r.size({"num_attention_heads"}, kMaxHeads);
  a.q_lora_rank = r.size_or({"q_lora_rank"}, 0, kMaxHeadDim);
  a.kv_lora_rank = r.size({"kv_lora_rank"}, kMaxHeadDim);
  a.nope_dim = r.size({"qk_nope_head_dim"}, kMaxHeadDim);
  a.rope_dim = r.size({"qk_rope_head_dim"}, kMaxHeadDim);
  a.v_dim = r.size({"v_head_dim"}, kMaxHeadDim);
  a.bias = r.flag_or({"attention_bias"}, false);
  r.ignore({"head_dim", "qk_head_dim", "num_key_value_heads"});
  return a;
}

// Sigmoid routers of this family carry one correction bias an expert.
MoeMlp read_deepseek_moe(const ConfigReader& r) {
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size"});
  moe.shared_inter = r.count_or({"n_shared_experts"}, 0, 64) * moe.inter;
  moe.router_bias = r.text_or("topk_method", "") == "noaux_tc";
  return moe;
}

void read_deepseek(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  MlaAttention attention = read_mla(r);
  const auto n = static_cast<std::size_t>(m.num_layers);
  std::vector<bool> full(n, false);
  if (r.has("index_topk")) {
    attention.index_top_k = r.size({"index_topk"}, 1 << 24);
    attention.index_heads = r.size({"index_n_heads"}, kMaxHeads);
    attention.index_head_dim = r.size({"index_head_dim"}, kMaxHeadDim);
    const auto types = read_layer_types(r, "indexer_types", m.num_layers, {"full", "shared"});
    for (std::size_t i = 0; i < n; ++i) full[i] = types.empty() || types[i] == "full";
    if (!full[0]) r.fail("indexer_types/0", "the first layer has no selection to share");
  }
  const bool has_experts = r.has("n_routed_experts");
  MoeMlp moe;
  if (has_experts) moe = read_deepseek_moe(r);
  const std::int64_t first = r.count_or({"first_k_dense_replace"}, 0, kMaxLayers);
  const std::int64_t every = r.size_or({"moe_layer_freq"}, 1, kMaxLayers);
  DenseMlp dense;
  if (first > 0 || every > 1 || !has_experts) dense.inter = r.size({"intermediate_size"});
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < n; ++i) {
    attention.has_indexer = full[i];
    kind.mixer = attention;
    const auto at = static_cast<std::int64_t>(i);
    if (has_experts && at >= first && at % every == 0)
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
  const std::int64_t mtp = r.count_or({"num_nextn_predict_layers"}, 0, 64);
  if (mtp > 0) {
    attention.has_indexer = attention.index_top_k > 0;
    kind.mixer = attention;
    if (has_experts) kind.mlp = moe;
    set_mtp(r, m, mtp, kind, false);
  }
}

void read_deepseek_v4(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  CompressedAttention a;
  a.heads = r.size({"num_attention_heads"}, kMaxHeads);
  if (const std::int64_t kv = r.size_or({"num_key_value_heads"}, 1, kMaxHeads); kv != 1)
    r.fail("num_key_value_heads", fmt::format("{}: compressed attention has one key-value head", kv));
  a.head_dim = r.size({"head_dim"}, kMaxHeadDim);
  a.rope_dim = r.size({"qk_rope_head_dim"}, kMaxHeadDim);
  a.q_lora_rank = r.size({"q_lora_rank"}, kMaxHeadDim);
  a.o_lora_rank = r.size({"o_lora_rank"}, kMaxHeadDim);
  a.o_groups = r.size({"o_groups"}, kMaxHeads);
  if (a.heads % a.o_groups != 0)
    r.fail("o_groups", fmt::format("{} heads are no multiple of {} output groups", a.heads, a.o_groups));
  a.window = r.size({"sliding_window"}, kMaxPositions);
  const std::int64_t index_heads = r.size({"index_n_heads"}, kMaxHeads);
  const std::int64_t index_dim = r.size({"index_head_dim"}, kMaxHeadDim);
  const std::int64_t top_k = r.size({"index_topk"}, 1 << 24);
  const auto ratios = r.integers("compress_ratios");
  if (!ratios) r.fail("compress_ratios", "missing: how far each layer compresses its cache");
  const std::int64_t mtp = r.count_or({"num_nextn_predict_layers"}, 0, 64);
  const auto given = static_cast<std::int64_t>(ratios->size());
  if (given != m.num_layers && given != m.num_layers + mtp)
    r.fail("compress_ratios",
           fmt::format("has {} entries for {} layers and {} prediction layers", given, m.num_layers, mtp));
  r.ignore({"num_hash_layers", "compress_rope_theta"});

  MoeMlp moe = read_deepseek_moe(r);
  LayerKind kind;
  kind.mlp = moe;
  // Hyper-connections: every sublayer mixes hc_mult streams by (2 + hc_mult) hc_mult weights a token.
  const std::int64_t streams = r.size_or({"hc_mult"}, 1, 64), mixing = (2 + streams) * streams;
  kind.norm_parameters = 2 * m.hidden;
  if (streams > 1) {
    kind.residual_streams = static_cast<double>(streams);
    kind.residual_parameters = 2 * mixing * streams * m.hidden;
    kind.norm_parameters += 2 * (mixing + 3);
    m.other_parameters = streams * streams * m.hidden + streams + 1;
  }
  const auto with_ratio = [&](std::int64_t ratio, std::size_t i) {
    if (ratio > 1 << 20) r.fail(fmt::format("compress_ratios/{}", i), "is absurdly large");
    CompressedAttention layer = a;
    layer.ratio = ratio;
    // Ratio 4 selects compressed tokens by an indexer, coarser ratios attend to all of them.
    if (ratio > 0 && ratio <= 4) {
      layer.index_heads = index_heads;
      layer.index_head_dim = index_dim;
      layer.index_top_k = top_k;
    }
    return layer;
  };
  LayerList layers(m, r);
  for (std::size_t i = 0; i < static_cast<std::size_t>(m.num_layers); ++i) {
    kind.mixer = with_ratio((*ratios)[i], i);
    layers.add(kind);
  }
  if (mtp > 0) {
    kind.mixer = with_ratio(given > m.num_layers ? ratios->back() : 0, ratios->size() - 1);
    set_mtp(r, m, mtp, kind, false);
  }
}

}  // namespace

void add_deepseek_families(Families& f) {
  f["deepseek_v2"] = read_deepseek;
  f["deepseek_v3"] = read_deepseek;
  f["deepseek_v32"] = read_deepseek;
  f["kimi_k2"] = read_deepseek;
  f["glm_moe_dsa"] = read_deepseek;
  f["glm4_moe_lite"] = read_deepseek;
  f["deepseek_v4"] = read_deepseek_v4;
  f["deepseek_ref"] = read_deepseek_v4;
}

}  // namespace foretoken
