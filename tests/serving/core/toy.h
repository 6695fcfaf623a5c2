// Workloads and a priced backend small enough to compute by hand what serving them must give.
#pragma once

#include <algorithm>
#include <map>
#include <queue>
#include <string>
#include <vector>

#include "base/random.h"
#include "serving/sequence.h"
#include "serving/serve.h"

namespace foretoken::toy {

// Requests from a list (sorted by arrival), with shared content; optionally a closed loop, and conversations
// whose next turn repeats everything before it.
class ListWorkload : public Workload {
 public:
  // Runs of the prompt, by value: ids and lengths.
  void add(Picoseconds arrival, std::int32_t input_len, std::int32_t output_len,
           std::vector<ContentRun> runs = {}, std::int32_t session = -1);
  // Of the request added last.
  void prioritize(std::int32_t priority) { list_.back().request.priority = priority; }
  // A priority from 0 to `most` for each request.
  void draw_priorities(CounterRandom random, std::int32_t most) {
    for (Later& l : list_) l.request.priority = static_cast<std::int32_t>(random.uniform_int(0, most));
  }
  // Only so many requests in flight; arrivals of the rest are the ends of others.
  void close_loop(std::int64_t concurrency) { concurrency_ = concurrency; }
  // Each request of a session (session >= 0) is followed by `turns - 1` more, `think` after the end of the
  // one before.
  void converse(std::int32_t turns, std::int32_t new_tokens, Picoseconds think) {
    turns_ = turns, new_tokens_ = new_tokens, think_ = think;
  }
  // Puts every request into a session of its own.
  void name_all() {
    for (std::size_t i = 0; i < list_.size(); ++i) list_[i].request.session = static_cast<std::int32_t>(i);
  }

  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request& request, Picoseconds at) override;
  std::int64_t total_requests() const override { return -1; }
  std::span<const ContentRun> content(const Request& request) const override;
  std::string describe() const override { return "list"; }
  Means means() const override { return {}; }
  std::int64_t longest() const override { return 0; }
  std::int64_t popped() const { return next_id_; }

 private:
  struct Later {
    Picoseconds arrival;
    Request request;  // id not yet given
    std::vector<ContentRun> runs;
    std::int64_t order;
    bool operator<(const Later& o) const {
      return arrival != o.arrival ? arrival > o.arrival : order > o.order;
    }
  };
  std::vector<Later> list_;
  std::size_t next_ = 0;
  std::priority_queue<Later> later_;
  std::vector<std::vector<ContentRun>> runs_;  // by id
  std::int64_t concurrency_ = 0, in_flight_ = 0, orders_ = 0;
  Picoseconds released_at_ = 0;
  RequestId next_id_ = 0;
  std::int32_t turns_ = 1, new_tokens_ = 0;
  Picoseconds think_ = 0;
};

// Poisson arrivals, nothing kept.
class PoissonWorkload : public Workload {
 public:
  PoissonWorkload(std::int64_t requests, double per_second, std::int32_t input_len, std::int32_t output_len,
                  std::uint64_t seed, bool vary = false);
  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request&, Picoseconds) override {}
  std::int64_t total_requests() const override { return requests_; }
  std::span<const ContentRun> content(const Request&) const override { return {}; }
  std::string describe() const override { return "poisson"; }
  Means means() const override { return {}; }
  std::int64_t longest() const override { return 0; }

 private:
  void draw();
  std::int64_t requests_, next_ = 0;
  double mean_gap_;
  std::int32_t input_len_, output_len_;
  std::uint64_t seed_;
  bool vary_;
  double clock_ = 0;
};

// base + per_prefill_token + per_sequence + per_context[g] * contexts[g], the slowest rank counting.
class ToyBackend : public Backend {
 public:
  explicit ToyBackend(Picoseconds base, Picoseconds per_prefill_token = 0, Picoseconds per_sequence = 0,
                      std::vector<Picoseconds> per_context = {0}, std::vector<std::int64_t> windows = {0})
      : base_(base),
        per_prefill_(per_prefill_token),
        per_sequence_(per_sequence),
        per_context_(std::move(per_context)),
        windows_(std::move(windows)) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step& step) override;
  SpanTime run_span(const Step& step, std::int64_t max_steps) override;
  Picoseconds transfer(const KvTransfer& t) override {
    return (t.done == 0 ? latency_ : 0) + per_moved_ * (t.tokens - t.done);
  }
  void link(Picoseconds latency, Picoseconds per_token) { latency_ = latency, per_moved_ = per_token; }
  void limit_spans(std::int64_t steps) { span_limit_ = steps; }
  // Steps overlap: the next one may start after this share of a step.
  void pipeline(double share) { pipeline_ = share; }

 private:
  Picoseconds price(const Batch& batch) const;
  Picoseconds base_, per_prefill_, per_sequence_, latency_ = 0, per_moved_ = 0;
  std::vector<Picoseconds> per_context_;
  std::vector<std::int64_t> windows_;
  std::int64_t span_limit_ = std::int64_t{1} << 60;
  double pipeline_ = 1;
};

// Estimates in proportion to tokens and sequences.
class ToyEstimates : public TimeEstimates {
 public:
  ToyEstimates(Picoseconds per_prefill_token, Picoseconds per_moved_token, Picoseconds step,
               Picoseconds per_sequence)
      : prefill_(per_prefill_token), moved_(per_moved_token), step_(step), sequence_(per_sequence) {}
  Picoseconds prefill(std::int32_t, std::int64_t tokens, std::int64_t cached) override {
    return prefill_ * (tokens - cached);
  }
  Picoseconds decode_step(std::int32_t, std::int64_t sequences, std::int64_t) override {
    return step_ + sequence_ * sequences;
  }
  Picoseconds transfer(std::int32_t, std::int32_t, std::int64_t done, std::int64_t tokens) override {
    return moved_ * (tokens - done);
  }

 private:
  Picoseconds prefill_, moved_, step_, sequence_;
};

// Records every batch, in words: "p0:4/0 p1:3/0! d2@17" is 4 prompt tokens of request 0, 3 of request 1 with
// which its prompt is complete, and a decode of request 2 with a context of 17; "d2@20+3" verifies three
// drafted tokens; "pad0:2" are two rows of padding behind a prompt, "hole1" is the row of an ended request.
class BatchLog : public Backend {
 public:
  explicit BatchLog(Picoseconds step = 1000, double share = 1) : step_(step), share_(share) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override;
  void verify(const Step&, std::size_t, std::span<Verification> sequences) override {
    for (Verification& v : sequences) {
      v.accepted = std::min(accepted, v.drafted);
      v.drafts = drafts;
    }
  }
  int drafts = 0, accepted = 0;  // of every verification
  std::vector<std::string> batches;
  std::vector<Picoseconds> starts;

 private:
  std::vector<std::int64_t> windows_{0};
  Picoseconds step_;
  double share_;
};

// Keeps which token every place of the device's and the host's memory holds, and throws where a sequence
// finds others in its blocks than its own. Batches in words as BatchLog's, without "!", after what was
// swapped: "out2 in3 d1@9".
class ShadowMemory : public Backend {
 public:
  ShadowMemory(const Workload& workload, int block_size, Picoseconds step = 1000)
      : workload_(workload), block_size_(block_size), step_(step) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override;
  // Of tier t a copy takes (t + 1) x (latency + blocks x per_block).
  Picoseconds move_blocks(const TierMove& move) override;
  void tiers(Picoseconds latency, Picoseconds per_block) { latency_ = latency, per_block_ = per_block; }
  std::vector<std::string> batches;

 private:
  struct Token {
    std::uint64_t content = 0;
    std::int64_t offset = 0;  // in it
    std::int64_t position = -1;
    bool operator==(const Token&) const = default;
  };
  using Memory = std::map<std::int32_t, std::vector<Token>>;
  void shift(Memory& device, const SequenceTable& table, const KvShift& shift);
  void compute(Memory& device, const SequenceTable& table, std::int32_t slot, std::int64_t cached,
               std::int64_t count);
  const Workload& workload_;
  std::vector<Memory> device_, host_;                              // by rank
  std::map<std::pair<std::int32_t, std::int32_t>, Memory> tiers_;  // by rank and tier
  Picoseconds latency_ = 0, per_block_ = 0;
  int block_size_;
  Picoseconds step_;
  std::vector<std::int64_t> windows_{0};
};

// A priced backend that drafts `drafts` tokens for every sequence and accepts the one that would stand at a
// place of a request by a draw of that place alone, so that a higher rate accepts all that a lower one does.
class SpeculatingBackend : public ToyBackend {
 public:
  SpeculatingBackend(ToyBackend backend, int drafts, double acceptance, std::uint64_t seed = 1)
      : ToyBackend(std::move(backend)), drafts_(drafts), acceptance_(acceptance), seed_(seed) {}
  void verify(const Step& step, std::size_t rank, std::span<Verification> sequences) override;

 private:
  int drafts_;
  double acceptance_;
  std::uint64_t seed_;
};

struct Served {
  std::vector<std::string> batches;  // BatchLog's
  ServeResult result;
};
Served run(ListWorkload workload, const ServeOptions& options);

// Why nothing is served with these; "": it is.
std::string refusal_of(const ServeOptions& options);
ServeOptions options(std::int64_t num_blocks, int block_size, std::int64_t budget, std::int64_t max_num_seqs);
// The same engine split: `prefill` of them for prompts, `decode` for the rest.
void disaggregate(ServeOptions& options, int prefill, int decode);
// The same under a router that gives either work to all of them.
void share(ServeOptions& options, int prefill, int decode, RouterKind router);

}  // namespace foretoken::toy
