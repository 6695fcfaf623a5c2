// Numbers of 16 and 8 bits as they are stored, to and from float: round to nearest, ties to even.
#pragma once

#include <bit>
#include <cstdint>

namespace foretoken {

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
std::uint16_t float_to_bf16(float value);
inline float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

float f16_to_float(std::uint16_t bits);
std::uint16_t float_to_f16(float value);

// OCP 8-bit e4m3: no infinities, largest 448. Values beyond it saturate.
inline constexpr float kFp8Largest = 448;
float fp8_to_float(std::uint8_t bits);
std::uint8_t float_to_fp8(float value);

}  // namespace foretoken
