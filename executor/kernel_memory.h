// The memory that a set of kernels works in: the machine's own, or a device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace foretoken {

struct CopyPiece {
  void* to;
  const void* from;
  std::size_t bytes;
};

class KernelMemory {
 public:
  virtual ~KernelMemory() = default;
  // 64-aligned, written once so that its pages are there. Throws std::bad_alloc.
  virtual std::byte* allocate(std::size_t bytes) const = 0;
  virtual void release(std::byte* memory) const noexcept = 0;
  // Memory of the host's that is copied from and to at full speed.
  virtual std::byte* allocate_host(std::size_t bytes) const = 0;
  virtual void release_host(std::byte* memory) const noexcept = 0;
  virtual std::size_t room() const = 0;  // bytes that there are in all; 0: unknown
  virtual bool host_reads() const = 0;   // the host may read and write it as its own
  // From and to either memory, in the order of the kernels' calls; the host's is read, or written, once it
  // returns.
  virtual void copy(void* to, const void* from, std::size_t bytes) const = 0;
  // The same, but host memory (of allocate_host) is read or written some time before wait() returns.
  virtual void copy_later(void* to, const void* from, std::size_t bytes) const = 0;
  virtual void copy_later(std::span<const CopyPiece> pieces) const {
    for (const CopyPiece& p : pieces) copy_later(p.to, p.from, p.bytes);
  }
  virtual void clear(void* to, std::size_t bytes) const = 0;  // zeros, likewise in order
  virtual void wait() const = 0;                              // until all that was asked for is done
  // Beside the kernels, from any thread: to the kernels' memory from the host's (of allocate_host), once what
  // was asked for before `after` is done; done on return.
  virtual std::uint64_t place() const = 0;  // this place in the order of the kernels' calls
  virtual void copy_beside(void* to, const void* from, std::size_t bytes, std::uint64_t after) const = 0;
};

const KernelMemory& host_memory();

}  // namespace foretoken
