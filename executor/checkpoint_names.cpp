// Names and layouts of the tensors of Hugging Face's model classes.
#include "executor/checkpoint_names.h"

#include <fmt/format.h>

#include "base/error.h"

namespace foretoken {
namespace {

TensorView plain(std::string name, Extent e, bool vector) {
  TensorView v;
  v.name = std::move(name);
  v.row_step = e.columns;
  v.shape = vector ? std::vector<std::int64_t>{e.columns} : std::vector<std::int64_t>{e.rows, e.columns};
  return v;
}

// Rows [first, first + e.rows) of a matrix of `rows`, or these values of a vector.
TensorView part(std::string name, Extent e, bool vector, std::int64_t first, std::int64_t rows) {
  TensorView v = plain(std::move(name), e, vector);
  v.shape[0] = rows;
  v.base = vector ? first : first * e.columns;
  return v;
}

// Stored [inputs, outputs] (GPT-2's Conv1D): outputs [first, first + e.rows) of `outputs`.
TensorView transposed(std::string name, Extent e, std::int64_t first, std::int64_t outputs) {
  return {.name = std::move(name),
          .shape = {e.columns, outputs},
          .base = first,
          .row_step = 1,
          .column_step = outputs};
}

const LayerKind& kind_of(const ModelConfig& m, std::int64_t layer) {
  return m.kinds[m.layers.at(static_cast<std::size_t>(layer))];
}

[[noreturn]] void nowhere(const ModelConfig& m, Role role) {
  throw Error(m.name, fmt::format("checkpoints of {} hold no weight of role {}", m.model_type,
                                  static_cast<int>(role)));
}

// Names within a layer of Llama's style; "" where it has none.
std::string llama_name(const ModelConfig& m, bool sandwich, Role role, std::int64_t expert) {
  const bool mixtral = m.model_type == "mixtral",
             one_shared = m.model_type == "qwen2_moe" || m.model_type == "qwen3_next";
  const std::string experts =
      mixtral ? fmt::format("block_sparse_moe.experts.{}.", expert) : fmt::format("mlp.experts.{}.", expert);
  const std::string shared = one_shared ? "mlp.shared_expert." : "mlp.shared_experts.";
  switch (role) {
    case Role::kInputNorm:
      return "input_layernorm.weight";
    case Role::kPostNorm:
      return sandwich ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight";
    case Role::kAttnOutputNorm:
      return "post_attention_layernorm.weight";
    case Role::kMlpOutputNorm:
      return "post_feedforward_layernorm.weight";
    case Role::kQ:
      return "self_attn.q_proj.weight";
    case Role::kQBias:
      return "self_attn.q_proj.bias";
    case Role::kK:
      return "self_attn.k_proj.weight";
    case Role::kKBias:
      return "self_attn.k_proj.bias";
    case Role::kV:
      return "self_attn.v_proj.weight";
    case Role::kVBias:
      return "self_attn.v_proj.bias";
    case Role::kO:
      return "self_attn.o_proj.weight";
    case Role::kOBias:
      return "self_attn.o_proj.bias";
    case Role::kQNorm:
      return "self_attn.q_norm.weight";
    case Role::kKNorm:
      return "self_attn.k_norm.weight";
    case Role::kSinks:
      return "self_attn.sinks";
    case Role::kQA:
      return "self_attn.q_a_proj.weight";
    case Role::kQABias:
      return "self_attn.q_a_proj.bias";
    case Role::kQANorm:
      return "self_attn.q_a_layernorm.weight";
    case Role::kQB:
      return "self_attn.q_b_proj.weight";
    case Role::kKvA:
      return "self_attn.kv_a_proj_with_mqa.weight";
    case Role::kKvABias:
      return "self_attn.kv_a_proj_with_mqa.bias";
    case Role::kKvANorm:
      return "self_attn.kv_a_layernorm.weight";
    case Role::kKvB:
      return "self_attn.kv_b_proj.weight";
    case Role::kGate:
      return "mlp.gate_proj.weight";
    case Role::kGateBias:
      return "mlp.gate_proj.bias";
    case Role::kUp:
      return "mlp.up_proj.weight";
    case Role::kUpBias:
      return "mlp.up_proj.bias";
    case Role::kDown:
      return "mlp.down_proj.weight";
    case Role::kDownBias:
      return "mlp.down_proj.bias";
    case Role::kRouter:
      return mixtral ? "block_sparse_moe.gate.weight" : "mlp.gate.weight";
    case Role::kRouterCorrection:
      return "mlp.gate.e_score_correction_bias";
    case Role::kExpertGate:
      return experts + (mixtral ? "w1.weight" : "gate_proj.weight");
    case Role::kExpertUp:
      return experts + (mixtral ? "w3.weight" : "up_proj.weight");
    case Role::kExpertDown:
      return experts + (mixtral ? "w2.weight" : "down_proj.weight");
    case Role::kSharedGate:
      return shared + "gate_proj.weight";
    case Role::kSharedUp:
      return shared + "up_proj.weight";
    case Role::kSharedDown:
      return shared + "down_proj.weight";
    case Role::kSharedMix:
      return "mlp.shared_expert_gate.weight";
    case Role::kLinearIn:
      return "linear_attn.in_proj_qkvz.weight";
    case Role::kLinearGates:
      return "linear_attn.in_proj_ba.weight";
    case Role::kLinearConv:
      return "linear_attn.conv1d.weight";
    case Role::kLinearDecay:
      return "linear_attn.A_log";
    case Role::kLinearStep:
      return "linear_attn.dt_bias";
    case Role::kLinearNorm:
      return "linear_attn.norm.weight";
    case Role::kLinearOut:
      return "linear_attn.out_proj.weight";
    default:
      return "";
  }
}

// gpt-oss: all experts in one tensor, stored [inputs, outputs]; gate and up take turns.
TensorView gpt_oss_view(const MoeMlp& moe, Role role, std::int64_t expert, Extent e) {
  const std::int64_t outputs = 2 * moe.inter;
  const bool up = role == Role::kExpertUp || role == Role::kExpertUpBias;
  switch (role) {
    case Role::kRouter:
      return plain("mlp.router.weight", e, false);
    case Role::kRouterBias:
      return plain("mlp.router.bias", e, true);
    case Role::kExpertGate:
    case Role::kExpertUp:
      return {.name = "mlp.experts.gate_up_proj",
              .shape = {moe.experts, e.columns, outputs},
              .base = expert * e.columns * outputs + (up ? 1 : 0),
              .row_step = 2,
              .column_step = outputs};
    case Role::kExpertGateBias:
    case Role::kExpertUpBias:
      return {.name = "mlp.experts.gate_up_proj_bias",
              .shape = {moe.experts, outputs},
              .base = expert * outputs + (up ? 1 : 0),
              .row_step = 0,
              .column_step = 2};
    case Role::kExpertDown:
      return {.name = "mlp.experts.down_proj",
              .shape = {moe.experts, e.columns, e.rows},
              .base = expert * e.columns * e.rows,
              .row_step = 1,
              .column_step = e.rows};
    case Role::kExpertDownBias:
      return {.name = "mlp.experts.down_proj_bias",
              .shape = {moe.experts, e.columns},
              .base = expert * e.columns,
              .row_step = 0,
              .column_step = 1};
    default:
      return {};
  }
}

// Phi-3: queries, keys and values in one matrix, gate and up in another.
TensorView phi3_view(const LayerKind& kind, Role role, Extent e) {
  const auto& a = std::get<GqaAttention>(kind.mixer);
  const std::int64_t q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim, v = a.kv_heads * a.v_head_dim;
  switch (role) {
    case Role::kQ:
      return part("self_attn.qkv_proj.weight", e, false, 0, q + k + v);
    case Role::kK:
      return part("self_attn.qkv_proj.weight", e, false, q, q + k + v);
    case Role::kV:
      return part("self_attn.qkv_proj.weight", e, false, q + k, q + k + v);
    case Role::kGate:
      return part("mlp.gate_up_proj.weight", e, false, 0, 2 * e.rows);
    case Role::kUp:
      return part("mlp.gate_up_proj.weight", e, false, e.rows, 2 * e.rows);
    default:
      return {};
  }
}

TensorView llama_view(const ModelConfig& m, const Numerics& n, Role role, std::int64_t layer,
                      std::int64_t expert, Extent e) {
  switch (role) {
    case Role::kEmbedding:
      return plain("embed_tokens.weight", e, false);
    case Role::kFinalNorm:
      return plain("norm.weight", e, true);
    default:
      break;
  }
  TensorView v;
  const LayerKind& kind = kind_of(m, layer);
  if (m.model_type == "phi3") v = phi3_view(kind, role, e);
  if (const auto* moe = std::get_if<MoeMlp>(&kind.mlp); moe != nullptr && m.model_type == "gpt_oss")
    v = gpt_oss_view(*moe, role, expert, e);
  if (v.name.empty()) {
    const std::string name = llama_name(m, n.sandwich_norms, role, expert);
    if (name.empty()) nowhere(m, role);
    v = plain(name, e, is_vector(role));
    if (role == Role::kLinearConv) v.shape = {e.rows, 1, e.columns};  // depthwise
  }
  v.name = fmt::format("layers.{}.{}", layer, v.name);
  return v;
}

TensorView gpt2_view(const ModelConfig& m, Role role, std::int64_t layer, Extent e) {
  const std::int64_t h = m.hidden;
  const std::string at = fmt::format("h.{}.", layer);
  switch (role) {
    case Role::kEmbedding:
      return plain("wte.weight", e, false);
    case Role::kPositions:
      return plain("wpe.weight", e, false);
    case Role::kFinalNorm:
      return plain("ln_f.weight", e, true);
    case Role::kFinalNormBias:
      return plain("ln_f.bias", e, true);
    case Role::kInputNorm:
      return plain(at + "ln_1.weight", e, true);
    case Role::kInputNormBias:
      return plain(at + "ln_1.bias", e, true);
    case Role::kPostNorm:
      return plain(at + "ln_2.weight", e, true);
    case Role::kPostNormBias:
      return plain(at + "ln_2.bias", e, true);
    case Role::kQ:
      return transposed(at + "attn.c_attn.weight", e, 0, 3 * h);
    case Role::kK:
      return transposed(at + "attn.c_attn.weight", e, h, 3 * h);
    case Role::kV:
      return transposed(at + "attn.c_attn.weight", e, 2 * h, 3 * h);
    case Role::kQBias:
      return part(at + "attn.c_attn.bias", e, true, 0, 3 * h);
    case Role::kKBias:
      return part(at + "attn.c_attn.bias", e, true, h, 3 * h);
    case Role::kVBias:
      return part(at + "attn.c_attn.bias", e, true, 2 * h, 3 * h);
    case Role::kO:
      return transposed(at + "attn.c_proj.weight", e, 0, h);
    case Role::kOBias:
      return plain(at + "attn.c_proj.bias", e, true);
    case Role::kUp:
      return transposed(at + "mlp.c_fc.weight", e, 0, e.rows);
    case Role::kUpBias:
      return plain(at + "mlp.c_fc.bias", e, true);
    case Role::kDown:
      return transposed(at + "mlp.c_proj.weight", e, 0, h);
    case Role::kDownBias:
      return plain(at + "mlp.c_proj.bias", e, true);
    default:
      nowhere(m, role);
  }
}

std::string opt_name(const ModelConfig& m, Role role) {
  switch (role) {
    case Role::kInputNorm:
      return "self_attn_layer_norm.weight";
    case Role::kInputNormBias:
      return "self_attn_layer_norm.bias";
    case Role::kPostNorm:
      return "final_layer_norm.weight";
    case Role::kPostNormBias:
      return "final_layer_norm.bias";
    case Role::kO:
      return "self_attn.out_proj.weight";
    case Role::kOBias:
      return "self_attn.out_proj.bias";
    case Role::kUp:
      return "fc1.weight";
    case Role::kUpBias:
      return "fc1.bias";
    case Role::kDown:
      return "fc2.weight";
    case Role::kDownBias:
      return "fc2.bias";
    default:
      return llama_name(m, false, role, 0);
  }
}

TensorView opt_view(const ModelConfig& m, Role role, std::int64_t layer, Extent e) {
  switch (role) {
    case Role::kEmbedding:
      return plain("embed_tokens.weight", e, false);
    case Role::kPositions:
      return plain("embed_positions.weight", e, false);
    case Role::kFinalNorm:
      return plain("final_layer_norm.weight", e, true);
    case Role::kFinalNormBias:
      return plain("final_layer_norm.bias", e, true);
    default:
      break;
  }
  const std::string name = opt_name(m, role);
  if (name.empty()) nowhere(m, role);
  return plain(fmt::format("layers.{}.{}", layer, name), e, is_vector(role));
}

}  // namespace

TensorView tensor_view(const ModelConfig& model, const Numerics& numerics, Role role, std::int64_t layer,
                       std::int64_t expert) {
  const Extent e = weight_extent(model, numerics, role, layer);
  if (role == Role::kLmHead && !model.tied_embeddings) {
    TensorView v = plain("lm_head.weight", e, false);
    v.outside = true;
    return v;
  }
  if (role == Role::kLmHead) role = Role::kEmbedding;
  if (model.model_type == "gpt2") return gpt2_view(model, role, layer, e);
  if (model.model_type == "opt") return opt_view(model, role, layer, e);
  return llama_view(model, numerics, role, layer, expert, e);
}

std::vector<NamePrefix> name_prefixes(const ModelConfig& model) {
  if (model.model_type == "gpt2") return {{"transformer.", ""}, {"", ""}};
  if (model.model_type == "opt") return {{"model.decoder.", ""}, {"decoder.", ""}};
  // Language parts of multimodal models come under names of their own.
  return {
      {"model.", ""}, {"language_model.model.", "language_model."}, {"model.language_model.", ""}, {"", ""}};
}

}  // namespace foretoken
