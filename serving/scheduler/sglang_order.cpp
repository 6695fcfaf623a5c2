// SGLang's orders of waiting requests (schedule_policy.py), and who gives way to them by priority
// (PrefillAdder.preempt_to_schedule).
#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "base/random.h"
#include "serving/scheduler/sglang.h"

namespace foretoken {
namespace {

using Order = SglangConfig::Order;

constexpr std::size_t kMostMatched = 128;             // above, lpm and hrrn fall back to fcfs
constexpr std::int64_t kInBatchPrefixThreshold = 32;  // IN_BATCH_PREFIX_CACHING_*_THRESHOLD
constexpr std::uint64_t kShuffleStream = 0x73686c66;  // "shlf"

// Depth first through the nodes in which the cached prefixes of waiting requests end: of a node's children
// those with the most requests below them come first, and a node's own requests after those below it. Among
// equals, whose first request came earlier (SGLang: the child that was entered earlier).
class DepthFirst {
 public:
  DepthFirst(const RadixCache& tree, const std::deque<std::int32_t>& waiting,
             const std::vector<RadixCache::Match>& matches) {
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      RadixCache::Node node = matches[i].node;
      places_[node].requests.push_back(waiting[i]);
      while (true) {
        Place& place = places_[node];
        if (place.weight++ == 0) place.first = i;
        if (node == RadixCache::kRoot) break;
        const RadixCache::Node parent = tree.parent(node);
        if (place.weight == 1) places_[parent].children.push_back(node);
        node = parent;
      }
    }
  }

  void list(RadixCache::Node node, std::vector<std::int32_t>& to) {
    Place& place = places_[node];
    std::sort(place.children.begin(), place.children.end(), [this](RadixCache::Node a, RadixCache::Node b) {
      const Place &x = places_[a], &y = places_[b];
      return x.weight != y.weight ? x.weight > y.weight : x.first < y.first;
    });
    for (const RadixCache::Node child : place.children) list(child, to);
    to.insert(to.end(), place.requests.begin(), place.requests.end());
  }

 private:
  struct Place {
    std::int64_t weight = 0;  // requests here and below
    std::size_t first = 0;    // of these, in the queue
    std::vector<std::int32_t> requests;
    std::vector<RadixCache::Node> children;
  };
  std::map<RadixCache::Node, Place> places_;
};

}  // namespace

// Cached prefixes of all who wait. later_[i]: its prefix is not cached yet, and one before it has the same,
// so that it finds it when it goes last.
void SglangScheduler::match_waiting() {
  waiting_tree_.clear();
  matches_.clear();
  later_.clear();
  for (const std::int32_t slot : waiting_) {
    const Sequence& s = sequences_[slot];
    token_key(s.request, workload_.content(s.request), s.num_tokens - 1, key_);
    matches_.push_back(tree_.match(key_, s.num_tokens - 1));
    bool later = false;
    if (matches_.back().tokens <= kInBatchPrefixThreshold) {
      later = waiting_tree_.match(key_, s.num_tokens - 1).tokens >= kInBatchPrefixThreshold;
      if (!later) waiting_tree_.insert(key_, s.num_tokens - 1);
    }
    later_.push_back(later);
  }
}

// Stable: key(i, slot) of the i-th who waits.
template <class Key>
void SglangScheduler::sort_waiting(Key key) {
  std::vector<std::pair<decltype(key(std::size_t{}, std::int32_t{})), std::int32_t>> order;
  order.reserve(waiting_.size());
  for (std::size_t i = 0; i < waiting_.size(); ++i) order.emplace_back(key(i, waiting_[i]), waiting_[i]);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (std::size_t i = 0; i < order.size(); ++i) waiting_[i] = order[i].second;
}

void SglangScheduler::order_waiting() {
  Order order = config_.sglang.schedule_policy;
  const bool matches = order == Order::kLpm || order == Order::kDfsWeight || order == Order::kHrrn ||
                       order == Order::kShortestPrefillFirst;
  if (matches && !caching()) return;
  if ((order == Order::kLpm || order == Order::kHrrn) && waiting_.size() > kMostMatched) return;
  if (matches) match_waiting();
  const auto allowed = [&](std::int32_t slot) {
    return std::int64_t{sequences_[slot].end_tokens} - sequences_[slot].request.input_len;
  };
  switch (order) {
    case Order::kFcfs:  // who has waited for longest stands first in any case
      if (by_priority()) sort_waiting([&](std::size_t, std::int32_t slot) { return rank(slot); });
      break;
    case Order::kLof:
      sort_waiting([&](std::size_t, std::int32_t slot) {
        return std::pair(by_priority() ? rank(slot) : 0, -allowed(slot));
      });
      break;
    case Order::kRandom: {
      CounterRandom random(config_.sglang.seed, kShuffleStream, shuffles_++);
      for (std::size_t i = waiting_.size(); i > 1; --i)
        std::swap(
            waiting_[i - 1],
            waiting_[static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(i) - 1))]);
      break;
    }
    case Order::kLpm:
      sort_waiting(
          [&](std::size_t i, std::int32_t) { return later_[i] ? std::int64_t{1} : -matches_[i].tokens; });
      break;
    case Order::kDfsWeight: {
      std::vector<std::int32_t> listed;
      DepthFirst(tree_, waiting_, matches_).list(RadixCache::kRoot, listed);
      waiting_.assign(listed.begin(), listed.end());
      break;
    }
    case Order::kHrrn:
      sort_waiting([&](std::size_t i, std::int32_t slot) {
        const Request& r = sequences_[slot].request;
        const std::int64_t uncached = r.input_len - matches_[i].tokens;
        double ratio = std::numeric_limits<double>::infinity();
        if (later_[i])
          ratio = -ratio;
        else if (uncached > 0)
          ratio =
              static_cast<double>(prefilled_ - held(slot).prefilled_at_entry) / static_cast<double>(uncached);
        return std::pair(-ratio, r.id);
      });
      break;
    case Order::kShortestPrefillFirst:
      sort_waiting([&](std::size_t i, std::int32_t slot) {
        return std::tuple(later_[i] != 0, work(slot, matches_[i].tokens), held(slot).entry);
      });
      break;
  }
}

// Tokens that one who waits has to compute.
std::int64_t SglangScheduler::work(std::int32_t slot, std::int64_t cached) const {
  return std::max<std::int64_t>(1, sequences_[slot].num_tokens - cached);
}

// Without that counting as a use of what is cached.
std::int64_t SglangScheduler::cached_now(std::int32_t slot) {
  if (!caching()) return 0;
  const Sequence& s = sequences_[slot];
  token_key(s.request, workload_.content(s.request), s.num_tokens - 1, key_);
  return tree_.matching(key_, s.num_tokens - 1);
}

// shortest-prefill-first: of a chunk of so many tokens, what the prompt in chunks may take, so that shorter
// ones that wait have room beside it.
std::int64_t SglangScheduler::chunk_beside_shorter(std::int64_t budget) {
  if (config_.sglang.schedule_policy != Order::kShortestPrefillFirst || budget < 2 * page_) return budget;
  const Sequence& s = sequences_[chunked_];
  const std::int64_t left = s.num_tokens - s.computed;
  std::int64_t reserved = 0;
  for (const std::int32_t slot : waiting_) {
    const std::int64_t tokens = work(slot, cached_now(slot));
    if (tokens >= left || reserved + pages(tokens) > budget - page_) break;
    reserved += pages(tokens);
  }
  return reserved == 0 ? budget : (budget - reserved) / page_ * page_;
}

// Of the running requests whose priority is worse by more than the threshold, the worst first and among
// equals those that joined the queue last, until their expected tokens are enough. They join the queue again
// when the batch is formed.
bool SglangScheduler::preempt_for(std::int32_t slot) {
  const Sequence& s = sequences_[slot];
  std::vector<std::int32_t> worst = running_;
  std::sort(worst.begin(), worst.end(), [&](std::int32_t a, std::int32_t b) {
    return std::pair(rank(a), held(a).entry) > std::pair(rank(b), held(b).entry);
  });
  double lacking =
      static_cast<double>(s.num_tokens - cached_now(slot) + expected(s.end_tokens - s.num_tokens)) -
      rem_total();
  std::size_t count = 0;
  while (count < worst.size() &&
         rank(worst[count]) - rank(slot) > config_.sglang.priority_scheduling_preemption_threshold) {
    lacking -= still_to_come(worst[count++]);
    if (lacking <= 0) break;
  }
  outranks_nobody_ = count == 0;
  if (count == 0 || lacking > 0) return false;
  for (std::size_t i = 0; i < count; ++i) {
    total_offset_ -= still_to_come(worst[i]);
    running_.erase(std::find(running_.begin(), running_.end(), worst[i]));
    give_up_memory(worst[i]);
    preempted_.push_back(worst[i]);
  }
  retracted_ = true;
  return true;
}

}  // namespace foretoken
