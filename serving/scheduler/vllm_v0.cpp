// vLLM V0's schedulers (core/scheduler.py of 0.6 and 0.7). _schedule_default: prompts first and whole, in
// steps of their own; decodes preempt the sequence that came last, to be computed again or swapped. By
// priority, who waits may also preempt who runs (_schedule_priority_preemption). _schedule_chunked_prefill:
// decodes first, then the prompts that have begun, then new ones, in chunks. Who decodes speculates in the
// step that it does so, if few enough run (spec_decode/spec_decode_worker.py).
#include <algorithm>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/priority_order.h"

namespace foretoken {
namespace {

class VllmV0Scheduler final : public BlockScheduler {
 public:
  explicit VllmV0Scheduler(const SchedulerParts& parts) : BlockScheduler(parts), before_(parts.sequences) {}

  // In chunks a prompt of all blocks would want one more to go on, and start again for ever.
  std::optional<std::string> refuses(const Request& request) const override {
    return never_admitted(request,
                          std::max<std::int64_t>(watermark_blocks(), config_.enable_chunked_prefill ? 1 : 0));
  }

 private:
  void decide(Picoseconds now) override {
    reordered_ = left_out_ = false;
    decodes_.clear();
    if (config_.enable_chunked_prefill)
      decide_chunks(now);
    else
      decide_whole(now);
    if (config_.draft_tokens == 0) return;
    const bool speculates = !has_too_many();
    for (const std::int32_t slot : decodes_) take_decode(slot, speculates ? drafts(sequences_[slot]) : 0);
    if (!speculates) batch_.skip_draft_model();
  }

  // Whether anybody drafts is known when it is known who runs.
  void decode(std::int32_t slot) {
    decodes_.push_back(slot);
    if (config_.draft_tokens == 0) take_decode(slot);
  }

  // Sequences of the step so far; those that may draft are taken last.
  std::int64_t chosen() const {
    return batch_.sequences() + (config_.draft_tokens > 0 ? std::ssize(decodes_) : 0);
  }

  void decide_whole(Picoseconds now) {
    std::int64_t budget = config_.max_num_batched_tokens;
    // Whoever was swapped goes before all that wait.
    while (swapped_.empty() && !waiting_.empty() && fits(sequences_[waiting_.front()], budget)) {
      if (!admit(now, sequences_[waiting_.front()].num_tokens)) break;
      const std::int64_t n = left(sequences_[running_.back()]);
      take_prompt(running_.back(), n);
      note_tokens(running_.back());
      budget -= n;
    }
    if (batch_.has_prefill()) return;
    if (config_.by_priority) make_way();
    decode_all();
    while (!preempted_ && !swapped_.empty() && comes_back(sequences_[swapped_.front()])) {
      swap_in(swapped_.front());
      swapped_.pop_front();
      decode(running_.back());
    }
  }

  void decode_all() {
    eager_ = true;
    for (std::size_t i = 0; i < running_.size(); ++i) {
      const std::int32_t slot = running_[i];
      bool has_room = false;
      while (!(has_room = append(slot))) {
        const std::int32_t victim = running_.back();
        preempt(victim);
        if (victim == slot) break;
      }
      if (has_room) decode(slot);
    }
  }

  // Slots for the newest token and for all that may be drafted behind it. As many blocks must be free as the
  // tokens lie in that the sequence's blocks do not know of, its own included; they stay when drafts are
  // rejected.
  bool append(std::int32_t slot) {
    Sequence& s = sequences_[slot];
    if (config_.draft_tokens == 0) return grow(s, 1, true);
    if (!grows_) return true;
    const std::int64_t end =
        std::min(s.num_tokens + std::int64_t{config_.draft_tokens}, config_.max_model_len);
    const std::int64_t touched =
        (end - 1) / config_.block_size - known_[static_cast<std::size_t>(slot)] / config_.block_size + 1;
    if (touched > free_blocks() || !grow(s, end - s.computed)) return false;
    note_tokens(slot);
    return true;
  }
  // The sequence's blocks hold all of its tokens so far, or will when it is computed.
  void note_tokens(std::int32_t slot) {
    if (config_.draft_tokens == 0) return;
    if (known_.size() <= static_cast<std::size_t>(slot)) known_.resize(static_cast<std::size_t>(slot) + 1);
    known_[static_cast<std::size_t>(slot)] = sequences_[slot].num_tokens;
  }
  // Up to max_model_len all are drafted, or none.
  std::int32_t drafts(const Sequence& s) const {
    return s.num_tokens + config_.draft_tokens < config_.max_model_len ? s.drafts : 0;
  }
  bool has_too_many() const {
    return config_.disable_by_batch_size > 0 && running() >= config_.disable_by_batch_size;
  }

  // A prompt needs free blocks for all of its tokens, those in the prefix cache too.
  bool has_blocks(const Sequence& s) const {
    return blocks_for(s.num_tokens) + watermark_blocks() <= free_blocks();
  }
  bool fits(Sequence& s, std::int64_t budget) {
    return has_place() && has_blocks(s) && s.num_tokens - look_up(s) <= budget;
  }
  bool comes_back(const Sequence& s) const {
    return has_place() && blocks_for(s.computed + 1) + watermark_blocks() <= free_blocks();
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

  // Of n tokens; with a prefix cache whole blocks are left to whom a step does not finish.
  std::int64_t chunk(std::int64_t n, std::int64_t budget) const {
    return std::min(n, caching() ? budget / config_.block_size * config_.block_size : budget);
  }

  void decide_chunks(Picoseconds now) {
    eager_ = true;
    std::int64_t budget = config_.max_num_batched_tokens;
    std::size_t next = 0;  // of the running ones, in order; victims come from the other end
    prompts_.clear();
    const std::size_t waited = waiting_.size();
    while (next < running_.size()) {
      const std::int32_t slot = running_[next];
      const std::int64_t n = chunk(left(sequences_[slot]), budget);
      if (n == 0) break;
      bool has_room = false;
      while (!(has_room = sequences_[slot].decoding ? append(slot) : may_go_on(sequences_[slot]))) {
        const std::int32_t victim = running_.back();
        preempt(victim);
        if (victim == slot) break;
      }
      if (!has_room) break;
      ++next;
      budget -= n;
      if (sequences_[slot].decoding) {
        decode(slot);
      } else {
        take_prompt(slot, n);
        prompts_.push_back(slot);
      }
    }
    left_out_ = next < running_.size();
    // Who had no turn is first the next time; then those that decoded, then prompts, the finished ones first.
    running_.erase(running_.begin(), running_.begin() + static_cast<std::ptrdiff_t>(next));
    running_.insert(running_.end(), decodes_.begin(), decodes_.end());
    std::stable_partition(prompts_.begin(), prompts_.end(),
                          [this](std::int32_t slot) { return sequences_[slot].decoding; });
    running_.insert(running_.end(), prompts_.begin(), prompts_.end());

    // Who has just been preempted is not in the queue yet.
    const auto lost = static_cast<std::ptrdiff_t>(waiting_.size() - waited);
    again_.assign(waiting_.begin(), waiting_.begin() + lost);
    waiting_.erase(waiting_.begin(), waiting_.begin() + lost);
    while (!waiting_.empty() && budget > 0 && chosen() < config_.max_num_seqs) {
      Sequence& s = sequences_[waiting_.front()];
      if (!has_blocks(s)) break;
      const std::int64_t n = chunk(s.num_tokens - look_up(s), budget);
      if (n == 0 || !admit(now, s.num_tokens)) break;
      take_prompt(running_.back(), n);
      note_tokens(running_.back());
      budget -= n;
    }
    waiting_.insert(waiting_.begin(), again_.begin(), again_.end());
  }

  // A block must be free even where the last one has room; the last chunk of a prompt that fills its blocks
  // asks for none.
  bool may_go_on(const Sequence& s) const {
    return !config_.caches_tokens || free_blocks() > 0 ||
           (!s.decoding && s.num_tokens % config_.block_size == 0);
  }

  // With another head the next decision may admit; who was left out comes first.
  std::int64_t repeats() const override { return reordered_ || left_out_ ? 1 : kForever; }
  bool open() const override { return (has_place() && swapped_.empty()) || config_.by_priority; }
  bool could_pass() const override { return config_.by_priority; }

  const PriorityOrder before_;
  bool reordered_ = false, left_out_ = false;
  std::vector<std::int32_t> decodes_;          // of the step
  std::vector<std::int32_t> prompts_, again_;  // of decide_chunks
  std::vector<std::int64_t> known_;            // tokens that a sequence's blocks know of, by slot
};

}  // namespace

std::unique_ptr<Scheduler> make_vllm_v0(const SchedulerParts& parts) {
  return std::make_unique<VllmV0Scheduler>(parts);
}

}  // namespace foretoken
