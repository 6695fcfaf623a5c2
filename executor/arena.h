// One block of memory that is handed out front to back and freed as a whole: weights, cache, step workspace.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "executor/kernel_memory.h"

namespace foretoken {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t padded(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  // kHost: memory that is copied to the kernels' own and back.
  enum class Place { kKernels, kHost };

  Arena() = default;
  // Throws std::bad_alloc.
  explicit Arena(std::size_t bytes, const KernelMemory& memory = host_memory(), Place place = Place::kKernels)
      : size_(padded(bytes)) {
    if (size_ == 0) return;
    memory_ = {place == Place::kHost ? memory.allocate_host(size_) : memory.allocate(size_),
               Release{&memory, place}};
  }
  std::byte* bytes(std::size_t count) {
    std::byte* at = memory_.get() + used_;
    used_ += padded(count);
    if (used_ > size_) throw std::bad_alloc();  // sized wrongly: a fault of the program
    return at;
  }
  template <class T>
  T* array(std::size_t count) {
    return reinterpret_cast<T*>(bytes(count * sizeof(T)));
  }
  std::size_t size() const { return size_; }
  void reset() { used_ = 0; }  // what was handed out is handed out again

 private:
  struct Release {
    const KernelMemory* memory;
    Place place;
    void operator()(std::byte* p) const {
      if (place == Place::kHost)
        memory->release_host(p);
      else
        memory->release(p);
    }
  };
  std::unique_ptr<std::byte, Release> memory_{nullptr, Release{nullptr, Place::kKernels}};
  std::size_t size_ = 0, used_ = 0;
};

}  // namespace foretoken
