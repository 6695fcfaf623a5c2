// DeepSpeed-FastGen's Dynamic SplitFuse (DeepSpeed-MII 0.3.3, batching/ragged_batching.py): generation first,
// then prompts, split or fused to fill max_ragged_batch_size tokens.
#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class FastgenScheduler final : public BlockScheduler {
 public:
  using BlockScheduler::BlockScheduler;

 private:
  void decide(Picoseconds now) override {
    sequences_in_batch_ = 0;
    budget_ = config_.max_num_batched_tokens;
    const bool full_memory = free_blocks() == 0;
    generate();
    if (!full_memory) prompts(now);
    if (sequences_in_batch_ > 0 || running_.empty()) return;
    // Nothing can go on: the last one that generates is computed again, from the end of the queue.
    const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                   [&](std::int32_t slot) { return sequences_[slot].decoding; });
    preempt(last != running_.rend() ? *last : running_.back());
    waiting_.push_back(waiting_.front());
    waiting_.pop_front();
  }

  bool full() const { return budget_ <= 0 || sequences_in_batch_ >= config_.max_num_seqs; }

  // Who gets no block is passed over and asked first next time.
  void generate() {
    std::size_t passed = 0;
    for (std::size_t i = 0; i < running_.size() && !full(); ++i) {
      const std::int32_t slot = running_[i];
      Sequence& s = sequences_[slot];
      if (!s.decoding) continue;
      if (!grow(s, 1)) {
        std::rotate(running_.begin() + static_cast<std::ptrdiff_t>(passed),
                    running_.begin() + static_cast<std::ptrdiff_t>(i),
                    running_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        ++passed;
        continue;
      }
      take_decode(slot);
      count(1);
    }
  }

  // In order, as long as what is left of a prompt has room in the cache as a whole.
  void prompts(Picoseconds now) {
    for (const std::int32_t slot : running_) {
      Sequence& s = sequences_[slot];
      if (s.decoding) continue;
      if (full() || blocks_for(s.num_tokens) - held(s) > free_blocks()) return;
      take(slot);
    }
    while (!waiting_.empty() && has_place() && !full()) {
      const Sequence& s = sequences_[waiting_.front()];
      if (blocks_for(s.num_tokens) > free_blocks() || !admit(now, 0)) return;
      take(running_.back());
    }
  }

  void take(std::int32_t slot) {
    const std::int64_t n = std::min(left(sequences_[slot]), budget_);
    grow(sequences_[slot], n);
    take_prompt(slot, n);
    count(n);
  }
  void count(std::int64_t tokens) {
    budget_ -= tokens;
    ++sequences_in_batch_;
  }
  static std::int64_t held(const Sequence& s) { return static_cast<std::int64_t>(s.blocks.size()); }

  std::int64_t budget_ = 0, sequences_in_batch_ = 0;
};

}  // namespace

std::unique_ptr<Scheduler> make_fastgen(const SchedulerParts& parts) {
  return std::make_unique<FastgenScheduler>(parts);
}

}  // namespace foretoken
