// The operators of a transformer by name: what each computes, on one rank or alike on all.
#include <algorithm>

#include "base/error.h"
#include "executor/transformer_state.h"

namespace foretoken {

bool Transformer::State::is_shared(std::string_view name) {
  static constexpr std::string_view kShared[] = {"embedding",       "embedding_all_reduce",
                                                 "input_norm",      "post_norm",
                                                 "final_norm",      "attn_all_reduce",
                                                 "attn_all_gather", "embedding_reduce_scatter",
                                                 "mlp_all_reduce",  "final_all_gather",
                                                 "mlp_all_gather",  "q_a_proj",
                                                 "kv_a_proj",       "router",
                                                 "logits_gather",   "sampling",
                                                 "stage_send",      "residual_add"};
  return std::find(std::begin(kShared), std::end(kShared), name) != std::end(kShared);
}

// Under sequence parallelism each rank norms its own tokens, and what it sums up are theirs.
bool Transformer::State::is_split(std::string_view name) const {
  return stages.front().sequence_parallel &&
         ((name.ends_with("_norm") && name != "qk_norm") || name == "residual_add");
}

bool Transformer::State::is_rounded(const Op& op, const Linear& l) const {
  const auto* g = std::get_if<GemmShape>(&op.shape);
  return g != nullptr && g->quantised_input && layout.fusion.quantisation && l.w.quantised_x;
}

bool Transformer::State::is_read_rounded(int layer, std::string_view product, const Linear& l) const {
  const int kind = model.layers[static_cast<std::size_t>(layer)];
  for (const Op& op : lists[static_cast<std::size_t>(runs.back().stage)].ops)
    if (op.layer_kind == kind && op.name == product) return is_rounded(op, l);
  return false;
}

void Transformer::State::gemm(const Op& op, const Linear& l, const float* x, const std::byte* rounded,
                              float* y, bool accumulate) {
  if (is_rounded(op, l))
    kernels.gemm_quantised(l.w, rounded, rows, l.bias, accumulate, y, l.w.n, scratch, threads);
  else
    gemm(l, x, l.w.k, rows, y, l.w.n, accumulate);
}

void Transformer::State::input_norm(int layer, bool before_attention, Rank::Slice own) {
  if (own.count <= 0) return;
  const LayerWeights& w = ranks.front().layer(layer);
  const NormArgs args = before_attention ? norm_args(w.input_norm, w.input_norm_bias)
                                         : norm_args(w.post_norm, w.post_norm_bias);
  const std::size_t first = count_of(own.first, model.hidden);
  const Linear& reader = !before_attention ? w.gate_up : latent_attention(layer) ? w.kv_a : w.qkv;
  const bool rounds =
      !before_attention
          ? is_read_rounded(layer, "gate_up_proj", reader) || is_read_rounded(layer, "up_proj", reader)
          : is_read_rounded(layer, latent_attention(layer) ? "kv_a_proj" : "qkv_proj", reader);
  const bool joins = pending && !pending_norm;
  if (!joins) add_pending(own);
  float* const stream = hidden + first;
  if (rounds)
    return kernels.norm_quantised(args, joins ? added(own) : nullptr, own.count, model.hidden, stream,
                                  layout.weights, quantised, reader.w.x_scale);
  float* const to = (stages.front().sequence_parallel ? scattered : normed) + first;
  if (joins) return kernels.add_norm(args, added(own), own.count, model.hidden, stream, to);
  kernels.norm(args, stream, model.hidden, own.count, model.hidden, to, model.hidden);
}

void Transformer::State::norm_rows(const Op& op, int layer, Rank::Slice own) {
  if (op.name == "input_norm" || op.name == "post_norm")
    return input_norm(layer, op.name == "input_norm", own);
  add_pending(own);
  if (op.name == "residual_add") return;
  // The sampled rows ascend; those of `own` are normed.
  const auto at = [&](std::int64_t row) {
    return std::lower_bound(sampled_rows.begin(), sampled_rows.end(), row);
  };
  const std::int32_t *first = at(own.first), *end = at(own.first + own.count);
  if (first == end) return;
  const auto skipped = static_cast<std::size_t>(first - sampled_rows.begin()),
             count = static_cast<std::size_t>(end - first);
  float* to = sampled + count_of(static_cast<std::int64_t>(skipped), model.hidden);
  kernels.gather_rows(hidden, model.hidden, sampled_rows.own(skipped, count), to);
  kernels.norm(norm_args(final_norm, final_norm_bias), to, model.hidden, static_cast<std::int64_t>(count),
               model.hidden, to, model.hidden);
}

// The rows that every rank has normed become whole.
void Transformer::State::gather_rows() {
  const std::int64_t each = (rows + layout.ranks - 1) / layout.ranks;
  const Processes* p = layout.processes;
  if (p != nullptr)
    kernels.all_gather(*layout.processes,
                       {scattered + count_of(each * p->rank(), model.hidden), count_of(each, model.hidden)},
                       gathered);
  kernels.copy_rows(p != nullptr ? gathered : scattered, model.hidden, rows, model.hidden, normed,
                    model.hidden);
}

// Those of the sampled rows, each from the rank whose row it is.
void Transformer::State::gather_sampled() {
  if (layout.processes == nullptr) return;  // one memory
  const std::size_t size = count_of(static_cast<std::int64_t>(sampled_rows.size()), model.hidden);
  kernels.all_gather(*layout.processes, {sampled, size}, gathered);
  const std::int64_t each = (rows + layout.ranks - 1) / layout.ranks;
  const auto width = static_cast<std::size_t>(model.hidden);
  for (std::size_t i = 0; i < sampled_rows.size(); ++i)
    kernels.copy_rows(gathered + static_cast<std::size_t>(sampled_rows[i] / each) * size + i * width,
                      model.hidden, 1, model.hidden, sampled + i * width, model.hidden);
}

void Transformer::State::run_shared(const Op& op, int layer) {
  const std::string_view name = op.name;
  if (name == "embedding") return embed();
  if (name.ends_with("_norm") || name == "residual_add") {
    norm_rows(op, layer, {0, rows});
    return end_norm(op, layer);
  }
  if (name == "attn_all_gather" || name == "mlp_all_gather") return gather_rows();
  if (name == "final_all_gather") return gather_sampled();
  if (name == "q_a_proj") {
    const LayerWeights& w = ranks.front().layer(layer);
    return gemm(op, w.q_a, latent_q);
  }
  if (name == "kv_a_proj") return gemm(op, ranks.front().layer(layer).kv_a, latent);
  if (name == "router") return gemm(ranks.front().layer(layer).router, normed, rows, router_logits);
  if (name == "attn_all_reduce" || name == "mlp_all_reduce") {
    gather_partials();
    return reduce({0, rows});
  }
  if (name == "logits_gather") {
    const std::size_t each = sampled_rows.size() * static_cast<std::size_t>(vocabulary_width());
    if (layout.processes != nullptr)
      kernels.all_gather(*layout.processes, {work.front().logits, each}, gathered);
    for (int r = 0; r < layout.ranks; ++r) {
      const Rank::Slice v = Rank::slice(model.vocab, r, layout.ranks);
      const float* from = layout.processes != nullptr ? gathered + static_cast<std::size_t>(r) * each
                                                      : work[static_cast<std::size_t>(r)].logits;
      kernels.copy_rows(from, v.count, static_cast<std::int64_t>(sampled_rows.size()), v.count,
                        logits + v.first, model.vocab);
    }
    return;
  }
  // Collectives of what is whole already: the table that every rank holds, and the sampling that the caller
  // does.
}

void Transformer::State::run_rank(const Op& op, int layer, std::size_t r) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  if (is_split(name)) return norm_rows(op, layer, own_rows(rank));
  if (name == "attn_reduce_scatter" || name == "mlp_reduce_scatter") {
    if (r == 0) gather_partials();
    return reduce(own_rows(rank));
  }
  if (name == "lm_head") {
    const auto n = static_cast<std::int64_t>(sampled_rows.size());
    gemm(rank.lm_head(), sampled, n, layout.ranks == 1 ? logits : w.logits);
    return;
  }
  if (name == "weight_fetch") return ranks[r].fetch(layer);
  if (name == "swap_out") return ranks[r].swap_out(swaps.out);
  if (name == "swap_in") return ranks[r].swap_in(swaps.in);
  if (name == "key_shift") return shift_keys(runs.back().stage, ranks[r]);
  if (name.starts_with("lora_")) return adapter_operator(name, layer, r);
  const LayerWeights& weights = rank.layer(layer);
  const LayerKind& kind = kind_of(layer);
  if (name == "gate_up_proj" || name == "up_proj") return gemm(op, weights.gate_up, w.inter);
  if (name == "activation" || name == "shared_activation") {
    const bool own = name == "activation";
    const Linear &up = own ? weights.gate_up : weights.shared_gate_up,
                 &down = own ? weights.down : weights.shared_down;
    ActivationArgs args = numerics.activation;
    if (const auto* d = std::get_if<DenseMlp>(&kind.mlp)) args.gated = d->gated;
    const std::int64_t width = args.gated ? up.w.n / 2 : up.w.n;
    if (is_read_rounded(layer, own ? "down_proj" : "shared_down", down))
      return kernels.activation_quantised(args, w.inter, rows, width, layout.weights, w.quantised_act,
                                          down.w.x_scale);
    return kernels.activation(args, w.inter, rows, width, w.act);
  }
  if (name == "down_proj") return gemm(op, weights.down, w.act, w.quantised_act, w.partial);
  if (name == "experts") return experts(layer, r);
  if (name == "shared_gate_up") return gemm(weights.shared_gate_up, normed, rows, w.inter);
  if (name == "shared_down") {
    // A gate, the list's next operator, weighs the shared experts before they join the others.
    const bool gated = std::get<MoeMlp>(kind.mlp).shared_gate;
    return gemm(op, weights.shared_down, w.act, w.quantised_act, gated ? w.shared : w.partial, !gated);
  }
  if (name == "shared_gate") {
    gemm(weights.shared_mix, normed, rows, mix);
    kernels.sigmoid_gate(mix, 1, 1, rows, model.hidden, false, w.shared);
    return kernels.add(w.shared, rows * model.hidden, w.partial);
  }
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) return grouped_query(op, layer, r, *a);
  if (const auto* a = std::get_if<MlaAttention>(&kind.mixer)) return latent_operator(op, layer, r, *a);
  if (const auto* m = std::get_if<RecurrentMixer>(&kind.mixer)) return recurrent_operator(op, layer, r, *m);
  throw Error(std::string(name), "the executor has no such operator");
}

void Transformer::State::grouped_query(const Op& op, int layer, std::size_t r, const GqaAttention& a) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t heads = rank.heads(a.heads).count, kv = rank.kv_heads(a.kv_heads).count;
  const auto [k_at, v_at, gate_at, width] = QkvRow(a, heads, kv);
  if (name == "qkv_proj") return gemm(op, weights.qkv, w.qkv);
  if (name == "qk_norm") {
    const auto norm = [&](const float* weight, float* x, std::int64_t count) {
      const NormArgs args = norm_args(weight, nullptr);
      if (a.qk_norm == GqaAttention::QkNorm::kFull)
        return kernels.norm(args, x, width, rows, count * a.head_dim, x, width);
      kernels.norm_heads(args, x, width, rows, count, a.head_dim);
    };
    norm(weights.q_norm, w.qkv, heads);
    return norm(weights.k_norm, w.qkv + k_at, kv);
  }
  if (name == "rope") {
    const RopeTable* t = rope_of(layer);
    if (!t) return;
    if (layout.fusion.rope_kv_write)
      return kernels.rope_and_write(
          {t->cosines, t->sines, t->pairs, t->interleaved}, row_positions.own(0, row_positions.size()), w.qkv,
          heads, w.qkv + k_at, w.qkv + v_at, width, cache_of(r, layer), {sequences.host(), sequences.own()});
    rope(*t, w.qkv, width, heads, a.head_dim, 0);
    return rope(*t, w.qkv + k_at, width, kv, a.head_dim, 0);
  }
  if (name == "kv_write")
    return kernels.cache_write(cache_of(r, layer), {sequences.host(), sequences.own()}, w.qkv + k_at, width,
                               w.qkv + v_at, width);
  if (name == "attention") {
    const auto& shape = std::get<AttentionShape>(op.shape);
    AttentionArgs args = attention_args(layer, rank, heads);
    if (reaches) args.lse = w.lse;
    kernels.attention(args, cache_of(r, layer), sequences_of(shape.decode, next_chunk), w.qkv, width,
                      w.heads_out, heads * a.v_head_dim, scratch, threads);
    return;
  }
  if (name == "output_gate") {
    const std::int64_t out = heads * a.v_head_dim;
    return kernels.sigmoid_gate(w.qkv + gate_at, width, out, rows, out, false, w.heads_out);
  }
  if (name == "o_proj") return gemm(weights.o, w.heads_out, rows, w.partial);
  throw Error(std::string(name), "the executor has no such operator in attention");
}

void Transformer::State::latent_operator(const Op& op, int layer, std::size_t r, const MlaAttention& a) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t heads = rank.heads(a.heads).count, qk = a.nope_dim + a.rope_dim,
                     row = a.kv_lora_rank + a.rope_dim;
  const std::int64_t first = first_decode < sequences.size() ? sequences[first_decode].first_row : rows,
                     decode_rows = rows - first;
  if (name == "qk_norm") {
    if (r != 0) return;  // latents are alike on all ranks
    NormArgs args = norm_args(weights.q_a_norm, nullptr);
    args.epsilon = numerics.latent_norm_epsilon;
    if (a.q_lora_rank > 0)
      kernels.norm(args, latent_q, a.q_lora_rank, rows, a.q_lora_rank, latent_q, a.q_lora_rank);
    args.weight = weights.kv_a_norm;
    return kernels.norm(args, latent, row, rows, a.kv_lora_rank, latent, row);
  }
  if (name == "q_b_proj")
    return gemm(op, weights.q_b, a.q_lora_rank > 0 ? latent_q : normed, quantised, w.qkv);
  if (name == "rope") {
    const RopeTable* t = rope_of(layer);
    if (!t) return;
    rope(*t, w.qkv, heads * qk, heads, qk, a.nope_dim);
    if (r == 0) rope(*t, latent, row, 1, row, a.kv_lora_rank);
    if (layout.fusion.rope_kv_write)
      kernels.cache_write(rank.cache(layer), {sequences.host(), sequences.own()}, latent, row, nullptr, 0);
    return;
  }
  if (name == "kv_write")
    return kernels.cache_write(rank.cache(layer), {sequences.host(), sequences.own()}, latent, row, nullptr,
                               0);
  if (name == kUpProjection)
    return;  // runs with each prompt's attention, below: its rows are a prompt's alone
  if (name == "absorb_k") {
    for (std::int64_t h = 0; h < heads; ++h)
      gemm(weights.absorb_k[static_cast<std::size_t>(h)], w.qkv + first * heads * qk + h * qk, heads * qk,
           decode_rows, w.absorbed + first * heads * row + h * row, heads * row);
    return kernels.copy_rows(w.qkv + first * heads * qk + a.nope_dim, qk, decode_rows * heads, a.rope_dim,
                             w.absorbed + first * heads * row + a.kv_lora_rank, row);
  }
  if (name == "attention") {
    const auto& shape = std::get<AttentionShape>(op.shape);
    const auto chunk = sequences_of(shape.decode, next_chunk);
    if (!shape.decode) return prefill_latent(a, layer, r, chunk);
    AttentionArgs args = attention_args(layer, rank, heads);
    args.qk_dim = row, args.v_dim = a.kv_lora_rank;
    kernels.attention(args, rank.cache(layer), chunk, w.absorbed, heads * row, w.attended,
                      heads * a.kv_lora_rank, scratch, threads);
    return;
  }
  if (name == "absorb_v") {
    for (std::int64_t h = 0; h < heads; ++h)
      gemm(weights.absorb_v[static_cast<std::size_t>(h)],
           w.attended + first * heads * a.kv_lora_rank + h * a.kv_lora_rank, heads * a.kv_lora_rank,
           decode_rows, w.heads_out + first * heads * a.v_dim + h * a.v_dim, heads * a.v_dim);
    return;
  }
  if (name == "o_proj") return gemm(weights.o, w.heads_out, rows, w.partial);
  throw Error(std::string(name), "the executor has no such operator in latent attention");
}

// Keys and values of every head are projected up from the cached latents, one prompt at a time.
void Transformer::State::prefill_latent(const MlaAttention& a, int layer, std::size_t r,
                                        const Sequences& chunk) {
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const std::int64_t heads = rank.heads(a.heads).count, qk = a.nope_dim + a.rope_dim,
                     row = a.kv_lora_rank + a.rope_dim, up = a.nope_dim + a.v_dim;
  AttentionArgs args = attention_args(layer, rank, heads);
  args.qk_dim = qk, args.v_dim = a.v_dim;
  const CacheLayer cache = up_cache(a, rank, w);
  const auto begin = static_cast<std::size_t>(chunk.own - sequences.own());
  const Sequences whole{projected.host(), projected.own()};
  for (std::size_t i = 0; i < chunk.size(); ++i) {
    const SequenceRows& s = chunk.host[i];
    const std::int64_t tokens = s.cached + s.new_tokens;
    kernels.cache_read(rank.cache(layer), s.blocks, tokens, up_latent, nullptr);
    const int start = mark();
    gemm(rank.layer(layer).kv_b, up_latent, row, tokens, w.up, heads * up);
    time(Timed::Kind::kProjecting, start);
    kernels.expand_latents({heads, a.nope_dim, a.rope_dim, a.v_dim, a.kv_lora_rank}, w.up, up_latent, tokens,
                           cache);
    kernels.attention(args, cache, whole.part(begin + i, 1), w.qkv, heads * qk, w.heads_out, heads * a.v_dim,
                      scratch, threads);
  }
}

// Adds the results of the rank's experts up in the order in which each row chose them.
void Transformer::State::experts(int layer, std::size_t r) {
  const auto& e = std::get<MoeMlp>(kind_of(layer).mlp);
  multiply_experts(layer, ranks[r], normed, router_logits, rows);
  kernels.combine_rows(moe_out, model.hidden, place, routing_weights, rows, e.top_k, false, work[r].partial);
}

void Transformer::State::multiply_experts(int layer, const Rank& rank, const float* in, const float* routed,
                                          std::int64_t count) {
  const auto& e = std::get<MoeMlp>(kind_of(layer).mlp);
  RoutingArgs args = numerics.routing;
  args.experts = e.experts, args.top_k = e.top_k;
  args.correction = rank.layer(layer).correction;
  kernels.route(args, routed, count, chosen, routing_weights);
  ActivationArgs activation = numerics.activation;
  activation.gated = e.gated;
  kernels.run_experts(experts_of(rank, layer), activation, in, chosen, count, e.top_k,
                      {moe_in, moe_mid, moe_act, moe_out, place, order, expert_rows}, scratch, threads);
}

}  // namespace foretoken
