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
    return f16_at(from);
  else if constexpr (storage == Storage::kFp8)
    return from_fp8(bytes_at(from));
  else
    return signed_bytes_at(from);
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
      t[2 * j] =
          __builtin_shuffle(v[i + 2 * j], v[i + 2 * j + 1], I{(l / 4 * 4 + l % 4 / 2 + l % 2 * kLanes)...});
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

// Where the keys of a tile lie, for the task's first cache head; beyond the last, where the last one lies.
struct TileRows {
  const std::byte *keys[kKeyTile], *values[kKeyTile];
  Index slots[kKeyTile];
};
struct TileScales {
  alignas(64) float keys[kKeyTile], values[kKeyTile];
};

struct Attend {
  const AttendTask& task;
  Index d, v, units;              // 4-byte units of a key and a value in whole vectors; those of a key in use
  float *keys, *values, *scores;  // panels [unit][kKeyTile] and [key or pair][v]; [query][kKeyTile]
  float *out, *q, *maximum, *total;  // [query]; total in as many parts as a vector has lanes

  void rows_of(Index first, Index last, TileRows& to) const {
    const CacheLayer& c = *task.cache;
    const Index width = width_of(c.storage), k_bytes = c.k_dim * width, v_bytes = c.v_dim * width,
                count = least(kKeyTile, last - first);
    for (Index i = 0; i < count;) {
      const Index at = (first + i) % c.block_size, end = least(count, i + c.block_size - at);
      Index slot =
          (task.sequence->blocks[(first + i) / c.block_size] * c.heads + task.cache_head) * c.block_size + at;
      for (; i < end; ++i, ++slot) {
        to.slots[i] = slot;
        to.keys[i] = c.keys + slot * k_bytes;
        to.values[i] = c.v_dim ? c.values + slot * v_bytes : to.keys[i];
      }
    }
    if (const SequenceRows& s = *task.sequence; s.branch)
      for (Index i = most(0, s.branch_from - first); i < count; ++i) {
        const Index place = s.branch[first + i - s.branch_from];
        const Index slot = (s.blocks[place / c.block_size] * c.heads + task.cache_head) * c.block_size +
                           place % c.block_size;
        to.slots[i] = slot;
        to.keys[i] = c.keys + slot * k_bytes;
        to.values[i] = c.v_dim ? c.values + slot * v_bytes : to.keys[i];
      }
    for (Index i = count; i < kKeyTile; ++i) {
      to.keys[i] = to.keys[count - 1], to.values[i] = to.values[count - 1];
      to.slots[i] = to.slots[count - 1];
    }
  }
  // Of the task's cache head `head`.
  void scales_of(const TileRows& rows, Index head, TileScales& to) const {
    const CacheLayer& c = *task.cache;
    const float *keys_at = c.key_scales + head * c.block_size,
                *values_at = (c.v_dim ? c.value_scales : c.key_scales) + head * c.block_size;
    for (Index i = 0; i < kKeyTile; ++i)
      to.keys[i] = keys_at[rows.slots[i]], to.values[i] = values_at[rows.slots[i]];
  }
};

// Fetches what is needed next into the cache, between computations: one line after the other (through memory,
// so that the processor doesn't issue them at once), or loads that are waited for stand behind them.
struct Fetch {
  const std::byte *at = nullptr, *end = nullptr;

  inline __attribute__((always_inline)) void lines(Index n) {
    for (; n > 0 && at < end; --n) {
      __builtin_prefetch(at, 0, 2);
      at += 64;
      asm volatile("" : "+m"(at));
    }
  }
};

// Keys [base, base + 16) of a tile, `offset` bytes from their rows, transposed into panel[unit][kKeyTile].
template <bool pairs, Storage storage>
void load_keys(const Attend& a, const TileRows& rows, Index base, Index offset, float* panel, Fetch& fetch) {
  const Index dims = a.task.cache->k_dim, width = width_of(storage);
  for (Index part = base; part < base + kTile; part += kLanes) {
    for (Index u = 0; u < a.units; u += kLanes) {
      V v[kLanes];
      const Index first = u / kLanes * kElements<pairs>;
      if (first + kElements<pairs> <= dims) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i)
          v[i] = cached<pairs, storage>(rows.keys[part + i] + offset + first * width);
      } else {
        for (int i = 0; i < kLanes; ++i)
          v[i] = cached_some<pairs, storage>(rows.keys[part + i] + offset + first * width, dims - first);
      }
      fetch.lines(kLanes * kElements<pairs> * width / 64);
      transpose(v, std::make_integer_sequence<int, kLanes>{});
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(panel + (u + i) * kKeyTile + part - base, v[i]);
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
void load_values(const Attend& a, const TileRows& rows, Index begin, Index end, Index offset, Index first) {
  constexpr Index kKeys = pairs ? 2 : 1, kVectors = pairs ? 2 : 1;
  const Index dims = a.task.args->v_dim, width = width_of(storage);
  for (Index i = begin; i < end; i += kKeys) {
    const std::byte *one = rows.values[i] + offset, *other = rows.values[i + kKeys - 1] + offset;
    float* to = a.values + (i - begin) / kKeys * a.v;
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
void add_values(const TileRows& rows, Index begin, Index end, Index offset, Index dim, const float* weights,
                float* out, Index out_stride, Fetch& fetch) {
  constexpr Index kKeys = pairs ? 2 : 1;
  constexpr int kEach = pairs ? 2 : 1;
  constexpr Index width = width_of(storage);
  V sums[M][vectors];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sums[m][j] = load<V>(out + m * out_stride + dim + j * kLanes);
  for (Index i = begin; i < end; i += kKeys) {
    const std::byte *one = rows.values[i] + offset + dim * width,
                    *other = rows.values[i + kKeys - 1] + offset + dim * width;
    V w[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; j += kEach)
      value_vectors<pairs, storage>(one + j * kLanes * width, other + j * kLanes * width, w + j);
    fetch.lines((kKeys * vectors * kLanes * width + 63) / 64);
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

// What turns a product into a score, in powers of two.
struct Scoring {
  float unit, softcap;  // score = unit * product, or log2(e) softcap * tanh(unit * product)
  bool scaled, rounded;
};

// One query's products with a tile's keys -> softmax weights (bf16 in pairs, or as floats), its running
// maximum, sum and output brought along. Keys outside [low, high) have no part.
template <bool pairs>
void soften(const Scoring& how, const TileScales& scales, Index low, Index high, float* scores,
            float* maximum, float* total, float* out, Index v) {
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
    for (int j = 0; j < N; ++j) s[j] = s[j] * load<V>(scales.keys + j * kLanes);
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
    for (int j = 0; j < N; ++j) s[j] = s[j] * load<V>(scales.values + j * kLanes);
  }
  if constexpr (pairs) {
#pragma GCC unroll 16
    for (int j = 0; j < N; j += 2) store(scores + j / 2 * kLanes, round_pairs(s[j], s[j + 1]));
  } else {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
      store(scores + j * kLanes, how.rounded ? as_float(round_bits(s[j]) << 16) : s[j]);
  }
}

// Products of M queries of each of H heads with 16 keys of each, whose panels lie side by side.
template <bool pairs, int M, int H>
void score_heads(const float* q, Index q_stride, Index q_head, const float* panels, Index units,
                 float* scores, Index scores_head) {
  constexpr int per = kTile / kLanes;
  V sums[H][M][per] = {};
  for (Index u = 0; u < units; ++u) {
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
      for (int j = 0; j < per; ++j) {
        const V w = load<V>(panels + u * kKeyTile + h * kTile + j * kLanes);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          const float b = q[h * q_head + m * q_stride + u];
          if constexpr (pairs)
            sums[h][m][j] = multiply_pairs(sums[h][m][j], w, b);
          else
            sums[h][m][j] += w * b;
        }
      }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < per; ++j)
        store(scores + h * scores_head + m * kKeyTile + j * kLanes, sums[h][m][j]);
}

// f(integral_constant<int, count>, first) over [0, n) in pieces of 4, 2 and 1.
template <class F>
inline __attribute__((always_inline)) void in_pieces(Index n, F f) {
  Index i = 0;
  for (; i + 4 <= n; i += 4) f(std::integral_constant<int, 4>(), i);
  if (i + 2 <= n) f(std::integral_constant<int, 2>(), i), i += 2;
  if (i < n) f(std::integral_constant<int, 1>(), i);
}

// A task being worked on: queries are ordered by cache head, row, and query head of those that share.
template <bool pairs, Storage storage>
struct Attending : Attend {
  static constexpr Index kKeys = pairs ? 2 : 1, kWidth = width_of(storage);
  static constexpr bool kScaled = storage == Storage::kInt8 || storage == Storage::kFp8;
  const AttentionArgs& args;
  const Index each, first_position, last;  // queries of a cache head; positions of the rows and after them
  const Scoring how;

  Index begin_of(Index position) const {
    if (!args.window) return 0;
    return args.chunked ? position / args.window * args.window : most(0, position - args.window + 1);
  }

  void soften_head(Index base, Index head, const TileRows& rows, float* head_scores) {
    TileScales scales;
    if (kScaled) scales_of(rows, head, scales);
    for (Index i = 0; i < each; ++i) {
      const Index position = first_position + i / task.heads, at = head * each + i;
      soften<pairs>(how, scales, most(0, begin_of(position) - base), least(kKeyTile, position + 1 - base),
                    head_scores + i * kKeyTile, maximum + at, total + at * kTile, out + at * v, v);
    }
  }

  // Many queries of one cache head: panels of keys and of values, products by blocks.
  void tile_of_many(Index base) {
    TileRows rows;
    rows_of(base, last, rows);
    Fetch none{};
    const Index end = least(kKeyTile, last - base);
    for (Index i = 0; i < end; i += kTile) load_keys<pairs, storage>(*this, rows, i, 0, keys + i, none);
    load_values<pairs, storage>(*this, rows, 0, end, 0, 0);
    multiply<pairs>(each, (end + kTile - 1) / kTile, q, d, keys, kTile, kKeyTile, units, Into::kStore, {},
                    scores, kKeyTile);
    soften_head(base, 0, rows, scores);
    multiply<pairs>(each, v / kTile, scores, kKeyTile, values, kTile, v, (end + kKeys - 1) / kKeys,
                    Into::kAdd, {}, out, v);
  }

  // A few queries of several cache heads, in the order in which the cache lies in memory: keys of one block
  // for all heads, then those of the next; softmax weights; values likewise. What comes after a block is
  // fetched meanwhile: the next one may lie anywhere.
  void tile_of_few(Index base, const TileRows& rows, const TileRows* next) {
    const CacheLayer& c = *task.cache;
    const Index count = least(kKeyTile, last - base), heads = task.cache_heads;
    // Keys of one head at a time: a block, or all where that is as good.
    const Index run = heads == 1 || c.block_size % kKeyTile == 0 ? kKeyTile : kTile;
    const Index k_bytes = c.k_dim * kWidth, v_bytes = (c.v_dim ? c.v_dim : c.k_dim) * kWidth;
    const auto fetch_after = [&](Index begin, Index head, Index some, Index bytes,
                                 const std::byte* const* now, const std::byte* const* then) {
      const std::byte* const* rows_after = begin < count ? now + begin : then;
      if (!rows_after) return Fetch{};
      const std::byte* at = *rows_after + head * c.block_size * bytes;
      return Fetch{at, at + some * least(run, c.block_size) * bytes};
    };
    for (Index i = 0; i < count; i += run) {
      const Index end = least(count, i + run);
      for (Index h = 0; h < heads;) {
        constexpr Index kAtOnce = kLanes == 16 ? 4 : 1;
        const Index some = run == kKeyTile || heads - h < kAtOnce ? 1
                           : each >= 3 && kAtOnce == 4            ? 2
                                                                  : kAtOnce;
        Fetch fetch = fetch_after(i + run, h, some, k_bytes, rows.keys, next ? next->keys : nullptr);
        for (Index x = 0; x < some; ++x)
          for (Index k = i; k < end; k += kTile)
            load_keys<pairs, storage>(*this, rows, k, (h + x) * c.block_size * k_bytes,
                                      keys + k - i + x * kTile, fetch);
        const float* from = q + h * each * d;
        float* to = scores + h * each * kKeyTile + i;
        if (some == 1)
          multiply<pairs>(each, (end - i + kTile - 1) / kTile, from, d, keys, kTile, kKeyTile, units,
                          Into::kStore, {}, to, kKeyTile);
        else
          in_pieces(each, [&](auto m, Index first) {
            const auto with = [&](auto n) {
              score_heads<pairs, m.value, n.value>(from + first * d, d, each * d, keys, units,
                                                   to + first * kKeyTile, each * kKeyTile);
            };
            if (some == 4)
              with(std::integral_constant<int, kAtOnce>());
            else
              with(std::integral_constant < int, kAtOnce == 4 ? 2 : 1 > ());
          });
        h += some;
      }
    }
    for (Index h = 0; h < heads; ++h) soften_head(base, h, rows, scores + h * each * kKeyTile);
    constexpr int kWideValues = kLanes == 8 ? 2 : 4;
    constexpr Index kDims = kWideValues * kLanes;
    for (Index i = 0; i < count; i += run) {
      const Index end = least(count, i + run);
      for (Index h = 0; h < heads; ++h) {
        const Index offset = h * c.block_size * v_bytes;
        Fetch fetch = fetch_after(i + run, h, 1, v_bytes, rows.values, next ? next->values : nullptr);
        float* head_out = out + h * each * v;
        const float* weights = scores + h * each * kKeyTile;
        Index dim = 0;
        for (; dim + kDims <= args.v_dim; dim += kDims)
          in_pieces(each, [&](auto m, Index first) {
            add_values<pairs, storage, m.value, kWideValues>(
                rows, i, end, offset, dim, weights + first * kKeyTile, head_out + first * v, v, fetch);
          });
        if (dim < args.v_dim) {
          load_values<pairs, storage>(*this, rows, i, end, offset, dim);
          multiply<pairs>(each, (v - dim) / kTile, weights + i / kKeys, kKeyTile, values + dim, kTile, v,
                          (end - i + kKeys - 1) / kKeys, Into::kAdd, {}, head_out + dim, v);
        }
      }
    }
  }
};

template <bool pairs, Storage storage>
void attend_as(const AttendTask& t) {
  using Task = Attending<pairs, storage>;
  const AttentionArgs& args = *t.args;
  constexpr float kLog2E = 1.44269504f;
  const auto padded = [](Index dims) { return (dims + kAttendPad - 1) / kAttendPad * kAttendPad; };
  const Index d = padded(args.qk_dim) / Task::kKeys, v = padded(args.v_dim), each = t.rows * t.heads,
              queries = each * t.cache_heads, first_position = t.sequence->cached + t.first_row;
  float* at = t.scratch;
  const auto take = [&](Index floats) { return (at += floats) - floats; };
  Task a{{t, d, v, (args.qk_dim + Task::kKeys - 1) / Task::kKeys, take(d * kKeyTile), take(v * kKeyTile),
          take(kQueries * kKeyTile), take(kQueries * v), take(kQueries * d), take(kQueries),
          take(kQueries * kTile)},
         args,
         each,
         first_position,
         first_position + t.rows,
         {args.softcap != 0 ? args.scale / args.softcap : args.scale * kLog2E, args.softcap * kLog2E,
          Task::kScaled, rounds(storage)}};
  __builtin_memset(a.out, 0, static_cast<std::size_t>(queries * v) * 4);
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
  Index base = a.begin_of(first_position) / kKeyTile * kKeyTile;
  if (each > kFew) {
    for (; base < a.last; base += kKeyTile) a.tile_of_many(base);
  } else {
    TileRows tiles[2];
    a.rows_of(base, a.last, tiles[0]);
    for (int now = 0; base < a.last; base += kKeyTile, now ^= 1) {
      const bool more = base + kKeyTile < a.last;
      if (more) a.rows_of(base + kKeyTile, a.last, tiles[now ^ 1]);
      a.tile_of_few(base, tiles[now], more ? &tiles[now ^ 1] : nullptr);
    }
  }
  for (Index i = 0; i < queries; ++i) {
    float* to = t.out + (first_row + row_of(i)) * t.out_stride + head_of(i) * args.v_dim;
    const float all_weights = sum(load<V>(a.total + i * kTile)), inverse = 1 / all_weights;
    if (args.lse)
      args.lse[(first_row + row_of(i)) * args.heads + head_of(i)] =
          a.maximum[i] / kLog2E + __builtin_logf(all_weights);
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
