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
    lengths_.clear();
    peak_in_ = kForever;
    std::int64_t beyond = 0;
    const std::int64_t end = whole_ + kMargin;
    const auto add = [&](std::int64_t length) {
      if (length < end)
        lengths_.push_back(length);
      else
        beyond += blocks_for(length);
    };
    for (const std::int32_t slot : running_)
      add(sequences_[slot].decoding ? sequences_[slot].computed : prompt_);
    for (const Ended& e : ended_) add(e.computed);
    std::sort(lengths_.begin(), lengths_.end());
    // Blocks rise until somebody ends, so the peak is just before an end. Those left then are the shortest:
    // with length + block_size - 1 = q x block_size + r they hold floor((q x block_size + r + t) /
    // block_size).
    const std::int64_t size = config_.block_size;
    std::fill(of_residue_.begin(), of_residue_.end(), 0);
    std::int64_t peak = 0, quotients = 0;
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      const std::int64_t rounded = lengths_[i] + size - 1;
      quotients += rounded / size;
      ++of_residue_[static_cast<std::size_t>(rounded % size)];
      if (i + 1 < lengths_.size() && lengths_[i + 1] == lengths_[i]) continue;
      const std::int64_t t = end - lengths_[i] - 1;
      std::int64_t held = quotients + static_cast<std::int64_t>(i + 1) * (t / size);
      if (held + static_cast<std::int64_t>(i + 1) <= peak) continue;
      for (std::int64_t r = size - t % size; r < size; ++r) held += of_residue_[static_cast<std::size_t>(r)];
      if (held <= peak) continue;
      peak = held;
      peak_in_ = t;
    }
    return peak + beyond;
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
  std::vector<std::int64_t> lengths_, of_residue_;
};

}  // namespace

std::unique_ptr<Scheduler> make_nanoflow(const SchedulerParts& parts, const Workload::Means& means) {
  return std::make_unique<NanoflowScheduler>(parts, means);
}

}  // namespace foretoken
