// Tensor maps: what the device's units for copies of boxes (TMA, compute capability 9.0) know of a matrix in
// its memory. Here a matrix of 16-bit numbers, of which boxes of some rows and 64 columns are copied into
// panels of shared memory (warpgroup.cuh) by one instruction (tensor_copies.cuh). Rows and columns beyond the
// matrix are zeros there.
#pragma once

#include <cstdint>
#include <optional>

namespace foretoken::cuda {

// Opaque; the size and alignment of the driver's CUtensorMap. Kernels take it as a __grid_constant__.
struct alignas(64) TensorMap {
  std::uint64_t words[16] = {};
};

// Of `columns` numbers a row, one row behind another from `first` on, a multiple of 16 bytes as rows are;
// box_rows: 1 to 256. Nothing where the driver has no tensor maps, or refuses this one.
// (runtime.cpp: by cuTensorMapEncodeTiled, without linking the driver's library.)
std::optional<TensorMap> make_tensor_map(const void* first, std::int64_t columns, std::int64_t rows,
                                         int box_rows);

// Rows of a matrix whose end nobody knows: what reads it asks for no row beyond it.
inline constexpr std::int64_t kMostMapRows = 0x7fffffff;

}  // namespace foretoken::cuda
