// The loops behind SimdOps for vectors of kLanes floats; included once by each file that is compiled for an
// instruction set (FORETOKEN_LANES, FORETOKEN_OPS, and FORETOKEN_BF16_PAIRS where it multiplies pairs).
// Everything is in an unnamed namespace and uses builtins only: see kernels_simd.h.
#include <cstring>
#include <utility>

#include "executor/kernels_simd.h"
#ifdef FORETOKEN_BF16_PAIRS
#include <immintrin.h>
#endif

namespace foretoken {
namespace {

using Index = std::int64_t;
constexpr int kLanes = FORETOKEN_LANES;
#ifdef FORETOKEN_BF16_PAIRS
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif
constexpr int kRows = kLanes == 4 ? 2 : 6;     // of x in registers
constexpr int kWide = kLanes == 16 ? 4 : 1;    // tiles in registers beside them
constexpr int kWideOne = kLanes == 4 ? 1 : 4;  // and beside one row
constexpr Index kUnpackDepth = 128;            // of an unpacked panel; a group of kInt4
constexpr Index kDepth = 512;
static_assert(kUnpackDepth == kInt4Group);

typedef float V __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t I __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t U __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t U16 __attribute__((vector_size(2 * kLanes)));
typedef std::uint8_t U8 __attribute__((vector_size(kLanes)));
typedef std::int8_t S8 __attribute__((vector_size(kLanes)));

template <class T>
inline __attribute__((always_inline)) T load(const void* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
inline __attribute__((always_inline)) void store(void* to, T value) {
  __builtin_memcpy(to, &value, sizeof value);
}
inline V as_float(U bits) { return reinterpret_cast<V>(bits); }
inline U as_bits(V value) { return reinterpret_cast<U>(value); }
inline V all(float value) { return value - V{}; }
inline V choose(I mask, V a, V b) {
  return reinterpret_cast<V>((mask & reinterpret_cast<I>(a)) | (~mask & reinterpret_cast<I>(b)));
}
inline V larger(V a, V b) { return choose(a > b, a, b); }
inline V smaller(V a, V b) { return choose(a < b, a, b); }
inline Index least(Index a, Index b) { return a < b ? a : b; }
inline Index most(Index a, Index b) { return a > b ? a : b; }
inline float sum(V v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
inline float largest(V v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// e^x to 2 units in the last place (Cephes' expf); 0 below -87.
inline V exponential(V x) {
  const V clamped = smaller(larger(x, all(-87.3f)), all(88.0f));
  const V magic = all(12582912.0f);  // 1.5 x 2^23: rounds to an integer
  const V n = (clamped * 1.44269504f + magic) - magic;
  V r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I power = (__builtin_convertvector(n, I) + 127) << 23;
  return choose(x < -87.3f, V{}, p * reinterpret_cast<V>(power));
}
inline V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }
inline V hyperbolic_tangent(V x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

inline U round_bits(V value) {  // bf16 in the low half; finite values
  const U bits = as_bits(value);
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
// Numbers in the low 8 or 16 bits of each lane.
inline V from_f16(U bits) {
  const V magnitude = as_float((bits & 0x7fffu) << 13) * 0x1p112f;
  return as_float(as_bits(magnitude) | (bits & 0x8000u) << 16);
}
inline V from_fp8(U bits) {
  const V magnitude = as_float((bits & 0x7fu) << 20) * 0x1p120f;
  return as_float(as_bits(magnitude) | (bits & 0x80u) << 24);
}

// ---- matrix products ----

#ifdef FORETOKEN_BF16_PAIRS
inline __attribute__((always_inline)) V multiply_pairs(V sum, V a, float b) {
  return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(b), (__m512bh)(__m512)a);
}
#else
inline V multiply_pairs(V sum, V, float) { return sum; }
#endif

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

template <bool pairs>
void multiply(Index rows, Index tiles, const float* x, Index x_stride, const float* panel, Index tile_stride,
              Index step_stride, Index steps, Into into, const float* scales, Index scale_stride, float* c,
              Index c_stride) {
  const Index wide = rows == 1 ? kWideOne : kWide;
  for (Index t = 0; t < tiles;) {
    const bool full = t + wide <= tiles;
    for (Index r = 0; r < rows; r += kRows) {
      const int m = static_cast<int>(least(kRows, rows - r));
      const float *xr = x + r * x_stride, *p = panel + t * tile_stride;
      const float* s = scales ? scales + t * scale_stride : nullptr;
      float* to = c + r * c_stride + t * kTile;
      if (full && rows == 1)
        micro<pairs, 1, kWideOne>(xr, x_stride, p, tile_stride, step_stride, steps, into, s, scale_stride, to,
                                  c_stride);
      else if (full)
        micro_rows<pairs, kWide>(m, xr, x_stride, p, tile_stride, step_stride, steps, into, s, scale_stride,
                                 to, c_stride);
      else
        micro_rows<pairs, 1>(m, xr, x_stride, p, tile_stride, step_stride, steps, into, s, scale_stride, to,
                             c_stride);
    }
    t += full ? wide : 1;
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
      const Index slot =
          (static_cast<Index>(t.sequence->blocks[token / cache.block_size]) * cache.heads + t.cache_head) *
              cache.block_size +
          token % cache.block_size;
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
