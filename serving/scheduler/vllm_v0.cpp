// vLLM V0's default scheduler (core/scheduler.py of 0.6 and 0.7): prompts first and whole, in steps of their
// own; decodes preempt the sequence that came last, to be computed again.
#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class VllmV0Scheduler final : public BlockScheduler {
 public:
  using BlockScheduler::BlockScheduler;

  std::optional<std::string> refuses(const Request& request) const override {
    return never_admitted(request, watermark_blocks());
  }

 private:
  void decide(Picoseconds now) override {
    std::int64_t budget = config_.max_num_batched_tokens;
    while (!waiting_.empty() && has_place()) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      if (n > budget || blocks_for(n) + watermark_blocks() > free_blocks() || !admit(now, n)) break;
      take_prompt(running_.back(), n);
      budget -= n;
    }
    if (!batch_.has_prefill()) decode_or_preempt(false);
  }
};

}  // namespace

std::unique_ptr<Scheduler> make_vllm_v0(const SchedulerParts& parts) {
  return std::make_unique<VllmV0Scheduler>(parts);
}

}  // namespace foretoken
