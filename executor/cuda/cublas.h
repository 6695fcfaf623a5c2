// Products of bf16 matrices by cuBLASLt. cublas.cpp is on the library; cublas_emulated.cpp, for where there
// is no device, does nothing.
#pragma once

#include <cstdint>
#include <functional>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// y[m, n] = x[m, k] w[n, k]^T (+ bias[n]) (+ y if accumulate): w and x of bf16, the rest of float32, strides
// in elements. Zeros may pad rows of w and x, and count in k.
struct CublasProduct {
  const void *w = nullptr, *x = nullptr;
  std::int64_t m = 0, n = 0, k = 0, w_stride = 0, x_stride = 0, y_stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  float* y = nullptr;
};

// Makes the handle and its workspace, once: allocates.
void prepare_cublas();
// False where the library has nothing for the shape, or where `own` was found to be faster: `own(y)` launches
// the product by another kernel, into other memory than the product's. A shape is measured when it is first
// seen outside of a recording, and memory is free for it; else the library's first proposal is taken.
bool cublas_product(const CublasProduct& product, Stream& stream,
                    const std::function<void(float* y, std::int64_t y_stride)>& own);

}  // namespace foretoken::cuda
