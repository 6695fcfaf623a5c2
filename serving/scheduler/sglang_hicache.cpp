// HiCache under SGLang's scheduler: what is copied between device and host memory and when, who waits for it
// (managers/cache_controller.py, schedule_policy.py's add_one_req).
#include <algorithm>

#include "serving/scheduler/sglang.h"

namespace foretoken {
namespace {

constexpr std::int64_t kLoadBackThreshold = 10;  // load_back_threshold
constexpr std::int32_t kSelectiveUses = 2;       // write_through_threshold of write_through_selective

}  // namespace

void SglangScheduler::use(KvTiers& tiers) {
  tiers_ = &tiers;
  using Write = KvTierConfig::Write;
  const KvTierConfig& host = config_.kv_tiers.tiers.front();
  tree_.use_host({host.blocks * page_,
                  host.write == Write::kBack        ? 0
                  : host.write == Write::kSelective ? kSelectiveUses
                                                    : 1,
                  names_pages_},
                 [this](RadixCache::Node node, std::int64_t tokens, std::span<const RadixCache::Page> from,
                        std::span<const RadixCache::Page> to,
                        bool leaves) { write_node(node, tokens, from, to, leaves); });
  most_prefetching_ = std::max<std::int64_t>(0, 4 * (host.blocks * page_ - total_) / 5);
}

// Each node is a copy of its own.
void SglangScheduler::write_node(RadixCache::Node node, std::int64_t tokens,
                                 std::span<const RadixCache::Page> from, std::span<const RadixCache::Page> to,
                                 bool leaves) {
  copies_.assign(static_cast<std::size_t>(tokens / page_), {-1, -1});
  for (std::size_t i = 0; i < to.size(); ++i) copies_[i] = {from[i], to[i]};
  if (leaves)
    tiers_->copy_back(copies_, now_);
  else
    writing_.push_back({tiers_->copy_out(copies_, now_), node});
}

// check_hicache_events(), which SGLang calls where a prefill batch may be formed and nowhere else.
void SglangScheduler::check_copies(Picoseconds now) {
  for (; !writing_.empty() && writing_.front().until <= now; writing_.pop_front()) {
    tree_.copied(writing_.front().node);
    if (stores()) store_node(writing_.front().node, now);
  }
  for (; !loading_.empty() && loading_.front().until <= now; loading_.pop_front())
    tree_.copied(loading_.front().node);
  for (; !storing_.empty() && storing_.front().until <= now; storing_.pop_front())
    tree_.release_host(storing_.front().node);
  read_storage(now);
}

// Who lacks memory that copies hold, or waits for storage, is asked again when the next of them has ended.
Picoseconds SglangScheduler::wake() const {
  if (waiting_.empty() && chunked_ < 0) return kNoWake;
  Picoseconds next = kNoWake;
  for (const std::deque<Copying>* copies : {&writing_, &loading_, &storing_})
    if (!copies->empty()) next = std::min(next, std::max(now_, copies->front().until));
  if (!reads_.empty()) next = std::min(next, std::max(now_, reads_.front()->until));
  if (config_.kv_tiers.prefetch == KvTiersConfig::Prefetch::kTimeout)
    for (const std::int32_t slot : waiting_)
      if (const auto& p = held_[static_cast<std::size_t>(slot)].prefetch; p && p->gives_up > now_)
        next = std::min(next, p->gives_up);
  return next;
}

// All or nothing.
std::int64_t SglangScheduler::loadable(const RadixCache::Match& hit) const {
  return hit.host_tokens >= kLoadBackThreshold ? hit.host_tokens : 0;
}

// The request holds what comes, which takes memory at once and is copied when the batch is complete.
void SglangScheduler::load_back(RadixCache::Match& hit) {
  tree_.keep(hit.deepest);
  make_room(hit.host_tokens);
  load_to_.clear();
  load_from_.clear();
  take_pages(load_to_, 0, hit.host_tokens);
  tree_.load(hit.deepest, load_to_, load_from_);
  tree_.lock(hit.deepest);
  tree_.unlock(hit.node);
  const std::size_t first = loads_.size();
  loads_.resize(first + static_cast<std::size_t>(hit.host_tokens / page_), {-1, -1});
  for (std::size_t i = 0; i < load_to_.size(); ++i) loads_[first + i] = {load_from_[i], load_to_[i]};
  to_load_.push_back(hit.deepest);
  hit.node = hit.deepest;
  hit.tokens += hit.host_tokens;
}

// One copy for all requests of the batch, layer by layer. It waits for the step before, which may still write
// to pages that are given out again; versions of SGLang without that fence start it while that step computes.
void SglangScheduler::start_loading(Picoseconds now) {
  if (to_load_.empty()) return;
  const Picoseconds until = tiers_->copy_in(static_cast<std::int64_t>(to_load_.size()), loads_, now);
  for (const RadixCache::Node node : to_load_) loading_.push_back({until, node});
  to_load_.clear();
  loads_.clear();
}

void SglangScheduler::count_left() {
  if (tiers_ != nullptr) tiers_->count_left(tree_.host_evicted() / page_, tree_.host_refused() / page_);
}

}  // namespace foretoken
