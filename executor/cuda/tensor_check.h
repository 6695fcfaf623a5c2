// Whether this device's copies of boxes by tensor maps are what tensor_copies.cuh says: boxes of every size
// that kernels ask for, within a matrix and over its edges, through barriers whose phases come again,
// compared number by number and multiplied by warpgroups. Waits are bounded: where bytes or arrivals are
// counted otherwise the answer is no. Kernels that copy so are chosen only where it is yes.
#pragma once

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// Waits for the stream. The device's products of warpgroups are right.
bool tensor_copies_are_right(Stream& stream);

}  // namespace foretoken::cuda
