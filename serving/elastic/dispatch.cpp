// Who starts: memory up to the end of all, the prefill's tipping point, and what preempting decodes costs
// (LoongServe's req_queue.py).
#include <algorithm>
#include <stdexcept>

#include "serving/elastic/pool.h"

namespace foretoken::elastic {
namespace {

// The most tokens that the requests hold at any time until all have ended, each running as long as it may.
class Peak {
 public:
  void add(const Item& item) { insert(entry(item)); }
  bool fits(const Item& item, std::int64_t room) const {
    const Entry own = entry(item);
    std::int64_t held = 0, count = 0;
    bool counted = false;
    const auto exceeds = [&](const Entry& e) {
      held += e.held;
      return e.left * ++count + held > room;
    };
    for (const Entry& e : entries_) {
      if (!counted && e.left < own.left) {
        counted = true;
        if (exceeds(own)) return false;
      }
      if (exceeds(e)) return false;
    }
    return counted || !exceeds(own);
  }
  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }

 private:
  struct Entry {
    std::int64_t left, held;  // tokens still to come and in the cache
  };
  static Entry entry(const Item& item) {
    // One that waits has its prompt and the token that comes of it.
    const bool waits = item.paused || item.output == 0;
    const std::int64_t out = item.output + (waits ? 1 : 0);
    return {std::max<std::int64_t>(0, item.most_output - out - 1), item.request.input_len + out};
  }
  void insert(const Entry& own) {
    const auto longer = [](const Entry& a, const Entry& b) { return a.left > b.left; };
    entries_.insert(std::upper_bound(entries_.begin(), entries_.end(), own, longer), own);
  }
  std::vector<Entry> entries_;  // those that stay longest first
};

}  // namespace

double Pool::predict(std::int64_t instances, double tokens, double squares) const {
  const auto& m = knobs_.prefill_model[static_cast<std::size_t>(instances - 1)];
  return m[0] + m[1] * tokens + m[2] * squares;
}

void Pool::start(const std::vector<std::int32_t>& slots) {
  for (const std::int32_t slot : slots) {
    Item& item = items_[static_cast<std::size_t>(slot)];
    paused_ -= item.paused ? 1 : 0;
    item.paused = false;
  }
}

std::vector<std::int32_t> Pool::dispatch(const std::vector<Group>& running) {
  std::vector<std::int32_t> chosen;
  // Without scaling up all may have been paused: then nobody keeps their places.
  const bool none_runs = knobs_.disable_scale_up && running.empty();
  const auto has_place = [&](const Item& item) { return item.paused && !none_runs; };
  std::int64_t exist = none_runs ? 0 : paused_;
  for (const Group& group : running) exist += static_cast<std::int64_t>(group.slots.size());
  if (queue_.empty() || exist >= config_.max_num_seqs) return chosen;
  if (knobs_.use_fixed_sp) return dispatch_fixed(running);

  Peak peak;
  double iterations = 10, decode_weight = 0;
  const double mean_output = static_cast<double>(ended_output_) / static_cast<double>(ended_);
  for (const Group& group : running)
    for (const std::int32_t slot : group.slots) {
      const Item& item = items_[static_cast<std::size_t>(slot)];
      peak.add(item);
      decode_weight += 1.0 / item.output;
      iterations = std::max({iterations, mean_output - item.output, 0.1 * item.output});
    }
  Peak with_undecided = peak;
  const double wait = iterations * knobs_.avg_decoding_time;

  const auto n = static_cast<std::int64_t>(used_.size());
  const std::int64_t all = n * capacity_, held = this->held();
  const std::int64_t most_idle = n - (held + capacity_ - 1) / capacity_;
  const std::int64_t isolated = capacity_ * most_idle;
  const std::int64_t free = knobs_.disable_scale_up ? std::ssize(idle_instances()) * capacity_ : all - held;
  const std::int64_t budget = std::min(config_.max_num_batched_tokens, all - held);
  const bool may_pass = out_of_order_ < knobs_.max_num_ooe;
  struct Sum {
    std::int64_t tokens = 0;
    double squares = 0;
  } sum, later;  // of those that start without, and perhaps with, preempting decodes
  double later_weight = 0;
  std::vector<std::int32_t> undecided;
  std::deque<std::int32_t> rest;
  std::size_t decided = 0;      // of the undecided
  std::size_t before_pass = 0;  // who had been chosen when the first one was passed over
  bool passes = false, full = false, takes_undecided = true;
  std::int64_t paused = none_runs ? 0 : paused_;
  const auto pass = [&] {
    if (!passes) before_pass = chosen.size();
    passes = true;
  };
  for (std::size_t i = 0; i < queue_.size(); ++i) {
    const std::int32_t slot = queue_[i];
    const Item& item = items_[static_cast<std::size_t>(slot)];
    const std::int64_t tokens = item.prompt(), with = sum.tokens + tokens;
    const double square = static_cast<double>(tokens) * static_cast<double>(tokens);
    const bool fits = with <= budget && with <= free &&
                      peak.size() + 1 + paused - (has_place(item) ? 1 : 0) <= config_.max_num_seqs &&
                      peak.fits(item, all);
    if (fits) {
      if ((undecided.empty() || may_pass) && with <= isolated) {
        const double squares = sum.squares + square, t = static_cast<double>(with);
        const double time = predict(most_idle, t, squares);
        const bool is_short = time <= knobs_.max_prefill_time;
        if (time - predict(n, t, squares) <= wait && (chosen.empty() || is_short)) {
          full = full || !is_short;
          if (!undecided.empty()) pass();
          chosen.push_back(slot);
          peak.add(item);
          with_undecided.add(item);
          sum = {with, squares};
          paused -= has_place(item) ? 1 : 0;
          continue;
        }
      }
      if (takes_undecided && with + later.tokens <= budget && with_undecided.fits(item, all)) {
        undecided.push_back(slot);
        with_undecided.add(item);
        later = {later.tokens + tokens, later.squares + square};
        later_weight += 1.0 / static_cast<double>(tokens);
        const double time =
            predict(n, static_cast<double>(later.tokens + sum.tokens), later.squares + sum.squares);
        const bool is_short = time <= knobs_.max_prefill_time;
        if (time * decode_weight <= wait * later_weight &&
            (chosen.size() + undecided.size() == 1 || is_short)) {
          full = full || !is_short;
          decided = undecided.size();
        }
        continue;
      }
      takes_undecided = false;
    }
    if (!may_pass || full) {
      rest.insert(rest.end(), queue_.begin() + static_cast<std::ptrdiff_t>(i), queue_.end());
      break;
    }
    pass();
    rest.push_back(slot);
  }
  // Those that were chosen after them may have taken their room or place.
  for (const std::int32_t slot : chosen) exist += has_place(items_[static_cast<std::size_t>(slot)]) ? 0 : 1;
  for (std::size_t i = 0; i < decided; ++i) {
    const Item& item = items_[static_cast<std::size_t>(undecided[i])];
    sum.tokens += item.prompt();
    exist += has_place(item) ? 0 : 1;
    if (sum.tokens > budget || exist > config_.max_num_seqs) decided = i;
  }
  chosen.insert(chosen.end(), undecided.begin(), undecided.begin() + static_cast<std::ptrdiff_t>(decided));
  if (chosen.empty()) return chosen;
  out_of_order_ = passes && before_pass < chosen.size() ? out_of_order_ + 1 : 0;
  rest.insert(rest.begin(), undecided.begin() + static_cast<std::ptrdiff_t>(decided), undecided.end());
  queue_ = std::move(rest);
  start(chosen);
  return chosen;
}

std::vector<std::int32_t> Pool::dispatch_idle(std::size_t instances, std::int64_t running, double left_ms) {
  Peak peak;
  std::vector<std::int32_t> chosen;
  std::deque<std::int32_t> rest;
  const auto k = static_cast<std::int64_t>(instances);
  std::int64_t tokens = 0, paused = paused_;
  double squares = 0;
  for (const std::int32_t slot : queue_) {
    const Item& item = items_[static_cast<std::size_t>(slot)];
    const std::int64_t with = tokens + item.prompt();
    const double square = static_cast<double>(item.prompt()) * static_cast<double>(item.prompt());
    if (with <= config_.max_num_batched_tokens &&
        predict(k, static_cast<double>(with), squares + square) <= left_ms &&
        running + peak.size() + 1 + paused - (item.paused ? 1 : 0) <= config_.max_num_seqs &&
        peak.fits(item, capacity_ * k)) {
      chosen.push_back(slot);
      peak.add(item);
      tokens = with;
      squares += square;
      paused -= item.paused ? 1 : 0;
    } else {
      rest.push_back(slot);
    }
  }
  queue_ = std::move(rest);
  start(chosen);
  return chosen;
}

std::vector<std::int32_t> Pool::dispatch_fixed(const std::vector<Group>& running) {
  Peak peak;
  for (const Group& group : running)
    for (const std::int32_t slot : group.slots) peak.add(items_[static_cast<std::size_t>(slot)]);
  std::vector<std::int32_t> chosen;
  const auto n = static_cast<std::int64_t>(used_.size());
  std::vector<std::int64_t> used = used_;
  std::int64_t tokens = 0, paused = paused_;
  while (!queue_.empty()) {
    const Item& item = items_[static_cast<std::size_t>(queue_.front())];
    tokens += item.prompt();
    bool fits = tokens <= config_.max_num_batched_tokens &&
                peak.size() + 1 + paused - (item.paused ? 1 : 0) <= config_.max_num_seqs &&
                peak.fits(item, n * capacity_);
    for (std::int64_t r = 0; r < n; ++r)
      fits = (used[static_cast<std::size_t>(r)] += (item.prompt() - r + n - 1) / n) <= capacity_ && fits;
    if (!fits) break;
    peak.add(item);
    paused -= item.paused ? 1 : 0;
    chosen.push_back(queue_.front());
    queue_.pop_front();
  }
  start(chosen);
  return chosen;
}

}  // namespace foretoken::elastic
