// What each family computes, as Hugging Face's modeling_*.py of that model_type do (checked against version
// 4.57 by tests/golden).
#include "executor/numerics.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "executor/rope.h"

namespace foretoken {
namespace {

struct Reading {
  const ConfigReader& r;
  const ModelConfig& model;
  std::int64_t longest;
};

double positive_or(const ConfigReader& r, const char* key, double otherwise) {
  const double v = number_or(r, key, otherwise);
  if (!(v > 0)) r.fail(key, fmt::format("{} is not above 0", v));
  return v;
}

void read_activation(const Reading& in, Numerics& n, KeyList keys, const std::string& otherwise) {
  const std::string_view key = in.r.present(keys);
  const std::string name = in.r.text_or(key, otherwise);
  if (name == "silu" || name == "swish")
    n.activation.kind = Activation::kSilu;
  else if (name == "gelu")
    n.activation.kind = Activation::kGelu;
  else if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    n.activation.kind = Activation::kGeluTanh;
  else if (name == "relu")
    n.activation.kind = Activation::kRelu;
  else if (name == "relu2")
    n.activation.kind = Activation::kReluSquared;
  else
    in.r.fail(key, fmt::format("activation \"{}\" is not computed; these are: silu, gelu, gelu_new, "
                               "gelu_pytorch_tanh, gelu_fast, relu, relu2",
                               name));
}

// Both spellings: rope_scaling beside rope_theta, and (version 5) rope_parameters with all of it.
std::optional<ConfigReader> rope_parameters(const ConfigReader& r) {
  if (auto own = r.object("rope_parameters")) return own;
  return r.object("rope_scaling");
}

void one_rope(const Reading& in, Numerics& n, RopeSettings settings) {
  settings.longest = in.longest;
  const auto own = rope_parameters(in.r);
  n.ropes = {read_rope(in.r, own ? &*own : nullptr, settings)};
  n.rope_of_layer.assign(in.model.layers.size(), 0);
  for (std::size_t i = 0; i < in.model.layers.size(); ++i)
    if (const auto* a = std::get_if<GqaAttention>(&in.model.kinds[in.model.layers[i]].mixer);
        a != nullptr && !a->rotary)
      n.rope_of_layer[i] = -1;
}

const GqaAttention& first_attention(const Reading& in) {
  for (const std::uint8_t kind : in.model.layers)
    if (const auto* a = std::get_if<GqaAttention>(&in.model.kinds[kind].mixer)) return *a;
  in.r.fail("layer_types", "no layer has attention; such a model is not computed by the executor");
}

const MoeMlp* first_moe(const ModelConfig& m) {
  for (const LayerKind& kind : m.kinds)
    if (const auto* moe = std::get_if<MoeMlp>(&kind.mlp)) return moe;
  return nullptr;
}

void read_llama_like(const Reading& in, Numerics& n, double epsilon, double theta) {
  n.norm_epsilon = static_cast<float>(positive_or(in.r, "rms_norm_eps", epsilon));
  const std::int64_t dim = first_attention(in).head_dim;
  n.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  read_activation(in, n, {"hidden_act"}, "silu");
  one_rope(in, n, {.theta = theta, .dim = dim});
}

void read_routing(const Reading& in, Numerics& n, bool normalise) {
  const MoeMlp* moe = first_moe(in.model);
  if (moe == nullptr) return;
  n.routing.experts = moe->experts;
  n.routing.top_k = moe->top_k;
  n.routing.normalise = normalise;
}

void read_llama(const Reading& in, Numerics& n) { read_llama_like(in, n, 1e-6, 10000); }
void read_phi3(const Reading& in, Numerics& n) { read_llama_like(in, n, 1e-5, 10000); }
void read_mixtral(const Reading& in, Numerics& n) {
  read_llama_like(in, n, 1e-5, 1e6);
  read_routing(in, n, true);
}
void read_qwen_moe(const Reading& in, Numerics& n) {
  read_llama_like(in, n, 1e-6, 10000);
  read_routing(in, n, in.r.flag_or({"norm_topk_prob"}, false));
}

// The output norm of its linear layers has weights of their own, not added to one.
void read_qwen3_next(const Reading& in, Numerics& n) {
  read_qwen_moe(in, n);
  n.routing.normalise = in.r.flag_or({"norm_topk_prob"}, true);
  n.norm_offset = 1;
}

void read_gpt_oss(const Reading& in, Numerics& n) {
  read_llama_like(in, n, 1e-5, 150000);
  read_routing(in, n, true);
  n.routing.softmax_over_selected = true;
  if (n.activation.kind != Activation::kSilu) in.r.fail("hidden_act", "gpt_oss is computed with silu alone");
  n.activation.kind = Activation::kClampedSwiglu;
  n.activation.limit = static_cast<float>(positive_or(in.r, "swiglu_limit", 7));
}

// DeepSeek-V2 chooses by softmax: the best experts, or the best of the groups with the best experts. V3
// chooses by sigmoid with a correction, from the groups with the best pairs.
void read_deepseek_routing(const Reading& in, Numerics& n, bool v3) {
  const ConfigReader& r = in.r;
  if (first_moe(in.model) == nullptr) return;
  const std::string method = r.text_or("topk_method", v3 ? "noaux_tc" : "greedy");
  const std::string score = r.text_or("scoring_func", v3 ? "sigmoid" : "softmax");
  const bool grouped = v3 || method == "group_limited_greedy";
  if (v3 ? method != "noaux_tc" : !grouped && method != "greedy")
    r.fail("topk_method", fmt::format("\"{}\" is not computed for {}; {}", method, in.model.model_type,
                                      v3 ? "noaux_tc is" : "greedy and group_limited_greedy are"));
  if (score != (v3 ? "sigmoid" : "softmax"))
    r.fail("scoring_func", fmt::format("\"{}\" is not computed for {}", score, in.model.model_type));
  // V2's own code then leaves routed_scaling_factor out, Hugging Face's ignores the key.
  const bool normalise = r.flag_or({"norm_topk_prob"}, v3);
  if (!v3 && normalise)
    r.fail("norm_topk_prob", "true is not computed for deepseek_v2, whose implementations differ in it");
  read_routing(in, n, normalise);
  n.routing.sigmoid = v3;
  n.routing.group_by_top_two = v3;
  n.routing.scale = static_cast<float>(positive_or(r, "routed_scaling_factor", v3 ? 2.5 : 1));
  if (!grouped) return;
  const std::int64_t groups = r.size_or({"n_group"}, v3 ? 8 : 1, kMaxExperts);
  const std::int64_t best = r.size_or({"topk_group"}, v3 ? 4 : 1, kMaxExperts);
  if (n.routing.experts % groups != 0 || (v3 && n.routing.experts / groups < 2))
    r.fail("n_group", fmt::format("{} experts make no {} groups{}", n.routing.experts, groups,
                                  v3 ? " of two or more" : ""));
  if (best > groups) r.fail("topk_group", fmt::format("{} of {} groups", best, groups));
  if (n.routing.top_k > best * (n.routing.experts / groups))
    r.fail("topk_group", fmt::format("{} groups of {} experts hold fewer than the {} of a token", best,
                                     n.routing.experts / groups, n.routing.top_k));
  n.routing.groups = groups;
  n.routing.top_groups = best;
}

void read_deepseek(const Reading& in, Numerics& n, bool v3) {
  const auto& a = std::get<MlaAttention>(in.model.kinds[in.model.layers[0]].mixer);
  n.norm_epsilon = static_cast<float>(positive_or(in.r, "rms_norm_eps", 1e-6));
  n.latent_norm_epsilon = 1e-6f;  // the class's own, not rms_norm_eps
  read_activation(in, n, {"hidden_act"}, "silu");
  one_rope(in, n, {.theta = 10000, .dim = a.rope_dim});
  n.ropes[0].interleaved = in.r.flag_or({"rope_interleave"}, true);
  if (!v3 && !n.ropes[0].interleaved) in.r.fail("rope_interleave", "false is not computed for deepseek_v2");
  double scale = 1 / std::sqrt(static_cast<double>(a.nope_dim + a.rope_dim));
  // As the models' own code does for both; Hugging Face's class of V2 leaves it out.
  const auto own = rope_parameters(in.r);
  if (own && own->text_or("rope_type", own->text_or("type", "default")) != "default")
    if (const double all = number_or(*own, "mscale_all_dim", 0); all != 0) {
      const double m = yarn_mscale(number_or(*own, "factor", 1), all);
      scale *= m * m;
    }
  n.attention_scale = static_cast<float>(scale);
  read_deepseek_routing(in, n, v3);
}
void read_deepseek_v2(const Reading& in, Numerics& n) { read_deepseek(in, n, false); }
void read_deepseek_v3(const Reading& in, Numerics& n) { read_deepseek(in, n, true); }

void read_gemma(const Reading& in, Numerics& n) {
  read_llama_like(in, n, 1e-6, 10000);
  n.norm_offset = 1;
  n.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(in.model.hidden)));
  // Early configs say hidden_act "gelu" of models that were trained with the tanh form.
  in.r.ignore({"hidden_act"});
  read_activation(in, n, {"hidden_activation"}, "gelu_pytorch_tanh");
}

void read_gemma2(const Reading& in, Numerics& n) {
  read_gemma(in, n);
  n.sandwich_norms = true;
  n.attention_scale = static_cast<float>(1 / std::sqrt(positive_or(in.r, "query_pre_attn_scalar", 256)));
  // Gemma 2's class has caps where the config does not name them; null is none for both.
  const auto softcap = [&](const char* key, double of_gemma2) {
    const bool named = in.r.json().contains(key) || in.model.model_type != "gemma2";
    const double v = number_or(in.r, key, named ? 0 : of_gemma2);
    if (v < 0) in.r.fail(key, fmt::format("{} is below 0", v));
    return static_cast<float>(v);
  };
  n.attention_softcap = softcap("attn_logit_softcapping", 50);
  n.final_softcap = softcap("final_logit_softcapping", 30);
}

// Layers with a window turn by a base of their own, without scaling.
void read_gemma3(const Reading& in, Numerics& n) {
  const ConfigReader& r = in.r;
  Json global = r.json();
  const RopeSettings settings{.theta = 1e6, .dim = first_attention(in).head_dim, .longest = in.longest};
  Rope local, full;
  const auto all = r.object("rope_parameters");
  if (all && (all->has("full_attention") || all->has("sliding_attention"))) {
    const auto f = all->object("full_attention"), s = all->object("sliding_attention");
    full = read_rope(r, f ? &*f : nullptr, settings);
    RopeSettings near = settings;
    near.theta = 10000;
    global.erase("rope_theta");
    local = read_rope(ConfigReader(global, r.where()), s ? &*s : nullptr, near);
  } else {
    const auto own = rope_parameters(r);
    full = read_rope(r, own ? &*own : nullptr, settings);
    global["rope_theta"] = number_or(r, "rope_local_base_freq", 10000);
    local = read_rope(ConfigReader(global, r.where()), nullptr, settings);
  }
  Json plain = r.json();  // without what was read here by layer
  plain.erase("rope_parameters");
  plain.erase("rope_scaling");
  const ConfigReader rest(plain, r.where());
  read_gemma2({rest, in.model, in.longest}, n);
  n.ropes = {full, local};
  for (std::size_t i = 0; i < in.model.layers.size(); ++i)
    n.rope_of_layer[i] = std::get<GqaAttention>(in.model.kinds[in.model.layers[i]].mixer).window > 0 ? 1 : 0;
}

void read_classic(const Reading& in, Numerics& n, const char* activation) {
  n.norm = NormKind::kLayer;
  n.activation.gated = false;
  n.rope_of_layer.assign(in.model.layers.size(), -1);
  n.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(first_attention(in).head_dim)));
  read_activation(in, n, {"activation_function"}, activation);
  if (in.longest + n.position_offset > in.model.position_table)
    in.r.fail(in.r.present({"max_position_embeddings", "n_positions"}),
              fmt::format("the model has {} learned positions, and a sequence of {} tokens is to run",
                          in.model.position_table - n.position_offset, in.longest));
}
void read_gpt2(const Reading& in, Numerics& n) {
  read_classic(in, n, "gelu_new");
  n.norm_epsilon = static_cast<float>(positive_or(in.r, "layer_norm_epsilon", 1e-5));
  if (!in.r.flag_or({"scale_attn_weights"}, true)) n.attention_scale = 1;
}
void read_opt(const Reading& in, Numerics& n) {
  n.position_offset = 2;
  read_classic(in, n, "relu");
  n.norm_epsilon = 1e-5f;
  if (in.model.embedding_projection != 0)
    in.r.fail("word_embed_proj_dim",
              "is not computed: embeddings narrower than the hidden size, with projections (OPT-350m)");
}

using Reader = void (*)(const Reading&, Numerics&);
struct Family {
  std::string_view type;
  Reader read;
};
constexpr Family kFamilies[] = {{"llama", read_llama},
                                {"mistral", read_llama},
                                {"qwen2", read_llama},
                                {"qwen3", read_llama},
                                {"qwen2_moe", read_qwen_moe},
                                {"qwen3_moe", read_qwen_moe},
                                {"qwen3_next", read_qwen3_next},
                                {"mixtral", read_mixtral},
                                {"deepseek_v2", read_deepseek_v2},
                                {"deepseek_v3", read_deepseek_v3},
                                {"kimi_k2", read_deepseek_v3},
                                {"gemma", read_gemma},
                                {"gemma2", read_gemma2},
                                {"gemma3_text", read_gemma3},
                                {"gpt_oss", read_gpt_oss},
                                {"phi3", read_phi3},
                                {"gpt2", read_gpt2},
                                {"opt", read_opt}};

// Keys of other families or of variants that would change what is computed, and the value at which they do
// not.
struct Off {
  const char* key;
  double value;               // flags: 0 or 1
  std::string_view but = {};  // the families that read it
};
constexpr Off kMustBeOff[] = {{"scale_attn_by_inverse_layer_idx", 0},
                              {"use_bidirectional_attention", 0},
                              {"add_cross_attention", 0},
                              {"use_qk_norm", 0, "gemma3_text qwen3 qwen3_moe"},
                              {"qk_layernorm", 0},
                              {"clip_qkv", 0},
                              {"logit_scale", 1},
                              {"attention_multiplier", 1},
                              {"embedding_multiplier", 1},
                              {"residual_multiplier", 1},
                              {"logits_scaling", 1},
                              {"scale_emb", 1},
                              {"scale_depth", 1},
                              {"attn_temperature_tuning", 0},
                              {"alibi", 0},
                              {"lm_head_bias", 0},
                              {"layer_norm_elementwise_affine", 1},
                              {"do_layer_norm_before", 1},
                              {"_remove_final_layer_norm", 0},
                              {"attn_logit_softcapping", 0, "gemma2 gemma3_text"},
                              {"final_logit_softcapping", 0, "gemma2 gemma3_text"},
                              {"query_pre_attn_scalar", 0, "gemma2 gemma3_text"},
                              {"swiglu_limit", 0, "gpt_oss"}};

void refuse_keys(const ConfigReader& r, std::string_view type) {
  for (const Off& off : kMustBeOff) {
    const Json* v = r.find(off.key);
    if (v == nullptr || off.but.find(type) != std::string_view::npos) continue;
    const bool same = v->is_boolean() ? v->get<bool>() == (off.value != 0)
                                      : v->is_number() && v->get<double>() == off.value;
    if (!same)
      r.fail(off.key,
             fmt::format("{} changes what the model computes and is not computed for {}; only {} is",
                         v->dump(), type,
                         v->is_boolean() ? (off.value != 0 ? "true" : "false") : significant(off.value, 3)));
  }
}

void check_kinds(const ModelConfig& m, const ConfigReader& r) {
  for (const LayerKind& kind : m.kinds)
    if (const auto* l = std::get_if<MlaAttention>(&kind.mixer); l != nullptr && l->index_top_k > 0)
      r.fail("index_topk", "a sparse selection of keys is not computed by the executor");
}

// Of models whose weights are in fp8. Dynamic scales of what they multiply are a token's, whatever the
// configuration says of tensors: vLLM's are.
Fp8Scales read_fp8_scales(const ConfigReader& r) {
  auto q = r.object("quantization_config");
  if (q && q->has("quantization")) q = q->object("quantization");  // hf_quant_config.json
  if (!q || q->has("weight_block_size")) return Fp8Scales::kRows;
  const auto of_tensor = [](bool fixed) { return fixed ? Fp8Scales::kStatic : Fp8Scales::kTensorToken; };
  if (lower(q->text_or("quant_method", "")) == "fp8")
    return of_tensor(lower(q->text_or("activation_scheme", "dynamic")) == "static");
  if (lower(q->text_or("quant_algo", "")) == "fp8") return Fp8Scales::kStatic;  // ModelOpt
  const auto groups = q->object("config_groups");
  if (!groups || groups->json().empty()) return Fp8Scales::kRows;
  const auto group = groups->object(groups->json().begin().key());
  const auto weights = group ? group->object("weights") : std::nullopt;
  if (!weights || weights->text_or("strategy", "") != "tensor") return Fp8Scales::kRows;
  const auto inputs = group->object("input_activations");
  return of_tensor(inputs && !inputs->flag_or({"dynamic"}, false));
}

const Json& language_part(const Json& config, std::string& where) {
  for (const char* key : {"text_config", "llm_config", "language_config"})
    if (const auto it = config.find(key);
        it != config.end() && it->is_object() && it->contains("model_type")) {
      where = ConfigReader(config, where).path(key);
      return *it;
    }
  return config;
}

}  // namespace

Numerics read_numerics(const Json& config, const ModelConfig& model, std::int64_t longest,
                       const std::string& where) {
  std::string inner_where = where;
  const Json& inner = language_part(config, inner_where);
  const ConfigReader r(inner, inner_where);
  std::vector<std::string> names;
  for (const Family& family : kFamilies) {
    names.emplace_back(family.type);
    if (family.type != model.model_type) continue;
    check_kinds(model, r);
    refuse_keys(r, family.type);
    Numerics n;
    family.read({r, model, longest}, n);
    n.fp8_scales = read_fp8_scales(r.has("quantization_config") ? r : ConfigReader(config, where));
    return n;
  }
  r.fail("model_type", fmt::format("\"{}\" is not computed by the executor; these are: {}", model.model_type,
                                   join(names, ", ")));
}

}  // namespace foretoken
