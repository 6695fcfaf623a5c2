// Cached tokens that go to an earlier position of their sequence: a key that was turned to its position is
// turned back by the distance, R(p - d) = R(-d) R(p) (Su et al. 2021, RoFormer, section 3.2: a pair's
// rotations add up). The factor of yarn and longrope is in the stored key, so the angles' own cosines are
// taken, not the tables'.
#include <algorithm>
#include <cmath>

#include "executor/transformer_state.h"

namespace foretoken {

void Transformer::State::prepare_shifts() {
  shift_blocks.clear(), shift_lists.clear(), turns.clear();
  for (const Shift& s : swaps.shifts) {
    asked.shifted_tokens += s.tokens;
    shift_lists.push_back(shift_blocks.size());
    const std::int64_t end = s.from + s.tokens;
    if (s.to < 0 || s.to > s.from || s.tokens < 1 || end > layout.max_length)
      throw std::logic_error("tokens are to be shifted out of their sequence");
    for (std::int64_t i = 0; !kernels.memory().host_reads() && i * layout.block_size < end; ++i)
      shift_blocks.push_back(s.blocks[i]);
    for (const Rope& rope : numerics.ropes) {
      const auto put = [&](double (*of)(double)) {
        for (const float frequency : rope.inverse_frequencies)
          turns.push_back(static_cast<float>(of(-static_cast<double>(s.distance) * frequency)));
      };
      put(std::cos), put(std::sin);
    }
  }
}

// Of the stage's layers. Models whose keys aren't turned by position keep theirs.
void Transformer::State::shift_keys(int stage, Rank& rank) {
  const auto [first, last] = layer_range(model, stages[static_cast<std::size_t>(stage)]);
  const float* angles = turns.own();
  for (std::size_t i = 0; i < swaps.shifts.size(); ++i) {
    const Shift& s = swaps.shifts[i];
    const std::int32_t* list = kernels.memory().host_reads() ? s.blocks : shift_blocks.own() + shift_lists[i];
    for (int layer = first; layer < last; ++layer) {
      CacheShift shift{list, s.from, s.to, s.tokens, {}, 0};
      if (const auto* mla = latent_attention(layer)) shift.first = mla->kv_lora_rank;
      const float* of_rope = angles;
      for (std::size_t r = 0; r < ropes.size(); ++r) {
        const std::int64_t pairs = ropes[r].pairs;
        if (rope_of(layer) == &ropes[r]) shift.turn = {of_rope, of_rope + pairs, pairs, ropes[r].interleaved};
        of_rope += 2 * pairs;
      }
      kernels.shift_cached(rank.cache(layer), shift, threads);
    }
    for (const RopeTable& rope : ropes) angles += 2 * rope.pairs;
  }
}

}  // namespace foretoken
