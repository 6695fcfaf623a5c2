// LightLLM's router (server/router/manager.py, req_queue.py before paused requests and chunks): memory token
// by token, new requests only every max_wait_tokens decode steps and where the peak that all would reach
// fits.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/expected_peak.h"
#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class LightllmScheduler final : public BlockScheduler {
 public:
  explicit LightllmScheduler(const SchedulerParts& parts) : BlockScheduler(parts) { count_blocks(parts); }

  std::optional<std::string> refuses(const Request& request) const override {
    if (request.input_len > config_.max_num_batched_tokens)
      return fmt::format("prompt of {} tokens is longer than batch_max_tokens {}; raise it",
                         request.input_len, config_.max_num_batched_tokens);
    const std::int64_t end = end_tokens(request);
    if (!config_.caches_tokens || end < capacity()) return std::nullopt;
    return fmt::format("request of {} tokens is not below the {} tokens that the KV cache holds", end,
                       capacity());
  }

 private:
  std::int64_t capacity() const { return pool_.usable() * config_.block_size; }

  void decide(Picoseconds now) override {
    const bool asks = running_.empty() || waited_ >= config_.lightllm.router_max_wait_tokens;
    blocked_for_ = config_.lightllm.router_max_wait_tokens - waited_ - 1;
    if (asks && start(now)) {
      waited_ = 0;
      return;
    }
    decode_or_preempt(false);
    ++decoded_steps_;
    ordered_ = ordered_ && !preempted_ && decoded_.size() == running_.size();
    if (!asks) ++waited_;
  }

  bool start(Picoseconds now) {
    const std::size_t before = running_.size();
    std::int64_t tokens = 0;
    blocked_for_ = kForever;
    if (!waiting_.empty() && has_place()) expect_running();
    while (!waiting_.empty() && has_place()) {
      const Sequence& s = sequences_[waiting_.front()];
      const ExpectedPeak::Entry next{decoded_steps_ + s.end_tokens - s.request.input_len - 1, s.end_tokens};
      expected_.add(next);
      const std::int64_t peak = expected_.peak(decoded_steps_);
      const bool fits = !config_.caches_tokens || peak < capacity();
      if (!fits) blocked_for_ = peak - capacity();
      if (!fits || tokens + s.request.input_len > config_.max_num_batched_tokens) {
        expected_.remove(next);
        break;
      }
      tokens += s.request.input_len;
      started_.push_back(next);
      if (!admit(now, left(s))) throw std::logic_error("LightLLM's expected peak is too low");
    }
    // The step of their prompts gives them their first token.
    for (const ExpectedPeak::Entry& e : started_) {
      expected_.remove(e);
      expected_.add({e.last - 1, e.whole - 1});
    }
    started_.clear();
    for (std::size_t i = before; i < running_.size(); ++i)
      take_prompt(running_[i], left(sequences_[running_[i]]));
    return running_.size() > before;
  }

  // Those that are running, less those that have ended since they were put into order.
  void expect_running() {
    expected_.expire(decoded_steps_);
    if (ordered_) return;
    ordered_ = true;
    expected_.clear();
    for (const std::int32_t slot : running_) {
      const Sequence& s = sequences_[slot];
      expected_.append({decoded_steps_ + s.end_tokens - s.num_tokens - 1, s.end_tokens - 1});
    }
    expected_.sort();
  }

  // While nobody ends, running sequences reach at any later time what they would have reached, and who waits
  // one token less a step: the expected peak falls by at most one a step, so who does not fit by k tokens
  // does not for k more steps.
  std::int64_t repeats() const override {
    if (waiting_.empty() || blocked_for_ == kForever) return kForever;
    return 1 + std::max<std::int64_t>(0, blocked_for_);
  }
  void repeated(std::int64_t steps) override {
    waited_ = std::min(waited_ + steps, config_.lightllm.router_max_wait_tokens);
    decoded_steps_ += steps;
  }

  std::int64_t waited_ = 0;       // decode steps since somebody started
  std::int64_t blocked_for_ = 0;  // further steps for which nobody who waits can start
  std::int64_t decoded_steps_ = 0;
  bool ordered_ = false;  // expected_ has those that are running, and maybe some that have ended
  ExpectedPeak expected_;
  std::vector<ExpectedPeak::Entry> started_;  // in this step
};

}  // namespace

std::unique_ptr<Scheduler> make_lightllm(const SchedulerParts& parts) {
  return std::make_unique<LightllmScheduler>(parts);
}

}  // namespace foretoken
