// KV blocks below the kernels' memory: a tier of the cache, or what sequences are swapped to. A store holds
// whole blocks, all layers of one rank's slice, in the host's memory or in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/arena.h"
#include "executor/unnamed_file.h"
#include "serving/backend.h"

namespace foretoken {

class KvStore;

struct KvStoreLayout {
  std::int64_t blocks = 0;
  bool on_storage = false;  // a file in `folder`; else the host's memory
  std::string folder = "/tmp";
  // Of a store that engines share: how many ranks have it, and the one of each of an engine's ranks once it
  // is made. Null: each rank has its own.
  std::size_t sharers = 1;
  std::shared_ptr<std::vector<std::shared_ptr<KvStore>>> shared = nullptr;
};

// One array of a cache in the kernels' memory: of block b the bytes from first + b x block_bytes on.
struct KvArray {
  std::byte* first = nullptr;
  std::size_t block_bytes = 0;
};

class KvStore {
 public:
  // block_bytes: of all arrays together. Throws Error for a file that can't be made, std::bad_alloc.
  KvStore(const KvStoreLayout& layout, std::size_t block_bytes, const KernelMemory& memory);
  // Of the host's memory.
  static std::size_t bytes_needed(const KvStoreLayout& layout, std::size_t block_bytes);

  // From the kernels' memory, or to it, in the order of the kernels' calls; the host's memory is read or
  // written some time before KernelMemory::wait() returns, a file has been on return. Throw Error where the
  // file has no room or can't be read.
  void write(std::span<const BlockCopy> blocks, std::span<const KvArray> from);
  void read(std::span<const BlockCopy> blocks, std::span<const KvArray> to);
  // To another store of blocks as large, once the kernels' copies are done; done on return.
  void copy(std::span<const BlockCopy> blocks, KvStore& to);

 private:
  std::byte* at(std::int64_t block) const { return bytes_ + static_cast<std::size_t>(block) * block_bytes_; }
  std::size_t offset(std::int32_t block) const { return static_cast<std::size_t>(block) * block_bytes_; }
  template <class Each>
  void for_arrays(std::span<const KvArray> arrays, Each&& each) const;
  static std::int64_t held(const KvStoreLayout& layout, std::size_t block_bytes);

  const std::size_t block_bytes_;
  const KernelMemory& memory_;
  const std::int64_t held_;  // blocks in `host_`: all, or those on their way to the file or from it
  Arena host_;
  std::byte* bytes_ = nullptr;
  std::unique_ptr<UnnamedFile> file_;
  std::vector<CopyPiece> pieces_;  // of the copy at hand
};

}  // namespace foretoken
