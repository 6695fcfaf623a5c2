#include "executor/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "base/error.h"

namespace foretoken {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::size_t count_of(std::int64_t rows, std::int64_t width) { return static_cast<std::size_t>(rows * width); }

// The widest of each kind of intermediate result over all layers and ranks.
struct Widths {
  std::int64_t qkv = 0, heads_out = 0, inter = 0, experts = 0, top_k = 0, expert_inter = 0;
  std::int64_t latent_q = 0, latent = 0, absorbed = 0, up = 0, up_keys = 0, up_values = 0;

  Widths(const ModelConfig& m, int ranks) {
    const auto split = [&](std::int64_t n) { return (n + ranks - 1) / ranks; };
    const auto most = [](std::int64_t& a, std::int64_t b) { a = std::max(a, b); };
    for (const LayerKind& kind : m.kinds) {
      if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
        const std::int64_t heads = split(a->heads), kv = std::max<std::int64_t>(1, split(a->kv_heads));
        most(qkv, heads * a->head_dim + kv * (a->head_dim + a->v_head_dim));
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

struct RopeTable {
  std::vector<float> cosines, sines;  // [position][pairs]
  std::int64_t pairs = 0;
  bool interleaved = false;
};

RopeTable rope_table(const Rope& rope, std::int64_t positions) {
  RopeTable t;
  t.pairs = static_cast<std::int64_t>(rope.inverse_frequencies.size());
  t.interleaved = rope.interleaved;
  t.cosines.resize(count_of(positions, t.pairs));
  t.sines.resize(t.cosines.size());
  for (std::int64_t p = 0; p < positions; ++p)
    for (std::int64_t i = 0; i < t.pairs; ++i) {
      const double angle = static_cast<double>(p) * rope.inverse_frequencies[static_cast<std::size_t>(i)];
      const auto at = static_cast<std::size_t>(p * t.pairs + i);
      t.cosines[at] = static_cast<float>(std::cos(angle) * rope.scale);
      t.sines[at] = static_cast<float>(std::sin(angle) * rope.scale);
    }
  return t;
}

}  // namespace

struct Transformer::State {
  const ModelConfig& model;
  const Numerics& numerics;
  const Kernels& kernels;
  const Layout layout;
  const Precision precision;
  Threads& threads;
  const Widths widths;

  std::vector<Rank> ranks;
  // Whole on every rank.
  Arena tables;
  Matrix embedding, positions;
  const float *final_norm = nullptr, *final_norm_bias = nullptr;
  std::vector<RopeTable> ropes;

  // Workspace. hidden: the residual stream; normed: what the next projection reads; delta: what the last part
  // of a layer adds to the stream at the next norm.
  Arena workspace;
  float *hidden = nullptr, *normed = nullptr, *delta = nullptr, *logits = nullptr, *sampled = nullptr;
  float *router_logits = nullptr, *routing_weights = nullptr, *mix = nullptr;
  std::int32_t *chosen = nullptr, *place = nullptr, *order = nullptr, *expert_rows = nullptr;
  float *latent_q = nullptr, *latent = nullptr;  // MLA: alike on every rank
  float *up_latent = nullptr, *moe_in = nullptr, *moe_mid = nullptr, *moe_act = nullptr, *moe_out = nullptr;
  std::byte* scratch = nullptr;
  std::size_t scratch_bytes = 0;
  struct PerRank {
    float *qkv = nullptr, *heads_out = nullptr, *inter = nullptr, *act = nullptr, *partial = nullptr,
          *logits = nullptr;
    float *absorbed = nullptr, *attended = nullptr, *up = nullptr, *up_keys = nullptr, *up_values = nullptr;
  };
  std::vector<PerRank> work;

  // The step at hand.
  std::int64_t rows = 0;
  std::vector<SequenceRows> sequences;
  std::vector<std::int32_t> row_positions, row_tokens, sampled_rows;
  std::size_t first_decode = 0;  // sequences[first_decode...] decode
  Work asked;
  std::vector<std::pair<std::size_t, std::size_t>> chunk_sequences;  // of each PrefillChunk
  std::size_t next_chunk = 0;                                        // of the layer's attention operators
  bool pending = false;                                              // delta waits to be added
  const float* pending_norm = nullptr;  // its norm, where outputs are normed first
  OpList list;
  std::vector<OperatorRun> runs;

  State(const ModelConfig& m, const Numerics& n, const Checkpoint& checkpoint, const Kernels& k,
        const Layout& l, const Precision& p, Threads& t)
      : model(m), numerics(n), kernels(k), layout(l), precision(p), threads(t), widths(m, l.ranks) {
    for (int r = 0; r < layout.ranks; ++r) ranks.emplace_back(m, checkpoint, k, l, r);
    load_tables(checkpoint);
    for (const Rope& rope : numerics.ropes) ropes.push_back(rope_table(rope, layout.max_length));
    allocate();
    sequences.reserve(static_cast<std::size_t>(layout.max_sequences));
    row_positions.reserve(static_cast<std::size_t>(layout.max_tokens));
    row_tokens.reserve(static_cast<std::size_t>(layout.max_tokens));
  }

  // ---- memory ----

  static std::size_t table_bytes(const ModelConfig& m, const Checkpoint& checkpoint, const Kernels& k,
                                 const Layout& l) {
    std::size_t bytes = 0;
    for (const Role role : {Role::kEmbedding, Role::kPositions}) {
      const Extent e = checkpoint.extent(role);
      if (e.rows > 0) bytes += Arena::padded(k.packed_bytes(l.plain, e.rows, e.columns));
    }
    return bytes + 2 * Arena::padded(static_cast<std::size_t>(m.hidden) * 4);
  }

  void load_tables(const Checkpoint& checkpoint) {
    tables = Arena(table_bytes(model, checkpoint, kernels, layout));
    const auto table = [&](Role role, Matrix& out) {
      const Extent e = checkpoint.extent(role);
      if (e.rows == 0) return;
      out = kernels.pack(
          layout.plain, e.rows, e.columns,
          [&](std::int64_t row, float* to) { checkpoint.read(role, 0, 0, row, 1, to); },
          tables.bytes(kernels.packed_bytes(layout.plain, e.rows, e.columns)));
    };
    table(Role::kEmbedding, embedding);
    table(Role::kPositions, positions);
    const auto vector = [&](Role role) -> const float* {
      const Extent e = checkpoint.extent(role);
      if (e.rows == 0) return nullptr;
      float* out = tables.array<float>(static_cast<std::size_t>(e.columns));
      checkpoint.read(role, 0, 0, 0, 1, out);
      return out;
    };
    final_norm = vector(Role::kFinalNorm);
    final_norm_bias = vector(Role::kFinalNormBias);
  }

  // Hands out the workspace, or adds up what it takes.
  struct Plan {
    Arena* arena;
    std::size_t bytes = 0;
    template <class T>
    void operator()(T*& to, std::int64_t rows, std::int64_t width = 1) {
      const std::size_t size = count_of(rows, width) * sizeof(T);
      bytes += Arena::padded(size);
      if (arena && size > 0) to = reinterpret_cast<T*>(arena->bytes(size));
    }
  };

  void plan(Plan& take) {
    const std::int64_t n = layout.max_tokens, h = model.hidden, s = layout.max_sequences;
    take(hidden, n, h), take(normed, n, h), take(delta, n, h);
    take(sampled, s, h), take(logits, s, model.vocab);
    if (widths.experts > 0) {
      const std::int64_t pairs = n * widths.top_k;
      take(router_logits, n, widths.experts), take(routing_weights, pairs), take(chosen, pairs);
      take(place, pairs), take(order, pairs), take(expert_rows, widths.experts + 1), take(mix, n);
      take(moe_in, pairs, h), take(moe_mid, pairs, widths.expert_inter);
      take(moe_act, pairs, widths.expert_inter / 2), take(moe_out, pairs, h);
    }
    if (widths.latent > 0) {
      take(latent_q, n, widths.latent_q), take(latent, n, widths.latent);
      take(up_latent, layout.max_length, widths.latent);
    }
    work.resize(static_cast<std::size_t>(layout.ranks));
    for (PerRank& w : work) {
      take(w.qkv, n, widths.qkv), take(w.heads_out, n, widths.heads_out);
      take(w.inter, n, widths.inter), take(w.act, n, widths.inter), take(w.partial, n, h);
      take(w.logits, s, (model.vocab + layout.ranks - 1) / layout.ranks);
      if (widths.latent > 0) {
        take(w.absorbed, n, widths.absorbed), take(w.attended, n, widths.absorbed);
        take(w.up, layout.max_length, widths.up);
        take(w.up_keys, layout.max_length, widths.up_keys),
            take(w.up_values, layout.max_length, widths.up_values);
      }
    }
    scratch_bytes = scratch_needed();
    take(scratch, static_cast<std::int64_t>(scratch_bytes));
  }

  std::size_t scratch_needed() const {
    std::size_t most = 64;
    const auto gemm = [&](const Linear& l, std::int64_t m) {
      if (l.w.n > 0) most = std::max(most, kernels.gemm_scratch(l.w, m));
    };
    const std::int64_t n = std::max(layout.max_tokens, layout.max_length);
    for (const Rank& rank : ranks)
      for (std::int64_t i = 0; i < model.num_layers; ++i) {
        const LayerWeights& w = rank.layer(i);
        for (const Linear* l :
             {&w.qkv, &w.o, &w.gate_up, &w.down, &w.router, &w.shared_gate_up, &w.shared_down, &w.shared_mix,
              &w.q_a, &w.q_b, &w.kv_a, &w.kv_b, &rank.lm_head()})
          gemm(*l, n);
        for (const Linear& l : w.absorb_k) gemm(l, n);
        for (const Linear& l : w.absorb_v) gemm(l, n);
        for (const ExpertWeights& e : w.experts)
          gemm(e.gate_up, n * widths.top_k), gemm(e.down, n * widths.top_k);
        const CacheLayer& c = rank.cache(i);
        if (c.heads == 0) continue;
        AttentionArgs a;
        a.heads = widths.qkv, a.qk_dim = c.k_dim, a.v_dim = std::max(c.v_dim, c.k_dim);
        if (const auto* g = gqa(i)) a.heads = rank.heads(g->heads).count;
        if (const auto* mla = latent_attention(i)) a.heads = rank.heads(mla->heads).count;
        most = std::max(
            most, kernels.attention_scratch(a, c, layout.max_tokens, layout.max_length, threads.count()));
        if (const auto* mla = latent_attention(i)) {
          CacheLayer up = up_cache(*mla, rank, work.front());
          a.qk_dim = up.k_dim, a.v_dim = up.v_dim;
          most = std::max(
              most, kernels.attention_scratch(a, up, layout.max_tokens, layout.max_length, threads.count()));
        }
      }
    most = std::max(most, static_cast<std::size_t>(model.vocab) * 8);
    return most;
  }

  void allocate() {
    Plan measure{nullptr};
    plan(measure);
    workspace = Arena(measure.bytes);
    Plan take{&workspace};
    plan(take);
  }

  // ---- helpers ----

  const LayerKind& kind_of(std::int64_t layer) const {
    return model.kinds[model.layers[static_cast<std::size_t>(layer)]];
  }
  const GqaAttention* gqa(std::int64_t layer) const {
    return std::get_if<GqaAttention>(&kind_of(layer).mixer);
  }
  const MlaAttention* latent_attention(std::int64_t layer) const {
    return std::get_if<MlaAttention>(&kind_of(layer).mixer);
  }

  void gemm(const Linear& l, const float* x, std::int64_t x_stride, std::int64_t m, float* y,
            std::int64_t y_stride, bool accumulate = false) {
    kernels.gemm(l.w, x, x_stride, m, l.bias, accumulate, y, y_stride, scratch, threads);
  }
  void gemm(const Linear& l, const float* x, std::int64_t m, float* y) { gemm(l, x, l.w.k, m, y, l.w.n); }

  NormArgs norm_args(const float* weight, const float* bias) const {
    return {numerics.norm, numerics.norm_epsilon, numerics.norm_offset, weight, bias};
  }

  // delta of the part of the layer that ran last joins the stream.
  void add_pending() {
    if (!pending) return;
    float* added = ranks.size() == 1 ? work.front().partial : delta;
    if (pending_norm)
      kernels.norm(norm_args(pending_norm, nullptr), added, model.hidden, rows, model.hidden, added,
                   model.hidden);
    kernels.add(added, rows * model.hidden, hidden);
    pending = false;
  }

  // The sum of all ranks' partial results, in their order.
  void reduce() {
    std::memcpy(delta, work.front().partial, count_of(rows, model.hidden) * sizeof(float));
    for (std::size_t r = 1; r < work.size(); ++r) kernels.add(work[r].partial, rows * model.hidden, delta);
  }

  CacheLayer up_cache(const MlaAttention& a, const Rank& rank, const PerRank& w) const {
    CacheLayer c;
    c.storage = Storage::kF32;
    c.block_size = static_cast<int>(layout.max_length);
    c.heads = rank.heads(a.heads).count;
    c.k_dim = a.nope_dim + a.rope_dim, c.v_dim = a.v_dim;
    c.keys = reinterpret_cast<std::byte*>(w.up_keys), c.values = reinterpret_cast<std::byte*>(w.up_values);
    return c;
  }

  // ---- operators ----

  // One operator of one layer on one rank; collectives and what is alike on all ranks run once, as rank 0.
  void run_shared(const Op& op, int layer);
  void run_rank(const Op& op, int layer, std::size_t rank);
  static bool is_shared(std::string_view name);

  void input_norm(int layer, bool before_attention) {
    add_pending();
    const LayerWeights& w = ranks.front().layer(layer);
    const NormArgs args = before_attention ? norm_args(w.input_norm, w.input_norm_bias)
                                           : norm_args(w.post_norm, w.post_norm_bias);
    kernels.norm(args, hidden, model.hidden, rows, model.hidden, normed, model.hidden);
    pending_norm = before_attention ? w.attn_output_norm : w.mlp_output_norm;
  }

  void embed() {
    for (std::int64_t r = 0; r < rows; ++r) {
      float* to = hidden + r * model.hidden;
      kernels.unpack_row(embedding, row_tokens[static_cast<std::size_t>(r)], to);
      if (numerics.embedding_scale != 1)
        for (std::int64_t i = 0; i < model.hidden; ++i) to[i] *= numerics.embedding_scale;
      if (positions.n == 0) continue;
      kernels.unpack_row(positions, row_positions[static_cast<std::size_t>(r)] + numerics.position_offset,
                         normed);
      kernels.add(normed, model.hidden, to);
    }
    pending = false;
  }

  const RopeTable* rope_of(int layer) const {
    if (numerics.rope_of_layer.empty()) return nullptr;
    const int i = numerics.rope_of_layer[static_cast<std::size_t>(layer)];
    return i < 0 ? nullptr : &ropes[static_cast<std::size_t>(i)];
  }

  void rope(const RopeTable& t, float* x, std::int64_t stride, std::int64_t heads, std::int64_t dim,
            std::int64_t first) {
    kernels.rope(t.cosines.data(), t.sines.data(), t.pairs, t.interleaved, row_positions, x, stride, heads,
                 dim, first);
  }

  AttentionArgs attention_args(int layer, const Rank& rank, std::int64_t heads) const {
    AttentionArgs a;
    a.heads = heads;
    a.scale = numerics.attention_scale;
    a.softcap = numerics.attention_softcap;
    if (const auto* g = gqa(layer)) {
      a.qk_dim = g->head_dim, a.v_dim = g->v_head_dim;
      a.window = g->window, a.chunked = g->chunked;
      a.sinks = rank.layer(layer).sinks;
    }
    return a;
  }

  // Sequences of the attention operator at hand: a group of equal chunks, or all that decode.
  std::span<const SequenceRows> sequences_of(const AttentionShape& shape, std::size_t chunk) const {
    const std::span<const SequenceRows> all = sequences;
    if (shape.decode) return all.subspan(first_decode);
    const auto [first, count] = chunk_sequences[chunk];
    return all.subspan(first, count);
  }

  void grouped_query(const Op& op, int layer, std::size_t r, const GqaAttention& a);
  void latent_operator(const Op& op, int layer, std::size_t r, const MlaAttention& a);
  void prefill_latent(const MlaAttention& a, int layer, std::size_t r, std::span<const SequenceRows> chunk);
  void experts(int layer, std::size_t r);

  void prepare(std::span<const StepSequence> asked_sequences);
  void execute();
};

bool Transformer::State::is_shared(std::string_view name) {
  static constexpr std::string_view kShared[] = {"embedding",           "embedding_all_reduce",
                                                 "input_norm",          "post_norm",
                                                 "final_norm",          "attn_all_reduce",
                                                 "attn_reduce_scatter", "attn_all_gather",
                                                 "mlp_all_reduce",      "mlp_reduce_scatter",
                                                 "mlp_all_gather",      "q_a_proj",
                                                 "kv_a_proj",           "router",
                                                 "logits_gather",       "sampling",
                                                 "stage_send"};
  return std::find(std::begin(kShared), std::end(kShared), name) != std::end(kShared);
}

void Transformer::State::run_shared(const Op& op, int layer) {
  const std::string_view name = op.name;
  if (name == "embedding") return embed();
  if (name == "input_norm") return input_norm(layer, true);
  if (name == "post_norm") return input_norm(layer, false);
  if (name == "final_norm") {
    add_pending();
    const std::size_t width = static_cast<std::size_t>(model.hidden);
    for (std::size_t i = 0; i < sampled_rows.size(); ++i)
      std::memcpy(sampled + i * width, hidden + static_cast<std::size_t>(sampled_rows[i]) * width,
                  width * sizeof(float));
    kernels.norm(norm_args(final_norm, final_norm_bias), sampled, model.hidden,
                 static_cast<std::int64_t>(sampled_rows.size()), model.hidden, sampled, model.hidden);
    return;
  }
  if (name == "q_a_proj") {
    const LayerWeights& w = ranks.front().layer(layer);
    return gemm(w.q_a, normed, rows, latent_q);
  }
  if (name == "kv_a_proj") return gemm(ranks.front().layer(layer).kv_a, normed, rows, latent);
  if (name == "router") return gemm(ranks.front().layer(layer).router, normed, rows, router_logits);
  if (name == "attn_all_reduce" || name == "mlp_all_reduce" || name == "attn_reduce_scatter" ||
      name == "mlp_reduce_scatter")
    return reduce();
  if (name == "logits_gather") {
    for (std::size_t i = 0; i < sampled_rows.size(); ++i)
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        const Rank::Slice v = ranks[r].vocabulary(model.vocab);
        std::memcpy(logits + i * static_cast<std::size_t>(model.vocab) + v.first,
                    work[r].logits + i * static_cast<std::size_t>(v.count),
                    static_cast<std::size_t>(v.count) * sizeof(float));
      }
    return;
  }
  // Gathers of what is whole already, the table that every rank holds, and the sampling that the caller does.
}

void Transformer::State::run_rank(const Op& op, int layer, std::size_t r) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  if (name == "lm_head") {
    const auto n = static_cast<std::int64_t>(sampled_rows.size());
    gemm(rank.lm_head(), sampled, n, ranks.size() == 1 ? logits : w.logits);
    return;
  }
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
    if (std::get<MoeMlp>(kind.mlp).shared_gate) return gemm(weights.shared_down, w.act, rows, moe_out);
    return gemm(weights.shared_down, w.act, weights.shared_down.w.k, rows, w.partial, model.hidden, true);
  }
  if (name == "shared_gate") {
    gemm(weights.shared_mix, normed, rows, mix);
    kernels.sigmoid_gate(mix, 1, rows, model.hidden, moe_out);
    return kernels.add(moe_out, rows * model.hidden, w.partial);
  }
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) return grouped_query(op, layer, r, *a);
  if (const auto* a = std::get_if<MlaAttention>(&kind.mixer)) return latent_operator(op, layer, r, *a);
  throw Error(std::string(name), "the executor has no such operator");
}

void Transformer::State::grouped_query(const Op& op, int layer, std::size_t r, const GqaAttention& a) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t heads = rank.heads(a.heads).count, kv = rank.kv_heads(a.kv_heads).count;
  const std::int64_t k_at = heads * a.head_dim, v_at = k_at + kv * a.head_dim,
                     width = v_at + kv * a.v_head_dim;
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
    kernels.attention(attention_args(layer, rank, heads), rank.cache(layer), sequences_of(shape, next_chunk),
                      w.qkv, width, w.heads_out, heads * a.v_head_dim, scratch, threads);
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
  if (name == "kv_b_proj") return;  // runs with each prompt's attention, below: its rows are a prompt's alone
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
    const auto chunk = sequences_of(shape, next_chunk);
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
    gemm(rank.layer(layer).kv_b, up_latent, row, tokens, w.up, heads * up);
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

// Routes all rows, gathers each local expert's, multiplies, and adds the results up in the order in which
// each row chose them.
void Transformer::State::experts(int layer, std::size_t r) {
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const auto& e = std::get<MoeMlp>(kind_of(layer).mlp);
  RoutingArgs args = numerics.routing;
  args.experts = e.experts, args.top_k = e.top_k;
  args.correction = weights.correction;
  kernels.route(args, router_logits, rows, chosen, routing_weights);

  const Rank::Slice local = rank.experts(e.experts);
  const std::int64_t pairs = rows * e.top_k;
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
  kernels.gather_rows(normed, model.hidden, {order, static_cast<std::size_t>(taken)}, moe_in);
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
  kernels.combine_rows(moe_out, model.hidden, place, routing_weights, rows, e.top_k, false, w.partial);
}

void Transformer::State::prepare(std::span<const StepSequence> all) {
  sequences.clear(), row_positions.clear(), row_tokens.clear(), sampled_rows.clear();
  chunk_sequences.clear();
  asked = Work();
  first_decode = 0;
  rows = 0;
  std::vector<std::int64_t> windows = model.attention_windows();
  if (windows.empty()) windows.push_back(0);
  asked.contexts.assign(windows.size(), 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const StepSequence& s = all[i];
    const auto n = static_cast<std::int64_t>(s.tokens.size());
    if (n < 1 || s.cached + n > layout.max_length)
      throw Error("sequence",
                  fmt::format("{} new tokens after {} cached ones; at least 1 and at most {} in all", n,
                              s.cached, layout.max_length));
    if (rows + n > layout.max_tokens)
      throw Error("step", fmt::format("more than {} rows", layout.max_tokens));
    if (static_cast<std::int64_t>(i) >= layout.max_sequences)
      throw Error("step", fmt::format("more than {} sequences", layout.max_sequences));
    sequences.push_back({rows, n, s.cached, s.blocks});
    for (std::int64_t t = 0; t < n; ++t) {
      const std::int32_t token = s.tokens[static_cast<std::size_t>(t)];
      if (token < 0 || token >= model.vocab)
        throw Error("token", fmt::format("{} is not in a vocabulary of {}", token, model.vocab));
      row_tokens.push_back(token);
      row_positions.push_back(static_cast<std::int32_t>(s.cached + t));
    }
    rows += n;
    if (s.sample) sampled_rows.push_back(static_cast<std::int32_t>(rows - 1));
    if (s.decode) {
      ++asked.decode_sequences;
      asked.decode_queries = std::max(asked.decode_queries, n);
      for (std::size_t g = 0; g < windows.size(); ++g)
        asked.contexts[g] +=
            static_cast<double>(windows[g] > 0 ? std::min(s.cached + n, windows[g]) : s.cached + n);
    } else {
      if (asked.decode_sequences > 0) throw Error("step", "prompts come before decoding sequences");
      auto& chunks = asked.prefill;
      if (!chunks.empty() && chunks.back().new_tokens == n && chunks.back().cached == s.cached) {
        ++chunks.back().count;
        ++chunk_sequences.back().second;
      } else {
        chunks.push_back({n, s.cached, 1});
        chunk_sequences.emplace_back(i, 1);
      }
      first_decode = i + 1;
    }
  }
  asked.padded_tokens = rows;
  asked.sampled_rows = static_cast<std::int64_t>(sampled_rows.size());
  Shard shard;
  shard.tensor_parallel = layout.ranks;
  shard.expert_parallel = layout.expert_parallel;
  shard.moe_tensor_parallel = layout.moe_tensor_parallel;
  list = operators(model, shard, asked, precision);
}

void Transformer::State::execute() {
  runs.clear();
  const auto run = [&](const Op& op, int layer) {
    OperatorRun result{op, layer, 0};
    result.op.count = 1;
    if (is_shared(op.name)) {
      const auto start = Clock::now();
      run_shared(op, layer);
      result.seconds = result.all_seconds = seconds_since(start);
    } else {
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        const auto start = Clock::now();
        run_rank(op, layer, r);
        const double seconds = seconds_since(start);
        result.seconds = std::max(result.seconds, seconds);
        result.all_seconds += seconds;
      }
    }
    pending |= op.name == "o_proj" || op.name == "down_proj" || op.name == "experts";
    runs.push_back(std::move(result));
  };
  std::size_t i = 0;
  for (; i < list.ops.size() && list.ops[i].layer_kind < 0; ++i) run(list.ops[i], -1);
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer) {
    const int kind = model.layers[static_cast<std::size_t>(layer)];
    next_chunk = 0;
    for (const Op& op : list.ops) {
      if (op.layer_kind != kind) continue;
      run(op, static_cast<int>(layer));
      if (op.name == "attention" && !std::get<AttentionShape>(op.shape).decode) ++next_chunk;
    }
  }
  for (std::size_t t = 0; t < list.ops.size(); ++t)
    if (t >= i && list.ops[t].layer_kind < 0) run(list.ops[t], -1);
  if (numerics.final_softcap > 0)
    for (std::size_t l = 0; l < sampled_rows.size() * static_cast<std::size_t>(model.vocab); ++l)
      logits[l] = numerics.final_softcap * std::tanh(logits[l] / numerics.final_softcap);
}

namespace {

// What the operators here can't do, by name.
void check(const ModelConfig& m, const Layout& l) {
  const auto refuse = [](const std::string& what) {
    throw Error("model", what + ": the executor does not run it");
  };
  for (const LayerKind& kind : m.kinds) {
    if (kind.parallel) refuse("attention and feed-forward part in parallel");
    if (kind.residual_streams > 1) refuse("several residual streams");
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      if (a->output_gate || a->gate_width > 0) refuse("gated attention");
      if (a->value_is_key || a->shared_kv_projection) refuse("values taken from keys");
      if (a->index_heads > 0) refuse("block-sparse attention");
      if (l.ranks > 1 && a->qk_norm == GqaAttention::QkNorm::kFull)
        refuse("norms over all heads on several ranks");
      if (a->heads % l.ranks != 0) throw Error("tensor_parallel_size", "must divide the number of heads");
    } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
      if (latent->index_top_k > 0) refuse("sparse attention with an indexer");
      if (latent->output_gate) refuse("gated attention");
      if (latent->heads % l.ranks != 0)
        throw Error("tensor_parallel_size", "must divide the number of heads");
    } else {
      refuse("layer kind " + kind.name);
    }
    if (const auto* e = std::get_if<MoeMlp>(&kind.mlp)) {
      if (e->latent > 0) refuse("experts in a smaller space");
    } else if (!std::holds_alternative<DenseMlp>(kind.mlp)) {
      refuse("layer kind " + kind.name);
    }
  }
  if (m.embedding_norm) refuse("a norm after the embedding");
  if (m.embedding_projection > 0) refuse("projections around the embedding");
}

}  // namespace

Transformer::Transformer(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
                         const Kernels& kernels, const Layout& layout, const Precision& precision,
                         Threads& threads) {
  check(model, layout);
  state_ = std::make_unique<State>(model, numerics, checkpoint, kernels, layout, precision, threads);
}

Transformer::~Transformer() = default;

std::size_t Transformer::bytes_needed(const ModelConfig& model, const Numerics& numerics,
                                      const Checkpoint& checkpoint, const Kernels& kernels,
                                      const Layout& layout) {
  check(model, layout);
  std::size_t bytes = State::table_bytes(model, checkpoint, kernels, layout);
  for (int r = 0; r < layout.ranks; ++r) {
    const Rank::Sizes sizes = Rank::sizes(model, checkpoint, kernels, layout, r);
    bytes += sizes.weights + sizes.cache;
  }
  for (const Rope& rope : numerics.ropes)
    bytes +=
        2 * rope.inverse_frequencies.size() * static_cast<std::size_t>(layout.max_length) * sizeof(float);
  return bytes;
}

std::span<const float> Transformer::step(std::span<const StepSequence> sequences) {
  State& s = *state_;
  s.prepare(sequences);
  s.execute();
  return {s.logits, s.sampled_rows.size() * static_cast<std::size_t>(s.model.vocab)};
}

std::span<const OperatorRun> Transformer::operators_run() const { return state_->runs; }
const Layout& Transformer::layout() const { return state_->layout; }

}  // namespace foretoken
