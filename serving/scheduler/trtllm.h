// TensorRT-LLM's in-flight batching (docs/policies.md): a capacity scheduler decides who may hold KV blocks,
// a micro-batch scheduler who runs in this step. In a pipeline as many micro-batches are in flight as stages:
// the first looks at all requests, the second leaves out those whose token is on its way; chunks of a prompt
// follow each other.
#pragma once

#include <deque>

#include "serving/scheduler/batch_builder.h"
#include "serving/scheduler/prefix_lookup.h"
#include "serving/scheduler/scheduler.h"

namespace foretoken {

class TrtllmScheduler : public Scheduler {
 public:
  // All references must outlive the scheduler. windows: Backend::windows().
  TrtllmScheduler(const SchedulerConfig& config, SequenceTable& sequences, KvBlockPool& pool,
                  const Workload& workload, std::span<const std::int64_t> windows, bool list_decodes);

  void enqueue(std::int32_t slot) override;
  const Batch& schedule(Picoseconds now) override;
  std::span<const std::int32_t> sampled() const override { return batch_.sampled(); }
  bool preempted() const override { return paused_; }
  std::int64_t hold() const override;
  bool arrival_matters() const override;
  void advance(std::int64_t steps) override;
  void finish(std::span<const std::int32_t> slots) override;
  std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const override {
    return caching() ? cached_prefix(pool_, config_.block_size, request, workload_.content(request), hashes)
                     : 0;
  }
  std::int64_t running() const override { return started_; }
  std::int64_t waiting() const override {
    return static_cast<std::int64_t>(queue_.size() + active_.size()) - started_;
  }
  const TokenCounts& counts() const override { return counts_; }
  std::int64_t kv_used() const override { return pool_.used(); }
  std::int64_t kv_usable() const override { return pool_.usable(); }

 private:
  struct Context {  // a prompt, or its next chunk
    std::int32_t slot;
    std::int64_t chunk;
  };
  bool caching() const { return config_.caches_tokens && config_.enable_prefix_caching; }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  // Tokens of its next generation step: the newest one and its drafts.
  std::int32_t generated(const Sequence& s) const { return config_.generated(s.computed, s.drafts); }
  std::int64_t held(const Sequence& s) const { return static_cast<std::int64_t>(s.blocks.size()); }
  static bool started(const Sequence& s) { return s.state == Sequence::State::kRunning; }
  bool pipelined() const { return config_.pipeline_depth > 1; }
  bool to_pause(std::int32_t slot) const;

  // Capacity (trtllm_capacity.cpp): fills fitting_.
  void fit_without_eviction();
  void fit_next_step();
  bool better_to_skip(Sequence& s);
  std::int64_t blocks_to_completion(const Sequence& s) const;
  std::int64_t blocks_for_next_step(const Sequence& s) const;
  void pause(std::int32_t slot);

  void pick_micro_batch();
  bool wait_for_company();
  void cut_contexts(std::int64_t capacity);
  void run_generation(std::int32_t slot);
  void run_context(const Context& context, Picoseconds now);
  void start(std::int32_t slot, Picoseconds now);
  std::int64_t find_hits(Sequence& s);
  void enter_blocks(Sequence& s, std::int64_t limit);
  void append_blocks(Sequence& s, std::int64_t count);
  void release_blocks(Sequence& s);

  const SchedulerConfig config_;
  SequenceTable& sequences_;
  KvBlockPool& pool_;
  const Workload& workload_;
  const std::int64_t chunk_unit_;

  std::deque<std::int32_t> queue_;              // not yet taken up
  std::vector<std::int32_t> active_;            // at most max_batch_size for each stage, in order of arrival
  std::vector<std::int32_t> to_pause_;          // of these in flight: when their token is out
  std::int64_t started_ = 0;                    // of these, with blocks
  std::vector<std::int32_t> computed_prompts_;  // completed in the last step: their blocks can be reused now

  // The decision just made.
  BatchBuilder batch_;
  std::vector<std::int32_t> fitting_, generations_;
  std::vector<Context> contexts_;
  bool paused_ = false, skipped_ = false;
  bool delayed_ = false;                    // prompts that could run wait for company
  std::int64_t delay_ = 0;                  // steps that they have waited
  bool blocked_ = false;                    // the first request without blocks doesn't get them
  std::int64_t candidates_ = 0;             // requests without blocks that were looked at
  std::vector<std::uint64_t> contributed_;  // hashes of blocks that contexts of this step will add

  mutable std::vector<std::int64_t> rooms_;
  TokenCounts counts_;
};

}  // namespace foretoken
