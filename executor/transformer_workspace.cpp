// A Transformer's workspace: which buffers its operators need, and how large each is.
#include "executor/transformer_state.h"

namespace foretoken {

void Transformer::State::plan(Plan& take) {
  const std::int64_t n = layout.max_tokens, h = model.hidden, s = layout.sampled();
  for (float*& stage : stage_hidden) take(stage, n, h);
  if (stages.front().sequence_parallel) take(scattered, n + layout.ranks, h);
  take(normed, n, h), take(delta, n, h);
  if (layout.fusion.quantisation) take(quantised, quantised_bytes(h));
  take(sampled, s, h), take(logits, s, model.vocab);
  if (widths.experts > 0) {
    const std::int64_t pairs = n * layout.data_parallel * widths.top_k;
    take(router_logits, n, widths.experts), take(routing_weights, pairs), take(chosen, pairs);
    take(place, pairs), take(order, pairs), take(expert_rows, widths.experts + 1), take(mix, n);
    take(moe_in, pairs, h), take(moe_mid, pairs, widths.expert_inter);
    take(moe_act, pairs, widths.expert_inter / 2), take(moe_out, pairs, h);
  }
  if (widths.latent > 0) {
    take(latent_q, n, widths.latent_q), take(latent, n, widths.latent);
    take(up_latent, layout.max_length, widths.latent);
  }
  if (layout.processes != nullptr)
    take(gathered, layout.ranks * std::max((n + layout.ranks) * h, s * vocabulary_width()));
  work.resize(ranks.size());
  for (PerRank& w : work) {
    take(w.qkv, n, widths.qkv), take(w.heads_out, n, widths.heads_out);
    take(w.inter, n, widths.inter), take(w.act, n, widths.inter), take(w.partial, n, h);
    if (layout.fusion.quantisation) take(w.quantised_act, quantised_act_bytes());
    if (widths.experts > 0) take(w.shared, n, h);
    take(w.logits, s, vocabulary_width());
    if (layout.reaches) plan_reaching(take, w);
    if (widths.latent > 0) {
      take(w.absorbed, n, widths.absorbed), take(w.attended, n, widths.absorbed);
      take(w.up, layout.max_length, widths.up);
      const std::int64_t bytes = up_storage() == Storage::kBf16 ? 2 : 4;
      take(w.up_keys, layout.max_length, widths.up_keys * bytes),
          take(w.up_values, layout.max_length, widths.up_values * bytes);
    }
  }
  if (widths.linear > 0) {
    take(linear_q, n, widths.linear_k), take(linear_k, n, widths.linear_k);
    take(linear_v, n, widths.linear_v);
    take(linear_decay, n, widths.linear_heads), take(linear_beta, n, widths.linear_heads);
    for (PerRank& w : work) {
      take(w.linear, n, widths.linear), take(w.linear_gates, n, widths.linear_gates);
      take(w.convolved, n, widths.convolved);
    }
  }
  if (!adapters.empty()) {
    std::int64_t in = 0, out = 0, between = 0;
    for (const RankAdapters::Product& p : adapters.front().all()) {
      in = std::max(in, p.a.k), between = std::max(between, p.a.n);
      for (const Matrix& b : p.b) out = std::max(out, b.n);
    }
    take(lora_in, n, in), take(lora_out, n, out);
    for (PerRank& w : work) take(w.low_rank, n, between);
  }
  scratch_bytes = scratch_needed();
  take(scratch, static_cast<std::int64_t>(scratch_bytes));
}

std::int64_t Transformer::State::quantised_bytes(std::int64_t width) const {
  return static_cast<std::int64_t>(kernels.quantised_bytes(layout.weights, layout.max_tokens, width));
}

std::int64_t Transformer::State::quantised_act_bytes() const {
  std::int64_t most = 0;
  for (const Rank& rank : ranks)
    for (std::int64_t i = 0; i < model.num_layers; ++i)
      for (const Linear* l : {&rank.layer(i).down, &rank.layer(i).shared_down})
        most = std::max(most, quantised_bytes(l->w.k));
  return most;
}

std::size_t Transformer::State::scratch_needed() const {
  std::size_t most = 64;
  const auto gemm = [&](const Linear& l, std::int64_t m) {
    if (l.w.n > 0) most = std::max(most, kernels.gemm_scratch(l.w, m));
  };
  const std::int64_t n = std::max(layout.max_tokens, layout.max_length);
  for (const RankAdapters& own : adapters)
    for (const RankAdapters::Product& p : own.all()) {
      gemm({p.a, nullptr}, n);
      for (const Matrix& b : p.b) gemm({b, nullptr}, n);
    }
  for (const Rank& rank : ranks)
    for (std::int64_t i = 0; i < model.num_layers; ++i) {
      const LayerWeights& w = rank.layer(i);
      for (const Linear* l :
           {&w.qkv, &w.o, &w.gate_up, &w.down, &w.router, &w.shared_gate_up, &w.shared_down, &w.shared_mix,
            &w.q_a, &w.q_b, &w.kv_a, &w.kv_b, &w.linear_in, &w.linear_gates, &w.linear_out, &rank.lm_head()})
        gemm(*l, n);
      for (const Linear& l : w.absorb_k) gemm(l, n);
      for (const Linear& l : w.absorb_v) gemm(l, n);
      if (!w.experts.empty())
        most = std::max(most,
                        kernels.expert_scratch(experts_of(rank, i), n * layout.data_parallel * widths.top_k));
      const CacheLayer& c = rank.cache(i);
      if (c.heads == 0) continue;
      AttentionArgs a;
      a.heads = widths.qkv, a.qk_dim = c.k_dim, a.v_dim = std::max(c.v_dim, c.k_dim);
      if (const auto* g = gqa(i)) a.heads = rank.heads(g->heads).count;
      if (const auto* mla = latent_attention(i)) a.heads = rank.heads(mla->heads).count;
      most = std::max(most,
                      kernels.attention_scratch(a, c, layout.max_tokens, layout.max_length, threads.count()));
      if (const auto* mla = latent_attention(i)) {
        CacheLayer up = up_cache(*mla, rank, work.front());
        a.qk_dim = up.k_dim, a.v_dim = up.v_dim;
        most = std::max(
            most, kernels.attention_scratch(a, up, layout.max_tokens, layout.max_length, threads.count()));
      }
    }
  return std::max(most, static_cast<std::size_t>(model.hidden) * sizeof(float));
}

}  // namespace foretoken
