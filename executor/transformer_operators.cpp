// The operators of a transformer by name: what each computes, on one rank or alike on all.
#include <algorithm>
#include <cstring>

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
                                                 "stage_send"};
  return std::find(std::begin(kShared), std::end(kShared), name) != std::end(kShared);
}

// Under sequence parallelism each rank norms its own tokens, and what it sums up are theirs.
bool Transformer::State::is_split(std::string_view name) const {
  return stages.front().sequence_parallel && (name.ends_with("_norm") && name != "qk_norm");
}

void Transformer::State::norm_rows(const Op& op, int layer, Rank::Slice own) {
  add_pending(own);
  if (op.name != "final_norm") return input_norm(layer, op.name == "input_norm", own);
  const std::size_t width = static_cast<std::size_t>(model.hidden);
  for (std::size_t i = 0; i < sampled_rows.size(); ++i) {
    const std::int64_t row = sampled_rows[i];
    if (row < own.first || row >= own.first + own.count) continue;
    float* to = sampled + i * width;
    std::memcpy(to, hidden + static_cast<std::size_t>(row) * width, width * sizeof(float));
    kernels.norm(norm_args(final_norm, final_norm_bias), to, model.hidden, 1, model.hidden, to, model.hidden);
  }
}

// The rows that every rank has normed become whole.
void Transformer::State::gather_rows() {
  const std::int64_t each = (rows + layout.ranks - 1) / layout.ranks;
  const Processes* p = layout.processes;
  if (p != nullptr)
    layout.processes->all_gather(
        {scattered + count_of(each * p->rank(), model.hidden), count_of(each, model.hidden)}, gathered);
  std::memcpy(normed, p != nullptr ? gathered : scattered, count_of(rows, model.hidden) * sizeof(float));
}

// Those of the sampled rows, each from the rank whose row it is.
void Transformer::State::gather_sampled() {
  if (layout.processes == nullptr) return;  // one memory
  const std::size_t size = count_of(static_cast<std::int64_t>(sampled_rows.size()), model.hidden);
  layout.processes->all_gather({sampled, size}, gathered);
  const std::int64_t each = (rows + layout.ranks - 1) / layout.ranks;
  const auto width = static_cast<std::size_t>(model.hidden);
  for (std::size_t i = 0; i < sampled_rows.size(); ++i)
    std::memcpy(sampled + i * width,
                gathered + static_cast<std::size_t>(sampled_rows[i] / each) * size + i * width,
                width * sizeof(float));
}

void Transformer::State::run_shared(const Op& op, int layer) {
  const std::string_view name = op.name;
  if (name == "embedding") return embed();
  if (name.ends_with("_norm")) {
    norm_rows(op, layer, {0, rows});
    return end_norm(op, layer);
  }
  if (name == "attn_all_gather" || name == "mlp_all_gather") return gather_rows();
  if (name == "final_all_gather") return gather_sampled();
  if (name == "q_a_proj") {
    const LayerWeights& w = ranks.front().layer(layer);
    return gemm(w.q_a, normed, rows, latent_q);
  }
  if (name == "kv_a_proj") return gemm(ranks.front().layer(layer).kv_a, normed, rows, latent);
  if (name == "router") return gemm(ranks.front().layer(layer).router, normed, rows, router_logits);
  if (name == "attn_all_reduce" || name == "mlp_all_reduce") {
    gather_partials();
    return reduce({0, rows});
  }
  if (name == "logits_gather") {
    const std::size_t each = sampled_rows.size() * static_cast<std::size_t>(vocabulary_width());
    if (layout.processes != nullptr) layout.processes->all_gather({work.front().logits, each}, gathered);
    for (int r = 0; r < layout.ranks; ++r) {
      const Rank::Slice v = Rank::slice(model.vocab, r, layout.ranks);
      const float* from = layout.processes != nullptr ? gathered + static_cast<std::size_t>(r) * each
                                                      : work[static_cast<std::size_t>(r)].logits;
      for (std::size_t i = 0; i < sampled_rows.size(); ++i)
        std::memcpy(logits + i * static_cast<std::size_t>(model.vocab) + v.first,
                    from + i * static_cast<std::size_t>(v.count),
                    static_cast<std::size_t>(v.count) * sizeof(float));
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
  if (name == "swap_out") return rank.swap_out(swaps.out);
  if (name == "swap_in") return rank.swap_in(swaps.in);
  if (name.starts_with("lora_")) return adapter_operator(name, layer, r);
  const LayerWeights& weights = rank.layer(layer);
  const LayerKind& kind = kind_of(layer);
  if (name == "gate_up_proj" || name == "up_proj") return gemm(weights.gate_up, normed, rows, w.inter);
  if (name == "activation" || name == "shared_activation") {
    const Linear& up = name == "activation" ? weights.gate_up : weights.shared_gate_up;
    ActivationArgs args = numerics.activation;
    if (const auto* d = std::get_if<DenseMlp>(&kind.mlp)) args.gated = d->gated;
    return kernels.activation(args, w.inter, rows, args.gated ? up.w.n / 2 : up.w.n, w.act);
  }
  if (name == "down_proj") return gemm(weights.down, w.act, rows, w.partial);
  if (name == "experts") return experts(layer, r);
  if (name == "shared_gate_up") return gemm(weights.shared_gate_up, normed, rows, w.inter);
  if (name == "shared_down") {
    // A gate, the list's next operator, weighs the shared experts before they join the others.
    if (std::get<MoeMlp>(kind.mlp).shared_gate) return gemm(weights.shared_down, w.act, rows, w.shared);
    return gemm(weights.shared_down, w.act, weights.shared_down.w.k, rows, w.partial, model.hidden, true);
  }
  if (name == "shared_gate") {
    gemm(weights.shared_mix, normed, rows, mix);
    kernels.sigmoid_gate(mix, 1, rows, model.hidden, w.shared);
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
  const std::int64_t k_at = heads * a.head_dim, v_at = k_at + kv * a.head_dim,
                     gate_at = v_at + kv * a.v_head_dim,
                     width = gate_at + (a.output_gate ? heads * a.v_head_dim : 0);
  if (name == "qkv_proj") return gemm(weights.qkv, normed, rows, w.qkv);
  if (name == "qk_norm") {
    const bool whole = a.qk_norm == GqaAttention::QkNorm::kFull;
    for (std::int64_t row = 0; row < rows; ++row) {
      float *q = w.qkv + row * width, *k = q + k_at;
      const auto norm = [&](const float* weight, float* x, std::int64_t count) {
        const std::int64_t each = whole ? count * a.head_dim : a.head_dim;
        kernels.norm(norm_args(weight, nullptr), x, each, whole ? 1 : count, each, x, each);
      };
      norm(weights.q_norm, q, heads);
      norm(weights.k_norm, k, kv);
    }
    return;
  }
  if (name == "rope") {
    const RopeTable* t = rope_of(layer);
    if (!t) return;
    rope(*t, w.qkv, width, heads, a.head_dim, 0);
    return rope(*t, w.qkv + k_at, width, kv, a.head_dim, 0);
  }
  if (name == "kv_write")
    return kernels.cache_write(rank.cache(layer), sequences, w.qkv + k_at, width, w.qkv + v_at, width);
  if (name == "attention") {
    const auto& shape = std::get<AttentionShape>(op.shape);
    kernels.attention(attention_args(layer, rank, heads), rank.cache(layer),
                      sequences_of(shape.decode, next_chunk), w.qkv, width, w.heads_out, heads * a.v_head_dim,
                      scratch, threads);
    return;
  }
  if (name == "output_gate") {
    const std::int64_t out = heads * a.v_head_dim;
    for (std::int64_t row = 0; row < rows; ++row)
      kernels.sigmoid_gate(w.qkv + row * width + gate_at, out, 1, out, w.heads_out + row * out);
    return;
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
  const auto decoding = std::span<const SequenceRows>(sequences).subspan(first_decode);
  const std::int64_t first = decoding.empty() ? rows : decoding.front().first_row, decode_rows = rows - first;
  if (name == "qk_norm") {
    if (r != 0) return;  // latents are alike on all ranks
    NormArgs args = norm_args(weights.q_a_norm, nullptr);
    args.epsilon = numerics.latent_norm_epsilon;
    if (a.q_lora_rank > 0)
      kernels.norm(args, latent_q, a.q_lora_rank, rows, a.q_lora_rank, latent_q, a.q_lora_rank);
    args.weight = weights.kv_a_norm;
    return kernels.norm(args, latent, row, rows, a.kv_lora_rank, latent, row);
  }
  if (name == "q_b_proj") return gemm(weights.q_b, a.q_lora_rank > 0 ? latent_q : normed, rows, w.qkv);
  if (name == "rope") {
    const RopeTable* t = rope_of(layer);
    if (!t) return;
    rope(*t, w.qkv, heads * qk, heads, qk, a.nope_dim);
    if (r == 0) rope(*t, latent, row, 1, row, a.kv_lora_rank);
    return;
  }
  if (name == "kv_write") return kernels.cache_write(rank.cache(layer), sequences, latent, row, nullptr, 0);
  if (name == kUpProjection)
    return;  // runs with each prompt's attention, below: its rows are a prompt's alone
  if (name == "absorb_k") {
    for (std::int64_t h = 0; h < heads; ++h)
      gemm(weights.absorb_k[static_cast<std::size_t>(h)], w.qkv + first * heads * qk + h * qk, heads * qk,
           decode_rows, w.absorbed + first * heads * row + h * row, heads * row);
    for (std::int64_t t = first; t < rows; ++t)
      for (std::int64_t h = 0; h < heads; ++h)
        std::memcpy(w.absorbed + (t * heads + h) * row + a.kv_lora_rank,
                    w.qkv + (t * heads + h) * qk + a.nope_dim,
                    static_cast<std::size_t>(a.rope_dim) * sizeof(float));
    return;
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
                                        std::span<const SequenceRows> chunk) {
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const std::int64_t heads = rank.heads(a.heads).count, qk = a.nope_dim + a.rope_dim,
                     row = a.kv_lora_rank + a.rope_dim, up = a.nope_dim + a.v_dim, length = layout.max_length;
  AttentionArgs args = attention_args(layer, rank, heads);
  args.qk_dim = qk, args.v_dim = a.v_dim;
  const CacheLayer cache = up_cache(a, rank, w);
  for (const SequenceRows& s : chunk) {
    const std::int64_t tokens = s.cached + s.new_tokens;
    kernels.cache_read(rank.cache(layer), s.blocks, tokens, up_latent, nullptr);
    const auto start = Clock::now();
    gemm(rank.layer(layer).kv_b, up_latent, row, tokens, w.up, heads * up);
    projecting += seconds_since(start);
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < tokens; ++t) {
        const float* from = w.up + (t * heads + h) * up;
        float* key = w.up_keys + (h * length + t) * qk;
        std::memcpy(key, from, static_cast<std::size_t>(a.nope_dim) * sizeof(float));
        std::memcpy(key + a.nope_dim, up_latent + t * row + a.kv_lora_rank,
                    static_cast<std::size_t>(a.rope_dim) * sizeof(float));
        std::memcpy(w.up_values + (h * length + t) * a.v_dim, from + a.nope_dim,
                    static_cast<std::size_t>(a.v_dim) * sizeof(float));
      }
    constexpr std::int32_t kOnlyBlock = 0;
    SequenceRows own = s;
    own.blocks = &kOnlyBlock;
    kernels.attention(args, cache, {&own, 1}, w.qkv, heads * qk, w.heads_out, heads * a.v_dim, scratch,
                      threads);
  }
}

// Adds the results of the rank's experts up in the order in which each row chose them.
void Transformer::State::experts(int layer, std::size_t r) {
  const auto& e = std::get<MoeMlp>(kind_of(layer).mlp);
  multiply_experts(layer, ranks[r], normed, router_logits, rows);
  kernels.combine_rows(moe_out, model.hidden, place, routing_weights, rows, e.top_k, false, work[r].partial);
}

// Rows are gathered expert after expert.
void Transformer::State::multiply_experts(int layer, const Rank& rank, const float* in, const float* routed,
                                          std::int64_t count) {
  const LayerWeights& weights = rank.layer(layer);
  const auto& e = std::get<MoeMlp>(kind_of(layer).mlp);
  RoutingArgs args = numerics.routing;
  args.experts = e.experts, args.top_k = e.top_k;
  args.correction = weights.correction;
  kernels.route(args, routed, count, chosen, routing_weights);

  const Rank::Slice local = rank.experts(e.experts);
  const std::int64_t pairs = count * e.top_k;
  std::fill_n(expert_rows, local.count + 1, 0);
  const auto own = [&](std::int64_t p) {
    const std::int64_t x = chosen[p] - local.first;
    return x >= 0 && x < local.count ? x : -1;
  };
  for (std::int64_t p = 0; p < pairs; ++p)
    if (const std::int64_t x = own(p); x >= 0) ++expert_rows[x + 1];
  for (std::int64_t x = 0; x < local.count; ++x) expert_rows[x + 1] += expert_rows[x];
  for (std::int64_t p = 0; p < pairs; ++p) {
    const std::int64_t x = own(p);
    place[p] = x < 0 ? -1 : expert_rows[x]++;
    if (x >= 0) order[place[p]] = static_cast<std::int32_t>(p / e.top_k);
  }
  for (std::int64_t x = local.count; x > 0; --x) expert_rows[x] = expert_rows[x - 1];
  expert_rows[0] = 0;
  const std::int64_t taken = expert_rows[local.count];
  kernels.gather_rows(in, model.hidden, {order, static_cast<std::size_t>(taken)}, moe_in);
  for (std::int64_t x = 0; x < local.count; ++x) {
    const std::int64_t first = expert_rows[x], m = expert_rows[x + 1] - first;
    if (m == 0) continue;
    const ExpertWeights& expert = weights.experts[static_cast<std::size_t>(x)];
    const std::int64_t width = expert.down.w.k;
    gemm(expert.gate_up, moe_in + first * model.hidden, m, moe_mid);
    ActivationArgs activation = numerics.activation;
    activation.gated = e.gated;
    kernels.activation(activation, moe_mid, m, width, moe_act);
    gemm(expert.down, moe_act, m, moe_out + first * model.hidden);
  }
}

}  // namespace foretoken
