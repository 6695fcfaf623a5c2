// Attention over a paged cache on vectors: part of kernels_simd_loops.h, which says how it is included.
//
// A cache of bf16, int8 or fp8 holds numbers that bf16 has exactly (before their scale): its products take
// bf16, so queries and softmax weights are rounded to it; scales go to scores and weights. Caches of f32 and
// f16 take floats. One chain of sums along the dims of a score and along the keys of an output, whatever the
// number of queries: a few (decoding) go key by key while the next tile is fetched, many as blocks.
#pragma once

#include <utility>

#include "executor/kernels_simd_products.h"
#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

inline __attribute__((always_inline)) constexpr Index width_of(Storage storage) {
  return storage == Storage::kF32 ? 4 : storage == Storage::kBf16 || storage == Storage::kF16 ? 2 : 1;
}
constexpr bool rounds(Storage storage) { return storage != Storage::kF32 && storage != Storage::kF16; }

// Elements of a vector of the products' kind: bf16 pairs or floats.
template <bool pairs>
constexpr Index kElements = pairs ? 2 * kLanes : kLanes;

template <bool pairs, Storage storage>
inline __attribute__((always_inline)) V cached(const std::byte* from) {
  if constexpr (pairs)
    return halves<storage>(from);
  else if constexpr (storage == Storage::kF32)
    return load<V>(from);
  else if constexpr (storage == Storage::kBf16)
    return as_float(__builtin_convertvector(load<U16>(from), U) << 16);
  else if constexpr (storage == Storage::kF16)
    return from_f16(__builtin_convertvector(load<U16>(from), U));
  else if constexpr (storage == Storage::kFp8)
    return from_fp8(widen(load<U8>(from)));
  else
    return to_float(load<S8>(from));
}

// The same where the row ends within the vector: zeros beyond.
template <bool pairs, Storage storage>
inline V cached_some(const std::byte* from, Index elements) {
  alignas(64) std::byte tail[64] = {};
  __builtin_memcpy(tail, from, static_cast<std::size_t>(elements * width_of(storage)));
  return cached<pairs, storage>(tail);
}

// v[row] lane by lane -> its transpose, in steps that swap a bit of the row's index with one of the lane's:
// two within each four lanes (interleaving, the cheapest shuffles), then `step` 4 and 8.
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
template <int... l>
inline __attribute__((always_inline)) void transpose(V* v, std::integer_sequence<int, l...> lanes) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
    V t[4];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      t[2 * j] = __builtin_shuffle(v[i + 2 * j], v[i + 2 * j + 1],
                                   I{(l / 4 * 4 + l % 4 / 2 + l % 2 * kLanes)...});
      t[2 * j + 1] = __builtin_shuffle(v[i + 2 * j], v[i + 2 * j + 1],
                                       I{(l / 4 * 4 + 2 + l % 4 / 2 + l % 2 * kLanes)...});
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      v[i + 2 * j] = __builtin_shuffle(t[j], t[2 + j], I{(l / 4 * 4 + l % 2 + l % 4 / 2 * kLanes)...});
      v[i + 2 * j + 1] =
          __builtin_shuffle(t[j], t[2 + j], I{(l / 4 * 4 + 2 + l % 2 + l % 4 / 2 * kLanes)...});
    }
  }
  exchange<4>(v, lanes);
}

// Where the keys of a tile lie; beyond the last, a row of zeros.
struct TileRows {
  const std::byte *keys[kKeyTile], *values[kKeyTile];
  alignas(64) float key_scales[kKeyTile], value_scales[kKeyTile];
};

struct Attend {
  const AttendTask& task;
  Index d, v, units;              // 4-byte units of a key and a value in whole vectors; those of a key in use
  float *keys, *values, *scores;  // panels [unit][kKeyTile] and [key or pair][v]; [query][kKeyTile]
  float *out, *q, *maximum, *total;  // [query]; total in as many parts as a vector has lanes
  const std::byte* zeros;

  void rows_of(Index head, Index first, Index last, TileRows& to) const {
    const CacheLayer& c = *task.cache;
    const Index width = width_of(c.storage), k_bytes = c.k_dim * width, v_bytes = c.v_dim * width,
                count = least(kKeyTile, last - first);
    const bool scaled = c.storage == Storage::kInt8 || c.storage == Storage::kFp8;
    for (Index i = 0; i < count;) {
      const Index at = (first + i) % c.block_size, end = least(count, i + c.block_size - at);
      Index slot = (task.sequence->blocks[(first + i) / c.block_size] * c.heads + task.cache_head + head) *
                       c.block_size +
                   at;
      const std::byte *key = c.keys + slot * k_bytes, *value = c.v_dim ? c.values + slot * v_bytes : key;
      const float* value_scales = c.v_dim ? c.value_scales : c.key_scales;
      for (; i < end; ++i, ++slot, key += k_bytes, value += c.v_dim ? v_bytes : k_bytes) {
        to.keys[i] = key;
        to.values[i] = value;
        if (scaled) to.key_scales[i] = c.key_scales[slot], to.value_scales[i] = value_scales[slot];
      }
    }
    for (Index i = count; i < kKeyTile; ++i) {
      to.keys[i] = to.values[i] = zeros;
      to.key_scales[i] = to.value_scales[i] = 0;
    }
  }
};

// Keys [base, base + 16) of a tile into its panel, transposed; meanwhile those of `next` are fetched.
template <bool pairs, Storage storage>
void load_keys(const Attend& a, const TileRows& rows, Index base, const TileRows* next) {
  const Index dims = a.task.cache->k_dim, width = width_of(storage);
  for (Index part = base; part < base + kTile; part += kLanes) {
    for (Index u = 0; u < a.units; u += kLanes) {
      V v[kLanes];
      const Index first = u / kLanes * kElements<pairs>;
      if (first + kElements<pairs> <= dims) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          v[i] = cached<pairs, storage>(rows.keys[part + i] + first * width);
      } else {
        for (int i = 0; i < kLanes; ++i)
          v[i] = cached_some<pairs, storage>(rows.keys[part + i] + first * width, dims - first);
      }
      if (next && (first * width) % 64 == 0) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) __builtin_prefetch(next->keys[part + i] + first * width, 0, 2);
      }
      transpose(v, std::make_integer_sequence<int, kLanes>{});
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(a.keys + (u + i) * kKeyTile + part, v[i]);
    }
  }
}

// A vector of one key's values and, for pairs, of the next key's: w[0] (and w[1]) as the products take them.
template <bool pairs, Storage storage>
inline __attribute__((always_inline)) void value_vectors(const std::byte* one, const std::byte* other, V* w) {
  if constexpr (pairs)
    interleave(cached<pairs, storage>(one), cached<pairs, storage>(other), w);
  else
    w[0] = cached<pairs, storage>(one);
}
template <bool pairs, Storage storage>
inline void value_vectors_some(const std::byte* one, const std::byte* other, Index elements, V* w) {
  if constexpr (pairs)
    interleave(cached_some<pairs, storage>(one, elements), cached_some<pairs, storage>(other, elements), w);
  else
    w[0] = cached_some<pairs, storage>(one, elements);
}

template <bool pairs, Storage storage>
void load_values(const Attend& a, const TileRows& rows, Index count, Index first) {
  constexpr Index kKeys = pairs ? 2 : 1, kVectors = pairs ? 2 : 1;
  const Index dims = a.task.args->v_dim, width = width_of(storage);
  for (Index i = 0; i < count; i += kKeys) {
    const std::byte *one = rows.values[i], *other = rows.values[i + kKeys - 1];
    float* to = a.values + i / kKeys * a.v;
    for (Index j = first; j < dims; j += kElements<pairs>) {
      V w[2];
      if (j + kElements<pairs> <= dims)
        value_vectors<pairs, storage>(one + j * width, other + j * width, w);
      else
        value_vectors_some<pairs, storage>(one + j * width, other + j * width, dims - j, w);
      for (Index k = 0; k < kVectors; ++k) store(to + j + k * kLanes, w[k]);
    }
  }
}

// out[M][vectors] += weights[M][keys] values, straight from the cache.
template <bool pairs, Storage storage, int M, int vectors>
void add_values(const TileRows& rows, Index count, Index dim, const float* weights, float* out,
                Index out_stride, const TileRows* next) {
  constexpr Index kKeys = pairs ? 2 : 1;
  constexpr int kEach = pairs ? 2 : 1;
  constexpr Index width = width_of(storage);
  V sums[M][vectors];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sums[m][j] = load<V>(out + m * out_stride + dim + j * kLanes);
  for (Index i = 0; i < count; i += kKeys) {
    const std::byte *one = rows.values[i] + dim * width, *other = rows.values[i + kKeys - 1] + dim * width;
    V w[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; j += kEach)
      value_vectors<pairs, storage>(one + j * kLanes * width, other + j * kLanes * width, w + j);
    if (next)
      for (Index k = 0; k < kKeys; ++k)
        for (Index at = 0; at < vectors * kLanes * width; at += 64)
          __builtin_prefetch(next->values[i + k] + dim * width + at, 0, 2);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const float p = weights[m * kKeyTile + i / kKeys];
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) {
        if constexpr (pairs)
          sums[m][j] = multiply_pairs(sums[m][j], w[j], p);
        else
          sums[m][j] += w[j] * p;
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) store(out + m * out_stride + dim + j * kLanes, sums[m][j]);
}

template <bool pairs, Storage storage, int vectors>
void add_values_of_few(const float* weights, float* out, Index out_stride, const TileRows& rows, Index keys,
                       Index queries, Index dim, const TileRows* next) {
  Index i = 0;
  const auto some = [&](auto count) {
    add_values<pairs, storage, count.value, vectors>(rows, keys, dim, weights + i * kKeyTile,
                                                     out + i * out_stride, out_stride, next);
    i += count.value;
    next = nullptr;
  };
  while (i + 4 <= queries) some(std::integral_constant<int, 4>());
  if (i + 2 <= queries) some(std::integral_constant<int, 2>());
  if (i < queries) some(std::integral_constant<int, 1>());
}

// What turns a product into a score, in powers of two.
struct Scoring {
  float unit, softcap;  // score = unit * product, or log2(e) softcap * tanh(unit * product)
  bool scaled, rounded;
};

// One query's products with a tile's keys -> softmax weights (bf16 in pairs, or as floats), its running
// maximum, sum and output brought along. Keys outside [low, high) have no part.
template <bool pairs>
void soften(const Scoring& how, const TileRows& rows, Index low, Index high, float* scores, float* maximum,
            float* total, float* out, Index v) {
  constexpr int N = kKeyTile / kLanes;
  constexpr float kNone = -3.4e38f;
  if (low >= high) {
    __builtin_memset(scores, 0, kKeyTile * sizeof(float));
    return;
  }
  V s[N];
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) s[j] = load<V>(scores + j * kLanes) * how.unit;
  if (how.scaled) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) s[j] = s[j] * load<V>(rows.key_scales + j * kLanes);
  }
  if (how.softcap != 0) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) s[j] = how.softcap * hyperbolic_tangent(s[j]);
  }
  if (low > 0 || high < kKeyTile) {
    I lane;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const auto from = static_cast<std::int32_t>(low), to = static_cast<std::int32_t>(high);
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      s[j] = choose((lane >= from) & (lane < to), s[j], all(kNone));
      lane += kLanes;
    }
  }
  V best = s[0];
#pragma GCC unroll 16
  for (int j = 1; j < N; ++j) best = larger(best, s[j]);
  best = larger(largest_everywhere(best), all(*maximum));
  const float now = best[0];
  V sums = V{};
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) {
    s[j] = power_of_two(s[j] - best);
    sums += s[j];
  }
  if (now != *maximum) {
    const float shrink = power_of_two(all(*maximum - now))[0];
    store(total, load<V>(total) * shrink);
    for (Index j = 0; j < v; j += kLanes) store(out + j, load<V>(out + j) * shrink);
    *maximum = now;
  }
  store(total, load<V>(total) + sums);
  if (how.scaled) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) s[j] = s[j] * load<V>(rows.value_scales + j * kLanes);
  }
  if constexpr (pairs) {
#pragma GCC unroll 16
    for (int j = 0; j < N; j += 2) store(scores + j / 2 * kLanes, round_pairs(s[j], s[j + 1]));
  } else {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) store(scores + j * kLanes, how.rounded ? as_float(round_bits(s[j]) << 16) : s[j]);
  }
}

template <bool pairs, Storage storage>
void attend_as(const AttendTask& t) {
  const AttentionArgs& args = *t.args;
  constexpr Index kKeys = pairs ? 2 : 1;
  constexpr float kLog2E = 1.44269504f;
  const auto padded = [](Index dims) { return (dims + kAttendPad - 1) / kAttendPad * kAttendPad; };
  const Index d = padded(args.qk_dim) / kKeys, v = padded(args.v_dim), each = t.rows * t.heads,
              queries = each * t.cache_heads;
  Attend a{t, d, v, (args.qk_dim + kKeys - 1) / kKeys};
  a.keys = t.scratch;
  a.values = a.keys + d * kKeyTile;
  a.scores = a.values + v * kKeyTile;
  a.out = a.scores + kQueries * kKeyTile;
  a.q = a.out + kQueries * v;
  a.maximum = a.q + kQueries * d;
  a.total = a.maximum + kQueries;
  float* zeros = a.total + kQueries * kTile;
  a.zeros = reinterpret_cast<const std::byte*>(zeros);
  __builtin_memset(zeros, 0, static_cast<std::size_t>(most(d * kKeys, v)) * 4);
  __builtin_memset(a.out, 0, static_cast<std::size_t>(queries * v) * 4);
  const Scoring how{args.softcap != 0 ? args.scale / args.softcap : args.scale * kLog2E,
                    args.softcap * kLog2E, storage == Storage::kInt8 || storage == Storage::kFp8,
                    rounds(storage)};
  // Query i: cache head i / each, row i % each / heads, head i % heads of those that share.
  const Index first_row = t.sequence->first_row + t.first_row;
  const auto head_of = [&](Index i) { return t.first_head + i / each * t.heads + i % t.heads; };
  const auto row_of = [&](Index i) { return i % each / t.heads; };
  for (Index i = 0; i < queries; ++i) {
    const float* from = t.q + (first_row + row_of(i)) * t.q_stride + head_of(i) * args.qk_dim;
    if (rounds(storage))
      round_rows(from, 0, 1, args.qk_dim, a.q + i * d);
    else
      __builtin_memcpy(a.q + i * d, from, static_cast<std::size_t>(args.qk_dim) * 4);
    a.maximum[i] = args.sinks ? args.sinks[head_of(i)] * kLog2E : -3.4e38f;
    store(a.total + i * kTile, V{});
    a.total[i * kTile] = args.sinks ? 1 : 0;
  }
  const auto begin_of = [&](Index position) {
    if (!args.window) return Index{0};
    return args.chunked ? position / args.window * args.window : most(0, position - args.window + 1);
  };
  const Index first_position = t.sequence->cached + t.first_row, last = first_position + t.rows;
  const bool few = each <= kFew;
  const Index part = few && each > 1 ? 2 * kTile : kKeyTile;  // loading and multiplying in turn
  TileRows tiles[2];
  Index base = begin_of(first_position) / kKeyTile * kKeyTile, head = 0;
  a.rows_of(0, base, last, tiles[0]);
  for (int now = 0; base < last; now ^= 1) {
    const TileRows &rows = tiles[now], *next = nullptr;
    const bool turn = head + 1 == t.cache_heads;
    const Index keys = least(kKeyTile, last - base), next_base = turn ? base + kKeyTile : base,
                next_head = turn ? 0 : head + 1;
    if (next_base < last) {
      a.rows_of(next_head, next_base, last, tiles[now ^ 1]);
      if (few) next = &tiles[now ^ 1];
    }
    const float* q = a.q + head * each * d;
    float* out = a.out + head * each * v;
    for (Index i = 0; i < keys; i += part) {
      const Index end = least(i + part, (keys + kTile - 1) / kTile * kTile);
      for (Index j = i; j < end; j += kTile) load_keys<pairs, storage>(a, rows, j, next);
      multiply<pairs>(each, (end - i) / kTile, q, d, a.keys + i, kTile, kKeyTile, a.units, Into::kStore,
                      nullptr, 0, a.scores + i, kKeyTile);
    }
    for (Index i = 0; i < each; ++i) {
      const Index position = first_position + i / t.heads, at = head * each + i;
      soften<pairs>(how, rows, most(0, begin_of(position) - base), least(kKeyTile, position + 1 - base),
                    a.scores + i * kKeyTile, a.maximum + at, a.total + at * kTile, out + i * v, v);
    }
    Index dim = 0;
    if (few) {
      constexpr int kWideValues = kLanes == 8 ? 2 : 4;
      constexpr Index kDims = kWideValues * kLanes;
      for (; dim + kDims <= args.v_dim; dim += kDims)
        add_values_of_few<pairs, storage, kWideValues>(a.scores, out, v, rows, keys, each, dim, next);
    }
    if (dim < args.v_dim) {
      load_values<pairs, storage>(a, rows, keys, dim);
      multiply<pairs>(each, (v - dim) / kTile, a.scores, kKeyTile, a.values + dim, kTile, v,
                      (keys + kKeys - 1) / kKeys, Into::kAdd, nullptr, 0, out + dim, v);
    }
    base = next_base, head = next_head;
  }
  for (Index i = 0; i < queries; ++i) {
    float* to = t.out + (first_row + row_of(i)) * t.out_stride + head_of(i) * args.v_dim;
    const float inverse = 1 / sum(load<V>(a.total + i * kTile));
    Index j = 0;
    for (; j + kLanes <= args.v_dim; j += kLanes) store(to + j, load<V>(a.out + i * v + j) * inverse);
    for (; j < args.v_dim; ++j) to[j] = a.out[i * v + j] * inverse;
  }
}

void attend(const AttendTask& t) {
  switch (t.cache->storage) {
    case Storage::kF32:
      return attend_as<false, Storage::kF32>(t);
    case Storage::kF16:
      return attend_as<false, Storage::kF16>(t);
    case Storage::kBf16:
      return attend_as<kPairs, Storage::kBf16>(t);
    case Storage::kFp8:
      return attend_as<kPairs, Storage::kFp8>(t);
    default:
      return attend_as<kPairs, Storage::kInt8>(t);
  }
}

}  // namespace
}  // namespace foretoken
