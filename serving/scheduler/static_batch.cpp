// Static batches as FasterTransformer runs them: who starts together ends together, and nobody joins. Batches
// are formed by the rules of Triton's dynamic batcher (dynamic_batch_scheduler.cc, GetDynamicBatch), which
// without a delay and preferred sizes takes whoever waits.
#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class StaticBatchScheduler final : public BlockScheduler {
 public:
  explicit StaticBatchScheduler(const SchedulerParts& parts) : BlockScheduler(parts) {
    const auto& sizes = parts.config.static_batch.preferred_batch_size;
    largest_ = sizes.empty() ? parts.config.max_num_seqs : *std::max_element(sizes.begin(), sizes.end());
  }

  Picoseconds wake() const override { return wake_; }

 private:
  struct Ended {
    RequestId request;
    std::vector<KvBlockPool::Block> blocks;
    std::int32_t capacity;
    std::int64_t computed;
  };

  bool open() const override { return running_.empty(); }

  void decide(Picoseconds now) override {
    wake_ = kNoWake;
    if (running_.empty()) {
      start(now, dispatched(now));
      return;
    }
    decode_or_preempt(false);
    for (const Ended& e : ended_) batch_.add_hole(e.request);
    count_wasted(static_cast<std::int64_t>(ended_.size()));
  }

  // How many of the queue's head form a batch now; 0: they wait until wake_.
  std::int64_t dispatched(Picoseconds now) {
    if (waiting_.empty()) return 0;
    const StaticBatchConfig& c = config_.static_batch;
    const auto queued = static_cast<std::int64_t>(waiting_.size());
    const std::int64_t pending = std::min(queued, config_.max_num_seqs);
    std::int64_t best = 0;  // the largest preferred size that is there
    for (const std::int64_t size : c.preferred_batch_size)
      if (size <= pending) best = std::max(best, size);
    if (best == 0 && queued > largest_) best = std::min(largest_, pending);
    const Picoseconds due = sequences_[waiting_.front()].queued + c.max_queue_delay;
    const bool late = c.max_queue_delay > 0 && now >= due;
    if (best > 0 && !late) return best;
    if (pending >= std::min(largest_, config_.max_num_seqs) || late || c.max_queue_delay == 0) return pending;
    wake_ = due;
    return 0;
  }

  // As many of them as memory and the tokens of a step allow.
  void start(Picoseconds now, std::int64_t most) {
    std::int64_t longest = 0, tokens = 0;
    while (running() < most) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      const std::int64_t with =
          config_.static_batch.remove_padding ? tokens + n : (running() + 1) * std::max(longest, n);
      if (with > config_.max_num_batched_tokens || !admit(now, n)) break;
      longest = std::max(longest, n);
      tokens += n;
    }
    for (const std::int32_t slot : running_) {
      const std::int64_t n = left(sequences_[slot]);
      take_prompt(slot, n);
      if (config_.static_batch.remove_padding || n == longest) continue;
      batch_.add_padding(sequences_[slot].request.id, longest - n, n);
      count_wasted(longest - n);
    }
  }

  void count_wasted(std::int64_t rows) {
    counts_.scheduled += rows;
    counts_.discarded += rows;
  }

  void repeated(std::int64_t steps) override {
    counts_.discarded += static_cast<std::int64_t>(ended_.size()) * steps;
  }

  // Row and memory stay with the batch until all of it has ended.
  void leave(Sequence& s) override {
    ended_.push_back({s.request.id, std::move(s.blocks), s.capacity, s.computed});
    s.blocks.clear();
    s.capacity = 0;
    if (!running_.empty()) return;
    for (Ended& e : ended_) release(e.blocks, e.capacity, e.computed);
    ended_.clear();
  }

  std::int64_t largest_;
  std::vector<Ended> ended_;  // of the batch that runs
  Picoseconds wake_ = kNoWake;
};

}  // namespace

std::unique_ptr<Scheduler> make_static_batch(const SchedulerParts& parts) {
  return std::make_unique<StaticBatchScheduler>(parts);
}

}  // namespace foretoken
