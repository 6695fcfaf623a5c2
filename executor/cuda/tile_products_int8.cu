// Products of many rows with weights in int8: tile_product.cuh, compiled for them.
#include "executor/cuda/tile_product.cuh"

namespace foretoken::cuda {

template std::size_t bytes_shared<Storage::kInt8>();
template void tiles<Storage::kInt8>(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
