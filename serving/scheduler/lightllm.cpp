// LightLLM's router (server/router/manager.py, req_queue.py before paused requests and chunks): memory token
// by token, new requests only every max_wait_tokens decode steps and where the peak that all would reach
// fits.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class LightllmScheduler final : public BlockScheduler {
 public:
  using BlockScheduler::BlockScheduler;

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
  // A sequence if it runs as long as it may. While all decode neither number changes, nor does their order.
  struct Expected {
    std::int64_t last;   // decode step, of all that there have been, before that of its last token
    std::int64_t whole;  // tokens still to come before that one and in the cache
    bool operator==(const Expected&) const = default;
  };

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
      const Expected next{decoded_steps_ + s.end_tokens - s.request.input_len - 1, s.end_tokens};
      expect(next);
      const std::int64_t peak = expected_peak();
      const bool fits = !config_.caches_tokens || peak < capacity();
      if (!fits) blocked_for_ = peak - capacity();
      if (!fits || tokens + s.request.input_len > config_.max_num_batched_tokens) {
        forget(next);
        break;
      }
      tokens += s.request.input_len;
      started_.push_back(next);
      if (!admit(now, left(s))) throw std::logic_error("LightLLM's expected peak is too low");
    }
    // The step of their prompts gives them their first token.
    for (const Expected& e : started_) {
      forget(e);
      expect({e.last - 1, e.whole - 1});
    }
    started_.clear();
    for (std::size_t i = before; i < running_.size(); ++i)
      take_prompt(running_[i], left(sequences_[running_[i]]));
    return running_.size() > before;
  }

  static bool longer(const Expected& a, const Expected& b) { return a.last > b.last; }
  void expect(const Expected& e) {
    expected_.insert(std::upper_bound(expected_.begin(), expected_.end(), e, longer), e);
  }
  void forget(const Expected& e) {
    expected_.erase(
        std::find(std::lower_bound(expected_.begin(), expected_.end(), e, longer), expected_.end(), e));
  }
  // Those that are running, less those that have ended since they were put into order.
  void expect_running() {
    while (!expected_.empty() && expected_.back().last < decoded_steps_) expected_.pop_back();
    if (ordered_) return;
    ordered_ = true;
    expected_.clear();
    for (const std::int32_t slot : running_) {
      const Sequence& s = sequences_[slot];
      expected_.push_back({decoded_steps_ + s.end_tokens - s.num_tokens - 1, s.end_tokens - 1});
    }
    std::sort(expected_.begin(), expected_.end(), longer);
  }

  // The most tokens that the cache holds until all have ended, if each runs as long as it may.
  std::int64_t expected_peak() const {
    std::int64_t peak = 0, held = 0, count = 0;
    for (const Expected& e : expected_) {
      const std::int64_t to_come = e.last - decoded_steps_;
      held += e.whole - to_come;
      peak = std::max(peak, to_come * ++count + held);
    }
    return peak;
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
  bool ordered_ = false;            // expected_ has those that are running, and maybe some that have ended
  std::vector<Expected> expected_;  // those that stay longest first
  std::vector<Expected> started_;   // in this step
};

}  // namespace

std::unique_ptr<Scheduler> make_lightllm(const SchedulerParts& parts) {
  return std::make_unique<LightllmScheduler>(parts);
}

}  // namespace foretoken
