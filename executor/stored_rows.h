// Rows of weights and cached vectors as they are stored: elements, and the scales that go with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "executor/kernels.h"

namespace foretoken {

// Bytes of an element; kInt4 has a byte for each until pack_nibbles() puts two in one.
constexpr std::int64_t element_bytes(Storage storage) {
  return storage == Storage::kF32 ? 4 : storage == Storage::kBf16 || storage == Storage::kF16 ? 2 : 1;
}
// Scales of a row of k elements, and how many elements share one.
constexpr std::int64_t scales_of_row(Storage storage, std::int64_t k) {
  if (in_groups(storage)) return (k + kScaleGroup - 1) / kScaleGroup;
  return of_8_bits(storage) ? 1 : 0;
}
constexpr std::int64_t scale_group(Storage storage, std::int64_t k) {
  return in_groups(storage) ? kScaleGroup : k;
}

// `count` values in `count` x element_bytes() bytes, aligned to an element. A scale puts the largest value
// that it is for at the format's largest (1 where all are zero); scales: scales_of_row() floats. (A row of
// kFp8Block is scaled as if it were alone in its blocks.)
void encode_row(Storage storage, const float* row, std::int64_t count, std::byte* elements, float* scales);

// Rows of a matrix: the same, with scales of blocks where the storage has them. For these the rows are read
// before, all of them.
class RowEncoder {
 public:
  // scale: see Kernels::pack().
  RowEncoder(Storage storage, std::int64_t n, std::int64_t k, const Kernels::ReadRow& read, Threads& threads,
             float scale = 0);
  void encode(std::int64_t row, const float* values, std::byte* elements, float* scales) const;

 private:
  Storage storage_;
  std::int64_t k_, groups_;
  float scale_;
  std::vector<float> of_blocks_;  // [n / 128][groups], rounded up
};

// The numbers that encode_row() leaves of 8 bits, before their scales, as floats; and these. Bfloat16 has
// each of the numbers exactly. scale: instead of the row's own, of kFp8 alone; 0: its own.
void quantise_row(Storage storage, const float* row, std::int64_t count, float* to, float* scales,
                  float scale = 0);
// What all rows of x have by w, for quantise_row(): see Matrix; 0: each its own.
float scale_of_x(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t rows);
// The scale that puts the largest value of n rows at kFp8's largest.
float one_fp8_scale(std::int64_t n, std::int64_t k, const Kernels::ReadRow& read, Threads& threads);

// Eight elements of kInt4 in four bytes: 0, 2, 4, 6 from the lowest nibble on, then 1, 3, 5, 7.
std::uint32_t pack_nibbles(const std::byte* eight);

// An element that encode_row() left, before its scale.
float stored_value(Storage storage, const std::byte* at);

}  // namespace foretoken
