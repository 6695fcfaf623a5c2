// A model that runs: the operators of model::operators, in their order, each launched on the kernels of every
// rank, with collectives in between. Token ids in, logits out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/numerics.h"
#include "executor/rank.h"
#include "model/operators.h"

namespace foretoken {

// What one step asks: rows of new tokens, sequence after sequence.
struct StepSequence {
  std::span<const std::int32_t> tokens;  // new ones, at least 1
  std::int64_t cached = 0;               // tokens that the cache holds already
  const std::int32_t* blocks = nullptr;  // that hold the cached tokens and the new ones
  bool decode = false;                   // generates: belongs to the decoding operators
  bool sample = false;                   // logits of its last row are wanted
};

// One operator of the step as it ran.
struct OperatorRun {
  Op op;
  int layer = -1;          // -1 outside the layers
  double seconds = 0;      // of the slowest rank
  double all_seconds = 0;  // of all ranks, one after the other
};

class Transformer {
 public:
  // Bytes of weights, cache and workspace of all ranks, computed without allocating.
  static std::size_t bytes_needed(const ModelConfig& model, const Numerics& numerics,
                                  const Checkpoint& checkpoint, const Kernels& kernels, const Layout& layout);
  // Keeps references to all its arguments but the checkpoint. Throws Error for what can't be split so,
  // std::bad_alloc.
  Transformer(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
              const Kernels& kernels, const Layout& layout, const Precision& precision, Threads& threads);
  ~Transformer();

  // Blocks that are copied before a step computes: out to host memory first, then in.
  struct Swaps {
    std::span<const BlockCopy> out, in;
  };
  // Runs one step; sequences that decode come last. Logits [sampled sequences in order][vocab], valid until
  // the next step.
  std::span<const float> step(std::span<const StepSequence> sequences, const Swaps& swaps);
  std::span<const float> step(std::span<const StepSequence> sequences) { return step(sequences, {}); }
  // Operators of the last step in the order in which they ran.
  std::span<const OperatorRun> operators_run() const;
  const Layout& layout() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace foretoken
