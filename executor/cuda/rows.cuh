// Kernels over rows of values that are limited by memory alone: each thread takes a vector (16 bytes where
// addresses allow it) of each of a few rows, and loads all of them before it stores any, so that enough
// bytes are under way. What is computed is a struct with load() and store(); indices are (plane, row, column)
// and no kernel divides.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"

namespace foretoken::cuda {

// The first lines of a kernel: what came before is done, and the next kernel's blocks may take what is free.
FORETOKEN_DEVICE void begin_kernel() {
  grid_dependency_wait();
  grid_dependency_launch();
}

template <int W>
struct Values {
  float v[W];
};

template <int W>
FORETOKEN_DEVICE Values<W> load_values(const float* from) {
  static_assert(W == 1 || W % 4 == 0);
  Values<W> values;
  if constexpr (W == 1) {
    values.v[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < W; i += 4) {
      const uint4 bits = load16(from + i);
      values.v[i] = as_float(bits.x), values.v[i + 1] = as_float(bits.y);
      values.v[i + 2] = as_float(bits.z), values.v[i + 3] = as_float(bits.w);
    }
  }
  return values;
}

template <int W>
FORETOKEN_DEVICE void store_values(float* to, const Values<W>& values) {
  if constexpr (W == 1) {
    *to = values.v[0];
  } else {
#pragma unroll
    for (int i = 0; i < W; i += 4)
      store16(to + i, make_uint4(as_bits(values.v[i]), as_bits(values.v[i + 1]), as_bits(values.v[i + 2]),
                                 as_bits(values.v[i + 3])));
  }
}

template <int W>
FORETOKEN_DEVICE Values<W> same_values(float value) {
  Values<W> values;
#pragma unroll
  for (int i = 0; i < W; ++i) values.v[i] = value;
  return values;
}

// Whether vectors of four floats may be used: addresses are multiples of 16 bytes, strides of four floats.
inline bool in_vectors(std::initializer_list<const void*> addresses,
                       std::initializer_list<std::int64_t> strides) {
  return std::all_of(addresses.begin(), addresses.end(),
                     [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; }) &&
         std::all_of(strides.begin(), strides.end(), [](std::int64_t stride) { return stride % 4 == 0; });
}

inline constexpr unsigned kMostGrid = 65535;  // of y and z
inline unsigned grid_of(std::int64_t count, std::int64_t each) {
  return static_cast<unsigned>(std::min<std::int64_t>((count + each - 1) / each, kMostGrid));
}

// F has a template Loaded<W>, load<W>(plane, row, column) and store<W>(plane, row, column, loaded): W values
// from `column` on. load() reads nothing that another thread stores but what it gets itself is thrown away.
template <int W, int R, class F>
__global__ void __launch_bounds__(256)
    each_row(F f, std::int64_t planes, std::int64_t rows, std::int64_t width) {
  begin_kernel();
  const std::int64_t column = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * W;
  if (column >= width) return;
  const std::int64_t plane_step = std::int64_t{gridDim.z} * blockDim.z,
                     row_step = std::int64_t{gridDim.y} * blockDim.y;
  for (std::int64_t plane = std::int64_t{blockIdx.z} * blockDim.z + threadIdx.z; plane < planes;
       plane += plane_step)
    for (std::int64_t row = std::int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < rows;
         row += R * row_step) {
      typename F::template Loaded<W> loaded[R];
#pragma unroll
      for (int i = 0; i < R; ++i) {  // beyond the end the first row once more: a load without a branch
        const std::int64_t at = row + i * row_step;
        loaded[i] = f.template load<W>(plane, at < rows ? at : row, column);
      }
#pragma unroll
      for (int i = 0; i < R; ++i)
        if (const std::int64_t at = row + i * row_step; at < rows)
          f.template store<W>(plane, at, column, loaded[i]);
    }
}

// vectors: whether F's addresses, and `width`, allow vectors of four.
template <class F>
void launch_rows(const CudaKernels& set, const char* name, bool vectors, const F& f, std::int64_t planes,
                 std::int64_t rows, std::int64_t width) {
  if (planes <= 0 || rows <= 0 || width <= 0) return;
  constexpr std::int64_t kThreads = 256;
  const std::int64_t columns = vectors ? width / 4 : width, tiles = (columns + kThreads - 1) / kThreads;
  const std::int64_t x = (columns + tiles - 1) / tiles, y = std::min(kThreads / x, rows),
                     z = std::clamp<std::int64_t>(kThreads / (x * y), 1, std::min<std::int64_t>(planes, 64));
  // Several rows a thread where one each would be more threads than the device holds at a time, twice.
  constexpr int kRows = 4;
  const double vectors_of_all =
      static_cast<double>(columns) * static_cast<double>(rows) * static_cast<double>(planes);
  const bool many =
      !vectors || (rows >= kRows * y && vectors_of_all >= 2.0 * kRows * 2048 * set.device().multiprocessors);
  const Launch launch_as{
      .grid = dim3(static_cast<unsigned>(tiles), grid_of(rows, y * (many ? kRows : 1)), grid_of(planes, z)),
      .block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)),
      .name = name};
  auto* const kernel = !vectors ? each_row<1, kRows, F> : many ? each_row<4, kRows, F> : each_row<4, 1, F>;
  launch(kernel, launch_as, set.stream(), f, planes, rows, width);
}

}  // namespace foretoken::cuda
