// Attention of many rows in bf16 (prompt_attention.cu says which) by products of warpgroups, for devices that
// have them. A block has 128 rows of q in shared memory and walks over tiles of 128 keys (64 of wide heads),
// of which the next is copied while one is computed. Each of its two warpgroups has 64 rows: their scores and
// sums never leave its registers, and weights go from there into the products with the values. While one
// takes exponents the other's products keep the tensor cores busy.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/panels_device.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kPromptGroupRows, kThreads = kPromptGroupThreads;

template <int K, int V>
struct Prompt {
  static constexpr int kKeys = prompt_group_keys(K);
  static constexpr int kKeyPanels = K / kPanelColumns, kValuePanels = V / kPanelColumns,
                       kPanel = kKeys * kPanelRow;
  static constexpr int kTileValues = kKeyPanels * kPanel, kTile = kTileValues + kValuePanels * kPanel;
  static constexpr int kTiles = kKeyPanels * kRows * kPanelRow, kSlots = kTiles + 2 * kTile;
  static_assert(kSlots + 2 * kKeys * 4 + static_cast<int>(kPanelAlignment) == prompt_group_bytes(K, V));
};

template <int K, int V>
__global__ void __launch_bounds__(kThreads, 1) prompt_warpgroup(const AttentionParams p) {
  using P = Prompt<K, V>;
  constexpr int kKeys = P::kKeys;
  grid_dependency_wait();
  grid_dependency_launch();
  const int i_thread = static_cast<int>(thread()), group = i_thread / 128, g = static_cast<int>(lane()) / 4;
  std::byte* queries = aligned_panels(dynamic_shared());
  std::byte* tiles = queries + P::kTiles;
  auto* slots = reinterpret_cast<unsigned*>(queries + P::kSlots);                             // [stage][key]
  const int first_row = group * 64, row = first_row + static_cast<int>(warp()) % 4 * 16 + g;  // and 8 further
  // Scores that are products times a number needn't be changed before their exponents are taken.
  const bool plain = p.cap == 0 && p.by > 0;
  const float by = plain ? p.by : 1;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    const auto slot_of_unit = [&](int unit) {
      return i_thread < kKeys ? slot_of(p, item, unit * kKeys + i_thread) : kNoSlot;
    };
    // Tiles of keys and tables of slots are those of even units and of odd ones.
    unsigned slot = slot_of_unit(item.unit + 2);  // two ahead of the one that is computed
    if (i_thread < kKeys) {
      slots[item.unit % 2 * kKeys + i_thread] = slot_of_unit(item.unit);
      slots[(item.unit + 1) % 2 * kKeys + i_thread] = slot_of_unit(item.unit + 1);
    }
    sync_threads();
    const auto copy_unit = [&](int unit) {
      const unsigned* own = slots + unit % 2 * kKeys;
      std::byte* to = tiles + unit % 2 * P::kTile;
      copy_panels<kKeys, P::kKeyPanels, kThreads>(p.keys, p.k_dim, own, P::kKeyPanels, to);
      copy_panels<kKeys, P::kValuePanels, kThreads>(p.values, p.v_dim, own, P::kValuePanels,
                                                    to + P::kTileValues);
    };
    copy_unit(item.unit);
    copy_async_commit();
    query_panels<kRows, K, kThreads>(p, item, queries);
    const int4 seen = seen_by_rows(p, item, first_row);
    float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
    float sums[V / 2] = {};

    for (int unit = item.unit; unit < item.end_unit; ++unit) {
      copy_async_wait<0>();
      show_to_products();
      sync_threads();
      if (unit + 1 < item.end_unit) copy_unit(unit + 1);
      copy_async_commit();
      if (i_thread < kKeys) slots[unit % 2 * kKeys + i_thread] = slot;
      slot = slot_of_unit(unit + 3);
      const int key = unit * kKeys;
      if (key > seen.y || key + kKeys <= seen.x) continue;  // the whole warpgroup

      const std::byte* keys = tiles + unit % 2 * P::kTile;
      float score[kKeys / 2];
      const RowsOperand q = rows_operand(queries + first_row * kPanelRow), of_keys = rows_operand(keys);
      products_begin();
#pragma unroll
      for (int k = 0; k < K / 16; ++k)
        product_bf16<kKeys>(score, q.advanced(k / 4 * kRows * kPanelRow + k % 4 * 32),
                            of_keys.advanced(k / 4 * P::kPanel + k % 4 * 32), k > 0);
      products_commit();
      products_wait<0>();

      mask_scores<kKeys>(p, item, row, key, seen, plain, score);
      float next[2];
      raise_tops<kKeys>(score, by, top, next);
      if (warp_any(next[0] > top[0] || next[1] > top[1])) {
        const float factor[2] = {fast_exp2(top[0] - next[0]), fast_exp2(top[1] - next[1])};
        top[0] = next[0], top[1] = next[1];
        sum[0] *= factor[0], sum[1] *= factor[1];
#pragma unroll
        for (int i = 0; i < V / 2; ++i) sums[i] *= factor[i / 2 % 2];
      }
      std::uint32_t weights[kKeys / 16][4];
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const int half = pair % 2;
          const float first = fast_exp2(fmaf(score[8 * j + 2 * pair], by, -top[half])),
                      second = fast_exp2(fmaf(score[8 * j + 2 * pair + 1], by, -top[half]));
          sum[half] += first + second;
          weights[j][pair] = pack_bf16x2(first, second);
        }
      }

      const ColumnsOperand values = columns_operand(keys + P::kTileValues, P::kPanel);
      products_begin();
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j)
        product_bf16<V>(sums, weights[j], values.advanced(j * 16 * kPanelRow), true);
      products_commit();
      products_wait<0>();
    }
    copy_async_wait<0>();

    store_rows<V>(p, item, row, top, sum, sums);
  }
}

struct Prompts {
  template <int K, int V>
  static AttentionFunction heads() {
    return prompt_warpgroup<K, V>;
  }
};

}  // namespace

AttentionFunction prompt_warpgroup_kernel(const AttentionVariant& variant) {
  return variant.storage == Storage::kBf16 ? of_heads<kGroupAttentionHeads, Prompts>(variant) : nullptr;
}

}  // namespace foretoken::cuda
