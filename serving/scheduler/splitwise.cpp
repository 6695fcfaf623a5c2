// Splitwise's machine-level scheduler (Patel et al., ISCA 2024, section 4.2; splitwise-sim's
// SplitwiseInstance): whole prompts first, then those that decode, within a budget of tokens; who was passed
// over too often goes before the prompts.
#include <limits>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class SplitwiseScheduler final : public BlockScheduler {
 public:
  using BlockScheduler::BlockScheduler;

 private:
  std::int64_t spare() const { return config_.max_num_batched_tokens - tokens_; }
  bool full() const { return batch_.sequences() >= config_.max_num_seqs; }

  void decide(Picoseconds now) override {
    tokens_ = 0;
    const std::int64_t most = config_.splitwise.max_preemptions;
    decode([&](const Sequence& s) { return s.passed_over >= most; });
    // A prompt that is longer than the budget goes alone.
    while (!waiting_.empty() && has_place() && !full()) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      if ((n > spare() && !batch_.empty()) || !admit(now, n)) break;
      take_prompt(running_.back(), n);
      tokens_ += n;
    }
    decode([&](const Sequence& s) { return s.passed_over > 0 && s.passed_over < most; });
    decode([&](const Sequence& s) { return s.passed_over == 0; });
    changes_ = false;
    for (const std::int32_t slot : running_) {
      Sequence& s = sequences_[slot];
      if (!s.decoding) continue;
      changes_ = changes_ || s.passed_over > 0 || !s.token_in_flight;
      if (s.token_in_flight)
        s.passed_over = 0;
      else if (s.passed_over < std::numeric_limits<std::uint8_t>::max())
        ++s.passed_over;
    }
  }

  // Those of one kind, in order of admission, as far as the batch has room. A block that is missing is that
  // of the one that was admitted last and is not in the batch yet.
  template <class Kind>
  void decode(Kind&& kind) {
    for (std::size_t i = 0; i < running_.size() && spare() > 0 && !full(); ++i) {
      const std::int32_t slot = running_[i];
      Sequence& s = sequences_[slot];
      if (!s.decoding || s.token_in_flight || !kind(s)) continue;
      bool grown = false;
      while (!(grown = grow(s, 1))) {
        const std::int32_t victim =
            *std::find_if(running_.rbegin(), running_.rend(), [&](std::int32_t other) {
              return sequences_[other].decoding && !sequences_[other].token_in_flight;
            });
        const auto at = std::find(running_.begin(), running_.end(), victim) - running_.begin();
        preempt(victim);
        if (static_cast<std::size_t>(at) <= i) --i;
        if (victim == slot) break;
      }
      if (!grown) continue;
      take_decode(slot);
      ++tokens_;
    }
  }

  // Whoever is passed over, or no longer is, has another place in the next decision.
  std::int64_t repeats() const override { return changes_ ? 1 : kForever; }

  std::int64_t tokens_ = 0;  // of the batch that is being decided
  bool changes_ = false;     // the next one is another one
};

}  // namespace

std::unique_ptr<Scheduler> make_splitwise(const SchedulerParts& parts) {
  return std::make_unique<SplitwiseScheduler>(parts);
}

}  // namespace foretoken
