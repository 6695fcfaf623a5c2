// Floats as unsigned numbers of the same order, for selection by bits and by unsigned maxima.
#pragma once

#include "executor/cuda/device.cuh"

namespace foretoken::cuda {

// Both zeros are equal, NaN is below everything, and nothing is 0: that is free for what is not there.
FORETOKEN_DEVICE unsigned ordered(float value) {
  if (value != value) return 1;
  const unsigned bits = value == 0 ? 0u : as_bits(value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
FORETOKEN_DEVICE float from_ordered(unsigned order) {
  return as_float((order & 0x80000000u) != 0 ? order & 0x7fffffffu : ~order);
}

}  // namespace foretoken::cuda
