// Vectors of kLanes floats and their arithmetic, for the loops of kernels_simd_loops.h, which says how it is
// included.
#pragma once

#include <cstring>
#include <utility>

#include "executor/kernels_simd.h"
#if defined(__AVX2__)
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
constexpr Index kUnpackDepth = 128;            // of an unpacked panel; a group of scales
constexpr Index kDepth = 2048;
static_assert(kUnpackDepth == kScaleGroup);

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
// kLanes bytes from memory, each in a lane: what compilers make of a conversion of vectors is slow.
inline __attribute__((always_inline)) U bytes_at(const std::byte* from) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16)
    return (U)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  if constexpr (kLanes == 8)
    return (U)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
  return __builtin_convertvector(load<U8>(from), U);
}
inline __attribute__((always_inline)) V signed_bytes_at(const std::byte* from) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16)
    return (V)_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  if constexpr (kLanes == 8)
    return (V)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#endif
  return __builtin_convertvector(load<S8>(from), V);
}
inline V all(float value) { return value - V{}; }
inline V choose(I mask, V a, V b) {
  return reinterpret_cast<V>((mask & reinterpret_cast<I>(a)) | (~mask & reinterpret_cast<I>(b)));
}
inline V larger(V a, V b) { return a > b ? a : b; }
inline V smaller(V a, V b) { return a < b ? a : b; }
inline Index least(Index a, Index b) { return a < b ? a : b; }
inline Index most(Index a, Index b) { return a > b ? a : b; }
inline float sum(V v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
template <int step, int... l>
inline __attribute__((always_inline)) V largest_of(V v, std::integer_sequence<int, l...> lanes) {
  if constexpr (step == kLanes)
    return v;
  else
    return largest_of<2 * step>(larger(v, __builtin_shuffle(v, I{(l ^ step)...})), lanes);
}
// The largest lane in all lanes.
inline V largest_everywhere(V v) { return largest_of<1>(v, std::make_integer_sequence<int, kLanes>{}); }

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
// 2^x within 2e-7 of its value; 0 below -126.
inline V power_of_two(V x) {
  const V clamped = larger(x, all(-127.0f));
  const V shifted = clamped + 12582912.0f;  // 1.5 x 2^23: rounds, and leaves the integer in the lowest bits
  const V r = clamped - (shifted - 12582912.0f);
  V p = all(1.3264727e-3f);
  p = p * r + 9.671513e-3f;
  p = p * r + 5.5507336e-2f;
  p = p * r + 2.4022242e-1f;
  p = p * r + 6.931470e-1f;
  p = p * r + 1.0f;
  return choose(x < -126.0f, V{}, as_float(as_bits(p) + (as_bits(shifted) << 23)));
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
// kLanes numbers of 16 bits from memory.
inline __attribute__((always_inline)) V f16_at(const std::byte* from) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16)
    return (V)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
  return from_f16(__builtin_convertvector(load<U16>(from), U));
}
inline V from_fp8(U bits) {
  const V magnitude = as_float((bits & 0x7fu) << 20) * 0x1p120f;
  return as_float(as_bits(magnitude) | (bits & 0x80u) << 24);
}

}  // namespace
}  // namespace foretoken
