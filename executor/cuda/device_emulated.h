// The primitives of device.cuh on the processor. Included by it alone.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "executor/cuda/emulation.h"

namespace foretoken::cuda {

namespace detail {
inline void check_aligned(const void* address, unsigned alignment, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
    emulation::fail(std::string(name) + " of an address that is not a multiple of " +
                    std::to_string(alignment));
}

// complete(get, put): get(l) is what lane l gave, put(l, value) what it gets.
template <class Out, class In, class F>
Out warp_exchange(const char* name, const In& in, F complete) {
  static_assert(sizeof(In) <= emulation::kLaneBytes && sizeof(Out) <= emulation::kLaneBytes);
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  const auto call = [](const std::byte* given, std::byte* got, const void* context) {
    (*static_cast<const F*>(context))(
        [given](unsigned l) {
          In value;
          std::memcpy(&value, given + l * emulation::kLaneBytes, sizeof value);
          return value;
        },
        [got](unsigned l, const Out& value) {
          std::memcpy(got + l * emulation::kLaneBytes, &value, sizeof value);
        });
  };
  Out out;
  std::memcpy(&out, emulation::exchange(name, &in, sizeof in, call, &complete), sizeof out);
  return out;
}

// All steps of a butterfly at once: one exchange instead of five, the same sums.
template <unsigned Lanes, class T, class Combine>
T butterfly(T value, Combine combine) {
  return warp_exchange<T>("a reduction of a warp", value, [combine](auto get, auto put) {
    T values[kWarp], next[kWarp];
    for (unsigned l = 0; l < kWarp; ++l) values[l] = get(l);
    for (unsigned mask = Lanes / 2; mask > 0; mask /= 2) {
      for (unsigned l = 0; l < kWarp; ++l) next[l] = combine(values[l], values[l ^ mask]);
      std::copy(next, next + kWarp, values);
    }
    for (unsigned l = 0; l < kWarp; ++l) put(l, values[l]);
  });
}

struct Word2 {
  std::uint32_t r[2];
};
struct Word4 {
  std::uint32_t r[4];
};
struct Fragments {  // one lane's a and b
  std::uint32_t a[4], b[2];
};

// The layouts of mma's operands, as the PTX ISA draws them. Bytes: of an element.
template <class Element, unsigned Bytes, class Sum, class Decode>
void mma(const char* name, Element (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
         Decode decode) {
  constexpr unsigned kPerWord = 4 / Bytes, kDepth = 32 / Bytes;
  Fragments in;
  std::copy(a, a + 4, in.a);
  std::copy(b, b + 2, in.b);
  struct Product {
    Sum d[4];
  };
  const auto product = warp_exchange<Product>(name, in, [decode](auto get, auto put) {
    Sum rows[16][kDepth], columns[8][kDepth];
    for (unsigned l = 0; l < kWarp; ++l) {
      const unsigned g = l / 4, t = l % 4;
      const Fragments f = get(l);
      for (unsigned i = 0; i < kPerWord; ++i) {
        const auto element = [i](std::uint32_t word) {
          return static_cast<std::uint32_t>((word >> (8 * Bytes * i)) & ((1ull << (8 * Bytes)) - 1));
        };
        for (unsigned word = 0; word < 4; ++word)
          rows[g + 8 * (word % 2)][kPerWord * t + i + kDepth / 2 * (word / 2)] = decode(element(f.a[word]));
        for (unsigned word = 0; word < 2; ++word)
          columns[g][kPerWord * t + i + kDepth / 2 * word] = decode(element(f.b[word]));
      }
    }
    for (unsigned l = 0; l < kWarp; ++l) {
      const unsigned g = l / 4, t = l % 4;
      Product p{};
      for (unsigned i = 0; i < 4; ++i)
        for (unsigned k = 0; k < kDepth; ++k) p.d[i] += rows[g + 8 * (i / 2)][k] * columns[2 * t + i % 2][k];
      put(l, p);
    }
  });
  for (unsigned i = 0; i < 4; ++i) d[i] = static_cast<Element>(static_cast<Sum>(d[i]) + product.d[i]);
}

template <unsigned Matrices, class Words>
Words ldmatrix(const char* name, const void* row, bool transposed) {
  if (lane() < 8 * Matrices) check_aligned(row, 16, name);
  return warp_exchange<Words>(name, row, [transposed](auto get, auto put) {
    std::uint16_t matrix[Matrices][8][8];
    for (unsigned m = 0; m < Matrices; ++m)
      for (unsigned r = 0; r < 8; ++r) std::memcpy(matrix[m][r], get(8 * m + r), 16);
    for (unsigned l = 0; l < kWarp; ++l) {
      const unsigned g = l / 4, t = l % 4;
      Words words;
      for (unsigned m = 0; m < Matrices; ++m) {
        const std::uint32_t first = transposed ? matrix[m][2 * t][g] : matrix[m][g][2 * t];
        const std::uint32_t second = transposed ? matrix[m][2 * t + 1][g] : matrix[m][g][2 * t + 1];
        words.r[m] = first | second << 16;
      }
      put(l, words);
    }
  });
}

template <class T, class Change>
T change(T* at, Change next) {
  const T before = *at;
  *at = next(before);
  return before;
}
}  // namespace detail

inline void sync_threads() { emulation::barrier(); }
inline void sync_warp() {
  detail::warp_exchange<char>("sync_warp", char{0}, [](auto, auto) {});
}
inline void thread_fence() {}
inline std::byte* dynamic_shared() { return emulation::dynamic_shared(); }

template <class T>
inline T shuffle(T value, unsigned from_lane) {
  struct In {
    T value;
    unsigned from;
  };
  return detail::warp_exchange<T>("shuffle", In{value, from_lane % kWarp}, [](auto get, auto put) {
    for (unsigned l = 0; l < kWarp; ++l) put(l, get(get(l).from).value);
  });
}
template <class T>
inline T shuffle_xor(T value, unsigned mask) {
  return shuffle(value, lane() ^ mask);
}
template <class T>
inline T shuffle_up(T value, unsigned by) {
  return shuffle(value, lane() >= by ? lane() - by : lane());
}
template <class T>
inline T shuffle_down(T value, unsigned by) {
  return shuffle(value, lane() + by < kWarp ? lane() + by : lane());
}
inline unsigned ballot(bool vote) {
  return detail::warp_exchange<unsigned>("ballot", vote, [](auto get, auto put) {
    unsigned votes = 0;
    for (unsigned l = 0; l < kWarp; ++l) votes |= static_cast<unsigned>(get(l)) << l;
    for (unsigned l = 0; l < kWarp; ++l) put(l, votes);
  });
}
inline unsigned warp_max(unsigned value) {
  return detail::butterfly<kWarp>(value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline unsigned warp_min(unsigned value) {
  return detail::butterfly<kWarp>(value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline bool warp_any(bool vote) { return ballot(vote) != 0; }
inline bool warp_all(bool vote) { return ballot(vote) == 0xffffffffu; }

inline int atomic_add(int* at, int value) {
  return detail::change(at, [value](int before) {
    return static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value));
  });
}
inline unsigned atomic_add(unsigned* at, unsigned value) {
  return detail::change(at, [value](unsigned before) { return before + value; });
}
inline float atomic_add(float* at, float value) {
  return detail::change(at, [value](float before) { return before + value; });
}
inline unsigned long long atomic_add(unsigned long long* at, unsigned long long value) {
  return detail::change(at, [value](unsigned long long before) { return before + value; });
}
inline int atomic_max(int* at, int value) {
  return detail::change(at, [value](int before) { return std::max(before, value); });
}
inline int atomic_min(int* at, int value) {
  return detail::change(at, [value](int before) { return std::min(before, value); });
}
inline unsigned atomic_or(unsigned* at, unsigned value) {
  return detail::change(at, [value](unsigned before) { return before | value; });
}
inline int atomic_exchange(int* at, int value) {
  return detail::change(at, [value](int) { return value; });
}
inline int atomic_cas(int* at, int expected, int value) {
  return detail::change(at, [=](int before) { return before == expected ? value : before; });
}
inline unsigned long long atomic_cas(unsigned long long* at, unsigned long long expected,
                                     unsigned long long value) {
  return detail::change(at, [=](unsigned long long before) { return before == expected ? value : before; });
}
inline unsigned long long atomic_max(unsigned long long* at, unsigned long long value) {
  return detail::change(at, [value](unsigned long long before) { return std::max(before, value); });
}

inline std::uint32_t pack_bf16x2(float first, float second) {
  return __nv_bfloat16_raw(__float2bfloat16_rn(first)).x |
         static_cast<std::uint32_t>(__nv_bfloat16_raw(__float2bfloat16_rn(second)).x) << 16;
}

inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) { return (a & b) | c; }
inline std::uint32_t and_xor(std::uint32_t a, std::uint32_t b, std::uint32_t c) { return (a & b) ^ c; }

inline std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  const auto half = [&](unsigned shift) {
    const auto number = [shift](std::uint32_t pair) -> double {
      return std::bit_cast<float>((pair >> shift) << 16);
    };
    const double sum = number(a) * number(b) + number(c);
    return std::uint32_t{__nv_bfloat16_raw(__double2bfloat16(sum)).x};
  };
  return half(0) | half(16) << 16;
}

inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_log2(float x) { return std::log2(x); }
inline float fast_reciprocal(float x) { return 1 / x; }
inline float fast_rsqrt(float x) { return 1 / std::sqrt(x); }
inline float fast_tanh(float x) { return std::tanh(x); }
inline float multiply(float a, float b) { return a * b; }
inline float as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t as_bits(float value) { return std::bit_cast<std::uint32_t>(value); }
inline int count_bits(unsigned bits) { return std::popcount(bits); }
inline int lowest_bit(unsigned bits) { return bits == 0 ? -1 : std::countr_zero(bits); }

inline void store8(void* to, uint2 value) {
  detail::check_aligned(to, 8, "store8");
  *static_cast<uint2*>(to) = value;
}
inline void store16(void* to, uint4 value) {
  detail::check_aligned(to, 16, "store16");
  *static_cast<uint4*>(to) = value;
}
inline uint4 load_streaming16(const void* from) {
  detail::check_aligned(from, 16, "load_streaming16");
  return *static_cast<const uint4*>(from);
}
inline void prefetch_l2(const void*) {}

inline void copy_async16(void* shared, const void* global, bool valid) {
  detail::check_aligned(shared, 16, "copy_async16");
  detail::check_aligned(global, 16, "copy_async16");
  emulation::copy_async(shared, global, 16, valid);
}
inline void copy_async4(void* shared, const void* global, bool valid) {
  detail::check_aligned(shared, 4, "copy_async4");
  detail::check_aligned(global, 4, "copy_async4");
  emulation::copy_async(shared, global, 4, valid);
}
inline void copy_async_commit() { emulation::copy_async_commit(); }
template <int N>
inline void copy_async_wait() {
  emulation::copy_async_wait(N);
}

// Products and sums in float64, rounded once: the hardware's order of summation is not documented.
inline void mma_bf16_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  detail::mma<float, 2, double>("mma_bf16_16816", d, a, b,
                                [](std::uint32_t bits) -> double { return as_float(bits << 16); });
}
inline void mma_f16_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  detail::mma<float, 2, double>("mma_f16_16816", d, a, b, [](std::uint32_t bits) -> double {
    __half_raw raw;
    raw.x = static_cast<unsigned short>(bits);
    return __half2float(f16(raw));
  });
}
inline void mma_int8_16832(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  detail::mma<std::int32_t, 1, std::int32_t>("mma_int8_16832", d, a, b, [](std::uint32_t bits) {
    return std::int32_t{static_cast<std::int8_t>(static_cast<std::uint8_t>(bits))};
  });
}
inline void mma_e4m3_16832(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  if (emulation::settings().compute_capability < 89) emulation::fail("mma_e4m3_16832 below 8.9");
  detail::mma<float, 1, double>("mma_e4m3_16832", d, a, b, [](std::uint32_t bits) -> double {
    e4m3 value;
    value.__x = static_cast<__nv_fp8_storage_t>(bits);
    return static_cast<float>(value);
  });
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  const auto words = detail::ldmatrix<4, detail::Word4>("ldmatrix_x4", row, false);
  std::copy(words.r, words.r + 4, r);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  const auto words = detail::ldmatrix<4, detail::Word4>("ldmatrix_x4_trans", row, true);
  std::copy(words.r, words.r + 4, r);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
  const auto words = detail::ldmatrix<2, detail::Word2>("ldmatrix_x2", row, false);
  std::copy(words.r, words.r + 2, r);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row) {
  const auto words = detail::ldmatrix<2, detail::Word2>("ldmatrix_x2_trans", row, true);
  std::copy(words.r, words.r + 2, r);
}

inline void grid_dependency_wait() { emulation::grid_dependency_wait(); }
inline void grid_dependency_launch() {}

}  // namespace foretoken::cuda
