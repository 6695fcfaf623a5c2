// Activation memory: stored activations of training and the live peak of an inference forward.
#include "model/activations.h"

#include <algorithm>
#include <cmath>

#include "model/weights.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

// Widest set of intermediates that is live at once inside the mixer of one layer, in elements a token.
double mixer_width(const LayerKind& kind, double hidden, int tp) {
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
    const double kv = d(kv_heads_on_rank(a->kv_heads, tp) * (a->head_dim + a->v_head_dim));
    const double q = d(a->heads * a->head_dim) / tp;
    const double qkv = q * (a->output_gate ? 2 : 1) + kv + hidden;
    const double attend = q + kv + d(a->heads * a->v_head_dim) / tp;
    return std::max(qkv, attend);
  }
  if (const auto* m = std::get_if<MlaAttention>(&kind.mixer)) {
    const double qk = d(m->heads * (m->nope_dim + m->rope_dim)) / tp, v = d(m->heads * m->v_dim) / tp;
    const double latents = d(m->q_lora_rank + m->kv_lora_rank + m->rope_dim);
    // Prefill projects keys and values of every head up: queries, keys, values and the output are live
    // together.
    return std::max(latents + qk + hidden, 2 * qk + 2 * v + latents);
  }
  if (const auto* s = std::get_if<CompressedAttention>(&kind.mixer))
    return 2 * d(s->heads * s->head_dim) / tp + d(s->q_lora_rank + 3 * s->head_dim);
  if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
    const double in = d(2 * r->k_heads * r->k_dim + 2 * r->v_heads * r->v_dim) / tp;
    return std::max(in + hidden, in + d(r->v_heads * r->v_dim) / tp);
  }
  return 0;
}

double mlp_width(const LayerKind& kind, double hidden, const Shard& shard) {
  if (const auto* m = std::get_if<DenseMlp>(&kind.mlp))
    return d(m->inter) / shard.tensor_parallel * (m->gated ? 3 : 2) + hidden;
  if (const auto* m = std::get_if<MoeMlp>(&kind.mlp)) {
    const double width = m->latent > 0 ? d(m->latent) : hidden;
    const double inter = d(m->inter) / shard.moe_tensor_parallel;
    // formulas.md 2.4, fused path: k (h + 2 I) a token. Under data parallelism a rank computes the pairs of
    // all ranks that fall to its experts, on average as many as its own tokens make.
    const double routed = d(m->top_k) * (width + 2 * inter);
    const double shared = d(m->shared_inter) / shard.tensor_parallel * (m->gated ? 3 : 2);
    return std::max(routed, shared) + hidden;
  }
  return 0;
}

}  // namespace

double training_activation_bytes(const TrainingActivations& t) {
  const double s = d(t.sequence), b = d(t.batch), h = d(t.hidden), a = d(t.heads), tp = t.tensor_parallel;
  const double sbh = s * b * h, attention = 5 * a * s / h;
  double layer = 0;
  switch (t.recompute) {
    case Recompute::kFull:
      layer = 2 * sbh;
      break;
    case Recompute::kSelective:
      layer = t.sequence_parallel ? 34 * sbh / tp : sbh * (10 + 24 / tp);
      break;
    case Recompute::kNone:
      layer = t.sequence_parallel ? sbh / tp * (34 + attention) : sbh * (10 + 24 / tp + attention / tp);
      break;
  }
  // 1F1B keeps p micro-batches of L / p layers on the first stage; interleaving adds (p - 1) / (p m).
  double layers = d(t.layers);
  if (t.interleave > 1) {
    const double p = t.pipeline_parallel, m = t.interleave;
    layers *= 1 + (p - 1) / (p * m);
  }
  return layer * layers;
}

Bytes inference_peak_bytes(const ModelConfig& model, const Shard& shard, const Precision& precision,
                           std::int64_t tokens, std::int64_t sampled) {
  const double a = bytes_of(precision.activation), hidden = d(model.hidden);
  const auto [first, last] = layer_range(model, shard);
  double width = hidden;  // the embedding's output
  for (int i = first; i < last; ++i) {
    const LayerKind& kind = model.kinds[model.layers[static_cast<std::size_t>(i)]];
    const double streams =
        kind.residual_streams * hidden / (shard.sequence_parallel ? shard.tensor_parallel : 1);
    width = std::max(width, streams + std::max(mixer_width(kind, hidden, shard.tensor_parallel),
                                               mlp_width(kind, hidden, shard)));
  }
  double head = 0;
  if (shard.has_head && last == static_cast<int>(model.num_layers)) {
    const double vocab = d(model.vocab);
    // Logits of a rank in the activation type, gathered and converted to fp32 for the sampler.
    head = d(tokens) * hidden * a + d(sampled) * (vocab / shard.tensor_parallel * a + vocab * 4);
  }
  return Bytes(std::max(d(tokens) * width * a, head));
}

}  // namespace foretoken
