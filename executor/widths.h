// How wide a model's intermediate results are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <variant>

#include "model/model_config.h"

namespace foretoken {

inline std::size_t count_of(std::int64_t rows, std::int64_t width) {
  return static_cast<std::size_t>(rows * width);
}

// The widest of each kind of intermediate result over all layers and ranks.
struct Widths {
  std::int64_t qkv = 0, heads_out = 0, inter = 0, experts = 0, top_k = 0, expert_inter = 0;
  std::int64_t linear = 0, linear_gates = 0, convolved = 0, linear_k = 0, linear_v = 0, linear_heads = 0;
  std::int64_t latent_q = 0, latent = 0, absorbed = 0, up = 0, up_keys = 0, up_values = 0;

  Widths(const ModelConfig& m, int ranks) {
    const auto split = [&](std::int64_t n) { return (n + ranks - 1) / ranks; };
    const auto most = [](std::int64_t& a, std::int64_t b) { a = std::max(a, b); };
    for (const LayerKind& kind : m.kinds) {
      if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
        const std::int64_t heads = split(a->heads), kv = std::max<std::int64_t>(1, split(a->kv_heads));
        most(qkv, heads * (a->head_dim + (a->output_gate ? a->v_head_dim : 0)) +
                      kv * (a->head_dim + a->v_head_dim));
        most(heads_out, heads * a->v_head_dim);
      } else if (const auto* mla = std::get_if<MlaAttention>(&kind.mixer)) {
        const std::int64_t heads = split(mla->heads), qk = mla->nope_dim + mla->rope_dim;
        most(qkv, heads * qk);
        most(heads_out, heads * mla->v_dim);
        most(latent_q, mla->q_lora_rank);
        most(latent, mla->kv_lora_rank + mla->rope_dim);
        most(absorbed, heads * (mla->kv_lora_rank + mla->rope_dim));
        most(up, heads * (mla->nope_dim + mla->v_dim));
        most(up_keys, heads * qk);
        most(up_values, heads * mla->v_dim);
      } else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
        const std::int64_t k = split(r->k_heads), v = k * (r->v_heads / r->k_heads);
        most(linear, 2 * k * r->k_dim + 2 * v * r->v_dim);
        most(convolved, 2 * k * r->k_dim + v * r->v_dim);
        most(linear_gates, 2 * v), most(linear_heads, v);
        most(linear_k, v * r->k_dim), most(linear_v, v * r->v_dim);
        most(heads_out, v * r->v_dim);
      }
      if (const auto* d = std::get_if<DenseMlp>(&kind.mlp)) most(inter, (d->gated ? 2 : 1) * split(d->inter));
      if (const auto* e = std::get_if<MoeMlp>(&kind.mlp)) {
        most(experts, e->experts);
        most(top_k, e->top_k);
        most(expert_inter, 2 * e->inter);
        most(inter, 2 * split(e->shared_inter));
      }
    }
  }
};

// A row of what the projection before grouped-query attention gives, of a rank's heads: queries, then keys,
// values and gates.
struct QkvRow {
  QkvRow(const GqaAttention& a, std::int64_t heads, std::int64_t kv_heads)
      : k_at(heads * a.head_dim),
        v_at(k_at + kv_heads * a.head_dim),
        gate_at(v_at + kv_heads * a.v_head_dim),
        width(gate_at + (a.output_gate ? heads * a.v_head_dim : 0)) {}
  std::int64_t k_at, v_at, gate_at, width;
};

}  // namespace foretoken
