// Attention of every kind: projections, cache, the core by prefill chunk and for all decoding sequences,
// indexers.
#include <algorithm>
#include <cmath>

#include "model/op_builder.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

int group_of(const std::vector<std::int64_t>& windows, std::int64_t window) {
  const auto it = std::find(windows.begin(), windows.end(), window);
  return it == windows.end() ? 0 : static_cast<int>(it - windows.begin());
}

}  // namespace

// Attended tokens of all decoding sequences. A missing sum is derived from the first: equal contexts.
double OpBuilder::decode_context(int group, std::int64_t window) const {
  const auto& contexts = work_.contexts;
  const auto g = static_cast<std::size_t>(group);
  if (g < contexts.size()) return contexts[g];
  if (contexts.empty()) return d(decode_rows());
  return window > 0 ? std::min(contexts[0], d(work_.decode_sequences) * d(window)) : contexts[0];
}

// Every key of the prompt for every query: the mask is applied to the finished scores. Heads are copied
// together before each product and after the last.
void OpBuilder::unfused_attention(const AttentionShape& a) {
  const std::int64_t batch = a.sequences * a.heads, rows = batch * a.new_tokens,
                     keys = a.cached + a.new_tokens;
  const auto product = [&](std::string_view name, std::int64_t n, std::int64_t k) {
    add(name,
        GemmShape{.m = a.new_tokens,
                  .n = n,
                  .k = k,
                  .batch = batch,
                  .activation = a.activation,
                  .output = a.activation,
                  .weight_is_activation = true},
        OpScope::kPrefillAttention);
  };
  elementwise("attention_copies", batch * keys, 2 * d(a.qk_dim), 0, 2);
  product("attention_scores", keys, a.qk_dim);
  elementwise("attention_scale_mask", rows, 2 * d(keys), d(keys), 2);
  elementwise("attention_softmax", rows, 2 * d(keys), 5 * d(keys));
  elementwise("attention_copies", batch * keys, 2 * d(a.v_dim), 0, 2);
  product("attention_values", a.v_dim, keys);
}

void OpBuilder::causal_attention(const AttentionShape& prefill, const AttentionShape& decode, int group) {
  for (const PrefillChunk& chunk : work_.prefill) {
    if (chunk.new_tokens <= 0 || chunk.count <= 0) continue;
    AttentionShape a = prefill;
    a.sequences = chunk.count;
    a.new_tokens = chunk.new_tokens;
    a.cached = chunk.cached;
    a.in_shared_call = work_.one_attention_call && !a.mla;
    if (fusion_.attention)
      add("attention", a, OpScope::kPrefillAttention, 1, group);
    else
      unfused_attention(a);
  }
  if (!has_decode()) return;
  AttentionShape a = decode;
  a.decode = true;
  a.in_shared_call = work_.one_attention_call && !a.mla;
  a.sequences = work_.decode_sequences;
  a.new_tokens = work_.decode_queries;
  a.kv_tokens = decode_context(group, a.window);
  const double sequences = d(a.sequences);
  if (a.compress_ratio > 0) {
    const double full = decode_context(0, 0);
    double compressed = std::floor(full / d(a.compress_ratio));
    if (a.top_k > 0) compressed = std::min(compressed, sequences * d(a.top_k));
    a.kv_tokens += compressed;
  } else if (a.top_k > 0) {
    a.kv_tokens = std::min(a.kv_tokens, sequences * d(a.top_k));
  }
  add("attention", a, OpScope::kDecodeAttention, 1, group);
}

// Scores all earlier keys (one of every `ratio` for compressed caches). Below top_k keys every key is
// selected and nothing is scored, but queries and keys are still projected.
void OpBuilder::indexer(std::int64_t q_width, std::int64_t heads, std::int64_t dim, std::int64_t top_k,
                        double key_bytes, std::int64_t ratio, bool head_weights) {
  gemm("indexer_proj", rows_, heads * dim, q_width, format(Component::kAttention));
  // The token's own key, for compressed caches its halves and gates; a weight for each head but in block
  // selection.
  const std::int64_t key_width = (ratio == 1 ? 1 : 4) * dim + (head_weights ? heads : 0);
  gemm("indexer_proj", rows_, key_width, model_.hidden, format(Component::kAttention));
  for (const PrefillChunk& c : work_.prefill) {
    const std::int64_t keys = (c.cached + c.new_tokens) / ratio;
    if (keys <= top_k || c.count <= 0) continue;
    const double pairs = ratio == 1 ? causal_pairs(c.new_tokens, c.cached, 0)
                                    : compressed_pairs(c.new_tokens, c.cached, ratio, 0);
    add("indexer",
        IndexerShape{.queries = c.new_tokens * c.count,
                     .pairs = pairs * d(c.count),
                     .keys = d(keys * c.count),
                     .heads = heads,
                     .head_dim = dim,
                     .key_bytes = key_bytes},
        OpScope::kPrefillAttention);
  }
  if (!has_decode()) return;
  const double keys = decode_context(0, 0) / d(ratio);
  if (keys <= d(work_.decode_sequences * top_k)) return;
  add("indexer",
      IndexerShape{.queries = decode_rows(),
                   .pairs = keys * d(work_.decode_queries),
                   .keys = keys,
                   .heads = heads,
                   .head_dim = dim,
                   .key_bytes = key_bytes},
      OpScope::kDecodeAttention);
}

// Keys, then values, are copied to where the new ones fit behind them; prompts find nothing there yet. bytes:
// of both, of a token.
void OpBuilder::concatenate(double bytes, std::int64_t window) {
  constexpr int kTensors = 2;
  const auto copy = [&](std::int64_t tokens, OpScope scope) {
    if (tokens > 0)
      add("kv_concat", ElementwiseShape{tokens, 2 * bytes / kTensors, 0}, scope, kTensors,
          group_of(list_.windows, window));
  };
  std::int64_t tokens = 0;
  for (const PrefillChunk& c : work_.prefill) tokens += c.new_tokens * c.count;
  copy(tokens, OpScope::kPrefillAttention);
  if (has_decode())
    copy(std::llround(decode_context(group_of(list_.windows, window), window)), OpScope::kDecodeAttention);
}

void OpBuilder::mixer(const GqaAttention& a) {
  const WeightFormat w = format(Component::kAttention);
  const std::int64_t heads = split(a.heads), kv = kv_heads_on_rank(a.kv_heads, shard_.tensor_parallel);
  const std::int64_t q = heads * a.head_dim * (a.output_gate ? 2 : 1), k = kv * a.head_dim;
  const std::int64_t v = (a.value_is_key || a.shared_kv_projection) ? 0 : kv * a.v_head_dim;
  const double kvb = bytes_of(precision_.kv);
  if (fusion_.qkv) {
    of_normed("qkv_proj", q + k + v, w);
  } else {
    of_normed("q_proj", q, w);
    of_normed("k_proj", k, w);
    of_normed("v_proj", v, w);
  }
  lora(LoraModule::kQkv);
  if (a.gate_width > 0) gemm("gate_proj", rows_, heads * a.gate_width, model_.hidden, WeightFormat::kPlain);
  const double qk = d(heads * a.head_dim + k);
  if (a.qk_norm != GqaAttention::QkNorm::kNone) elementwise("qk_norm", rows_, 2 * qk, 5 * qk);
  const double cached = d(kv) * d(a.head_dim + (a.value_is_key ? 0 : a.v_head_dim));
  const double write = cached * (element_ + kvb);
  if (fusion_.rope_kv_write && a.rotary) {
    add("rope", ElementwiseShape{rows_, 2 * qk * element_ + write, 3 * qk});
  } else {
    // Composed: product, negative half, halves put together, product, sum; of queries and of keys.
    if (a.rotary)
      elementwise("rope", rows_, fusion_.composed ? qk : 2 * qk, 3 * qk / (fusion_.composed ? 10 : 1),
                  fusion_.composed ? 10 : 1);
    if (fusion_.composed)
      concatenate(cached * kvb, a.window);
    else if (fusion_.attention)
      add("kv_write", ElementwiseShape{rows_, write, 0});
  }
  if (a.index_heads > 0)
    indexer(model_.hidden, a.index_heads, a.index_head_dim, a.index_top_k, 2.0 * d(a.index_head_dim), 1,
            false);
  AttentionShape s;
  s.heads = heads;
  s.kv_heads = kv;
  s.qk_dim = a.head_dim;
  s.v_dim = a.v_head_dim;
  s.window = a.window;
  s.chunked = a.chunked;
  s.top_k = a.index_top_k;
  s.activation = precision_.activation;
  s.kv = precision_.kv;
  s.kv_bytes_per_token = cached * kvb;
  causal_attention(s, s, group_of(list_.windows, a.window));
  if (a.output_gate || a.gate_width > 0)
    elementwise("output_gate", rows_, 3 * d(heads * a.v_head_dim), 5 * d(heads * a.v_head_dim));
  gemm("o_proj", rows_, model_.hidden, heads * a.v_head_dim, w);
  lora(LoraModule::kO);
}

void OpBuilder::mixer(const MlaAttention& a) {
  const WeightFormat w = format(Component::kAttention);
  const std::int64_t heads = split(a.heads), qk_dim = a.nope_dim + a.rope_dim;
  const std::int64_t latent = a.kv_lora_rank + a.rope_dim;
  const double kvb = bytes_of(precision_.kv);
  if (a.q_lora_rank > 0) of_normed("q_a_proj", a.q_lora_rank, w);
  of_normed("kv_a_proj", latent, w);
  elementwise("qk_norm", rows_, 2 * d(a.q_lora_rank + a.kv_lora_rank), 5 * d(a.q_lora_rank + a.kv_lora_rank));
  if (a.q_lora_rank > 0)
    gemm("q_b_proj", rows_, heads * qk_dim, a.q_lora_rank, w);
  else
    of_normed("q_b_proj", heads * qk_dim, w);
  if (a.output_gate) gemm("gate_proj", rows_, heads * a.v_dim, model_.hidden, w);
  const double turned = d((heads + 1) * a.rope_dim), write = d(latent) * (element_ + kvb);
  if (fusion_.rope_kv_write && a.rotary) {
    add("rope", ElementwiseShape{rows_, 2 * turned * element_ + write, 3 * turned});
  } else {
    if (a.rotary) elementwise("rope", rows_, 2 * turned, 3 * turned);
    add("kv_write", ElementwiseShape{rows_, write, 0});
  }
  const std::int64_t index_width = a.q_lora_rank > 0 ? a.q_lora_rank : model_.hidden;
  if (a.has_indexer)
    indexer(index_width, a.index_heads, a.index_head_dim, a.index_top_k,
            d(a.index_head_dim + 4 * ((a.index_head_dim + 127) / 128)), 1, true);

  AttentionShape s;
  s.heads = heads;
  s.top_k = a.index_top_k;
  s.mla = true;
  s.activation = precision_.activation;
  s.kv = precision_.kv;
  s.kv_bytes_per_token = d(latent) * kvb;
  // A sparse prefill gathers latents and so works absorbed, as decode does; a dense one projects keys and
  // values up.
  const bool absorbed_prefill = a.index_top_k > 0;
  std::int64_t up_rows = 0, absorbed_rows = decode_rows();
  for (const PrefillChunk& c : work_.prefill) {
    if (absorbed_prefill)
      absorbed_rows += c.new_tokens * c.count;
    else
      up_rows += (c.new_tokens + c.cached) * c.count;
  }
  AttentionShape latent_shape = s;
  latent_shape.kv_heads = 1;
  latent_shape.qk_dim = latent;
  latent_shape.v_dim = a.kv_lora_rank;
  AttentionShape up_shape = s;
  up_shape.kv_heads = heads;
  up_shape.qk_dim = qk_dim;
  up_shape.v_dim = a.v_dim;
  const OpScope absorbed_scope = absorbed_prefill ? OpScope::kTokens : OpScope::kDecodeAttention;
  gemm("kv_b_proj", up_rows, heads * (a.nope_dim + a.v_dim), a.kv_lora_rank, w, 1,
       OpScope::kPrefillAttention);
  // The absorbed halves of kv_b_proj are kept dequantised.
  gemm("absorb_k", absorbed_rows, a.kv_lora_rank, a.nope_dim, WeightFormat::kPlain, heads, absorbed_scope);
  causal_attention(absorbed_prefill ? latent_shape : up_shape, latent_shape, 0);
  gemm("absorb_v", absorbed_rows, a.v_dim, a.kv_lora_rank, WeightFormat::kPlain, heads, absorbed_scope);
  if (a.output_gate) elementwise("output_gate", rows_, 3 * d(heads * a.v_dim), 5 * d(heads * a.v_dim));
  gemm("o_proj", rows_, model_.hidden, heads * a.v_dim, w);
}

void OpBuilder::mixer(const CompressedAttention& a) {
  const WeightFormat w = format(Component::kAttention);
  const std::int64_t heads = split(a.heads);
  const double kvb = bytes_of(precision_.kv);
  gemm("q_a_proj", rows_, a.q_lora_rank, model_.hidden, w);
  gemm("kv_a_proj", rows_, a.head_dim, model_.hidden, w);
  if (a.ratio > 0) gemm("compressor", rows_, 2 * a.compressor_width(), model_.hidden, w);
  elementwise("qk_norm", rows_, 2 * d(a.q_lora_rank + a.head_dim), 5 * d(a.q_lora_rank + a.head_dim));
  gemm("q_b_proj", rows_, heads * a.head_dim, a.q_lora_rank, w);
  elementwise("rope", rows_, 2 * d((heads + 1) * a.rope_dim), 3 * d((heads + 1) * a.rope_dim));
  const double entries = 1 + (a.ratio > 0 ? 1 / d(a.ratio) : 0.0);
  add("kv_write", ElementwiseShape{rows_, entries * d(a.head_dim) * (element_ + kvb), 0});
  if (a.index_heads > 0)
    indexer(a.q_lora_rank, a.index_heads, a.index_head_dim, a.index_top_k,
            d(a.index_head_dim + 4 * ((a.index_head_dim + 127) / 128)), a.ratio, true);
  AttentionShape s;
  s.heads = heads;
  s.kv_heads = 1;
  s.qk_dim = s.v_dim = a.head_dim;
  s.window = a.window;
  s.compress_ratio = a.ratio;
  s.top_k = a.index_top_k;
  s.activation = precision_.activation;
  s.kv = precision_.kv;
  s.kv_bytes_per_token = d(a.head_dim) * kvb;
  causal_attention(s, s, group_of(list_.windows, a.window));
  const std::int64_t groups = split(a.o_groups);
  gemm("o_a_proj", rows_, a.o_lora_rank, heads * a.head_dim / groups, w, groups);
  gemm("o_proj", rows_, model_.hidden, groups * a.o_lora_rank, w);
}

}  // namespace foretoken
