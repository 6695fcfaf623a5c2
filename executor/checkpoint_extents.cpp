#include "executor/checkpoint_extents.h"

namespace foretoken {

Extents::Extents(const ModelConfig& model, const Numerics& numerics)
    : model_(&model),
      layer_norm_(numerics.norm == NormKind::kLayer),
      sandwich_(numerics.sandwich_norms),
      correction_(numerics.routing.sigmoid) {}

std::int64_t Extents::experts_of(std::int64_t layer) const {
  const auto* e = std::get_if<MoeMlp>(&model_->kinds[model_->layers[static_cast<std::size_t>(layer)]].mlp);
  return e ? e->experts : 0;
}

Extent Extents::of(Role role, std::int64_t layer) const {
  const ModelConfig& m = *model_;
  const std::int64_t h = m.hidden;
  const auto when = [](bool has, std::int64_t rows, std::int64_t columns) {
    return has ? Extent{rows, columns} : Extent{};
  };
  switch (role) {
    case Role::kEmbedding:
    case Role::kLmHead:
      return {m.vocab, h};
    case Role::kPositions:
      return when(m.position_table > 0, m.position_table, h);
    case Role::kFinalNorm:
      return when(m.final_norm_parameters > 0, 1, h);
    case Role::kFinalNormBias:
      return when(layer_norm_ && m.final_norm_parameters > 0, 1, h);
    default:
      break;
  }
  const LayerKind& kind = m.kinds[m.layers[static_cast<std::size_t>(layer)]];
  const auto* a = std::get_if<GqaAttention>(&kind.mixer);
  const auto* l = std::get_if<MlaAttention>(&kind.mixer);
  const auto* d = std::get_if<DenseMlp>(&kind.mlp);
  const auto* e = std::get_if<MoeMlp>(&kind.mlp);
  const std::int64_t qk = l ? l->nope_dim + l->rope_dim : 0;
  switch (role) {
    case Role::kInputNorm:
    case Role::kPostNorm:
      return {1, h};
    case Role::kInputNormBias:
    case Role::kPostNormBias:
      return when(layer_norm_, 1, h);
    case Role::kAttnOutputNorm:
    case Role::kMlpOutputNorm:
      return when(sandwich_, 1, h);
    case Role::kQ:
      if (l) return when(l->q_lora_rank == 0, l->heads * qk, h);
      return when(a, a ? a->heads * a->head_dim : 0, h);
    case Role::kK:
      return when(a, a ? a->kv_heads * a->head_dim : 0, h);
    case Role::kV:
      return when(a, a ? a->kv_heads * a->v_head_dim : 0, h);
    case Role::kQBias:
      return when(a && a->qkv_bias, 1, a ? a->heads * a->head_dim : 0);
    case Role::kKBias:
      return when(a && a->qkv_bias, 1, a ? a->kv_heads * a->head_dim : 0);
    case Role::kVBias:
      return when(a && a->qkv_bias, 1, a ? a->kv_heads * a->v_head_dim : 0);
    case Role::kO:
      return {h, a ? a->heads * a->v_head_dim : l ? l->heads * l->v_dim : 0};
    case Role::kOBias:
      return when((a && a->output_bias) || (l && l->bias), 1, h);
    case Role::kQNorm:
    case Role::kKNorm: {
      if (!a || a->qk_norm == GqaAttention::QkNorm::kNone) return {};
      const std::int64_t heads = a->qk_norm == GqaAttention::QkNorm::kPerHead ? 1
                                 : role == Role::kQNorm                       ? a->heads
                                                                              : a->kv_heads;
      return {1, heads * a->head_dim};
    }
    case Role::kSinks:
      return when(a && a->sinks, 1, a ? a->heads : 0);
    case Role::kQA:
      return when(l && l->q_lora_rank > 0, l ? l->q_lora_rank : 0, h);
    case Role::kQABias:
      return when(l && l->bias && l->q_lora_rank > 0, 1, l ? l->q_lora_rank : 0);
    case Role::kQANorm:
      return when(l && l->q_lora_rank > 0, 1, l ? l->q_lora_rank : 0);
    case Role::kQB:
      return when(l && l->q_lora_rank > 0, l ? l->heads * qk : 0, l ? l->q_lora_rank : 0);
    case Role::kKvA:
      return when(l, l ? l->kv_lora_rank + l->rope_dim : 0, h);
    case Role::kKvABias:
      return when(l && l->bias, 1, l ? l->kv_lora_rank + l->rope_dim : 0);
    case Role::kKvANorm:
      return when(l, 1, l ? l->kv_lora_rank : 0);
    case Role::kKvB:
      return when(l, l ? l->heads * (l->nope_dim + l->v_dim) : 0, l ? l->kv_lora_rank : 0);
    case Role::kGate:
      return when(d && d->gated, d ? d->inter : 0, h);
    case Role::kGateBias:
      return when(d && d->gated && d->bias, 1, d ? d->inter : 0);
    case Role::kUp:
      return when(d, d ? d->inter : 0, h);
    case Role::kUpBias:
      return when(d && d->bias, 1, d ? d->inter : 0);
    case Role::kDown:
      return when(d, h, d ? d->inter : 0);
    case Role::kDownBias:
      return when(d && d->bias, 1, h);
    case Role::kRouter:
      return when(e, e ? e->experts : 0, h);
    case Role::kRouterBias:
      return when(e && e->router_bias && !correction_, 1, e ? e->experts : 0);
    case Role::kRouterCorrection:
      return when(e && e->router_bias && correction_, 1, e ? e->experts : 0);
    case Role::kExpertGate:
    case Role::kExpertUp:
      return when(e, e ? e->inter : 0, h);
    case Role::kExpertGateBias:
    case Role::kExpertUpBias:
      return when(e && e->expert_bias, 1, e ? e->inter : 0);
    case Role::kExpertDown:
      return when(e, h, e ? e->inter : 0);
    case Role::kExpertDownBias:
      return when(e && e->expert_bias, 1, h);
    case Role::kSharedGate:
    case Role::kSharedUp:
      return when(e && e->shared_inter > 0, e ? e->shared_inter : 0, h);
    case Role::kSharedDown:
      return when(e && e->shared_inter > 0, h, e ? e->shared_inter : 0);
    case Role::kSharedMix:
      return when(e && e->shared_gate, 1, h);
    default:
      return {};
  }
}

}  // namespace foretoken
