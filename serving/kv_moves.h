// Caches on their way between engines: who waits for room where, and the links.
//
// In order of arrival each decode engine takes in the caches that were sent to it as soon as it has blocks
// for them (an engine without room holds back the one that computes). What is sent takes the sending port of
// the one engine and the receiving port of the other.
//
// Whole caches are pulled when their prompt is computed, and go one after the other, first come first served.
// Layer by layer they are pushed while their prompt is computed: each layer goes as soon as it is computed
// and both ports have time for it, so that layers of several prompts take turns.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <queue>
#include <vector>

#include "serving/engine.h"
#include "serving/link_port.h"

namespace foretoken {

class KvMoves {
 public:
  struct Computed {
    std::int32_t engine = 0;
    Engine::Place place;
    bool operator==(const Computed&) const = default;
  };
  struct Move {
    Computed from;
    Computed to;
    Picoseconds end = 0;
    std::int64_t order = 0;
    bool operator<(const Move& o) const { return end != o.end ? end > o.end : order > o.order; }
  };
  // When something is on the link, from the first layer's start to the last one's end.
  struct Sent {
    Picoseconds start = 0, end = 0;
  };
  struct Piece {
    Picoseconds start = 0, duration = 0;
  };
  // A prompt whose layers are sent while it is computed.
  struct Stream {
    Computed from;
    std::int32_t to = 0;                  // engine
    std::int32_t preemptions = 0;         // of the prompt before; one more, and it begins anew
    std::optional<Engine::Place> target;  // once there is room
    std::vector<Engine::Chunk> computed;  // and not sent yet
    std::int32_t sent = 0;                // tokens
    Picoseconds end = 0;                  // of the last one sent
    std::vector<Piece> pieces;            // of time on the ports
    bool parked = false;                  // the prompt's last step is over
  };

  // port_of: by engine; engines of one port share it. Each port sends and receives at once.
  explicit KvMoves(const std::vector<std::int32_t>& port_of)
      : pending_(port_of.size()), streams_(port_of.size()), port_of_(port_of) {
    const auto last = std::max_element(port_of.begin(), port_of.end());
    out_.resize(last == port_of.end() ? 0 : static_cast<std::size_t>(*last) + 1);
    in_.resize(out_.size());
  }

  void wait_for(std::int32_t engine, const Computed& computed) { pending(engine).push_back(computed); }
  bool any_pending(std::int32_t engine) const { return !pending_[static_cast<std::size_t>(engine)].empty(); }
  const Computed& next(std::int32_t engine) const {
    return pending_[static_cast<std::size_t>(engine)].front();
  }
  void take_next(std::int32_t engine) { pending(engine).pop_front(); }
  // The first that waits, for whichever engine, of those that `engine` has computed.
  struct Waiting {
    std::int32_t engine = 0;  // that it waits for
    Computed computed;
  };
  std::optional<Waiting> first_of(std::int32_t engine) const {
    for (std::size_t to = 0; to < pending_.size(); ++to)
      for (const Computed& c : pending_[to])
        if (c.engine == engine) return Waiting{static_cast<std::int32_t>(to), c};
    return std::nullopt;
  }
  void forget(std::int32_t engine, const Computed& computed) { std::erase(pending(engine), computed); }

  // At once and as one piece.
  Sent send(std::int32_t from, std::int32_t to, Picoseconds now, Picoseconds duration) {
    LinkPort &out = port(out_, from), &in = port(in_, to);
    const Picoseconds start = std::max({now, out.end(), in.end()});
    out.take(start, duration, now);
    in.take(start, duration, now);
    on_links_ += duration;
    return {start, start + duration};
  }
  // Layers that are computed evenly from `begin` to `end`, `duration` of the link for all together.
  Sent send_layers(std::int32_t from, std::int32_t to, Picoseconds now, Picoseconds begin, Picoseconds end,
                   std::int64_t layers, Picoseconds duration, std::vector<Piece>& pieces);
  // What has not begun yet does not go after all.
  void give_back(const Stream& stream, Picoseconds now) {
    for (const Piece& p : stream.pieces) {
      if (p.start <= now || p.duration == 0) continue;
      port(out_, stream.from.engine).give_back(p.start, p.duration);
      port(in_, stream.to).give_back(p.start, p.duration);
      on_links_ -= p.duration;
    }
  }
  // What was sent is there then.
  void deliver(const Computed& from, const Computed& to, Picoseconds end) {
    moves_.push({from, to, end, order_++});
  }

  Picoseconds first_end() const { return moves_.empty() ? kNever : moves_.top().end; }
  Move pop() {
    const Move move = moves_.top();
    moves_.pop();
    return move;
  }
  std::int64_t count() const { return order_; }
  Picoseconds on_links() const { return on_links_; }
  // How long something would wait for the ports now.
  Picoseconds wait(std::int32_t from, std::int32_t to, Picoseconds now) {
    return std::max({now, port(out_, from).end(), port(in_, to).end()}) - now;
  }

  // Of one engine, in order of their first steps; pointers are valid until one is added or erased.
  std::vector<Stream>& streams(std::int32_t engine) { return streams_[static_cast<std::size_t>(engine)]; }
  Stream* find(const Computed& from) {
    for (Stream& s : streams(from.engine))
      if (s.from == from) return &s;
    return nullptr;
  }
  void erase(const Computed& from) {
    std::erase_if(streams(from.engine), [&](const Stream& s) { return s.from == from; });
  }

 private:
  std::deque<Computed>& pending(std::int32_t engine) { return pending_[static_cast<std::size_t>(engine)]; }
  LinkPort& port(std::vector<LinkPort>& ports, std::int32_t engine) {
    return ports[static_cast<std::size_t>(port_of_[static_cast<std::size_t>(engine)])];
  }
  std::vector<std::deque<Computed>> pending_;  // by decode engine
  std::vector<std::vector<Stream>> streams_;   // by prefill engine
  std::vector<std::int32_t> port_of_;
  std::vector<LinkPort> out_, in_;
  std::priority_queue<Move> moves_;
  std::int64_t order_ = 0;
  Picoseconds on_links_ = 0;
};

inline KvMoves::Sent KvMoves::send_layers(std::int32_t from, std::int32_t to, Picoseconds now,
                                          Picoseconds begin, Picoseconds end, std::int64_t layers,
                                          Picoseconds duration, std::vector<Piece>& pieces) {
  LinkPort &out = port(out_, from), &in = port(in_, to);
  if (end <= now) layers = 1;
  Sent sent{kNever, now};
  for (std::int64_t i = 0; i < layers; ++i) {
    const Picoseconds each = duration * (i + 1) / layers - duration * i / layers;
    Picoseconds at = std::max({now, sent.end, begin + (end - begin) * (i + 1) / layers});
    for (Picoseconds other = -1; other != at;) {
      other = out.fit(at, each);
      at = in.fit(other, each);
    }
    out.take(at, each, now);
    in.take(at, each, now);
    pieces.push_back({at, each});
    sent = {std::min(sent.start, at), at + each};
  }
  on_links_ += duration;
  return sent;
}

}  // namespace foretoken
