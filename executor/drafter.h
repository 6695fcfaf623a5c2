// Who guesses the next tokens of sequences for speculative decoding: a draft model with weights and a cache
// of its own, or the sequence's own past.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "executor/executable.h"

namespace foretoken {

// Drafted tokens of a sequence, level by level; node 0 is the sequence's newest token, which is given.
class DraftTree {
 public:
  explicit DraftTree(std::span<const int> widths);
  int nodes() const { return static_cast<int>(parents_.size()); }  // the root included
  bool is_chain() const { return nodes() == levels() + 1; }
  int levels() const { return static_cast<int>(first_.size()) - 1; }
  int first(int level) const { return first_[static_cast<std::size_t>(level)]; }  // level 0: the root
  int width(int level) const { return widths_[static_cast<std::size_t>(level)]; }
  int level(int node) const { return level_[static_cast<std::size_t>(node)]; }  // 0: the root
  int first_child(int node) const;                                              // nodes() where it has none
  // Of each node; of none where the tree is a chain, which needs none.
  std::span<const std::int32_t> parents() const {
    return is_chain() ? std::span<const std::int32_t>{} : parents_;
  }

 private:
  std::vector<int> widths_, first_;
  std::vector<std::int32_t> parents_, level_;
};

// A sequence that got tokens in the step that just ran.
struct DraftedSequence {
  const std::vector<std::int32_t>* tokens = nullptr;  // prompt and output
  const std::int32_t* blocks = nullptr;
  std::int64_t slots = 0;                       // tokens that the blocks hold
  std::int64_t most = 0;                        // that its next step can verify
  bool prompt_ended = false;                    // in this step
  std::vector<std::int32_t>* drafts = nullptr;  // result: nodes from 1 on, cut at `most`
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // After a step of that engine; `prompts`: the prompt parts that it computed.
  virtual void propose(std::size_t engine, std::span<const StepSequence> prompts,
                       std::span<const DraftedSequence> sequences) = 0;
  // Nodes path[0], path[1], ... below the root, which lies at that place, were accepted.
  virtual void accepted(std::size_t engine, const std::int32_t* blocks, std::int64_t root,
                        std::span<const int> path) {
    (void)engine, (void)blocks, (void)root, (void)path;
  }
  // Of the last proposal: work of each pass, seconds by operator, and seconds that ranks ran one after the
  // other beyond the slowest.
  std::vector<Work> work;
  std::map<std::string, double> operator_seconds;
  double saved = 0;
};

// Keeps references to its arguments.
std::unique_ptr<Drafter> make_drafter(const Speculation& speculation, const DraftTree& tree,
                                      const ExecutorOptions& options, std::size_t bytes_taken);

}  // namespace foretoken
