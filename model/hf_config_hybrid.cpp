// Hybrids of attention with linear attention or state-space layers, and per-layer searched architectures.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

using QkNorm = GqaAttention::QkNorm;

// ---- Qwen3-Next, Qwen3.5: gated delta rule, every fourth layer attention with an output gate

RecurrentMixer read_gated_delta(const ConfigReader& r) {
  RecurrentMixer x;
  x.kind = RecurrentMixer::Kind::kGatedDelta;
  x.k_heads = r.size({"linear_num_key_heads"}, kMaxHeads);
  x.v_heads = r.size({"linear_num_value_heads"}, kMaxHeads);
  x.k_dim = r.size({"linear_key_head_dim"}, kMaxHeadDim);
  x.v_dim = r.size({"linear_value_head_dim"}, kMaxHeadDim);
  x.conv_kernel = r.size({"linear_conv_kernel_dim"}, 64);
  if (x.v_heads % x.k_heads != 0)
    r.fail("linear_num_value_heads", fmt::format("{} is no multiple of {} key heads", x.v_heads, x.k_heads));
  return x;
}

void read_qwen_hybrid(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  GqaAttention attention = read_gqa(r, m, {.qk_norm = QkNorm::kPerHead});
  attention.output_gate = r.flag_or({"attn_output_gate"}, true);
  const RecurrentMixer linear = read_gated_delta(r);
  const auto n = static_cast<std::size_t>(m.num_layers);
  auto types = read_layer_types(r, "layer_types", m.num_layers, {"full_attention", "linear_attention"});
  const auto interval = static_cast<std::size_t>(r.size_or({"full_attention_interval"}, 4, kMaxLayers));
  if (types.empty())
    for (std::size_t i = 0; i < n; ++i)
      types.emplace_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");

  const bool has_experts = r.count_or({"num_experts"}, 0, kMaxExperts) > 0;
  MoeMlp moe;
  std::vector<bool> is_moe(n, has_experts);
  if (has_experts) {
    moe = read_moe(r);
    moe.inter = r.size({"moe_intermediate_size"});
    moe.shared_inter = r.count_or({"shared_expert_intermediate_size"}, 0);
    moe.shared_gate = moe.shared_inter > 0;
    const auto step = static_cast<std::size_t>(r.size_or({"decoder_sparse_step"}, 1, kMaxLayers));
    for (std::size_t i = 0; i < n; ++i) is_moe[i] = (i + 1) % step == 0;
    for (const std::int64_t i : r.integers("mlp_only_layers").value_or(std::vector<std::int64_t>{})) {
      if (i >= m.num_layers) r.fail("mlp_only_layers", fmt::format("layer {} of {}", i, m.num_layers));
      is_moe[static_cast<std::size_t>(i)] = false;
    }
  }
  r.ignore({"mlp_only_layers"});
  DenseMlp dense;
  if (std::find(is_moe.begin(), is_moe.end(), false) != is_moe.end())
    dense.inter = r.size({"intermediate_size"});
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < n; ++i) {
    if (types[i] == "full_attention")
      kind.mixer = attention;
    else
      kind.mixer = linear;
    if (is_moe[i])
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
  if (const std::int64_t mtp = r.count_or({"mtp_num_hidden_layers", "num_nextn_predict_layers"}, 0, 64);
      mtp > 0) {
    kind.mixer = attention;
    set_mtp(r, m, mtp, kind, r.flag_or({"mtp_use_dedicated_embeddings"}, false));
  }
}

// ---- Nemotron-H: one block a layer, by letter

struct NemotronBlocks {
  LayerKind mamba, attention, mlp, moe;
};

NemotronBlocks read_nemotron_blocks(const ConfigReader& r, const ModelConfig& m, const std::string& letters) {
  NemotronBlocks b;
  for (LayerKind* kind : {&b.mamba, &b.attention, &b.mlp, &b.moe}) {
    kind->norms = 1;
    kind->norm_parameters = m.hidden;
  }
  const auto uses = [&](char c) { return letters.find(c) != std::string::npos; };
  if (uses('M')) {
    RecurrentMixer x;
    x.kind = RecurrentMixer::Kind::kMamba2;
    x.v_heads = r.size({"mamba_num_heads"}, kMaxHeads);
    x.v_dim = r.size({"mamba_head_dim"}, kMaxHeadDim);
    x.k_heads = r.size({"n_groups"}, kMaxHeads);
    x.k_dim = r.size({"ssm_state_size"}, kMaxHeadDim);
    x.conv_kernel = r.size({"conv_kernel"}, 64);
    x.conv_bias = r.flag_or({"use_conv_bias"}, true);
    x.projection_bias = r.flag_or({"mamba_proj_bias", "use_bias"}, false);
    b.mamba.mixer = x;
  }
  if (uses('*')) b.attention.mixer = read_gqa(r, m, {});
  if (uses('-'))
    b.mlp.mlp = DenseMlp{
        .inter = r.size({"intermediate_size"}), .gated = false, .bias = r.flag_or({"mlp_bias"}, false)};
  if (uses('E')) {
    MoeMlp moe = read_moe(r);
    moe.inter = r.size({"moe_intermediate_size"});
    moe.shared_inter =
        r.count_or({"moe_shared_expert_intermediate_size"}, 0) * r.count_or({"n_shared_experts"}, 1, 64);
    moe.gated = false;
    moe.router_bias = true;
    moe.latent = r.count_or({"moe_latent_size"}, 0);
    b.moe.mlp = moe;
  }
  return b;
}

std::string pattern_from_names(const ConfigReader& r, std::string_view key) {
  std::string letters;
  const auto names = r.names(key);
  if (!names) return letters;
  for (std::size_t i = 0; i < names->size(); ++i) {
    const std::string& name = (*names)[i];
    if (name == "mamba")
      letters += 'M';
    else if (name == "attention")
      letters += '*';
    else if (name == "mlp")
      letters += '-';
    else if (name == "moe")
      letters += 'E';
    else
      r.fail(fmt::format("{}/{}", key, i),
             fmt::format("block \"{}\" is not one of mamba, attention, mlp, moe", name));
  }
  return letters;
}

void read_nemotron_h(const ConfigReader& r, ModelConfig& m) {
  std::string letters = r.text_or("hybrid_override_pattern", "");
  std::string_view key = "hybrid_override_pattern";
  if (letters.empty()) {
    key = "layers_block_type";
    letters = pattern_from_names(r, key);
  }
  if (letters.empty()) r.fail("hybrid_override_pattern", "missing: the kinds of the layers");
  if (const auto bad = letters.find_first_not_of("M*-E"); bad != std::string::npos)
    r.fail(key, fmt::format("letter '{}' at {} is not one of M (Mamba2), * (attention), - (MLP), E (experts)",
                            letters[bad], bad));
  if (static_cast<std::int64_t>(letters.size()) > kMaxLayers)
    r.fail(key, "has more layers than are believed");
  Json whole = r.json();
  if (!r.has("num_hidden_layers")) whole["num_hidden_layers"] = letters.size();
  read_common(ConfigReader(whole, r.where()), m, false);
  check_pattern_length(r, key, letters.size(), m.num_layers);
  std::string mtp_letters = r.text_or("mtp_hybrid_override_pattern", "");
  if (mtp_letters.empty()) mtp_letters = pattern_from_names(r, "mtp_layers_block_type");
  r.ignore({"mamba_ssm_cache_dtype", "layers_block_type", "mtp_layers_block_type"});
  const NemotronBlocks b = read_nemotron_blocks(r, m, letters + mtp_letters);
  LayerList layers(m, r);
  for (const char c : letters)
    layers.add(c == 'M' ? b.mamba : c == '*' ? b.attention : c == '-' ? b.mlp : b.moe);
  if (const std::int64_t mtp = r.count_or({"num_nextn_predict_layers"}, 0, 64); mtp > 0) {
    if (mtp_letters != "*E") r.fail("mtp_layers_block_type", "only [\"attention\", \"moe\"] is modelled");
    LayerKind kind = b.attention;
    kind.mlp = b.moe.mlp;
    kind.norms = 2;
    kind.norm_parameters = 2 * m.hidden;
    set_mtp(r, m, mtp, kind, false);
  }
}

// ---- Nemotron-NAS (DeciLM): attention and width searched layer by layer

void read_nemotron_nas(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const Json* blocks = r.find("block_configs");
  if (blocks == nullptr || !blocks->is_array()) r.fail("block_configs", "missing: the layers' own sizes");
  check_pattern_length(r, "block_configs", blocks->size(), m.num_layers);
  const std::int64_t heads = r.size({"num_attention_heads"}, kMaxHeads);
  const std::int64_t head_dim = read_head_dim(r, m.hidden, heads);
  const bool bias = r.flag_or({"attention_bias"}, false), mlp_bias = r.flag_or({"mlp_bias"}, false);
  r.ignore({"num_key_value_heads", "intermediate_size"});
  LayerList layers(m, r);
  for (std::size_t i = 0; i < blocks->size(); ++i) {
    const std::string at = r.path(fmt::format("block_configs/{}", i));
    const ConfigReader block((*blocks)[i], at);
    const auto attention = block.object("attention");
    const auto ffn = block.object("ffn");
    if (!attention || !ffn) block.fail(attention ? "ffn" : "attention", "missing");
    LayerKind kind;
    kind.norms = 0;
    for (const auto* part : {&*attention, &*ffn})
      for (const std::string_view key : {"replace_with_linear", "sparsify", "num_sink_tokens"})
        if (const Json* v = part->find(key); v != nullptr && *v != false) part->fail(key, "is not modelled");
    if (!attention->flag_or({"no_op"}, false)) {
      GqaAttention a;
      a.heads = heads;
      const std::int64_t group = attention->size({"n_heads_in_group"}, kMaxHeads);
      if (heads % group != 0)
        attention->fail("n_heads_in_group", fmt::format("{} heads are no multiple of {}", heads, group));
      a.kv_heads = heads / group;
      a.head_dim = a.v_head_dim = head_dim;
      a.window = attention->count_or({"window_length"}, 0, kMaxPositions);
      a.qkv_bias = a.output_bias = bias;
      kind.mixer = a;
      ++kind.norms;
    }
    if (!ffn->flag_or({"no_op"}, false)) {
      DenseMlp mlp;
      if (ffn->has("intermediate_size")) {
        mlp.inter = ffn->size({"intermediate_size"});
      } else {  // two thirds of the multiple, rounded up to 256
        const double width = 2 * ffn->number("ffn_mult") * static_cast<double>(m.hidden) / 3;
        if (width < 1 || width > static_cast<double>(kMaxWidth))
          ffn->fail("ffn_mult", "gives an absurd width");
        mlp.inter = (static_cast<std::int64_t>(width) + 255) / 256 * 256;
      }
      mlp.bias = mlp_bias;
      kind.mlp = mlp;
      ++kind.norms;
    }
    kind.norm_parameters = kind.norms * m.hidden;
    layers.add(kind);
  }
}

// ---- Kimi Linear and Kimi K3: Kimi delta attention, latent attention, experts in a latent space

void read_kimi_linear(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const auto linear = r.object("linear_attn_config");
  if (!linear) r.fail("linear_attn_config", "missing: which layers have linear attention");
  RecurrentMixer kda;
  kda.kind = RecurrentMixer::Kind::kKda;
  kda.k_heads = kda.v_heads = linear->size({"num_heads"}, kMaxHeads);
  kda.k_dim = kda.v_dim = linear->size({"head_dim"}, kMaxHeadDim);
  kda.conv_kernel = linear->size({"short_conv_kernel_size"}, 64);
  kda.low_rank_gate = !linear->flag_or({"use_full_rank_gate"}, false);
  const auto n = static_cast<std::size_t>(m.num_layers);
  std::vector<int> type(n, -1);
  for (const auto& [key, value] :
       {std::pair<std::string_view, int>{"full_attn_layers", 0}, {"kda_layers", 1}}) {
    const auto list = linear->integers(key);
    if (!list) linear->fail(key, "missing");
    for (const std::int64_t layer : *list) {  // counted from 1
      if (layer < 1 || layer > m.num_layers)
        linear->fail(key, fmt::format("layer {} of {}", layer, m.num_layers));
      int& slot = type[static_cast<std::size_t>(layer - 1)];
      if (slot >= 0) linear->fail(key, fmt::format("layer {} is named twice", layer));
      slot = value;
    }
  }
  for (std::size_t i = 0; i < n; ++i)
    if (type[i] < 0) r.fail("linear_attn_config", fmt::format("layer {} is in neither list", i + 1));

  MlaAttention mla;
  mla.heads = r.size({"num_attention_heads"}, kMaxHeads);
  mla.q_lora_rank = r.size_or({"q_lora_rank"}, 0, kMaxHeadDim);
  mla.kv_lora_rank = r.size({"kv_lora_rank"}, kMaxHeadDim);
  mla.nope_dim = r.size({"qk_nope_head_dim"}, kMaxHeadDim);
  mla.rope_dim = r.size({"qk_rope_head_dim"}, kMaxHeadDim);
  mla.v_dim = r.size({"v_head_dim"}, kMaxHeadDim);
  mla.rotary = !r.flag_or({"mla_use_nope"}, false);
  mla.output_gate = r.flag_or({"mla_use_output_gate"}, false);
  r.ignore({"head_dim", "num_key_value_heads"});

  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"moe_intermediate_size"});
  moe.shared_inter = r.count_or({"num_shared_experts"}, 0, 64) * moe.inter;
  moe.router_bias = true;
  moe.latent = r.count_or({"routed_expert_hidden_size"}, 0);
  moe.latent_norm = r.flag_or({"latent_moe_use_norm"}, false) && moe.latent > 0;
  const std::int64_t first = r.count_or({"first_k_dense_replace"}, 0, kMaxLayers);
  const std::int64_t every = r.size_or({"moe_layer_freq"}, 1, kMaxLayers);
  DenseMlp dense;
  if (first > 0 || every > 1) dense.inter = r.size({"intermediate_size"});
  LayerList layers(m, r);
  LayerKind kind;
  kind.norm_parameters = 2 * m.hidden;
  // Attention residuals: every sublayer weighs the outputs of the earlier blocks of layers; half of them on
  // average.
  if (const std::int64_t block = r.count_or({"attn_res_block_size"}, 0, kMaxLayers); block > 0) {
    kind.residual_streams = 1 + static_cast<double>((m.num_layers + block - 1) / block) / 2;
    kind.norm_parameters += 4 * m.hidden;  // a query and a norm for each sublayer
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (type[i] == 1)
      kind.mixer = kda;
    else
      kind.mixer = mla;
    const auto at = static_cast<std::int64_t>(i);
    if (at >= first && at % every == 0)
      kind.mlp = moe;
    else
      kind.mlp = dense;
    layers.add(kind);
  }
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), m.kinds[m.layers.back()], false);
}

// ---- MiniMax-01: lightning attention, every eighth layer softmax

void read_minimax(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const GqaAttention attention = read_gqa(r, m, {});
  RecurrentMixer lightning;
  lightning.kind = RecurrentMixer::Kind::kLightning;
  lightning.k_heads = lightning.v_heads = attention.heads;
  lightning.k_dim = lightning.v_dim = attention.head_dim;
  MoeMlp moe = read_moe(r);
  moe.inter = r.size({"intermediate_size"});
  const auto n = static_cast<std::size_t>(m.num_layers);
  auto types = read_layer_types(r, "layer_types", m.num_layers, {"full_attention", "linear_attention"});
  if (const auto list = r.integers("attn_type_list"); list && types.empty()) {  // 0 linear, 1 softmax
    check_pattern_length(r, "attn_type_list", list->size(), m.num_layers);
    for (const std::int64_t t : *list) types.emplace_back(t == 0 ? "linear_attention" : "full_attention");
  }
  if (types.empty())
    for (std::size_t i = 0; i < n; ++i)
      types.emplace_back((i + 1) % 2 == 0 ? "full_attention" : "linear_attention");
  LayerList layers(m, r);
  LayerKind kind;
  kind.mlp = moe;
  kind.norm_parameters = 2 * m.hidden;
  for (std::size_t i = 0; i < n; ++i) {
    if (types[i] == "full_attention")
      kind.mixer = attention;
    else
      kind.mixer = lightning;
    layers.add(kind);
  }
}

}  // namespace

void add_hybrid_families(Families& f) {
  f["qwen3_next"] = read_qwen_hybrid;
  f["qwen3_5_text"] = read_qwen_hybrid;
  f["qwen3_5_moe_text"] = read_qwen_hybrid;
  f["nemotron_h"] = read_nemotron_h;
  f["nemotron-nas"] = read_nemotron_nas;
  f["kimi_linear"] = read_kimi_linear;
  f["minimax"] = read_minimax;
  f["minimax_text_01"] = read_minimax;
}

}  // namespace foretoken
