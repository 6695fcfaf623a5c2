// Matrix products on vectors: part of kernels_simd_loops.h, which says how it is included.
#pragma once

#include <utility>

#include "executor/kernels_simd_pairs.h"
#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

enum class Into { kStore, kAdd, kAddScaled };
// What kAddScaled multiplies sums of a group by: the scales of a tile's outputs, and of a row of x (null: 1).
struct GroupScales {
  const float* w = nullptr;
  Index w_stride = 0;  // from tile to tile
  const float* x = nullptr;
  Index x_stride = 0;  // from row to row

  GroupScales of(Index tile, Index row) const {
    return {w + tile * w_stride, w_stride, x ? x + row * x_stride : nullptr, x_stride};
  }
};

// c[M][tiles x 16] (from) x[M][steps] panel[tile][step][16]: one chain of sums an output, whatever M is.
template <bool pairs, int M, int tiles>
void micro(const float* x, Index x_stride, const float* panel, Index tile_stride, Index step_stride,
           Index steps, Into into, const GroupScales& scales, float* c, Index c_stride) {
  constexpr int per = 16 / kLanes, N = tiles * per;
  V sums[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
      sums[i][j] = into == Into::kAdd ? load<V>(c + i * c_stride + j * kLanes) : V{};
  // The next rows of c and x are fetched ahead: they begin on other pages, which processors don't foresee.
  // Beyond the last row that is of no use and does no harm.
  constexpr bool ahead = M == kRows;
  if constexpr (ahead)
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < tiles; ++j) __builtin_prefetch(c + (M + i) * c_stride + j * kTile, 1);
  for (Index s = 0; s < steps; ++s) {
    if (ahead && s % kTile == 0)
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) __builtin_prefetch(x + (M + i) * x_stride + s);
    V w[N];
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
      w[j] = load<V>(panel + (j / per) * tile_stride + s * step_stride + (j % per) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const float b = x[i * x_stride + s];
#pragma GCC unroll 16
      for (int j = 0; j < N; ++j) {
        if constexpr (pairs)
          sums[i][j] = multiply_pairs(sums[i][j], w[j], b);
        else
          sums[i][j] += w[j] * b;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      float* to = c + i * c_stride + j * kLanes;
      if (into == Into::kAddScaled)
        store(to, load<V>(to) +
                      sums[i][j] * (load<V>(scales.w + (j / per) * scales.w_stride + (j % per) * kLanes) *
                                    (scales.x ? scales.x[i * scales.x_stride] : 1.0f)));
      else
        store(to, sums[i][j]);
    }
}

template <bool pairs, int tiles>
void micro_rows(int m, const float* x, Index x_stride, const float* panel, Index tile_stride,
                Index step_stride, Index steps, Into into, const GroupScales& scales, float* c,
                Index c_stride) {
#define FORETOKEN_MICRO(M)                                                                             \
  micro<pairs, (M <= kRows ? M : 1), tiles>(x, x_stride, panel, tile_stride, step_stride, steps, into, \
                                            scales, c, c_stride)
  switch (m) {
    case 1:
      return FORETOKEN_MICRO(1);
    case 2:
      return FORETOKEN_MICRO(2);
    case 3:
      return FORETOKEN_MICRO(3);
    case 4:
      return FORETOKEN_MICRO(4);
    case 5:
      return FORETOKEN_MICRO(5);
    default:
      return FORETOKEN_MICRO(6);
  }
#undef FORETOKEN_MICRO
}

template <bool pairs, int wide>
void multiply_tiles(Index rows, const float* x, Index x_stride, const float* panel, Index tile_stride,
                    Index step_stride, Index steps, Into into, const GroupScales& scales, float* c,
                    Index c_stride) {
  for (Index r = 0, now; r < rows; r += now) {
    // The last ones in halves: one or two rows alone would wait for the panel.
    const Index left = rows - r;
    now = left > kRows && left < kRows + kRows / 2 ? (left + 1) / 2 : least(kRows, left);
    micro_rows<pairs, wide>(static_cast<int>(now), x + r * x_stride, x_stride, panel, tile_stride,
                            step_stride, steps, into, scales.of(0, r), c + r * c_stride, c_stride);
  }
}

template <bool pairs>
void multiply(Index rows, Index tiles, const float* x, Index x_stride, const float* panel, Index tile_stride,
              Index step_stride, Index steps, Into into, const GroupScales& scales, float* c,
              Index c_stride) {
  for (Index t = 0; t < tiles;) {
    const float* p = panel + t * tile_stride;
    const GroupScales s = scales.of(t, 0);
    float* to = c + t * kTile;
    const auto with = [&](auto wide) {
      multiply_tiles<pairs, wide.value>(rows, x, x_stride, p, tile_stride, step_stride, steps, into, s, to,
                                        c_stride);
      t += wide.value;
    };
    if (rows == 1 && t + kWideOne <= tiles) {
      micro<pairs, 1, kWideOne>(x, x_stride, p, tile_stride, step_stride, steps, into, s, to, c_stride);
      t += kWideOne;
    } else if (t + kWide <= tiles) {
      with(std::integral_constant<int, kWide>());
    } else if (kLanes == 16 && t + 2 <= tiles) {
      with(std::integral_constant < int, kLanes == 16 ? 2 : 1 > ());
    } else {
      with(std::integral_constant<int, 1>());
    }
  }
}

// Two values of a step, as floats (not kInt4).
template <Storage storage>
inline __attribute__((always_inline)) U packed_values(const std::byte* tile, Index at) {
  if constexpr (storage == Storage::kF16 || storage == Storage::kBf16)
    return load<U>(tile + 4 * at);
  else
    return __builtin_convertvector(load<U16>(tile + 2 * at), U);
}
template <Storage storage>
inline __attribute__((always_inline)) V first_value(U u) {
  if constexpr (storage == Storage::kBf16) return as_float(u << 16);
  if constexpr (storage == Storage::kF16) return from_f16(u & 0xffffu);
  if constexpr (is_fp8(storage)) return from_fp8(u & 0xffu);
  return __builtin_convertvector(reinterpret_cast<I>(u << 24) >> 24, V);
}
template <Storage storage>
inline __attribute__((always_inline)) V second_value(U u) {
  if constexpr (storage == Storage::kBf16) return as_float(u & 0xffff0000u);
  if constexpr (storage == Storage::kF16) return from_f16(u >> 16);
  if constexpr (is_fp8(storage)) return from_fp8(u >> 8);
  return __builtin_convertvector(reinterpret_cast<I>(u << 16) >> 24, V);
}

// A step of kInt4 in words of four: its even and its odd element.
inline V even_nibble(U words, int step) {
  return __builtin_convertvector(reinterpret_cast<I>(words << (28 - 4 * step)) >> 28, V);
}
inline V odd_nibble(U words, int step) {
  return __builtin_convertvector(reinterpret_cast<I>(words << (12 - 4 * step)) >> 28, V);
}

// What is stored together is unpacked together: up to 3 steps beyond `count` are written too.
template <bool pairs, Storage storage>
void unpack_as(const std::byte* tile, Index first, Index count, float* out) {
  if constexpr (pairs && of_8_bits(storage)) {
    for (Index s = 0; s < count; s += 2) {
      V w[2];
      bytes_to_halves<storage>(tile + (first + s) * 2 * kTile, w);
      store(out + s * kTile, w[0]);
      store(out + (s + 1) * kTile, w[1]);
    }
  } else if constexpr (storage == Storage::kInt4) {
    for (Index s = 0; s < count; s += 4)
      for (int j = 0; j < kTile; j += kLanes) {
        const U words = load<U>(tile + ((first + s) / 4 * kTile + j) * 4);
        if constexpr (pairs) {
          store(out + s * kTile, nibbles<0>(as_float(words)));
          store(out + (s + 1) * kTile, nibbles<1>(as_float(words)));
          store(out + (s + 2) * kTile, nibbles<2>(as_float(words)));
          store(out + (s + 3) * kTile, nibbles<3>(as_float(words)));
        } else {
          for (int t = 0; t < 4; ++t) {
            store(out + 2 * (s + t) * kTile + j, even_nibble(words, t));
            store(out + (2 * (s + t) + 1) * kTile + j, odd_nibble(words, t));
          }
        }
      }
  } else {
    for (Index s = 0; s < count; ++s)
      for (int j = 0; j < kTile; j += kLanes) {
        float* to = out + 2 * s * kTile + j;
        const U u = packed_values<storage>(tile, (first + s) * kTile + j);
        store(to, first_value<storage>(u));
        store(to + kTile, second_value<storage>(u));
      }
  }
}

template <bool pairs>
void unpack(Storage storage, const std::byte* tile, Index first, Index count, float* out) {
  switch (storage) {
    case Storage::kBf16:
      return unpack_as<pairs, Storage::kBf16>(tile, first, count, out);
    case Storage::kF16:
      return unpack_as<pairs, Storage::kF16>(tile, first, count, out);
    case Storage::kFp8:
    case Storage::kFp8Block:
      return unpack_as<pairs, Storage::kFp8>(tile, first, count, out);
    case Storage::kInt8:
      return unpack_as<pairs, Storage::kInt8>(tile, first, count, out);
    default:
      return unpack_as<pairs, Storage::kInt4>(tile, first, count, out);
  }
}

template <bool pairs>
void unpack_and_multiply(const GemmTask& t, Index row, Index rows, float* c) {
  alignas(64) float panel[kPanel * kUnpackDepth];
  const Index groups = (t.k + kScaleGroup - 1) / kScaleGroup;
  for (Index k = 0; k < t.k; k += kUnpackDepth) {
    const Index depth = least(kUnpackDepth, t.k - k), both = (depth + 1) / 2;
    const Index tile_stride = (pairs ? both : 2 * both) * kTile;
    for (Index i = 0; i < t.tiles; ++i)
      unpack<pairs>(t.storage, t.elements + i * t.tile_bytes, k / 2, both, panel + i * tile_stride);
    const bool grouped = in_groups(t.storage);
    GroupScales scales;
    if (grouped) {
      scales = {t.scales + k / kScaleGroup * kTile, groups * kTile, nullptr, groups};
      if (t.x_scales) scales.x = t.x_scales + row * groups + k / kScaleGroup;
    }
    multiply<pairs>(rows, t.tiles, static_cast<const float*>(t.x) + row * t.x_stride + (pairs ? k / 2 : k),
                    t.x_stride, panel, tile_stride, kTile, pairs ? both : depth,
                    grouped ? Into::kAddScaled : Into::kAdd, scales, c, kPanel);
  }
}

// A few rows of x: weights go from their storage to the sums without a panel in between, in the panel's
// order.
template <bool pairs, Storage storage, int tiles, int M>
void few_rows(const GemmTask& t, Index row, Index tile, float* c) {
  constexpr int per = 16 / kLanes, N = tiles * per;
  constexpr bool grouped = in_groups(storage), nibbles_of = storage == Storage::kInt4;
  constexpr int together = nibbles_of ? 4 : pairs ? 2 : 1;  // steps that are unpacked at once
  const auto* x = static_cast<const float*>(t.x) + row * t.x_stride;
  const Index groups = (t.k + kScaleGroup - 1) / kScaleGroup, depth = grouped ? kScaleGroup : t.k;
  V total[M][N] = {}, sums[M][N] = {};
  const auto add = [&](Index s, Index end, auto whole) {  // whole: no step is beyond the end
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      const std::byte* elements = t.elements + (tile + j / per) * t.tile_bytes;
      const int lane = (j % per) * kLanes;
      V w[pairs ? together : 2 * together];
      if constexpr (pairs && nibbles_of) {
        const V words = load<V>(elements + s / 4 * kTile * 4);
        w[0] = nibbles<0>(words), w[1] = nibbles<1>(words), w[2] = nibbles<2>(words),
        w[3] = nibbles<3>(words);
      } else if constexpr (pairs) {
        bytes_to_halves<storage>(elements + s * kTile * 2, w);
      } else if constexpr (nibbles_of) {
        const U words = load<U>(elements + (s / 4 * kTile + lane) * 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) w[2 * i] = even_nibble(words, i), w[2 * i + 1] = odd_nibble(words, i);
      } else {
        const U u = packed_values<storage>(elements, s * kTile + lane);
        w[0] = first_value<storage>(u), w[1] = second_value<storage>(u);
      }
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i) {
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          const float* row_of_x = x + m * t.x_stride;
          // Zeros beyond the end, not a condition: compilers would round products apart from their sums.
          const auto at = [&](Index unit, Index element) {
            return whole.value || element < end ? row_of_x[unit] : 0.0f;
          };
          const Index element = 2 * (s + i);
          if constexpr (pairs) {
            sums[m][j] = multiply_pairs(sums[m][j], w[i], at(s + i, element));
          } else {
            sums[m][j] += w[2 * i] * at(element, element);
            sums[m][j] += w[2 * i + 1] * at(element + 1, element + 1);
          }
        }
      }
    }
  };
  for (Index k = 0; k < t.k; k += depth) {
    const Index end = least(t.k, k + depth);
    Index s = k / 2;
    for (; 2 * (s + together) <= end; s += together) add(s, end, std::true_type());
    for (; 2 * s < end; s += together) add(s, end, std::false_type());
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
      for (int j = 0; j < N; ++j) {
        if constexpr (grouped) {
          const Index group = k / kScaleGroup, scale = (tile + j / per) * groups + group;
          const float of_x = t.x_scales ? t.x_scales[(row + m) * groups + group] : 1.0f;
          total[m][j] =
              total[m][j] + sums[m][j] * (load<V>(t.scales + scale * kTile + (j % per) * kLanes) * of_x);
          sums[m][j] = V{};
        } else {
          total[m][j] = sums[m][j];
        }
      }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
      store(c + m * kPanel + (tile + j / per) * kTile + (j % per) * kLanes, total[m][j]);
}

template <bool pairs, Storage storage, int M>
void few_rows_of(const GemmTask& t, Index row, float* c) {
  constexpr int kAtOnce = kLanes == 16 ? 4 : 1;
  Index tile = 0;
  for (; tile + kAtOnce <= t.tiles; tile += kAtOnce) few_rows<pairs, storage, kAtOnce, M>(t, row, tile, c);
  for (; tile < t.tiles; ++tile) few_rows<pairs, storage, 1, M>(t, row, tile, c);
}

template <int M>
void few_rows_of(const GemmTask& t, Index row, float* c) {
  switch (t.storage) {
    case Storage::kF16:
      return few_rows_of<false, Storage::kF16, M>(t, row, c);
    case Storage::kFp8:
      return few_rows_of<kPairs, Storage::kFp8, M>(t, row, c);
    case Storage::kFp8Block:
      return few_rows_of<kPairs, Storage::kFp8Block, M>(t, row, c);
    case Storage::kInt8:
      return few_rows_of<kPairs, Storage::kInt8, M>(t, row, c);
    default:
      return few_rows_of<kPairs, Storage::kInt4, M>(t, row, c);
  }
}

constexpr Index kFewRows = kLanes == 16 ? 8 : 2;  // unpacked anew for at most 4 of them

void few_rows(const GemmTask& t, float* c) {
  Index row = 0;
  if constexpr (kFewRows >= 4)
    for (; row + 4 <= t.rows; row += 4) few_rows_of<4>(t, row, c + row * kPanel);
  for (; row + 2 <= t.rows; row += 2) few_rows_of<2>(t, row, c + row * kPanel);
  if (row < t.rows) few_rows_of<1>(t, row, c + row * kPanel);
}

// Matrices that are multiplied as they are stored. A block of kDepth steps of the panel stays in the second
// cache while all rows pass; between blocks the chains of sums wait in c.
template <bool pairs>
void multiply_stored(const GemmTask& t, Index row, Index rows, float* c, Index c_stride) {
  const auto* x = static_cast<const float*>(t.x) + row * t.x_stride;
  const auto* w = reinterpret_cast<const float*>(t.elements);
  const Index steps = pairs ? (t.k + 1) / 2 : t.k;
  for (Index s = 0; s < steps; s += kDepth)
    multiply<pairs>(rows, t.tiles, x + s, t.x_stride, w + s * kTile, t.tile_bytes / 4, kTile,
                    least(kDepth, steps - s), s == 0 ? Into::kStore : Into::kAdd, {}, c, c_stride);
}

void gemm(const GemmTask& t) {
  const bool halves = t.storage == Storage::kBf16 && kPairs, stored = halves || t.storage == Storage::kF32;
  const auto multiply_as_stored = halves ? multiply_stored<kPairs> : multiply_stored<false>;
  if (stored && !t.bias && !t.accumulate && t.columns == t.tiles * kTile)
    return multiply_as_stored(t, 0, t.rows, t.y, t.y_stride);
  alignas(64) float c[kRowBlock * kPanel];
  for (Index row = 0; row < t.rows; row += kRowBlock) {
    const Index rows = least(kRowBlock, t.rows - row);
    if (stored) {
      multiply_as_stored(t, row, rows, c, kPanel);
    } else if (t.rows <= kFewRows && t.storage != Storage::kBf16) {
      few_rows(t, c);
    } else {
      __builtin_memset(c, 0, static_cast<std::size_t>(rows * kPanel) * sizeof(float));
      if (t.storage == Storage::kF16)
        unpack_and_multiply<false>(t, row, rows, c);
      else
        unpack_and_multiply<kPairs>(t, row, rows, c);
    }
    const bool scaled = t.storage == Storage::kInt8 || t.storage == Storage::kFp8;
    for (Index r = 0; r < rows; ++r) {
      float* y = t.y + (row + r) * t.y_stride;
      const float* sums = c + r * kPanel;
      const float of_x = scaled && t.x_scales ? t.x_scales[row + r] : 1;
      Index n = 0;
      for (; n + kLanes <= t.columns; n += kLanes) {
        V value = load<V>(sums + n);
        if (scaled) value = value * load<V>(t.scales + n) * of_x;
        if (t.bias) value = value + load<V>(t.bias + n);
        store(y + n, t.accumulate ? load<V>(y + n) + value : value);
      }
      for (; n < t.columns; ++n) {
        float value = scaled ? sums[n] * t.scales[n] * of_x : sums[n];
        if (t.bias) value += t.bias[n];
        y[n] = t.accumulate ? y[n] + value : value;
      }
    }
  }
}

// An odd number of cache lines: rows a multiple of a page apart would share the few lines of one cache set.
Index rounded_stride(Index k) {
  constexpr Index kLine = 16;
  const Index lines = ((kPairs ? (k + 1) / 2 : k) + kLine - 1) / kLine;
  return (lines / 2 * 2 + 1) * kLine;
}

void round_rows(const float* x, Index x_stride, Index rows, Index k, void* out) {
  for (Index r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    auto* to = static_cast<char*>(out) + r * rounded_stride(k) * 4;
    Index i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      const U bits = round_bits(load<V>(from + i));
      if (kPairs)
        store(to + 2 * i, __builtin_convertvector(bits, U16));
      else
        store(to + 4 * i, as_float(bits << 16));
    }
    for (; i < k; ++i) {
      const U bits = round_bits(all(from[i]));
      const auto half = static_cast<std::uint16_t>(bits[0]);
      if (kPairs)
        store(to + 2 * i, half);
      else
        store(to + 4 * i, static_cast<std::uint32_t>(half) << 16);
    }
    if (kPairs && k % 2) store(to + 2 * k, std::uint16_t{0});
  }
}

}  // namespace
}  // namespace foretoken
