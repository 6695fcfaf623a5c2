// Conversions in integer arithmetic, the same on every processor.
#include "executor/storage.h"

#include <cmath>

namespace foretoken {

namespace {

// The nearest number with `fraction` bits after the point and exponents from `lowest` (where denormals
// begin).
float round_to(float value, int fraction, int lowest) {
  int exponent;
  std::frexp(value, &exponent);  // value = f 2^exponent, f in [1/2, 1)
  const int step = (exponent - 1 > lowest ? exponent - 1 : lowest) - fraction;
  return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(value), -step)), step));
}

}  // namespace

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

std::uint16_t float_to_f16(float value) {
  const auto sign = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16 & 0x8000u);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00u);
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520) return static_cast<std::uint16_t>(sign | 0x7c00u);
  const float rounded = round_to(magnitude, 10, -14) * 0x1p-112f;
  return static_cast<std::uint16_t>(sign | std::bit_cast<std::uint32_t>(rounded) >> 13);
}

float fp8_to_float(std::uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(0x7fc00000u);
  const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7fu) << 20) * 0x1p120f;
  return bits & 0x80u ? -value : value;
}

std::uint8_t float_to_fp8(float value) {
  const auto sign = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 24 & 0x80u);
  if (std::isnan(value)) return static_cast<std::uint8_t>(sign | 0x7fu);
  const float magnitude = std::fabs(value);
  if (magnitude >= kFp8Largest) return static_cast<std::uint8_t>(sign | 0x7eu);
  const float rounded = round_to(magnitude, 3, -6) * 0x1p-120f;
  return static_cast<std::uint8_t>(sign | std::bit_cast<std::uint32_t>(rounded) >> 20);
}

}  // namespace foretoken
