#include "executor/probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace foretoken {
namespace {

// Arithmetic: a square matrix and rows small enough for the nearest cache, some times.
constexpr std::int64_t kDense = 128, kRows = 64, kTimes = 4;
// Reading: one row by 8 MB, each time another of 16 such matrices, so that it comes from memory whatever the
// step before left in the caches.
constexpr std::int64_t kWideRows = 4096, kWideDepth = 1024;
constexpr std::size_t kWide = 16;
constexpr std::size_t kFloats = std::max({kRows * kDense, kWideRows, kWideDepth});

}  // namespace

struct MachineProbe::Sizes {
  std::size_t dense, wide, scratch;
  explicit Sizes(const Kernels& kernels)
      : dense(kernels.packed_bytes(Storage::kF32, kDense, kDense)),
        wide(kernels.packed_bytes(Storage::kBf16, kWideRows, kWideDepth)),
        scratch(std::max(kernels.gemm_scratch({Storage::kF32, kDense, kDense, nullptr}, kRows),
                         kernels.gemm_scratch({Storage::kBf16, kWideRows, kWideDepth, nullptr}, 1))) {}
  std::size_t all() const {
    return Arena::padded(dense) + kWide * Arena::padded(wide) + Arena::padded(scratch) +
           2 * Arena::padded(kFloats * sizeof(float));
  }
};

std::size_t MachineProbe::bytes_needed(const Kernels& kernels) { return Sizes(kernels).all(); }

MachineProbe::MachineProbe(const Kernels& kernels) : kernels_(kernels) {
  const Sizes sizes(kernels);
  const auto [dense, wide, scratch] = sizes;
  memory_ = Arena(sizes.all(), kernels.memory());
  const auto some = [](std::int64_t width) {
    return [width](std::int64_t row, float* out) {
      for (std::int64_t i = 0; i < width; ++i)
        out[i] = 0.001f * static_cast<float>((row * 31 + i * 17) % 101 - 50);
    };
  };
  dense_ = kernels.pack(Storage::kF32, kDense, kDense, some(kDense), memory_.bytes(dense));
  wide_.push_back(kernels.pack(Storage::kBf16, kWideRows, kWideDepth, some(kWideDepth), memory_.bytes(wide)));
  while (wide_.size() < kWide) {
    wide_.push_back(wide_.front());
    std::byte* const copy = memory_.bytes(wide);
    kernels.memory().copy(copy, wide_.front().packed, wide);
    wide_.back().packed = copy;
  }
  scratch_ = memory_.bytes(scratch);
  x_ = memory_.array<float>(kFloats);
  y_ = memory_.array<float>(kFloats);
  const std::vector<float> halves(kFloats, 0.5f);
  kernels.memory().copy(x_, halves.data(), kFloats * sizeof(float));
}

double MachineProbe::run() {
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < kTimes; ++i)
    kernels_.gemm(dense_, x_, kDense, kRows, nullptr, false, y_, kDense, scratch_, one_);
  kernels_.gemm(wide_[runs_ % kWide], x_, kWideDepth, 1, nullptr, false, y_, kWideRows, scratch_, one_);
  kernels_.memory().wait();
  latest_[runs_++ % kLatest] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::array<double, kLatest> sorted = latest_;
  const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(runs_, kLatest));
  const auto middle = sorted.begin() + (end - sorted.begin()) / 2;
  std::nth_element(sorted.begin(), middle, end);
  return *middle;
}

Op MachineProbe::op() {
  Op op;
  op.name = "probe";
  op.shape = ElementwiseShape{
      .rows = 1,
      .bytes_per_row = static_cast<double>(4 * kDense * kDense + 2 * kWideRows * kWideDepth),
      .flops_per_row =
          static_cast<double>(2 * kTimes * kRows * kDense * kDense + 2 * kWideRows * kWideDepth)};
  return op;
}

}  // namespace foretoken
