// LightLLM from 1.0 on (server/router: manager.py, req_queue/chunked_prefill,
// model_infer/mode_backend/chunked_prefill, dynamic_prompt/radix_cache.py): decodes, and every
// max_wait_tokens of them a step of the next chunks of all prompts; new requests as often, where the peak
// that all would reach fits; a radix tree of all that was computed.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/expected_peak.h"
#include "serving/scheduler/policies.h"
#include "serving/scheduler/radix_scheduler.h"

namespace foretoken {
namespace {

constexpr std::int64_t kAddedOutput = 6;  // ADDED_OUTPUT_LEN

class LightllmChunkedScheduler final : public RadixScheduler {
 public:
  explicit LightllmChunkedScheduler(const SchedulerParts& parts)
      : RadixScheduler(parts, true, false),
        chunk_(parts.config.lightllm.chunked_prefill_size),
        interval_(parts.config.lightllm.router_max_wait_tokens) {}

  void enqueue(std::int32_t slot) override {
    const auto place = static_cast<std::size_t>(slot);
    if (place >= is_placed_.size()) is_placed_.resize(place + 1);
    RadixScheduler::enqueue(slot);
  }

  std::optional<std::string> refuses(const Request& request) const override {
    const std::int64_t peak = expected(request.input_len, request.input_len, end_tokens(request)).whole;
    if (!config_.caches_tokens || peak < capacity()) return std::nullopt;
    return fmt::format(
        "request of {} tokens is expected to take {}, not below the {} that the KV cache holds",
        end_tokens(request), peak, capacity());
  }

 private:
  std::int64_t capacity() const { return pool_.usable() * config_.block_size; }

  // Of so many tokens, `left` of them not computed, with room for decodes that chunks have to wait for.
  ExpectedPeak::Entry expected(std::int64_t tokens, std::int64_t left, std::int64_t end) const {
    const std::int64_t to_come =
        (left + chunk_ - 1) / chunk_ * (interval_ + 1) + end - tokens - 1 + kAddedOutput;
    return {decoded_steps_ + to_come, tokens + 1 + to_come};
  }
  ExpectedPeak::Entry expected(const Sequence& s) const {
    return expected(s.num_tokens, left(s), s.end_tokens);
  }

  void decide(Picoseconds now) override {
    first_tokens_ = false;
    if (prompts_next_) {
      prompts_next_ = false;
      return run_prompts();
    }
    if (running_.empty() || waited_ >= interval_) {
      waited_ = 0;
      look(now);
    }
    if (running_.empty()) return;
    ++waited_;
    const bool in_turn = forward_++ % interval_ == 0;
    const std::int64_t decodes = running() - prompts_;
    if (decodes == 0) return run_prompts();
    if (config_.caches_tokens && !make_room(decodes))
      throw std::logic_error("LightLLM's expected peak is too low");
    decode_or_preempt(false);
    ++decoded_steps_;
    prompts_next_ = in_turn && prompts_ > 0;
  }

  void look(Picoseconds now) {
    blocked_until_ = -1;
    if (waiting_.empty() || !has_place()) return;
    std::int64_t tokens = running() - prompts_;
    bool joined = false;
    for (std::size_t i = 0; placed_ < running() && i < running_.size(); ++i) {
      const std::int32_t slot = running_[i];
      if (is_placed_[static_cast<std::size_t>(slot)]) continue;
      const Sequence& s = sequences_[slot];
      expected_.add(expected(s));
      if (s.decoding) {
        is_placed_[static_cast<std::size_t>(slot)] = true;
        ++placed_;
      } else {
        tokens += std::min(left(s), chunk_);
        passing_.push_back(expected(s));
      }
    }
    while (!waiting_.empty() && has_place()) {
      const std::int32_t slot = waiting_.front();
      Sequence& s = sequences_[slot];
      const ExpectedPeak::Entry next = expected(s);
      expected_.add(next);
      const std::int64_t peak = expected_.peak(decoded_steps_);
      const bool fits = !config_.caches_tokens || peak < capacity();
      tokens += std::min(left(s), chunk_);
      if (!fits || tokens > config_.max_num_batched_tokens) {
        expected_.remove(next);
        blocked_until_ = fits ? kForever : decoded_steps_ + peak - capacity();
        break;
      }
      const RadixCache::Match hit = find(s, s.num_tokens - 1);
      waiting_.pop_front();
      running_.push_back(slot);
      passing_.push_back(next);
      hold(slot, hit);
      reuse(s, hit.tokens);
      start(s, now);
      s.decoding = left(s) == 1;
      prompts_ += s.decoding ? 0 : 1;
      first_tokens_ = first_tokens_ || s.decoding;
      joined = true;
    }
    for (const ExpectedPeak::Entry& e : passing_) expected_.remove(e);
    passing_.clear();
    if (!joined) return;
    forward_ = 0;
    blocked_until_ = -1;
  }

  void run_prompts() {
    blocked_until_ = -1;
    std::int64_t tokens = 0;
    for (const std::int32_t slot : running_)
      if (!sequences_[slot].decoding) tokens += std::min(left(sequences_[slot]), chunk_);
    if (config_.caches_tokens && !make_room(tokens))
      throw std::logic_error("LightLLM's expected peak is too low");
    for (const std::int32_t slot : running_) {
      Sequence& s = sequences_[slot];
      if (s.decoding) continue;
      const std::int64_t n = std::min(left(s), chunk_);
      grow(s, n);
      take_prompt(slot, n);
      prompts_ -= s.decoding ? 1 : 0;
    }
  }

  void leave(Sequence& s) override {
    blocked_until_ = -1;
    const std::int32_t slot = slot_of(s);
    if (is_placed_[static_cast<std::size_t>(slot)]) {
      expected_.remove(expected(s));
      is_placed_[static_cast<std::size_t>(slot)] = false;
      --placed_;
    }
    give_back(slot, s.computed);
  }

  // Until the queue is looked at, or prompts are computed, with another outcome. While nobody ends and no
  // prompt is under way, the expected peak falls by at most one a step (lightllm.cpp).
  std::int64_t repeats() const override {
    if (prompts_next_ || first_tokens_) return 1;
    std::int64_t asks = 1 + interval_ - waited_;  // decisions until the next look, this one included
    if (prompts_ > 0) {
      const std::int64_t chunks = 1 + (interval_ - forward_ % interval_) % interval_;
      return waiting_.empty() ? chunks : std::min(asks, chunks);
    }
    if (waiting_.empty() || blocked_until_ == kForever) return kForever;
    const std::int64_t blocked = blocked_until_ - (decoded_steps_ + asks - 1);
    if (blocked >= 0) asks += (blocked / interval_ + 1) * interval_;
    return asks;
  }
  void repeated(std::int64_t steps) override {
    waited_ = (waited_ - 1 + steps) % interval_ + 1;
    forward_ += steps;
    decoded_steps_ += steps;
  }

  const std::int64_t chunk_, interval_;
  std::int64_t waited_ = 0;   // decode steps since the queue was looked at
  std::int64_t forward_ = 0;  // and since somebody started
  std::int64_t prompts_ = 0;  // running ones that do not decode yet
  std::int64_t decoded_steps_ = 0;
  std::int64_t blocked_until_ = -1;  // decode step up to which the head of the queue can't start
  bool first_tokens_ = false;        // the step is one of decodes and gives some their first one
  bool prompts_next_ = false;        // the next step is one of prompts
  ExpectedPeak expected_;            // of those that run and have decoded at a look
  std::vector<bool> is_placed_;      // by slot: they are in it
  std::int64_t placed_ = 0;
  std::vector<ExpectedPeak::Entry> passing_;  // of the others, which change from look to look
};

}  // namespace

std::unique_ptr<Scheduler> make_lightllm_chunked(const SchedulerParts& parts) {
  return std::make_unique<LightllmChunkedScheduler>(parts);
}

}  // namespace foretoken
