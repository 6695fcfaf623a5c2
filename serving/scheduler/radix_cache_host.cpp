// The radix tree's nodes in host memory, as HiCache keeps them (hiradix_cache.py at 263bc85): whole nodes are
// written, and come back with all between them and what is in device memory; host memory gives away nodes
// that are in no other, leaves first, the least recently used one first.
#include <algorithm>
#include <stdexcept>

#include "base/random.h"
#include "serving/scheduler/radix_cache.h"

namespace foretoken {

void RadixCache::use_host(const HostMemory& host, WriteNode write) {
  if (nodes_.size() > 1) throw std::logic_error("host memory comes before the first tokens");
  host_ = host;
  host_.tokens = host.tokens / page_ * page_;
  host_free_ = host_.tokens;
  write_ = std::move(write);
  nodes_[0].on_host = true;
  if (host_.names_pages)
    for (std::int64_t p = host_.tokens / page_; p > 0; --p)
      free_host_pages_.push_back(static_cast<Page>(p - 1));
}

// Nodes are written after those above them. (SGLang writes one that found room where that above it did not,
// and can't reach it any more once that has left.)
void RadixCache::count_use(Node node) {
  Entry& e = at(node);
  ++e.uses;
  if (host_.write_at > 0 && !e.on_host && e.uses >= host_.write_at && at(e.parent).on_host)
    write(node, false);
}

bool RadixCache::write(Node node, bool leaves) {
  const std::int64_t tokens = at(node).tokens;
  if (host_free_ < tokens) evict_host(tokens);
  if (host_free_ < tokens) {
    host_refused_ += tokens;
    return false;
  }
  host_free_ -= tokens;
  Entry& e = at(node);
  e.on_host = true;
  if (host_.names_pages) {
    const auto first = free_host_pages_.end() - static_cast<std::ptrdiff_t>(tokens / page_);
    e.host_pages.assign(first, free_host_pages_.end());
    free_host_pages_.erase(first, free_host_pages_.end());
  }
  if (!leaves) change_locks(node, 1, true);
  write_(node, tokens, e.pages, e.host_pages, leaves);
  return true;
}

void RadixCache::evict_host(std::int64_t tokens) {
  for (std::int64_t gone = 0; gone < tokens;) {
    auto leaf = host_leaves_.begin();
    if (leaf != host_leaves_.end() && leaf->second == kept_) ++leaf;
    if (leaf == host_leaves_.end()) return;
    const Node node = leaf->second;
    host_leaves_.erase(leaf);
    Entry& e = at(node);
    gone += e.tokens;
    free_host_pages_.insert(free_host_pages_.end(), e.host_pages.begin(), e.host_pages.end());
    host_free_ += e.tokens;
    host_evicted_ += e.tokens;
    remove(node);
  }
}

void RadixCache::load(Node deepest, std::span<const Page> pages, std::vector<Page>& from) {
  way_.clear();
  for (Node n = deepest; !at(n).on_device; n = at(n).parent) way_.push_back(n);
  for (auto n = way_.rbegin(); n != way_.rend(); ++n) {
    Entry& e = at(*n);
    if (!pages.empty()) {
      const auto own = pages.first(e.host_pages.size());
      e.pages.assign(own.begin(), own.end());
      pages = pages.subspan(own.size());
    }
    from.insert(from.end(), e.host_pages.begin(), e.host_pages.end());
    enter_device(*n);
  }
  kept_ = kRoot;
  change_locks(deepest, 1, true);
}

bool RadixCache::reserve_host(std::int64_t tokens, std::vector<Page>& pages) {
  if (host_free_ < tokens) evict_host(tokens);
  if (host_free_ < tokens) return false;
  host_free_ -= tokens;
  if (host_.names_pages) {
    const auto first = free_host_pages_.end() - static_cast<std::ptrdiff_t>(tokens / page_);
    pages.insert(pages.end(), first, free_host_pages_.end());
    free_host_pages_.erase(first, free_host_pages_.end());
  }
  return true;
}

void RadixCache::return_host(std::int64_t tokens, std::span<const Page> pages) {
  host_free_ += tokens;
  free_host_pages_.insert(free_host_pages_.end(), pages.begin(), pages.end());
}

void RadixCache::protect_host(Node node) {
  Entry& e = at(node);
  if (is_host_leaf(e)) host_leaves_.erase({e.used, node});
  ++e.host_locks;
}

void RadixCache::release_host(Node node) {
  Entry& e = at(node);
  --e.host_locks;
  if (is_host_leaf(e)) host_leaves_.insert({e.used, node});
}

// Below a node that is in device memory alone nothing may lie in host memory (SGLang puts it there, and can't
// reach it any more once that node has left).
std::int64_t RadixCache::insert_host(std::span<const TokenRun> key, std::int64_t tokens, std::int64_t prefix,
                                     std::span<const Page> pages) {
  Cursor end;
  const Match m = descend(key, tokens, end);
  if (m.tokens < prefix) throw std::logic_error("what was prefetched has lost its prefix");
  std::int64_t fresh = tokens - m.tokens;
  const std::uint64_t edge = fresh > 0 ? page_hash(key, end) : 0;
  if (!at(m.node).on_host || (fresh > 0 && edges_.contains({m.node, edge}))) fresh = 0;
  const std::int64_t known = tokens - prefix - fresh;
  const auto cut = pages.empty() ? 0 : static_cast<std::size_t>(known / page_);
  return_host(known, pages.first(cut));
  if (fresh == 0) return 0;
  const Node node = make(m.node, edge);
  Entry &e = at(node), &above = at(m.node);
  if (is_host_leaf(above)) host_leaves_.erase({above.used, m.node});
  ++above.children;
  copy(key, end, fresh, e.key);
  e.tokens = fresh;
  e.on_device = false;
  e.on_host = true;
  e.host_pages.assign(pages.begin() + static_cast<std::ptrdiff_t>(cut), pages.end());
  host_leaves_.insert({e.used, node});
  return fresh;
}

void RadixCache::page_hashes(std::span<const TokenRun> key, std::int64_t tokens,
                             std::vector<std::uint64_t>& hashes) const {
  hashes.clear();
  std::uint64_t hash = 0;
  Cursor c;
  for (std::int64_t t = 0; t + page_ <= tokens; t += page_) {
    hash = std::max<std::uint64_t>(1, mix64(page_hash(key, c) + 0x9e3779b97f4a7c15ULL * hash));
    hashes.push_back(hash);
    move_on(key, c, page_);
  }
}

void RadixCache::key_to(Node node, std::vector<TokenRun>& key) const {
  std::vector<Node> way;
  for (; node != kRoot; node = parent(node)) way.push_back(node);
  key.clear();
  for (auto n = way.rbegin(); n != way.rend(); ++n) {
    const std::vector<TokenRun>& own = nodes_[static_cast<std::size_t>(*n)].key;
    key.insert(key.end(), own.begin(), own.end());
  }
}

}  // namespace foretoken
