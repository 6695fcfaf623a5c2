// A list that the host makes for each step and that kernels read: in the host's memory, and, where kernels
// work in another, copied there before the step's first launch. It keeps its place unless it outgrows it.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "executor/arena.h"

namespace foretoken {

template <class T>
class StepTable {
 public:
  explicit StepTable(const KernelMemory& memory) : memory_(&memory) {}

  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    Arena host(capacity * sizeof(T), *memory_, Arena::Place::kHost);
    T* const data = host.array<T>(capacity);
    if (size_ > 0) std::memcpy(static_cast<void*>(data), data_, size_ * sizeof(T));
    host_ = std::move(host), data_ = data, own_ = data, capacity_ = capacity;
    if (memory_->host_reads()) return;
    kernels_ = Arena(capacity * sizeof(T), *memory_);
    own_ = kernels_.array<T>(capacity);
  }
  // Of the kernels' memory, for this capacity.
  static constexpr std::size_t bytes_needed(std::size_t capacity) {
    return Arena::padded(capacity * sizeof(T));
  }
  void push_back(const T& value) {
    const T copy = value;
    if (size_ == capacity_) reserve(std::max<std::size_t>(64, 2 * capacity_));
    data_[size_++] = copy;
  }
  void resize(std::size_t size) {
    if (size > capacity_) reserve(std::max(size, 2 * capacity_));
    size_ = size;
  }
  void clear() { size_ = 0; }
  // Kernels read the list as it is now. The host must not change it before they are done.
  void publish() {
    if (size_ > 0 && own_ != data_) memory_->copy_later(own_, data_, size_ * sizeof(T));
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  T& back() { return data_[size_ - 1]; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  std::span<const T> host() const { return {data_, size_}; }
  const T* own() const { return own_; }  // where kernels read it
  std::span<const T> own(std::size_t first, std::size_t count) const { return {own_ + first, count}; }

 private:
  const KernelMemory* memory_;
  Arena host_, kernels_;
  T* data_ = nullptr;
  T* own_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace foretoken
