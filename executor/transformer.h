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
  bool every_row = false;  // of all its rows
  // Drafted tokens that form a tree: the parent of each, the root's is -1, parents before children. The new
  // ones are tokens [first_node, first_node + n), token i lies at the cache's place root + i with root =
  // cached - first_node, and follows those on its way to the root alone. Null: each token follows all others.
  const std::int32_t* parents = nullptr;
  std::int64_t first_node = 0;
  // Where other instances hold or compute others of its tokens (instance_group.h): new token t is the
  // sequence's token first_position + t x position_step, while `cached` counts what lies here. -1: all do.
  std::int64_t first_position = -1, position_step = 1;
};

// One operator of the step as it ran.
struct OperatorRun {
  Op op;
  int layer = -1;          // -1 outside the layers
  int stage = 0;           // of the pipeline
  double seconds = 0;      // of the slowest rank
  double all_seconds = 0;  // of all ranks, one after the other
};

class Transformer {
 public:
  // What all ranks that this process computes take of the kernels' memory, found without allocating. Twins
  // share the weights.
  struct Bytes {
    std::size_t weights = 0, cache = 0, workspace = 0;
  };
  static Bytes bytes_needed(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
                            const Kernels& kernels, const Layout& layout, Threads& threads);
  // Keeps references to all its arguments but the checkpoint and the adapters (read where layout.lora has a
  // rank). Throws Error for what can't be split so, std::bad_alloc.
  Transformer(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
              const Kernels& kernels, const Layout& layout, const Precision& precision, Threads& threads,
              const AdapterSource* adapters = nullptr);
  ~Transformer();
  // Another one with the same weights, not copied, and a cache and a workspace of its own; the layout may
  // differ in sizes, not in ranks.
  std::unique_ptr<Transformer> twin(const Layout& layout) const;

  // Cached tokens that go to an earlier position of their sequence: see KvShift. The blocks hold them there
  // and where they are.
  struct Shift {
    const std::int32_t* blocks = nullptr;
    std::int64_t from = 0, to = 0, tokens = 0, distance = 0;
  };
  // What is copied before a step computes: blocks out to host memory first, then in; adapters into slots,
  // where those of the step's sequences must be; then tokens are shifted in this order, all layers of them.
  struct Swaps {
    std::span<const BlockCopy> out, in;
    std::span<const AdapterLoad> loads = {};
    std::span<const Shift> shifts = {};
  };
  // Runs one step; sequences that decode come last. Logits [sampled rows in order][vocab], valid until the
  // next step. Allocates nothing once a step as large has run.
  std::span<const float> step(std::span<const StepSequence> sequences, const Swaps& swaps);
  std::span<const float> step(std::span<const StepSequence> sequences,
                              std::span<const AdapterLoad> loads = {}) {
    return step(sequences, Swaps{{}, {}, loads});
  }
  // Copies what is cached of a tree's branch, whose nodes lie at root + node, so that they lie behind one
  // another from root + 1 on.
  void move_path(const std::int32_t* blocks, std::int64_t root, std::span<const int> nodes);
  // Operators of the last step in the order in which they ran.
  std::span<const OperatorRun> operators_run() const;
  const Layout& layout() const;

  // Copies the cache of a sequence's first `tokens` tokens between two transformers of one model, whatever
  // their ranks: each rank of `to` fetches its heads from a rank that holds them. Seconds of the slowest one.
  // done: of these tokens, copied before.
  static double copy_cache(const Transformer& from, std::span<const std::int32_t> source, Transformer& to,
                           std::span<const std::int32_t> target, std::int64_t tokens, std::int64_t done = 0);
  // Copies blocks between the cache (-1) and its tiers (Layout::kv_tiers), or between two of these. Seconds
  // of the slowest rank.
  double move_blocks(std::int32_t from, std::int32_t to, std::span<const BlockCopy> blocks);

 private:
  friend class Replica;
  friend class InstanceGroup;
  struct State;
  explicit Transformer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace foretoken
