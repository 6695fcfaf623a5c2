// A stack of its own for a thread of an emulated block (emulation.cpp), and where it goes on.
#pragma once

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <new>

namespace foretoken::cuda::emulation {

namespace context = boost::context::detail;

#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::size_t kStackBytes = 256 * 1024;
#else
inline constexpr std::size_t kStackBytes = 128 * 1024;
#endif
inline constexpr std::size_t kGuardBytes = 4096;

// A stack with a guard page below it, and where to go on with what runs there.
struct Fiber {
  Fiber() {
    base = static_cast<std::byte*>(::mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED) throw std::bad_alloc();
    ::mprotect(base, kGuardBytes, PROT_NONE);
  }
  ~Fiber() { ::munmap(base, kGuardBytes + kStackBytes); }
  Fiber(const Fiber&) = delete;
  std::byte* bottom() const { return base + kGuardBytes; }

  std::byte* base = nullptr;
  context::fcontext_t at = nullptr;  // null: nothing has run here, or what ran was given up
};

}  // namespace foretoken::cuda::emulation
