#include "serving/scheduler/block_scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "serving/scheduler/decode_span.h"
#include "serving/scheduler/reservation.h"

namespace foretoken {

BlockScheduler::BlockScheduler(const SchedulerParts& parts)
    : config_(parts.config),
      sequences_(parts.sequences),
      pool_(parts.pool),
      regions_(contiguous() ? parts.config.num_blocks : 0, parts.config.buddy),
      batch_(parts.windows, parts.list_decodes),
      grows_(parts.config.caches_tokens && !reserves()),
      rooms_(static_cast<std::size_t>(parts.config.block_size)) {}

void BlockScheduler::enqueue(std::int32_t slot) {
  sequences_[slot].end_tokens = end_tokens(sequences_[slot].request);
  waiting_.push_back(slot);
}

std::optional<std::string> BlockScheduler::never_admitted(const Request& request, std::int64_t kept) const {
  const std::int64_t need = blocks_for(end_tokens(request) - 1);
  if (!config_.caches_tokens || need + kept <= pool_.usable()) return std::nullopt;
  return fmt::format(
      "request of {} tokens needs {} KV blocks beside the {} of the watermark, the engine has {}",
      end_tokens(request) - 1, need, kept, pool_.usable());
}

const Batch& BlockScheduler::schedule(Picoseconds now) {
  batch_.clear();
  decoded_.clear();
  preempted_ = eager_ = false;
  decide(now);
  return batch_.build();
}

bool BlockScheduler::admit(Picoseconds now, std::int64_t tokens) {
  const std::int32_t slot = waiting_.front();
  Sequence& s = sequences_[slot];
  if (config_.caches_tokens) {
    if (reserves()) {
      if (!reserve(s)) return false;
    } else {
      if (blocks_for(tokens) > pool_.free()) return false;
      pool_.allocate(blocks_for(tokens), s.blocks);
    }
    s.capacity = static_cast<std::int32_t>(static_cast<std::int64_t>(s.blocks.size()) * config_.block_size);
  }
  waiting_.pop_front();
  running_.push_back(slot);
  s.state = Sequence::State::kRunning;
  if (s.cached_tokens < 0) {
    s.cached_tokens = 0;
    s.scheduled = now;
  }
  return true;
}

bool BlockScheduler::reserve(Sequence& s) {
  const std::int64_t count = blocks_for(reserved_tokens(config_, s.request));
  if (!contiguous()) {
    if (count > pool_.free()) return false;
    pool_.allocate(count, s.blocks);
    return true;
  }
  const RegionPool::Block first = regions_.allocate(count);
  if (first < 0) return false;
  s.blocks.resize(static_cast<std::size_t>(count));
  std::iota(s.blocks.begin(), s.blocks.end(), first);
  return true;
}

bool BlockScheduler::grow(Sequence& s, std::int64_t n, bool eager) {
  if (!grows_) return true;
  const std::int64_t need = blocks_for(s.computed + n + ahead_) - static_cast<std::int64_t>(s.blocks.size());
  if (need > pool_.free() || (eager && pool_.free() == 0)) return false;
  if (need <= 0) return true;
  pool_.allocate(need, s.blocks);
  s.capacity += static_cast<std::int32_t>(need * config_.block_size);
  return true;
}

void BlockScheduler::take_prompt(std::int32_t slot, std::int64_t n) {
  Sequence& s = sequences_[slot];
  const bool last = n == left(s);
  batch_.add_prefill(slot, s.request.id, n, s.computed, last);
  s.computed += static_cast<std::int32_t>(n);
  s.decoding = s.token_in_flight = last;
  counts_.scheduled += n;
}

void BlockScheduler::take_decode(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  batch_.add_decode(slot, s.request.id, ++s.computed);
  s.token_in_flight = true;
  ++counts_.scheduled;
  decoded_.push_back(slot);
}

void BlockScheduler::decode_or_preempt(bool eager) {
  eager_ = eager;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::int32_t slot = running_[i];
    if (!sequences_[slot].decoding) continue;
    bool grown = false;
    while (!(grown = grow(sequences_[slot], 1, eager))) {
      const std::int32_t victim = running_.back();
      preempt(victim);
      if (victim == slot) break;
    }
    if (grown) take_decode(slot);
  }
}

void BlockScheduler::preempt(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  running_.erase(std::find(running_.rbegin(), running_.rend(), slot).base() - 1);
  release(s);
  counts_.discarded += s.computed;
  s.computed = 0;
  s.decoding = false;
  s.state = Sequence::State::kWaiting;
  ++s.preemptions;
  waiting_.push_front(slot);
  preempted_ = true;
}

void BlockScheduler::release(std::vector<KvBlockPool::Block>& blocks, std::int32_t& capacity,
                             std::int64_t computed) {
  if (reserves() && !blocks.empty()) {
    counts_.reserved += capacity;
    counts_.filled += computed;
  }
  if (!contiguous())
    pool_.release(blocks, 0);
  else if (!blocks.empty())
    regions_.release(blocks.front(), static_cast<std::int64_t>(blocks.size()));
  blocks.clear();
  capacity = 0;
}

// Who decodes goes on while blocks last: free ones only become fewer until somebody ends, so whoever waits
// for them goes on waiting, and so does who waits for a place.
std::int64_t BlockScheduler::hold() const {
  if (preempted_ || batch_.has_prefill()) return 1;
  if (decoded_.empty()) return waiting_.empty() && running_.empty() && batch_.empty() ? kForever : 1;
  const std::int64_t steps =
      std::min(repeats(), steps_to_first_change(sequences_, decoded_, batch_.windows()));
  if (steps <= 1 || !grows_) return std::max<std::int64_t>(steps, 1);
  const std::int64_t spare = pool_.free() - (eager_ ? 1 : 0);
  if (spare < 0) return 1;
  std::fill(rooms_.begin(), rooms_.end(), 0);
  for (const std::int32_t slot : decoded_) {
    const Sequence& s = sequences_[slot];
    ++rooms_[static_cast<std::size_t>(s.capacity - s.computed - ahead_)];
  }
  return std::min(steps, 1 + steps_with_blocks(rooms_, static_cast<std::int64_t>(decoded_.size()), spare));
}

// Which block holds what decides nothing here, so each sequence takes its own at once.
void BlockScheduler::advance(std::int64_t steps) {
  if (steps <= 0 || decoded_.empty()) return;
  for (const std::int32_t slot : decoded_) {
    Sequence& s = sequences_[slot];
    if (!grow(s, steps)) throw std::logic_error("a span of decode steps runs out of blocks");
    s.computed += static_cast<std::int32_t>(steps);
    s.num_tokens += static_cast<std::int32_t>(steps);
  }
  counts_.scheduled += batch_.decodes() * steps;
  repeated(steps);
}

void BlockScheduler::finish(std::span<const std::int32_t> slots) {
  if (slots.empty()) return;
  std::erase_if(running_, [&](std::int32_t slot) {
    return sequences_[slot].num_tokens >= sequences_[slot].end_tokens;
  });
  for (const std::int32_t slot : slots) leave(sequences_[slot]);
}

}  // namespace foretoken
