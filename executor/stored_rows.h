// Rows of weights and cached vectors as they are stored: elements, and the scales that go with them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor/kernels.h"

namespace foretoken {

// Bytes of an element; kInt4 has a byte for each until pack_nibbles() puts two in one.
constexpr std::int64_t element_bytes(Storage storage) {
  return storage == Storage::kF32 ? 4 : storage == Storage::kBf16 || storage == Storage::kF16 ? 2 : 1;
}
// Scales of a row of k elements, and how many elements share one.
constexpr std::int64_t scales_of_row(Storage storage, std::int64_t k) {
  if (storage == Storage::kInt4) return (k + kInt4Group - 1) / kInt4Group;
  return storage == Storage::kInt8 || storage == Storage::kFp8 ? 1 : 0;
}
constexpr std::int64_t scale_group(Storage storage, std::int64_t k) {
  return storage == Storage::kInt4 ? kInt4Group : k;
}

// `count` values in `count` x element_bytes() bytes, aligned to an element. A scale puts the largest value
// that it is for at the format's largest (1 where all are zero); scales: scales_of_row() floats.
void encode_row(Storage storage, const float* row, std::int64_t count, std::byte* elements, float* scales);

// The numbers that encode_row() leaves of kInt8 and kFp8, before their scale, as floats; the scale. Bfloat16
// has each of them exactly.
float quantise_row(Storage storage, const float* row, std::int64_t count, float* to);

// Eight elements of kInt4 in four bytes: 0, 2, 4, 6 from the lowest nibble on, then 1, 3, 5, 7.
std::uint32_t pack_nibbles(const std::byte* eight);

// An element that encode_row() left, before its scale.
float stored_value(Storage storage, const std::byte* at);

}  // namespace foretoken
