// What vLLM V1's scheduler does with KV tiers, after its OffloadingConnector: who waits for blocks that are
// loaded, and which blocks it offers to be written.
#include <algorithm>

#include "serving/scheduler/vllm_v1.h"

namespace foretoken {

void VllmV1Scheduler::use(KvTiers& tiers) {
  tiers_ = &tiers;
  if (config_.kv_tiers.writes_back()) pool_.note_evicted(&evicted_);
}

// Whoever loads holds blocks for its whole prompt from the start, so that it can go on once they are there,
// whatever the others hold.
VllmV1Scheduler::Seek VllmV1Scheduler::seek(std::int32_t slot, Picoseconds now, std::int64_t& loaded) {
  Sequence& s = sequences_[slot];
  const std::int64_t hits = hits_;
  const std::int64_t most = most_hits(s);
  s.hashes.extend(most, config_.block_size, s.request, workload_.content(s.request));
  std::int64_t found = tiers_->find(s.hashes, hits, most, now);
  if (found == 0) return Seek::kGoesOn;
  // Hashes are chained: two requests have a block in common where they have all before it.
  for (const Loading& l : loading_) {
    const std::int64_t b = std::max(hits, l.first);
    if (b < std::min(hits + found, l.end) && s.hashes[b] == sequences_[l.slot].hashes[b])
      return Seek::kOthersLoad;
  }
  const bool waits = config_.kv_tiers.layers == 0;
  const std::int64_t need = blocks_for(s.num_tokens) - hits;
  // The price is asked for only once nothing else keeps it waiting.
  if ((waits || config_.reserve_full_prompt) && need > pool_.free() - free_hits_ - watermark()) {
    fragile_ = !config_.reserve_full_prompt;
    return Seek::kNoRoom;
  }
  found = tiers_->worth_loading(s.request.id, hits, s.num_tokens, now);
  if (!waits) loaded = found;
  if (!waits || found == 0) return Seek::kGoesOn;

  take_hits(s);
  tiers_->pin(found);
  append_blocks(s, need);
  const auto to =
      std::span(s.blocks).subspan(static_cast<std::size_t>(hits), static_cast<std::size_t>(found));
  const Picoseconds at = tiers_->load(s.request.id, to, now);
  const std::int64_t computed = (hits + found) * config_.block_size;
  s.state = Sequence::State::kRunning;
  s.computed = static_cast<std::int32_t>(computed);
  s.entered_blocks = static_cast<std::int32_t>(hits);
  counts_.reused += computed;
  if (s.cached_tokens < 0) {
    count_first_admission(s, computed);
    tiers_->count_hits(found);
    s.loading = at - now;
  }
  waiting_.pop_front();
  const auto place = std::upper_bound(loading_.begin(), loading_.end(), at,
                                      [](Picoseconds t, const Loading& l) { return t < l.at; });
  loading_.insert(place, {at, slot, hits, hits + found});
  return Seek::kComes;
}

// From now on others find the blocks in device memory.
void VllmV1Scheduler::join(std::int32_t slot) {
  const auto own =
      std::find_if(loading_.begin(), loading_.end(), [&](const Loading& l) { return l.slot == slot; });
  loading_.erase(own);
  --taken_;
  Sequence& s = sequences_[slot];
  enter_blocks(s, s.computed / config_.block_size);
  arrived_.push_back(slot);
}

void VllmV1Scheduler::tokens_out(Picoseconds at) {
  if (tiers_ == nullptr) return;
  now_ = at;
  tiers_->write_offered(at);
}

// known: the blocks were in device memory when the request came for them, so that this is a new use.
void VllmV1Scheduler::offer_blocks(Sequence& s, bool known, bool leaves) {
  if (known) tiers_->use(s.hashes, s.entered_blocks);
  for (; s.offered_blocks < s.entered_blocks; ++s.offered_blocks)
    tiers_->offer(s.blocks[static_cast<std::size_t>(s.offered_blocks)], s.hashes[s.offered_blocks],
                  s.offered_blocks, known, leaves);
}

void VllmV1Scheduler::write_back() {
  tiers_->write_back(evicted_, now_);
  evicted_.clear();
}

}  // namespace foretoken
