// The event queue of the serving loop: engines, not requests, so that it stays small.
#pragma once

#include <cstdint>
#include <vector>

#include "serving/engine.h"

namespace foretoken {

// Binary heap of engines by the time of their next event, lowest index first on ties.
class EngineHeap {
 public:
  explicit EngineHeap(std::size_t engines) : times_(engines, kNever), heap_(engines), places_(engines) {
    for (std::size_t i = 0; i < engines; ++i) heap_[i] = places_[i] = static_cast<std::int32_t>(i);
  }
  std::int32_t first() const { return heap_[0]; }
  Picoseconds first_time() const { return times_[static_cast<std::size_t>(heap_[0])]; }
  void set(std::int32_t engine, Picoseconds time) {
    const Picoseconds old = times_[static_cast<std::size_t>(engine)];
    if (time == old) return;
    times_[static_cast<std::size_t>(engine)] = time;
    if (time < old) {
      up(static_cast<std::size_t>(places_[static_cast<std::size_t>(engine)]));
    } else {
      down(static_cast<std::size_t>(places_[static_cast<std::size_t>(engine)]));
    }
  }

 private:
  bool before(std::int32_t a, std::int32_t b) const {
    const Picoseconds x = times_[static_cast<std::size_t>(a)], y = times_[static_cast<std::size_t>(b)];
    return x != y ? x < y : a < b;
  }
  void put(std::size_t place, std::int32_t engine) {
    heap_[place] = engine;
    places_[static_cast<std::size_t>(engine)] = static_cast<std::int32_t>(place);
  }
  void up(std::size_t place) {
    const std::int32_t engine = heap_[place];
    for (; place > 0 && before(engine, heap_[(place - 1) / 2]); place = (place - 1) / 2) {
      put(place, heap_[(place - 1) / 2]);
    }
    put(place, engine);
  }
  void down(std::size_t place) {
    const std::int32_t engine = heap_[place];
    for (;;) {
      std::size_t child = 2 * place + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
      if (!before(heap_[child], engine)) break;
      put(place, heap_[child]);
      place = child;
    }
    put(place, engine);
  }
  std::vector<Picoseconds> times_;
  std::vector<std::int32_t> heap_, places_;
};

}  // namespace foretoken
