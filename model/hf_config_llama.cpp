// Dense decoders built like Llama: one reader, a row of traits for each family.
#include <array>
#include <utility>

#include "base/json_full.h"
#include "model/hf_families.h"

namespace foretoken {
namespace {

using QkNorm = GqaAttention::QkNorm;
using Window = FamilyTraits::Window;

std::vector<bool> rope_layers(const ConfigReader& r, std::int64_t layers) {
  std::vector<bool> out(static_cast<std::size_t>(layers), true);
  const auto flags = r.integers("no_rope_layers");  // SmolLM3: 1 where the layer rotates
  if (!flags || flags->empty()) return out;
  check_pattern_length(r, "no_rope_layers", flags->size(), layers);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (*flags)[i] != 0;
  return out;
}

void read_dense(const ConfigReader& r, ModelConfig& m, const FamilyTraits& t) {
  read_common(r, m, t.tied);
  m.final_norm_parameters = t.norm_vectors * m.hidden;
  if (r.flag_or({"lm_head_bias"}, false)) m.other_parameters = m.vocab;
  LayerKind kind;
  GqaAttention attention = read_gqa(r, m, t);
  DenseMlp mlp;
  mlp.inter = r.size({"intermediate_size", "ffn_hidden_size"});
  mlp.gated = t.gated;
  mlp.bias = r.flag_or({"mlp_bias"}, t.mlp_bias);
  kind.mlp = mlp;
  kind.norms = t.norms;
  kind.norm_parameters = t.norms * t.norm_vectors * m.hidden;
  kind.parallel = t.parallel;
  const auto windows = read_windows(r, m, t);
  const auto rotates = rope_layers(r, m.num_layers);
  LayerList layers(m, r);
  for (std::size_t i = 0; i < windows.size(); ++i) {
    attention.window = std::abs(windows[i]);
    attention.chunked = windows[i] < 0;
    attention.rotary = rotates[i];
    kind.mixer = attention;
    layers.add(kind);
  }
}

void read_llama(const ConfigReader& r, ModelConfig& m) { read_dense(r, m, {}); }
void read_mistral(const ConfigReader& r, ModelConfig& m) { read_dense(r, m, {.window = Window::kAll}); }
void read_qwen2(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qkv_bias = true, .window = Window::kFlag, .bias_from_config = false});
}
void read_qwen3(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qk_norm = QkNorm::kPerHead, .window = Window::kFlag});
}
void read_mimo(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qkv_bias = true, .window = Window::kFlag, .bias_covers_output = false});
  set_mtp(r, m, r.count_or({"num_nextn_predict_layers"}, 0, 64), m.kinds.front(), false);
}
void read_phi3(const ConfigReader& r, ModelConfig& m) { read_dense(r, m, {.window = Window::kAll}); }
void read_olmo(const ConfigReader& r, ModelConfig& m) { read_dense(r, m, {.norm_vectors = 0}); }
void read_olmo2(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qk_norm = QkNorm::kFull, .window = Window::kPattern, .pattern = 4});
}
void read_cohere(const ConfigReader& r, ModelConfig& m) {
  const bool norm = r.flag_or({"use_qk_norm"}, false);
  read_dense(r, m,
             {.qk_norm = norm ? QkNorm::kFull : QkNorm::kNone, .norms = 1, .tied = true, .parallel = true});
}
void read_cohere2(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.norms = 1, .tied = true, .parallel = true, .window = Window::kPattern, .pattern = 4});
}
void read_starcoder2(const ConfigReader& r, ModelConfig& m) {
  const bool bias = r.flag_or({"use_bias"}, true);
  read_dense(r, m,
             {.qkv_bias = bias,
              .output_bias = bias,
              .mlp_bias = bias,
              .gated = false,
              .norm_vectors = 2,
              .tied = true,
              .window = Window::kAll});
}
void read_stablelm(const ConfigReader& r, ModelConfig& m) {
  if (r.flag_or({"qk_layernorm"}, false))
    r.fail("qk_layernorm", "norms of single heads are not modelled for stablelm");
  const bool parallel = r.flag_or({"use_parallel_residual"}, false);
  read_dense(r, m,
             {.qkv_bias = r.flag_or({"use_qkv_bias"}, false),
              .norms = parallel ? 1 : 2,
              .norm_vectors = 2,
              .parallel = parallel});
}
void read_internlm2(const ConfigReader& r, ModelConfig& m) {
  const bool bias = r.flag_or({"bias"}, false);
  read_dense(r, m, {.qkv_bias = bias, .output_bias = bias});
}
void read_internlm3(const ConfigReader& r, ModelConfig& m) {
  const bool bias = r.flag_or({"bias"}, false);
  read_dense(r, m, {.qkv_bias = r.flag_or({"qkv_bias"}, false), .output_bias = bias, .mlp_bias = bias});
}
void read_seed_oss(const ConfigReader& r, ModelConfig& m) {
  read_dense(
      r, m,
      {.qkv_bias = true, .output_bias = r.flag_or({"attention_out_bias"}, false), .bias_from_config = false});
  const bool qkv = r.flag_or({"attention_bias"}, true);
  for (LayerKind& kind : m.kinds) std::get<GqaAttention>(kind.mixer).qkv_bias = qkv;
}
void read_smollm3(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.tied = true, .window = Window::kFlag});
}
void read_exaone4(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qk_norm = QkNorm::kPerHead, .window = Window::kPattern, .pattern = 4});
}
void read_ernie(const ConfigReader& r, ModelConfig& m) {
  const bool bias = r.flag_or({"use_bias"}, false);
  read_dense(r, m, {.qkv_bias = bias, .output_bias = bias, .mlp_bias = bias, .tied = true});
}
void read_hunyuan(const ConfigReader& r, ModelConfig& m) {
  const bool norm = r.flag_or({"use_qk_norm"}, true);
  // Dense members of the family keep the keys of its mixtures at one expert.
  if (r.count_or({"num_experts"}, 1, kMaxExperts) > 1)
    r.fail("num_experts", "is above 1; a mixture of experts has model_type hunyuan_v1_moe");
  r.ignore({"moe_intermediate_size", "num_shared_expert", "moe_topk", "moe_layer_num_skipped"});
  if (r.flag_or({"use_cla"}, false))
    r.fail("use_cla", "attention that shares caches across layers is not modelled");
  read_dense(r, m, {.qk_norm = norm ? QkNorm::kPerHead : QkNorm::kNone});
}
void read_glm(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qkv_bias = true, .bias_covers_output = false});
}
void read_glm4(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.qkv_bias = true, .norms = 4, .bias_covers_output = false});
}
void read_nemotron(const ConfigReader& r, ModelConfig& m) {
  read_dense(r, m, {.gated = false, .norm_vectors = 2});
}

}  // namespace

void add_llama_families(Families& f) {
  f["llama"] = read_llama;
  f["granite"] = read_llama;
  f["baichuan"] = read_llama;
  f["aquila"] = read_llama;
  f["mistral"] = read_mistral;
  f["ministral"] = read_mistral;
  f["ministral3"] = read_mistral;
  f["qwen2"] = read_qwen2;
  f["qwen2_vl"] = read_qwen2;
  f["qwen2_vl_text"] = read_qwen2;
  f["qwen2_5_vl"] = read_qwen2;
  f["qwen2_5_vl_text"] = read_qwen2;
  f["qwen3"] = read_qwen3;
  f["qwen3_vl_text"] = read_qwen3;
  f["mimo"] = read_mimo;
  f["phi3"] = read_phi3;
  f["olmo"] = read_olmo;
  f["olmo2"] = read_olmo2;
  f["olmo3"] = read_olmo2;
  f["cohere"] = read_cohere;
  f["cohere2"] = read_cohere2;
  f["starcoder2"] = read_starcoder2;
  f["stablelm"] = read_stablelm;
  f["internlm2"] = read_internlm2;
  f["internlm3"] = read_internlm3;
  f["exaone"] = read_llama;
  f["seed_oss"] = read_seed_oss;
  f["smollm3"] = read_smollm3;
  f["exaone4"] = read_exaone4;
  f["ernie4_5"] = read_ernie;
  f["hunyuan_v1_dense"] = read_hunyuan;
  f["glm"] = read_glm;
  f["glm4"] = read_glm4;
  f["glm4v_text"] = read_glm4;
  f["nemotron"] = read_nemotron;
}

}  // namespace foretoken
