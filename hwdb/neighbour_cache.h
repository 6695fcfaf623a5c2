// Neighbours and weights of shapes that were asked for before: solving for them costs more than all else in a
// lookup. Thread-safe; entries are only added, and not beyond its capacity.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "hwdb/kriging.h"

namespace foretoken {

template <std::size_t kColumns>
class NeighbourCache {
 public:
  using Key = std::array<std::int64_t, kColumns>;
  struct Entry {
    Key key{};
    std::size_t count = 0;  // 0: none is near
    double nearest = 0;     // octaves
    std::array<int, kMostNeighbours> shape;
    std::array<double, kMostNeighbours> weight;
    std::array<double, kMostNeighbours> at;  // the caller's own, e.g. where to read the shape's curve
  };

  NeighbourCache() : slots_(std::make_unique<Slots>()) {}
  NeighbourCache(const NeighbourCache&) : NeighbourCache() {}  // a copy of the table starts empty
  NeighbourCache& operator=(const NeighbourCache&) { return *this = NeighbourCache(); }
  NeighbourCache(NeighbourCache&&) noexcept = default;
  NeighbourCache& operator=(NeighbourCache&&) noexcept = default;
  ~NeighbourCache() = default;

  const Entry* find(const Key& key) const {
    std::size_t i = slot(key);
    for (int probe = 0; probe < kProbes; ++probe, i = (i + 1) % kSlots) {
      const Entry* e = (*slots_)[i].load(std::memory_order_acquire);
      if (!e) return nullptr;
      if (e->key == key) return e;
    }
    return nullptr;
  }

  void insert(const Entry& entry) {
    auto copy = std::make_unique<const Entry>(entry);
    std::size_t i = slot(entry.key);
    for (int probe = 0; probe < kProbes; ++probe, i = (i + 1) % kSlots) {
      const Entry* none = nullptr;
      // Two threads may add the same shape: the second entry is never read.
      if ((*slots_)[i].compare_exchange_strong(none, copy.get(), std::memory_order_release)) {
        static_cast<void>(copy.release());
        return;
      }
    }
  }

  // What `solve` makes of the key, from memory where it was asked for before.
  template <class Solve, class Read>
  auto with(const Key& key, Solve&& solve, Read&& read) {
    if (const Entry* known = find(key)) return read(*known);
    const Entry e = solve();
    insert(e);
    return read(e);
  }

  static Entry entry_of(const Key& key, Neighbours& near) {
    Entry e;
    e.key = key, e.count = near.size();
    if (near.empty()) return e;
    near.solve();
    e.nearest = near.nearest();
    for (std::size_t i = 0; i < near.size(); ++i)
      e.shape[i] = near.entry(i).shape, e.weight[i] = near.weight(i), e.at[i] = near.entry(i).at;
    return e;
  }

 private:
  static constexpr std::size_t kSlots = 4096;
  static constexpr int kProbes = 16;  // before a shape is left uncached
  struct Slots : std::array<std::atomic<const Entry*>, kSlots> {
    ~Slots() {
      for (auto& s : *this) delete s.load();
    }
  };
  static std::size_t slot(const Key& key) {
    std::uint64_t h = 0;
    for (const std::int64_t v : key) h = (h ^ static_cast<std::uint64_t>(v)) * 0x9e3779b97f4a7c15u;
    return static_cast<std::size_t>(h >> 52);
  }
  std::unique_ptr<Slots> slots_;
};

}  // namespace foretoken
