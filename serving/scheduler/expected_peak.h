// The most tokens that a cache will hold if the sequences in it run as long as they may: LightLLM's estimate
// (server/router/req_queue). With sequences ordered by the decode steps still to come, it is the maximum over
// i of left(i) x i + tokens held by the first i.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace foretoken {

class ExpectedPeak {
 public:
  // While a sequence decodes neither number changes, nor does the order.
  struct Entry {
    std::int64_t last;   // decode step, of all that there have been, before that of its last token
    std::int64_t whole;  // tokens still to come before that one and in the cache
    bool operator==(const Entry&) const = default;
  };

  void clear() { entries_.clear(); }
  void append(const Entry& e) { entries_.push_back(e); }  // then sort()
  void sort() { std::sort(entries_.begin(), entries_.end(), longer); }
  void add(const Entry& e) {
    entries_.insert(std::upper_bound(entries_.begin(), entries_.end(), e, longer), e);
  }
  void remove(const Entry& e) {
    entries_.erase(
        std::find(std::lower_bound(entries_.begin(), entries_.end(), e, longer), entries_.end(), e));
  }
  // Drops those whose last step comes before this one.
  void expire(std::int64_t step) {
    while (!entries_.empty() && entries_.back().last < step) entries_.pop_back();
  }
  // From this decode step on.
  std::int64_t peak(std::int64_t step) const {
    std::int64_t peak = 0, held = 0, count = 0;
    for (const Entry& e : entries_) {
      const std::int64_t to_come = e.last - step;
      held += e.whole - to_come;
      peak = std::max(peak, to_come * ++count + held);
    }
    return peak;
  }

 private:
  static bool longer(const Entry& a, const Entry& b) { return a.last > b.last; }
  std::vector<Entry> entries_;  // those that stay longest first
};

}  // namespace foretoken
