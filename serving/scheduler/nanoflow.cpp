// NanoFlow's batches (efeslab/Nanoflow, pipeline/utils/serve.py): all decodes, then prompts in order, split
// so that the step holds global_batch_size tokens. New requests start while the memory that running ones are
// expected to need leaves room for one of average lengths. The end of a request is known a step late.
#include <fmt/format.h>

#include <algorithm>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

constexpr double kShare = 0.9;  // of all pages that running requests may be expected to need
constexpr std::int64_t kMargin =
    2;  // tokens beyond the average lengths after which a request is expected to end

class NanoflowScheduler final : public BlockScheduler {
 public:
  NanoflowScheduler(const SchedulerParts& parts, const Workload::Means& means) : BlockScheduler(parts) {
    count_blocks(parts);
    const auto average = [](std::int64_t given, double mean) {
      return given > 0 ? given : std::max<std::int64_t>(1, static_cast<std::int64_t>(mean));
    };
    prompt_ = average(parts.config.nanoflow.average_prefill_length, means.input_len);
    whole_ = prompt_ + average(parts.config.nanoflow.average_decode_length, means.output_len);
    of_residue_.resize(static_cast<std::size_t>(config_.block_size));
  }

  std::optional<std::string> refuses(const Request&) const override {
    if (has_room(0)) return std::nullopt;
    return fmt::format(
        "0.9 of {} KV blocks are not above the {} of a request of average lengths; lower "
        "average_prefill_length or average_decode_length",
        pool_.usable(), whole_ / config_.block_size);
  }

 private:
  struct Ended {
    RequestId request;
    std::vector<KvBlockPool::Block> blocks;
    std::int32_t capacity, computed;
    bool computed_again;
  };

  void decide(Picoseconds now) override {
    retire();
    const bool may_start = !waiting_.empty() && has_room(expected_peak());
    blocked_for_ = may_start ? kForever : peak_in_;
    decode_or_preempt(false);
    compute_ended();
    std::int64_t room = config_.max_num_batched_tokens - batch_.decodes();
    for (const std::int32_t slot : running_) {
      if (room <= 0) return;
      if (!sequences_[slot].decoding) room -= take_chunk(slot, room);
    }
    if (!may_start || preempted_) return;
    while (room > 0 && !waiting_.empty() && has_place() && free_blocks() > 0 && admit(now, 0)) {
      const std::int64_t taken = take_chunk(running_.back(), room);
      if (taken == 0) return;
      room -= taken;
    }
  }

  // As much of the prompt as there is room for, in the step and in memory.
  std::int64_t take_chunk(std::int32_t slot, std::int64_t room) {
    Sequence& s = sequences_[slot];
    std::int64_t n = std::min(left(s), room);
    if (config_.caches_tokens) n = std::min(n, s.capacity - s.computed + pool_.free() * config_.block_size);
    if (n <= 0 || !grow(s, n)) return 0;
    take_prompt(slot, n);
    return n;
  }

  bool has_room(std::int64_t expected) const {
    return !config_.caches_tokens ||
           kShare * static_cast<double>(pool_.usable()) - static_cast<double>(expected) >
               static_cast<double>(whole_ / config_.block_size);
  }

  // The most blocks that running requests hold at one time, if each has the average output, and ends with it.
  // Whoever is longer already counts what it holds; a prompt that has begun counts as an average one.
  std::int64_t expected_peak() {
    put_in_order();
    peak_in_ = kForever;
    const std::int64_t end = whole_ + kMargin;
    const auto first_beyond =
        std::find_if(lengths_.begin(), lengths_.end(), [&](const Length& l) { return l.tokens >= end; });
    std::int64_t beyond = 0;
    for (auto l = first_beyond; l != lengths_.end(); ++l) beyond += blocks_for(l->tokens);
    lengths_.erase(first_beyond, lengths_.end());
    // Blocks rise until somebody ends, so the peak is just before an end. Those left then are the shortest:
    // with length + block_size - 1 = q x block_size + r they hold floor((q x block_size + r + t) /
    // block_size).
    const std::int32_t size = config_.block_size;
    std::fill(of_residue_.begin(), of_residue_.end(), 0);
    std::int64_t peak = 0, quotients = 0;
    // Of length + block_size - 1, and of t; neighbours are mostly close.
    std::int32_t q = 0, r = size - 1, before = 0;
    auto left = static_cast<std::int32_t>(end - 1);
    std::int32_t left_q = left / size, left_r = left % size;
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      const std::int32_t more = lengths_[i].tokens - before;
      before = lengths_[i].tokens;
      r += more;
      if (r >= size) {
        q += r / size;
        r %= size;
      }
      quotients += q;
      ++of_residue_[static_cast<std::size_t>(r)];
      left -= more;
      left_r -= more;
      if (left_r < 0) {
        left_q = left / size;
        left_r = left % size;
      }
      if (i + 1 < lengths_.size() && lengths_[i + 1].tokens == lengths_[i].tokens) continue;
      const auto count = static_cast<std::int64_t>(i + 1);
      std::int64_t held = quotients + count * left_q;
      if (held + count <= peak) continue;
      for (std::int32_t k = size - left_r; k < size; ++k) held += of_residue_[static_cast<std::size_t>(k)];
      if (held <= peak) continue;
      peak = held;
      peak_in_ = left;
    }
    return peak + beyond;
  }

  // lengths_ of all that hold blocks, the shortest first. Who decodes does so with all others, so the order
  // of the last time is nearly that of now.
  void put_in_order() {
    constexpr std::int32_t kPlaced = -1;
    for (const std::int32_t slot : running_) {
      const auto place = static_cast<std::size_t>(slot);
      if (place >= length_of_.size()) length_of_.resize(place + 1, kPlaced);
      length_of_[place] =
          sequences_[slot].decoding ? sequences_[slot].computed : static_cast<std::int32_t>(prompt_);
    }
    lengths_.clear();
    const auto add = [&](std::int32_t slot) {
      std::int32_t& length = length_of_[static_cast<std::size_t>(slot)];
      if (length == kPlaced) return;
      lengths_.push_back({length, slot});
      length = kPlaced;
    };
    for (const std::int32_t slot : order_) add(slot);
    if (lengths_.size() < running_.size())
      for (const std::int32_t slot : running_) add(slot);
    for (const Ended& e : ended_) lengths_.push_back({e.computed, -1});
    for (std::size_t i = 1; i < lengths_.size(); ++i) {
      const Length l = lengths_[i];
      std::size_t at = i;
      for (; at > 0 && lengths_[at - 1].tokens > l.tokens; --at) lengths_[at] = lengths_[at - 1];
      lengths_[at] = l;
    }
    order_.clear();
    for (const Length& l : lengths_)
      if (l.slot >= 0) order_.push_back(l.slot);
  }

  // Of those whose last token came out of the last step but one.
  void retire() {
    for (Ended& e : ended_)
      if (e.computed_again) release(e.blocks, e.capacity, e.computed);
    std::erase_if(ended_, [](const Ended& e) { return e.computed_again; });
  }
  void compute_ended() {
    for (Ended& e : ended_) {
      e.computed_again = true;
      batch_.add_wasted(e.request, e.computed + 1);
      ++counts_.scheduled;
      ++counts_.discarded;
    }
  }
  void leave(Sequence& s) override {
    ended_.push_back({s.request.id, std::move(s.blocks), s.capacity, s.computed, false});
    s.blocks.clear();
    s.capacity = 0;
  }

  // While nobody ends, the expected peak stays where it is until it is there, or rises for who is longer than
  // expected. A prompt that waits for memory counts as an average one, however long it waits.
  std::int64_t repeats() const override {
    if (batch_.has_wasted()) return 1;
    if (waiting_.empty() || blocked_for_ == kForever) return kForever;
    const bool all_decode = decoded_.size() == running_.size();
    return all_decode ? 1 + blocked_for_ : 1;
  }

  std::int64_t prompt_ = 0, whole_ = 0;  // tokens of an average prompt, and of a request
  std::int64_t peak_in_ = 0;             // steps until the expected peak
  std::int64_t blocked_for_ = 0;         // further steps for which it leaves no room
  std::vector<Ended> ended_;
  struct Length {
    std::int32_t tokens, slot;
  };
  std::vector<Length> lengths_;
  std::vector<std::int32_t> order_;      // slots, as they were put into order
  std::vector<std::int32_t> length_of_;  // by slot, scratch
  std::vector<std::int64_t> of_residue_;
};

}  // namespace

std::unique_ptr<Scheduler> make_nanoflow(const SchedulerParts& parts, const Workload::Means& means) {
  return std::make_unique<NanoflowScheduler>(parts, means);
}

}  // namespace foretoken
