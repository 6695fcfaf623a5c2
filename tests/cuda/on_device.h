// What the tests of CUDA kernels share: the set under test (the emulated one, or a device's), and values in
// its memory.
#pragma once

#include <vector>

#include "executor/cuda/cuda_kernels.h"
#include "tests/executor/kernels_testing.h"

namespace foretoken {

inline const cuda::CudaKernels& cuda_set() {
  static const cuda::CudaKernels kernels;
  return kernels;
}

// An array in the set's memory.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values)
      : size_(values.size()), data_(reinterpret_cast<T*>(memory().allocate(bytes() + 64))) {
    if (size_ > 0) memory().copy(data_, values.data(), bytes());
  }
  OnDevice(std::size_t size, T value) : OnDevice(std::vector<T>(size, value)) {}
  ~OnDevice() { memory().release(reinterpret_cast<std::byte*>(data_)); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<const T> span() const { return {data_, size_}; }
  std::vector<T> back() const {  // waits for what writes it
    std::vector<T> values(size_);
    if (size_ > 0) memory().copy(values.data(), data_, bytes());
    return values;
  }

 private:
  static const KernelMemory& memory() { return cuda_set().memory(); }
  std::size_t bytes() const { return size_ * sizeof(T); }
  std::size_t size_;
  T* data_;
};

}  // namespace foretoken
