// One block of memory that is handed out front to back and freed as a whole: weights, cache, step workspace.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace foretoken {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t padded(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  Arena() = default;
  // Throws std::bad_alloc. Large blocks ask for large pages, with which weights and caches are read a third
  // faster. Every page is written once: a step that is the first to write to a cache block would wait for the
  // system to clear the page, which took more of a prompt than its attention.
  explicit Arena(std::size_t bytes) : size_(padded(bytes)) {
    if (size_ == 0) return;
    constexpr std::size_t kLargePage = std::size_t{2} << 20;
    const std::size_t unit = size_ >= 2 * kLargePage ? kLargePage : kAlignment,
                      whole = (size_ + unit - 1) / unit * unit;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(unit, whole)));
    if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
    if (unit == kLargePage) madvise(memory_.get(), whole, MADV_HUGEPAGE);  // a wish
#endif
    constexpr std::size_t kPage = 4096;
    for (std::size_t at = 0; at < size_; at += kPage) memory_.get()[at] = std::byte{0};
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
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t size_ = 0, used_ = 0;
};

}  // namespace foretoken
