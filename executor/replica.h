// One engine of a deployment: its attention data-parallel ranks, each a transformer with a cache of its own,
// that go through a step together because they share the experts. Mostly there is one.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "executor/transformer.h"

namespace foretoken {

class Replica {
 public:
  // layout.data_parallel ranks (layout.group is theirs). Keeps references to its arguments but the
  // checkpoint.
  Replica(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
          const Kernels& kernels, const Layout& layout, const Precision& precision, Threads& threads,
          const AdapterSource* adapters = nullptr);
  // Another engine with the same weights, not copied; the layout may differ in sizes, not in ranks.
  std::unique_ptr<Replica> twin(const Layout& layout) const;

  // What it takes of the kernels' memory, found without allocating. Twins share the weights.
  static Transformer::Bytes bytes_needed(const ModelConfig& model, const Numerics& numerics,
                                         const Checkpoint& checkpoint, const Kernels& kernels, Layout layout,
                                         Threads& threads);

  // One step: a list of sequences for each rank, empty for one that has nothing to do but its experts' part,
  // and what each copies before.
  void step(std::span<const std::vector<StepSequence>> ranks, std::span<const Transformer::Swaps> swaps = {});
  // Of a rank's sampled sequences in order, in the kernels' memory, valid until the next step.
  std::span<const float> logits(std::size_t rank) const;
  // Operators of the last step; between two exchanges those of the rank that took longest.
  std::span<const OperatorRun> operators_run() const;
  Transformer& rank(std::size_t i) { return *ranks_[i]; }

 private:
  Replica(const Layout& layout, const ModelConfig& model, const Kernels& kernels)
      : layout_(layout), model_(model), kernels_(kernels) {}
  // Rows and pairs that an exchange holds, as counts of values.
  struct Exchanged {
    Exchanged(const ModelConfig& model, const Layout& layout);
    std::size_t hidden = 0, routed = 0, chosen = 0, pairs = 0;  // 0: there are no exchanges
    std::size_t bytes() const;
  };
  void allocate();
  void run_apart();
  void exchange();

  Layout layout_;
  const ModelConfig& model_;
  const Kernels& kernels_;
  std::vector<std::unique_ptr<Transformer>> ranks_;
  // All rows of the group at an exchange: their hidden states and router's outputs, and a result for each
  // pair of row and chosen expert.
  Arena memory_;
  float *rows_ = nullptr, *routed_ = nullptr, *pairs_ = nullptr;
  std::int32_t* order_ = nullptr;  // 0, 1, 2, ...
  std::vector<OperatorRun> runs_;
};

}  // namespace foretoken
