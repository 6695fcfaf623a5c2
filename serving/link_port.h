// One end of a link: when it is taken. What is booked keeps it for itself.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>

#include "base/units.h"

namespace foretoken {

class LinkPort {
 public:
  Picoseconds end() const { return end_; }  // of all that is booked
  // The first time from `from` on at which it is free for so long.
  Picoseconds fit(Picoseconds from, Picoseconds duration) const {
    for (auto i = after(from); i != taken_.end(); ++i) {
      if (from + duration <= i->start) return from;
      from = std::max(from, i->end);
    }
    return from;
  }
  // A time that fit() gave, or one from end() on. now: nothing is asked about earlier times any more.
  void take(Picoseconds start, Picoseconds duration, Picoseconds now) {
    while (!taken_.empty() && taken_.front().end <= now) taken_.pop_front();
    end_ = std::max(end_, start + duration);
    if (duration == 0) return;
    auto next = after(start);
    if (next != taken_.begin() && std::prev(next)->end == start) {
      std::prev(next)->end += duration;
      if (next == taken_.end() || next->start != start + duration) return;
      std::prev(next)->end = next->end;
      taken_.erase(next);
    } else if (next != taken_.end() && next->start == start + duration) {
      next->start = start;
    } else {
      taken_.insert(next, {start, start + duration});
    }
  }

  // Of what is booked, and has not begun, after all.
  void give_back(Picoseconds start, Picoseconds duration) {
    const auto i = after(start);
    const Interval whole = *i;
    auto next = taken_.erase(i);
    if (start + duration < whole.end) next = taken_.insert(next, {start + duration, whole.end});
    if (whole.start < start) taken_.insert(next, {whole.start, start});
    end_ = taken_.empty() ? 0 : taken_.back().end;
  }

 private:
  struct Interval {
    Picoseconds start, end;
  };
  std::deque<Interval>::const_iterator after(Picoseconds time) const {  // the first that ends after it
    return std::upper_bound(taken_.begin(), taken_.end(), time,
                            [](Picoseconds t, const Interval& i) { return t < i.end; });
  }
  std::deque<Interval>::iterator after(Picoseconds time) {
    return taken_.begin() + (std::as_const(*this).after(time) - taken_.cbegin());
  }
  std::deque<Interval> taken_;  // ascending, with gaps between them
  Picoseconds end_ = 0;
};

}  // namespace foretoken
