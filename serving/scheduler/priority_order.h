// vLLM's order of requests by priority, V0's and V1's: lower values first, among equals who came first.
#pragma once

#include <algorithm>
#include <tuple>

#include "serving/sequence.h"

namespace foretoken {

class PriorityOrder {
 public:
  explicit PriorityOrder(const SequenceTable& sequences) : sequences_(sequences) {}
  // Is a served before b?
  bool operator()(std::int32_t a, std::int32_t b) const { return key(a) < key(b); }
  // Puts a sequence into a queue that is in this order.
  template <class Queue>
  void insert(Queue& queue, std::int32_t slot) const {
    queue.insert(std::upper_bound(queue.begin(), queue.end(), slot, *this), slot);
  }

 private:
  std::tuple<std::int32_t, Picoseconds, RequestId> key(std::int32_t slot) const {
    const Sequence& s = sequences_[slot];
    return {s.request.priority, s.queued, s.request.id};
  }
  const SequenceTable& sequences_;
};

}  // namespace foretoken
