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
      most_running_(parts.config.max_num_seqs),
      batch_(parts.windows, parts.list_decodes),
      grows_(parts.config.caches_tokens && !reserves()),
      workload_(parts.workload),
      host_(parts.config.caches_tokens ? parts.config.num_host_blocks : 0),
      quota_(parts.quota),
      rooms_(static_cast<std::size_t>(parts.config.block_size)) {}

void BlockScheduler::enqueue(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  s.end_tokens = config_.prefill_only || s.moves_on ? s.request.input_len + 1 : end_tokens(s.request);
  s.shared_blocks =
      caching() ? nameable_blocks(s.request, workload_->content(s.request), config_.block_size) : 0;
  waiting_.push_back(slot);
}

std::optional<std::string> BlockScheduler::never_admitted(const Request& request, std::int64_t kept) const {
  const std::int64_t need = blocks_for(end_tokens(request) - 1);
  if (!config_.caches_tokens || need + kept <= usable_blocks()) return std::nullopt;
  return fmt::format(
      "request of {} tokens needs {} KV blocks beside the {} of the watermark, the engine has {}",
      end_tokens(request) - 1, need, kept, usable_blocks());
}

const Batch& BlockScheduler::schedule(Picoseconds now) {
  batch_.clear();
  decoded_.clear();
  preempted_ = eager_ = false;
  first_end_ = -1;
  decide(now);
  for (const std::int32_t slot : entering_) enter_blocks(sequences_[slot], sequences_[slot].shared_blocks);
  entering_.clear();
  const Batch& batch = batch_.build();
  if (config_.pipeline_depth > 1 && !batch.empty()) {
    steps_.push_back(decoded_);
    for (const PrefillPart& part : batch.prefill)
      if (part.slot >= 0) steps_.back().push_back(part.slot);  // others are padding
    for (const std::int32_t slot : steps_.back()) {
      if (in_flight_.size() <= static_cast<std::size_t>(slot))
        in_flight_.resize(static_cast<std::size_t>(slot) + 1);
      in_flight_[static_cast<std::size_t>(slot)] = true;
    }
  }
  return batch;
}

void BlockScheduler::completed() {
  if (steps_.empty()) return;
  for (const std::int32_t slot : steps_.front()) in_flight_[static_cast<std::size_t>(slot)] = false;
  steps_.pop_front();
}

// A preempted sequence finds what it has generated, too.
std::int64_t BlockScheduler::look_up(Sequence& s) {
  hits_ = free_hits_ = 0;
  if (!caching()) return 0;
  std::int64_t most = s.num_tokens / config_.block_size;
  if (s.preemptions == 0) most = std::min<std::int64_t>(most, s.shared_blocks);
  const auto found =
      find_prefix(pool_, config_.block_size, s.request, workload_->content(s.request), most, s.hashes);
  hits_ = found.blocks;
  free_hits_ = found.free;
  return std::min<std::int64_t>(hits_ * config_.block_size, s.num_tokens - 1);
}

bool BlockScheduler::admit(Picoseconds now, std::int64_t tokens) {
  const std::int32_t slot = waiting_.front();
  Sequence& s = sequences_[slot];
  if (config_.caches_tokens) {
    const std::int64_t need = blocks_for(reserves() ? reserved_tokens(config_, s.request) : tokens);
    if (reserves()) {
      if (!reserve_all(need, s)) return false;
    } else {
      if (need - hits_ + free_hits_ > free_blocks()) return false;
      if (hits_ > 0) {
        s.blocks.clear();
        pool_.take(s.hashes.first(hits_), s.blocks);
      }
      take_blocks(need - hits_, s);
    }
    s.capacity = static_cast<std::int32_t>(need * config_.block_size);
  }
  waiting_.pop_front();
  running_.push_back(slot);
  s.entered_blocks = static_cast<std::int32_t>(hits_);
  reuse(s, std::min<std::int64_t>(hits_ * config_.block_size, s.num_tokens - 1));
  start(s, now);
  hits_ = free_hits_ = 0;
  return true;
}

void BlockScheduler::reuse(Sequence& s, std::int64_t cached) {
  s.computed = static_cast<std::int32_t>(cached);
  counts_.reused += cached;
}

void BlockScheduler::start(Sequence& s, Picoseconds now) {
  s.state = Sequence::State::kRunning;
  if (s.cached_tokens >= 0) return;
  s.cached_tokens = s.computed;
  s.scheduled = now;
  if (!config_.enable_prefix_caching || !config_.caches_tokens) return;
  counts_.queried += s.num_tokens;
  counts_.hit += s.computed;
}

bool BlockScheduler::reserve_all(std::int64_t count, Sequence& s) {
  if (!contiguous()) {
    if (count > free_blocks()) return false;
    take_blocks(count, s);
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
  const std::int64_t missing = s.computed + n + ahead_ - s.capacity;
  if (missing <= 0 && !eager) return true;
  const std::int64_t need = missing <= 0 ? 0 : missing <= config_.block_size ? 1 : blocks_for(missing);
  if (need > free_blocks() || (eager && free_blocks() == 0)) return false;
  if (need == 0) return true;
  take_blocks(need, s);
  s.capacity += static_cast<std::int32_t>(need * config_.block_size);
  return true;
}

void BlockScheduler::take_prompt(std::int32_t slot, std::int64_t n) {
  Sequence& s = sequences_[slot];
  const bool last = n == left(s);
  batch_.add_prefill(slot, s.request.id, n, s.computed, last);
  s.computed += static_cast<std::int32_t>(n);
  s.decoding = s.token_in_flight = last;
  enter_later(slot, s);
  counts_.scheduled += n;
}

void BlockScheduler::take_decode(std::int32_t slot, std::int32_t drafted) {
  Sequence& s = sequences_[slot];
  s.computed += 1 + drafted;
  batch_.add_decode(slot, s.request.id, s.computed, drafted);
  s.token_in_flight = true;
  enter_later(slot, s);
  counts_.scheduled += 1 + drafted;
  decoded_.push_back(slot);
}

// One block at the most for each, so where so many are free nobody has to be asked for one.
bool BlockScheduler::decode_all() {
  if (names_blocks_ || !grows_ || ahead_ > 0 || config_.pipeline_depth > 1 || most_in_batch_ != kForever ||
      !batch_.takes_sums() || running() > free_blocks())
    return false;
  std::int64_t contexts = 0, blocks = 0;
  std::int32_t longest = 0;
  first_end_ = kForever;
  for (const std::int32_t slot : running_) {
    Sequence& s = sequences_[slot];
    if (!s.decoding) continue;
    if (s.computed++ == s.capacity) {
      s.capacity += config_.block_size;
      ++blocks;
    }
    s.token_in_flight = true;
    contexts += s.computed;
    longest = std::max(longest, s.computed);
    first_end_ = std::min<std::int64_t>(first_end_, s.end_tokens - s.num_tokens);
    decoded_.push_back(slot);
  }
  pool_.lend(blocks);
  held_ += blocks;
  batch_.add_decodes(decoded_, contexts, longest);
  counts_.scheduled += std::ssize(decoded_);
  return true;
}

void BlockScheduler::decode_or_preempt(bool eager) {
  eager_ = eager;
  if (!eager && decode_all()) return;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::int32_t slot = running_[i];
    if (!sequences_[slot].decoding || in_flight(slot)) continue;
    if (batch_.sequences() >= most_in_batch_) break;
    bool grown = false;
    while (!(grown = grow(sequences_[slot], 1, eager))) {
      const std::int32_t victim = *std::find_if(running_.rbegin(), running_.rend(),
                                                [this](std::int32_t other) { return !in_flight(other); });
      preempt(victim);
      if (victim == slot) break;
    }
    if (grown) take_decode(slot);
  }
}

void BlockScheduler::preempt(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  running_.erase(std::find(running_.rbegin(), running_.rend(), slot).base() - 1);
  s.state = Sequence::State::kWaiting;
  ++s.preemptions;
  preempted_ = true;
  if (swap_out(s)) {
    swapped_.push_back(slot);
    return release(s);
  }
  if (caching()) enter_blocks(s, std::numeric_limits<std::int32_t>::max());
  release(s);
  counts_.discarded += s.computed;
  s.computed = 0;
  s.decoding = false;
  waiting_.push_front(slot);
}

bool BlockScheduler::swap_out(Sequence& s) {
  const std::int64_t count = blocks_for(s.computed);
  if (count == 0 || count > host_.free()) return false;
  host_.allocate(count, s.host_blocks);
  for (std::size_t b = 0; b < s.host_blocks.size(); ++b)
    batch_.swap_out().push_back({s.blocks[b], s.host_blocks[b]});
  counts_.swapped_out += count;
  return true;
}

void BlockScheduler::swap_in(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  take_blocks(blocks_for(s.computed + 1), s);
  s.capacity = static_cast<std::int32_t>(std::ssize(s.blocks) * config_.block_size);
  for (std::size_t b = 0; b < s.host_blocks.size(); ++b)
    batch_.swap_in().push_back({s.host_blocks[b], s.blocks[b]});
  counts_.swapped_in += std::ssize(s.host_blocks);
  host_.release(s.host_blocks);
  s.host_blocks.clear();
  s.state = Sequence::State::kRunning;
  running_.push_back(slot);
}

void BlockScheduler::enter_until(Sequence& s, std::int64_t full) {
  if (s.entered_blocks >= full) return;
  s.hashes.extend(full, config_.block_size, s.request, workload_->content(s.request));
  pool_.enter(std::span(s.blocks).first(static_cast<std::size_t>(full)), s.entered_blocks,
              s.hashes.first(full));
  s.entered_blocks = static_cast<std::int32_t>(full);
}

std::int64_t BlockScheduler::take_cached(Sequence& s, std::int64_t most) {
  const std::int64_t found =
      find_prefix(pool_, config_.block_size, s.request, workload_->content(s.request), most, s.hashes).blocks;
  if (found == 0) return 0;
  pool_.take(s.hashes.first(found), s.blocks);
  s.entered_blocks = static_cast<std::int32_t>(found);
  s.capacity = static_cast<std::int32_t>(found * config_.block_size);
  return found;
}

void BlockScheduler::release(Sequence& s) {
  if (!caching()) return release(s.blocks, s.capacity, s.computed);
  release_filled(s.blocks, s.computed, s.entered_blocks);
  s.entered_blocks = 0;
  s.capacity = 0;
}

void BlockScheduler::release_filled(std::vector<KvBlockPool::Block>& blocks, std::int64_t computed,
                                    std::int64_t entered) {
  const std::int64_t full = std::min<std::int64_t>(computed / config_.block_size, std::ssize(blocks));
  const auto kept = static_cast<std::size_t>(std::max(full, entered));
  const std::span<const KvBlockPool::Block> all(blocks);
  pool_.release_blank(all.subspan(kept));
  pool_.release(all.first(kept), entered);
  blocks.clear();
}

void BlockScheduler::release(std::vector<KvBlockPool::Block>& blocks, std::int32_t& capacity,
                             std::int64_t computed) {
  if (reserves() && !blocks.empty()) {
    counts_.reserved += capacity;
    counts_.filled += computed;
  }
  if (!contiguous()) {
    const std::int64_t count = names_blocks_ ? std::ssize(blocks) : capacity / config_.block_size;
    if (names_blocks_)
      pool_.release(blocks, 0);
    else
      pool_.give_back(count);
    held_ -= count;
  } else if (!blocks.empty()) {
    regions_.release(blocks.front(), static_cast<std::int64_t>(blocks.size()));
  }
  blocks.clear();
  capacity = 0;
}

// Who decodes goes on while blocks last: free ones only become fewer until somebody ends, so whoever waits
// for them goes on waiting, and so does who waits for a place.
std::int64_t BlockScheduler::hold() const {
  if (preempted_ || batch_.has_prefill() || batch_.copies()) return 1;
  if (decoded_.empty()) return waiting() == 0 && running_.empty() && batch_.empty() ? kForever : 1;
  if (config_.draft_tokens > 0) return 1;  // how many tokens a step yields is known only afterwards
  const std::int64_t change =
      first_end_ >= 0 ? first_end_ : steps_to_first_change(sequences_, decoded_, batch_.windows());
  const std::int64_t steps = std::min(repeats(), change);
  if (steps <= 1 || !grows_) return std::max<std::int64_t>(steps, 1);
  const std::int64_t spare = spare_blocks() - (eager_ ? 1 : 0);
  if (spare < 0) return 1;
  std::fill(rooms_.begin(), rooms_.end(), 0);
  if (rooms_.size() == 1) rooms_.front() = std::ssize(decoded_);
  for (std::size_t i = 0; rooms_.size() > 1 && i < decoded_.size(); ++i) {
    const Sequence& s = sequences_[decoded_[i]];
    ++rooms_[static_cast<std::size_t>(s.capacity - s.computed - ahead_)];
  }
  return std::min(steps, 1 + steps_with_blocks(rooms_, static_cast<std::int64_t>(decoded_.size()), spare));
}

// Which of the free blocks holds what decides nothing here, so each sequence takes its own at once.
void BlockScheduler::advance(std::int64_t steps) {
  if (steps <= 0 || decoded_.empty()) return;
  if (grows_) make_room_for(steps);
  for (const std::int32_t slot : decoded_) {
    Sequence& s = sequences_[slot];
    if (s.computed + steps + ahead_ > s.capacity && !grow(s, steps))
      throw std::logic_error("a span of decode steps runs out of blocks");
    s.computed += static_cast<std::int32_t>(steps);
    s.num_tokens += static_cast<std::int32_t>(steps);
    if (s.entered_blocks < s.shared_blocks) enter_blocks(s, s.shared_blocks);
  }
  counts_.scheduled += batch_.decodes() * steps;
  repeated(steps);
}

void BlockScheduler::park(std::span<const std::int32_t> slots) {
  for (const std::int32_t slot : slots) running_.erase(std::find(running_.begin(), running_.end(), slot));
}

void BlockScheduler::go_on(std::int32_t slot) {
  sequences_[slot].end_tokens = end_tokens(sequences_[slot].request);
  running_.push_back(slot);
}

// As vLLM's: nobody while a preempted request waits for its blocks; with the block of the next token.
bool BlockScheduler::reserve(std::int32_t slot) {
  if (!has_place() || (!waiting_.empty() && sequences_[waiting_.front()].preemptions > 0)) return false;
  Sequence& s = sequences_[slot];
  if (config_.caches_tokens) {
    const std::int64_t need = blocks_for(s.computed + 1);
    if (need > free_blocks()) return false;
    take_blocks(need, s);
    s.capacity = static_cast<std::int32_t>(need * config_.block_size);
  }
  s.end_tokens = end_tokens(s.request);
  s.state = Sequence::State::kRunning;
  ++reserved_;
  return true;
}

void BlockScheduler::arrive(std::int32_t slot) {
  --reserved_;
  running_.push_back(slot);
}

void BlockScheduler::cancel(std::int32_t slot) {
  --reserved_;
  release(sequences_[slot]);
}

void BlockScheduler::finish(std::span<const std::int32_t> slots) {
  if (slots.empty()) return;
  std::erase_if(running_, [&](std::int32_t slot) {
    return sequences_[slot].num_tokens >= sequences_[slot].end_tokens;
  });
  for (const std::int32_t slot : slots) leave(sequences_[slot]);
}

}  // namespace foretoken
