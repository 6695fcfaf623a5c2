// The beams of one request in beam search: the tokens that each has, how likely it is, and which KV blocks
// it reads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "executor/kernels.h"
#include "serving/backend.h"

namespace foretoken {

// The prompt's full blocks are every beam's. Blocks after them come in groups of `width`, one for each beam,
// and a beam's place in a group says which of them it reads. A step makes the places of a beam those of its
// parent; nothing is copied but the last block, if it is partly filled, when two beams are about to write
// into the same one. So each finds a block of its own among its group's.
class Beams {
 public:
  Beams(int width, int block_size, std::int64_t prompt)
      : width_(width), block_size_(block_size), prompt_(prompt), log_probabilities_(1, 0.0) {}

  // Of the sequences that the next tokens continue: the prompt alone, then the beams, the best one first.
  std::span<const double> log_probabilities() const { return log_probabilities_; }
  void take(std::span<const Continuation> best);
  void best(std::vector<std::int32_t>& tokens) const;  // generated ones

  // Prepares a step that computes every beam's tokens at places cached, cached + 1, ...; `held` are the
  // request's blocks, `copies` gets what is to be copied before.
  void prepare(std::span<const std::int32_t> held, std::int64_t cached, std::int64_t count,
               std::vector<BlockCopy>& copies);
  // In that step.
  std::span<const std::int32_t> tokens(int beam) const;
  const std::int32_t* blocks(int beam) const { return tables_.data() + beam * columns_; }
  std::int64_t columns() const { return columns_; }  // blocks that a beam reads
  std::int64_t distinct_blocks() const;              // that all of them read

 private:
  std::int64_t steps() const { return static_cast<std::int64_t>(tokens_.size()) / width_; }
  std::int32_t& place(std::int64_t group, int beam) {
    return places_[static_cast<std::size_t>(group * width_ + beam)];
  }
  void part(std::span<const std::int32_t> group, std::vector<BlockCopy>& copies);

  int width_, block_size_;
  std::int64_t prompt_;
  std::vector<double> log_probabilities_;
  std::vector<std::int32_t> parents_, tokens_;  // [step][beam]
  std::vector<std::int32_t> places_;            // [group][beam]
  // Of the step at hand.
  std::int64_t columns_ = 0, count_ = 0;
  std::vector<std::int32_t> tables_, rows_;  // [beam][column], [beam][token]
  std::vector<std::int32_t> scratch_;        // [beam]
};

}  // namespace foretoken
