// Which replicas there are at a time: those that serve, start or end, and what all of them have cost.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "serving/autoscaler.h"

namespace foretoken {

// Replicas are numbered; the lowest that is off starts first, the highest that serves ends first.
class Replicas {
 public:
  enum class State : std::uint8_t { kOff, kStarting, kServing, kDraining };

  // All of them serve from the start where nothing is scaled, else min_replicas.
  Replicas(const AutoscaleConfig& config, std::size_t count);

  State state(std::int32_t r) const { return states_[static_cast<std::size_t>(r)]; }
  std::int64_t serving() const { return serving_; }
  std::int64_t coming() const { return serving_ + static_cast<std::int64_t>(starts_.size()); }
  Picoseconds next_start() const;  // kNever: none is starting

  // A replica, if one is off: starts now; -1 where none is.
  std::int32_t start(Picoseconds now);
  // The replica whose start ends by now; -1: none.
  std::int32_t finish_start(Picoseconds now);
  // The newest start is called off, or the highest that serves gets no more requests, which is returned; -1.
  std::int32_t end_one(Picoseconds now);
  void stop(std::int32_t r, Picoseconds now);  // has drained

  std::int64_t started() const { return started_; }
  std::int64_t ended() const { return ended_; }
  std::int64_t most() const { return most_; }
  // Replicas that are paid for (all but those that are off), as an integral over time, in replica-seconds.
  double paid_seconds(Picoseconds until) const;

 private:
  void change(std::int32_t r, State to, Picoseconds now);
  struct Start {
    Picoseconds ready;
    std::int32_t replica;
  };
  Picoseconds startup_;
  std::vector<State> states_;
  std::deque<Start> starts_;  // in order
  std::int64_t serving_ = 0, paid_ = 0, started_ = 0, ended_ = 0, most_ = 0;
  __extension__ __int128 paid_time_ = 0;
  Picoseconds changed_ = 0;
};

}  // namespace foretoken
