// SGLang's scheduler (serving policies in docs/policies.md): prefill first, at most one prompt in chunks,
// admission by an estimate of the output still to come, retraction when that was too low, a radix tree of
// tokens, and, overlapped, ends of requests seen one step late. In a pipeline (event_loop_pp) each stage's
// micro-batch has running requests of its own; the queue, the memory and the prompt in chunks are common to
// all, so that chunks follow each other in successive micro-batches.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>

#include "serving/kv_tiers.h"
#include "serving/scheduler/batch_builder.h"
#include "serving/scheduler/radix_cache.h"
#include "serving/scheduler/scheduler.h"

namespace foretoken {

class SglangScheduler : public Scheduler {
 public:
  // All references must outlive the scheduler. windows: Backend::windows().
  SglangScheduler(const SchedulerConfig& config, SequenceTable& sequences, const Workload& workload,
                  std::span<const std::int64_t> windows, bool list_decodes);

  void enqueue(std::int32_t slot) override;
  const Batch& schedule(Picoseconds now) override;
  std::span<const std::int32_t> sampled() const override { return batch_.sampled(); }
  bool preempted() const override { return retracted_; }
  std::int64_t hold() const override;
  // With an interval it starts the count of steps until it is looked at; with storage it is looked for there.
  bool arrival_matters() const override { return !full_ || preempts_by_priority() || receives(); }
  void advance(std::int64_t steps) override;
  void completed() override;
  void finish(std::span<const std::int32_t> slots) override;
  // HiCache (sglang_hicache.cpp): one tier.
  void use(KvTiers& tiers) override;
  void tokens_out(Picoseconds at) override { now_ = at; }
  Picoseconds wake() const override;
  std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const override;
  std::int64_t running() const override {
    return static_cast<std::int64_t>(running_.size()) + elsewhere_ + (chunked_ >= 0 ? 1 : 0);
  }
  std::int64_t waiting() const override {
    return static_cast<std::int64_t>(waiting_.size() + arrived_.size());
  }
  const TokenCounts& counts() const override { return counts_; }
  std::int64_t kv_used() const override {
    return config_.caches_tokens ? total_ - available() - tree_.copying() : 0;
  }
  std::int64_t kv_usable() const override { return config_.caches_tokens ? total_ : 0; }

  double new_token_ratio() const;

 private:
  // What comes from storage for a request that waits (sglang_hicache_storage.cpp). In tokens, whole pages.
  struct Prefetch {
    RequestId request = 0;
    RadixCache::Node last = RadixCache::kRoot;  // protected; with it the prefix ends
    std::int64_t prefix = 0, asked = 0;         // in memory when it joined; looked for
    std::int64_t hits = 0, done = 0, reading = 0;
    std::vector<RadixCache::Page> pages;  // of host memory, for the hits
    std::vector<KvTier::Slot> from;
    Picoseconds at = 0, until = 0;  // when it began; its batch being read ends
    Picoseconds gives_up = 0;
    bool over = false;  // nobody waits for it any more
  };
  // What a sequence has in the tree: `prefix` tokens, ending with `node`, which it locks.
  struct Held {
    RadixCache::Node node = RadixCache::kRoot;
    std::int64_t prefix = 0;
    std::int64_t sampled_at = -1;  // decision of its newest token
    // When it joined the queue, last: its number, and prompt tokens computed until then.
    std::int64_t entry = 0, prefilled_at_entry = 0;
    std::shared_ptr<Prefetch> prefetch;
    std::int64_t fetched = 0;  // tokens that came from storage to host memory for it
  };
  // A request that has its last token, still holding its memory.
  struct Ended {
    Held held;
    std::vector<RadixCache::Page> blocks;
    RequestId request = 0;
    std::int32_t computed = 0, max_new_tokens = 0;
    std::int64_t taken = 0;
    bool row = false;  // computed once more, in vain
    std::vector<TokenRun> key;
  };
  struct Chosen {  // for the prefill batch being formed
    std::int32_t slot;
    std::int64_t tokens;
  };
  // Prompts to enter into the tree when the results of their step are processed, with their tokens.
  struct ComputedPrompt {
    std::int32_t slot;
    std::int64_t tokens, decision;
  };
  // What one micro-batch of a pipeline has to itself; that of the one being looked at is in the members.
  struct MicroBatch {
    std::vector<std::int32_t> running;
    std::vector<ComputedPrompt> computed_prompts;
    std::int64_t unfiltered = 0;
    bool full = false, last_was_prefill = false, last_shrank = false;
    bool busy = false;  // has a step in flight
  };
  static constexpr std::int64_t kClipMaxNewTokens = 4096;  // CLIP_MAX_NEW_TOKENS
  enum class Verdict { kContinue, kOther, kNoToken };

  std::int64_t pages(std::int64_t tokens) const { return (tokens + page_ - 1) / page_ * page_; }  // in tokens
  std::int64_t available() const { return free_ + tree_.evictable(); }
  bool caching() const { return config_.caches_tokens && config_.enable_prefix_caching; }
  Held& held(std::int32_t slot) { return held_[static_cast<std::size_t>(slot)]; }
  std::int64_t known_output(std::int32_t slot) const;
  std::int64_t batch_size() const {
    return static_cast<std::int64_t>(running_.size() + ended_.size()) + unfiltered_;
  }

  void decide(Picoseconds now);
  void look_at(std::size_t micro_batch);
  // How many more requests the micro-batch may run.
  std::int64_t places() const {
    return std::min(most_running_ - batch_size(), config_.max_num_seqs - batch_size() - elsewhere_);
  }
  void receive();
  void settle_last_batch();
  // Prefill (sglang_prefill.cpp).
  bool form_prefill(Picoseconds now);
  void add_chunked();
  Verdict add_waiting(std::int32_t slot);
  void charge(std::int64_t tokens, std::int64_t max_new_tokens, std::int64_t drafted);
  // Tokens that its next decode step computes: the newest one and its drafts.
  std::int32_t generated(const Sequence& s) const { return config_.generated(s.computed, s.drafts); }
  // Tokens, in whole pages, that it holds: where tokens are drafted (Sequence::capacity) more than it has.
  std::int64_t taken(const Sequence& s) const {
    return config_.draft_tokens > 0 ? s.capacity : pages(s.computed);
  }
  // Tokens in whole pages that a prompt's last chunk takes beside its own, for what is drafted after it.
  std::int64_t ahead(const Sequence& s, std::int64_t tokens) const {
    const std::int64_t end = s.num_tokens - s.computed;
    return tokens < end ? 0 : pages(s.computed + tokens + config_.lookahead) - pages(s.computed + tokens);
  }
  // Takes the pages of a step that ends with so many tokens, and those that its drafts are written to.
  void take(Sequence& s, std::int64_t tokens);
  double rem_total() const { return static_cast<double>(available()) - total_offset_; }
  void admit(std::int32_t slot, const RadixCache::Match& hit, Picoseconds now);
  void run_prefill(Picoseconds now);

  // Orders and priorities (sglang_order.cpp).
  void order_waiting();
  void match_waiting();
  template <class Key>
  void sort_waiting(Key key);
  std::int64_t work(std::int32_t slot, std::int64_t cached) const;
  std::int64_t cached_now(std::int32_t slot);
  std::int64_t chunk_beside_shorter(std::int64_t budget);
  bool preempt_for(std::int32_t slot);
  bool by_priority() const { return config_.sglang.enable_priority_scheduling; }
  bool preempts_by_priority() const { return by_priority() && !config_.sglang.disable_priority_preemption; }
  // Lower goes first.
  std::int64_t rank(std::int32_t slot) const {
    const std::int64_t priority = sequences_[slot].request.priority;
    return config_.sglang.schedule_low_priority_values_first ? priority : -priority;
  }
  // Of allowed output, what an estimate counts.
  static std::int64_t expected(std::int64_t output) { return std::min(output, kClipMaxNewTokens); }
  std::int64_t output_left(std::int32_t slot) const {
    const Sequence& s = sequences_[slot];
    return expected(s.end_tokens - s.request.input_len - known_output(slot));
  }
  double still_to_come(std::int32_t slot) const {
    return static_cast<double>(output_left(slot)) * new_token_ratio();
  }

  bool form_decode();
  std::int64_t next_tokens_need() const;
  void make_room(std::int64_t tokens) {
    if (free_ < tokens) free_ += tree_.evict(tokens, names_pages_ ? &free_pages_ : nullptr);
  }
  // HiCache.
  struct Copying {
    Picoseconds until = 0;
    RadixCache::Node node = RadixCache::kRoot;
  };
  void write_node(RadixCache::Node node, std::int64_t tokens, std::span<const RadixCache::Page> from,
                  std::span<const RadixCache::Page> to, bool leaves);
  void check_copies(Picoseconds now);
  std::int64_t loadable(const RadixCache::Match& hit) const;
  void load_back(RadixCache::Match& hit);
  void start_loading(Picoseconds now);
  void count_left();
  // HiCache's storage.
  bool stores() const { return config_.kv_tiers.tiers.size() > 1; }
  // Who arrives is looked at with the next decision, or later.
  bool receives() const { return config_.sglang.scheduler_recv_interval > 1 || stores(); }
  void store_node(RadixCache::Node node, Picoseconds now);
  void prefetch(std::int32_t slot);
  void read_storage(Picoseconds now);
  bool fetched(std::int32_t slot, Picoseconds now);
  // Memory for a sequence that has `computed` tokens and gets `tokens` more, and its return. Where a backend
  // asks which pages they are, these are named; decisions go by the numbers alone.
  void take_pages(std::vector<RadixCache::Page>& blocks, std::int64_t computed, std::int64_t tokens);
  void give_pages(std::vector<RadixCache::Page>& blocks, std::int64_t from, std::int64_t to);  // tokens
  void check_pages() const;
  void add_decode_rows();
  void retract();
  void give_up_memory(std::int32_t slot);
  void join_queue(std::int32_t slot);
  void put_back(std::int32_t slot) {
    give_up_memory(slot);
    join_queue(slot);
  }
  void cache_unfinished(std::int32_t slot, std::int64_t tokens, bool goes_on = false);
  void release(Ended& ended);
  void release_ended();

  const SchedulerConfig config_;
  SequenceTable& sequences_;
  const Workload& workload_;
  const std::int64_t page_;
  std::int64_t total_ = 0, free_ = 0;  // tokens, in whole pages; free_: neither held nor in the tree
  const bool names_pages_;
  std::vector<RadixCache::Page> free_pages_;
  RadixCache tree_, waiting_tree_;  // waiting_tree_: prefixes of waiting requests (lpm)

  const std::int64_t most_running_;  // in a micro-batch
  std::vector<MicroBatch> micro_batches_;
  std::size_t current_ = 0, next_ = 0;  // looked at; whose turn it is
  std::deque<std::size_t> flights_;     // whose steps are in flight
  std::int64_t elsewhere_ = 0;          // running in other micro-batches than the current one

  std::deque<std::int32_t> waiting_;
  std::deque<std::int32_t> arrived_;  // not yet looked at
  std::int64_t since_received_ = 0;   // decode steps
  std::vector<std::int32_t> running_;
  std::int32_t chunked_ = -1;    // its prompt is computed in part
  std::vector<Ended> ended_;     // not yet known to the scheduler
  std::int64_t unfiltered_ = 0;  // known to have ended, still in SGLang's list of running requests
  bool full_ = false;            // batch_is_full
  std::vector<Held> held_;       // by slot
  std::vector<ComputedPrompt> computed_prompts_;
  void forget_prompt(std::int32_t slot) {
    std::erase_if(computed_prompts_, [slot](const ComputedPrompt& p) { return p.slot == slot; });
  }
  bool last_was_prefill_ = false, last_shrank_ = false;

  // new_token_ratio = max(base - decays * decay, minimum)
  double initial_ratio_, minimum_ratio_, ratio_decay_, ratio_base_;
  std::int64_t decays_ = 0;

  // The decision just made, and the prefill adder's budgets.
  BatchBuilder batch_;
  bool retracted_ = false;
  std::int64_t decision_ = 0;
  std::vector<Chosen> chosen_;
  std::vector<RadixCache::Match> hits_;  // of the chosen ones that come from waiting_
  std::int64_t rem_input_ = 0, rem_chunk_ = 0;
  double total_offset_ = 0, current_offset_ = 0;
  std::int64_t from_waiting_ = 0;
  bool passed_over_ = false;  // somebody who waits for storage

  std::int64_t entries_ = 0, prefilled_ = 0;  // into the queue; prompt tokens computed
  std::uint64_t shuffles_ = 0;
  std::vector<RadixCache::Match> matches_;  // of who waits, in order
  std::vector<std::uint8_t> later_;
  std::vector<std::int32_t> preempted_;  // by priority, in the decision being made
  bool outranks_nobody_ = false;         // nor does anybody behind it: the first who found no place

  KvTiers* tiers_ = nullptr;  // HiCache's host memory; null: there is none
  Picoseconds now_ = 0;
  // On their way, in the order in which they end; nodes that wait for the loads of the next prefill batch.
  std::deque<Copying> writing_, loading_;
  std::vector<RadixCache::Node> to_load_;
  std::vector<BlockCopy> loads_;
  std::deque<Copying> storing_;
  std::deque<std::shared_ptr<Prefetch>> reads_;  // the first one's batch is being read
  Picoseconds reader_free_ = 0;
  std::int64_t prefetching_ = 0, most_prefetching_ = 0;  // tokens looked for

  std::vector<BlockCopy> copies_;                      // scratch
  std::vector<RadixCache::Page> load_to_, load_from_;  // scratch
  std::vector<TokenRun> key_;                          // scratch
  std::vector<std::uint64_t> hashes_;                  // scratch
  std::vector<RadixCache::Page> path_;                 // scratch: pages of a node's prefix
  std::vector<Ended> spare_;
  mutable std::vector<std::int64_t> rooms_;
  TokenCounts counts_;
};

}  // namespace foretoken
