// Orca's iteration-level scheduling (Yu et al. 2022, algorithm 1): running requests and whole prompts in one
// batch, first come first served, with memory reserved to the end.
#include <fmt/format.h>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/reservation.h"

namespace foretoken {
namespace {

class OrcaScheduler final : public BlockScheduler {
 public:
  // A pipeline has as many batches in flight as stages, each of up to max_batch_size.
  explicit OrcaScheduler(const SchedulerParts& parts) : BlockScheduler(parts) {
    if (parts.config.pipeline_depth == 1) return;
    most_in_batch_ = parts.config.max_num_seqs;
    most_running_ *= parts.config.pipeline_depth;
  }

  std::optional<std::string> refuses(const Request& request) const override {
    const std::int64_t region = regions_.taken(blocks_for(reserved_tokens(config_, request)));
    if (!config_.buddy || !config_.caches_tokens || region <= pool_.usable()) return std::nullopt;
    return fmt::format("a buddy allocator gives the request {} KV blocks, the engine has {}", region,
                       pool_.usable());
  }

 private:
  void decide(Picoseconds now) override {
    decode_or_preempt(false);
    std::int64_t tokens = batch_.decodes();
    while (!waiting_.empty() && has_place()) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      if (tokens + n > config_.max_num_batched_tokens || !admit(now, n)) break;
      take_prompt(running_.back(), n);
      tokens += n;
    }
  }
};

}  // namespace

std::unique_ptr<Scheduler> make_orca(const SchedulerParts& parts) {
  return std::make_unique<OrcaScheduler>(parts);
}

}  // namespace foretoken
