// What sampling keeps from call to call, so that none allocates once the largest has been seen.
#pragma once

#include <cstddef>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

struct SamplingBuffers {
  explicit SamplingBuffers(Stream& stream);
  std::byte* host(std::size_t bytes);  // pinned; what was there before is gone

  PinnedMemory pinned;
  DeviceMemory counters;  // of a launch's rows; every launch leaves zeros
};

}  // namespace foretoken::cuda
