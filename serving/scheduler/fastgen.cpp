// DeepSpeed-FastGen's Dynamic SplitFuse (DeepSpeed-MII, batching/ragged_batching.py): generation first, then
// prompts, split or fused to fill max_ragged_batch_size tokens.
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
    generate();
    prompts(now);
    if (sequences_in_batch_ > 0 || running_.empty()) return;
    // Nothing can go on: all are computed again, in the order in which they are.
    for (std::size_t i = running_.size(); i > 0; --i) preempt(running_[i - 1]);
  }

  bool full() const { return budget_ <= 0 || sequences_in_batch_ >= config_.max_num_seqs; }

  // One token of whoever has but one to compute, the last one of a split prompt too. Who gets no block is
  // passed over and asked first next time.
  void generate() {
    std::size_t passed = 0;
    for (std::size_t i = 0; i < running_.size() && !full(); ++i) {
      const std::int32_t slot = running_[i];
      Sequence& s = sequences_[slot];
      if (left(s) != 1) continue;
      if (!grow(s, 1)) {
        std::rotate(running_.begin() + static_cast<std::ptrdiff_t>(passed),
                    running_.begin() + static_cast<std::ptrdiff_t>(i),
                    running_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        ++passed;
        continue;
      }
      if (s.decoding)
        take_decode(slot);
      else
        take_prompt(slot, 1);
      count(1);
    }
  }

  // In order, as long as what is left of a prompt has room in the cache as a whole.
  void prompts(Picoseconds now) {
    for (const std::int32_t slot : running_) {
      Sequence& s = sequences_[slot];
      if (left(s) <= 1) continue;
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
