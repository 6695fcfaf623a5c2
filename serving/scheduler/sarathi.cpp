// Sarathi-Serve's stall-free batches (core/scheduler/sarathi_scheduler.py): decodes first, then chunks of
// prompts that have begun, then new ones, up to chunk_size tokens in all.
#include <algorithm>
#include <cmath>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

// From the largest chunk, for the beginning of a prompt, to the smallest, in multiples of 32.
std::vector<std::int64_t> chunk_schedule(const SarathiConfig& c) {
  std::vector<std::int64_t> sizes;
  constexpr double kUnit = 32;
  for (std::int64_t i = c.chunk_schedule_stages - 1; i >= 0; --i) {
    const double between = c.chunk_schedule_stages > 1
                               ? static_cast<double>(i) / static_cast<double>(c.chunk_schedule_stages - 1)
                               : 0.0;
    const double size = std::floor(static_cast<double>(c.low_chunk_size) +
                                   between * static_cast<double>(c.high_chunk_size - c.low_chunk_size));
    sizes.push_back(static_cast<std::int64_t>(std::nearbyint(size / kUnit) * kUnit));
  }
  return sizes;
}

class SarathiScheduler final : public BlockScheduler {
 public:
  explicit SarathiScheduler(const SchedulerParts& parts)
      : BlockScheduler(parts), sizes_(chunk_schedule(parts.config.sarathi)) {
    count_blocks(parts);
    // Vidur's rule (BaseReplicaScheduler): the stages' micro-batches share max_num_seqs evenly.
    if (parts.config.pipeline_depth > 1)
      most_in_batch_ = std::max<std::int64_t>(1, parts.config.max_num_seqs / parts.config.pipeline_depth);
  }

  std::optional<std::string> refuses(const Request& request) const override {
    return never_admitted(request, watermark_blocks());
  }

 private:
  void decide(Picoseconds now) override {
    decode_or_preempt(true);
    std::int64_t tokens = batch_.decodes();
    for (const std::int32_t slot : running_) {
      const Sequence& s = sequences_[slot];
      if (s.decoding || in_flight(slot)) continue;
      if (batch_.sequences() >= most_in_batch_) break;
      const std::int64_t n = chunk(s, tokens);
      if (n <= 0) continue;
      take_prompt(slot, n);
      tokens += n;
    }
    while (!waiting_.empty() && has_place()) {
      const Sequence& s = sequences_[waiting_.front()];
      const std::int64_t n = chunk(s, tokens);
      if (blocks_for(left(s)) + watermark_blocks() > free_blocks() || n <= 0 || !admit(now, left(s))) break;
      take_prompt(running_.back(), n);
      tokens += n;
    }
  }

  // Of the sequence, in a batch that holds `tokens` already.
  std::int64_t chunk(const Sequence& s, std::int64_t tokens) const {
    std::int64_t size = config_.max_num_batched_tokens;
    if (!sizes_.empty()) {
      const SarathiConfig& c = config_.sarathi;
      const std::int64_t each =
          (c.chunk_schedule_max_tokens + c.chunk_schedule_stages - 1) / c.chunk_schedule_stages;
      // Sarathi stops with an assertion beyond the last stage.
      size = sizes_[static_cast<std::size_t>(std::min(s.computed / each, c.chunk_schedule_stages - 1))];
    }
    return std::min(left(s), size - tokens);
  }

  const std::vector<std::int64_t> sizes_;
};

}  // namespace

std::unique_ptr<Scheduler> make_sarathi(const SchedulerParts& parts) {
  return std::make_unique<SarathiScheduler>(parts);
}

}  // namespace foretoken
