#include "executor/kernel_memory.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace foretoken {
namespace {

class HostMemory final : public KernelMemory {
 public:
  // Large blocks ask for large pages, with which weights and caches are read a third faster. Every page is
  // written once: a step that is the first to write to a cache block would wait for the system to clear the
  // page, which took more of a prompt than its attention.
  std::byte* allocate(std::size_t bytes) const override {
    constexpr std::size_t kAlignment = 64, kLargePage = std::size_t{2} << 20;
    const std::size_t unit = bytes >= 2 * kLargePage ? kLargePage : kAlignment,
                      whole = (bytes + unit - 1) / unit * unit;
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(unit, whole));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (unit == kLargePage) madvise(memory, whole, MADV_HUGEPAGE);  // a wish
#endif
    constexpr std::size_t kPage = 4096;
    for (std::size_t at = 0; at < bytes; at += kPage) memory[at] = std::byte{0};
    return memory;
  }
  void release(std::byte* memory) const noexcept override { std::free(memory); }
  std::byte* allocate_host(std::size_t bytes) const override { return allocate(bytes); }
  void release_host(std::byte* memory) const noexcept override { std::free(memory); }
  std::size_t room() const override {
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(size) : 0;
  }
  bool host_reads() const override { return true; }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  using KernelMemory::copy_later;
  void copy_later(void* to, const void* from, std::size_t bytes) const override { copy(to, from, bytes); }
  void clear(void* to, std::size_t bytes) const override { std::memset(to, 0, bytes); }
  void wait() const override {}
  std::uint64_t place() const override { return 0; }
  void copy_beside(void* to, const void* from, std::size_t bytes, std::uint64_t) const override {
    copy(to, from, bytes);
  }
};

}  // namespace

const KernelMemory& host_memory() {
  static const HostMemory memory;
  return memory;
}

}  // namespace foretoken
