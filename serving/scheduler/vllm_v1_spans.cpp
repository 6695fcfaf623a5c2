// For how many steps a decision of vLLM V1's scheduler holds, and what repeating it takes.
#include <algorithm>
#include <limits>

#include "serving/scheduler/vllm_v1.h"

namespace foretoken {

// Why a decode-only decision repeats itself until the bounds below:
// - Running: each scheduled sequence wants one token again, in the same order, and the blocks that this takes
//   are there; sequences beyond the budget stay beyond it, since nobody leaves before the nearest finish.
// - Waiting, if not empty, was blocked at its head, and stays blocked: by the budget or max_num_seqs, because
//   the running set is the same; by "prompt must fit the budget whole", because during the span nothing but
//   blocks that hold newly generated tokens of running requests enters the prefix cache, which nobody may
//   name before the request has finished, so hits can only shrink; by blocks, because free only falls, and
//   what the whole prompt takes from it (blocks to compute + hits on free blocks) only rises: a hit that is
//   evicted turns into a block to compute; what a swapped sequence takes is fixed. Without
//   reserve_full_prompt the test is made with the next chunk alone, and losing hits may make that one fit;
//   then (fragile_) the decision is made every step.
// - Waiting for an adapter: the running set, and with it the adapters, is the same.
// For the same reason a request that joins a blocked queue changes nothing (arrival_matters): it queues
// behind.
std::int64_t VllmV1Scheduler::hold() const {
  if (preempted_ || skipped_ || fragile_ || !prefill_.empty() || batch_.copies() || !adapter_loads_.empty() ||
      (tiers_ != nullptr && tiers_->stalls()))
    return 1;
  const std::int64_t scheduled = batch_.decode_sequences / beams();
  if (scheduled == 0) {
    return waiting_.empty() && running_.empty() && arrived_.empty() ? std::numeric_limits<std::int64_t>::max()
                                                                    : 1;
  }
  if (config_.draft_tokens > 0) return 1;  // how many tokens a step yields is known only afterwards
  std::int64_t steps = std::numeric_limits<std::int64_t>::max(), grouped = 0;
  std::fill(needs_.begin(), needs_.end(), 0);
  if (group_ && group_->size() > 0) {
    grouped = group_->size();
    steps = 1 + group_->steps_left();
    for (std::int64_t d = 0; grows() && d < config_.block_size; ++d)
      needs_[static_cast<std::size_t>(d)] = static_cast<std::int32_t>(group_->without_room(d + 1).size());
  }
  for (std::int64_t i = grouped; i < scheduled; ++i) {
    const Sequence& s = sequences_[running_[static_cast<std::size_t>(i)]];
    steps = std::min<std::int64_t>(steps, s.end_tokens - s.num_tokens);
    if (grows()) ++needs_[static_cast<std::size_t>(s.capacity - s.computed)];
    for (const std::int64_t window : windows_) {
      if (window > s.computed) steps = std::min(steps, window - s.computed + 1);
    }
  }
  if (tiers_ != nullptr &&
      config_.kv_tiers.writes_back()) {  // blocks that a step takes may have to be copied
    const auto rooms = std::find_if(needs_.begin(), needs_.end(), [](std::int32_t n) { return n > 0; });
    return std::min<std::int64_t>(steps, rooms - needs_.begin() + 1);
  }
  if (!grows()) return steps;  // a region is never too short
  // Step j (the next one is 1) needs a block (a group of them, one a beam) for each sequence with room for
  // j - 1 more tokens, modulo block_size.
  std::int64_t left = pool_.free() / beams();
  const std::int64_t cycles = left / scheduled;
  left -= cycles * scheduled;
  std::int64_t more = cycles * config_.block_size;
  for (int d = 0; d < config_.block_size && needs_[static_cast<std::size_t>(d)] <= left; ++d) {
    left -= needs_[static_cast<std::size_t>(d)];
    ++more;
  }
  return std::min(steps, more + 1);
}

bool VllmV1Scheduler::arrival_matters() const {
  // Nobody waits, or all who wait do so for their adapters, or priorities rule: who comes may overtake them.
  return (waiting_.empty() || !blocked_ || config_.by_priority) && running() < most_running() && budget_ > 0;
}

// Takes blocks exactly as single steps would: step by step, in running order within a step, so that the free
// queue and the prefix cache end up the same.
void VllmV1Scheduler::advance(std::int64_t steps) {
  const std::int64_t scheduled = batch_.decode_sequences / beams();
  if (steps <= 0 || scheduled == 0) return;
  const auto extra = static_cast<std::int32_t>(steps);
  counts_.scheduled += batch_.decode_sequences * steps;
  const std::int64_t grouped = group_ ? group_->size() : 0;
  if (grouped > 0) {
    for (std::int64_t step = 1; grows() && step <= steps; ++step) {
      grow_group(step);
      for (std::int64_t i = grouped; i < scheduled; ++i) {
        Sequence& s = sequences_[running_[static_cast<std::size_t>(i)]];
        if (s.capacity < s.computed + step) append_blocks(s, 1);
      }
    }
    group_->decide(steps);
  } else if (grows()) {
    std::fill(needs_.begin(), needs_.end(), 0);
    for (std::int64_t i = 0; i < scheduled; ++i) {
      const Sequence& s = sequences_[running_[static_cast<std::size_t>(i)]];
      ++needs_[static_cast<std::size_t>(s.capacity - s.computed) + 1];
    }
    for (std::size_t d = 1; d < needs_.size(); ++d) needs_[d] += needs_[d - 1];
    order_.resize(static_cast<std::size_t>(scheduled));
    for (std::int64_t i = 0; i < scheduled; ++i) {
      const std::int32_t slot = running_[static_cast<std::size_t>(i)];
      const Sequence& s = sequences_[slot];
      order_[static_cast<std::size_t>(needs_[static_cast<std::size_t>(s.capacity - s.computed)]++)] = slot;
    }
    for (std::int64_t base = 0; base < steps; base += config_.block_size) {
      for (const std::int32_t slot : order_) {
        Sequence& s = sequences_[slot];
        if (s.capacity - s.computed >= steps) break;  // capacity rises with the cycles, so this holds in each
        append_blocks(s, beams());
      }
    }
  }
  for (std::int64_t i = grouped; i < scheduled; ++i) {
    Sequence& s = sequences_[running_[static_cast<std::size_t>(i)]];
    s.computed += extra;
    s.num_tokens += extra;
    if (s.entered_blocks < s.shared_blocks) enter_blocks(s, s.shared_blocks);
  }
}

}  // namespace foretoken
