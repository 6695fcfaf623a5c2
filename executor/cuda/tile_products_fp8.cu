// Products of many rows with weights in fp8: tile_product.cuh, compiled for them.
#include "executor/cuda/tile_product.cuh"

namespace foretoken::cuda {

template std::size_t bytes_shared<Storage::kFp8>();
template void tiles<Storage::kFp8>(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
