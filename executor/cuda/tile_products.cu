// Which tiles a product of many rows is cut into, and their launch by the storage of the weights: each
// storage's kernels are a file of their own (tile_product.cuh), as they take a compiler long.
#include <algorithm>

#include "executor/cuda/tile_products.h"

namespace foretoken::cuda {

std::int64_t tile_rows_for(std::int64_t m) { return m <= 16 ? 16 : m <= 64 ? 64 : 128; }

// Enough blocks for the multiprocessors, and four steps along k for each. At most twice as many blocks as
// multiprocessors where there are two parts or more.
int splits_for(std::int64_t tiles, std::int64_t k_tiles, int multiprocessors) {
  if (10 * tiles >= 9 * multiprocessors || tiles > kMostSplitTiles) return 1;
  std::int64_t splits = multiprocessors / tiles;
  if (10 * splits * tiles < 8 * multiprocessors) ++splits;
  return static_cast<int>(std::clamp<std::int64_t>(splits, 1, std::max<std::int64_t>(k_tiles / 4, 1)));
}

std::size_t partial_bytes(std::int64_t m, int multiprocessors) {
  return 2 * static_cast<std::size_t>(multiprocessors) * kTileN * static_cast<std::size_t>(tile_rows_for(m)) *
         sizeof(float);
}

void launch_tiles(Product p, int multiprocessors, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  switch (p.storage) {
    case Storage::kF16:
      return tiles<Storage::kF16>(p, multiprocessors, on);
    case Storage::kInt8:
      return tiles<Storage::kInt8>(p, multiprocessors, on);
    case Storage::kInt4:
      return tiles<Storage::kInt4>(p, multiprocessors, on);
    case Storage::kFp8:
      return tiles<Storage::kFp8>(p, multiprocessors, on);
    default:
      return tiles<Storage::kBf16>(p, multiprocessors, on);
  }
}

}  // namespace foretoken::cuda
