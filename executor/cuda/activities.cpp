#include "executor/cuda/activities.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"

namespace foretoken::cuda {

void ActivityTimes::close() {
  if (open_) source_->pop();
  open_ = false;
}

void ActivityTimes::restart() {
  close();
  first_id_ = last_id_ + 1, places_ = 0;
  captured_.clear();
  replayed_ = nullptr;
  attributed_ = false;
}

int ActivityTimes::mark(std::optional<std::size_t> captured) {
  close();
  if (captured) {
    captured_.push_back(*captured);
  } else {
    source_->push(++last_id_);
    open_ = true;
  }
  return places_++;
}

void ActivityTimes::keep(const void* owner, std::uint64_t key, std::size_t nodes) {
  recordings_[{owner, key}] = {captured_, nodes};
}

void ActivityTimes::replay(const void* owner, std::uint64_t key, const std::function<void()>& launch) {
  close();
  replayed_ = &recordings_.at({owner, key});
  replay_id_ = ++last_id_;
  attributed_ = false;
  source_->push(replay_id_);
  open_ = true;
  launch();
  close();
}

void ActivityTimes::attribute() {
  close();
  ActivityRecords records = source_->collect();
  if (records.dropped > 0)
    throw Error("--operator-times", "cupti lost " + std::to_string(records.dropped) + " records; use on");
  const std::unordered_map<std::uint32_t, std::uint64_t> id_of(records.ids.begin(), records.ids.end());
  const std::uint64_t first = replayed_ != nullptr ? replay_id_ : first_id_,
                      last = replayed_ != nullptr ? replay_id_ : last_id_;
  struct Own {
    std::uint64_t start, end, id;
  };
  std::vector<Own> own;
  for (const Activity& a : records.activities)
    if (const auto at = id_of.find(a.correlation);
        at != id_of.end() && at->second >= first && at->second <= last)
      own.push_back({a.start, a.end, at->second});
  std::sort(own.begin(), own.end(), [](const Own& a, const Own& b) {
    return a.start != b.start ? a.start < b.start : a.end < b.end;
  });
  if (replayed_ != nullptr && own.size() != replayed_->nodes)
    throw Error("--operator-times", "cupti recorded " + std::to_string(own.size()) + " of the " +
                                        std::to_string(replayed_->nodes) +
                                        " kernels and copies of a recorded step; use on, or --enforce-eager");
  // By place, what comes after it and before the next one.
  const std::size_t places =
      replayed_ != nullptr ? replayed_->before.size() : static_cast<std::size_t>(places_);
  std::vector<double> after(places, 0.0);
  std::uint64_t reached = 0;
  std::size_t place = 0;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const Own& a = own[i];
    const double seconds =
        a.end > reached ? 1e-9 * static_cast<double>(a.end - std::max(a.start, reached)) : 0.0;
    reached = std::max(reached, a.end);
    if (replayed_ != nullptr)
      while (place < places && replayed_->before[place] <= i) ++place;  // one beyond the node's
    else
      place = static_cast<std::size_t>(a.id - first_id_) + 1;
    if (place > 0) after[place - 1] += seconds;
  }
  until_.assign(places + 1, 0.0);
  for (std::size_t i = 0; i < places; ++i) until_[i + 1] = until_[i] + after[i];
  attributed_ = true;
}

double ActivityTimes::seconds(int from, int to) {
  if (!attributed_) attribute();
  return until_.at(static_cast<std::size_t>(to)) - until_.at(static_cast<std::size_t>(from));
}

}  // namespace foretoken::cuda
