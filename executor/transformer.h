// A model that runs: the operators of model::operators, in their order, each launched on the kernels of every
// rank, with collectives in between. Token ids in, logits out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/adapters.h"
#include "executor/numerics.h"
#include "executor/rank.h"
#include "model/operators.h"
#include "serving/lora.h"

namespace foretoken {

// What one step asks: rows of new tokens, sequence after sequence.
struct StepSequence {
  std::span<const std::int32_t> tokens;  // new ones, at least 1
  std::int64_t cached = 0;               // tokens that the cache holds already
  const std::int32_t* blocks = nullptr;  // that hold the cached tokens and the new ones
  bool decode = false;                   // generates: belongs to the decoding operators
  bool sample = false;                   // logits of its last row are wanted
  std::int32_t adapter = -1;             // -1: the base model
  // Where a model with recurrent layers keeps the sequence's state, below Layout::max_sequences; emptied by a
  // step without cached tokens.
  std::int32_t state = -1;
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
  // Keeps references to all its arguments but the checkpoint and the adapters (read where layout.lora has a
  // rank). Throws Error for what can't be split so, std::bad_alloc.
  Transformer(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
              const Kernels& kernels, const Layout& layout, const Precision& precision, Threads& threads,
              const AdapterSource* adapters = nullptr);
  ~Transformer();

  // Runs one step; sequences that decode come last. Logits [sampled sequences in order][vocab], valid until
  // the next step. loads: adapters that are copied into slots first; those of the sequences must be in one.
  std::span<const float> step(std::span<const StepSequence> sequences,
                              std::span<const AdapterLoad> loads = {});
  // Operators of the last step in the order in which they ran.
  std::span<const OperatorRun> operators_run() const;
  const Layout& layout() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace foretoken
