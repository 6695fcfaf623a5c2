// Static batches as FasterTransformer runs them: who starts together ends together, and nobody joins. Batches
// are formed by the rules of Triton's dynamic batcher (dynamic_batch_scheduler.cc, GetDynamicBatch), which
// without a delay and preferred sizes takes whoever waits. In a pipeline a batch goes through the stages in
// micro-batches (getLocalBatchSize, ParallelGpt.cc), and every token waits for the last of them. Hugging
// Face's generate() computes a rectangle: every row is padded on the left to the longest prompt and goes on,
// with attention and cache, until the last has ended.
#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class StaticBatchScheduler final : public BlockScheduler {
 public:
  explicit StaticBatchScheduler(const SchedulerParts& parts) : BlockScheduler(parts) {
    const auto& sizes = parts.config.static_batch.preferred_batch_size;
    largest_ = sizes.empty() ? parts.config.max_num_seqs : *std::max_element(sizes.begin(), sizes.end());
    if (is_rectangle()) grows_ = false;  // it has all of it from the start
  }

  Picoseconds wake() const override { return wake_; }

 private:
  struct Ended {
    RequestId request;
    std::vector<KvBlockPool::Block> blocks;
    std::int32_t capacity;
    std::int64_t computed;
  };

  // Of the batch that runs in a pipeline, in order.
  struct Member {
    std::int32_t slot;  // -1: has ended
    RequestId request;
  };

  bool open() const override { return running_.empty(); }

  void decide(Picoseconds now) override {
    wake_ = kNoWake;
    if (config_.pipeline_depth > 1) {
      if (next_ == members_.size()) begin_round(now);
      run_micro_batch();
      return;
    }
    if (running_.empty()) {
      if (is_rectangle())
        start_rectangle(now);
      else
        start(now, dispatched(now));
      for (const std::int32_t slot : running_) take_padded_prompt(slot);
      return;
    }
    decode_or_preempt(false);
    for (const Ended& e : ended_) batch_.add_hole(e.request);
    if (is_rectangle()) batch_.make_rectangle(static_cast<std::int32_t>(++width_));
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

  bool is_rectangle() const { return config_.policy == SchedulerPolicy::kTransformers; }
  bool pads() const { return is_rectangle() || !config_.static_batch.remove_padding; }

  // As many of the queue as max_num_seqs, the tokens of a step and, for the longest prompt with the longest
  // output in every row, memory allow.
  void start_rectangle(Picoseconds now) {
    longest_ = 0;
    std::int64_t rows = 0, tokens = 0, outputs = 0;
    for (const std::int32_t slot : waiting_) {
      const Sequence& s = sequences_[slot];
      const std::int64_t prompt = std::max(longest_, left(s));
      const std::int64_t output = std::max<std::int64_t>(outputs, s.end_tokens - s.num_tokens);
      const std::int64_t whole = std::min(prompt + output - 1, config_.max_model_len);
      if (rows + 1 > config_.max_num_seqs || (rows + 1) * prompt > config_.max_num_batched_tokens ||
          (rows > 0 && (rows + 1) * blocks_for(whole) > usable_blocks()))
        break;
      ++rows, longest_ = prompt, outputs = output, tokens = whole;
    }
    width_ = longest_;
    while (running() < rows && admit(now, tokens)) continue;
  }

  // As many of them as memory and the tokens of a step allow.
  void start(Picoseconds now, std::int64_t most) {
    longest_ = 0;
    std::int64_t tokens = 0;
    while (running() < most) {
      const std::int64_t n = left(sequences_[waiting_.front()]);
      const std::int64_t with =
          config_.static_batch.remove_padding ? tokens + n : (running() + 1) * std::max(longest_, n);
      if (with > config_.max_num_batched_tokens || !admit(now, n)) break;
      longest_ = std::max(longest_, n);
      tokens += n;
    }
  }

  void take_padded_prompt(std::int32_t slot) {
    const std::int64_t n = left(sequences_[slot]);
    take_prompt(slot, n);
    if (!pads() || n == longest_) return;
    batch_.add_padding(sequences_[slot].request.id, longest_ - n, n);
    count_wasted(longest_ - n);
  }

  // Sequences of a micro-batch of `all` that compute so many tokens each: an even share of the stages, or all
  // where that isn't whole, and less where it has too many tokens.
  std::size_t micro_batch(std::size_t all, std::int64_t tokens) const {
    constexpr std::int64_t kMostTokens = 1024;
    const auto stages = static_cast<std::size_t>(config_.pipeline_depth);
    std::size_t size = all % stages == 0 ? all / stages : all;
    while (static_cast<std::int64_t>(size) * tokens > kMostTokens && size % 2 == 0) size /= 2;
    return size;
  }

  // Prompts, or a token for each, once all of the round before are out.
  void begin_round(Picoseconds now) {
    if (any_in_flight()) return;
    prompts_ = running_.empty();
    if (prompts_) {
      start(now, dispatched(now));
      members_.clear();
      for (const std::int32_t slot : running_) members_.push_back({slot, sequences_[slot].request.id});
    }
    next_ = 0;
    if (!members_.empty()) size_ = micro_batch(members_.size(), prompts_ ? longest_ : 1);
  }

  void run_micro_batch() {
    if (running_.empty())
      next_ = members_.size();  // what is left of the round computes nothing that anybody gets
    if (next_ == members_.size()) return;
    const std::size_t end = next_ + size_;
    std::int64_t ended = 0;
    for (; next_ < end; ++next_) {
      const Member& m = members_[next_];
      if (prompts_) {
        take_padded_prompt(m.slot);
      } else if (m.slot >= 0) {
        take_decode(m.slot);
      } else {
        batch_.add_hole(m.request);
        ++ended;
      }
    }
    count_wasted(ended);
  }

  void count_wasted(std::int64_t rows) {
    counts_.scheduled += rows;
    counts_.discarded += rows;
  }

  // Until the rectangle outgrows a window, from which on its sums rise no more.
  std::int64_t repeats() const override {
    std::int64_t steps = kForever;
    if (!is_rectangle()) return steps;
    for (const std::int64_t window : batch_.windows())
      if (window > width_) steps = std::min(steps, window - width_ + 1);
    return steps;
  }

  void repeated(std::int64_t steps) override {
    width_ += steps;
    counts_.discarded += static_cast<std::int64_t>(ended_.size()) * steps;
  }

  // Row and memory stay with the batch until all of it has ended.
  void leave(Sequence& s) override {
    for (Member& m : members_)
      if (m.request == s.request.id) m.slot = -1;
    ended_.push_back({s.request.id, std::move(s.blocks), s.capacity, s.computed});
    s.blocks.clear();
    s.capacity = 0;
    if (!running_.empty()) return;
    for (Ended& e : ended_) release(e.blocks, e.capacity, e.computed);
    ended_.clear();
  }

  std::int64_t largest_, longest_ = 0;  // of preferred sizes; of the batch's prompts
  std::int64_t width_ = 0;              // of the rectangle: tokens that each row attends to
  std::vector<Ended> ended_;            // of the batch that runs
  Picoseconds wake_ = kNoWake;
  // In a pipeline: the batch, who comes next in this round, and how many together.
  std::vector<Member> members_;
  std::size_t next_ = 0, size_ = 0;
  bool prompts_ = false;
};

}  // namespace

std::unique_ptr<Scheduler> make_static_batch(const SchedulerParts& parts) {
  return std::make_unique<StaticBatchScheduler>(parts);
}

}  // namespace foretoken
