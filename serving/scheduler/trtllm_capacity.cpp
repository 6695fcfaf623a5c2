// TensorRT-LLM's capacity scheduler: which requests may hold KV blocks in this step (capacityScheduler.cpp).
#include <algorithm>

#include "serving/scheduler/trtllm.h"

namespace foretoken {

// Blocks that the request still needs until its last token, and for what is drafted beyond it.
std::int64_t TrtllmScheduler::blocks_to_completion(const Sequence& s) const {
  if (!config_.caches_tokens) return 0;
  const std::int64_t end = s.end_tokens + config_.draft_tokens + config_.lookahead;
  return blocks_for(std::min(end, config_.max_model_len)) - held(s);
}

// A prompt gets all of its blocks with its first chunk.
std::int64_t TrtllmScheduler::blocks_for_next_step(const Sequence& s) const {
  if (!config_.caches_tokens) return 0;
  if (!started(s)) return blocks_for(config_.with_lookahead(s.num_tokens));
  if (!s.decoding) return 0;
  std::int64_t tokens = s.computed + generated(s);
  // Two steps ahead where several micro-batches are in flight; the last token is never put into the cache.
  if (pipelined()) tokens = std::min<std::int64_t>(tokens + 1, s.end_tokens - 1);
  return std::max<std::int64_t>(0, blocks_for(config_.with_lookahead(tokens)) - held(s));
}

bool TrtllmScheduler::to_pause(std::int32_t slot) const {
  return std::find(to_pause_.begin(), to_pause_.end(), slot) != to_pause_.end();
}

// GUARANTEED_NO_EVICT and STATIC_BATCH: generation in progress always goes on, and what it needs to its end
// is reserved; contexts join in order while their own need to the end fits the rest.
void TrtllmScheduler::fit_without_eviction() {
  std::int64_t available = pool_.free();
  std::int64_t begun = 0;
  for (const std::int32_t slot : active_) {
    const Sequence& s = sequences_[slot];
    if (!s.decoding) {
      begun += started(s);
      continue;
    }
    fitting_.push_back(slot);
    available -= blocks_to_completion(s);
  }
  const bool is_static = config_.trtllm.capacity_scheduler_policy == TrtllmConfig::Capacity::kStaticBatch;
  if (is_static && !fitting_.empty()) {
    blocked_ = true;
    return;
  }
  // Prompts in chunks keep what they were promised even if one before them, skipped earlier, now wants it.
  for (auto slot = active_.begin(); begun > 0; ++slot) {
    Sequence& s = sequences_[*slot];
    if (s.decoding || !started(s)) continue;
    better_to_skip(s);
    available -= blocks_to_completion(s);
    fitting_.push_back(*slot);
    --begun;
  }
  for (const std::int32_t slot : active_) {
    Sequence& s = sequences_[slot];
    if (started(s)) continue;
    ++candidates_;
    if (better_to_skip(s)) {
      skipped_ = true;
      continue;
    }
    const std::int64_t need = blocks_to_completion(s);
    if (need > available) {
      blocked_ = true;
      return;
    }
    available -= need;
    fitting_.push_back(slot);
  }
}

// MAX_UTILIZATION: blocks for the next step alone, in order; who gets none takes them from the request that
// started last. Where that one is in flight it is paused when its token is out; who is to have its blocks
// waits until then.
void TrtllmScheduler::fit_next_step() {
  std::int64_t promised = 0, coming = 0;
  for (const std::int32_t slot : to_pause_) coming += held(sequences_[slot]);
  std::size_t end = active_.size();
  for (std::size_t i = 0; i < end;) {
    Sequence& s = sequences_[active_[i]];
    if (to_pause(active_[i])) {
      ++i;
      continue;
    }
    if (!started(s)) ++candidates_;
    if (better_to_skip(s)) {
      skipped_ = true;
      ++i;
      continue;
    }
    const std::int64_t need = blocks_for_next_step(s);
    if (promised + need <= pool_.free()) {
      promised += need;
      fitting_.push_back(active_[i++]);
      continue;
    }
    if (promised + need <= pool_.free() + coming) {
      promised += need;
      ++i;
      continue;
    }
    std::size_t last = end;
    while (last > i && (!started(sequences_[active_[last - 1]]) || to_pause(active_[last - 1]))) --last;
    if (last == i) {
      blocked_ = true;
      return;
    }
    end = last - 1;
    const std::int32_t victim = active_[end];
    if (pipelined() && sequences_[victim].token_in_flight) {
      coming += held(sequences_[victim]);
      to_pause_.push_back(victim);
    } else {
      pause(victim);
    }
  }
}

// The next block of this prompt is being computed by a request before it: a step later it can be reused.
bool TrtllmScheduler::better_to_skip(Sequence& s) {
  if (!caching() || s.decoding) return false;
  std::int64_t most = (s.num_tokens - 1) / config_.block_size;
  if (s.preemptions == 0) most = std::min<std::int64_t>(most, s.shared_blocks);
  std::int64_t next = started(s) ? s.computed / config_.block_size : find_hits(s);
  if (next >= most) return false;
  s.hashes.extend(next + 1, config_.block_size, s.request, workload_.content(s.request));
  const std::uint64_t hash = s.hashes[next];
  const bool known = std::find(contributed_.begin(), contributed_.end(), hash) != contributed_.end();
  if (known) return !started(s);
  contributed_.push_back(hash);
  return false;
}

// Its blocks are freed, but may be found again; what it has generated becomes part of its prompt.
void TrtllmScheduler::pause(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  if (caching()) enter_blocks(s, s.computed / config_.block_size);
  release_blocks(s);
  std::erase(computed_prompts_, slot);
  counts_.discarded += s.computed;
  s.computed = 0;
  s.decoding = false;
  s.drafts = 0;
  s.state = Sequence::State::kWaiting;
  ++s.preemptions;
  --started_;
  paused_ = true;
}

}  // namespace foretoken
