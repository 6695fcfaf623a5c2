// Products of bf16, fp8 (e4m3) and int8 matrices by cuBLASLt: cublas.cpp; cublas_none.cpp, which has nothing
// for any; or cublas_emulated.cpp, which has what a test sets.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// What w and x are of, and what the library leaves in y.
//   kBf16       float32 sums, with the bias
//   kFp8        float32 sums
//   kFp8Scaled  the same times the scales of the rows of w and of x
//               (CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)
//   kFp8Blocks  the same with scales of w's blocks of 128 x 128 and of 128 values of a row of x
//               (CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, VEC128_32F)
//   kFp8Tensors the same with one scale of w and one of x, the first ones (.._SCALAR_32F)
//   kInt8       int32 sums, in y's memory
// kFp8 and kInt8 leave to `after` what makes a product of the sums, and accumulate nothing.
enum class CublasForm : std::uint8_t { kBf16, kFp8, kFp8Scaled, kFp8Blocks, kFp8Tensors, kInt8 };

// A way to make y[m, n] = x[m, k] w[n, k]^T (+ bias[n]) (+ y if accumulate) that the library may have a
// kernel for; strides in elements. Rows of w and x may be padded with zeros, which count in k.
struct CublasOffer {
  CublasForm form = CublasForm::kBf16;
  const void *w = nullptr, *x = nullptr;
  std::int64_t m = 0, n = 0, k = 0, w_stride = 0, x_stride = 0, y_stride = 0;
  // [n], [m] of kFp8Scaled; one of kFp8Tensors; [n / 128][k / 128, padded to 4], [k / 128][m] of kFp8Blocks;
  // null for others.
  const float *w_scales = nullptr, *x_scales = nullptr;
  const float* bias = nullptr;  // kBf16 alone
  bool accumulate = false;
  float* y = nullptr;
  // What belongs to a product this way: w or x is made before, y changed after.
  std::function<void()> before;
  std::function<void(float* y, std::int64_t y_stride)> after;
};

// Where choices are kept from process to process (product_choices.h), beside memory; before the first
// product, else it counts for nothing. Empty, or never called: nowhere, and every process measures for
// itself.
void keep_cublas_choices(const std::string& file);

// Makes the handle and its workspace, once: allocates, so not while a step is recorded.
void prepare_cublas();
std::size_t cublas_bytes();  // that prepare_cublas() will take of the device's memory; 0 once it has

// Launches one product, which all of `offers` make; false where the library has nothing for any of them, or
// where `own` was found to be faster: own(y, y_stride) launches the same product, but never accumulates,
// without the library, or by another call of this function. What is fastest is measured when a shape (m
// within a power of two) is first seen and no file has it, unless a step is being recorded or there is no
// memory for it: then the library's first proposal for the first offer that it has one for is taken. Where it
// has none for 8 bits, remark() says so.
bool cublas_product(std::span<const CublasOffer> offers, Stream& stream,
                    const std::function<void(float* y, std::int64_t y_stride)>& own);

}  // namespace foretoken::cuda
