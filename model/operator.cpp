// FLOPs and bytes of every shape (formulas.md 2.2, 2.5, 2.6).
#include "model/operator.h"

#include <algorithm>
#include <cmath>

namespace foretoken {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

double as_double(std::int64_t n) { return static_cast<double>(n); }

double matrices(const MoeShape& s) { return s.gated ? 3.0 : 2.0; }

// Cached and new tokens whose keys one prefill chunk reads.
double prefill_keys(const AttentionShape& a) {
  std::int64_t cached = a.cached;
  if (a.window > 0 && a.chunked)
    cached = std::min(cached, a.cached % a.window);
  else if (a.window > 0)
    cached = std::min(cached, a.window - 1);
  double keys = as_double(cached + a.new_tokens);
  if (a.compress_ratio > 0)
    keys += std::floor(as_double(a.cached + a.new_tokens) / as_double(a.compress_ratio));
  return keys;
}

double attention_bytes(const AttentionShape& a) {
  const double queries = as_double(a.sequences) * as_double(a.new_tokens);
  const double activation = bytes_of(a.activation);
  const double in_out = queries * as_double(a.heads) * as_double(a.qk_dim + a.v_dim) * activation;
  if (a.decode) return in_out + a.kv_tokens * a.kv_bytes_per_token;
  const double keys = as_double(a.sequences) * prefill_keys(a);
  if (a.mla && a.kv_heads > 1)  // keys and values were projected up: activations of every head
    return in_out + keys * as_double(a.kv_heads) * as_double(a.qk_dim + a.v_dim) * activation;
  return in_out + keys * a.kv_bytes_per_token;
}

}  // namespace

double causal_pairs(std::int64_t q, std::int64_t c, std::int64_t window) {
  if (q <= 0) return 0;
  const double n = as_double(q), past = as_double(c);
  if (window <= 0) return n * past + n * (n + 1) / 2;
  // Queries whose whole past fits see position + 1 tokens, the others `window`.
  const std::int64_t whole = std::clamp<std::int64_t>(window - c, 0, q);
  const double w = as_double(whole);
  return w * past + w * (w + 1) / 2 + as_double(q - whole) * as_double(window);
}

double chunked_pairs(std::int64_t q, std::int64_t c, std::int64_t chunk) {
  if (chunk <= 0) return causal_pairs(q, c, 0);
  // Sum over positions p in [0, n) of (p mod chunk) + 1.
  const auto up_to = [chunk](std::int64_t n) {
    const double full = as_double(n / chunk), rest = as_double(n % chunk), size = as_double(chunk);
    return full * size * (size + 1) / 2 + rest * (rest + 1) / 2;
  };
  return q <= 0 ? 0 : up_to(c + q) - up_to(c);
}

double compressed_pairs(std::int64_t q, std::int64_t c, std::int64_t ratio, std::int64_t top_k) {
  if (q <= 0 || ratio <= 0) return 0;
  // Sum over positions p in [1, n] of min(floor(p / ratio), top_k).
  const auto up_to = [ratio, top_k](std::int64_t n) {
    const std::int64_t limit = top_k > 0 ? top_k : n / ratio + 1;
    const std::int64_t free_to = std::min(n, limit * ratio - 1);  // last position below the cap
    const double full = as_double(free_to / ratio), size = as_double(ratio);
    const double rest = as_double(free_to % ratio);
    return size * full * (full - 1) / 2 + full * (rest + 1) + as_double(n - free_to) * as_double(limit);
  };
  return up_to(c + q) - up_to(c);
}

double attention_pairs(const AttentionShape& a) {
  const double n = as_double(a.sequences), q = as_double(a.new_tokens);
  // kv_tokens counts what the last of the queries sees; each earlier one sees one token less.
  if (a.decode) return std::max(0.0, q * a.kv_tokens - n * q * (q - 1) / 2);
  if (a.compress_ratio > 0)
    return n * (causal_pairs(a.new_tokens, a.cached, a.window) +
                compressed_pairs(a.new_tokens, a.cached, a.compress_ratio, a.top_k));
  if (a.chunked && a.window > 0) return n * chunked_pairs(a.new_tokens, a.cached, a.window);
  std::int64_t window = a.window;
  if (a.top_k > 0 && (window == 0 || a.top_k < window)) window = a.top_k;
  return n * causal_pairs(a.new_tokens, a.cached, window);
}

double expected_other_nodes(double num_experts, double top_k, double nodes) {
  // C(E-E/N, k)/C(E, k): none of the k experts lives on a given node.
  double none = 1;
  for (double i = 0; i < top_k; ++i)
    none *= std::max(0.0, num_experts - num_experts / nodes - i) / (num_experts - i);
  return (nodes - 1) * (1 - none);
}

double expected_experts(double num_experts, double top_k, double tokens) {
  if (num_experts <= 0 || top_k <= 0 || tokens <= 0) return 0;
  if (top_k >= num_experts) return num_experts;
  return -num_experts * std::expm1(tokens * std::log1p(-top_k / num_experts));
}

double quantised_row_bytes(WeightFormat format, std::int64_t width) {
  constexpr std::int64_t kBlock = 128;
  const std::int64_t scales = format == WeightFormat::kFp8Block ? (width + kBlock - 1) / kBlock : 1;
  return as_double(width + 4 * scales);
}

ElementwiseShape quantising(const GemmShape& p) {
  return {p.m * p.batch, as_double(p.k) * bytes_of(p.activation) + quantised_row_bytes(p.weight, p.k),
          3 * as_double(p.k)};
}

Flops flops(const Op& op) {
  return std::visit(
      Overloaded{
          [](const GemmShape& s) {
            return Flops(2.0 * as_double(s.m) * as_double(s.n) * as_double(s.k) * as_double(s.batch));
          },
          [](const MoeShape& s) {
            return Flops(2.0 * s.local_rows * matrices(s) * as_double(s.hidden) * as_double(s.inter));
          },
          [](const AttentionShape& s) {
            return Flops(2.0 * as_double(s.heads) * as_double(s.qk_dim + s.v_dim) * attention_pairs(s));
          },
          [](const IndexerShape& s) {
            return Flops(2.0 * s.pairs * as_double(s.heads) * as_double(s.head_dim));
          },
          // Update and read of the state; a chunked prefill spends the same within a factor that the price
          // knows.
          [](const RecurrentShape& s) {
            const double updates = s.form == Recurrence::kConvolution ? 2.0 : 4.0;
            return Flops(updates * as_double(s.tokens) * as_double(s.heads) * as_double(s.k_dim) *
                         as_double(s.v_dim));
          },
          [](const ElementwiseShape& s) { return Flops(as_double(s.rows) * s.flops_per_row); },
          [](const SamplingShape& s) { return Flops(4.0 * as_double(s.rows) * as_double(s.vocab)); },
          [](const CollectiveShape&) { return Flops(0); },
          [](const CopyShape&) { return Flops(0); },
      },
      op.shape);
}

Bytes bytes(const Op& op) {
  return std::visit(
      Overloaded{
          [](const GemmShape& s) {
            const double weight =
                s.weight_is_activation ? bytes_of(s.activation) : bytes_per_weight(s.weight, s.activation);
            const double m = as_double(s.m), n = as_double(s.n), k = as_double(s.k);
            const double of_x =
                s.quantised_input ? quantised_row_bytes(s.weight, s.k) : k * bytes_of(s.activation);
            return Bytes(as_double(s.batch) * (n * k * weight + m * of_x + m * n * bytes_of(s.output)));
          },
          [](const MoeShape& s) {
            const double h = as_double(s.hidden), inter = as_double(s.inter), a = bytes_of(s.activation);
            const double weights =
                s.distinct_experts * matrices(s) * h * inter * bytes_per_weight(s.weight, s.activation);
            // Rows in and out, the gate-up result and the activated half written and read.
            return Bytes(weights + s.local_rows * a * (2 * h + 2 * (matrices(s) - 1) * inter + 2 * inter));
          },
          [](const AttentionShape& s) { return Bytes(attention_bytes(s)); },
          [](const IndexerShape& s) {
            return Bytes(s.keys * s.key_bytes +
                         as_double(s.queries) * as_double(s.heads) * as_double(s.head_dim));
          },
          [](const RecurrentShape& s) {
            const std::int64_t values = s.form == Recurrence::kConvolution
                                            ? 2 * s.heads
                                            : 2 * (s.k_heads * s.k_dim + s.heads * s.v_dim);
            const double rows = as_double(s.tokens) * as_double(values) * bytes_of(s.activation);
            return Bytes(2.0 * as_double(s.sequences) * s.state_bytes + rows);
          },
          [](const ElementwiseShape& s) { return Bytes(as_double(s.rows) * s.bytes_per_row); },
          // Sorted: the values, places, sums and masks that the memory plan counts, written and read once.
          // Beams: log-softmax (read and written), then the best 2 w of each row by radix selection, a pass
          // for each byte of a number.
          [](const SamplingShape& s) {
            return Bytes((s.sorted  ? 56.0
                          : s.beams ? 8.0 + 16.0
                                    : 8.0) *
                         as_double(s.rows) * as_double(s.vocab));
          },
          [](const CollectiveShape& s) { return Bytes(2.0 * s.message_bytes); },
          [](const CopyShape& s) { return Bytes(s.bytes); },
      },
      op.shape);
}

DType compute_type(const Op& op, bool device_has_fp4) {
  return std::visit(
      Overloaded{
          [&](const GemmShape& s) {
            return s.weight_is_activation ? s.activation
                                          : compute_type(s.weight, s.activation, device_has_fp4);
          },
          [&](const MoeShape& s) { return compute_type(s.weight, s.activation, device_has_fp4); },
          [](const AttentionShape& s) { return s.activation; },
          [](const IndexerShape&) { return DType::kFp8; },
          [](const RecurrentShape& s) { return s.activation; },
          [](const ElementwiseShape&) { return DType::kF32; },
          [](const SamplingShape&) { return DType::kF32; },
          [](const CollectiveShape& s) { return s.element; },
          [](const CopyShape&) { return DType::kBf16; },
      },
      op.shape);
}

std::string_view kind_name(const Op& op) {
  return std::visit(Overloaded{
                        [](const GemmShape&) -> std::string_view { return "gemm"; },
                        [](const MoeShape&) -> std::string_view { return "moe"; },
                        [](const AttentionShape& s) -> std::string_view {
                          if (s.mla) return s.decode ? "mla_decode_attention" : "mla_prefill_attention";
                          return s.decode ? "decode_attention" : "prefill_attention";
                        },
                        [](const IndexerShape&) -> std::string_view { return "indexer"; },
                        [](const RecurrentShape&) -> std::string_view { return "recurrence"; },
                        [](const ElementwiseShape&) -> std::string_view { return "elementwise"; },
                        [](const SamplingShape&) -> std::string_view { return "sampling"; },
                        [](const CollectiveShape& s) -> std::string_view {
                          switch (s.kind) {
                            case Collective::kAllReduce:
                              return "all_reduce";
                            case Collective::kAllGather:
                              return "all_gather";
                            case Collective::kReduceScatter:
                              return "reduce_scatter";
                            case Collective::kAllToAll:
                              return "all_to_all";
                            case Collective::kSendRecv:
                              return "send_recv";
                          }
                          return "collective";
                        },
                        [](const CopyShape&) -> std::string_view { return "copy"; },
                    },
                    op.shape);
}

std::vector<Op> expand(const Op& op) {
  const auto* moe = std::get_if<MoeShape>(&op.shape);
  if (moe == nullptr) return {op};
  // The experts that are hit get equal shares of the rows; their grouped GEMMs are one batch.
  const std::int64_t hit = std::max<std::int64_t>(1, std::llround(moe->distinct_experts));
  const auto rows = static_cast<std::int64_t>(std::ceil(moe->local_rows));
  const std::int64_t rows_each = std::max<std::int64_t>(1, (rows + hit - 1) / hit);
  const double a = bytes_of(moe->activation), h = as_double(moe->hidden), inter = as_double(moe->inter);
  const std::int64_t up_width = (moe->gated ? 2 : 1) * moe->inter;
  const auto part = [&op](std::string_view name, Shape shape) {
    Op p = op;
    p.name = name;
    p.shape = std::move(shape);
    return p;
  };
  const auto gemm = [&](std::int64_t n, std::int64_t k) {
    return GemmShape{.m = rows_each,
                     .n = n,
                     .k = k,
                     .batch = hit,
                     .weight = moe->weight,
                     .activation = moe->activation,
                     .output = moe->activation};
  };
  return {
      part("experts_permute", ElementwiseShape{rows, 2 * h * a, 0}),
      part("experts_gate_up", gemm(up_width, moe->hidden)),
      part("experts_activation", ElementwiseShape{rows, (as_double(up_width) + inter) * a, 5 * inter}),
      part("experts_down", gemm(moe->hidden, moe->inter)),
      part("experts_combine", ElementwiseShape{rows, 2 * h * a, 2 * h}),
  };
}

}  // namespace foretoken
