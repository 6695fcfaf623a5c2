// A short vector that holds its elements, at most N of them, inside itself: nothing is allocated.
#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>

namespace foretoken {

template <class T, std::size_t N>
class InlineVector {
 public:
  void push_back(const T& item) {
    if (size_ == N)
      throw std::length_error("InlineVector is full");  // N is too small: a fault of the program
    items_[size_++] = item;
  }
  T* begin() { return items_.data(); }
  T* end() { return begin() + size_; }
  const T* begin() const { return items_.data(); }
  const T* end() const { return begin() + size_; }
  const T& operator[](std::size_t i) const { return items_[i]; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  std::array<T, N> items_{};
  std::size_t size_ = 0;
};

}  // namespace foretoken
