// Products of many rows with weights in fp8 and scales of blocks: tile_product.cuh, compiled for them.
#include "executor/cuda/tile_product.cuh"

namespace foretoken::cuda {

template std::size_t bytes_shared<Storage::kFp8Block>();
template void tiles<Storage::kFp8Block>(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
