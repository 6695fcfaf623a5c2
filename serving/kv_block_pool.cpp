#include "serving/kv_block_pool.h"

#include <algorithm>
#include <iterator>

namespace foretoken {

KvBlockPool::KvBlockPool(std::int64_t num_blocks) : num_blocks_(std::max<std::int64_t>(num_blocks, 1)) {}

void KvBlockPool::release(std::span<const Block> blocks, std::int64_t entered) {
  entered = std::min<std::int64_t>(entered, std::ssize(blocks));
  for (std::span<const Block> own = blocks.subspan(static_cast<std::size_t>(entered)); !own.empty();) {
    const std::size_t at = queue_.empty() ? 0 : tail_ & (queue_.size() - 1);
    const std::size_t room = std::min(queue_.size() - (tail_ - head_), queue_.size() - at);
    if (room == 0) {
      make_room();
      continue;
    }
    const auto last = own.last(std::min(own.size(), room));
    std::reverse_copy(last.begin(), last.end(), queue_.begin() + static_cast<std::ptrdiff_t>(at));
    tail_ += last.size();
    queued_ += std::ssize(last);
    own = own.first(own.size() - last.size());
  }
  while (entered > 0) {
    const Index segment =
        segment_of_[static_cast<std::size_t>(blocks[static_cast<std::size_t>(entered - 1)])];
    Segment& s = at(segment);
    if (const auto later = entered - 1 - static_cast<std::int64_t>(kAhead * kSegment); later >= 0)
      fetch(segment_of_[static_cast<std::size_t>(blocks[static_cast<std::size_t>(later)])]);
    entered -= s.count;
    if (--s.references == 0) push(segment);
  }
}

std::int64_t KvBlockPool::shared(std::span<const Block> blocks, std::int64_t entered) const {
  std::int64_t count = 0;
  while (entered > 0) {
    const Segment& s =
        at(segment_of_[static_cast<std::size_t>(blocks[static_cast<std::size_t>(entered - 1)])]);
    entered -= s.count;
    if (s.references > 1) count += s.count;
  }
  return count;
}

void KvBlockPool::push(Index segment) {
  if (tail_ - head_ == queue_.size()) make_room();
  Segment& s = at(segment);
  s.place = static_cast<std::uint32_t>(tail_);
  queued(s.place) = -segment;
  ++tail_;
  ++marked_;
  queued_ += s.count;
}

// Drops the gaps that hits left, and grows where these are less than a third of the queue.
void KvBlockPool::make_room() {
  std::size_t size = 64;
  std::size_t left = 1;
  for (std::size_t i = head_; i != tail_; ++i) left += queue_[i & (queue_.size() - 1)] != 0;
  while (size < left + left / 2) size *= 2;
  std::vector<Block> queue(size);
  std::size_t tail = 0;
  for (; head_ != tail_; ++head_) {
    const Block entry = queue_[head_ & (queue_.size() - 1)];
    if (entry == 0) {
      --marked_;
      continue;
    }
    if (entry < 0)
      for (Index s = -entry; s != 0; s = at(s).behind) at(s).place = static_cast<std::uint32_t>(tail);
    queue[tail++] = entry;
  }
  queue_ = std::move(queue);
  head_ = 0;
  tail_ = tail;
}

void KvBlockPool::pop(std::int64_t count, std::vector<Block>& blocks) {
  queued_ -= count;
  while (count > 0) {
    const std::size_t at_head = head_ & (queue_.size() - 1);
    Block& entry = queue_[at_head];
    if (entry > 0) {
      const auto most = std::min({static_cast<std::size_t>(count), queue_.size() - at_head, tail_ - head_});
      const auto begin = queue_.begin() + static_cast<std::ptrdiff_t>(at_head);
      auto end = begin + static_cast<std::ptrdiff_t>(most);
      if (marked_ > 0) end = std::find_if(begin, end, [](Block block) { return block <= 0; });
      blocks.insert(blocks.end(), begin, end);
      count -= end - begin;
      head_ += static_cast<std::size_t>(end - begin);
      continue;
    }
    if (entry == 0) {
      ++head_;
      --marked_;
      continue;
    }
    fetch_next();
    const Index segment = -entry;
    Segment& s = at(segment);
    const auto taken = static_cast<std::int32_t>(std::min<std::int64_t>(count, s.count));
    if (evicted_ != nullptr) note(s, taken);
    const auto end = std::make_reverse_iterator(s.blocks.begin() + s.count);
    blocks.insert(blocks.end(), end, end + taken);
    s.count -= taken;
    count -= taken;
    cached_count_ -= taken;
    if (s.count > 0) return;
    entry = -s.behind;
    remove(segment);
  }
}

// Behind the head of the queue: segments, and the places in the table of those that come before them.
void KvBlockPool::fetch_next() const {
  const std::size_t mask = queue_.size() - 1, left = tail_ - head_;
  if (left <= 2 * kAhead) return;
  if (const Block far = queue_[(head_ + 2 * kAhead) & mask]; far < 0) fetch(-far);
  if (const Block near = queue_[(head_ + kAhead) & mask]; near < 0) fetch(at(-near).hash);
}

void KvBlockPool::note(const Segment& s, std::int32_t count) {
  for (std::int32_t i = s.count; i-- > s.count - count;) {
    const std::uint64_t hash = s.hash + static_cast<std::uint64_t>(i);
    bool elsewhere = false;
    for (const Segment* other = &at(s.next); other != &s && !elsewhere; other = &at(other->next))
      elsewhere = other->covers(hash);
    if (!elsewhere) evicted_->push_back({s.blocks[static_cast<std::size_t>(i)], hash});
  }
}

// Out of the free queue, where it may share its place.
void KvBlockPool::unqueue(Index segment) {
  Segment& s = at(segment);
  queued_ -= s.count;
  Block& entry = queued(s.place);
  if (entry == -segment) {
    entry = -s.behind;
  } else {
    Index before = -entry;
    while (at(before).behind != segment) before = at(before).behind;
    at(before).behind = s.behind;
  }
  s.behind = 0;
}

KvBlockPool::Index KvBlockPool::new_segment() {
  if (unused_ == 0) {
    segments_.emplace_back();
    return static_cast<Index>(segments_.size() - 1);
  }
  const Index segment = unused_;
  unused_ = at(segment).next;
  at(segment).behind = 0;
  return segment;
}

KvBlockPool::Index KvBlockPool::add(std::uint64_t hash) {
  if (table_.size() < 2 * (table_used_ + 1)) grow();
  const Index segment = new_segment();
  Segment& s = at(segment);
  s.hash = hash;
  s.references = 1;
  s.count = 0;
  Entry& known = table_[slot(group(hash))];
  if (known.first == 0) {
    known = {static_cast<std::uint32_t>(group(hash)), segment};
    s.previous = s.next = segment;
    ++table_used_;
  } else {
    Segment& first = at(known.first);
    s.previous = first.previous;
    s.next = known.first;
    at(first.previous).next = segment;
    first.previous = segment;
  }
  return segment;
}

void KvBlockPool::remove(Index segment) {
  Segment& s = at(segment);
  std::size_t hole = slot(group(s.hash));
  const Index next = s.next;
  if (next != segment) {  // others of this group stay
    at(s.previous).next = next;
    at(next).previous = s.previous;
    if (table_[hole].first == segment) table_[hole].first = next;
  } else {
    // Backward-shift deletion: later members of the cluster move up if the hole lies on their probe path.
    --table_used_;
    const std::size_t mask = table_.size() - 1;
    for (std::size_t i = (hole + 1) & mask; table_[i].first != 0; i = (i + 1) & mask) {
      const std::size_t home = table_[i].tag & mask;
      if (((i - home) & mask) < ((i - hole) & mask)) continue;
      table_[hole] = table_[i];
      hole = i;
    }
    table_[hole] = {};
  }
  s.next = unused_;
  unused_ = segment;
}

void KvBlockPool::split(Index segment, std::int32_t count) {
  const Index rest = new_segment();
  Segment &s = at(segment), &r = at(rest);
  r.hash = s.hash + static_cast<std::uint64_t>(count);
  r.references = s.references;
  r.count = s.count - count;
  std::copy_n(s.blocks.begin() + count, r.count, r.blocks.begin());
  s.count = count;
  // They have no hash in common, so it does not matter which is before the other in the ring.
  r.previous = segment;
  r.next = s.next;
  at(s.next).previous = rest;
  s.next = rest;
  if (s.references > 0) {
    for (const Index held : {segment, rest}) {
      const Segment& h = at(held);
      segment_of_[static_cast<std::size_t>(h.blocks[static_cast<std::size_t>(h.count - 1)])] = held;
    }
    return;
  }
  r.place = s.place;
  r.behind = segment;
  Block& entry = queued(s.place);
  if (entry == -segment) {
    entry = -rest;
  } else {
    Index before = -entry;
    while (at(before).behind != segment) before = at(before).behind;
    at(before).behind = rest;
  }
}

std::size_t KvBlockPool::slot(std::uint64_t of) const {
  const std::size_t mask = table_.size() - 1;
  const auto tag = static_cast<std::uint32_t>(of);
  std::size_t i = static_cast<std::size_t>(of) & mask;
  while (table_[i].first != 0 && (table_[i].tag != tag || group(at(table_[i].first).hash) != of))
    i = (i + 1) & mask;
  return i;
}

void KvBlockPool::grow() {
  const std::vector<Entry> old = std::move(table_);
  table_.assign(std::max<std::size_t>(64, old.size() * 2), {});
  for (const Entry& entry : old)
    if (entry.first != 0) table_[slot(group(at(entry.first).hash))] = entry;
}

void KvBlockPool::enter(std::span<const Block> blocks, std::int64_t entered,
                        std::span<const std::uint64_t> hashes) {
  segment_of_.resize(std::max(segment_of_.size(), static_cast<std::size_t>(fresh_)));
  cached_count_ += std::ssize(blocks) - entered;
  for (auto b = static_cast<std::size_t>(entered); b < blocks.size();) {
    // The last segment of the sequence goes on, where nobody else holds it and nothing of its group was
    // entered after it.
    const Index last = b == 0 ? 0 : segment_of_[static_cast<std::size_t>(blocks[b - 1])];
    const bool goes_on = hashes[b] % kSegment != 0 && last != 0 && at(last).references == 1 &&
                         at(last).end() == hashes[b] && table_[slot(group(hashes[b]))].first == at(last).next;
    // The first sequence of all finds no table yet.
    if (b + kAhead * kSegment < blocks.size() && !table_.empty()) fetch(hashes[b + kAhead * kSegment]);
    const Index segment = goes_on ? last : add(hashes[b]);
    Segment& s = at(segment);
    std::uint64_t hash = hashes[b];
    do {
      s.blocks[static_cast<std::size_t>(s.count++)] = blocks[b++];
      ++hash;
    } while (b < blocks.size() && hash % kSegment != 0 && hashes[b] == hash);
    segment_of_[static_cast<std::size_t>(blocks[b - 1])] = segment;
  }
}

KvBlockPool::Place KvBlockPool::place(std::span<const std::uint64_t> hashes) const {
  if (table_.empty()) return {};
  const std::uint64_t hash = hashes.front();
  const Index first = table_[slot(group(hash))].first;
  if (first == 0) return {};
  std::uint64_t most = kSegment;  // up to where an earlier one begins
  Index segment = first;
  while (!at(segment).covers(hash)) {
    if (at(segment).hash > hash) most = std::min(most, at(segment).hash - hash);
    segment = at(segment).next;
    if (segment == first) return {};
  }
  const Segment& s = at(segment);
  most = std::min({most, s.end() - hash, static_cast<std::uint64_t>(hashes.size())});
  std::uint64_t count = 1;
  while (count < most && hashes[count] == hash + count) ++count;
  return {segment, static_cast<std::int32_t>(hash - s.hash), static_cast<std::int32_t>(count)};
}

KvBlockPool::Found KvBlockPool::find(std::span<const std::uint64_t> hashes) const {
  Found found;
  while (!hashes.empty()) {
    const Place p = place(hashes);
    if (p.segment == 0) break;
    found.blocks += p.count;
    if (at(p.segment).references == 0) found.free += p.count;
    hashes = hashes.subspan(static_cast<std::size_t>(p.count));
  }
  return found;
}

void KvBlockPool::take(std::span<const std::uint64_t> hashes, std::vector<Block>& blocks) {
  while (!hashes.empty()) {
    Place p = place(hashes);
    if (p.from > 0) {
      split(p.segment, p.from);
      p.segment = at(p.segment).next;
    }
    if (p.count < at(p.segment).count) split(p.segment, p.count);
    Segment& s = at(p.segment);
    if (s.references == 0) unqueue(p.segment);
    ++s.references;
    blocks.insert(blocks.end(), s.blocks.begin(), s.blocks.begin() + p.count);
    segment_of_[static_cast<std::size_t>(blocks.back())] = p.segment;
    hashes = hashes.subspan(static_cast<std::size_t>(p.count));
  }
}

}  // namespace foretoken
