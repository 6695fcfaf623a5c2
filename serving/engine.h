// One replica in virtual time: its ranks' schedulers and blocks, and the steps that it has in flight. The
// event loop (serve.cpp) tells it when requests arrive, when steps end and when it may start the next one.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "serving/engine_place.h"
#include "serving/kv_tiers.h"
#include "serving/router.h"
#include "serving/scheduler/scheduler.h"

namespace foretoken {

inline constexpr Picoseconds kNever = std::numeric_limits<Picoseconds>::max();

// What all engines of a run share.
struct EngineContext {
  Workload& workload;
  Backend& backend;
  const ServeOptions& options;
  MetricsCollector& metrics;
  // Tiers of the KV cache that all engines have together; null where each rank has its own.
  std::span<const std::shared_ptr<KvTier>> shared_tiers = {};
};

class Engine {
 public:
  Engine(std::int32_t index, const EngineConfig& config, const EngineContext& context);

  // Why the request can never be served here; nullopt when it can.
  std::optional<std::string> refuses(const Request& request) const;
  // cached: tokens of its prompt that the router found here, 0 if it didn't look. moves_on: another engine
  // makes its tokens after the first, as of all requests where the engine only prefills.
  void enqueue(const Request& request, Picoseconds now, std::int64_t cached = 0, bool moves_on = false);
  // A sequence of this engine.
  using Place = EnginePlace;
  // A part of a prompt that a step computes.
  struct Chunk {
    Place place;
    std::int32_t begin = 0, end = 0;  // tokens
    Picoseconds start = 0, finish = 0;
  };
  // Commits the steps whose tokens are out by now; `finished` gets the requests that end, `computed` those
  // that go on elsewhere: they keep their blocks until these are released.
  void commit(Picoseconds now, std::vector<Request>& finished, std::vector<Place>& computed);
  const Sequence& sequence(Place at) const {
    return ranks_[static_cast<std::size_t>(at.rank)]->sequences[at.slot];
  }
  void release(Place at, Picoseconds now);
  // What was computed goes on here after all.
  void go_on(Place at, Picoseconds now);
  // Requests whose first token the last commit brought, in the order in which they came out.
  std::span<const RequestId> first_tokens() const { return first_tokens_; }
  // Blocks for what another engine computes; nullopt if there is no room now. Then its cache arrives, or,
  // before that, it is known that it won't. launched: steps that start now have started, and don't see it.
  std::optional<Place> reserve(const Sequence& source, Picoseconds now, bool launched = false);
  void arrive(Place at, const Sequence& source, Picoseconds now);
  void cancel(Place at, Picoseconds now, bool launched = false);
  // A prefix that one engine fetches from another's cache, on engines of one rank: the blocks of it that are
  // cached here, kept; more blocks for what comes, fewer if no more are free; and they are let go, those from
  // `cached` on entered under their hashes.
  void hold_prefix(const BlockHashes& hashes, std::int64_t blocks, std::vector<KvBlockPool::Block>& held,
                   Picoseconds now);
  std::int64_t take_prefix_blocks(std::int64_t blocks, std::vector<KvBlockPool::Block>& held);
  void release_prefix(std::span<const KvBlockPool::Block> held, std::int64_t cached,
                      std::span<const std::uint64_t> hashes, Picoseconds now);
  // Brings the schedulers, and with them the cache, to the step that is under way now.
  void catch_up(Picoseconds now);
  // What a router sees here (after catch_up). hashes: of this request's blocks, filled as far as needed, for
  // all engines of one block size.
  ReplicaState state(const Request& request, BlockHashes& hashes) const;
  // Starts the next step if there is one to start and room in the pipeline; whether one has started.
  bool launch(Picoseconds now);
  // Right after that: requests that the engine has answered with an error.
  std::span<const Request> failed() const { return failed_; }
  // Right after a launch: the step's parts of prompts that go on elsewhere.
  void list_chunks(std::vector<Chunk>& chunks) const;

  // When something happens here: tokens come out, KV blocks have been loaded, or the next step may start.
  Picoseconds event_time() const { return std::min({tokens_out(), next_try_, loaded_at_}); }
  Picoseconds tokens_out() const { return in_flight_ == 0 ? kNever : front().end; }
  Picoseconds next_try() const { return next_try_; }
  bool is_idle() const { return in_flight_ == 0 && next_try_ == kNever; }
  // Has requests, but nothing in flight and nothing that could be scheduled.
  bool stuck() const;

  std::int64_t running() const;
  std::int64_t waiting() const;
  std::int64_t num_steps() const { return num_steps_; }
  Picoseconds busy() const { return busy_; }
  double kv_usage() const;  // share of the KV memory that requests hold, of the fullest rank (after catch_up)
  double peak_kv_usage() const { return peak_kv_usage_; }
  std::int64_t free_kv_tokens() const;  // of the first rank (after catch_up)
  TokenCounts counts() const;
  std::int64_t peak_host_blocks() const;  // of the fullest rank
  bool all_blocks_free() const;
  void add_tiers(ServeResult& result) const;  // what its ranks did with them

 private:
  struct Rank {
    Rank(const SchedulerConfig& config, const EngineContext& context, std::int32_t engine, std::int32_t rank);
    SequenceTable sequences;
    KvBlockPool pool;
    std::unique_ptr<Scheduler> scheduler;
    std::unique_ptr<KvTiers> tiers;  // null: device memory alone
    std::int64_t reserved = 0;       // caches on their way here
  };
  // A step, or a span of decode steps that repeat one decision, the i-th lasting first + i * increment.
  struct InFlight {
    TimelineWriter::StepEvent event;
    Picoseconds end = 0;                             // its (last) tokens are out
    std::vector<std::vector<std::int32_t>> sampled;  // by rank
    std::int64_t advanced = 0;           // steps of a span that the schedulers know of beside the first
    std::vector<Verification> verified;  // of all ranks' sampled, where the engine speculates
  };

  InFlight& front() { return flights_[head_]; }
  const InFlight& front() const { return flights_[head_]; }
  static Picoseconds length(const TimelineWriter::StepEvent& event, std::int64_t steps) {
    return event.first * steps + event.increment * (steps * (steps - 1) / 2);
  }
  bool speculates() const { return config_.scheduler.draft_tokens > 0; }
  void ask_for_tokens(const Step& step, InFlight& flight);
  void take_accepted(std::span<const Verification> verified, Rank& rank);
  static std::int64_t steps_until(const InFlight& flight, Picoseconds arrival);
  void truncate(Picoseconds arrival);
  void cut(Picoseconds now);
  void give_tokens(const InFlight& flight, std::size_t rank, std::vector<Request>& finished,
                   std::vector<Place>& computed);
  RankLoad load(const Rank& rank) const {
    return {rank.scheduler->waiting() + rank.reserved, rank.scheduler->running()};
  }
  void retry(Picoseconds now) {
    if (in_flight_ < flights_.size()) next_try_ = std::min(next_try_, std::max(now, ready_at_));
  }
  void record(const Sequence& s, Picoseconds at);
  bool decides_ahead() const;
  void release_held(Picoseconds arrived_by);
  void drop_failed(Rank& rank);
  void note_usage();
  void note_loads();
  void finish_loads(Picoseconds now);
  Picoseconds stall(Picoseconds now, Picoseconds computing);

  const std::int32_t index_;
  const EngineConfig config_;
  const EngineContext context_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<InFlight> flights_;  // ring of pipeline_depth
  std::size_t head_ = 0, in_flight_ = 0;
  Picoseconds ready_at_ = 0;       // when the newest step lets the next one start
  Picoseconds next_try_ = kNever;  // when to ask the schedulers again
  Picoseconds busy_until_ = 0, busy_ = 0;
  std::int64_t num_steps_ = 0, unaccepted_ = 0;
  std::int64_t prefill_tokens_ = 0, prompt_tokens_ = 0;  // ReplicaState's
  double peak_kv_usage_ = 0;
  std::vector<Batch> batches_;  // scratch
  std::vector<RankLoad> loads_;
  AdapterDraw adapter_of_;
  std::vector<std::int32_t> finishing_, parking_;
  std::vector<RequestId> first_tokens_;
  std::vector<Request> failed_;
  std::int64_t between_ = 0;  // sequences here whose cache is to be moved or on its way
  // Came too late for the next step, which is decided already.
  struct Held {
    Picoseconds at;
    std::int32_t rank, slot;
    bool arrived;         // with its cache
    bool loaded = false;  // that from a tier
  };
  std::vector<Held> held_;          // in order of arrival
  Picoseconds loaded_at_ = kNever;  // when the next blocks from a tier are there
  Picoseconds stalls_ = 0;          // of all steps
  Picoseconds last_start_ = 0;      // of the newest step that has ended, the last of a span
};

}  // namespace foretoken
