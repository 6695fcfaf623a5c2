// What most schedulers share: a queue, running sequences in order of admission, KV blocks taken as sequences
// grow or once for all, preemption by recompute, and the spans of decode steps that repeat a decision. A
// policy on top of it says in decide() who computes what. Where a policy has a prefix cache (vLLM V0) full
// blocks can be found from the step after the one that fills them; where it swaps, preempted sequences keep
// their tokens in host memory. In a pipeline a sequence is in one step at a time: those in flight are neither
// scheduled nor preempted.
#pragma once

#include <algorithm>
#include <deque>
#include <limits>
#include <optional>

#include "serving/host_block_pool.h"
#include "serving/region_pool.h"
#include "serving/scheduler/batch_builder.h"
#include "serving/scheduler/prefix_lookup.h"
#include "serving/scheduler/scheduler.h"

namespace foretoken {

// What a scheduler is made of. All references must outlive it. windows: Backend::windows(); list_decodes:
// Backend::wants_sequences(). workload: what prompts share, where there is a prefix cache.
struct SchedulerParts {
  const SchedulerConfig& config;
  SequenceTable& sequences;
  KvBlockPool& pool;
  std::span<const std::int64_t> windows;
  bool list_decodes;
  // Blocks that are its own where several schedulers share the pool; 0: all.
  std::int64_t quota = 0;
  const Workload* workload = nullptr;
};

class BlockScheduler : public Scheduler {
 public:
  explicit BlockScheduler(const SchedulerParts& parts);

  void enqueue(std::int32_t slot) override;
  const Batch& schedule(Picoseconds now) final;
  std::span<const std::int32_t> sampled() const final { return batch_.sampled(); }
  bool preempted() const final { return preempted_; }
  std::int64_t hold() const final;
  bool arrival_matters() const final { return waiting_.empty() ? open() : could_pass(); }
  void advance(std::int64_t steps) final;
  void completed() final;
  void finish(std::span<const std::int32_t> slots) final;
  void park(std::span<const std::int32_t> slots) final;
  void release(std::int32_t slot) final { release(sequences_[slot]); }
  void go_on(std::int32_t slot) final;
  bool reserve(std::int32_t slot) final;
  void arrive(std::int32_t slot) final;
  void cancel(std::int32_t slot) final;
  std::int64_t running() const final { return static_cast<std::int64_t>(running_.size()); }
  std::int64_t waiting() const final { return static_cast<std::int64_t>(waiting_.size() + swapped_.size()); }
  const TokenCounts& counts() const final { return counts_; }
  std::int64_t host_blocks() const final { return host_.used(); }
  std::int64_t peak_host_blocks() const final { return host_.peak(); }
  std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const override {
    return caching() ? cached_prefix(pool_, config_.block_size, request, workload_->content(request), hashes)
                     : 0;
  }
  std::int64_t kv_used() const override {
    if (contiguous()) return regions_.used();
    return quota_ > 0 ? held_ : pool_.used();
  }
  std::int64_t kv_usable() const final { return usable_blocks(); }

 protected:
  static constexpr std::int64_t kForever = std::numeric_limits<std::int64_t>::max();

  // For policies that look at capacities alone, never at a sequence's blocks.
  void count_blocks(const SchedulerParts& parts) {
    names_blocks_ = parts.list_decodes || caching() || contiguous() || parts.config.num_host_blocks > 0;
  }

  // What the policy decides, by the functions below.
  virtual void decide(Picoseconds now) = 0;
  // Of a decision of decodes alone: for how many steps, this one included, the policy would repeat it while
  // nobody ends or arrives and no block is missing.
  virtual std::int64_t repeats() const { return kForever; }
  virtual void repeated(std::int64_t steps) { (void)steps; }
  // Blocks that the next decode steps can take, of which some have yet to be made free.
  virtual std::int64_t spare_blocks() const { return free_blocks(); }
  // So that those who decode can take theirs of so many further steps.
  virtual void make_room_for(std::int64_t steps) { (void)steps; }
  // Whether one who arrives could change the next decision: when nobody waits; and when somebody does, who as
  // a rule is blocked at the head of the queue, so that whoever comes queues behind.
  virtual bool open() const { return has_place(); }
  virtual bool could_pass() const { return false; }
  // Memory of a sequence that has had its last token.
  virtual void leave(Sequence& s) { release(s); }

  std::int32_t end_tokens(const Request& request) const {
    return static_cast<std::int32_t>(
        std::min<std::int64_t>(std::int64_t{request.input_len} + request.output_len, config_.max_model_len));
  }
  // Why a request can't be admitted again after its last preemption, if so many blocks stay free then.
  std::optional<std::string> never_admitted(const Request& request, std::int64_t kept) const;
  // Blocks are found by the hash of their content.
  bool caching() const {
    return workload_ != nullptr && config_.enable_prefix_caching && config_.caches_tokens && hashes_blocks_;
  }
  // Tokens of the head of the queue that the prefix cache has, all but its last at the most; admit() takes
  // them.
  std::int64_t look_up(Sequence& s);
  // Of the sequence's first `most` blocks those in the prefix cache, which a sequence without blocks takes.
  std::int64_t take_cached(Sequence& s, std::int64_t most);
  std::span<const ContentRun> content(const Request& request) const { return workload_->content(request); }
  bool has_place() const {
    return running() + reserved_ < most_running_ && batch_.sequences() < most_in_batch_;
  }
  bool any_in_flight() const { return !steps_.empty(); }  // of a pipeline's steps
  bool in_flight(std::int32_t slot) const {
    return static_cast<std::size_t>(slot) < in_flight_.size() && in_flight_[static_cast<std::size_t>(slot)];
  }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return config_.caches_tokens ? (tokens + config_.block_size - 1) / config_.block_size : 0;
  }
  std::int64_t free_blocks() const {
    if (!config_.caches_tokens) return std::numeric_limits<std::int32_t>::max();
    return quota_ > 0 ? quota_ - held_ : pool_.free();
  }
  std::int64_t usable_blocks() const { return quota_ > 0 ? quota_ : pool_.usable(); }
  std::int64_t watermark_blocks() const {
    return static_cast<std::int64_t>(config_.watermark * static_cast<double>(config_.num_blocks));
  }
  // Tokens that are to be computed before the sequence decodes; 1 where it does.
  static std::int64_t left(const Sequence& s) { return s.num_tokens - s.computed; }

  // The head of the queue starts, with memory for its first `tokens` tokens, or its reservation if it has
  // one; with a prefix cache after look_up(). False, and nothing has changed, where that is not free.
  bool admit(Picoseconds now, std::int64_t tokens);
  // So many of its tokens need not be computed; and it runs from now on.
  void reuse(Sequence& s, std::int64_t cached);
  void start(Sequence& s, Picoseconds now);
  // Blocks for the sequence's next n tokens, and for ahead_ more. With `eager`, one must be free even if the
  // last one has room.
  bool grow(Sequence& s, std::int64_t n, bool eager = false);
  void take_prompt(std::int32_t slot, std::int64_t n);
  void take_decode(std::int32_t slot, std::int32_t drafted = 0);
  // Every running sequence that decodes does, in order; a block that is missing is the last running
  // sequence's, and when none is left after it the sequence itself gives way.
  void decode_or_preempt(bool eager);
  // Computed anew later, from the head of the queue; or, where its blocks find room in host memory, it goes
  // on from there when swap_in() has brought them back.
  void preempt(std::int32_t slot);
  // Of a swapped sequence, to the running ones, with blocks for its next token too, which must be free.
  void swap_in(std::int32_t slot);
  void release(Sequence& s);
  void release(std::vector<KvBlockPool::Block>& blocks, std::int32_t& capacity, std::int64_t computed);
  // With a prefix cache: blocks that hold so many tokens, of which the first `entered` are in it; the
  // unfilled ones are used again before any that was filled.
  void release_filled(std::vector<KvBlockPool::Block>& blocks, std::int64_t computed, std::int64_t entered);
  // Full blocks that hold what is in the cache, up to so many, can be found by others.
  void enter_blocks(Sequence& s, std::int64_t limit) {
    enter_until(s, std::min<std::int64_t>(std::min(s.computed, s.num_tokens) / config_.block_size, limit));
  }
  void enter_until(Sequence& s, std::int64_t full);

  const SchedulerConfig config_;
  SequenceTable& sequences_;
  KvBlockPool& pool_;
  RegionPool regions_;
  // In a pipeline also of the sequences of one step, of which several are in flight.
  std::int64_t most_running_, most_in_batch_ = kForever;
  std::vector<std::int32_t> running_;  // in order of admission
  std::deque<std::int32_t> waiting_;
  std::deque<std::int32_t> swapped_;  // preempted, with their tokens in host memory, who went first first
  BatchBuilder batch_;
  std::vector<std::int32_t> decoded_;  // in the step just decided
  bool preempted_ = false;
  bool eager_ = false;         // decodes of this step wanted a free block each
  bool grows_;                 // sequences take blocks while they decode
  std::int64_t reserved_ = 0;  // places of caches on their way
  std::int64_t ahead_ = 0;     // tokens that they have room for beyond those of the step
  bool hashes_blocks_ = true;  // its prefix cache, if it has one, is the pool's
  // Who holds which block matters; else sequences hold as many as their capacity takes, without names.
  bool names_blocks_ = true;
  TokenCounts counts_;

 private:
  bool reserves() const { return config_.reservation != KvReservation::kPaged; }
  bool contiguous() const { return reserves() && config_.contiguous && config_.caches_tokens; }
  bool reserve_all(std::int64_t count, Sequence& s);
  bool decode_all();
  void take_blocks(std::int64_t count, Sequence& s) {
    if (names_blocks_)
      pool_.allocate(count, s.blocks);
    else
      pool_.lend(count);
    held_ += count;
  }
  bool swap_out(Sequence& s);
  void enter_later(std::int32_t slot, const Sequence& s) {
    if (s.entered_blocks < s.shared_blocks) entering_.push_back(slot);
  }

  const Workload* const workload_;
  HostBlockPool host_;
  std::int64_t hits_ = 0, free_hits_ = 0;  // blocks, of look_up
  std::vector<std::int32_t> entering_;     // sequences of the step whose new full blocks others may share
  const std::int64_t quota_;               // of the pool's blocks, 0: all
  std::int64_t held_ = 0;                  // of these, where there is a quota
  std::deque<std::vector<std::int32_t>> steps_;  // in flight: their sequences (pipeline_depth above 1)
  std::vector<bool> in_flight_;                  // by slot
  mutable std::vector<std::int64_t> rooms_;
  std::int64_t first_end_ = -1;  // steps until one of decoded_ has its last token; -1: not known
};

}  // namespace foretoken
