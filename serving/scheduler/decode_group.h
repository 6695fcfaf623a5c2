// The sequences that decode one token in every step, so that a step costs what changes in it (who ends, who
// needs a block, who is new) and not a walk over everybody. What a step does to all alike is kept once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "serving/sequence.h"

namespace foretoken {

// Members stay in the order in which they joined. While a sequence is one, its computed, num_tokens and
// last_token are those of the time when it joined; everything else in it holds.
class DecodeGroup {
 public:
  // block_size: of the blocks that members take as they grow, 0 where they take none.
  DecodeGroup(SequenceTable& sequences, int block_size)
      : sequences_(sequences), needs_block_(static_cast<std::size_t>(block_size)) {}

  std::int64_t size() const { return static_cast<std::int64_t>(members_.size()); }
  Picoseconds last_token() const { return last_token_; }  // when the newest token of each was out
  std::int64_t contexts() const { return contexts_; }     // sum of the members' computed tokens
  std::int32_t longest() const { return static_cast<std::int32_t>(longest_ + steps_); }
  // After how many more decided steps the first member has its last token.
  std::int64_t steps_left() const { return members_.front().end - steps_; }
  // Members that have no room for the token of the i-th next step (1: the next one), in order; of the members
  // that it has then, if none leaves and each that lacked a block got one.
  std::span<const std::int32_t> without_room(std::int64_t i) const {
    return needs_block_[static_cast<std::size_t>(steps_ + i) % needs_block_.size()];
  }

  // Between steps. Who got a token in the newest step, like all members, may join and goes on as they do.
  bool may_join(const Sequence& s) const {
    return s.decoding && s.first_token_out && s.last_token == last_token_ && s.computed == s.num_tokens - 1 &&
           (needs_block_.empty() || s.capacity - s.computed < static_cast<std::int32_t>(needs_block_.size()));
  }
  void join(std::int32_t slot);
  // Everybody leaves.
  void dissolve();

  // `steps` more are decided.
  void decide(std::int64_t steps) {
    steps_ += steps;
    contexts_ += size() * steps;
  }
  // All tokens that were decided are out, the newest at this time; `ended` gets the members that have their
  // last one, and no longer are members. To be called even without members: it is the time that decides who
  // may join.
  void come_out(Picoseconds at, std::vector<std::int32_t>& ended);

 private:
  struct Member {
    std::int64_t end = 0;      // steps_ when it has its last token
    std::int64_t number = 0;   // in order of joining
    std::int64_t context = 0;  // computed tokens less steps_
    std::int32_t slot = 0;
    // A heap's first is the one that ends first; of these the one that joined first.
    bool operator<(const Member& other) const {
      return end != other.end ? end > other.end : number > other.number;
    }
  };
  void settle(const Member& member);

  SequenceTable& sequences_;
  std::vector<Member> members_;  // a heap
  // By steps_ modulo the block size: who has no room when so many steps are decided.
  std::vector<std::vector<std::int32_t>> needs_block_;
  std::int64_t steps_ = 0, joined_ = 0;
  std::int64_t contexts_ = 0, longest_ = 0;
  Picoseconds last_token_ = -1;
};

}  // namespace foretoken
