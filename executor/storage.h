// How numbers are stored: conversions of single values, the same on every processor. bf16 and f16 round to
// nearest, ties to even; fp8 is E4M3 with the largest value 448 and no infinities (OCP 8-bit floating
// point, 1.0).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace foretoken {

inline std::uint16_t to_bf16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // NaN stays one
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(std::uint16_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16); }

inline std::uint16_t to_f16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);  // rounds beyond 65504
  if (magnitude < 0x38800000) {  // subnormal: the value in units of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;
    return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::nearbyint(scaled)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}
inline float from_f16(std::uint16_t v) {
  const std::uint32_t sign = static_cast<std::uint32_t>(v & 0x8000) << 16, e = v >> 10 & 31, m = v & 1023;
  if (e == 0)
    return std::bit_cast<float>(sign |
                                std::bit_cast<std::uint32_t>(static_cast<float>(m) * 5.9604644775390625e-8f));
  if (e == 31) return std::bit_cast<float>(sign | 0x7f800000 | m << 13);
  return std::bit_cast<float>(sign | (e + 112) << 23 | m << 13);
}

inline float from_fp8(std::uint8_t v) {
  const int e = v >> 3 & 15, m = v & 7;
  if (e == 15 && m == 7) return std::bit_cast<float>(std::uint32_t{0x7fc00000});
  const float magnitude =
      e == 0 ? std::ldexp(static_cast<float>(m), -9) : std::ldexp(static_cast<float>(8 + m), e - 10);
  return v & 0x80 ? -magnitude : magnitude;
}
inline std::uint8_t to_fp8(float v) {
  const std::uint8_t sign = std::signbit(v) ? 0x80 : 0;
  const float a = std::fabs(v);
  if (std::isnan(v)) return static_cast<std::uint8_t>(sign | 0x7f);
  if (a >= 464.0f) return static_cast<std::uint8_t>(sign | 0x7e);  // saturates
  int exponent = 0;
  if (a > 0) std::frexp(a, &exponent);                     // a in [0.5, 1) x 2^exponent
  const int unit = exponent - 1 < -6 ? -9 : exponent - 4;  // of the last place
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(a, -unit)));
  const float rounded = std::ldexp(static_cast<float>(steps), unit);
  if (rounded < 0.015625f) return static_cast<std::uint8_t>(sign | static_cast<int>(rounded * 512.0f));
  std::frexp(rounded, &exponent);
  const int mantissa = static_cast<int>(std::ldexp(rounded, 4 - exponent)) - 8;
  return static_cast<std::uint8_t>(sign | (exponent + 6) << 3 | mantissa);
}

}  // namespace foretoken
