// What the attention kernels of warpgroups share: rows of the cache and of q on their way to panels.
#pragma once

#include "executor/cuda/products_device.cuh"
#include "executor/cuda/warpgroup.cuh"

namespace foretoken::cuda {

// Starts to copy Rows rows of the cache in bf16, each of its first `panels` panels: 8 lanes have a row, and a
// piece of each panel. Zeros beyond the row and the sequence.
template <int Rows, int Panels, int Threads>
FORETOKEN_DEVICE void copy_panels(const std::byte* cache, int dims, const unsigned* slots, int panels,
                                  std::byte* to) {
  static_assert(Rows % (Threads / 8) == 0);
  const int row_bytes = dims * 2, own = static_cast<int>(lane()) % 8;
#pragma unroll
  for (int first = 0; first < Rows; first += Threads / 8) {
    const int row = first + static_cast<int>(thread()) / 8;
    const unsigned slot = slots[row];
    const bool valid = slot != kNoSlot;
    const std::byte* from =
        cache + own * 16 + std::uint64_t{valid ? slot : 0} * static_cast<unsigned>(row_bytes);
    std::byte* piece = to + swizzled(row, own);
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      const int at = panel * kPanelRow;
      if (panel < panels)
        copy_async16(piece + panel * Rows * kPanelRow, from + at, valid && own * 16 + at < row_bytes);
    }
  }
}

// Rows rows of q in K dims, rounded.
template <int Rows, int K, int Threads>
FORETOKEN_DEVICE void query_panels(const AttentionParams& p, const Item& item, std::byte* to) {
  load_queries<Rows, K, Threads, false>(p, item, [to](int row, int dim) {
    return to + dim / kPanelColumns * Rows * kPanelRow + swizzled(row, dim % kPanelColumns / 8) + dim % 8 * 2;
  });
}

}  // namespace foretoken::cuda
