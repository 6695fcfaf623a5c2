// Caches on their way from prefill to decode engines: who waits for room where, and the links.
//
// A prompt that is computed keeps its blocks. In order of completion each decode engine takes those that were
// sent to it in as soon as it has blocks for them (it pulls: an engine without room holds back the one that
// computed). The move then takes the sending port of the one engine and the receiving port of the other, both
// first come first served and for one cache at a time.
#pragma once

#include <algorithm>
#include <deque>
#include <queue>
#include <span>
#include <vector>

#include "serving/engine.h"

namespace foretoken {

class KvMoves {
 public:
  struct Computed {
    std::int32_t engine = 0;
    Engine::Place place;
  };
  struct Move {
    Computed from;
    Computed to;
    Picoseconds end = 0;
    std::int64_t order = 0;
    bool operator<(const Move& o) const { return end != o.end ? end > o.end : order > o.order; }
  };

  explicit KvMoves(std::size_t engines) : pending_(engines), free_at_(engines) {}

  void wait_for(std::int32_t engine, const Computed& computed) {
    pending_[static_cast<std::size_t>(engine)].push_back(computed);
  }
  bool any_pending(std::int32_t engine) const { return !pending_[static_cast<std::size_t>(engine)].empty(); }
  const Computed& next(std::int32_t engine) const {
    return pending_[static_cast<std::size_t>(engine)].front();
  }

  // The engine's first pending cache starts to move, or queues for its ports; when it starts.
  Picoseconds start(std::int32_t engine, Engine::Place place, Picoseconds now, Picoseconds duration) {
    auto& pending = pending_[static_cast<std::size_t>(engine)];
    Picoseconds& out = free_at_[static_cast<std::size_t>(pending.front().engine)];
    Picoseconds& in = free_at_[static_cast<std::size_t>(engine)];
    const Picoseconds at = std::max({now, out, in});
    out = in = at + duration;
    moves_.push({pending.front(), {engine, place}, out, order_++});
    on_links_ += duration;
    pending.pop_front();
    return at;
  }

  Picoseconds first_end() const { return moves_.empty() ? kNever : moves_.top().end; }
  Move pop() {
    const Move move = moves_.top();
    moves_.pop();
    return move;
  }
  std::int64_t count() const { return order_; }
  Picoseconds on_links() const { return on_links_; }

 private:
  std::vector<std::deque<Computed>> pending_;  // by decode engine
  std::vector<Picoseconds> free_at_;  // the port of each engine: out of a prefill one, into a decode one
  std::priority_queue<Move> moves_;
  std::int64_t order_ = 0;
  Picoseconds on_links_ = 0;
};

}  // namespace foretoken
