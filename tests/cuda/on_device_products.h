// Products of the CUDA set beside the reference: matrices packed by both, and memory of exactly its size,
// with guards around what is written.
#pragma once

#include <algorithm>

#include "executor/cuda/products.h"
#include "executor/storage.h"
#include "tests/cuda/on_device.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken {

using cuda::Path;

inline const Storage kAll[] = {Storage::kF32,  Storage::kBf16, Storage::kF16,     Storage::kInt8,
                               Storage::kInt4, Storage::kFp8,  Storage::kFp8Block};

// Of exactly its size, so that what reads beyond it is found.
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& values) : size_(values.size()), memory_(size_ * sizeof(T)) {
    cuda_set().memory().copy(memory_.data(), values.data(), size_ * sizeof(T));
  }
  explicit Device(std::size_t size) : size_(size), memory_(size * sizeof(T)) {}
  T* data() const { return memory_.template as<T>(); }
  std::vector<T> back() const {
    std::vector<T> values(size_);
    cuda_set().memory().copy(values.data(), memory_.data(), size_ * sizeof(T));
    return values;
  }

 private:
  std::size_t size_;
  cuda::DeviceMemory memory_;
};
using DeviceBytes = Device<std::byte>;

inline auto reader(const Floats& w, std::int64_t k) {
  return [&w, k](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); };
}

// The same matrix packed by both.
struct Both {
  DeviceBytes memory;
  Memory reference_memory;
  Matrix device, reference;
  // scale: as of Kernels::pack().
  Both(Storage storage, std::int64_t n, std::int64_t k, const Floats& w, float scale = 0)
      : memory(cuda_set().packed_bytes(storage, n, k)),
        reference_memory(reference_kernels().packed_bytes(storage, n, k)) {
    Threads one;
    device = cuda_set().pack(storage, n, k, reader(w, k), memory.data(), one, scale);
    reference = reference_kernels().pack(storage, n, k, reader(w, k), reference_memory.data(), one, scale);
  }
};

struct Case {
  std::int64_t m = 1;
  const Floats *x = nullptr, *bias = nullptr, *start = nullptr;  // dense
  // Floats in front of x and y, and between rows of x, on the device.
  std::int64_t x_before = 0, x_gap = 0, y_before = 1;
};

inline Floats reference_product(const Matrix& w, const Case& c) {
  Threads threads;
  Floats y(static_cast<std::size_t>(c.m * w.n), kPoison);
  if (c.start) std::copy_n(c.start->data(), y.size(), y.data());
  Memory scratch(reference_kernels().gemm_scratch(w, c.m));
  reference_kernels().gemm(w, c.x->data(), w.k, c.m, c.bias ? c.bias->data() : nullptr, c.start != nullptr,
                           y.data(), w.n, scratch.data(), threads);
  return y;
}

// multiply(x, x_stride, bias, y, y_stride). y has a guard around it, all of which must stay; what lies around
// x spoils what takes it.
template <class F>
Floats with_guards(const Matrix& w, const Case& c, const F& multiply) {
  const std::int64_t stride = w.n + 3, before = stride + c.y_before;
  Floats y(static_cast<std::size_t>((c.m + 2) * stride), kPoison), out;
  for (std::int64_t r = 0; c.start && r < c.m; ++r)
    std::copy_n(c.start->data() + r * w.n, w.n, y.data() + before + r * stride);
  const std::int64_t x_stride = w.k + c.x_gap;
  Floats x(static_cast<std::size_t>(c.x_before + c.m * x_stride + 16), kPoison);
  for (std::int64_t r = 0; r < c.m; ++r)
    std::copy_n(c.x->data() + r * w.k, w.k, x.data() + c.x_before + r * x_stride);
  const Device<float> on_x(x), on_device(y), bias(c.bias ? *c.bias : Floats{0});
  multiply(on_x.data() + c.x_before, x_stride, c.bias ? bias.data() : nullptr, on_device.data() + before,
           stride);
  y = on_device.back();
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(y.size()); ++i) {
    const std::int64_t row = (i - before) / stride, column = (i - before) % stride;
    if (i >= before && row < c.m && column < w.n)
      out.push_back(y[static_cast<std::size_t>(i)]);
    else
      EXPECT_TRUE(std::isnan(y[static_cast<std::size_t>(i)])) << "written beside y at " << i - before;
  }
  return out;
}

inline Floats by_path(Path path, const Matrix& w, const Case& c,
                      const cuda::DeviceProperties& device = cuda_set().device()) {
  return with_guards(
      w, c, [&](const float* x, std::int64_t x_stride, const float* bias, float* y, std::int64_t y_stride) {
        cuda::Product p = cuda::product_of(w);
        p.x = x, p.x_stride = x_stride, p.m = c.m;
        p.bias = bias, p.accumulate = c.start != nullptr;
        p.y = y, p.y_stride = y_stride;
        p.warpgroups = cuda_set().warpgroups();
        // As if for more rows than the streams take: it is that much at least.
        const DeviceBytes scratch(cuda::product_scratch(w.storage, w.n, w.k, std::max<std::int64_t>(c.m, 9),
                                                        device.multiprocessors, w.quantised_x));
        cuda::run_product(path, p, scratch.data(), device, cuda_set().stream());
        cuda_set().memory().wait();
      });
}

inline Floats by_gemm(const Matrix& w, const Case& c) {
  return with_guards(
      w, c, [&](const float* x, std::int64_t x_stride, const float* bias, float* y, std::int64_t y_stride) {
        Threads threads;
        const DeviceBytes scratch(cuda_set().gemm_scratch(w, c.m));
        cuda_set().gemm(w, x, x_stride, c.m, bias, c.start != nullptr, y, y_stride, scratch.data(), threads);
        cuda_set().memory().wait();
      });
}

// Both round x and w alike; sums differ.
inline constexpr double kClose = 3e-6;

inline std::vector<Path> paths_of(Storage storage, std::int64_t m) {
  std::vector<Path> paths = {storage == Storage::kF32 ? Path::kFloatTiles : Path::kTiles};
  if (m <= cuda::kStreamRows)
    paths.push_back(cuda::exact_product(storage) ? Path::kFloatStream : Path::kStream);
  if (storage == Storage::kBf16) paths.push_back(Path::kCublas);
  return paths;
}

#ifdef FORETOKEN_EMULATED
// What holds whatever the order of threads and of blocks.
class InOrders : public testing::TestWithParam<cuda::emulation::Order> {
 protected:
  void SetUp() override {
    auto& settings = cuda::emulation::settings();
    settings.threads = settings.blocks = GetParam();
    settings.seed = 3;
  }
  void TearDown() override { cuda::emulation::settings() = {}; }
};
#endif

}  // namespace foretoken
