// Matrix products on vectors: part of kernels_simd_loops.h, which says how it is included.
#pragma once

#include <utility>

#include "executor/kernels_simd_pairs.h"
#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

enum class Into { kStore, kAdd, kAddScaled };

// c[M][tiles x 16] (from) x[M][steps] panel[tile][step][16]: one chain of sums an output, whatever M is.
template <bool pairs, int M, int tiles>
void micro(const float* x, Index x_stride, const float* panel, Index tile_stride, Index step_stride,
           Index steps, Into into, const float* scales, Index scale_stride, float* c, Index c_stride) {
  constexpr int per = 16 / kLanes, N = tiles * per;
  V sums[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j)
      sums[i][j] = into == Into::kAdd ? load<V>(c + i * c_stride + j * kLanes) : V{};
  for (Index s = 0; s < steps; ++s) {
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
        store(to, load<V>(to) + sums[i][j] * load<V>(scales + (j / per) * scale_stride + (j % per) * kLanes));
      else
        store(to, sums[i][j]);
    }
}

template <bool pairs, int tiles>
void micro_rows(int m, const float* x, Index x_stride, const float* panel, Index tile_stride,
                Index step_stride, Index steps, Into into, const float* scales, Index scale_stride, float* c,
                Index c_stride) {
#define FORETOKEN_MICRO(M)                                                                             \
  micro<pairs, (M <= kRows ? M : 1), tiles>(x, x_stride, panel, tile_stride, step_stride, steps, into, \
                                            scales, scale_stride, c, c_stride)
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
                    Index step_stride, Index steps, Into into, const float* scales, Index scale_stride,
                    float* c, Index c_stride) {
  for (Index r = 0; r < rows; r += kRows)
    micro_rows<pairs, wide>(static_cast<int>(least(kRows, rows - r)), x + r * x_stride, x_stride, panel,
                            tile_stride, step_stride, steps, into, scales, scale_stride, c + r * c_stride,
                            c_stride);
}

template <bool pairs>
void multiply(Index rows, Index tiles, const float* x, Index x_stride, const float* panel, Index tile_stride,
              Index step_stride, Index steps, Into into, const float* scales, Index scale_stride, float* c,
              Index c_stride) {
  for (Index t = 0; t < tiles;) {
    const float *p = panel + t * tile_stride, *s = scales ? scales + t * scale_stride : nullptr;
    float* to = c + t * kTile;
    const auto with = [&](auto wide) {
      multiply_tiles<pairs, wide.value>(rows, x, x_stride, p, tile_stride, step_stride, steps, into, s,
                                        scale_stride, to, c_stride);
      t += wide.value;
    };
    if (rows == 1 && t + kWideOne <= tiles) {
      micro<pairs, 1, kWideOne>(x, x_stride, p, tile_stride, step_stride, steps, into, s, scale_stride, to,
                                c_stride);
      t += kWideOne;
    } else if (t + kWide <= tiles) {
      with(std::integral_constant<int, kWide>());
    } else if (kLanes == 16 && t + 2 <= tiles) {
      with(std::integral_constant<int, kLanes == 16 ? 2 : 1>());
    } else {
      with(std::integral_constant<int, 1>());
    }
  }
}

// Steps of two values [first, first + count) of a tile: to bf16 pairs [step][16], or to floats [2 step][16].
template <bool pairs, class Low, class High>
inline void put(U bits, float* to, Low low, High high) {
  const V a = low(bits), b = high(bits);
  if constexpr (pairs) {
    store(to, as_float(as_bits(a) >> 16 | (as_bits(b) & 0xffff0000u)));
  } else {
    store(to, a);
    store(to + kTile, b);
  }
}

template <bool pairs, Storage storage>
void unpack_as(const std::byte* tile, Index first, Index count, float* out) {
  for (Index s = 0; s < count; ++s)
    for (int j = 0; j < kTile; j += kLanes) {
      const Index at = (first + s) * kTile + j;
      float* to = out + (pairs ? s : 2 * s) * kTile + j;
      switch (storage) {
        case Storage::kBf16:
          put<pairs>(
              load<U>(tile + 4 * at), to, [](U u) { return as_float(u << 16); },
              [](U u) { return as_float(u & 0xffff0000u); });
          break;
        case Storage::kF16:
          put<pairs>(
              load<U>(tile + 4 * at), to, [](U u) { return from_f16(u & 0xffffu); },
              [](U u) { return from_f16(u >> 16); });
          break;
        case Storage::kFp8:
          put<pairs>(
              __builtin_convertvector(load<U16>(tile + 2 * at), U), to,
              [](U u) { return from_fp8(u & 0xffu); }, [](U u) { return from_fp8(u >> 8); });
          break;
        case Storage::kInt8:
          put<pairs>(
              __builtin_convertvector(load<U16>(tile + 2 * at), U), to,
              [](U u) { return __builtin_convertvector(reinterpret_cast<I>(u << 24) >> 24, V); },
              [](U u) { return __builtin_convertvector(reinterpret_cast<I>(u << 16) >> 24, V); });
          break;
        default:
          put<pairs>(
              __builtin_convertvector(__builtin_convertvector(load<U8>(tile + at), U16), U), to,
              [](U u) { return __builtin_convertvector(reinterpret_cast<I>(u << 28) >> 28, V); },
              [](U u) { return __builtin_convertvector(reinterpret_cast<I>(u << 24) >> 28, V); });
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
  const Index groups = (t.k + kInt4Group - 1) / kInt4Group;
  for (Index k = 0; k < t.k; k += kUnpackDepth) {
    const Index depth = least(kUnpackDepth, t.k - k), both = (depth + 1) / 2;
    const Index tile_stride = (pairs ? both : 2 * both) * kTile;
    for (Index i = 0; i < t.tiles; ++i)
      unpack<pairs>(t.storage, t.elements + i * t.tile_bytes, k / 2, both, panel + i * tile_stride);
    const bool grouped = t.storage == Storage::kInt4;
    multiply<pairs>(rows, t.tiles, static_cast<const float*>(t.x) + row * t.x_stride + (pairs ? k / 2 : k),
                    t.x_stride, panel, tile_stride, kTile, pairs ? both : depth,
                    grouped ? Into::kAddScaled : Into::kAdd,
                    grouped ? t.scales + k / kInt4Group * kTile : nullptr, groups * kTile, c, kPanel);
  }
}

// Two values of a step, as floats.
template <Storage storage>
inline __attribute__((always_inline)) U packed_values(const std::byte* tile, Index at) {
  if constexpr (storage == Storage::kF16)
    return load<U>(tile + 4 * at);
  else if constexpr (storage == Storage::kInt4)  // by way of 16 bits, which compilers do in one step each
    return __builtin_convertvector(__builtin_convertvector(load<U8>(tile + at), U16), U);
  else
    return __builtin_convertvector(load<U16>(tile + 2 * at), U);
}
template <Storage storage>
inline __attribute__((always_inline)) V first_value(U u) {
  if constexpr (storage == Storage::kF16) return from_f16(u & 0xffffu);
  if constexpr (storage == Storage::kFp8) return from_fp8(u & 0xffu);
  constexpr int kShift = storage == Storage::kInt4 ? 28 : 24;
  return __builtin_convertvector(reinterpret_cast<I>(u << kShift) >> kShift, V);
}
template <Storage storage>
inline __attribute__((always_inline)) V second_value(U u) {
  if constexpr (storage == Storage::kF16) return from_f16(u >> 16);
  if constexpr (storage == Storage::kFp8) return from_fp8(u >> 8);
  constexpr int kLeft = storage == Storage::kInt4 ? 24 : 16, kRight = storage == Storage::kInt4 ? 28 : 24;
  return __builtin_convertvector(reinterpret_cast<I>(u << kLeft) >> kRight, V);
}

// One row of x: weights go from their storage to the sums without a panel in between, in the panel's order.
template <bool pairs, Storage storage, int tiles>
void one_row(const GemmTask& t, Index tile, float* c) {
  constexpr int per = 16 / kLanes, N = tiles * per;
  constexpr bool grouped = storage == Storage::kInt4;
  const auto* x = static_cast<const float*>(t.x);
  const Index groups = (t.k + kInt4Group - 1) / kInt4Group, depth = grouped ? kInt4Group : t.k;
  V total[N];
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) total[j] = V{};
  for (Index k = 0; k < t.k; k += depth) {
    const Index end = least(t.k, k + depth);
    V sums[N];
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) sums[j] = V{};
    for (Index s = k / 2; s < (end + 1) / 2; ++s) {
#pragma GCC unroll 16
      for (int j = 0; j < N; ++j) {
        const U u = packed_values<storage>(t.elements + (tile + j / per) * t.tile_bytes,
                                           s * kTile + (j % per) * kLanes);
        const V a = first_value<storage>(u), b = second_value<storage>(u);
        if constexpr (pairs) {
          sums[j] = multiply_pairs(sums[j], as_float(as_bits(a) >> 16 | (as_bits(b) & 0xffff0000u)), x[s]);
        } else {
          sums[j] += a * x[2 * s];
          if (2 * s + 1 < end) sums[j] += b * x[2 * s + 1];
        }
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      if constexpr (grouped)
        total[j] =
            total[j] + sums[j] * load<V>(t.scales + ((tile + j / per) * groups + k / kInt4Group) * kTile +
                                         (j % per) * kLanes);
      else
        total[j] = sums[j];
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) store(c + (tile + j / per) * kTile + (j % per) * kLanes, total[j]);
}

template <bool pairs, Storage storage>
void one_row_of(const GemmTask& t, float* c) {
  constexpr int kAtOnce = kLanes == 16 ? 4 : 1;
  Index tile = 0;
  for (; tile + kAtOnce <= t.tiles; tile += kAtOnce) one_row<pairs, storage, kAtOnce>(t, tile, c);
  for (; tile < t.tiles; ++tile) one_row<pairs, storage, 1>(t, tile, c);
}

void one_row(const GemmTask& t, float* c) {
  switch (t.storage) {
    case Storage::kF16:
      return one_row_of<false, Storage::kF16>(t, c);
    case Storage::kFp8:
      return one_row_of<kPairs, Storage::kFp8>(t, c);
    case Storage::kInt8:
      return one_row_of<kPairs, Storage::kInt8>(t, c);
    default:
      return one_row_of<kPairs, Storage::kInt4>(t, c);
  }
}

void gemm(const GemmTask& t) {
  alignas(64) float c[kRowBlock * kPanel];
  const bool halves = t.storage == Storage::kBf16 && kPairs;
  for (Index row = 0; row < t.rows; row += kRowBlock) {
    const Index rows = least(kRowBlock, t.rows - row);
    __builtin_memset(c, 0, static_cast<std::size_t>(rows * kPanel) * sizeof(float));
    if (halves || t.storage == Storage::kF32) {
      const Index steps = halves ? (t.k + 1) / 2 : t.k;
      for (Index s = 0; s < steps; s += kDepth) {
        const float* x = static_cast<const float*>(t.x) + row * t.x_stride + s;
        const float* w = reinterpret_cast<const float*>(t.elements) + s * kTile;
        const Index stride = t.tile_bytes / 4, depth = least(kDepth, steps - s);
        if (halves)
          multiply<kPairs>(rows, t.tiles, x, t.x_stride, w, stride, kTile, depth, Into::kAdd, nullptr, 0, c,
                           kPanel);
        else
          multiply<false>(rows, t.tiles, x, t.x_stride, w, stride, kTile, depth, Into::kAdd, nullptr, 0, c,
                          kPanel);
      }
    } else if (t.rows == 1 && t.storage != Storage::kBf16) {
      one_row(t, c);
    } else if (t.storage == Storage::kF16) {
      unpack_and_multiply<false>(t, row, rows, c);
    } else {
      unpack_and_multiply<kPairs>(t, row, rows, c);
    }
    const bool scaled = t.storage == Storage::kInt8 || t.storage == Storage::kFp8;
    for (Index r = 0; r < rows; ++r) {
      float* y = t.y + (row + r) * t.y_stride;
      const float* sums = c + r * kPanel;
      for (Index n = 0; n < t.columns; ++n) {
        float value = scaled ? sums[n] * t.scales[n] : sums[n];
        if (t.bias) value += t.bias[n];
        y[n] = t.accumulate ? y[n] + value : value;
      }
    }
  }
}

Index rounded_stride(Index k) { return kPairs ? (k + 1) / 2 : k; }

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
