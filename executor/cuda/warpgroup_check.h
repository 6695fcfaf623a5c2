// Whether this device's products of warpgroups are what warpgroup.cuh says: small whole numbers, so that
// every sum is exact, in every form that kernels use. Kernels that multiply so are chosen only then.
#pragma once

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// Waits for the stream.
bool warpgroup_products_are_right(Stream& stream);

}  // namespace foretoken::cuda
