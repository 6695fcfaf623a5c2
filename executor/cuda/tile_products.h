// What the kernels of products of many rows (tile_product.cuh) and their launch share.
#pragma once

#include <cstdint>

#include "executor/cuda/products.h"

namespace foretoken::cuda {

inline constexpr unsigned kTileN = 128;  // rows of w that a block takes, or twice as many
// Of a tile that takes both sides as bytes.
constexpr unsigned bytes_tile_n(Storage storage) { return storage == Storage::kInt8 ? 2 * kTileN : kTileN; }
inline constexpr std::int64_t kMostSplitTiles = 4096;  // whose parts are counted

// Shared memory of a block that takes both sides as bytes.
template <Storage storage>
std::size_t bytes_shared();

template <Storage storage>
void tiles(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
