// How long a set of decoding sequences can go on, and the blocks that it takes meanwhile: what hold() and
// advance() of the schedulers have in common.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "serving/kv_block_pool.h"
#include "serving/sequence.h"

namespace foretoken {

// Steps, the one just decided included, until the first of the sequences has its last token or outgrows a
// window (the context sum rises more slowly from then on). Tokens of the step just decided are not out yet.
std::int64_t steps_to_first_change(const SequenceTable& sequences, std::span<const std::int32_t> slots,
                                   std::span<const std::int64_t> windows);

// Further steps for which `blocks` suffice when every sequence takes one token a step and has `room(s)`
// tokens left in its last block; rooms[d] counts the sequences with room d.
std::int64_t steps_with_blocks(std::span<const std::int64_t> rooms, std::int64_t sequences,
                               std::int64_t blocks);

// Takes the blocks of `steps` further tokens of each sequence in the order in which single steps would: step
// by step, in the order of `slots` within a step. Neither `computed` nor `num_tokens` is changed.
void append_span_blocks(SequenceTable& sequences, std::span<const std::int32_t> slots, std::int64_t steps,
                        int block_size, KvBlockPool& pool);

}  // namespace foretoken
