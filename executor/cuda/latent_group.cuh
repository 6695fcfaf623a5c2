// Attention over latents (latent_attention.cu says what that is) with many query heads by products of
// warpgroups: what two warpgroups make of an item, however its keys come (latent_warpgroup.cu,
// latent_tma.cu). They have a tile of 64 rows. Each has half of a tile's 64 keys for the scores and half of
// the values' dims for all keys: so either half of the work reads what it multiplies once, all of a row's
// factors are in the registers that need them, and only largest exponents and weights are exchanged.
#pragma once

#include "executor/cuda/panels_device.cuh"

namespace foretoken::cuda {

inline constexpr int kLatentPanel = kLatentKeys * kPanelRow, kLatentPanels = kLatentK / kPanelColumns,
                     kLatentTile = kLatentPanels * kLatentPanel;
// Of a block: tiles of keys, queries, weights, and either warpgroup's largest exponent of a row.
inline constexpr int kLatentQueries = 2 * kLatentTile, kLatentWeights = kLatentQueries + kLatentTile,
                     kLatentMost = kLatentWeights + kLatentPanel,
                     kLatentShared = kLatentMost + 2 * kLatentGroupRows * 4;
static_assert(kLatentGroupRows == kLatentKeys);

FORETOKEN_DEVICE int latent_panels(const AttentionParams& p) {
  return (p.k_dim + kPanelColumns - 1) / kPanelColumns;
}

// By the threads of both warpgroups; queries are there, or on their way until the first tile is.
// next_tile(unit) waits for a unit's keys and returns where they are, done(unit) says that the warp has
// multiplied them, meet() is a barrier of the two. may_lack: what lies in a tile beyond the sequence may be
// no numbers.
template <class NextTile, class Done, class Meet>
FORETOKEN_DEVICE void attend_latents(const AttentionParams& p, const Item& item, std::byte* shared,
                                     bool may_lack, const NextTile& next_tile, const Done& done,
                                     const Meet& meet) {
  constexpr int kRows = kLatentGroupRows, kKeys = kLatentKeys / 2, kDims = kLatentV / 2;  // of a warpgroup
  std::byte *queries = shared + kLatentQueries, *weights = shared + kLatentWeights;
  auto* most = reinterpret_cast<float*>(shared + kLatentMost);  // [warpgroup][row]
  const int group = static_cast<int>(thread()) / 128, t = static_cast<int>(lane()) % 4;
  const int panels = latent_panels(p);
  const int row = static_cast<int>(warp()) % 4 * 16 + static_cast<int>(lane()) / 4;  // and 8 further
  const int first_dim = group * kDims;
  const int position[2] = {position_of(p, item, row), position_of(p, item, row + 8)};
  const int lowest = position_of(p, item, 0);  // of the tile's rows
  float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
  float sums[kDims / 2] = {};

  for (int unit = item.unit; unit < item.end_unit; ++unit) {
    std::byte* keys = next_tile(unit);
    float score[kKeys / 2];
    const RowsOperand q = rows_operand(queries), own = rows_operand(keys + group * kKeys * kPanelRow);
    products_begin();
#pragma unroll 1
    for (int panel = 0; panel < panels; ++panel) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        product_bf16<kKeys>(score, q.advanced(panel * kLatentPanel + k * 32),
                            own.advanced(panel * kLatentPanel + k * 32), panel + k > 0);
    }
    products_commit();
    products_wait<0>();
    settled(score);

    const int first_key = unit * kLatentKeys, key = first_key + group * kKeys + 2 * t;
    const bool masked = p.window > 0 || first_key + kLatentKeys - 1 > lowest;
    float next[2] = {top[0], top[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float x = exponent(p, score[4 * n + e]);
        if (masked && !sees(p, position[e / 2], key + n * 8 + e % 2)) x = -INFINITY;
        score[4 * n + e] = x;
        next[e / 2] = fmaxf(next[e / 2], x);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      next[half] = group_max<4>(next[half]);
      if (t == 0) most[group * kRows + row + 8 * half] = next[half];
    }
    meet();
    // Of the sequence's last keys values are what lies beyond them too. Scores of them are there.
    if (may_lack && first_key + kLatentKeys > item.tokens)
      clear_rows<kLatentKeys, kLatentV / kPanelColumns, kLatentGroupThreads>(keys, item.tokens - first_key,
                                                                             static_cast<int>(thread()));
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      next[half] = fmaxf(next[half], most[(1 - group) * kRows + row + 8 * half]);
      factor[half] = fast_exp2(top[half] - next[half]);
      top[half] = next[half];
      sum[half] *= factor[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        const float first = fast_exp2(score[4 * n + 2 * half] - top[half]),
                    second = fast_exp2(score[4 * n + 2 * half + 1] - top[half]);
        sum[half] += first + second;
        *reinterpret_cast<std::uint32_t*>(weights + swizzled(row + 8 * half, group * kKeys / 8 + n) + t * 4) =
            pack_bf16x2(first, second);
      }
    }
    if (warp_any(factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
      for (int n = 0; n < kDims / 2; ++n) sums[n] *= factor[n / 2 % 2];
    }
    show_to_products();
    meet();
    settled(sums);

    // Beyond p.v_dim whatever lies there, for sums that go nowhere.
    const RowsOperand of = rows_operand(weights);
    const ColumnsOperand values =
        columns_operand(keys + group * (kDims / kPanelColumns) * kLatentPanel, kLatentPanel);
    products_begin();
#pragma unroll
    for (int k = 0; k < kLatentKeys / 16; ++k)
      product_bf16<kDims>(sums, of.advanced(k * 32), values.advanced(k * 16 * kPanelRow), true);
    products_commit();
    products_wait<0>();
    settled(sums);
    done(unit);
  }

  // Rows' sums of weights are those of both halves of the keys.
  float total[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    total[side] = group_sum<4>(sum[side]);
    if (t == 0) most[group * kRows + row + 8 * side] = total[side];
  }
  meet();
  unrolled<2>([&](auto index) {
    constexpr int side = decltype(index)::value;
    const int own_row = row + 8 * side;
    // In the same order in both.
    const float both = most[own_row] + most[kRows + own_row];
    const Destination to = destination(p, item, own_row, top[side], both);
    if (to.row == nullptr) return;
    if (group == 0 && t == 0) store_top(p, item, own_row, top[side], both);
    store_row<kDims / 8>(to, first_dim, p.v_dim, [&](int n) {
      return make_float2(sums[4 * n + 2 * side], sums[4 * n + 2 * side + 1]);
    });
  });
}

}  // namespace foretoken::cuda
