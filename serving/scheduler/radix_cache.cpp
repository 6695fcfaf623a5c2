#include "serving/scheduler/radix_cache.h"

#include <algorithm>
#include <stdexcept>

#include "base/random.h"
#include "serving/content.h"

namespace foretoken {

void token_key(const Request& request, std::span<const ContentRun> runs, std::int64_t tokens,
               std::vector<TokenRun>& key) {
  key.clear();
  std::int64_t left = std::min<std::int64_t>(tokens, request.input_len);
  const std::int64_t generated = tokens - left;
  for (const ContentRun& run : runs) {
    const std::int64_t n = std::min(run.tokens, left);
    if (n <= 0) continue;
    key.push_back({run.content, 0, n});
    left -= n;
  }
  if (left > 0) key.push_back({private_prompt_content(request.id), 0, left});
  if (generated > 0) key.push_back({generated_content(request.id), 0, generated});
}

RadixCache::RadixCache(std::int64_t page_size, bool touches_rest)
    : page_(page_size), touches_rest_(touches_rest) {
  clear();
}

void RadixCache::clear() {
  nodes_.assign(1, Entry());
  nodes_[0].locks = 1;  // the root stays
  unused_.clear();
  edges_.clear();
  free_leaves_.clear();
  evictable_ = held_ = 0;
}

std::size_t RadixCache::EdgeHash::operator()(const Edge& e) const {
  return static_cast<std::size_t>(
      mix64(e.first_page + 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(e.parent + 1)));
}

// Runs are cut at page boundaries only, so that equal pages have equal pieces.
std::uint64_t RadixCache::page_hash(std::span<const TokenRun> key, Cursor c) const {
  std::uint64_t hash = 0;
  for (std::int64_t left = page_; left > 0;) {
    const TokenRun& run = key[c.run];
    const std::int64_t n = std::min(left, run.tokens - c.within);
    hash = mix64(hash ^ run.content);
    hash = mix64(hash + static_cast<std::uint64_t>(run.offset + c.within) * 0xd6e8feb86659fd93ULL +
                 static_cast<std::uint64_t>(n));
    left -= n;
    move_on(key, c, n);
  }
  return hash;
}

void RadixCache::move_on(std::span<const TokenRun> key, Cursor& c, std::int64_t tokens) {
  while (tokens > 0) {
    const std::int64_t n = std::min(tokens, key[c.run].tokens - c.within);
    c.within += n;
    tokens -= n;
    if (c.within == key[c.run].tokens) c = {c.run + 1, 0};
  }
}

void RadixCache::copy(std::span<const TokenRun> key, Cursor c, std::int64_t tokens,
                      std::vector<TokenRun>& to) {
  to.clear();
  while (tokens > 0) {
    const TokenRun& run = key[c.run];
    const std::int64_t n = std::min(tokens, run.tokens - c.within);
    to.push_back({run.content, run.offset + c.within, n});
    tokens -= n;
    move_on(key, c, n);
  }
}

std::int64_t RadixCache::common(const Entry& node, std::span<const TokenRun> key, Cursor b,
                                std::int64_t most) const {
  most = std::min(most, node.tokens);
  std::int64_t same = 0;
  for (Cursor a; same < most;) {
    const TokenRun &x = node.key[a.run], &y = key[b.run];
    if (x.content != y.content || x.offset + a.within != y.offset + b.within) break;
    const std::int64_t n = std::min({x.tokens - a.within, y.tokens - b.within, most - same});
    same += n;
    move_on(node.key, a, n);
    move_on(key, b, n);
  }
  return same / page_ * page_;
}

RadixCache::Match RadixCache::descend(std::span<const TokenRun> key, std::int64_t tokens, Cursor& c) {
  Match m;
  ++clock_;
  tokens = tokens / page_ * page_;
  while (m.tokens < tokens) {
    const auto found = edges_.find({m.node, page_hash(key, c)});
    if (found == edges_.end()) break;
    const Node child = found->second;
    if (touches_rest_) touch(child);
    const std::int64_t n = common(at(child), key, c, tokens - m.tokens);
    if (n == 0) break;  // two pages of one hash
    const bool whole = n == at(child).tokens;
    if (whole && !touches_rest_) touch(child);
    m.node = whole ? child : split(child, n);
    m.tokens += n;
    move_on(key, c, n);
    if (!whole) break;
  }
  return m;
}

RadixCache::Match RadixCache::match(std::span<const TokenRun> key, std::int64_t tokens) {
  Cursor end;
  Match m = descend(key, tokens, end);
  m.deepest = m.node;
  for (; !at(m.node).on_device; m.node = at(m.node).parent) m.host_tokens += at(m.node).tokens;
  m.tokens -= m.host_tokens;
  return m;
}

std::int64_t RadixCache::matching(std::span<const TokenRun> key, std::int64_t tokens) const {
  Cursor c;
  Node node = kRoot;
  std::int64_t matched = 0;
  tokens = tokens / page_ * page_;
  while (matched < tokens) {
    const auto found = edges_.find({node, page_hash(key, c)});
    if (found == edges_.end()) break;
    node = found->second;
    const Entry& entry = nodes_[static_cast<std::size_t>(node)];
    if (!entry.on_device) break;
    const std::int64_t n = common(entry, key, c, tokens - matched);
    matched += n;
    if (n < entry.tokens) break;
    move_on(key, c, n);
  }
  return matched;
}

RadixCache::Inserted RadixCache::insert(std::span<const TokenRun> key, std::int64_t tokens,
                                        std::span<const Page> pages, bool goes_on) {
  tokens = tokens / page_ * page_;
  Cursor end;
  const Match m = descend(key, tokens, end);
  std::int64_t existing = m.tokens;
  way_.clear();
  if (host_.tokens > 0) {
    // What was in host memory alone has been computed again.
    for (Node n = m.node; n != kRoot; n = at(n).parent)
      if (at(n).on_device)
        way_.push_back(n);
      else
        existing -= at(n).tokens;
  }
  std::int64_t done = existing;
  const auto take_pages = [&](Node node) {
    const std::int64_t n = at(node).tokens;
    if (!pages.empty()) {
      const auto own =
          pages.subspan(static_cast<std::size_t>(done / page_), static_cast<std::size_t>(n / page_));
      at(node).pages.assign(own.begin(), own.end());
    }
    done += n;
  };
  if (existing < m.tokens) {
    std::vector<Node> back;
    for (Node n = m.node; !at(n).on_device; n = at(n).parent) back.push_back(n);
    for (auto n = back.rbegin(); n != back.rend(); ++n) {
      take_pages(*n);
      enter_device(*n);
    }
  }
  Node node = m.node;
  if (m.tokens < tokens) {
    const std::uint64_t edge = page_hash(key, end);
    if (edges_.contains({m.node, edge}))  // two pages of one hash
      return {m.node, m.tokens, existing};
    node = make(m.node, edge);
    ++at(m.node).children;
    copy(key, end, tokens - m.tokens, at(node).key);
    at(node).tokens = tokens - m.tokens;
    at(node).on_device = false;
    take_pages(node);
    enter_device(node);
    if (host_.tokens > 0) way_.insert(way_.begin(), node);
  }
  if (host_.tokens > 0 && !goes_on)
    for (auto n = way_.rbegin(); n != way_.rend(); ++n) count_use(*n);
  return {node, tokens, existing};
}

void RadixCache::pages_to(Node node, std::vector<Page>& pages) const {
  pages.clear();
  for (; node != kRoot; node = nodes_[static_cast<std::size_t>(node)].parent) {
    const std::vector<Page>& own = nodes_[static_cast<std::size_t>(node)].pages;
    pages.insert(pages.end(), own.rbegin(), own.rend());
  }
  std::reverse(pages.begin(), pages.end());
}

// Of no tokens yet, and unknown to its parent.
RadixCache::Node RadixCache::make(Node parent, std::uint64_t edge) {
  Node node;
  if (unused_.empty()) {
    node = static_cast<Node>(nodes_.size());
    nodes_.emplace_back();
  } else {
    node = unused_.back();
    unused_.pop_back();
  }
  Entry& e = at(node);
  e.parent = parent;
  e.children = e.locks = e.device_children = e.copies = e.uses = e.host_locks = 0;
  e.on_device = true;
  e.on_host = false;
  e.pages.clear();
  e.host_pages.clear();
  e.used = clock_;
  e.edge = edge;
  edges_[{parent, edge}] = node;
  return node;
}

// A new node takes the child's first tokens; the child, which others may hold, keeps the rest.
RadixCache::Node RadixCache::split(Node child, std::int64_t tokens) {
  const Node parent = at(child).parent;
  const std::uint64_t edge = at(child).edge;
  const Node upper = make(parent, edge);  // takes the child's place in edges_
  Entry &u = at(upper), &c = at(child);
  copy(c.key, {}, tokens, u.key);
  u.tokens = tokens;
  u.locks = c.locks;
  u.copies = c.copies;
  u.uses = c.uses;
  u.on_device = c.on_device;
  u.on_host = c.on_host;
  u.children = 1;
  u.device_children = c.on_device ? 1 : 0;
  Cursor rest;
  move_on(c.key, rest, tokens);
  std::vector<TokenRun> lower;
  copy(c.key, rest, c.tokens - tokens, lower);
  c.key = std::move(lower);
  for (const auto pages : {&Entry::pages, &Entry::host_pages}) {
    std::vector<Page>&from = c.*pages, &to = u.*pages;
    if (from.empty()) continue;
    const auto first = from.begin(), cut = first + static_cast<std::ptrdiff_t>(tokens / page_);
    to.assign(first, cut);
    from.erase(first, cut);
  }
  c.tokens -= tokens;
  c.parent = upper;
  c.edge = page_hash(c.key, {});
  edges_[{upper, c.edge}] = child;
  return upper;
}

void RadixCache::touch(Node node) {
  Entry& e = at(node);
  if (is_free_leaf(e)) {
    free_leaves_.erase({e.used, node});
    free_leaves_.insert({clock_, node});
  } else if (is_host_leaf(e)) {
    host_leaves_.erase({e.used, node});
    host_leaves_.insert({clock_, node});
  }
  e.used = clock_;
}

void RadixCache::change_locks(Node node, int by, bool copies) {
  const auto by_copies = [](const Entry& e) { return e.copies > 0 && e.copies == e.locks; };
  for (; node != kRoot; node = at(node).parent) {
    Entry& e = at(node);
    const bool was_free = e.locks == 0;
    if (is_free_leaf(e)) free_leaves_.erase({e.used, node});
    if (by_copies(e)) copying_ -= e.tokens;
    e.locks += by;
    if (copies) e.copies += by;
    if (by_copies(e)) copying_ += e.tokens;
    const bool is_free = e.locks == 0;
    if (is_free_leaf(e)) free_leaves_.insert({e.used, node});
    if (was_free == is_free) continue;
    evictable_ += is_free ? e.tokens : -e.tokens;
    held_ += is_free ? -e.tokens : e.tokens;
  }
}

std::int64_t RadixCache::evict(std::int64_t tokens, std::vector<Page>* pages) {
  return evict(tokens, pages, false);
}

std::int64_t RadixCache::evict_exactly(std::int64_t tokens, std::vector<Page>* pages) {
  return evict(tokens, pages, true);
}

std::int64_t RadixCache::evict(std::int64_t tokens, std::vector<Page>* pages, bool exactly) {
  std::int64_t gone = 0;
  while (gone < tokens && !free_leaves_.empty()) {
    const Node node = free_leaves_.begin()->second;
    if (host_.tokens > 0 && host_.write_at == 0 && !at(node).on_host) write(node, true);
    Entry& e = at(node);
    if (const std::int64_t cut = (tokens - gone + page_ - 1) / page_ * page_; exactly && cut < e.tokens) {
      e.tokens -= cut;
      evictable_ -= cut;
      gone += cut;
      std::vector<TokenRun> kept;
      copy(e.key, {}, e.tokens, kept);
      e.key = std::move(kept);
      const auto left = std::min(e.pages.size(), static_cast<std::size_t>(e.tokens / page_));
      if (pages)
        pages->insert(pages->end(), e.pages.begin() + static_cast<std::ptrdiff_t>(left), e.pages.end());
      e.pages.resize(left);
      break;
    }
    gone += e.tokens;
    if (pages) pages->insert(pages->end(), e.pages.begin(), e.pages.end());
    leave_device(node);
  }
  return gone;
}

// Whose children are gone.
void RadixCache::remove(Node node) {
  const Entry& e = at(node);
  edges_.erase({e.parent, e.edge});
  Entry& parent = at(e.parent);
  --parent.children;
  if (is_host_leaf(parent)) host_leaves_.insert({parent.used, e.parent});
  unused_.push_back(node);
}

// Above it all are there.
void RadixCache::enter_device(Node node) {
  Entry& e = at(node);
  Entry& parent = at(e.parent);
  if (is_free_leaf(parent)) free_leaves_.erase({parent.used, e.parent});
  ++parent.device_children;
  if (is_host_leaf(e)) host_leaves_.erase({e.used, node});
  e.on_device = true;
  evictable_ += e.tokens;
  free_leaves_.insert({e.used, node});
}

// A free leaf of device memory.
void RadixCache::leave_device(Node node) {
  Entry& e = at(node);
  free_leaves_.erase({e.used, node});
  evictable_ -= e.tokens;
  e.on_device = false;
  e.pages.clear();
  Entry& parent = at(e.parent);
  --parent.device_children;
  if (is_free_leaf(parent)) free_leaves_.insert({parent.used, e.parent});
  if (!e.on_host && e.children > 0) throw std::logic_error("what is below it is in host memory");
  if (!e.on_host)
    remove(node);
  else if (is_host_leaf(e))
    host_leaves_.insert({e.used, node});
}

}  // namespace foretoken
