// vLLM V0's default scheduler (core/scheduler.py of 0.6 and 0.7): prompts first and whole, in steps of their
// own; decodes preempt the sequence that came last, to be computed again. By priority, who waits may also
// preempt who runs (_schedule_priority_preemption).
#include <algorithm>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/priority_order.h"

namespace foretoken {
namespace {

class VllmV0Scheduler final : public BlockScheduler {
 public:
  explicit VllmV0Scheduler(const SchedulerParts& parts) : BlockScheduler(parts), before_(parts.sequences) {}

  std::optional<std::string> refuses(const Request& request) const override {
    return never_admitted(request, watermark_blocks());
  }

 private:
  void decide(Picoseconds now) override {
    reordered_ = false;
    std::int64_t budget = config_.max_num_batched_tokens;
    while (!waiting_.empty() && fits(sequences_[waiting_.front()], budget)) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      if (!admit(now, n)) break;
      take_prompt(running_.back(), n);
      budget -= n;
    }
    if (batch_.has_prefill()) return;
    if (config_.by_priority) make_way();
    decode_or_preempt(false);
  }

  bool fits(const Sequence& s, std::int64_t budget) const {
    return has_place() && left(s) <= budget && blocks_for(left(s)) + watermark_blocks() <= free_blocks();
  }

  // The head of the queue, as it came, takes what it needs from those that run and come after it by priority;
  // then both lists are put in order.
  void make_way() {
    std::sort(running_.begin(), running_.end(), before_);
    if (!waiting_.empty()) {
      const std::int32_t head = waiting_.front();
      while (!running_.empty() && before_(head, running_.back()) &&
             !fits(sequences_[head], config_.max_num_batched_tokens))
        preempt(running_.back());
    }
    reordered_ = !std::is_sorted(waiting_.begin(), waiting_.end(), before_);
    if (reordered_) std::sort(waiting_.begin(), waiting_.end(), before_);
  }

  // With another head the next decision may admit.
  std::int64_t repeats() const override { return reordered_ ? 1 : kForever; }
  bool open() const override { return has_place() || config_.by_priority; }
  bool could_pass() const override { return config_.by_priority; }

  const PriorityOrder before_;
  bool reordered_ = false;
};

}  // namespace

std::unique_ptr<Scheduler> make_vllm_v0(const SchedulerParts& parts) {
  return std::make_unique<VllmV0Scheduler>(parts);
}

}  // namespace foretoken
