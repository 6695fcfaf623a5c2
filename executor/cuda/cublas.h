// Products of bf16 matrices by cuBLASLt: cublas.cpp, or cublas_none.cpp, which has nothing for any.
#pragma once

#include <cstdint>
#include <functional>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// y[m, n] = x[m, k] w[n, k]^T (+ bias[n]) (+ y if accumulate): w and x of bf16, the rest of float32, strides
// in elements. Rows of w and x may be padded with zeros, which count in k.
struct CublasProduct {
  const void *w = nullptr, *x = nullptr;
  std::int64_t m = 0, n = 0, k = 0, w_stride = 0, x_stride = 0, y_stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  float* y = nullptr;
};

// Makes the handle and its workspace, once: allocates, so not while a step is recorded.
void prepare_cublas();
std::size_t cublas_bytes();  // that prepare_cublas() will take of the device's memory; 0 once it has
// What belongs to a product by the library, and not to `own`: w is made before, y changed after.
struct CublasSteps {
  std::function<void()> before;
  std::function<void(float* y, std::int64_t y_stride)> after;
};

// Launches the product; false where the library has nothing for it, or where `own` was found to be faster:
// own(y, y_stride) launches the same product, but never accumulates, by another kernel. What is fastest is
// measured when a shape (m within a power of two) is first seen, unless a step is being recorded or there is
// no memory for it: then the library's first proposal is taken.
bool cublas_product(const CublasProduct& product, Stream& stream,
                    const std::function<void(float* y, std::int64_t y_stride)>& own,
                    const CublasSteps& steps = {});

}  // namespace foretoken::cuda
