// The radix tree's nodes in host memory, as HiCache keeps them (hiradix_cache.py at 263bc85): whole nodes are
// written, and come back with all between them and what is in device memory; host memory gives away nodes
// that are in no other, leaves first, the least recently used one first.
#include <algorithm>
#include <stdexcept>

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

}  // namespace foretoken
