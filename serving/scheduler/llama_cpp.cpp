// llama.cpp's server (update_slots): a slot of the context for each request, and batches that are filled slot
// by slot, generating ones first, then prompts. A batch of up to n_batch tokens is computed in pieces of
// n_ubatch, which are the steps here.
#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class LlamaCppScheduler final : public BlockScheduler {
 public:
  using BlockScheduler::BlockScheduler;

 private:
  struct Part {
    std::int32_t slot;
    std::int64_t tokens;
  };

  void decide(Picoseconds now) override {
    is_whole_ = parts_.empty();
    if (parts_.empty()) form_batch(now);
    std::int64_t room = config_.llama_cpp.n_ubatch;
    while (room > 0 && next_ < parts_.size()) {
      Part& part = parts_[next_];
      const std::int64_t n = std::min(part.tokens, room);
      if (sequences_[part.slot].decoding)
        take_decode(part.slot);
      else
        take_prompt(part.slot, n);
      part.tokens -= n;
      room -= n;
      if (part.tokens == 0) ++next_;
    }
    if (next_ < parts_.size()) return;
    parts_.clear();
    next_ = 0;
  }

  // The tokens of a batch are sampled when all of it is computed, so what samples comes last.
  void form_batch(Picoseconds now) {
    while (!waiting_.empty() && has_place()) {
      if (!admit(now, 0)) break;
      const std::size_t slot = idle_slot();
      slots_[slot] = running_.back();
    }
    std::int64_t room = config_.max_num_batched_tokens;
    std::int64_t generating = 0;
    for (const std::int32_t slot : slots_) generating += slot >= 0 && sequences_[slot].decoding;
    room -= generating;
    for (const std::int32_t slot : slots_) {
      if (slot < 0 || sequences_[slot].decoding || room <= 0) continue;
      parts_.push_back({slot, std::min(left(sequences_[slot]), room)});
      room -= parts_.back().tokens;
    }
    std::stable_partition(parts_.begin(), parts_.end(),
                          [&](const Part& p) { return p.tokens < left(sequences_[p.slot]); });
    for (const std::int32_t slot : slots_)
      if (slot >= 0 && sequences_[slot].decoding) parts_.push_back({slot, 1});
  }

  // One that was never used, else the one that has been idle for longest.
  std::size_t idle_slot() {
    if (static_cast<std::int64_t>(slots_.size()) < config_.max_num_seqs) {
      slots_.push_back(-1);
      return slots_.size() - 1;
    }
    const std::size_t slot = idle_.front();
    idle_.pop_front();
    return slot;
  }

  void leave(Sequence& s) override {
    release(s);
    const auto of = std::find_if(slots_.begin(), slots_.end(),
                                 [&](std::int32_t slot) { return slot >= 0 && &sequences_[slot] == &s; });
    *of = -1;
    idle_.push_back(static_cast<std::size_t>(of - slots_.begin()));
  }

  std::int64_t repeats() const override { return is_whole_ && parts_.empty() ? kForever : 1; }

  std::vector<std::int32_t> slots_;  // what runs in each; -1: idle
  std::deque<std::size_t> idle_;     // in the order in which they became so
  std::vector<Part> parts_;          // of the batch at hand
  std::size_t next_ = 0;             // the first that is not computed yet
  bool is_whole_ = false;            // the step begins a batch
};

}  // namespace

std::unique_ptr<Scheduler> make_llama_cpp(const SchedulerParts& parts) {
  return std::make_unique<LlamaCppScheduler>(parts);
}

}  // namespace foretoken
