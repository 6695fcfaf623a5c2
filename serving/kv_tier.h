// One tier of the KV cache below device memory: which block lies where, by the hash of its content, who
// leaves for whom, and the link that it is reached by, which is first come first served in each direction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/units.h"
#include "serving/kv_tier_config.h"

namespace foretoken {

class KvTier {
 public:
  using Slot = std::int32_t;
  struct Evicted {
    std::uint64_t hash = 0;  // 0: nothing was
    std::int32_t position = 0;
  };

  explicit KvTier(const KvTierConfig& config) : config_(config) {}

  const KvTierConfig& config() const { return config_; }
  std::int64_t used() const { return static_cast<std::int64_t>(entries_.size()); }
  Slot find(std::uint64_t hash) const;  // -1: not here
  // It has been written.
  bool ready(Slot slot, Picoseconds now) const { return entry(slot).ready_at <= now; }
  // Once more, `age` blocks before the newest use: of a prompt's blocks the last ones leave first.
  void use(Slot slot, std::int64_t age);
  void next_use(std::int64_t blocks) { clock_ += blocks; }
  // Its room is not given away before that time.
  void keep(Slot slot, Picoseconds until) {
    entry(slot).busy_until = std::max(entry(slot).busy_until, until);
  }
  // Nor before it is released.
  void pin(Slot slot) { ++entry(slot).pins; }
  void unpin(Slot slot) { --entry(slot).pins; }
  void written(Slot slot, Picoseconds at) { entry(slot).ready_at = entry(slot).busy_until = at; }
  // Room for a block that is not here yet and from now on is, though it must still be written(); of the one
  // that it takes the place of, `evicted` tells. position: of the block in its request. -1: whoever would
  // leave next is being copied.
  Slot place(std::uint64_t hash, std::int32_t position, std::int64_t age, Picoseconds now, Evicted& evicted);

  // A copy of that length takes the link, from `at` on or when it is free; when it starts.
  Picoseconds read(Picoseconds at, Picoseconds duration) { return take(read_free_, at, duration); }
  Picoseconds write(Picoseconds at, Picoseconds duration) { return take(write_free_, at, duration); }
  Picoseconds read_wait(Picoseconds at) const { return std::max<Picoseconds>(0, read_free_ - at); }

 private:
  struct Entry {
    std::uint64_t hash = 0;
    std::int64_t last_use = 0;
    Picoseconds ready_at = 0, busy_until = 0;
    std::int32_t position = 0, uses = 0;
    std::int32_t heap_at = 0, pins = 0;
  };
  Entry& entry(Slot slot) { return entries_[static_cast<std::size_t>(slot)]; }
  const Entry& entry(Slot slot) const { return entries_[static_cast<std::size_t>(slot)]; }
  static Picoseconds take(Picoseconds& free, Picoseconds at, Picoseconds duration) {
    const Picoseconds start = std::max(free, at);
    free = start + duration;
    return start;
  }
  bool leaves_before(Slot a, Slot b) const;
  void put(std::size_t at, Slot slot);
  void sift_up(std::size_t at);
  void sift_down(std::size_t at);
  std::size_t home(std::uint64_t hash) const { return static_cast<std::size_t>(hash) & (table_.size() - 1); }
  std::size_t probe(std::uint64_t hash) const;
  void enter(Slot slot);
  void erase(std::uint64_t hash);

  const KvTierConfig config_;
  std::vector<Entry> entries_;  // by slot; slots are taken in order, then from whoever leaves
  std::vector<Slot> heap_;      // who leaves first is in front
  std::vector<Slot> table_;     // open addressing, linear probing; -1: hole
  std::int64_t clock_ = 0;
  Picoseconds read_free_ = 0, write_free_ = 0;
};

}  // namespace foretoken
