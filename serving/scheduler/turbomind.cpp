// LMDeploy's TurboMind engine (src/turbomind/models/llama/LlamaBatch.cc, SequenceManager.cc): a persistent
// batch whose members are served in order of arrival. Prompts and decodes share the tokens of a step; who
// finds no block takes those of the members that came last, which keep their places and what is left of their
// cache.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class TurbomindScheduler final : public BlockScheduler {
 public:
  explicit TurbomindScheduler(const SchedulerParts& parts)
      : BlockScheduler(parts), minimum_(static_cast<std::size_t>(parts.config.lmdeploy.max_prefill_iters)) {
    ahead_ = 1;
  }

  std::optional<std::string> refuses(const Request& request) const override {
    const std::int64_t need = blocks_for(end_tokens(request));
    if (need <= pool_.usable()) return std::nullopt;
    return fmt::format("request of {} tokens needs {} KV blocks, the engine has {}", end_tokens(request),
                       need, pool_.usable());
  }

 private:
  void decide(Picoseconds now) override {
    join();
    if (running_.empty()) return;
    if (caching())
      for (const std::int32_t slot : running_) match(sequences_[slot]);
    budget_ = budget();
    victims_.clear();
    gains_.clear();
    counted_ = false;
    reopened_.clear();
    opened_ = 0;
    evictable_ = 0;
    was_active_.swap(active_);
    active_.assign(was_active_.size(), false);
    out_of_tokens_ = false;
    last_ = running_.size();
    for (std::size_t i = 0; i < last_; ++i) serve(i, now);
    for (const std::int32_t slot : reopened_) find_again(sequences_[slot]);
    for (const std::int32_t slot : running_) {
      if (active_[static_cast<std::size_t>(slot)] || !was_active_[static_cast<std::size_t>(slot)]) continue;
      ++sequences_[slot].preemptions;
      preempted_ = true;
    }
  }

  void join() {
    while (!waiting_.empty() && has_place()) {
      const std::int32_t slot = waiting_.front();
      waiting_.pop_front();
      running_.push_back(slot);
      sequences_[slot].state = Sequence::State::kRunning;
      const auto place = static_cast<std::size_t>(slot);
      if (place >= active_.size()) active_.resize(place + 1);
      active_[place] = false;
    }
  }

  // A member that has nothing in the cache takes what of its prompt is there, all but the last token, and
  // holds it whether it has a turn in this step or not.
  void match(Sequence& s) {
    if (s.computed > 0 || !s.blocks.empty() || s.num_tokens > s.request.input_len + 1) return;
    const std::int64_t most = (s.request.input_len - 1) / config_.block_size;
    const std::int64_t found = take_cached(s, std::min<std::int64_t>(most, s.shared_blocks));
    if (found > 0) reuse(s, found * config_.block_size);
  }

  // Enough for all prompts in max_prefill_iters steps, never less than those of the last steps asked for.
  std::int64_t budget() {
    std::int64_t prompts = 0;
    for (const std::int32_t slot : running_) prompts += left(sequences_[slot]) - 1;
    const std::int64_t iterations = config_.lmdeploy.max_prefill_iters;
    minimum_.pop_front();
    minimum_.push_back((prompts + iterations - 1) / iterations);
    for (std::int64_t& m : minimum_) m = std::max(m, minimum_.back());
    return std::min(std::max(minimum_.front() + running(), config_.lmdeploy.num_tokens_per_iter),
                    config_.max_num_batched_tokens);
  }

  // Blocks for all of the member's tokens and one more, even if only a part of them is computed now.
  void serve(std::size_t i, Picoseconds now) {
    const std::int32_t slot = running_[i];
    Sequence& s = sequences_[slot];
    if (budget_ <= 0) {
      out_of_tokens_ = true;
      return;
    }
    if (!find_blocks(s, i)) return;
    if (s.cached_tokens < 0) start(s, now);
    active_[static_cast<std::size_t>(slot)] = true;
    const std::int64_t n = std::min(left(s), budget_);
    budget_ -= n;
    if (s.decoding)
      take_decode(slot);
    else
      take_prompt(slot, n);
  }

  bool find_blocks(Sequence& s, std::size_t i) {
    const std::int64_t need = std::max<std::int64_t>(
        0, blocks_for(s.num_tokens + ahead_) - static_cast<std::int64_t>(s.blocks.size()));
    const std::int64_t missing = need - free_blocks();
    const std::size_t before = victims_.size();
    std::int64_t gained = 0;
    for (std::size_t last = last_; missing > evictable_ + gained && last > i + 1;) {
      victims_.push_back(running_[--last]);
      gains_.push_back(gain(sequences_[victims_.back()]));
      gained += gains_.back();
    }
    if (missing > evictable_ + gained) {
      for (; victims_.size() > before; victims_.pop_back(), gains_.pop_back())
        count_uses(sequences_[victims_.back()], 1);
      return false;
    }
    last_ -= victims_.size() - before;
    evictable_ += gained;
    if (missing > 0) evict(missing);
    if (need > 0) {
      pool_.allocate(need, s.blocks);
      s.capacity += static_cast<std::int32_t>(need * config_.block_size);
    }
    return true;
  }

  // Blocks that are free when the sequence, too, gives up what it has. How many hold a block is counted when
  // it is first asked in a step.
  std::int64_t gain(const Sequence& s) {
    if (!caching()) return static_cast<std::int64_t>(s.blocks.size());
    if (!counted_) {
      counted_ = true;
      uses_.assign(static_cast<std::size_t>(pool_.usable() + 1), 0);
      for (const std::int32_t slot : running_) count_uses(sequences_[slot], 1);
    }
    const std::int64_t shared = count_uses(s, -1);
    return static_cast<std::int64_t>(s.blocks.size()) - shared;
  }
  // Of what it has in the prefix cache; returns how many blocks are in use.
  std::int64_t count_uses(const Sequence& s, int by) {
    if (!caching()) return 0;
    std::int64_t used = 0;
    for (const KvBlockPool::Block block :
         std::span(s.blocks).first(static_cast<std::size_t>(s.entered_blocks))) {
      std::int32_t& uses = uses_[static_cast<std::size_t>(block)];
      uses += by;
      used += uses > 0 ? 1 : 0;
    }
    return used;
  }

  // The least recently used first: of who came last the tail.
  void evict(std::int64_t count) {
    evictable_ -= count;
    if (caching()) return evict_cached(count);
    for (const std::int32_t slot : victims_) {
      Sequence& s = sequences_[slot];
      for (; count > 0 && !s.blocks.empty(); --count) {
        pool_.release(std::span(s.blocks).last(1), 0);
        s.blocks.pop_back();
        s.capacity -= config_.block_size;
      }
      if (s.computed > s.capacity) {
        counts_.discarded += s.computed - s.capacity;
        s.computed = s.capacity;
        s.decoding = false;
      }
      if (count == 0) return;
    }
  }

  // All that victims have joins the blocks that were given up before, in that order, as far as it is needed;
  // what of it is left when the step has been decided is theirs again.
  void evict_cached(std::int64_t count) {
    evictable_ += count;
    for (; count > 0 && opened_ < victims_.size(); ++opened_) {
      Sequence& s = sequences_[victims_[opened_]];
      enter_blocks(s, std::numeric_limits<std::int32_t>::max());
      release(s);
      count -= gains_[opened_];
      evictable_ -= gains_[opened_];
      reopened_.push_back(victims_[opened_]);
    }
  }
  void find_again(Sequence& s) {
    const std::int64_t found = std::min<std::int64_t>(
        take_cached(s, s.computed / config_.block_size) * config_.block_size, s.computed);
    counts_.discarded += s.computed - found;
    if (found < s.computed) s.decoding = false;
    s.computed = static_cast<std::int32_t>(found);
  }

  // What was not filled, too, stays where it is until it is the least recently used.
  void leave(Sequence& s) override {
    if (!caching()) return release(s);
    pool_.release(s.blocks, s.entered_blocks);
    s.blocks.clear();
    s.capacity = s.entered_blocks = 0;
  }

  // Who finds no blocks finds none before somebody ends: those that are free or held by later members become
  // no more. Who lost its turn may have it again in the next step.
  std::int64_t repeats() const override { return victims_.empty() && !out_of_tokens_ ? kForever : 1; }
  // Each of the steps asks for as much as the last one.
  void repeated(std::int64_t steps) override {
    for (; steps > 0 && minimum_.front() > minimum_.back(); --steps) {
      minimum_.pop_front();
      minimum_.push_back(minimum_.back());
    }
  }

  std::deque<std::int64_t> minimum_;       // of the last max_prefill_iters steps, the oldest first
  std::vector<bool> active_, was_active_;  // by slot: in this step, in the one before
  std::vector<std::int32_t> victims_;      // of this step, in the order in which their blocks go
  std::vector<std::int64_t> gains_;        // blocks of each that nobody holds without it and those before it
  std::vector<std::int32_t> uses_;         // by block: members that hold it
  bool counted_ = false;                   // uses_ in this step
  std::vector<std::int32_t> reopened_;     // of these who gave all up, to have again what is not taken
  std::size_t opened_ = 0;                 // how many of the victims those are
  std::int64_t budget_ = 0, evictable_ = 0;  // tokens left in the step; blocks of the victims
  std::size_t last_ = 0;                     // members from here on are left out
  bool out_of_tokens_ = false;               // before all members had their turn
};

}  // namespace

std::unique_ptr<Scheduler> make_turbomind(const SchedulerParts& parts) {
  return std::make_unique<TurbomindScheduler>(parts);
}

}  // namespace foretoken
