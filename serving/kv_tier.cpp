#include "serving/kv_tier.h"

#include <limits>
#include <tuple>

namespace foretoken {
namespace {

constexpr Picoseconds kWriting = std::numeric_limits<Picoseconds>::max();

}  // namespace

KvTier::Slot KvTier::find(std::uint64_t hash) const { return table_.empty() ? -1 : table_[probe(hash)]; }

void KvTier::use(Slot slot, std::int64_t age) {
  Entry& e = entry(slot);
  e.last_use = clock_ - age;
  ++e.uses;
  // It never leaves sooner than before, unless it is used at an earlier place of a longer prompt.
  sift_up(static_cast<std::size_t>(e.heap_at));
  sift_down(static_cast<std::size_t>(e.heap_at));
}

KvTier::Slot KvTier::place(std::uint64_t hash, std::int32_t position, std::int64_t age, Picoseconds now,
                           Evicted& evicted) {
  evicted = {};
  Slot slot;
  if (used() < config_.blocks) {
    slot = static_cast<Slot>(entries_.size());
    entries_.emplace_back();
    heap_.push_back(slot);
    entry(slot).heap_at = slot;
  } else {
    if (heap_.empty() || entry(heap_.front()).busy_until > now || entry(heap_.front()).pins > 0) return -1;
    slot = heap_.front();
    evicted = {entry(slot).hash, entry(slot).position};
    erase(entry(slot).hash);
  }
  Entry& e = entry(slot);
  const std::int32_t at = e.heap_at;
  e = {hash, clock_ - age, kWriting, kWriting, position, 1, at, 0};
  sift_up(static_cast<std::size_t>(at));
  sift_down(static_cast<std::size_t>(e.heap_at));
  enter(slot);
  return slot;
}

bool KvTier::leaves_before(Slot a, Slot b) const {
  const Entry &x = entry(a), &y = entry(b);
  switch (config_.eviction) {
    case KvTierConfig::Eviction::kLru:
      break;
    case KvTierConfig::Eviction::kLfu:
      return std::tuple(x.uses, x.last_use, a) < std::tuple(y.uses, y.last_use, b);
    case KvTierConfig::Eviction::kLengthAware:
      return std::tuple(x.uses, y.position, x.last_use, a) < std::tuple(y.uses, x.position, y.last_use, b);
  }
  return std::tuple(x.last_use, a) < std::tuple(y.last_use, b);
}

void KvTier::put(std::size_t at, Slot slot) {
  heap_[at] = slot;
  entry(slot).heap_at = static_cast<std::int32_t>(at);
}

void KvTier::sift_up(std::size_t at) {
  const Slot slot = heap_[at];
  for (; at > 0 && leaves_before(slot, heap_[(at - 1) / 2]); at = (at - 1) / 2) put(at, heap_[(at - 1) / 2]);
  put(at, slot);
}

void KvTier::sift_down(std::size_t at) {
  const Slot slot = heap_[at];
  for (std::size_t child; (child = 2 * at + 1) < heap_.size(); at = child) {
    if (child + 1 < heap_.size() && leaves_before(heap_[child + 1], heap_[child])) ++child;
    if (!leaves_before(heap_[child], slot)) break;
    put(at, heap_[child]);
  }
  put(at, slot);
}

// Where the hash is in the table, or the hole where it belongs.
std::size_t KvTier::probe(std::uint64_t hash) const {
  std::size_t at = home(hash);
  while (table_[at] >= 0 && entry(table_[at]).hash != hash) at = (at + 1) & (table_.size() - 1);
  return at;
}

void KvTier::enter(Slot slot) {
  if (table_.size() < 2 * entries_.size()) {
    std::size_t size = std::max<std::size_t>(64, table_.size());
    while (size < 4 * entries_.size()) size *= 2;
    table_.assign(size, -1);
    for (std::size_t s = 0; s < entries_.size(); ++s) table_[probe(entries_[s].hash)] = static_cast<Slot>(s);
    return;
  }
  table_[probe(entry(slot).hash)] = slot;
}

// Backward-shift deletion: later members of the cluster move up if the hole lies on their probe path.
void KvTier::erase(std::uint64_t hash) {
  const std::size_t mask = table_.size() - 1;
  std::size_t hole = probe(hash);
  table_[hole] = -1;
  for (std::size_t at = (hole + 1) & mask; table_[at] >= 0; at = (at + 1) & mask) {
    const std::size_t from = home(entry(table_[at]).hash);
    if (((at - from) & mask) < ((at - hole) & mask)) continue;
    table_[hole] = table_[at];
    table_[at] = -1;
    hole = at;
  }
}

}  // namespace foretoken
