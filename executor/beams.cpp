#include "executor/beams.h"

#include <algorithm>
#include <stdexcept>

namespace foretoken {

void Beams::take(std::span<const Continuation> best) {
  const auto width = static_cast<std::size_t>(width_);
  log_probabilities_.resize(width);
  for (std::size_t b = 0; b < width; ++b) {
    parents_.push_back(best[b].parent);
    tokens_.push_back(best[b].token);
    log_probabilities_[b] = best[b].log_probability;
  }
  scratch_.resize(width);
  for (std::size_t at = 0; at < places_.size(); at += width) {
    for (std::size_t b = 0; b < width; ++b)
      scratch_[b] = places_[at + static_cast<std::size_t>(best[b].parent)];
    std::copy(scratch_.begin(), scratch_.end(), places_.begin() + static_cast<std::ptrdiff_t>(at));
  }
}

void Beams::best(std::vector<std::int32_t>& tokens) const {
  tokens.resize(static_cast<std::size_t>(steps()));
  std::int32_t beam = 0;
  for (std::int64_t step = steps() - 1; step >= 0; --step) {
    const auto at = static_cast<std::size_t>(step * width_ + beam);
    tokens[static_cast<std::size_t>(step)] = tokens_[at];
    beam = parents_[at];
  }
}

void Beams::prepare(std::span<const std::int32_t> held, std::int64_t cached, std::int64_t count,
                    std::vector<BlockCopy>& copies) {
  const std::int64_t shared = prompt_ / block_size_, first = cached - prompt_;
  if (first < 0 || first + count > steps())
    throw std::logic_error("a step asks for a token that was not produced yet");
  columns_ = (cached + count + block_size_ - 1) / block_size_;
  if (static_cast<std::int64_t>(held.size()) < shared + (columns_ - shared) * width_)
    throw std::logic_error("beams have fewer blocks than they need");

  // All go on from the prompt's last block where it isn't full.
  if (first == 0) places_.assign(prompt_ % block_size_ == 0 ? 0 : static_cast<std::size_t>(width_), 0);
  if (cached % block_size_ != 0)
    part(held.subspan(static_cast<std::size_t>(shared + (cached / block_size_ - shared) * width_),
                      static_cast<std::size_t>(width_)),
         copies);
  const std::size_t before = places_.size();
  places_.resize(static_cast<std::size_t>((columns_ - shared) * width_));
  for (std::size_t at = before; at < places_.size(); ++at)
    places_[at] = static_cast<std::int32_t>(at % static_cast<std::size_t>(width_));

  count_ = count;
  tables_.resize(static_cast<std::size_t>(width_ * columns_));
  rows_.resize(static_cast<std::size_t>(width_ * count));
  for (int beam = 0; beam < width_; ++beam) {
    std::int32_t* const table = tables_.data() + beam * columns_;
    std::copy_n(held.begin(), shared, table);
    for (std::int64_t group = 0; shared + group < columns_; ++group)
      table[shared + group] = held[static_cast<std::size_t>(shared + group * width_ + place(group, beam))];
    std::int32_t ancestor = beam;
    for (std::int64_t step = steps() - 1; step >= first; --step) {
      const auto at = static_cast<std::size_t>(step * width_ + ancestor);
      if (step < first + count) rows_[static_cast<std::size_t>(beam * count + step - first)] = tokens_[at];
      ancestor = parents_[at];
    }
  }
}

// Gives each beam a block of its own in the last group: the first of those that read one keeps it.
void Beams::part(std::span<const std::int32_t> group, std::vector<BlockCopy>& copies) {
  enum : std::int32_t { kFree, kRead, kTaken };
  const std::span<std::int32_t> places = std::span(places_).last(static_cast<std::size_t>(width_));
  std::vector<std::int32_t>& blocks = scratch_;
  blocks.assign(static_cast<std::size_t>(width_), kFree);
  for (const std::int32_t p : places) blocks[static_cast<std::size_t>(p)] = kRead;
  std::size_t free = 0;
  for (std::int32_t& p : places) {
    if (blocks[static_cast<std::size_t>(p)] != kRead) {
      while (blocks[free] != kFree) ++free;
      copies.push_back({group[static_cast<std::size_t>(p)], group[free]});
      p = static_cast<std::int32_t>(free);
    }
    blocks[static_cast<std::size_t>(p)] = kTaken;
  }
}

std::span<const std::int32_t> Beams::tokens(int beam) const {
  return std::span(rows_).subspan(static_cast<std::size_t>(beam * count_), static_cast<std::size_t>(count_));
}

std::int64_t Beams::distinct_blocks() const {
  const std::int64_t shared = prompt_ / block_size_;
  std::int64_t distinct = shared;
  for (std::size_t at = 0; at < places_.size(); at += static_cast<std::size_t>(width_))
    for (int place = 0; place < width_; ++place)
      distinct += std::count(places_.begin() + static_cast<std::ptrdiff_t>(at),
                             places_.begin() + static_cast<std::ptrdiff_t>(at) + width_, place) > 0;
  return distinct;
}

}  // namespace foretoken
