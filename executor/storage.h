// Numbers of 16 and 8 bits as they are stored, to and from float: round to nearest, ties to even. In integer
// arithmetic without branches, the same on every processor; loops over them become vectors.
#pragma once

#include <bit>
#include <cstdint>

namespace foretoken {

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
inline std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}
inline float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

// The magnitude of a float, as its bits, in a format of `fraction` bits after the point and an exponent of
// `bias`: what is beyond the format runs over into larger codes.
template <int fraction, int bias>
std::uint32_t round_magnitude(std::uint32_t magnitude) {
  constexpr int kDropped = 23 - fraction;
  constexpr std::uint32_t kLeastNormal = static_cast<std::uint32_t>(128 - bias) << 23;
  // Of the exponent at which a float's last place is that of the format's denormals: adding it rounds to
  // them.
  constexpr std::uint32_t kDenormals = static_cast<std::uint32_t>(128 - bias + kDropped) << 23;
  const std::uint32_t normal =
      ((magnitude + ((1u << (kDropped - 1)) - 1) + (magnitude >> kDropped & 1u)) >> kDropped) -
      (static_cast<std::uint32_t>(127 - bias) << fraction);
  const std::uint32_t denormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(kDenormals)) -
      kDenormals;
  return magnitude < kLeastNormal ? denormal : normal;
}

inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}
inline std::uint16_t float_to_f16(float value) {
  constexpr std::uint32_t kInfinite = 0x7c00u, kNan = 0x7e00u;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t code = round_magnitude<10, 15>(magnitude);
  code = magnitude >= std::bit_cast<std::uint32_t>(65520.0f) ? kInfinite : code;
  code = magnitude > 0x7f800000u ? kNan : code;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | code);
}

// OCP 8-bit e4m3: no infinities, largest 448. Values beyond it saturate.
inline constexpr float kFp8Largest = 448;
inline float fp8_to_float(std::uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(0x7fc00000u);
  const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7fu) << 20) * 0x1p120f;
  return bits & 0x80u ? -value : value;
}
inline std::uint8_t float_to_fp8(float value) {
  constexpr std::uint32_t kLargest = 0x7eu, kNan = 0x7fu;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t code = round_magnitude<3, 7>(magnitude);
  code = magnitude >= std::bit_cast<std::uint32_t>(kFp8Largest) ? kLargest : code;
  code = magnitude > 0x7f800000u ? kNan : code;
  return static_cast<std::uint8_t>((bits >> 24 & 0x80u) | code);
}

}  // namespace foretoken
