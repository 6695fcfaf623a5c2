// SGLang's radix tree over token sequences (radix_cache.py): which prefixes are in the KV cache, who holds
// them, and which leaf goes first. Tokens are known by runs of content, so a node costs as much as its runs,
// not as its tokens. Where the pages of memory matter, a node names those that hold its tokens.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "serving/request.h"

namespace foretoken {

// Consecutive tokens of one content, from `offset` on.
struct TokenRun {
  std::uint64_t content = 0;
  std::int64_t offset = 0, tokens = 0;
};

// The first `tokens` tokens of a request, prompt and output. runs: the prompt's shared content.
void token_key(const Request& request, std::span<const ContentRun> runs, std::int64_t tokens,
               std::vector<TokenRun>& key);

class RadixCache {
 public:
  using Node = std::int32_t;
  static constexpr Node kRoot = 0;
  using Page = std::int32_t;

  // touches_rest: a node that a lookup ends in counts as used as a whole, not only what was found of it.
  explicit RadixCache(std::int64_t page_size, bool touches_rest = true);
  void clear();

  struct Match {
    Node node = kRoot;
    std::int64_t tokens = 0;  // a multiple of the page size
  };
  // The longest prefix of the key's first `tokens` tokens that is in the tree; splits the node in which it
  // ends.
  Match match(std::span<const TokenRun> key, std::int64_t tokens);
  // Its length alone; nothing is split, nothing counts as used.
  std::int64_t matching(std::span<const TokenRun> key, std::int64_t tokens) const;
  // Puts the whole pages of the key's first `tokens` tokens into the tree. `existing` of them were there.
  struct Inserted {
    Node node = kRoot;
    std::int64_t tokens = 0, existing = 0;
  };
  // pages: that hold the key's tokens; the new node keeps those of its own. Empty: pages have no names here.
  Inserted insert(std::span<const TokenRun> key, std::int64_t tokens, std::span<const Page> pages = {});
  // Pages of all tokens from the root to the end of the node.
  void pages_to(Node node, std::vector<Page>& pages) const;

  Node parent(Node node) const { return nodes_[static_cast<std::size_t>(node)].parent; }  // of kRoot: -1

  // While a node is locked, it and everything above it stay.
  void lock(Node node) { change_locks(node, 1); }
  void unlock(Node node) { change_locks(node, -1); }
  // Removes whole leaves, least recently used first, until `tokens` are removed or none is left that nobody
  // holds. Returns how many went.
  std::int64_t evict(std::int64_t tokens) { return evict(tokens, nullptr); }
  std::int64_t evict(std::int64_t tokens, std::vector<Page>* pages);  // appends the pages that became free
  // The same, but of the last leaf the tail alone, in whole pages, where more would be too much.
  std::int64_t evict_exactly(std::int64_t tokens, std::vector<Page>* pages);

  std::int64_t evictable() const { return evictable_; }  // tokens that nobody holds
  std::int64_t held() const { return held_; }

 private:
  struct Entry {
    Node parent = -1;
    std::int32_t children = 0, locks = 0;
    std::int64_t tokens = 0, used = 0;  // used: when it was last matched or inserted
    std::uint64_t edge = 0;             // hash of its first page
    std::vector<TokenRun> key;
    std::vector<Page> pages;
  };
  // A place inside a key.
  struct Cursor {
    std::size_t run = 0;
    std::int64_t within = 0;
  };
  struct Edge {
    Node parent;
    std::uint64_t first_page;
    bool operator==(const Edge&) const = default;
  };
  struct EdgeHash {
    std::size_t operator()(const Edge& e) const;
  };

  Entry& at(Node n) { return nodes_[static_cast<std::size_t>(n)]; }
  std::uint64_t page_hash(std::span<const TokenRun> key, Cursor from) const;
  static void move_on(std::span<const TokenRun> key, Cursor& c, std::int64_t tokens);
  static void copy(std::span<const TokenRun> key, Cursor from, std::int64_t tokens,
                   std::vector<TokenRun>& to);
  // Tokens, up to `most`, in which the node's key and the key from the cursor on agree.
  std::int64_t common(const Entry& node, std::span<const TokenRun> key, Cursor from, std::int64_t most) const;
  Match descend(std::span<const TokenRun> key, std::int64_t tokens, Cursor& at_end);
  Node split(Node child, std::int64_t tokens);
  Node add(Node parent, std::uint64_t edge);
  void change_locks(Node node, int by);
  void touch(Node node);
  bool is_free_leaf(const Entry& e) const { return e.children == 0 && e.locks == 0; }

  std::int64_t evict(std::int64_t tokens, std::vector<Page>* pages, bool exactly);

  std::int64_t page_;
  bool touches_rest_;
  std::vector<Entry> nodes_;
  std::vector<Node> unused_;
  std::unordered_map<Edge, Node, EdgeHash> edges_;       // looked up only, never walked
  std::set<std::pair<std::int64_t, Node>> free_leaves_;  // by time of last use
  std::int64_t clock_ = 0, evictable_ = 0, held_ = 0;
};

}  // namespace foretoken
