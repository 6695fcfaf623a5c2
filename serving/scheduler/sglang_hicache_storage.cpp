// HiCache's storage under SGLang's scheduler: what is written there and when, what is read ahead for requests
// that wait, and until when these wait for it (hiradix_cache.py, managers/cache_controller.py;
// docs/policies.md).
#include <algorithm>

#include "serving/scheduler/sglang.h"

namespace foretoken {
namespace {

using Policy = KvTiersConfig::Prefetch;
constexpr Picoseconds kSecond = 1'000'000'000'000;
constexpr Picoseconds kTimeout = kSecond;                // prefetch_timeout_base
constexpr Picoseconds kTimeoutPerKiToken = kSecond / 4;  // prefetch_timeout_per_ki_token

}  // namespace

// What has come to host memory goes on to storage; of a node that was split meanwhile the rest alone.
void SglangScheduler::store_node(RadixCache::Node node, Picoseconds now) {
  tree_.key_to(node, key_);
  std::int64_t tokens = 0;
  for (const TokenRun& run : key_) tokens += run.tokens;
  tree_.page_hashes(key_, tokens, hashes_);
  const auto own = static_cast<std::size_t>(tree_.tokens(node) / page_);
  tree_.protect_host(node);
  storing_.push_back(
      {tiers_->store(tree_.host_pages(node), std::span<const std::uint64_t>(hashes_).last(own), now), node});
}

// A request joins the queue.
void SglangScheduler::prefetch(std::int32_t slot) {
  const Sequence& s = sequences_[slot];
  token_key(s.request, workload_.content(s.request), s.num_tokens, key_);
  const RadixCache::Match hit = tree_.match(key_, s.num_tokens - 1);
  const std::int64_t prefix = hit.tokens + hit.host_tokens, asked = (s.num_tokens - prefix) / page_ * page_;
  const std::int64_t threshold = std::max(config_.kv_tiers.prefetch_threshold, page_);
  if (!tree_.on_host(hit.node) || asked < threshold || prefetching_ >= most_prefetching_) return;
  auto p = std::make_shared<Prefetch>();
  tree_.protect_host(hit.deepest);
  if (!tree_.reserve_host(asked, p->pages)) return tree_.release_host(hit.deepest);
  tree_.page_hashes(key_, prefix + asked, hashes_);
  tiers_->find_stored(
      std::span<const std::uint64_t>(hashes_).subspan(static_cast<std::size_t>(prefix / page_)), now_,
      p->from);
  p->hits = static_cast<std::int64_t>(p->from.size()) * page_;
  if (p->hits < threshold) {
    tiers_->release_stored(p->from);
    tree_.return_host(asked, p->pages);
    return tree_.release_host(hit.deepest);
  }
  const std::size_t kept = std::min(p->pages.size(), p->from.size());
  tree_.return_host(asked - p->hits, std::span<const RadixCache::Page>(p->pages).subspan(kept));
  p->pages.resize(kept);
  p->request = s.request.id;
  p->last = hit.deepest;
  p->prefix = prefix;
  p->asked = asked;
  p->at = now_;
  p->gives_up = now_ + kTimeout + p->hits * kTimeoutPerKiToken / 1024;
  prefetching_ += asked;
  reads_.push_back(p);
  held(slot).prefetch = std::move(p);
}

// One thread reads, batch by batch, one request after the other. What nobody waits for any more it notices
// behind a batch only, and so reads one of it even if none was read yet; until then that keeps its room.
void SglangScheduler::read_storage(Picoseconds now) {
  while (!reads_.empty()) {
    Prefetch& p = *reads_.front();
    if (p.reading == 0) {
      p.reading = std::min(p.hits - p.done, static_cast<std::int64_t>(KvTiers::kStorageBatch) * page_);
      const auto first = static_cast<std::size_t>(p.done / page_);
      copies_.clear();
      for (std::size_t i = 0; i < static_cast<std::size_t>(p.reading / page_); ++i)
        copies_.push_back({p.from[first + i], p.pages.empty() ? -1 : p.pages[first + i]});
      p.until = tiers_->fetch(p.request, copies_, std::max(reader_free_, p.at));
    }
    if (p.until > now) return;
    reader_free_ = p.until;
    if (!p.over) p.done += p.reading;
    p.reading = 0;
    if (!p.over && p.done < p.hits) continue;
    tiers_->release_stored(p.from);
    if (p.over) {
      const std::size_t used = p.pages.empty() ? 0 : static_cast<std::size_t>(p.done / page_);
      tree_.return_host(p.hits - p.done, std::span<const RadixCache::Page>(p.pages).subspan(used));
    }
    reads_.pop_front();
  }
}

// The prefill batch looks at a waiting request: false passes over it. Else what came for it enters the tree.
bool SglangScheduler::fetched(std::int32_t slot, Picoseconds now) {
  if (held(slot).prefetch == nullptr) return true;
  Prefetch& p = *held(slot).prefetch;
  const Policy policy = config_.kv_tiers.prefetch;
  if (p.done < p.hits && policy != Policy::kBestEffort && !(policy == Policy::kTimeout && now >= p.gives_up))
    return false;
  const Sequence& s = sequences_[slot];
  token_key(s.request, workload_.content(s.request), p.prefix + p.done, key_);
  const std::size_t came = p.pages.empty() ? 0 : static_cast<std::size_t>(p.done / page_);
  held(slot).fetched = tree_.insert_host(key_, p.prefix + p.done, p.prefix,
                                         std::span<const RadixCache::Page>(p.pages).first(came));
  tree_.release_host(p.last);
  prefetching_ -= p.asked;
  p.over = true;
  held(slot).prefetch.reset();
  return true;
}

}  // namespace foretoken
