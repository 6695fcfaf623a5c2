#include "serving/scheduler/decode_group.h"

#include <algorithm>

namespace foretoken {

void DecodeGroup::join(std::int32_t slot) {
  const Sequence& s = sequences_[slot];
  const std::int64_t context = s.computed - steps_;
  longest_ = members_.empty() ? context : std::max(longest_, context);
  contexts_ += s.computed;
  if (!needs_block_.empty()) {
    const auto room = static_cast<std::size_t>(s.capacity - s.computed);
    needs_block_[(static_cast<std::size_t>(steps_) + 1 + room) % needs_block_.size()].push_back(slot);
  }
  members_.push_back({steps_ + s.end_tokens - s.num_tokens, joined_++, context, slot});
  std::push_heap(members_.begin(), members_.end());
}

void DecodeGroup::settle(const Member& member) {
  Sequence& s = sequences_[member.slot];
  s.computed = static_cast<std::int32_t>(member.context + steps_);
  s.num_tokens = s.computed + 1;
  s.last_token = last_token_;
}

void DecodeGroup::dissolve() {
  for (const Member& member : members_) settle(member);
  members_.clear();
  for (auto& slots : needs_block_) slots.clear();
  contexts_ = longest_ = 0;
}

void DecodeGroup::come_out(Picoseconds at, std::vector<std::int32_t>& ended) {
  last_token_ = at;
  while (!members_.empty() && members_.front().end == steps_) {
    std::pop_heap(members_.begin(), members_.end());
    const Member member = members_.back();
    members_.pop_back();
    settle(member);
    const Sequence& s = sequences_[member.slot];
    contexts_ -= s.computed;
    if (!needs_block_.empty()) {
      const auto room = static_cast<std::size_t>(s.capacity - s.computed);
      auto& slots = needs_block_[(static_cast<std::size_t>(steps_) + 1 + room) % needs_block_.size()];
      slots.erase(std::find(slots.begin(), slots.end(), member.slot));
    }
    if (member.context == longest_) {
      longest_ = members_.empty() ? 0 : members_.front().context;
      for (const Member& other : members_) longest_ = std::max(longest_, other.context);
    }
    ended.push_back(member.slot);
  }
}

}  // namespace foretoken
