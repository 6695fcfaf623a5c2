// Which kernel attends over a cache, and with how many blocks: plain functions of shapes, so that they are
// tested without a device. A launch that decodes is sized by sequences and the bucket of the longest context
// alone; which keys a block reads it works out on the device, from the lengths that are there when it runs.
//
// The query heads that share a head of the cache are packed with the tokens of a sequence into rows (row =
// token x group + head of the group), and `rows` of them are a tile: a tile and a head of the cache are an
// item. Keys are read in units of `unit`. Blocks share out the units of all items evenly, whatever the
// lengths: a block takes so and so many in a row, so it may begin inside one item and end inside another; a
// second kernel then adds up the parts of items that were cut. Where prompts make items enough, each is a
// block's instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "executor/kernels.h"

namespace foretoken::cuda {

// Division by a number that is known when a kernel is launched, as a product and a shift: exact for 0 <= n <
// 2^31 (Granlund and Montgomery 1994, section 4).
struct Divisor {
  std::uint32_t multiplier = 1u << 31;
  int shift = 0;

  constexpr Divisor() = default;
  constexpr explicit Divisor(int by) {
    while (by > 1 && ((by - 1) >> shift) > 0) ++shift;
    multiplier = static_cast<std::uint32_t>(((1ull << (31 + shift)) + static_cast<unsigned>(by) - 1) /
                                            static_cast<unsigned>(by));
  }
  constexpr int quotient(int n) const {
    const std::uint64_t product = std::uint64_t{2 * static_cast<std::uint32_t>(n)} * multiplier;
    return static_cast<int>(static_cast<std::uint32_t>(product >> 32) >> shift);
  }
};

struct AttentionDevice {
  int multiprocessors = 0;
  std::size_t shared_bytes = 0;  // a block's most; a multiprocessor has a kilobyte more
  bool warpgroups = false;       // multiply (warpgroup.cuh)
  bool tensor_maps = false;      // boxes of matrices are copied (tensor_copies.cuh)
};

enum class AttentionKernel : std::uint8_t {
  kDecode,           // decode_attention.cu: few rows, a warp's own keys each; products of bf16
  kPrompt,           // prompt_attention.cu: many rows, keys shared by all warps; products of bf16
  kPromptWarpgroup,  // prompt_warpgroup.cu: the same in bf16 caches, by warpgroups
  kLatent,           // latent_attention.cu: values are a part of the keys; products of bf16
  kLatentWarpgroup,  // latent_warpgroup.cu: the same of many rows, in bf16 caches, by warpgroups
  kPromptTma,        // prompt_tma.cu: the same of keys that lie in boxes, which come by tensor maps
  kLatentTma,        // latent_tma.cu: likewise
  kGeneral,          // general_attention.cu: any storage and size, in float32
};

// The largest heads that kernels are compiled for, smallest first: kDecode's and kPrompt's, then
// kPromptWarpgroup's and kPromptTma's. What plans choose from is what is compiled (attention_kernels.h).
struct AttentionHeads {
  int k, v;
};
inline constexpr AttentionHeads kAttentionHeads[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};
inline constexpr AttentionHeads kGroupAttentionHeads[] = {{64, 64}, {128, 128}, {192, 128}, {256, 256}};

// A kernel as it is compiled for some sizes: all that attention_kernel() (attention_kernels.h) looks at.
struct AttentionVariant {
  AttentionKernel kernel = AttentionKernel::kGeneral;
  Storage storage = Storage::kF32;  // of the cache
  int k = 0, v = 0;                 // the largest heads that it takes; kGeneral: v as it counts on
  int rows = 0, unit = 0;           // of a tile; keys
  int stages = 0;                   // of kLatent: tiles of keys in shared memory or on their way to it
  int box_rows = 0;                 // of kPromptTma and kLatentTma: keys that lie behind one another
  int threads = 0;                  // of a block
  std::size_t shared = 0;           // bytes of a block
  int blocks_per_processor = 1;
  int least_units = 1;  // a block's, so that what it costs to begin doesn't weigh
};

struct AttentionPlan {
  AttentionVariant variant;
  std::int64_t tiles = 0;      // of the sequence that has most
  std::int64_t most_rows = 0;  // that a tile has
  std::int64_t items = 0;      // of all sequences and heads of the cache
  bool whole = false;          // a block for each item; else blocks share out the units
  std::int64_t blocks = 0;
  // Of whole items that all run at once, two a multiprocessor: from this block on those with least to read
  // come first, so that they share one with those that have most. 0: none.
  std::int64_t mirrored_from = 0;
};

// The second kernel's launch: a grid of (items, pieces of a tile's rows, pieces of 128 dims).
struct CombineLaunch {
  std::int64_t items = 0, row_pieces = 0, dim_pieces = 0;
  std::int64_t rows = 0;  // of a piece
  bool by_item = false;   // block x is item x; else the item that was cut behind share x
  bool needed() const { return items > 0; }
};
inline constexpr int kCombineDims = 128;

// most_tokens: new ones of a sequence, at most.
AttentionVariant attention_variant(const AttentionArgs& args, const CacheLayer& cache,
                                   std::int64_t most_tokens, const AttentionDevice& device);
// longest: context_bucket() of the longest context.
AttentionPlan attention_plan(const AttentionArgs& args, const CacheLayer& cache,
                             std::span<const SequenceRows> sequences, std::int64_t longest,
                             const AttentionDevice& device);
// For `v_count` dims of values.
CombineLaunch combine_launch(const AttentionPlan& plan, std::int64_t sequences, std::int64_t heads,
                             std::int64_t v_count);
// For what blocks leave of items that are cut: two of a block. Numbers of the plan's, and enough for every
// plan of up to `rows` rows with this cache and heads of up to args.v_dim.
std::size_t attention_part_bytes(const AttentionPlan& plan, std::int64_t v_dim);
std::size_t attention_most_part_bytes(const AttentionArgs& args, const CacheLayer& cache, std::int64_t rows,
                                      const AttentionDevice& device);

// ---- What plan and kernels share about shared memory ----------------------------------------------------

inline constexpr int kMostBlocks = 1024;  // that share out units

// Rows of matrices in shared memory are 16 bytes longer than their elements, so that the 8 rows that
// ldmatrix reads at a time lie in different banks.
inline constexpr int kRowPad = 16;
constexpr int padded_row(int elements, int width) { return elements * width + kRowPad; }

inline constexpr int kDecodeRows = 16, kDecodeWarps = 4, kDecodeKeys = 16;  // keys of a warp at a time
constexpr int decode_stage_bytes(int k, int v, int width) {
  return kDecodeKeys * (padded_row(k, width) + padded_row(v, width)) + (width == 1 ? 2 * kDecodeKeys * 4 : 0);
}
// On a multiprocessor: 8-bit keys and values take more instructions a byte, so more warps to hide their
// waits.
constexpr int decode_blocks(int k, int width) { return k > 128 ? 1 : width == 1 ? 3 : 2; }
// As many as let those blocks reside (two where registers let but one), at least three.
constexpr int decode_stages(int k, int v, int width) {
  const int ring = decode_blocks(k, width) == 3 ? 68 * 1024 : 102 * 1024;
  const int fit = ring / (kDecodeWarps * decode_stage_bytes(k, v, width));
  return fit < 3 ? 3 : fit > 6 ? 6 : fit;
}
constexpr int decode_ring_bytes(int k, int v, int width) {  // of a warp; what it found lies there in the end
  const int ring = decode_stages(k, v, width) * decode_stage_bytes(k, v, width);
  const int found = kDecodeRows * (v + 4) * 4;
  return ring > found ? ring : found;
}
constexpr int decode_shared_bytes(int k, int v, int width) {
  return kDecodeWarps * decode_ring_bytes(k, v, width) + kDecodeRows * padded_row(k, 2) +
         2 * kDecodeWarps * kDecodeRows * 4;
}

inline constexpr int kPromptKeys = 64;
constexpr int prompt_warps(int k) { return k > 128 ? 8 : 4; }
constexpr int prompt_row_tiles(int k) { return k > 192 ? 1 : 2; }  // of 16 rows, of a warp
constexpr int prompt_rows(int k) { return 16 * prompt_warps(k) * prompt_row_tiles(k); }
constexpr int prompt_shared_bytes(int k, int v, int width) {
  const int tile = kPromptKeys * (padded_row(k, 2) + padded_row(v, 2));
  // 8-bit keys and values: two stages as they are stored, with their scales, and one of bf16.
  const int stages = width == 2 ? 2 * tile : tile + 2 * kPromptKeys * (k + v + 8);
  return prompt_rows(k) * padded_row(k, 2) + stages + 2 * kPromptKeys * 4;
}

// Queries and two tiles of keys and values in panels that begin at multiples of 1,024 bytes.
inline constexpr int kPromptGroupRows = 128, kPromptGroupThreads = 256;
constexpr int prompt_group_keys(int k) { return k > 192 ? 64 : 128; }
constexpr int prompt_group_bytes(int k, int v) {
  const int keys = prompt_group_keys(k);
  return kPromptGroupRows * k * 2 + 2 * keys * (k + v) * 2 + 2 * keys * 4 + 1024;
}

// Queries, two tiles of keys and of values likewise, barriers. A third warpgroup asks for the tiles.
inline constexpr int kTmaThreads = 384, kTmaBarrierBytes = 128;
constexpr int prompt_tma_bytes(int k, int v) {
  return kPromptGroupRows * k * 2 + 2 * prompt_group_keys(k) * (k + v) * 2 + kTmaBarrierBytes + 1024;
}
// Of a cache of such blocks, where a unit's keys lie in boxes of as many rows each, whole numbers of which
// are a block; 0: they are too few for panels, whose rows change places by eights.
constexpr int box_rows(int block_size, int unit) {
  int rows = unit;
  while (block_size % rows != 0) rows /= 2;
  return rows >= 8 ? rows : 0;
}

inline constexpr int kLatentK = 576, kLatentV = 512, kLatentKeys = 64, kLatentWarps = 8;
constexpr int latent_key_groups(int rows) { return rows == 16 ? 8 : rows == 32 ? 4 : 2; }  // of warps
constexpr int latent_shared_bytes(int rows, int stages, int width) {
  const int tile = kLatentKeys * kLatentK * 2;
  // 8-bit keys: stages as they are stored, with their scales, and one of bf16.
  const int tiles = width == 2 ? stages * tile : tile + stages * (tile / 2 + kLatentKeys * 4);
  const int queries = rows == 16 ? 0 : rows * kLatentK * 2;  // 16 rows are kept in registers
  return tiles + queries + rows * kLatentKeys * 2 + latent_key_groups(rows) * rows * 4 + rows * 4 +
         stages * kLatentKeys * 4;
}

// Two tiles of keys, queries and weights in panels that begin at multiples of 1,024 bytes.
inline constexpr int kLatentGroupRows = 64, kLatentGroupThreads = 256;
inline constexpr int kLatentGroupBytes = (2 * kLatentKeys + kLatentGroupRows) * kLatentK * 2 +
                                         kLatentGroupRows * kLatentKeys * 2 + 2 * kLatentGroupRows * 4 +
                                         2 * kLatentKeys * 4 + 1024;

inline constexpr int kLatentTmaBytes = (2 * kLatentKeys + kLatentGroupRows) * kLatentK * 2 +
                                       kLatentGroupRows * kLatentKeys * 2 + 2 * kLatentGroupRows * 4 +
                                       kTmaBarrierBytes + 1024;

// Keys, then values, in pieces of so many dims.
inline constexpr int kGeneralKPiece = 64, kGeneralVPiece = 128, kGeneralWarps = 4, kGeneralWarpRows = 8;
inline constexpr int kGeneralMostV = 512;  // of a block
constexpr int general_unit(bool split_keys) { return split_keys ? 32 * kGeneralWarps : 32; }
constexpr int general_rows(bool split_keys) { return kGeneralWarpRows * (split_keys ? 1 : kGeneralWarps); }
constexpr int general_piece_bytes(bool split_keys) {  // keys or values, one after the other
  return general_unit(split_keys) * kGeneralVPiece * 4;
}
constexpr std::int64_t general_shared_bytes(bool split_keys, std::int64_t k) {
  const std::int64_t k_padded = (k + kGeneralKPiece - 1) / kGeneralKPiece * kGeneralKPiece;
  return general_rows(split_keys) * k_padded * 4 + general_piece_bytes(split_keys) +
         kGeneralWarps * kGeneralWarpRows * 32 * 4 + 3 * general_unit(split_keys) * 4;
}

}  // namespace foretoken::cuda
