// Decoders before Llama: learned positions or ALiBi, layer norms with biases, ungated feed-forward parts.
#include <fmt/format.h>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

struct Classic {
  bool positions = false;  // learned position table
  std::int64_t extra_positions = 0;
  bool attention_bias = true, mlp_bias = true;
  int norms = 2, norm_vectors = 2;
  bool parallel = false, rotary = false;
  const char* activation = "gelu";  // unless the configuration names another
};

void build(const ConfigReader& r, ModelConfig& m, const Classic& c, GqaAttention attention) {
  if (c.positions) {
    if (m.max_positions <= 0) r.fail("max_position_embeddings", "missing: the number of learned positions");
    if (m.max_positions > kMaxVocab)
      r.fail(r.present({"max_position_embeddings", "n_positions"}), "is absurdly large");
    m.position_table = m.max_positions + c.extra_positions;
  }
  m.final_norm_parameters = c.norm_vectors * m.hidden;
  attention.qkv_bias = attention.output_bias = c.attention_bias;
  attention.rotary = c.rotary;
  LayerKind kind;
  kind.mixer = attention;
  DenseMlp mlp;
  mlp.inter = r.size_or({"n_inner", "ffn_dim", "intermediate_size", "ffn_hidden_size", "ffn_embed_dim"},
                        4 * m.hidden);
  mlp.gated = false;
  mlp.bias = c.mlp_bias;
  // The tanh approximation of GELU written out in Python (Hugging Face "gelu_new"): pow, mul, add, mul, tanh,
  // add, mul, mul, of which two read two operands.
  if (r.text_or("activation_function", r.text_or("hidden_act", c.activation)) == "gelu_new") {
    mlp.activation_kernels = 8;
    mlp.activation_passes = 18;
  }
  kind.mlp = mlp;
  kind.norms = c.norms;
  kind.norm_parameters = c.norms * c.norm_vectors * m.hidden;
  kind.parallel = c.parallel;
  LayerList layers(m, r);
  const int index = layers.kind_index(kind);
  m.layers.assign(static_cast<std::size_t>(m.num_layers), static_cast<std::uint8_t>(index));
}

GqaAttention heads_of(const ConfigReader& r, const ModelConfig& m) {
  return read_gqa(r, m, {.bias_from_config = false});
}

void read_gpt2(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  GqaAttention a = heads_of(r, m);
  if (r.flag_or({"multi_query"}, false)) a.kv_heads = 1;  // GPT-BigCode
  build(r, m, {.positions = true, .activation = "gelu_new"}, a);
}

void read_gptj(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  m.other_parameters = m.vocab;  // bias of the head
  build(r, m, {.attention_bias = false, .norms = 1, .parallel = true, .rotary = true}, heads_of(r, m));
}

void read_gpt_neox(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  const bool bias = r.flag_or({"attention_bias"}, true);
  build(r, m,
        {.attention_bias = bias, .parallel = r.flag_or({"use_parallel_residual"}, true), .rotary = true},
        heads_of(r, m));
}

void read_phi(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, false);
  if (r.flag_or({"qk_layernorm"}, false)) r.fail("qk_layernorm", "is not modelled for phi");
  m.other_parameters = m.vocab;  // bias of the head
  build(r, m, {.norms = 1, .parallel = true, .rotary = true}, heads_of(r, m));
}

void read_opt(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const bool bias = r.flag_or({"enable_bias"}, true);
  build(r, m, {.positions = true, .extra_positions = 2, .attention_bias = bias, .mlp_bias = bias},
        heads_of(r, m));
  const std::int64_t width = r.size_or({"word_embed_proj_dim"}, m.hidden);
  if (width != m.hidden) m.embedding_projection = width;
  // OPT-350m norms after its sublayers and has no final norm.
  if (!r.flag_or({"do_layer_norm_before"}, true) || r.flag_or({"_remove_final_layer_norm"}, false))
    m.final_norm_parameters = 0;
}

void read_bloom(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  m.embedding_norm = true;
  build(r, m, {}, heads_of(r, m));
}

void read_falcon(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  const bool grouped = r.flag_or({"new_decoder_architecture"}, false);
  const bool multi_query = r.flag_or({"multi_query"}, true);
  const bool bias = r.flag_or({"bias"}, false);
  const bool parallel = grouped || r.flag_or({"parallel_attn"}, true);
  Json whole = r.json();
  // num_kv_heads counts in the grouped architecture only.
  if (!grouped) whole.erase("num_kv_heads");
  GqaAttention a = heads_of(ConfigReader(whole, r.where()), m);
  if (!grouped && multi_query) a.kv_heads = 1;
  const std::int64_t norms = r.size_or({"num_ln_in_parallel_attn"}, grouped || !parallel ? 2 : 1, 2);
  build(r, m,
        {.attention_bias = bias,
         .mlp_bias = bias,
         .norms = static_cast<int>(norms),
         .parallel = parallel,
         .rotary = !r.flag_or({"alibi"}, false)},
        a);
}

void read_mpt(const ConfigReader& r, ModelConfig& m) {
  read_common(r, m, true);
  GqaAttention a = heads_of(r, m);
  bool learned = true;
  if (const auto attn = r.object("attn_config")) {
    if (attn->flag_or({"qk_ln"}, false)) attn->fail("qk_ln", "is not modelled");
    const std::string type = attn->text_or("attn_type", "multihead_attention");
    if (type == "multiquery_attention")
      a.kv_heads = 1;
    else if (type == "grouped_query_attention")
      a.kv_heads = attn->size({"kv_n_heads"}, kMaxHeads);
    else if (type != "multihead_attention")
      attn->fail("attn_type", "\"" + type + "\" is not modelled");
    if (a.heads % a.kv_heads != 0) attn->fail("kv_n_heads", "does not divide the heads");
    learned = !attn->flag_or({"alibi"}, false) && !attn->flag_or({"rope"}, false);
  }
  const bool bias = !r.flag_or({"no_bias"}, true);
  const std::int64_t ratio = r.size_or({"expansion_ratio"}, 4, 64);
  build(r, m,
        {.positions = learned && r.flag_or({"learned_pos_emb"}, true),
         .attention_bias = bias,
         .mlp_bias = bias,
         .norm_vectors = bias ? 2 : 1},
        a);
  for (LayerKind& kind : m.kinds) std::get<DenseMlp>(kind.mlp).inter = ratio * m.hidden;
}

}  // namespace

void add_legacy_families(Families& f) {
  f["gpt2"] = read_gpt2;
  f["gpt3"] = read_gpt2;
  f["gpt_bigcode"] = read_gpt2;
  f["gptj"] = read_gptj;
  f["gpt_neox"] = read_gpt_neox;
  f["phi"] = read_phi;
  f["phi-msft"] = read_phi;
  f["opt"] = read_opt;
  f["bloom"] = read_bloom;
  f["falcon"] = read_falcon;
  f["mpt"] = read_mpt;
}

}  // namespace foretoken
