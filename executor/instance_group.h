// Instances that compute together though each has a cache of its own: tokens of a sequence may lie on several
// of them, and attention reaches over all. Prompts go by ring attention (Liu et al. 2023, arXiv 2310.01889),
// striped (Brandon et al. 2023, arXiv 2311.09431): instance r of k computes every k-th token from r on, keys
// and values pass from instance to instance, and whoever is to keep them writes them to its cache. In decode
// queries visit the caches, whose partial results are merged (DistAttention, Lin et al. 2024, arXiv
// 2401.02669; LoongServe, Wu et al. 2024, arXiv 2404.09526). Instances take turns in one process; between
// exchanges the slowest counts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "executor/step_table.h"
#include "executor/transformer.h"

namespace foretoken {

class InstanceGroup {
 public:
  // Keeps a reference. Layout::reaches of all instances.
  explicit InstanceGroup(const Kernels& kernels)
      : kernels_(kernels), lists_(kernels.memory()), blocks_(kernels.memory()) {}

  // Blocks of an instance's cache that hold so many tokens of a sequence.
  struct Part {
    Transformer* at = nullptr;
    const std::int32_t* blocks = nullptr;
    std::int64_t tokens = 0;
  };
  // Tokens first, first + step, ... of a prompt go to that part.
  struct Kept {
    Part part;
    std::int64_t first = 0, step = 1;
  };
  struct Prompt {
    std::span<const std::int32_t> tokens;  // all of it
    std::vector<Kept> kept;                // step 1, or the number of instances
  };
  // A sequence that decodes. The first part is its own instance's and has room for the new token, which its
  // count includes; others hold at least one token.
  struct Row {
    std::int32_t token = 0;
    std::int64_t position = 0;
    std::vector<Part> parts;
  };

  // Prompts over these instances, each with a token that follows it. Kept parts elsewhere are sent while the
  // rest is computed.
  void prefill(std::span<Transformer* const> instances, std::span<const Prompt> prompts);
  // The rows of each of these instances.
  void decode(std::span<Transformer* const> instances, std::span<const std::vector<Row>> rows);

  // Of the last step, by the instance's place: logits of its decoding rows, or of the prompts whose last
  // token it computed.
  std::span<const float> logits(std::size_t instance) const { return logits_[instance]; }
  // Operators of the slowest instance between exchanges, with all instances' attention as one operator.
  std::span<const OperatorRun> operators_run() const { return runs_; }
  // Seconds that instances ran one after another beyond the slowest, and those that sending took, which would
  // go on beside the rest.
  double beyond() const { return beyond_; }
  double sending() const { return sending_; }
  // Seconds that an instance attended for others' rows.
  struct Attended {
    const Transformer* at = nullptr;
    double seconds = 0;
  };
  std::span<const Attended> attended() const { return attended_; }

 private:
  using State = Transformer::State;
  // Rows of one instance, of some of its sequences: a range of lists_.
  struct Range {
    std::size_t first = 0, count = 0;
  };
  struct Visit {
    std::size_t from = 0;  // the instance whose rows they are
    Transformer* at = nullptr;
    Range rows;
  };
  // Rows of an instance whose keys and values another one writes to its cache.
  struct Keep {
    std::size_t from = 0;
    Transformer* at = nullptr;
    Range rows;
  };
  struct Turn {  // of the ring: rows of one instance attend to the keys of another
    std::int64_t round = 0;
    std::size_t at = 0, from = 0;
    Range rows, staged;
  };

  void begin(std::span<Transformer* const> instances);
  Range add(const SequenceRows& row, std::int64_t tokens, const Transformer& at);
  void publish();
  Sequences list(Range range) const;
  void run(bool prompts, bool staged);
  bool run_apart();
  template <class F>
  double timed(State& s, F&& run);
  template <class F>
  double slowest_rank(std::size_t count, F&& run);
  double attend_own(State& s);
  double attend_ring(int layer);  // seconds, of instances side by side
  double attend_visits(int layer);
  double write(State& to, bool staged, const State& from, int layer, Range rows);

  const Kernels& kernels_;
  std::vector<Transformer*> instances_;
  StepTable<SequenceRows> lists_;
  StepTable<std::int32_t> blocks_;
  std::vector<std::size_t> places_;  // in blocks_, of each of lists_
  std::vector<Visit> visits_;
  std::vector<Keep> keeps_;
  std::vector<Turn> turns_;
  std::vector<std::vector<std::int32_t>> stripes_;
  std::vector<std::int32_t> counting_;            // 0, 1, 2, ...
  std::vector<std::vector<StepSequence>> asked_;  // of each instance; empty: it computes no rows
  std::vector<std::span<const float>> logits_;
  std::vector<OperatorRun> runs_;
  std::vector<Attended> attended_;
  double beyond_ = 0, sending_ = 0;
};

}  // namespace foretoken
