#include "serving/replicas.h"

#include <algorithm>
#include <limits>

namespace foretoken {

Replicas::Replicas(const AutoscaleConfig& config, std::size_t count)
    : startup_(config.startup), states_(count, State::kOff) {
  const auto all = static_cast<std::int64_t>(count);
  const std::int64_t first = config.on ? std::min(config.min_replicas, all) : all;
  for (std::int32_t r = 0; r < first; ++r) change(r, State::kServing, 0);
}

Picoseconds Replicas::next_start() const {
  return starts_.empty() ? std::numeric_limits<Picoseconds>::max() : starts_.front().ready;
}

std::int32_t Replicas::start(Picoseconds now) {
  const auto off = std::find(states_.begin(), states_.end(), State::kOff);
  if (off == states_.end()) return -1;
  const auto r = static_cast<std::int32_t>(off - states_.begin());
  starts_.push_back({now + startup_, r});
  ++started_;
  change(r, State::kStarting, now);
  return r;
}

std::int32_t Replicas::finish_start(Picoseconds now) {
  if (next_start() > now) return -1;
  const std::int32_t r = starts_.front().replica;
  starts_.pop_front();
  change(r, State::kServing, now);
  return r;
}

std::int32_t Replicas::end_one(Picoseconds now) {
  if (!starts_.empty()) {
    change(starts_.back().replica, State::kOff, now);
    starts_.pop_back();
    return -1;
  }
  const auto last = std::find(states_.rbegin(), states_.rend(), State::kServing);
  if (last == states_.rend()) return -1;
  const auto r = static_cast<std::int32_t>(states_.rend() - last) - 1;
  change(r, State::kDraining, now);
  return r;
}

void Replicas::stop(std::int32_t r, Picoseconds now) { change(r, State::kOff, now); }

void Replicas::change(std::int32_t r, State to, Picoseconds now) {
  State& from = states_[static_cast<std::size_t>(r)];
  paid_time_ += static_cast<decltype(paid_time_)>(paid_) * (now - changed_);
  changed_ = now;
  paid_ += (to != State::kOff) - (from != State::kOff);
  ended_ += to == State::kOff;
  serving_ += (to == State::kServing) - (from == State::kServing);
  most_ = std::max(most_, paid_);
  from = to;
}

double Replicas::paid_seconds(Picoseconds until) const {
  const auto last = static_cast<decltype(paid_time_)>(paid_) * std::max<Picoseconds>(0, until - changed_);
  return static_cast<double>(paid_time_ + last) / kPicosPerSecond;
}

}  // namespace foretoken
