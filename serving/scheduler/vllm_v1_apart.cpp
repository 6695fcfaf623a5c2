// vLLM V1's scheduler where prompts are computed on one engine and tokens made on another: who leaves with
// its blocks, who comes with a cache, and the order of the prompts that wait.
#include <algorithm>

#include "serving/scheduler/vllm_v1.h"

namespace foretoken {

// TetriInfer's prefill scheduler: when those that were put in order have started, the next ones are. Those
// that were preempted go before them.
void VllmV1Scheduler::order_window() {
  const PrefillWindow& w = config_.prefill_window;
  if (w.order == PrefillOrder::kFcfs || ordered_ > 0) return;
  const auto begin = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](std::int32_t slot) { return sequences_[slot].preemptions == 0; });
  const auto end = begin + std::min<std::ptrdiff_t>(w.requests, waiting_.end() - begin);
  std::stable_sort(begin, end, [&](std::int32_t a, std::int32_t b) {
    const std::int32_t x = sequences_[a].request.input_len, y = sequences_[b].request.input_len;
    return w.order == PrefillOrder::kSjf ? x < y : x > y;
  });
  ordered_ = end - begin;
}

void VllmV1Scheduler::park(std::span<const std::int32_t> slots) {
  for (const std::int32_t slot : slots) running_.erase(std::find(running_.begin(), running_.end(), slot));
}

void VllmV1Scheduler::go_on(std::int32_t slot) {
  sequences_[slot].end_tokens = end_of(sequences_[slot].request);
  running_.push_back(slot);
}

// Nobody is taken in while a preempted request waits for its blocks, nor more than can run at once. The block
// of the next token is part of it, so that whoever has arrived can go on whatever the others hold.
bool VllmV1Scheduler::reserve(std::int32_t slot) {
  if ((!waiting_.empty() && sequences_[waiting_.front()].preemptions > 0) ||
      running() + static_cast<std::int64_t>(arrived_.size()) + reserved_ >= most_running())
    return false;
  Sequence& s = sequences_[slot];
  if (config_.caches_tokens) {
    const std::int64_t need = blocks_for(s.computed + 1);
    if (need > pool_.free() - watermark()) return false;
    append_blocks(s, need);
  }
  s.end_tokens = end_of(s.request);
  s.state = Sequence::State::kRunning;
  ++reserved_;
  return true;
}

void VllmV1Scheduler::arrive(std::int32_t slot) {
  --reserved_;
  arrived_.push_back(slot);
}

void VllmV1Scheduler::cancel(std::int32_t slot) {
  --reserved_;
  release_blocks(sequences_[slot]);
}

}  // namespace foretoken
