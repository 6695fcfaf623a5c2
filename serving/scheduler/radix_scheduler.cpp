#include "serving/scheduler/radix_scheduler.h"

#include <algorithm>

namespace foretoken {

RadixScheduler::RadixScheduler(const SchedulerParts& parts, bool whole_leaves, bool touches_rest)
    : BlockScheduler(parts), tree_(parts.config.block_size, touches_rest), whole_leaves_(whole_leaves) {
  hashes_blocks_ = false;
  names_blocks_ = parts.list_decodes;
}

void RadixScheduler::enqueue(std::int32_t slot) {
  const auto place = static_cast<std::size_t>(slot);
  if (place >= held_.size()) held_.resize(place + 1);
  held_[place] = {};
  BlockScheduler::enqueue(slot);
}

std::int64_t RadixScheduler::cached_tokens(const Request& request, BlockHashes&) const {
  if (!searches()) return 0;
  token_key(request, content(request), request.input_len, key_);
  return tree_.matching(key_, request.input_len - 1);
}

RadixCache::Match RadixScheduler::find(const Sequence& s, std::int64_t most) {
  if (!searches()) return {};
  token_key(s.request, content(s.request), most, key_);
  return tree_.match(key_, most);
}

void RadixScheduler::hold(std::int32_t slot, const RadixCache::Match& hit) {
  if (hit.tokens == 0) return;
  Sequence& s = sequences_[slot];
  held_[static_cast<std::size_t>(slot)] = {hit.node, hit.tokens};
  tree_.lock(hit.node);
  if (names_blocks_) tree_.pages_to(hit.node, s.blocks);
  s.capacity = static_cast<std::int32_t>(hit.tokens);
}

void RadixScheduler::let_go(std::int32_t slot) {
  Held& held = held_[static_cast<std::size_t>(slot)];
  if (held.tokens == 0) return;
  tree_.unlock(held.node);
  held = {};
  sequences_[slot].blocks.clear();
  sequences_[slot].capacity = 0;
}

bool RadixScheduler::make_room(std::int64_t blocks) {
  const std::int64_t missing = (blocks - free_blocks()) * config_.block_size;
  if (missing <= 0) return true;
  pages_.clear();
  std::vector<RadixCache::Page>* const pages = names_blocks_ ? &pages_ : nullptr;
  const std::int64_t gone = whole_leaves_ ? tree_.evict(missing, pages) : tree_.evict_exactly(missing, pages);
  give_back(pages_, gone / config_.block_size);
  return blocks <= free_blocks();
}

std::int64_t RadixScheduler::spare_blocks() const {
  return free_blocks() + tree_.evictable() / config_.block_size;
}

// Step by step the same leaves go: nobody looks into the tree meanwhile.
void RadixScheduler::make_room_for(std::int64_t steps) {
  if (config_.block_size == 1) {
    make_room(steps * std::ssize(decoded_));
    return;
  }
  std::int64_t blocks = 0;
  for (const std::int32_t slot : decoded_) {
    const Sequence& s = sequences_[slot];
    blocks += blocks_for(std::max<std::int64_t>(0, s.computed + steps - s.capacity));
  }
  make_room(blocks);
}

void RadixScheduler::take(Sequence& s, std::int64_t blocks) {
  if (names_blocks_)
    pool_.allocate(blocks, s.blocks);
  else
    pool_.lend(blocks);
  s.capacity += static_cast<std::int32_t>(blocks * config_.block_size);
}

void RadixScheduler::give_back(std::span<const KvBlockPool::Block> named, std::int64_t count) {
  if (names_blocks_)
    pool_.release_blank(named);
  else
    pool_.give_back(count);
}

void RadixScheduler::give_back(std::int32_t slot, std::int64_t tokens) {
  Sequence& s = sequences_[slot];
  Held& held = held_[static_cast<std::size_t>(slot)];
  if (held.tokens > 0) tree_.unlock(held.node);
  const std::int64_t page = config_.block_size, end = s.capacity;
  const std::span<const KvBlockPool::Block> blocks(s.blocks);
  const auto drop = [&](std::int64_t from, std::int64_t to) {  // tokens
    const std::int64_t first = from / page, count = to / page - first;
    give_back(names_blocks_ ? blocks.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count))
                            : blocks,
              count);
  };
  std::int64_t from = held.tokens;
  if (searches() && tokens / page * page > held.tokens) {
    token_key(s.request, content(s.request), tokens, key_);
    const RadixCache::Inserted in = tree_.insert(
        key_, tokens, names_blocks_ ? blocks.first(static_cast<std::size_t>(tokens / page)) : blocks);
    drop(from, in.existing);  // others have entered the same in the meantime
    from = in.tokens;
  }
  drop(from, end);
  held = {};
  s.blocks.clear();
  s.capacity = 0;
}

}  // namespace foretoken
