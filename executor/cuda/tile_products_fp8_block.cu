// Products of many rows with weights in fp8 and scales of blocks: tile_product.cuh, compiled for them.
#include "executor/cuda/tile_product.cuh"

namespace foretoken::cuda {

bool takes_bytes(const Product& p, const DeviceProperties& device) {
  // Rows of fewer than a unit would be longer than what they are given as bf16.
  if (p.storage != Storage::kFp8Block || !p.quantised_x || !p.warpgroups || p.k < kUnitBytes) return false;
  if (device.shared_bytes < Shape<Storage::kFp8Block, kTileN, 128, true>::kShared) return false;
  if (p.tiles != nullptr) return p.tile_rows == 128;
  // Fewer tiles than multiprocessors: others split k.
  return tile_rows_for(p.m) == 128 &&
         10 * divide_up(p.n, kTileN) * divide_up(p.m, 128) >= 9 * device.multiprocessors;
}

template void tiles<Storage::kFp8Block>(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
