// Pairs of bf16 in a lane, for the sets that multiply them (AVX-512 with BF16 and VBMI): products, rounding,
// and numbers of 8 and 4 bits to pairs in registers. Elsewhere only declared, so that templates read the
// same.
#pragma once

#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

#ifdef FORETOKEN_BF16_PAIRS

inline __attribute__((always_inline)) V multiply_pairs(V sum, V a, float b) {
  return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(b), (__m512bh)(__m512)a);
}
// 32 floats, the first 16 first.
inline __attribute__((always_inline)) V round_pairs(V first, V second) {
  return (V)(__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

template <int... i>
inline __attribute__((always_inline)) void interleave(V a, V b, V* w, std::integer_sequence<int, i...>) {
  typedef std::uint16_t Halves __attribute__((vector_size(64)));
  w[0] = (V)__builtin_shuffle((Halves)a, (Halves)b, Halves{(i / 2 + i % 2 * 32)...});
  w[1] = (V)__builtin_shuffle((Halves)a, (Halves)b, Halves{(16 + i / 2 + i % 2 * 32)...});
}
// Two rows of 32 -> pairs of one element of each.
inline __attribute__((always_inline)) void interleave(V a, V b, V* w) {
  interleave(a, b, w, std::make_integer_sequence<int, 32>{});
}

// The bf16 of a stored byte's magnitude (7 bits), its low and its high byte apart; no more than 128 of each,
// which one instruction looks up.
struct ByteTable {
  alignas(64) std::uint8_t low[128] = {}, high[128] = {};
};
constexpr ByteTable byte_table(bool fp8) {
  ByteTable t;
  for (int m = 0; m < 128; ++m) {
    // fraction x 2^power, then with the fraction in [128, 256).
    int fraction = !fp8 ? m : m < 8 ? m : 8 + m % 8, power = !fp8 ? 0 : (m < 8 ? 1 : m / 8) - 10;
    if (fraction == 0) continue;
    for (; fraction < 128; fraction *= 2) --power;
    const int bits = (power + 7 + 127) * 128 + fraction - 128;
    t.low[m] = static_cast<std::uint8_t>(bits & 255);
    t.high[m] = static_cast<std::uint8_t>(bits >> 8);
  }
  return t;
}
template <Storage storage>
constexpr ByteTable kByteTable = byte_table(is_fp8(storage));

// Low and high bytes merged: those of elements [first, first + 32).
struct Merge {
  alignas(64) std::uint8_t index[64] = {};
};
constexpr Merge merge(int first) {
  Merge m;
  for (int i = 0; i < 64; ++i) m.index[i] = static_cast<std::uint8_t>(first + i / 2 + i % 2 * 64);
  return m;
}
constexpr Merge kMergeFirst = merge(0), kMergeSecond = merge(32);

// 64 bytes of kInt8, kFp8 or kFp8Block -> two vectors of 32 bf16, in order.
template <Storage storage>
inline __attribute__((always_inline)) void bytes_to_halves(const std::byte* from, V* out) {
  const auto at = [](const std::uint8_t* p) { return _mm512_load_si512(p); };
  const ByteTable& t = kByteTable<storage>;
  const __m512i bytes = _mm512_loadu_si512(from);
  const __m512i index = storage == Storage::kInt8 ? _mm512_abs_epi8(bytes) : bytes;
  const __m512i low = _mm512_permutex2var_epi8(at(t.low), index, at(t.low + 64));
  __m512i high = _mm512_permutex2var_epi8(at(t.high), index, at(t.high + 64));
  high =
      _mm512_ternarylogic_epi32(high, bytes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);  // a | b & c
  out[0] = (V)_mm512_permutex2var_epi8(low, at(kMergeFirst.index), high);
  out[1] = (V)_mm512_permutex2var_epi8(low, at(kMergeSecond.index), high);
}

// 32 elements as stored -> bf16.
template <Storage storage>
inline __attribute__((always_inline)) V halves(const std::byte* from) {
  if constexpr (storage == Storage::kBf16) {
    return load<V>(from);
  } else if constexpr (storage == Storage::kInt8) {
    return round_pairs(signed_bytes_at(from), signed_bytes_at(from + 16));
  } else {
    const __m512i bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))),
                  index = _mm512_or_si512(bytes, _mm512_slli_epi16(bytes, 8));
    const ByteTable& t = kByteTable<storage>;
    const auto at = [](const std::uint8_t* p) { return _mm512_load_si512(p); };
    const __m512i low = _mm512_permutex2var_epi8(at(t.low), index, at(t.low + 64)),
                  high = _mm512_permutex2var_epi8(at(t.high), index, at(t.high + 64)),
                  both = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaULL, low, high);
    return (V)_mm512_ternarylogic_epi32(both, index, _mm512_set1_epi16(static_cast<short>(0x8000)), 0xf8);
  }
}

// Words of four nibbles, those of one step each: step `s` of 32 lanes as bf16.
alignas(64) constexpr std::uint16_t kNibbles[32] = {
    0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0,
    0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
    0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80};
template <int s>
inline __attribute__((always_inline)) V nibbles(V words) {
  // The lookup takes five bits of each word: the table holds everything twice.
  return (V)_mm512_permutexvar_epi16(_mm512_srli_epi16((__m512i)words, 4 * s), _mm512_load_si512(kNibbles));
}

#else

inline V multiply_pairs(V sum, V, float) { return sum; }
inline V round_pairs(V first, V) { return first; }
inline void interleave(V, V, V*) {}
template <Storage storage>
inline void bytes_to_halves(const std::byte*, V*) {}
template <Storage storage>
inline V halves(const std::byte*) {
  return V{};
}
template <int s>
inline V nibbles(V words) {
  return words;
}

#endif

}  // namespace
}  // namespace foretoken
