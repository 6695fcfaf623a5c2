// Attention over latents (latent_attention.cu says what that is) with many query heads: products of
// warpgroups, for devices that have them. A block has two warpgroups and a tile of 64 rows. Each warpgroup
// has half of a tile's 64 keys for the scores and half of the values' dims for all keys: so either half of
// the work reads what it multiplies once, all of a row's factors are in the registers that need them, and
// only largest exponents and weights are exchanged. One tile of keys is copied while one is computed: more
// have no room beside the queries.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/panels_device.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kLatentGroupRows, kThreads = kLatentGroupThreads;
constexpr int kPanels = kLatentK / kPanelColumns, kPanel = kLatentKeys * kPanelRow, kTile = kPanels * kPanel;
constexpr int kKeys = kLatentKeys / 2, kDims = kLatentV / 2;  // of a warpgroup
constexpr int kQueries = 2 * kTile, kWeights = kQueries + kTile, kMost = kWeights + kPanel,
              kSlots = kMost + 2 * kRows * 4, kBytes = kSlots + 2 * kLatentKeys * 4;
static_assert(kRows == kLatentKeys && kBytes + kPanelAlignment == kLatentGroupBytes);

__global__ void __launch_bounds__(kThreads, 1) latent_warpgroup(const AttentionParams p) {
  grid_dependency_wait();
  grid_dependency_launch();
  const int i_thread = static_cast<int>(thread()), group = i_thread / 128, g = static_cast<int>(lane()) / 4,
            t = static_cast<int>(lane()) % 4;
  std::byte* tiles = aligned_panels(dynamic_shared());
  std::byte *queries = tiles + kQueries, *weights = tiles + kWeights;
  auto* most = reinterpret_cast<float*>(tiles + kMost);       // [warpgroup][row]
  auto* slots = reinterpret_cast<unsigned*>(tiles + kSlots);  // [stage][key]
  const int panels = (p.k_dim + kPanelColumns - 1) / kPanelColumns;
  const int row = static_cast<int>(warp()) % 4 * 16 + g;  // and 8 further
  const int first_dim = group * kDims;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    const int units = item.end_unit - item.unit, first_key = item.unit * kLatentKeys;
    const auto slot_of_tile = [&](int i) {
      return i_thread < kLatentKeys ? slot_of(p, item, first_key + i * kLatentKeys + i_thread) : kNoSlot;
    };
    unsigned slot = slot_of_tile(2);  // of the tile after those that are in the tables
    if (i_thread < kLatentKeys) {
      slots[i_thread] = slot_of_tile(0);
      slots[kLatentKeys + i_thread] = slot_of_tile(1);
    }
    sync_threads();
    const auto copy_tile = [&](int stage) {
      copy_panels<kLatentKeys, kPanels, kThreads>(p.keys, p.k_dim, slots + stage * kLatentKeys, panels,
                                                  tiles + stage * kTile);
    };
    copy_tile(0);
    copy_async_commit();
    query_panels<kRows, kLatentK, kThreads>(p, item, queries);
    const int position[2] = {position_of(p, item, row), position_of(p, item, row + 8)};
    const int lowest = position_of(p, item, 0);  // of the tile's rows
    float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
    float sums[kDims / 2] = {};

    for (int i = 0; i < units; ++i) {
      const int stage = i % 2;
      std::byte* keys = tiles + stage * kTile;
      copy_async_wait<0>();
      show_to_products();
      sync_threads();
      if (i + 1 < units) copy_tile(1 - stage);
      copy_async_commit();
      if (i_thread < kLatentKeys) slots[stage * kLatentKeys + i_thread] = slot;
      slot = slot_of_tile(i + 3);

      float score[kKeys / 2];
      const RowsOperand q = rows_operand(queries), own = rows_operand(keys + group * kKeys * kPanelRow);
      products_begin();
#pragma unroll 1
      for (int panel = 0; panel < panels; ++panel) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          product_bf16<kKeys>(score, q.advanced(panel * kPanel + k * 32),
                              own.advanced(panel * kPanel + k * 32), panel + k > 0);
      }
      products_commit();
      products_wait<0>();

      const int own_key = group * kKeys + 2 * t, key = first_key + i * kLatentKeys + own_key;
      const bool masked = p.window > 0 || first_key + i * kLatentKeys + kLatentKeys - 1 > lowest;
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
      sync_threads();
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
          *reinterpret_cast<std::uint32_t*>(weights + swizzled(row + 8 * half, group * kKeys / 8 + n) +
                                            t * 4) = pack_bf16x2(first, second);
        }
      }
      if (warp_any(factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
        for (int n = 0; n < kDims / 2; ++n) sums[n] *= factor[n / 2 % 2];
      }
      show_to_products();
      sync_threads();

      // Beyond p.v_dim whatever lies there, for sums that go nowhere.
      const RowsOperand of = rows_operand(weights);
      const ColumnsOperand values = columns_operand(keys + group * (kDims / kPanelColumns) * kPanel, kPanel);
      products_begin();
#pragma unroll
      for (int k = 0; k < kLatentKeys / 16; ++k)
        product_bf16<kDims>(sums, of.advanced(k * 32), values.advanced(k * 16 * kPanelRow), true);
      products_commit();
      products_wait<0>();
    }

    // Rows' sums of weights are those of both halves of the keys.
    copy_async_wait<0>();
    sync_threads();
    float total[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] = group_sum<4>(sum[half]);
      if (t == 0) most[group * kRows + row + 8 * half] = total[half];
    }
    sync_threads();
    unrolled<2>([&](auto index) {
      constexpr int half = decltype(index)::value;
      const int own_row = row + 8 * half;
      // In the same order in both.
      const float both = most[own_row] + most[kRows + own_row];
      const Destination to = destination(p, item, own_row, top[half], both);
      if (to.row == nullptr) return;
      if (group == 0 && t == 0) store_top(p, item, own_row, top[half], both);
      store_row<kDims / 8>(to, first_dim, p.v_dim, [&](int n) {
        return make_float2(sums[4 * n + 2 * half], sums[4 * n + 2 * half + 1]);
      });
    });
  }
}

}  // namespace

AttentionFunction latent_warpgroup_kernel(const AttentionVariant& variant) {
  return variant.storage == Storage::kBf16 ? latent_warpgroup : nullptr;
}

}  // namespace foretoken::cuda
