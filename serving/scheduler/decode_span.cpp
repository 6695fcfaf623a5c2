#include "serving/scheduler/decode_span.h"

#include <algorithm>
#include <limits>

namespace foretoken {

std::int64_t steps_to_first_change(const SequenceTable& sequences, std::span<const std::int32_t> slots,
                                   std::span<const std::int64_t> windows) {
  std::int64_t steps = std::numeric_limits<std::int64_t>::max();
  for (const std::int32_t slot : slots) {
    const Sequence& s = sequences[slot];
    steps = std::min<std::int64_t>(steps, s.end_tokens - s.num_tokens);
    for (const std::int64_t window : windows) {
      if (window > s.computed) steps = std::min(steps, window - s.computed + 1);
    }
  }
  return steps;
}

std::int64_t steps_with_blocks(std::span<const std::int64_t> rooms, std::int64_t sequences,
                               std::int64_t blocks) {
  // Step j (the next one is 1) needs a block for each sequence with room for j - 1 more tokens, modulo the
  // block size.
  const auto size = static_cast<std::int64_t>(rooms.size());
  const std::int64_t cycles = blocks / sequences;
  std::int64_t left = blocks - cycles * sequences, steps = cycles * size;
  for (std::size_t d = 0; d < rooms.size() && rooms[d] <= left; ++d) {
    left -= rooms[d];
    ++steps;
  }
  return steps;
}

void append_span_blocks(SequenceTable& sequences, std::span<const std::int32_t> slots, std::int64_t steps,
                        int block_size, KvBlockPool& pool) {
  std::vector<std::vector<std::int32_t>> by_room(static_cast<std::size_t>(block_size));
  for (const std::int32_t slot : slots) {
    const Sequence& s = sequences[slot];
    if (s.capacity - s.computed < steps)
      by_room[static_cast<std::size_t>(s.capacity - s.computed)].push_back(slot);
  }
  for (std::int64_t base = 0; base < steps; base += block_size) {
    for (std::int64_t d = 0; d < block_size && base + d < steps; ++d) {
      for (const std::int32_t slot : by_room[static_cast<std::size_t>(d)]) {
        Sequence& s = sequences[slot];
        pool.allocate(1, s.blocks);
        s.capacity += block_size;
      }
    }
  }
}

}  // namespace foretoken
