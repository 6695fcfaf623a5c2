// Products of many rows with weights in int4: tile_product.cuh, compiled for them.
#include "executor/cuda/tile_product.cuh"

namespace foretoken::cuda {

template void tiles<Storage::kInt4>(const Product& p, const DeviceProperties& device, Stream& on);

}  // namespace foretoken::cuda
