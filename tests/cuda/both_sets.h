// Operators of the CUDA set beside the reference: what each makes of the same inputs, at addresses that allow
// vectors and that don't, with nothing written beside what is to be written.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "tests/cuda/on_device.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken {

using Indices = std::vector<std::int32_t>;
inline const Kernels& reference = reference_kernels();

inline std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

// Emulated: also a set for a device so small that every launch has many rows for it.
inline std::vector<const cuda::CudaKernels*> sets() {
#ifdef FORETOKEN_EMULATED
  static const cuda::CudaKernels* const small = [] {
    const int before = std::exchange(cuda::emulation::settings().multiprocessors, 0);
    const auto* const set = new cuda::CudaKernels;
    cuda::emulation::settings().multiprocessors = before;
    return set;
  }();
  return {&cuda_set(), small};
#else
  return {&cuda_set()};
#endif
}

// `run` once in each order of threads and blocks, and once on each set.
inline void everywhere(const std::function<void(const cuda::CudaKernels&)>& run) {
#ifdef FORETOKEN_EMULATED
  using cuda::emulation::Order;
  for (const Order order : {Order::kReverse, Order::kShuffled, Order::kForward}) {
    cuda::emulation::settings().threads = cuda::emulation::settings().blocks = order;
    if (order != Order::kForward) run(cuda_set());
  }
#endif
  for (const auto* set : sets()) run(*set);
}

// Poison stays where it was (between rows, behind the last one); the rest is near.
inline void expect_near(const Floats& got, const Floats& expected, double limit, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  Floats a, b;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << what << ": written at " << i;
    } else {
      a.push_back(got[i]), b.push_back(expected[i]);
    }
  }
  if (limit == 0) {
    EXPECT_TRUE(a.empty() || same_bits(a, b)) << what;
  } else if (a != b) {  // of zeros alone there is no relative distance
    EXPECT_LE(distance(a, b), limit) << what;
  }
}

// What `run` makes of a copy of `before` in each place. It gets the kernels, a function that puts an input
// where they can read it, and the array. shift: floats by which its address is off a multiple of 16 bytes.
using Put = std::function<const float*(const Floats&)>;
using Run = std::function<void(const Kernels&, const Put&, float* out)>;
inline void compare(const Floats& before, const Run& run, double limit, const std::string& what,
                    std::size_t shift = 0) {
  Floats expected(before);
  run(
      reference, [](const Floats& in) { return in.data(); }, expected.data());
  everywhere([&](const cuda::CudaKernels& set) {
    std::vector<std::unique_ptr<OnDevice<float>>> inputs;
    const auto put = [&](const Floats& in) -> const float* {
      Floats shifted(shift, kPoison);
      shifted.insert(shifted.end(), in.begin(), in.end());
      inputs.push_back(std::make_unique<OnDevice<float>>(shifted));
      return inputs.back()->data() + shift;
    };
    Floats padded(shift + 4, kPoison);
    padded.insert(padded.end(), before.begin(), before.end());
    padded.resize(padded.size() + 8, kPoison);
    const OnDevice<float> out(padded);
    run(set, put, out.data() + shift + 4);
    Floats got = out.back(), wanted(shift + 4, kPoison);
    wanted.insert(wanted.end(), expected.begin(), expected.end());
    wanted.resize(wanted.size() + 8, kPoison);
    expect_near(got, wanted, limit, what);
  });
}

// Rows of `width` with poison between them.
inline Floats spaced(std::int64_t rows, std::int64_t width, std::int64_t stride, unsigned seed) {
  const Floats values = normal(size_of(rows * width), seed);
  Floats out(size_of(rows * stride), kPoison);
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(values.begin() + r * width, width, out.begin() + r * stride);
  return out;
}

// Sequences of `lengths` new tokens after `cached`, on the host and on the device. Rows start at 2; blocks
// are all apart.
class Rows {
 public:
  Rows(const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>& cached, int block_size)
      : device_blocks_([&] {
          std::int64_t row = 2, tables = 0;
          for (std::size_t i = 0; i < lengths.size(); ++i) {
            host_.push_back({row, lengths[i], cached[i]});
            row += lengths[i];
            starts_.push_back(tables);
            tables += (cached[i] + lengths[i]) / block_size + 1;
          }
          end_ = row;
          blocks_.resize(size_of(tables));
          for (std::size_t i = 0; i < blocks_.size(); ++i)  // apart, in no order
            blocks_[i] = static_cast<std::int32_t>((i * 5 + 3) % 7 + i / 7 * 7);
          return blocks_;
        }()),
        device_own_([&] {
          std::vector<SequenceRows> own(host_);
          for (std::size_t i = 0; i < own.size(); ++i) {
            own[i].blocks = device_blocks_.data() + starts_[i];
            host_[i].blocks = blocks_.data() + starts_[i];
          }
          return own;
        }()) {}

  Sequences of(const Kernels& kernels) const {
    return &kernels == &reference ? Sequences(host_) : Sequences(host_, device_own_.data());
  }
  std::int64_t end() const { return end_; }
  std::int64_t most_blocks() const { return static_cast<std::int64_t>(blocks_.size()) + 7; }
  const std::vector<SequenceRows>& host() const { return host_; }
  const SequenceRows* own() const { return device_own_.data(); }
  const Indices& blocks() const { return blocks_; }
  const std::int32_t* device_blocks() const { return device_blocks_.data(); }

 private:
  std::vector<SequenceRows> host_;
  std::vector<std::int64_t> starts_;
  Indices blocks_;
  std::int64_t end_ = 0;
  OnDevice<std::int32_t> device_blocks_;
  OnDevice<SequenceRows> device_own_;
};

}  // namespace foretoken
