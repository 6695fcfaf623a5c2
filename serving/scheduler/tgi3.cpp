// Text Generation Inference 3 (backends/v3/src: queue.rs, backend.rs, radix.rs; flash_causal_lm.py): prompts
// join the step of those that run, in chunks, as far as max_batch_prefill_tokens lasts, with memory for all
// that they may generate and a radix tree of prompts that have been served.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/radix_scheduler.h"

namespace foretoken {
namespace {

class Tgi3Scheduler final : public RadixScheduler {
 public:
  explicit Tgi3Scheduler(const SchedulerParts& parts) : RadixScheduler(parts, false, true) {
    grows_ = false;
    const std::int64_t asked = config_.tgi.max_batch_total_tokens;
    if (asked > 0 && config_.caches_tokens)
      withheld_ = std::max<std::int64_t>(0, pool_.usable() - asked / config_.block_size);
  }

  void enqueue(std::int32_t slot) override {
    const auto place = static_cast<std::size_t>(slot);
    if (place >= chunk_.size()) chunk_.resize(place + 1);
    RadixScheduler::enqueue(slot);
  }

  std::optional<std::string> refuses(const Request& request) const override {
    const std::int64_t need = blocks_for(end_tokens(request) - 1), most = pool_.usable() - withheld_;
    if (!config_.caches_tokens || need <= most) return std::nullopt;
    return fmt::format("request of {} tokens needs {} KV blocks, max_batch_total_tokens gives {}",
                       end_tokens(request) - 1, need, most);
  }

 private:
  void decide(Picoseconds now) override {
    const bool fresh = running_.empty();
    asked_ = fresh || !decode_next_;
    const std::size_t before = running_.size();
    if (asked_) join(now);
    decode_next_ = !fresh && running_.size() > before;
    std::int64_t left_over = 0;
    for (const std::int32_t slot : running_) {
      if (sequences_[slot].decoding) {
        take_decode(slot);
        continue;
      }
      take_prompt(slot, chunk_[static_cast<std::size_t>(slot)]);
      left_over += left(sequences_[slot]) > 0 ? 1 : 0;
    }
    if (left_over > 0) next_chunks();
  }

  // What the running ones leave of the step, to the head of the queue. The last prompt may be split.
  void join(Picoseconds now) {
    std::int64_t used = 0;
    for (const std::int32_t slot : running_)
      used += sequences_[slot].decoding ? 1 : chunk_[static_cast<std::size_t>(slot)];
    std::int64_t budget = std::max<std::int64_t>(0, config_.max_num_batched_tokens - used);
    budget = (budget + config_.block_size - 1) / config_.block_size * config_.block_size;
    while (budget > 0 && !waiting_.empty() && has_place()) {
      const std::int32_t slot = waiting_.front();
      Sequence& s = sequences_[slot];
      const RadixCache::Match hit = find(s, s.request.input_len);
      hold(slot, hit);
      const std::int64_t need = blocks_for(s.end_tokens - 1) - blocks_of(s);
      if (config_.caches_tokens && !make_room(need + withheld_)) return let_go(slot);
      if (config_.caches_tokens) take(s, need);
      waiting_.pop_front();
      running_.push_back(slot);
      reuse(s, std::min<std::int64_t>(hit.tokens, s.request.input_len - 1));
      start(s, now);
      const std::int64_t n = std::min(left(s), budget);
      chunk_[static_cast<std::size_t>(slot)] = n;
      budget -= n;
    }
  }

  // Of prompts that the step just decided leaves unfinished, the oldest first; each other one of the step
  // keeps a token.
  void next_chunks() {
    std::int64_t budget = config_.max_num_batched_tokens - (batch_.sequences() - 1);
    for (const std::int32_t slot : running_) {
      const std::int64_t n = left(sequences_[slot]);
      if (sequences_[slot].decoding || n == 0) continue;
      chunk_[static_cast<std::size_t>(slot)] = std::max<std::int64_t>(1, std::min(n, budget));
      budget -= chunk_[static_cast<std::size_t>(slot)];
    }
  }

  // Prompts alone are kept, once their request has ended.
  void leave(Sequence& s) override { give_back(slot_of(s), s.request.input_len); }

  // Who waits lacks a place, tokens or blocks until somebody ends.
  std::int64_t repeats() const override { return waiting_.empty() || asked_ ? kForever : 1; }

  std::vector<std::int64_t> chunk_;  // by slot: of its prompt in the next step
  std::int64_t withheld_ = 0;        // blocks beyond max_batch_total_tokens
  bool decode_next_ = false;         // prompts have joined, so the next step takes none
  bool asked_ = false;               // the step looked at the queue
};

}  // namespace

std::unique_ptr<Scheduler> make_tgi3(const SchedulerParts& parts) {
  return std::make_unique<Tgi3Scheduler>(parts);
}

}  // namespace foretoken
