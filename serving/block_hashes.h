// Chained hashes of a sequence's full blocks, by which the prefix cache is looked up: h_i = H(h_{i-1},
// content).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "serving/kv_block_pool.h"
#include "serving/request.h"

namespace foretoken {

// Hashes of the full blocks of one sequence, computed front to back as far as they are asked for. Blocks that
// go on in the middle of a run follow from the one before them, so up to kNumbered of them have consecutive
// hashes, from a multiple of kNumbered on: the block pool keeps them together.
class BlockHashes {
 public:
  static constexpr std::uint64_t kNumbered = KvBlockPool::kSegment;
  void clear();
  // Extends to `blocks` full blocks. runs: the prompt's shared content (cut at input_len).
  void extend(std::int64_t blocks, int block_size, const Request& request, std::span<const ContentRun> runs);
  std::int64_t size() const { return static_cast<std::int64_t>(hashes_.size()); }
  std::uint64_t operator[](std::int64_t block) const { return hashes_[static_cast<std::size_t>(block)]; }
  std::span<const std::uint64_t> first(std::int64_t blocks) const {
    return std::span(hashes_).first(static_cast<std::size_t>(blocks));
  }

 private:
  // Where the token at `position` of the sequence is from: a content and how many tokens of it there are.
  // Moves on from the prompt to the generated tokens.
  ContentRun piece(std::int64_t position, const Request& request, std::span<const ContentRun> runs);
  void take(std::int64_t tokens, std::int64_t position, const ContentRun& piece, const Request& request);

  std::vector<std::uint64_t> hashes_;
  std::size_t piece_ = 0;    // runs, then the private rest of the prompt, then the generated tokens
  std::int64_t offset_ = 0;  // tokens of that piece already hashed
};

}  // namespace foretoken
