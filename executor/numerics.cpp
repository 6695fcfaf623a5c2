#include "executor/numerics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "base/error.h"
#include "base/json_full.h"

namespace foretoken {
namespace {

constexpr const char* kComputed =
    "llama, mistral, mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3, gemma, gemma2, "
    "gemma3_text, gpt_oss, phi3, gpt2, opt";

// Keys of the configuration with their place in errors.
class Reader {
 public:
  Reader(const Json& config, std::string where) : json_(config), where_(std::move(where)) {}
  bool has(const char* key) const {
    const auto at = json_.find(key);
    return at != json_.end() && !at->is_null();
  }
  double number(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    const Json& v = json_.at(key);
    if (!v.is_number()) throw Error(place(key), "must be a number");
    return v.get<double>();
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const Json& v = json_.at(key);
    if (!v.is_boolean()) throw Error(place(key), "must be true or false");
    return v.get<bool>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    if (!has(key)) return otherwise;
    const Json& v = json_.at(key);
    if (!v.is_string()) throw Error(place(key), "must be a string");
    return v.get<std::string>();
  }
  std::vector<double> numbers(const char* key) const {
    std::vector<double> all;
    if (!has(key)) throw Error(place(key), "is missing; the rotation of positions needs it");
    for (const Json& v : json_.at(key)) {
      if (!v.is_number()) throw Error(place(key), "must be a list of numbers");
      all.push_back(v.get<double>());
    }
    return all;
  }
  Reader object(const char* key) const {
    if (!json_.at(key).is_object()) throw Error(place(key), "must be an object");
    return {json_.at(key), place(key)};
  }
  std::string place(const char* key) const { return where_ + "/" + key; }
  // Refuses a key that changes numbers and isn't computed.
  void must_be_off(const char* key) const {
    if (has(key) && !(json_.at(key).is_boolean() && !json_.at(key).get<bool>()))
      throw Error(place(key), "the executor does not compute it; leave it out or false");
  }

 private:
  const Json& json_;
  std::string where_;
};

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

struct Rotation {
  Rope rope;
  // What DeepSeek's yarn multiplies the scale of scores with, as its authors' code does for V2 and V3
  // (transformers does it for V3 alone).
  double softmax_factor = 1;
};

// Inverse frequencies of `dim` turned dimensions with one of Hugging Face's scalings.
Rotation rotation(const Reader& config, const std::optional<Reader>& scaling, double theta, std::int64_t dim,
                  std::int64_t longest, double trained, bool latent) {
  Rotation r;
  const auto pairs = static_cast<std::size_t>(dim / 2);
  auto& f = r.rope.inverse_frequencies;
  const auto fill = [&](double base) {
    f.resize(pairs);
    for (std::size_t i = 0; i < pairs; ++i)
      f[i] = static_cast<float>(1 / std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(dim)));
  };
  fill(theta);
  if (!scaling) return r;
  const Reader& s = *scaling;
  const std::string type = s.text("rope_type", s.text("type", "default"));
  const double factor = s.number("factor", 1);
  if (type == "default" || type == "mrope") return r;
  if (type == "linear") {
    for (float& v : f) v = static_cast<float>(v / factor);
  } else if (type == "dynamic") {
    const double length = std::max(static_cast<double>(longest), trained), d = static_cast<double>(dim);
    fill(theta * std::pow(factor * length / trained - (factor - 1), d / (d - 2)));
  } else if (type == "llama3") {
    const double low = s.number("low_freq_factor", 1), high = s.number("high_freq_factor", 4),
                 old = s.number("original_max_position_embeddings", trained);
    for (float& v : f) {
      const double wavelength = 2 * std::numbers::pi / v;
      if (wavelength < old / high) continue;
      if (wavelength > old / low) {
        v = static_cast<float>(v / factor);
        continue;
      }
      const double smooth = (old / wavelength - low) / (high - low);
      v = static_cast<float>((1 - smooth) * v / factor + smooth * v);
    }
  } else if (type == "yarn") {
    const double old = s.number("original_max_position_embeddings", trained),
                 fast = s.number("beta_fast", 32), slow = s.number("beta_slow", 1),
                 d = static_cast<double>(dim);
    const auto dim_of = [&](double rotations) {
      return d * std::log(old / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
    };
    double begin = dim_of(fast), end = dim_of(slow);
    if (s.flag("truncate", true)) begin = std::floor(begin), end = std::ceil(end);
    begin = std::max(begin, 0.0), end = std::min(end, d - 1);
    if (begin == end) end += 0.001;
    for (std::size_t i = 0; i < pairs; ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - begin) / (end - begin), 0.0, 1.0);
      f[i] = static_cast<float>(f[i] / factor * ramp + f[i] * (1 - ramp));
    }
    const double mscale = s.number("mscale", 0), all = s.number("mscale_all_dim", 0);
    if (s.has("attention_factor"))
      r.rope.scale = static_cast<float>(s.number("attention_factor", 1));
    else if (mscale > 0 && all > 0)
      r.rope.scale = static_cast<float>(yarn_mscale(factor, mscale) / yarn_mscale(factor, all));
    else
      r.rope.scale = static_cast<float>(yarn_mscale(factor, 1));
    if (latent && all > 0) r.softmax_factor = yarn_mscale(factor, all) * yarn_mscale(factor, all);
  } else if (type == "longrope" || type == "su") {
    const double old = config.number("original_max_position_embeddings",
                                     s.number("original_max_position_embeddings", trained));
    const std::vector<double> factors =
        s.numbers(static_cast<double>(longest) > old ? "long_factor" : "short_factor");
    if (factors.size() != pairs)
      throw Error(s.place("long_factor"), fmt::format("has {} factors for {} pairs", factors.size(), pairs));
    for (std::size_t i = 0; i < pairs; ++i) f[i] = static_cast<float>(f[i] / factors[i]);
    const double grown = s.has("factor") ? factor : config.number("max_position_embeddings", trained) / old;
    r.rope.scale = static_cast<float>(
        s.number("attention_factor", grown <= 1 ? 1.0 : std::sqrt(1 + std::log(grown) / std::log(old))));
  } else {
    throw Error(s.place("rope_type"),
                "\"" + type +
                    "\" is not computed by the executor; it knows default, linear, dynamic, "
                    "llama3, yarn, longrope");
  }
  return r;
}

Activation activation(const Reader& c, const std::string& name) {
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  throw Error(c.place("hidden_act"), "\"" + name +
                                         "\" is not computed by the executor; it knows silu, gelu, gelu_new, "
                                         "gelu_pytorch_tanh, relu, relu2");
}

void read_routing(const Reader& c, const ModelConfig& model, const std::string& type, RoutingArgs& r) {
  const bool any = std::any_of(model.kinds.begin(), model.kinds.end(),
                               [](const LayerKind& k) { return std::holds_alternative<MoeMlp>(k.mlp); });
  if (!any) return;
  if (type == "mixtral") {
    r.normalise = true;
  } else if (type == "qwen2_moe" || type == "qwen3_moe") {
    r.normalise = c.flag("norm_topk_prob", type == "qwen3_moe");
  } else if (type == "gpt_oss") {
    r.softmax_over_selected = true;
  } else {  // DeepSeek
    const std::string method = c.text("topk_method", type == "deepseek_v3" ? "noaux_tc" : "greedy");
    r.sigmoid = c.text("scoring_func", type == "deepseek_v3" ? "sigmoid" : "softmax") == "sigmoid";
    r.scale = static_cast<float>(c.number("routed_scaling_factor", 1));
    r.normalise = c.flag("norm_topk_prob", type == "deepseek_v3");
    if (method == "noaux_tc" || method == "group_limited_greedy") {
      r.groups = static_cast<std::int64_t>(c.number("n_group", 1));
      r.top_groups = static_cast<std::int64_t>(c.number("topk_group", 1));
      r.group_by_top_two = method == "noaux_tc";
    } else if (method != "greedy") {
      throw Error(c.place("topk_method"), "\"" + method +
                                              "\" is not computed by the executor; it knows greedy, "
                                              "group_limited_greedy, noaux_tc");
    }
    if (type == "deepseek_v2" && r.normalise)
      throw Error(c.place("norm_topk_prob"), "true is not computed by the executor for deepseek_v2");
  }
}

}  // namespace

Numerics read_numerics(const Json& json, const ModelConfig& model, std::int64_t longest,
                       const std::string& where) {
  const Reader c(json, where);
  const std::string type = c.text("model_type", "");
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), type) != names.end();
  };
  if (!is({"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "deepseek_v2",
           "deepseek_v3", "gemma", "gemma2", "gemma3_text", "gpt_oss", "phi3", "gpt2", "opt"}))
    throw Error(c.place("model_type"),
                "\"" + type + "\" is not computed by the executor; it runs " + kComputed);
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "use_bidirectional_attention"})
    c.must_be_off(key);
  if (type == "opt" && !c.flag("do_layer_norm_before", true))
    throw Error(c.place("do_layer_norm_before"), "false is not computed by the executor");
  const bool gemma = is({"gemma", "gemma2", "gemma3_text"});
  Numerics n;
  if (is({"gpt2", "opt"})) {
    n.norm = NormKind::kLayer;
    n.norm_epsilon = static_cast<float>(c.number("layer_norm_epsilon", c.number("layer_norm_eps", 1e-5)));
    if (type == "opt") n.position_offset = 2;
  } else {
    n.norm_epsilon =
        static_cast<float>(c.number("rms_norm_eps", type == "phi3" || type == "mixtral" ? 1e-5 : 1e-6));
  }
  if (gemma) {
    n.norm_offset = 1;
    n.embedding_scale = std::sqrt(static_cast<float>(model.hidden));
    // Hugging Face rounds this to the embedding's type; bfloat16 checkpoints were trained so.
    n.sandwich_norms = type != "gemma";
    n.attention_softcap = static_cast<float>(c.number("attn_logit_softcapping", type == "gemma2" ? 50 : 0));
    n.final_softcap = static_cast<float>(c.number("final_logit_softcapping", type == "gemma2" ? 30 : 0));
  }
  const char* acts[] = {"hidden_activation", "activation_function", "hidden_act"};
  std::string act = gemma            ? "gelu_pytorch_tanh"
                    : type == "gpt2" ? "gelu_new"
                    : type == "opt"  ? "relu"
                                     : "silu";
  for (const char* key : acts)
    if (c.has(key) && !(gemma && std::string_view(key) == "hidden_act")) {
      act = c.text(key, act);
      break;
    }
  n.activation.kind = activation(c, act);
  if (type == "gpt_oss") {
    n.activation.kind = Activation::kClampedSwiglu;
    n.activation.limit = static_cast<float>(c.number("swiglu_limit", 7));
  }
  read_routing(c, model, type, n.routing);

  std::int64_t qk_dim = 0, turned = 0;
  bool latent = false;
  for (const LayerKind& kind : model.kinds) {
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      qk_dim = turned = a->head_dim;
    } else if (const auto* m = std::get_if<MlaAttention>(&kind.mixer)) {
      qk_dim = m->nope_dim + m->rope_dim, turned = m->rope_dim;
      latent = true;
    }
  }
  n.attention_scale = 1 / std::sqrt(static_cast<float>(gemma && c.has("query_pre_attn_scalar")
                                                           ? c.number("query_pre_attn_scalar", 1)
                                                           : static_cast<double>(qk_dim)));
  if (type == "gpt2" && !c.flag("scale_attn_weights", true)) n.attention_scale = 1;
  if (is({"gpt2", "opt"})) return n;

  const double share = c.number("partial_rotary_factor", 1);
  turned = static_cast<std::int64_t>(static_cast<double>(turned) * share) / 2 * 2;
  const double trained = c.number("max_position_embeddings", 4096);
  // Newer files say base and scaling in one object, "rope_parameters", of one kind of layer or of each.
  std::optional<Reader> scaling;
  const char* key = c.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (c.has(key)) scaling.emplace(c.object(key));
  const auto per_kind = [&](const char* name) -> std::optional<Reader> {
    if (scaling && scaling->has(name)) return scaling->object(name);
    return std::nullopt;
  };
  const auto full = per_kind("full_attention"), sliding = per_kind("sliding_attention");
  const auto base_of = [&](const std::optional<Reader>& s, double otherwise) {
    return s && s->has("rope_theta") ? s->number("rope_theta", otherwise) : otherwise;
  };
  const double theta = c.number("rope_theta", type == "gpt_oss"       ? 150000
                                              : type == "gemma3_text" ? 1e6
                                                                      : 10000);
  const std::optional<Reader>& main = full ? full : scaling;
  const Rotation r = rotation(c, main, base_of(main, theta), turned, longest, trained, latent);
  n.ropes.push_back(r.rope);
  n.ropes.front().interleaved = latent && c.flag("rope_interleave", true);
  n.attention_scale *= static_cast<float>(r.softmax_factor);
  const bool two = type == "gemma3_text";  // local layers turn by another base, unscaled
  if (two) {
    const double local = base_of(sliding, c.number("rope_local_base_freq", 10000));
    n.ropes.push_back(rotation(c, sliding, local, turned, longest, trained, false).rope);
  }
  for (const std::uint8_t kind : model.layers) {
    const auto* a = std::get_if<GqaAttention>(&model.kinds[kind].mixer);
    n.rope_of_layer.push_back(a && !a->rotary ? -1 : two && a && a->window > 0 ? 1 : 0);
  }
  return n;
}

}  // namespace foretoken
