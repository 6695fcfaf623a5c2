// Shapes of weights by role.
#include "executor/weight_shapes.h"

namespace foretoken {
namespace {

constexpr Extent vector_of(std::int64_t n, bool there = true) {
  return there && n > 0 ? Extent{1, n} : Extent{};
}
constexpr Extent matrix(std::int64_t rows, std::int64_t columns, bool there = true) {
  return there && rows > 0 && columns > 0 ? Extent{rows, columns} : Extent{};
}

Extent of_model(const ModelConfig& m, const Numerics& n, Role role) {
  switch (role) {
    case Role::kEmbedding:
    case Role::kLmHead:
      return matrix(m.vocab, m.hidden);
    case Role::kPositions:
      return matrix(m.position_table, m.hidden);
    case Role::kFinalNorm:
      return vector_of(m.hidden, m.final_norm_parameters > 0);
    case Role::kFinalNormBias:
      return vector_of(m.hidden, m.final_norm_parameters > 0 && n.norm == NormKind::kLayer);
    default:
      return {};
  }
}

Extent of_norms(const ModelConfig& m, const LayerKind& kind, const Numerics& n, Role role) {
  const bool bias = n.norm == NormKind::kLayer, mlp = !std::holds_alternative<NoMlp>(kind.mlp);
  switch (role) {
    case Role::kInputNorm:
      return vector_of(m.hidden);
    case Role::kInputNormBias:
      return vector_of(m.hidden, bias);
    case Role::kPostNorm:
      return vector_of(m.hidden, mlp);
    case Role::kPostNormBias:
      return vector_of(m.hidden, mlp && bias);
    case Role::kAttnOutputNorm:
      return vector_of(m.hidden, n.sandwich_norms);
    case Role::kMlpOutputNorm:
      return vector_of(m.hidden, n.sandwich_norms && mlp);
    default:
      return {};
  }
}

Extent of_heads(const GqaAttention& a, std::int64_t hidden, Role role) {
  using QkNorm = GqaAttention::QkNorm;
  const std::int64_t q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim, v = a.kv_heads * a.v_head_dim;
  const auto norm = [&](std::int64_t whole) {
    return a.qk_norm == QkNorm::kNone ? Extent{} : vector_of(a.qk_norm == QkNorm::kFull ? whole : a.head_dim);
  };
  switch (role) {
    case Role::kQ:  // an output gate stands beside each head's query
      return matrix(a.output_gate ? 2 * q : q, hidden);
    case Role::kK:
      return matrix(k, hidden);
    case Role::kV:
      return matrix(v, hidden);
    case Role::kO:
      return matrix(hidden, a.heads * a.v_head_dim);
    case Role::kQBias:
      return vector_of(q, a.qkv_bias);
    case Role::kKBias:
      return vector_of(k, a.qkv_bias);
    case Role::kVBias:
      return vector_of(v, a.qkv_bias);
    case Role::kOBias:
      return vector_of(hidden, a.output_bias);
    case Role::kQNorm:
      return norm(q);
    case Role::kKNorm:
      return norm(k);
    case Role::kSinks:
      return vector_of(a.heads, a.sinks);
    default:
      return {};
  }
}

Extent of_latents(const MlaAttention& a, std::int64_t hidden, Role role) {
  const std::int64_t q = a.heads * (a.nope_dim + a.rope_dim);
  const bool low_rank = a.q_lora_rank > 0;
  switch (role) {
    case Role::kQ:
      return matrix(q, hidden, !low_rank);
    case Role::kQA:
      return matrix(a.q_lora_rank, hidden);
    case Role::kQABias:
      return vector_of(a.q_lora_rank, a.bias);
    case Role::kQANorm:
      return vector_of(a.q_lora_rank);
    case Role::kQB:
      return matrix(q, a.q_lora_rank);
    case Role::kKvA:
      return matrix(a.kv_lora_rank + a.rope_dim, hidden);
    case Role::kKvABias:
      return vector_of(a.kv_lora_rank + a.rope_dim, a.bias);
    case Role::kKvANorm:
      return vector_of(a.kv_lora_rank);
    case Role::kKvB:
      return matrix(a.heads * (a.nope_dim + a.v_dim), a.kv_lora_rank);
    case Role::kO:
      return matrix(hidden, a.heads * a.v_dim);
    case Role::kOBias:
      return vector_of(hidden, a.bias);
    default:
      return {};
  }
}

Extent of_recurrence(const RecurrentMixer& r, std::int64_t hidden, Role role) {
  if (r.kind != RecurrentMixer::Kind::kGatedDelta) return {};
  const std::int64_t k = r.k_heads * r.k_dim, v = r.v_heads * r.v_dim;
  switch (role) {
    case Role::kLinearIn:
      return matrix(2 * k + 2 * v, hidden);
    case Role::kLinearGates:
      return matrix(2 * r.v_heads, hidden);
    case Role::kLinearConv:
      return matrix(2 * k + v, r.conv_kernel);
    case Role::kLinearDecay:
    case Role::kLinearStep:
      return vector_of(r.v_heads);
    case Role::kLinearNorm:
      return vector_of(r.v_dim);
    case Role::kLinearOut:
      return matrix(hidden, v);
    default:
      return {};
  }
}

Extent of_dense(const DenseMlp& d, std::int64_t hidden, Role role) {
  switch (role) {
    case Role::kGate:
      return matrix(d.inter, hidden, d.gated);
    case Role::kUp:
      return matrix(d.inter, hidden);
    case Role::kDown:
      return matrix(hidden, d.inter);
    case Role::kGateBias:
      return vector_of(d.inter, d.bias && d.gated);
    case Role::kUpBias:
      return vector_of(d.inter, d.bias);
    case Role::kDownBias:
      return vector_of(hidden, d.bias);
    default:
      return {};
  }
}

Extent of_experts(const MoeMlp& e, std::int64_t hidden, bool sigmoid, Role role) {
  switch (role) {
    case Role::kRouter:
      return matrix(e.experts, hidden);
    case Role::kRouterBias:
      return vector_of(e.experts, e.router_bias && !sigmoid);
    case Role::kRouterCorrection:
      return vector_of(e.experts, sigmoid);
    case Role::kExpertGate:
      return matrix(e.inter, hidden, e.gated);
    case Role::kExpertUp:
      return matrix(e.inter, hidden);
    case Role::kExpertDown:
      return matrix(hidden, e.inter);
    case Role::kExpertGateBias:
      return vector_of(e.inter, e.expert_bias && e.gated);
    case Role::kExpertUpBias:
      return vector_of(e.inter, e.expert_bias);
    case Role::kExpertDownBias:
      return vector_of(hidden, e.expert_bias);
    case Role::kSharedGate:
      return matrix(e.shared_inter, hidden, e.gated);
    case Role::kSharedUp:
      return matrix(e.shared_inter, hidden);
    case Role::kSharedDown:
      return matrix(hidden, e.shared_inter);
    case Role::kSharedMix:
      return matrix(1, hidden, e.shared_gate);
    default:
      return {};
  }
}

const LayerKind& kind_of(const ModelConfig& m, std::int64_t layer) {
  return m.kinds[m.layers.at(static_cast<std::size_t>(layer))];
}

}  // namespace

bool is_layer_role(Role role) { return role > Role::kFinalNormBias; }

bool is_expert_role(Role role) { return role >= Role::kExpertGate && role <= Role::kExpertDownBias; }

bool is_norm_weight(Role role) {
  switch (role) {
    case Role::kFinalNorm:
    case Role::kInputNorm:
    case Role::kPostNorm:
    case Role::kAttnOutputNorm:
    case Role::kMlpOutputNorm:
    case Role::kQNorm:
    case Role::kKNorm:
    case Role::kQANorm:
    case Role::kKvANorm:
    case Role::kLinearNorm:
      return true;
    default:
      return false;
  }
}

bool is_vector(Role role) {
  switch (role) {
    case Role::kFinalNormBias:
    case Role::kInputNormBias:
    case Role::kPostNormBias:
    case Role::kQBias:
    case Role::kKBias:
    case Role::kVBias:
    case Role::kOBias:
    case Role::kSinks:
    case Role::kQABias:
    case Role::kKvABias:
    case Role::kGateBias:
    case Role::kUpBias:
    case Role::kDownBias:
    case Role::kRouterBias:
    case Role::kRouterCorrection:
    case Role::kExpertGateBias:
    case Role::kExpertUpBias:
    case Role::kExpertDownBias:
    case Role::kLinearDecay:
    case Role::kLinearStep:
      return true;
    default:
      return is_norm_weight(role);
  }
}

std::int64_t experts_of(const ModelConfig& model, std::int64_t layer) {
  const auto* moe = std::get_if<MoeMlp>(&kind_of(model, layer).mlp);
  return moe == nullptr ? 0 : moe->experts;
}

Extent weight_extent(const ModelConfig& model, const Numerics& numerics, Role role, std::int64_t layer) {
  if (!is_layer_role(role)) return of_model(model, numerics, role);
  const LayerKind& kind = kind_of(model, layer);
  if (const Extent e = of_norms(model, kind, numerics, role); e.rows > 0) return e;
  Extent e;
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) e = of_heads(*a, model.hidden, role);
  if (const auto* l = std::get_if<MlaAttention>(&kind.mixer)) e = of_latents(*l, model.hidden, role);
  if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) e = of_recurrence(*r, model.hidden, role);
  if (e.rows > 0) return e;
  if (const auto* d = std::get_if<DenseMlp>(&kind.mlp)) return of_dense(*d, model.hidden, role);
  if (const auto* x = std::get_if<MoeMlp>(&kind.mlp))
    return of_experts(*x, model.hidden, numerics.routing.sigmoid, role);
  return {};
}

void for_each_weight(
    const ModelConfig& model, const Numerics& numerics,
    const std::function<void(Role role, std::int64_t layer, std::int64_t expert, Extent extent)>& visit) {
  for (int i = 0; i < kRoles; ++i) {
    const Role role = static_cast<Role>(i);
    if (is_layer_role(role)) continue;
    if (const Extent e = weight_extent(model, numerics, role, 0); e.rows > 0) visit(role, 0, 0, e);
  }
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(model.layers.size()); ++layer)
    for (int i = 0; i < kRoles; ++i) {
      const Role role = static_cast<Role>(i);
      if (!is_layer_role(role)) continue;
      const Extent e = weight_extent(model, numerics, role, layer);
      if (e.rows == 0) continue;
      const std::int64_t experts = is_expert_role(role) ? experts_of(model, layer) : 1;
      for (std::int64_t expert = 0; expert < experts; ++expert) visit(role, layer, expert, e);
    }
}

}  // namespace foretoken
