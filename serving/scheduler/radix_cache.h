// SGLang's radix tree over token sequences (radix_cache.py): which prefixes are in the KV cache, who holds
// them, and which leaf goes first. Tokens are known by runs of content, so a node costs as much as its runs,
// not as its tokens. Where the pages of memory matter, a node names those that hold its tokens. With host
// memory below it is HiCache's tree (hiradix_cache.py): a node that leaves device memory may stay in the tree
// with its tokens in host memory alone. Above a node in device memory all are, below one that isn't none is,
// and the same holds for host memory but for nodes that are in device memory (radix_cache_host.cpp).
#pragma once

#include <cstdint>
#include <functional>
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
    std::int64_t tokens = 0;  // in device memory; a multiple of the page size
    // What follows in host memory alone, and where that ends.
    Node deepest = kRoot;
    std::int64_t host_tokens = 0;
  };
  // The longest prefix of the key's first `tokens` tokens that is in the tree; splits the node in which it
  // ends.
  Match match(std::span<const TokenRun> key, std::int64_t tokens);
  // Its length alone; nothing is split, nothing counts as used.
  std::int64_t matching(std::span<const TokenRun> key, std::int64_t tokens) const;
  // Puts the whole pages of the key's first `tokens` tokens into the tree. `existing` of them were there, in
  // device memory. With host memory nodes count that as a use, but for those of a prompt that goes on.
  struct Inserted {
    Node node = kRoot;
    std::int64_t tokens = 0, existing = 0;
  };
  // pages: that hold the key's tokens; the new node keeps those of its own. Empty: pages have no names here.
  Inserted insert(std::span<const TokenRun> key, std::int64_t tokens, std::span<const Page> pages = {},
                  bool goes_on = false);
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

  struct HostMemory {
    std::int64_t tokens = 0;
    // With which use a node is written; 0: when it leaves device memory.
    std::int32_t write_at = 1;
    bool names_pages = false;
  };
  // The node's tokens go to host memory, from these pages to those (none where pages have no names). Leaves:
  // its pages are given away next; else it is locked until copied(). Called while the tree changes.
  using WriteNode = std::function<void(Node node, std::int64_t tokens, std::span<const Page> from,
                                       std::span<const Page> to, bool leaves)>;
  // Of a tree that is still empty.
  void use_host(const HostMemory& host, WriteNode write);
  // Keeps what match() found in host memory there until it is loaded or another one is kept; kRoot: nothing.
  void keep(Node deepest) { kept_ = deepest; }
  // It comes to device memory, to these pages, and is locked until copied(); appends where it lies.
  void load(Node deepest, std::span<const Page> pages, std::vector<Page>& from);
  void copied(Node node) { change_locks(node, -1, true); }
  std::int64_t copying() const { return copying_; }  // tokens of held() that copies alone hold
  std::int64_t host_used() const { return host_.tokens - host_free_; }
  // Tokens that left host memory for others, and that found no room there.
  std::int64_t host_evicted() const { return host_evicted_; }
  std::int64_t host_refused() const { return host_refused_; }

  // What comes to host memory from storage (radix_cache_host.cpp). Room for it, where others may have to
  // leave; appends its pages where they have names. False: there is none.
  bool reserve_host(std::int64_t tokens, std::vector<Page>& pages);
  void return_host(std::int64_t tokens, std::span<const Page> pages);
  // Nor does the node leave host memory, and so nothing above it, until it is released as often.
  void protect_host(Node node);
  void release_host(Node node);
  bool on_host(Node node) const { return nodes_[static_cast<std::size_t>(node)].on_host; }
  std::int64_t tokens(Node node) const { return nodes_[static_cast<std::size_t>(node)].tokens; }
  const std::vector<Page>& host_pages(Node node) const {
    return nodes_[static_cast<std::size_t>(node)].host_pages;
  }
  // The key's tokens from `prefix`, where a protected node ends, to `tokens` have come to these reserved
  // pages. Gives back the room of those that were in the tree; returns how many were not.
  std::int64_t insert_host(std::span<const TokenRun> key, std::int64_t tokens, std::int64_t prefix,
                           std::span<const Page> pages);
  // Of each page of the key, with all before it; never 0.
  void page_hashes(std::span<const TokenRun> key, std::int64_t tokens,
                   std::vector<std::uint64_t>& hashes) const;
  void key_to(Node node, std::vector<TokenRun>& key) const;  // all tokens from the root to the node's end

 private:
  struct Entry {
    Node parent = -1;
    std::int32_t children = 0, locks = 0;
    std::int32_t device_children = 0, copies = 0;  // those in device memory; of the locks
    std::int32_t uses = 0, host_locks = 0;
    bool on_device = true, on_host = false;
    std::int64_t tokens = 0, used = 0;  // used: when it was last matched or inserted
    std::uint64_t edge = 0;             // hash of its first page
    std::vector<TokenRun> key;
    std::vector<Page> pages, host_pages;
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
  Node make(Node parent, std::uint64_t edge);
  void remove(Node node);
  void change_locks(Node node, int by, bool copies = false);
  void touch(Node node);
  bool is_free_leaf(const Entry& e) const { return e.on_device && e.device_children == 0 && e.locks == 0; }
  bool is_host_leaf(const Entry& e) const { return !e.on_device && e.children == 0 && e.host_locks == 0; }
  void enter_device(Node node);
  void leave_device(Node node);
  bool write(Node node, bool leaves);
  void evict_host(std::int64_t tokens);
  void count_use(Node node);

  std::int64_t evict(std::int64_t tokens, std::vector<Page>* pages, bool exactly);

  std::int64_t page_;
  bool touches_rest_;
  std::vector<Entry> nodes_;
  std::vector<Node> unused_;
  std::unordered_map<Edge, Node, EdgeHash> edges_;       // looked up only, never walked
  std::set<std::pair<std::int64_t, Node>> free_leaves_;  // by time of last use
  std::int64_t clock_ = 0, evictable_ = 0, held_ = 0;

  HostMemory host_;
  WriteNode write_;
  std::set<std::pair<std::int64_t, Node>> host_leaves_;  // in host memory alone, with nothing below
  std::vector<Page> free_host_pages_;
  std::vector<Node> way_;  // scratch
  Node kept_ = kRoot;
  std::int64_t host_free_ = 0, copying_ = 0, host_evicted_ = 0, host_refused_ = 0;
};

}  // namespace foretoken
