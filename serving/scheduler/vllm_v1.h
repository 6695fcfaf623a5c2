// vLLM V1's scheduler (serving-policies 5.1): one token budget, running requests first, preemption by
// recompute, block-hash prefix caching; and V0's preemption by swapping for those who ask for it.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <optional>

#include "serving/host_block_pool.h"
#include "serving/kv_tiers.h"
#include "serving/region_pool.h"
#include "serving/scheduler/decode_group.h"
#include "serving/scheduler/prefix_lookup.h"
#include "serving/scheduler/priority_order.h"
#include "serving/scheduler/scheduler.h"

namespace foretoken {

// KV blocks of a request whose beams have `tokens` tokens each, prompt included: the prompt's full blocks
// once, a group of beam_width blocks for every block after them; and a prompt that is not yet over, or has
// just become so, in blocks of one sequence.
std::int64_t blocks_of_beams(const SchedulerConfig& config, std::int64_t input_len, std::int64_t tokens);

class VllmV1Scheduler : public Scheduler {
 public:
  // All references must outlive the scheduler. windows: Backend::windows().
  VllmV1Scheduler(const SchedulerConfig& config, SequenceTable& sequences, KvBlockPool& pool,
                  const Workload& workload, std::span<const std::int64_t> windows, bool list_decodes);

  void enqueue(std::int32_t slot) override;
  const Batch& schedule(Picoseconds now) override;
  std::span<const std::int32_t> sampled() const override { return sampled_; }
  DecodeGroup* group() override { return group_ ? &*group_ : nullptr; }
  bool preempted() const override { return preempted_; }
  std::int64_t hold() const override;
  bool arrival_matters() const override;
  void advance(std::int64_t steps) override;
  void finish(std::span<const std::int32_t> slots) override;
  void park(std::span<const std::int32_t> slots) override;
  void release(std::int32_t slot) override { release_blocks(sequences_[slot]); }
  bool reserve(std::int32_t slot) override;
  void arrive(std::int32_t slot) override;
  void cancel(std::int32_t slot) override;
  std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const override {
    return caching() ? cached_prefix(pool_, config_.block_size, request, workload_.content(request), hashes)
                     : 0;
  }
  void use(KvTiers& tiers) override;
  Picoseconds loaded_at() const override { return taken_ < loading_.size() ? loading_[taken_].at : kNoWake; }
  std::int32_t take_loaded() override { return loading_[taken_++].slot; }
  void join(std::int32_t slot) override;
  void tokens_out(Picoseconds at) override;
  std::int64_t running() const override { return static_cast<std::int64_t>(running_.size()); }
  std::int64_t waiting() const override {
    return static_cast<std::int64_t>(waiting_.size() + arrived_.size() + loading_.size());
  }
  const TokenCounts& counts() const override { return counts_; }
  std::int64_t kv_used() const override { return contiguous() ? regions_.used() : pool_.used(); }
  std::int64_t kv_usable() const override { return pool_.usable(); }
  std::int64_t host_blocks() const override { return host_.used(); }
  std::int64_t peak_host_blocks() const override { return host_.peak(); }

 private:
  bool contiguous() const { return config_.reservation != KvReservation::kPaged && config_.caches_tokens; }
  bool reserve_region(Sequence& s);
  bool caching() const { return config_.caches_tokens && config_.enable_prefix_caching; }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  // Of a sequence, with all its beams, of so many tokens.
  std::int64_t blocks_for(const Sequence& s, std::int64_t tokens) const {
    return beams() == 1 ? blocks_for(tokens) : blocks_of_beams(config_, s.request.input_len, tokens);
  }
  std::int64_t beams() const { return config_.beam_width; }
  std::int64_t most_running() const { return config_.max_num_seqs / beams(); }
  // Rows that compute a sequence's first `tokens` tokens, those after its prompt in each beam.
  std::int64_t rows(const Sequence& s, std::int64_t tokens) const {
    return tokens + (beams() - 1) * std::max<std::int64_t>(0, tokens - s.request.input_len);
  }
  // Full blocks that beams share; the others are not found again.
  std::int64_t prompt_blocks(const Sequence& s) const { return s.request.input_len / config_.block_size; }
  std::int64_t within_budget(const Sequence& s, std::int64_t computed, std::int64_t n) const;
  bool grows() const {
    return config_.caches_tokens && !contiguous();
  }  // sequences take blocks as they decode
  std::size_t schedule_group();
  void schedule_running();
  void schedule_arrived(Picoseconds now);
  void schedule_waiting(Picoseconds now);
  std::int32_t end_of(const Request& request) const;
  void admit(Picoseconds now);
  void take(std::int32_t slot, std::int32_t tokens);
  bool adapter_waits(std::int32_t adapter);
  std::int32_t take_victim(std::size_t& place);
  void preempt(std::int32_t slot);
  bool swap_out(Sequence& s);
  void swap_in(Sequence& s);
  std::int64_t most_hits(const Sequence& s) const;
  void find_hits(Sequence& s);
  void take_hits(Sequence& s);
  std::int64_t watermark() const {
    return running_.empty()
               ? 0
               : static_cast<std::int64_t>(config_.watermark * static_cast<double>(config_.num_blocks));
  }
  void count_first_admission(Sequence& s, std::int64_t computed);
  // Of the head of the queue, whose hits were found: what tiers have beyond them comes while it waits;
  // another request's load brings some of that; there is no room for it; or it is admitted now, with `loaded`
  // blocks that come during its step.
  enum class Seek : std::uint8_t { kComes, kOthersLoad, kNoRoom, kGoesOn };
  Seek seek(std::int32_t slot, Picoseconds now, std::int64_t& loaded);
  void offer_blocks(Sequence& s, bool known, bool leaves);
  void enter_blocks(Sequence& s, std::int64_t limit);
  void enter_until(Sequence& s, std::int64_t full);
  void grow_group(std::int64_t step);
  void append_blocks(Sequence& s, std::int64_t count) {
    pool_.allocate(count, s.blocks);
    if (!evicted_.empty()) write_back();
    if (beams() == 1)
      s.capacity += static_cast<std::int32_t>(count * config_.block_size);
    else
      s.capacity = capacity_of_beams(s);
  }
  void write_back();
  std::int32_t capacity_of_beams(const Sequence& s) const;
  void release_blocks(Sequence& s);

  const SchedulerConfig config_;
  SequenceTable& sequences_;
  KvBlockPool& pool_;
  HostBlockPool host_;
  RegionPool regions_;
  const Workload& workload_;
  std::vector<std::int64_t> windows_;
  bool list_decodes_;

  const PriorityOrder before_;
  std::vector<std::int32_t> running_;  // in order of admission
  std::optional<DecodeGroup> group_;   // the first ones of these
  std::deque<std::int32_t> waiting_;   // by priority, or in order of arrival, who was preempted first
  std::deque<std::int32_t> arrived_;   // with a cache that was computed elsewhere
  std::int64_t reserved_ = 0;          // caches on their way

  // The decision just made.
  Batch batch_;
  std::vector<PrefillPart> prefill_;
  std::vector<DecodePart> decode_;
  std::vector<std::int32_t> sampled_;
  std::vector<BlockCopy> swap_out_, swap_in_;
  struct Planned {
    std::int32_t slot, tokens;
  };
  std::vector<Planned> planned_;  // by priority, of the running ones, so far
  std::int64_t budget_ = 0;
  bool preempted_ = false;
  bool skipped_ = false;  // a running sequence had nothing to compute: its token is in flight
  bool fragile_ = false;  // the head of the queue is blocked in a way that evictions may undo

  // Low-rank adapters (max_loras above 0).
  AdapterSlots adapter_slots_;
  std::vector<std::int32_t> running_adapters_;  // distinct ones of the running sequences
  std::vector<std::int32_t> batch_adapters_;    // of the batch
  std::vector<AdapterLoad> adapter_loads_;
  std::vector<std::int32_t> passed_over_;  // waiting for a running adapter to end
  bool blocked_ = false;                   // the queue ended at a request that can't be admitted

  // KV tiers; null: there are none.
  KvTiers* tiers_ = nullptr;
  struct Loading {
    Picoseconds at = 0;  // its blocks are there
    std::int32_t slot = 0;
    std::int64_t first = 0, end = 0;  // those blocks
  };
  std::vector<Loading> loading_;  // in order of `at`; the first taken_ are there and about to join
  std::size_t taken_ = 0;
  std::vector<KvBlockPool::Evicted> evicted_;  // by the allocation at hand, to be written back
  Picoseconds now_ = 0;                        // of the newest decision or commit

  std::int64_t hits_ = 0, free_hits_ = 0;    // blocks, by find_hits
  std::vector<std::int32_t> order_;          // scratch of advance
  mutable std::vector<std::int32_t> needs_;  // scratch: decoding sequences by steps until they need a block
  TokenCounts counts_;
};

}  // namespace foretoken
