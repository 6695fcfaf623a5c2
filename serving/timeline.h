// What happened when: steps of engines, lives of requests, KV occupancy. Written as a Perfetto/Chrome trace,
// or kept to be replayed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "serving/backend.h"
#include "serving/metrics.h"

namespace foretoken {

// Receives events in the order in which the loop commits them.
class TimelineWriter {
 public:
  virtual ~TimelineWriter() = default;
  struct StepEvent {
    std::int32_t engine = 0;
    Picoseconds start = 0;
    StepTime time;
    std::int64_t steps = 1;  // decode span: this many steps, durations first + i * increment
    Picoseconds first = 0, increment = 0;
    std::int64_t prefill_tokens = 0, decode_tokens = 0;  // of one step, all ranks
    std::int32_t running = 0, waiting = 0;
    double kv_usage = 0;
    // What sequences got in a step of speculative decoding, rank after rank; valid during the call alone.
    std::span<const Verification> verified;
    // Part of the times above: waiting for KV blocks that are written to a tier or loaded from one.
    Picoseconds stall = 0;
  };
  struct TransferEvent {
    RequestId request = 0;
    std::int32_t from = 0, to = 0;      // engines
    std::int32_t tokens = 0, done = 0;  // of the prompt; of these moved before
    Picoseconds asked = 0;              // blocks were there on both sides; it may have queued for the link
    Picoseconds start = 0, duration = 0;
    Picoseconds end = 0;  // start + duration, or later where layers went as they were computed
  };
  // KV blocks to or from a tier (see TierMove), or computed again instead.
  struct TierEvent {
    std::int32_t engine = 0, rank = 0;
    RequestId request = 0;
    std::int32_t from = 0, to = 0;
    std::int64_t blocks = 0;
    Picoseconds asked = 0, start = 0, duration = 0;
    bool declined = false;
    std::int64_t cached = 0;  // declined: tokens before the blocks
  };
  virtual void step(const StepEvent& event) = 0;
  virtual void transfer(const TransferEvent& event) { (void)event; }
  virtual void tier(const TierEvent& event) { (void)event; }
  virtual void request(const RequestRecord& record) = 0;
  virtual void finish() {}
};

// Time that a step or span keeps its engine: to the next one's start. In a pipeline tokens come out later,
// when the next step is already under way, and events of one lane must not overlap.
Picoseconds occupied(const TimelineWriter::StepEvent& event);

// Chrome JSON that ui.perfetto.dev opens: a lane an engine, counters for KV usage and queue, requests as
// asynchronous events with their phases. A decode span is one event.
class PerfettoWriter : public TimelineWriter {
 public:
  explicit PerfettoWriter(const std::filesystem::path& path);
  ~PerfettoWriter() override;
  void step(const StepEvent& event) override;
  void transfer(const TransferEvent& event) override;
  void tier(const TierEvent& event) override;
  void request(const RequestRecord& record) override;
  void finish() override;  // commits the file

 private:
  void event(std::string_view json);
  void mark(char type, RequestId id, std::string_view name, Picoseconds at, std::string_view args);
  OutputFile file_;
  void name_lane(std::vector<bool>& named, std::int32_t engine, std::int32_t lane, std::string_view name);
  std::vector<bool> named_, named_links_;       // engines whose lane, and whose link's, has a name
  std::vector<std::vector<bool>> named_tiers_;  // by tier and direction: the same
  bool first_ = true;
};

// Keeps steps in memory; ReplayBackend gives their durations back and must reproduce the timeline exactly.
class Recording : public TimelineWriter {
 public:
  void step(const StepEvent& event) override {
    if (!event.verified.empty()) {
      verified.resize(steps.size() + 1);
      verified.back().assign(event.verified.begin(), event.verified.end());
    }
    steps.push_back(event);
    steps.back().verified = {};
  }
  void transfer(const TransferEvent& event) override { transfers.push_back(event); }
  void tier(const TierEvent& event) override { tiers.push_back(event); }
  void request(const RequestRecord& record) override { requests.push_back(record); }
  std::vector<StepEvent> steps;
  std::vector<std::vector<Verification>> verified;  // of each step up to the last that has any
  std::vector<TransferEvent> transfers;
  std::vector<TierEvent> tiers;
  std::vector<RequestRecord> requests;
};

class ReplayBackend : public Backend {
 public:
  explicit ReplayBackend(const Recording& recording, std::vector<std::int64_t> windows = {0});
  std::span<const std::int64_t> windows() const override { return windows_; }
  // Throw Error when the step differs from the recorded one.
  StepTime run(const Step& step) override;
  SpanTime run_span(const Step& step, std::int64_t max_steps) override;
  Picoseconds transfer(const KvTransfer& transfer) override;
  Picoseconds move_blocks(const TierMove& move) override;
  bool worth_loading(const TierLoad& load) override;
  Picoseconds rearrange(std::span<const CachedPart> held, Picoseconds now, Picoseconds predicted) override;
  void verify(const Step& step, std::size_t rank, std::span<Verification> sequences) override;

 private:
  const TimelineWriter::StepEvent& match(const Step& step) const;
  void consume(std::size_t engine, const TimelineWriter::StepEvent& event, std::int64_t steps);

  const Recording& recording_;
  std::vector<std::int64_t> windows_;
  std::vector<std::vector<std::size_t>> events_;  // per engine: its steps in the recording
  std::vector<std::size_t> next_;                 // per engine
  std::vector<std::int64_t> step_in_span_;
  std::size_t next_transfer_ = 0, next_tier_ = 0;
  std::span<const Verification> answers_;  // of the step that ran last
};

}  // namespace foretoken
