#include "executor/kv_store.h"

#include <algorithm>

namespace foretoken {
namespace {

constexpr std::size_t kOnTheirWay = std::size_t{8} << 20;  // bytes between kernels' memory and a file

}  // namespace

std::int64_t KvStore::held(const KvStoreLayout& layout, std::size_t block_bytes) {
  if (!layout.on_storage) return layout.blocks;
  const auto blocks = static_cast<std::int64_t>(kOnTheirWay / std::max<std::size_t>(1, block_bytes));
  return std::clamp<std::int64_t>(layout.blocks, 1, std::max<std::int64_t>(1, blocks));
}

KvStore::KvStore(const KvStoreLayout& layout, std::size_t block_bytes, const KernelMemory& memory)
    : block_bytes_(block_bytes), memory_(memory), held_(held(layout, block_bytes)) {
  if (layout.on_storage) file_ = std::make_unique<UnnamedFile>(layout.folder, "KV blocks");
  host_ = Arena(static_cast<std::size_t>(held_) * block_bytes, memory, Arena::Place::kHost);
  bytes_ = host_.bytes(host_.size());
}

std::size_t KvStore::bytes_needed(const KvStoreLayout& layout, std::size_t block_bytes) {
  return Arena::padded(static_cast<std::size_t>(held(layout, block_bytes)) * block_bytes);
}

// Array by array, so that what lies together is copied together; each has its place in the store's block.
template <class Each>
void KvStore::for_arrays(std::span<const KvArray> arrays, Each&& each) const {
  std::size_t before = 0;
  for (const KvArray& a : arrays) {
    each(a, before);
    before += a.block_bytes;
  }
}

void KvStore::write(std::span<const BlockCopy> blocks, std::span<const KvArray> from) {
  const auto most = file_ ? static_cast<std::size_t>(held_) : blocks.size();
  for (; !blocks.empty(); blocks = blocks.subspan(std::min(most, blocks.size()))) {
    const auto now = blocks.first(std::min(most, blocks.size()));
    pieces_.clear();
    for_arrays(from, [&](const KvArray& a, std::size_t before) {
      for (std::size_t i = 0; i < now.size(); ++i)
        pieces_.push_back({at(file_ ? static_cast<std::int64_t>(i) : now[i].to) + before,
                           a.first + static_cast<std::size_t>(now[i].from) * a.block_bytes, a.block_bytes});
    });
    memory_.copy_later(pieces_);
    if (!file_) continue;
    memory_.wait();
    for (std::size_t i = 0; i < now.size(); ++i)
      file_->write(at(static_cast<std::int64_t>(i)), block_bytes_, offset(now[i].to));
  }
}

void KvStore::read(std::span<const BlockCopy> blocks, std::span<const KvArray> to) {
  const auto most = file_ ? static_cast<std::size_t>(held_) : blocks.size();
  for (; !blocks.empty(); blocks = blocks.subspan(std::min(most, blocks.size()))) {
    const auto now = blocks.first(std::min(most, blocks.size()));
    if (file_)
      for (std::size_t i = 0; i < now.size(); ++i)
        file_->read(at(static_cast<std::int64_t>(i)), block_bytes_, offset(now[i].from));
    pieces_.clear();
    for_arrays(to, [&](const KvArray& a, std::size_t before) {
      for (std::size_t i = 0; i < now.size(); ++i)
        pieces_.push_back({a.first + static_cast<std::size_t>(now[i].to) * a.block_bytes,
                           at(file_ ? static_cast<std::int64_t>(i) : now[i].from) + before, a.block_bytes});
    });
    memory_.copy_later(pieces_);
    if (file_) memory_.wait();  // the next ones take their place
  }
}

void KvStore::copy(std::span<const BlockCopy> blocks, KvStore& to) {
  for (const BlockCopy& b : blocks) {
    std::byte* const from = file_ ? bytes_ : at(b.from);
    // Of a file to host memory: straight there.
    std::byte* const target = to.file_ ? from : to.at(b.to);
    if (file_) file_->read(to.file_ ? from : target, block_bytes_, offset(b.from));
    if (to.file_)
      to.file_->write(from, block_bytes_, to.offset(b.to));
    else if (!file_)
      std::copy_n(from, block_bytes_, target);
  }
}

}  // namespace foretoken
