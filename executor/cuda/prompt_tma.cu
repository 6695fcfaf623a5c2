// Attention of many rows in bf16 by products of warpgroups (prompt_warpgroup.cu), for caches whose keys lie
// in boxes. Two warpgroups compute, with 64 rows of q each; a warp of a third one asks for the tiles of keys
// and of values, box by box from the blocks' table, two of each at most ahead (FlashAttention-3, Shah et al.
// 2024, section 3). Each warpgroup starts the scores of its next keys before the sums of the values of those
// before, and takes exponents while the latter are under way; the two ask for products by turns, so that
// one's exponents fall into the other's products.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/panels_device.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kPromptGroupRows, kComputing = kPromptGroupThreads, kProducer = kComputing / 32;
constexpr unsigned kWarps = kComputing / 32;  // that compute
// 64 thousand registers of a multiprocessor among 384 threads: 168 each, then so.
constexpr int kFewRegisters = 40, kManyRegisters = 232;

struct Barriers {
  Barrier key_full[2], key_empty[2], value_full[2], value_empty[2];  // of a stage
  Barrier queries;                                                   // are there
  Barrier turn[2], cleared[2];                                       // of a warpgroup
};
static_assert(sizeof(Barriers) <= kTmaBarrierBytes);

template <int K, int V>
struct Prompt {
  static constexpr int kKeys = prompt_group_keys(K);
  static constexpr int kKeyPanels = K / kPanelColumns, kValuePanels = V / kPanelColumns,
                       kPanel = kKeys * kPanelRow;
  static constexpr int kKeyTile = kKeyPanels * kPanel, kValueTile = kValuePanels * kPanel;
  static constexpr int kKeyTiles = kKeyPanels * kRows * kPanelRow, kValueTiles = kKeyTiles + 2 * kKeyTile,
                       kBarriers = kValueTiles + 2 * kValueTile;
  static_assert(kBarriers + kTmaBarrierBytes + static_cast<int>(kPanelAlignment) == prompt_tma_bytes(K, V));
};

// A warp's part: the tiles of an item, of which `tile` is the first one's number among the block's. The next
// keys are asked for before this unit's values, as scores are computed so far ahead.
template <int K, int V>
FORETOKEN_DEVICE void ask_for_tiles(const AttentionParams& p, const AttentionMaps& maps, const Item& item,
                                    std::byte* shared, unsigned tile) {
  using P = Prompt<K, V>;
  Barriers& b = *reinterpret_cast<Barriers*>(shared + P::kBarriers);
  const LaneBoxes<P::kKeys> boxes(p);
  const auto keys = [&](unsigned number, unsigned slot) {
    const unsigned stage = number % 2;
    barrier_wait(&b.key_empty[stage], (number / 2 + 1) % 2);
    boxes.copy(maps.keys, slot, P::kKeyPanels, shared + P::kKeyTiles + static_cast<int>(stage) * P::kKeyTile,
               &b.key_full[stage]);
  };
  const auto values = [&](unsigned number, unsigned slot) {
    const unsigned stage = number % 2;
    barrier_wait(&b.value_empty[stage], (number / 2 + 1) % 2);
    boxes.copy(maps.values, slot, P::kValuePanels,
               shared + P::kValueTiles + static_cast<int>(stage) * P::kValueTile, &b.value_full[stage]);
  };
  unsigned slot = boxes.slot(p, item, item.unit), next = boxes.slot(p, item, item.unit + 1);
  keys(tile, slot);
  for (int unit = item.unit; unit < item.end_unit; ++unit, ++tile) {
    const unsigned after = boxes.slot(p, item, unit + 2);
    if (unit + 1 < item.end_unit) keys(tile + 1, next);
    values(tile, slot);
    slot = next, next = after;
  }
}

template <int K, int V>
FORETOKEN_DEVICE void attend(const AttentionParams& p, const Item& item, std::byte* shared, unsigned tile,
                             unsigned number_of_item, unsigned& clearings) {
  using P = Prompt<K, V>;
  constexpr int kKeys = P::kKeys;
  Barriers& b = *reinterpret_cast<Barriers*>(shared + P::kBarriers);
  const int group = static_cast<int>(thread()) / 128, first_row = group * 64,
            row = first_row + static_cast<int>(warp()) % 4 * 16 + static_cast<int>(lane()) / 4;
  // Scores that are products times a number needn't be changed before their exponents are taken.
  const bool plain = p.cap == 0 && p.by > 0;
  const float by = plain ? p.by : 1;
  query_panels<kRows, K, kComputing>(p, item, shared);
  show_to_products();
  warp_arrive(&b.queries);
  const int4 seen = seen_by_rows(p, item, first_row);
  // The units of which the warpgroup's rows see something.
  int begin = seen.x / kKeys, end = (seen.y + kKeys) / kKeys;
  begin = begin < item.unit ? item.unit : begin < item.end_unit ? begin : item.end_unit;
  end = end < begin ? begin : end < item.end_unit ? end : item.end_unit;

  // Each unit is a turn of either warpgroup, whether it sees it or not.
  const auto take_turn = [&](unsigned number) {
    barrier_wait(&b.turn[group], (number + (group == 0 ? 1 : 0)) % 2);
  };
  const auto give_turn = [&] { warp_arrive(&b.turn[1 - group]); };
  const auto wait_for = [](Barrier* full, unsigned number) {
    barrier_wait(full + number % 2, number / 2 % 2);
  };
  const auto pass = [&](int units) {
    for (; units > 0; --units, ++tile) {
      wait_for(b.key_full, tile);
      warp_arrive(&b.key_empty[tile % 2]);
      take_turn(tile);
      give_turn();
      wait_for(b.value_full, tile);
      warp_arrive(&b.value_empty[tile % 2]);
    }
  };

  float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
  float sums[V / 2] = {};
  float score[kKeys / 2];
  std::uint32_t weights[kKeys / 16][4];
  const auto start_scores = [&](unsigned number) {
    const RowsOperand q = rows_operand(shared + first_row * kPanelRow),
                      keys = rows_operand(shared + P::kKeyTiles + static_cast<int>(number % 2) * P::kKeyTile);
#pragma unroll
    for (int k = 0; k < K / 16; ++k)
      product_bf16<kKeys>(score, q.advanced(k / 4 * kRows * kPanelRow + k % 4 * 32),
                          keys.advanced(k / 4 * P::kPanel + k % 4 * 32), k > 0);
    products_commit();
  };
  const auto start_sums = [&](unsigned number) {
    const ColumnsOperand values =
        columns_operand(shared + P::kValueTiles + static_cast<int>(number % 2) * P::kValueTile, P::kPanel);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j)
      product_bf16<V>(sums, weights[j], values.advanced(j * 16 * kPanelRow), true);
    products_commit();
  };
  // Scores become weights, in their place. Returns whether sums are to be multiplied by `factor`.
  const auto take_exponents = [&](int unit, float(&factor)[2]) {
    mask_scores<kKeys>(p, item, row, unit * kKeys, seen, plain, score);
    float next[2];
    raise_tops<kKeys>(score, by, top, next);
    const bool raised = warp_any(next[0] > top[0] || next[1] > top[1]);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      factor[side] = fast_exp2(top[side] - next[side]);
      top[side] = next[side];
      sum[side] *= factor[side];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      const int side = i / 2 % 2;
      score[i] = fast_exp2(fmaf(score[i], by, -top[side]));
      sum[side] += score[i];
    }
    return raised;
  };
  const auto round_weights = [&] {
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
#pragma unroll
      for (int pair = 0; pair < 4; ++pair)
        weights[j][pair] = pack_bf16x2(score[8 * j + 2 * pair], score[8 * j + 2 * pair + 1]);
    }
  };

  barrier_wait(&b.queries, number_of_item % 2);
  pass(begin - item.unit);
  if (begin < end) {
    float factor[2];
    wait_for(b.key_full, tile);
    take_turn(tile);
    products_begin();
    start_scores(tile);
    give_turn();
    products_wait<0>();
    settled(score);
    warp_arrive(&b.key_empty[tile % 2]);
    take_exponents(begin, factor);
    round_weights();
    if (begin + 1 < end) wait_for(b.key_full, tile + 1);
#pragma unroll 1
    for (int unit = begin + 1; unit < end; ++unit, ++tile) {
      wait_for(b.value_full, tile);
      take_turn(tile + 1);
      settled(sums), settled(weights);
      products_begin();
      start_scores(tile + 1);
      start_sums(tile);
      give_turn();
      products_wait<1>();
      settled(score);
      warp_arrive(&b.key_empty[(tile + 1) % 2]);
      const bool raised = take_exponents(unit, factor);
      settled(score);
      // Also a seam for the assembler, which else waits for products first and takes exponents then.
      if (unit + 1 < end) wait_for(b.key_full, tile + 2);
      products_wait<0>();
      settled(sums);
      warp_arrive(&b.value_empty[tile % 2]);
      if (raised) {
#pragma unroll
        for (int i = 0; i < V / 2; ++i) sums[i] *= factor[i / 2 % 2];
      }
      round_weights();
    }
    wait_for(b.value_full, tile);
    // The sequence's last keys may end inside a box or a tile.
    if (end * kKeys > item.tokens) {
      clear_rows<kKeys, P::kValuePanels, 128>(
          shared + P::kValueTiles + static_cast<int>(tile % 2) * P::kValueTile,
          item.tokens - (end - 1) * kKeys, static_cast<int>(thread()) % 128);
      warp_arrive(&b.cleared[group]);
      barrier_wait(&b.cleared[group], clearings++ % 2);
    }
    settled(sums), settled(weights);
    products_begin();
    start_sums(tile);
    products_wait<0>();
    settled(sums);
    warp_arrive(&b.value_empty[tile % 2]);
    ++tile;
  }
  pass(item.end_unit - end);
  store_rows<V>(p, item, row, top, sum, sums);
}

template <int K, int V>
__global__ void __launch_bounds__(kTmaThreads, 1)
    prompt_tma(const AttentionParams p, const __grid_constant__ AttentionMaps maps) {
  using P = Prompt<K, V>;
  grid_dependency_wait();
  grid_dependency_launch();
  std::byte* shared = aligned_panels(dynamic_shared());
  Barriers& b = *reinterpret_cast<Barriers*>(shared + P::kBarriers);
  if (thread() == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&b.key_full[i], 1), barrier_init(&b.value_full[i], 1);
      barrier_init(&b.key_empty[i], kWarps), barrier_init(&b.value_empty[i], kWarps);
      barrier_init(&b.turn[i], kWarps / 2), barrier_init(&b.cleared[i], kWarps / 2);
    }
    barrier_init(&b.queries, kWarps);
    show_barriers();
  }
  start_walk(p);
  sync_threads();  // its lanes part; registers are given and taken by whole warps
  const Item& item = shared_walk().item;
  unsigned tile = 0, items = 0, clearings = 0;  // before this item
  if (thread() < kComputing) {
    take_registers<kManyRegisters>();
    for (; next_item(p); tile += static_cast<unsigned>(item.end_unit - item.unit), ++items)
      attend<K, V>(p, item, shared, tile, items, clearings);
  } else {
    keep_registers<kFewRegisters>();
    show_memory_to_copies();
    for (; next_item(p); tile += static_cast<unsigned>(item.end_unit - item.unit))
      if (warp() == kProducer) ask_for_tiles<K, V>(p, maps, item, shared, tile);
  }
}

struct Prompts {
  template <int K, int V>
  static TensorAttentionFunction heads() {
    return prompt_tma<K, V>;
  }
};

}  // namespace

TensorAttentionFunction prompt_tma_kernel(const AttentionVariant& variant) {
  return variant.storage == Storage::kBf16
             ? of_heads<kGroupAttentionHeads, Prompts, TensorAttentionFunction>(variant)
             : nullptr;
}

}  // namespace foretoken::cuda
