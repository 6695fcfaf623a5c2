// Which tiles a product of many rows is cut into, and their launch by the storage of the weights: each
// storage's kernels are a file of their own (tile_product.cuh), as they take a compiler long.
#include <algorithm>

#include "executor/cuda/tile_products.h"

namespace foretoken::cuda {

std::int64_t tile_rows_for(std::int64_t m) { return m <= 16 ? 16 : m <= 64 ? 64 : 128; }

// Enough blocks for the places that there are, or an eighth more, and four steps along k for each.
int splits_for(std::int64_t tiles, std::int64_t k_tiles, int places) {
  if (10 * tiles >= 9 * places || tiles > kMostSplitTiles) return 1;
  std::int64_t splits = places / tiles;
  if (10 * splits * tiles < 8 * places && 8 * (splits + 1) * tiles <= 9 * places) ++splits;
  return static_cast<int>(std::clamp<std::int64_t>(splits, 1, std::max<std::int64_t>(k_tiles / 4, 1)));
}

// Three blocks of 16 rows work on a multiprocessor at a time, or two of more; and an eighth more than that.
std::size_t partial_bytes(std::int64_t m, int multiprocessors) {
  const std::int64_t rows = m <= 16 ? 3 * 16 : 2 * tile_rows_for(m);
  return static_cast<std::size_t>((9 * multiprocessors * rows + 7) / 8) * kTileN * sizeof(float);
}

bool takes_bytes(const Product& p, const DeviceProperties& device) {
  // Rows of fewer than a unit would be longer than what they are given as bf16. int32 holds 2^17 products of
  // 127 by 127.
  constexpr std::int64_t kMostIntegers = std::int64_t{1} << 17;
  const bool integers = p.storage == Storage::kInt8;
  if (!of_8_bits(p.storage) || !p.quantised_x || !p.warpgroups || p.k < kUnitBytes) return false;
  if (integers && p.k > kMostIntegers) return false;
  if (device.shared_bytes < (integers                     ? bytes_shared<Storage::kInt8>()
                             : p.storage == Storage::kFp8 ? bytes_shared<Storage::kFp8>()
                                                          : bytes_shared<Storage::kFp8Block>()))
    return false;
  if (p.tiles != nullptr) return p.tile_rows == 128;
  // Fewer tiles than multiprocessors: others split k.
  const std::int64_t tile_n = bytes_tile_n(p.storage), tiles_n = (p.n + tile_n - 1) / tile_n;
  return tile_rows_for(p.m) == 128 && 10 * tiles_n * ((p.m + 127) / 128) >= 9 * device.multiprocessors;
}

void launch_tiles(Product p, const DeviceProperties& device, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  switch (p.storage) {
    case Storage::kF16:
      return tiles<Storage::kF16>(p, device, on);
    case Storage::kInt8:
      return tiles<Storage::kInt8>(p, device, on);
    case Storage::kInt4:
      return tiles<Storage::kInt4>(p, device, on);
    case Storage::kFp8:
      return tiles<Storage::kFp8>(p, device, on);
    case Storage::kFp8Block:
      return tiles<Storage::kFp8Block>(p, device, on);
    default:
      return tiles<Storage::kBf16>(p, device, on);
  }
}

}  // namespace foretoken::cuda
