// Text Generation Inference's router (router/src/infer/v3: queue.rs, scheduler.rs): prompts in steps of their
// own, joined to the running batch when enough of them wait or have waited long enough, with blocks for all
// that they may generate.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class TgiScheduler final : public BlockScheduler {
 public:
  explicit TgiScheduler(const SchedulerParts& parts) : BlockScheduler(parts) { grows_ = false; }

  std::optional<std::string> refuses(const Request& request) const override {
    if (request.input_len > prefill_budget())
      return fmt::format("prompt of {} tokens is longer than max_batch_prefill_tokens {}; raise it",
                         request.input_len, config_.max_num_batched_tokens);
    const std::int64_t end = end_tokens(request);
    if (end <= total_tokens()) return std::nullopt;
    return fmt::format("request of {} tokens is above max_batch_total_tokens {}", end, total_tokens());
  }

 private:
  std::int64_t prefill_budget() const {
    return (config_.max_num_batched_tokens + config_.block_size - 1) / config_.block_size *
           config_.block_size;
  }
  // What the cache holds, unless less is asked for.
  std::int64_t total_tokens() const {
    if (!config_.caches_tokens) return kForever;
    const std::int64_t cache = pool_.usable() * config_.block_size;
    const std::int64_t asked = config_.tgi.max_batch_total_tokens;
    return asked > 0 ? std::min(asked, cache) : cache;
  }

  void decide(Picoseconds now) override {
    const bool fresh = running_.empty();
    asked_ = fresh || !decode_next_;
    settled_ = decode_next_ = false;
    if (asked_) {
      const bool patient = !fresh && waiting_tokens_ < config_.tgi.max_waiting_tokens;
      const float ratio = static_cast<float>(config_.tgi.waiting_served_ratio);
      const auto at_least = patient ? static_cast<std::int64_t>(static_cast<float>(running()) * ratio) : 0;
      if (join(now, at_least)) {
        waiting_tokens_ = 1;
        decode_next_ = !fresh;  // a batch that prompts have joined decodes before others may
        return;
      }
      settled_ = !patient;
    }
    decode_or_preempt(false);
    ++waiting_tokens_;
  }

  // The head of the queue, if that many of it fit; else nobody.
  bool join(Picoseconds now, std::int64_t at_least) {
    std::int64_t most = 0, prompt = 0, output = 0, blocks = 0, held = 0;
    for (const std::int32_t slot : running_)
      held += static_cast<std::int64_t>(sequences_[slot].blocks.size());
    const std::int64_t tokens = total_tokens() - held * config_.block_size;
    for (const std::int32_t slot : waiting_) {
      const Sequence& s = sequences_[slot];
      prompt += s.request.input_len;
      output += s.end_tokens - s.request.input_len;
      blocks += blocks_for(s.end_tokens - 1);
      if (running() + most >= config_.max_num_seqs || prompt > prefill_budget() || prompt + output > tokens ||
          blocks > free_blocks())
        break;
      ++most;
    }
    if (most == 0 || most < at_least) return false;
    for (; most > 0; --most) {
      admit(now, sequences_[waiting_.front()].end_tokens - 1);
      take_prompt(running_.back(), left(sequences_[running_.back()]));
    }
    return true;
  }

  // Who waits is asked again when the batch has decoded max_waiting_tokens tokens. After that nothing changes
  // until somebody ends.
  std::int64_t repeats() const override {
    if (waiting_.empty() || settled_) return kForever;
    if (!asked_) return 1;
    return std::max<std::int64_t>(1, config_.tgi.max_waiting_tokens - waiting_tokens_ + 1);
  }
  void repeated(std::int64_t steps) override { waiting_tokens_ += steps; }
  bool could_pass() const override { return !settled_; }  // enough may wait then

  std::int64_t waiting_tokens_ = 0;  // that the batch has got since it was last joined
  bool decode_next_ = false, asked_ = false;
  bool settled_ = false;  // who waits doesn't fit, however long it waits
};

}  // namespace

std::unique_ptr<Scheduler> make_tgi(const SchedulerParts& parts) {
  return std::make_unique<TgiScheduler>(parts);
}

}  // namespace foretoken
