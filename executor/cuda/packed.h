// Weight matrices w[n, k] in a device's memory: the layout that the products' kernels read.
//
// Rows lie behind one another, each padded with zeros to a multiple of 64 bytes: a unit, that is 16 elements
// of float32, 32 of 16 bits, 64 of 8 or 128 of 4 (a group of kInt4). Behind the rows, from a multiple of 256
// bytes on, are the scales: a float a row (kInt8, kFp8), [group][row] with rows padded to 4 (kInt4), or
// [row / 128][group] with groups padded to 4, as cuBLASLt has blocks (kFp8Block).
//
// A product of tensor cores takes 8 neighbours of x from each of 4 lanes, 32 in all, so a lane t reads 16
// bytes of a unit, which are all it needs of weights for x at 8 (t + 4 j) + i: i < 8 and j < 1, 2, 4 for
// elements of 16, 8, 4 bits. The order of elements within a lane's 16 bytes is what makes two neighbours a
// pair of bf16 in few instructions:
//   16 bits  as they come
//   8 bits   the bytes of a word are elements 0, 2, 1, 3; word 2 j + i / 4
//   4 bits   two's complement; a word j holds elements 0, 2, 4, 6 in its lower half, from the lowest nibble
//            on, and 1, 3, 5, 7 in its upper half
// float32, which no tensor core takes, lies as it comes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor/kernels.h"

namespace foretoken::cuda {

inline constexpr std::int64_t kUnitBytes = 64;

struct PackedLayout {
  PackedLayout(Storage storage, std::int64_t n, std::int64_t k);
  std::int64_t row_bytes = 0;
  std::int64_t groups = 0;        // scales of a row
  std::int64_t scale_stride = 0;  // floats from one group's scales to the next's, or one block's of rows
  std::int64_t scales_at = 0;     // bytes
  std::int64_t bytes = 0;
  std::int64_t scales() const { return (bytes - scales_at) / 4; }
};

// Elements of a unit.
constexpr std::int64_t unit_elements(Storage storage) {
  switch (storage) {
    case Storage::kF32:
      return 16;
    case Storage::kBf16:
    case Storage::kF16:
      return 32;
    case Storage::kInt4:
      return 128;
    default:
      return 64;
  }
}

// The processor multiplies x as it is, in float32, by the weights of these; by others x is rounded to bf16.
constexpr bool exact_product(Storage storage) { return storage == Storage::kF32 || storage == Storage::kF16; }

// One row, as encode_row() has it, into `to` (layout.row_bytes); its scales.
void pack_row(Storage storage, const float* row, std::int64_t k, std::byte* to, float* scales);

}  // namespace foretoken::cuda
