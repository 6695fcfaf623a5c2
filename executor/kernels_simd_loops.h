// The loops behind SimdOps for vectors of kLanes floats; included once by each file that is compiled for an
// instruction set (FORETOKEN_LANES, FORETOKEN_OPS, and FORETOKEN_BF16_PAIRS where it multiplies pairs).
// Everything is in an unnamed namespace and uses builtins only: see kernels_simd.h.
#include <cstring>

#include "executor/kernels_simd.h"
#include "executor/kernels_simd_products.h"
#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

// ---- attention ----

template <Storage storage>
void load_row_as(const std::byte* row, float scale, Index dims, float* out) {
  Index i = 0;
  alignas(64) std::byte tail[4 * kLanes] = {};
  const Index width = storage == Storage::kF32                                ? 4
                      : storage == Storage::kBf16 || storage == Storage::kF16 ? 2
                                                                              : 1;
  for (; i < dims; i += kLanes) {
    const std::byte* from = row + i * width;
    if (i + kLanes > dims) {
      __builtin_memcpy(tail, from, static_cast<std::size_t>((dims - i) * width));
      from = tail;
    }
    V v;
    switch (storage) {
      case Storage::kF32:
        v = load<V>(from);
        break;
      case Storage::kBf16:
        v = as_float(__builtin_convertvector(load<U16>(from), U) << 16);
        break;
      case Storage::kF16:
        v = from_f16(__builtin_convertvector(load<U16>(from), U));
        break;
      case Storage::kFp8:
        v = from_fp8(__builtin_convertvector(load<U8>(from), U)) * scale;
        break;
      default:
        v = __builtin_convertvector(load<S8>(from), V) * scale;
    }
    store(out + i, v);  // out is padded to whole vectors
  }
}

void load_row(Storage storage, const std::byte* row, float scale, Index dims, float* out) {
  switch (storage) {
    case Storage::kF32:
      return load_row_as<Storage::kF32>(row, scale, dims, out);
    case Storage::kBf16:
      return load_row_as<Storage::kBf16>(row, scale, dims, out);
    case Storage::kF16:
      return load_row_as<Storage::kF16>(row, scale, dims, out);
    case Storage::kFp8:
      return load_row_as<Storage::kFp8>(row, scale, dims, out);
    default:
      return load_row_as<Storage::kInt8>(row, scale, dims, out);
  }
}

// For each pair of rows that differ in bit `step`: swaps the lanes where row and lane differ in it.
template <int step, int... l>
inline __attribute__((always_inline)) void exchange(V* v, std::integer_sequence<int, l...> lanes) {
  if constexpr (step < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & step) continue;
      const V a = v[i], b = v[i + step];
      v[i] = __builtin_shuffle(a, b, I{(l & step ? kLanes + l - step : l)...});
      v[i + step] = __builtin_shuffle(a, b, I{(l & step ? kLanes + l : l + step)...});
    }
    exchange<2 * step>(v, lanes);
  }
}

// rows[kLanes][stride] at a column -> its transpose, kLanes columns wide.
inline void transpose(const float* rows, Index stride, float* out, Index out_stride) {
  V v[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) v[i] = load<V>(rows + i * stride);
  exchange<1>(v, std::make_integer_sequence<int, kLanes>{});
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(out + i * out_stride, v[i]);
}

// Keys [first, last) of the sequence: keys transposed [dim][kKeyTile], values [key][v_stride]; zeros beyond.
void load_tile(const AttendTask& t, Index first, Index last, Index d, Index v_stride, float* rows,
               float* keys, float* values) {
  const CacheLayer& cache = *t.cache;
  const Index key_width = cache.storage == Storage::kF32                                      ? 4
                          : cache.storage == Storage::kBf16 || cache.storage == Storage::kF16 ? 2
                                                                                              : 1;
  for (Index base = 0; base < kKeyTile; base += kLanes) {
    for (Index i = 0; i < kLanes; ++i) {
      float* row = rows + i * d;
      float* value = values + (base + i) * v_stride;
      const Index token = first + base + i;
      if (token >= last) {
        __builtin_memset(row, 0, static_cast<std::size_t>(d) * 4);
        __builtin_memset(value, 0, static_cast<std::size_t>(v_stride) * 4);
        continue;
      }
      const Index place = t.sequence->branch && token >= t.sequence->branch_from
                              ? t.sequence->branch[token - t.sequence->branch_from]
                              : token;
      const Index slot =
          (static_cast<Index>(t.sequence->blocks[place / cache.block_size]) * cache.heads + t.cache_head) *
              cache.block_size +
          place % cache.block_size;
      load_row(cache.storage, cache.keys + slot * cache.k_dim * key_width,
               cache.key_scales ? cache.key_scales[slot] : 1.0f, cache.k_dim, row);
      if (cache.v_dim)
        load_row(cache.storage, cache.values + slot * cache.v_dim * key_width,
                 cache.value_scales ? cache.value_scales[slot] : 1.0f, cache.v_dim, value);
      else
        __builtin_memcpy(value, row, static_cast<std::size_t>(t.args->v_dim) * 4);
    }
    for (Index i = 0; i < d; i += kLanes) transpose(rows + i, d, keys + i * kKeyTile + base, kKeyTile);
  }
}

// One query's scores of a tile -> weights; its running maximum, sum and output are brought along. Lanes
// outside [low, high) have no part.
void soften(float softcap, Index low, Index high, float* scores, float* maximum, float* total, float* out,
            Index v_stride) {
  if (low >= high) {
    __builtin_memset(scores, 0, kKeyTile * sizeof(float));
    return;
  }
  I lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  V best = all(-3.4e38f);
  for (Index j = 0; j < kKeyTile; j += kLanes) {
    V s = load<V>(scores + j);
    if (softcap != 0) s = softcap * hyperbolic_tangent(s / softcap);
    const I at = lane + static_cast<std::int32_t>(j);
    s = choose((at >= static_cast<std::int32_t>(low)) & (at < static_cast<std::int32_t>(high)), s,
               all(-3.4e38f));
    store(scores + j, s);
    best = larger(best, s);
  }
  const float now = largest(best) > *maximum ? largest(best) : *maximum;
  V sums = V{};
  for (Index j = 0; j < kKeyTile; j += kLanes) {
    const V s = load<V>(scores + j);
    const V p = choose(s > -3.39e38f, exponential(s - now), V{});
    store(scores + j, p);
    sums += p;
  }
  if (now != *maximum) {
    const float shrink = exponential(all(*maximum - now))[0];
    *total *= shrink;
    for (Index j = 0; j < v_stride; j += kLanes) store(out + j, load<V>(out + j) * shrink);
    *maximum = now;
  }
  *total += sum(sums);
}

void attend(const AttendTask& t) {
  const AttentionArgs& a = *t.args;
  const Index d = (a.qk_dim + 15) / 16 * 16, v = (a.v_dim + 15) / 16 * 16, queries = t.rows * t.heads;
  float* keys = t.scratch;
  float* rows = keys + d * kKeyTile;
  float* values = rows + kTile * d;
  float* scores = values + v * kKeyTile;
  float* out = scores + kQueries * kKeyTile;
  float* q = out + kQueries * v;
  float* maximum = q + kQueries * d;
  float* total = maximum + kQueries;
  __builtin_memset(rows, 0, static_cast<std::size_t>(kTile * d) * 4);
  __builtin_memset(values, 0, static_cast<std::size_t>(v * kKeyTile) * 4);
  __builtin_memset(out, 0, static_cast<std::size_t>(queries * v) * 4);
  for (Index i = 0; i < queries; ++i) {
    const Index head = t.first_head + i % t.heads;
    const float* from =
        t.q + (t.sequence->first_row + t.first_row + i / t.heads) * t.q_stride + head * a.qk_dim;
    for (Index j = 0; j < a.qk_dim; ++j) q[i * d + j] = from[j] * a.scale;
    maximum[i] = a.sinks ? a.sinks[head] : -3.4e38f;
    total[i] = a.sinks ? 1 : 0;
  }
  const auto begin_of = [&](Index position) {
    if (!a.window) return Index{0};
    return a.chunked ? position / a.window * a.window : most(0, position - a.window + 1);
  };
  const Index first_position = t.sequence->cached + t.first_row, last = first_position + t.rows;
  for (Index base = begin_of(first_position) / kKeyTile * kKeyTile; base < last; base += kKeyTile) {
    load_tile(t, base, last, d, v, rows, keys, values);
    multiply<false>(queries, kKeyTile / kTile, q, d, keys, kTile, kKeyTile, a.qk_dim, Into::kStore, nullptr,
                    0, scores, kKeyTile);
    for (Index i = 0; i < queries; ++i) {
      const Index position = first_position + i / t.heads;
      soften(a.softcap, most(0, begin_of(position) - base), least(kKeyTile, position + 1 - base),
             scores + i * kKeyTile, maximum + i, total + i, out + i * v, v);
    }
    multiply<false>(queries, v / kTile, scores, kKeyTile, values, kTile, v, least(kKeyTile, last - base),
                    Into::kAdd, nullptr, 0, out, v);
  }
  for (Index i = 0; i < queries; ++i) {
    float* to = t.out + (t.sequence->first_row + t.first_row + i / t.heads) * t.out_stride +
                (t.first_head + i % t.heads) * a.v_dim;
    const float inverse = 1 / total[i];
    for (Index j = 0; j < a.v_dim; ++j) to[j] = out[i * v + j] * inverse;
  }
}

// ---- rows of values ----

template <class F>  // f(offset, valid lanes): whole vectors, then the rest
inline void for_vectors(Index width, F f) {
  Index i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, kLanes);
  if (i < width) f(i, static_cast<int>(width - i));
}
inline V load_some(const float* from, int count) {
  if (count == kLanes) return load<V>(from);
  V v = V{};
  for (int i = 0; i < count; ++i) v[i] = from[i];
  return v;
}
inline void store_some(float* to, V v, int count) {
  if (count == kLanes) return store(to, v);
  for (int i = 0; i < count; ++i) to[i] = v[i];
}

void norm(const NormArgs& args, const float* x, Index x_stride, Index rows, Index width, float* y,
          Index y_stride) {
  for (Index r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    float mean = 0;
    if (args.kind == NormKind::kLayer) {
      V total = V{};
      for_vectors(width, [&](Index i, int n) { total += load_some(x + i, n); });
      mean = sum(total) / static_cast<float>(width);
    }
    V squares = V{};
    for_vectors(width, [&](Index i, int n) {
      V v = load_some(x + i, n) - mean;
      if (n < kLanes)
        for (int j = n; j < kLanes; ++j) v[j] = 0;
      squares += v * v;
    });
    const float inverse = 1 / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + args.epsilon);
    for_vectors(width, [&](Index i, int n) {
      V v = (load_some(x + i, n) - mean) * inverse;
      if (args.weight) v = v * (load_some(args.weight + i, n) + args.offset);
      if (args.bias) v = v + load_some(args.bias + i, n);
      store_some(y + i, v, n);
    });
  }
}

inline V activate(const ActivationArgs& args, V x) {
  switch (args.kind) {
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kGeluTanh:
      return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));  // tanh(u) = 2 sigmoid(2u) - 1
    case Activation::kReluSquared:
      return larger(x, V{}) * larger(x, V{});
    default:
      return larger(x, V{});
  }
}

void activation(const ActivationArgs& args, const float* x, Index rows, Index width, float* y) {
  const bool gated = args.gated || args.kind == Activation::kClampedSwiglu;
  for (Index r = 0; r < rows; ++r, x += gated ? 2 * width : width, y += width)
    for_vectors(width, [&](Index i, int n) {
      V gate = load_some(x + i, n);
      V v;
      if (args.kind == Activation::kClampedSwiglu) {
        gate = smaller(gate, all(args.limit));
        const V up = larger(smaller(load_some(x + width + i, n), all(args.limit)), all(-args.limit));
        v = gate * sigmoid(args.alpha * gate) * (up + 1.0f);
      } else {
        v = activate(args, gate);
        if (gated) v = v * load_some(x + width + i, n);
      }
      store_some(y + i, v, n);
    });
}

}  // namespace

extern const SimdOps FORETOKEN_OPS;
const SimdOps FORETOKEN_OPS = {FORETOKEN_NAME, rounded_stride, round_rows, gemm, attend, norm, activation};

}  // namespace foretoken
