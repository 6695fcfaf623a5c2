#include "serving/kv_tiers.h"

#include <algorithm>
#include <stdexcept>

namespace foretoken {

KvTierCounts& KvTierCounts::operator+=(const KvTierCounts& o) {
  hit_tokens += o.hit_tokens;
  loaded += o.loaded;
  written += o.written;
  evicted += o.evicted;
  refused += o.refused;
  reading += o.reading;
  writing += o.writing;
  return *this;
}

KvTiers::KvTiers(const KvTiersConfig& config, int block_size, std::vector<std::shared_ptr<KvTier>> tiers,
                 Backend& backend, TimelineWriter* timeline, std::int32_t engine, std::int32_t rank)
    : config_(config),
      block_size_(block_size),
      tiers_(std::move(tiers)),
      backend_(backend),
      timeline_(timeline),
      engine_(engine),
      rank_(rank),
      scratch_(tiers_.size()),
      counts_(tiers_.size()) {}

std::int64_t KvTiers::find(const BlockHashes& hashes, std::int64_t first, std::int64_t end, Picoseconds now) {
  found_.clear();
  for (std::int64_t b = first; b < end; ++b) {
    Place place{-1, -1};
    for (std::size_t t = 0; t < tiers_.size() && place.tier < 0; ++t) {
      const KvTier::Slot slot = tiers_[t]->find(hashes[b]);
      if (slot >= 0 && tiers_[t]->ready(slot, now)) place = {static_cast<std::int32_t>(t), slot};
    }
    if (place.tier < 0) break;
    found_.push_back(place);
  }
  return static_cast<std::int64_t>(found_.size());
}

// Blocks in a row that lie in one tier.
std::int64_t KvTiers::run_length(std::size_t from, std::size_t end) const {
  std::size_t n = 1;
  while (from + n < end && found_[from + n].tier == found_[from].tier) ++n;
  return static_cast<std::int64_t>(n);
}

std::int64_t KvTiers::worth_loading(RequestId request, std::int64_t first, std::int64_t tokens,
                                    Picoseconds now) {
  const auto all = static_cast<std::int64_t>(found_.size());
  if (!config_.by_cost) return all;
  std::int64_t i = 0;
  while (i < all) {
    const std::int64_t run = run_length(static_cast<std::size_t>(i), found_.size());
    const std::int32_t tier = found_[static_cast<std::size_t>(i)].tier;
    const std::int64_t cached = (first + i) * block_size_;
    const TierLoad load{engine_,
                        rank_,
                        request,
                        tier,
                        run,
                        cached,
                        run * block_size_,
                        tokens - cached - run * block_size_,
                        tiers_[static_cast<std::size_t>(tier)]->read_wait(now)};
    if (!backend_.worth_loading(load)) {
      if (timeline_ != nullptr)
        timeline_->tier({engine_, rank_, request, tier, -1, run, now, now, load.wait, true, cached});
      break;
    }
    i += run;
  }
  return i;
}

// When it starts. Copies of one direction of a link are one after the other.
Picoseconds KvTiers::move(RequestId request, std::int32_t from, std::int32_t to,
                          std::span<const BlockCopy> blocks, Picoseconds at, Picoseconds& end) {
  const Picoseconds duration = backend_.move_blocks({engine_, rank_, request, from, to, blocks});
  if (duration < 0) throw std::logic_error("a copy of KV blocks of negative duration");
  const bool reads = to < from;
  const auto index = static_cast<std::size_t>(reads ? from : to);
  KvTier& tier = *tiers_[index];
  const Picoseconds start = reads ? tier.read(at, duration) : tier.write(at, duration);
  (reads ? counts_[index].reading : counts_[index].writing) += duration;
  (reads ? counts_[index].loaded : counts_[index].written) += static_cast<std::int64_t>(blocks.size());
  end = start + duration;
  if (timeline_ != nullptr)
    timeline_->tier({engine_, rank_, request, from, to, static_cast<std::int64_t>(blocks.size()), at, start,
                     duration, false, 0});
  return start;
}

void KvTiers::pin(std::int64_t blocks) {
  for (std::int64_t i = 0; i < blocks; ++i) {
    const Place& place = found_[static_cast<std::size_t>(i)];
    tiers_[static_cast<std::size_t>(place.tier)]->pin(place.slot);
  }
}

Picoseconds KvTiers::load(RequestId request, std::span<const Block> to, Picoseconds now) {
  std::vector<BlockCopy>& copies = scratch_.front().copies;
  const Picoseconds asked = now;
  now = std::max(now, written_back_at_);
  Picoseconds last = now;
  for (std::size_t i = 0; i < to.size();) {
    const auto run = static_cast<std::size_t>(run_length(i, to.size()));
    const std::int32_t t = found_[i].tier;
    copies.clear();
    for (std::size_t k = i; k < i + run; ++k) copies.push_back({found_[k].slot, to[k]});
    Picoseconds end = 0;
    const Picoseconds start = move(request, t, -1, copies, now, end);
    for (const BlockCopy& c : copies) {
      tiers_[static_cast<std::size_t>(t)]->keep(c.from, end);
      tiers_[static_cast<std::size_t>(t)]->unpin(c.from);
    }
    for (std::size_t k = i; k < i + run; ++k) of(to[k]) = {};
    if (config_.layers > 0) {
      loads_start_ = loads_end_ == 0 ? start : std::min(loads_start_, start);
      loads_end_ = std::max(loads_end_, end);
    }
    last = std::max(last, end);
    i += run;
  }
  ++loads_;
  load_wait_ += last - asked;
  return last;
}

void KvTiers::count_hits(std::int64_t blocks) {
  for (std::int64_t i = 0; i < blocks; ++i)
    counts_[static_cast<std::size_t>(found_[static_cast<std::size_t>(i)].tier)].hit_tokens += block_size_;
}

void KvTiers::use(const BlockHashes& hashes, std::int64_t blocks) {
  for (const auto& tier : tiers_) {
    tier->next_use(blocks);
    for (std::int64_t b = 0; b < blocks; ++b)
      if (const KvTier::Slot slot = tier->find(hashes[b]); slot >= 0) tier->use(slot, b);
  }
}

KvTiers::PerBlock& KvTiers::of(Block block) {
  if (blocks_.size() <= static_cast<std::size_t>(block)) blocks_.resize(static_cast<std::size_t>(block) + 1);
  return blocks_[static_cast<std::size_t>(block)];
}

void KvTiers::offer(Block block, std::uint64_t hash, std::int64_t position, bool known, bool leaves) {
  const auto at = static_cast<std::int32_t>(position);
  PerBlock& own = of(block);
  own = {at, known ? own.uses + 1 : 1};
  const KvTierConfig::Write write = config_.tiers.front().write;
  if (write == KvTierConfig::Write::kBack || (write == KvTierConfig::Write::kSelective && own.uses < 2))
    return;
  if (tiers_.front()->find(hash) < 0) (leaves ? leaving_ : offered_).push_back({block, hash, at});
}

void KvTiers::write_offered(Picoseconds at) {
  if (offered_.empty()) return;
  put(0, at, offered_);
  offered_.clear();
}

void KvTiers::write_leaving(Picoseconds at) {
  if (leaving_.empty()) return;
  put(0, at, leaving_);
  leaving_.clear();
}

void KvTiers::write_back(std::span<const KvBlockPool::Evicted> leaving, Picoseconds now) {
  for (const KvBlockPool::Evicted& l : leaving) leaving_.push_back({l.block, l.hash, of(l.block).position});
  const Picoseconds end = put(0, std::max(now, written_back_at_), leaving_);
  leaving_.clear();
  if (end > now) written_back_at_ = std::max(written_back_at_, end);
}

// Writes what the tier lacks; when the last of it is there, `at` if nothing was written. Whoever makes room
// has gone to the tier below before that.
Picoseconds KvTiers::put(std::size_t t, Picoseconds at, std::span<const Offer> offers) {
  KvTier& tier = *tiers_[t];
  Scratch& s = scratch_[t];
  s.copies.clear(), s.demoted.clear(), s.below.clear();
  const bool lower = t + 1 < tiers_.size();
  const KvTierConfig::Write down = lower ? config_.tiers[t + 1].write : KvTierConfig::Write::kThrough;
  tier.next_use(static_cast<std::int64_t>(offers.size()));
  std::int64_t age = 0;
  for (const Offer& o : offers) {
    if (tier.find(o.hash) >= 0) continue;
    KvTier::Evicted gone;
    const KvTier::Slot slot = tier.place(o.hash, o.position, age++, at, gone);
    if (slot < 0) {
      ++counts_[t].refused;
      continue;
    }
    s.copies.push_back({o.from, slot});
    counts_[t].evicted += gone.hash != 0;
    if (lower && down == KvTierConfig::Write::kBack && gone.hash != 0)
      s.demoted.push_back({slot, gone.hash, gone.position});
    if (lower && down == KvTierConfig::Write::kThrough) s.below.push_back({slot, o.hash, o.position});
  }
  if (!s.demoted.empty()) at = put(t + 1, at, s.demoted);
  if (s.copies.empty()) return at;
  Picoseconds end = 0;
  move(-1, static_cast<std::int32_t>(t) - 1, static_cast<std::int32_t>(t), s.copies, at, end);
  for (const BlockCopy& c : s.copies) tier.written(c.to, end);
  if (!s.below.empty()) put(t + 1, end, s.below);
  return end;
}

Picoseconds KvTiers::copy_out(std::span<const BlockCopy> blocks, Picoseconds at) {
  Picoseconds end = 0;
  move(-1, -1, 0, blocks, at, end);
  return end;
}

void KvTiers::copy_back(std::span<const BlockCopy> blocks, Picoseconds now) {
  written_back_at_ = std::max(written_back_at_, copy_out(blocks, std::max(now, written_back_at_)));
}

Picoseconds KvTiers::copy_in(std::int64_t requests, std::span<const BlockCopy> blocks, Picoseconds now) {
  Picoseconds end = 0;
  const Picoseconds start = move(-1, 0, -1, blocks, std::max(now, written_back_at_), end);
  loads_start_ = loads_end_ == 0 ? start : std::min(loads_start_, start);
  loads_end_ = std::max(loads_end_, end);
  loads_ += requests;
  load_wait_ += requests * (end - now);
  return end;
}

Picoseconds KvTiers::store(std::span<const Block> host, std::span<const std::uint64_t> hashes,
                           Picoseconds at) {
  KvTier& storage = *tiers_.back();
  std::vector<BlockCopy>& copies = scratch_.back().copies;
  storage.next_use(static_cast<std::int64_t>(hashes.size()));
  Picoseconds last = at;
  for (std::size_t first = 0; first < hashes.size(); first += kStorageBatch) {
    copies.clear();
    for (std::size_t i = first; i < std::min(first + kStorageBatch, hashes.size()); ++i) {
      if (storage.find(hashes[i]) >= 0) continue;
      KvTier::Evicted gone;
      const KvTier::Slot slot = storage.place(hashes[i], 0, static_cast<std::int64_t>(i), at, gone);
      counts_.back().evicted += gone.hash != 0;
      if (slot < 0)
        ++counts_.back().refused;
      else
        copies.push_back({host.empty() ? -1 : host[i], slot});
    }
    if (copies.empty()) continue;
    move(-1, 0, 1, copies, at, last);
    for (const BlockCopy& c : copies) storage.written(c.to, last);
  }
  return last;
}

void KvTiers::find_stored(std::span<const std::uint64_t> hashes, Picoseconds now,
                          std::vector<KvTier::Slot>& slots) {
  KvTier& storage = *tiers_.back();
  for (const std::uint64_t hash : hashes) {
    const KvTier::Slot slot = storage.find(hash);
    if (slot < 0 || !storage.ready(slot, now)) break;
    slots.push_back(slot);
  }
  storage.next_use(static_cast<std::int64_t>(slots.size()));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    storage.use(slots[i], static_cast<std::int64_t>(i));
    storage.pin(slots[i]);
  }
}

void KvTiers::release_stored(std::span<const KvTier::Slot> slots) {
  for (const KvTier::Slot slot : slots) tiers_.back()->unpin(slot);
}

Picoseconds KvTiers::fetch(RequestId request, std::span<const BlockCopy> blocks, Picoseconds at) {
  Picoseconds end = 0;
  move(request, 1, 0, blocks, at, end);
  return end;
}

// What is computed waits for the blocks that are written back. Of what is loaded layer by layer the k-th of n
// layers is there at start + (end - start) k / n and computed after the one before it: whichever of the first
// and the last layer comes later decides.
Picoseconds KvTiers::stall(Picoseconds now, Picoseconds computing) const {
  Picoseconds end = std::max(now, written_back_at_) + computing;
  if (loads_end_ > 0) {
    const Picoseconds layers = std::max(config_.layers, 1);
    end = std::max({end, loads_start_ + (loads_end_ - loads_start_) / layers + computing,
                    loads_end_ + computing / layers});
  }
  return end - now - computing;
}

}  // namespace foretoken
