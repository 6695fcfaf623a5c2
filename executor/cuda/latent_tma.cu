// Attention over latents by products of warpgroups (latent_warpgroup.cu says how they share the work), for
// caches whose keys lie in boxes: a warp of a third warpgroup asks for the tiles of keys, box by box from the
// blocks' table, so that those that compute copy nothing and meet only to exchange what they found.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/panels_device.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kLatentGroupRows, kComputing = kLatentGroupThreads, kProducer = kComputing / 32;
constexpr unsigned kWarps = kComputing / 32;  // that compute
constexpr int kFewRegisters = 40, kManyRegisters = 232;
constexpr int kPanel = kLatentKeys * kPanelRow, kPanels = kLatentK / kPanelColumns, kTile = kPanels * kPanel;
constexpr int kKeys = kLatentKeys / 2, kDims = kLatentV / 2;  // of a warpgroup
constexpr int kQueries = 2 * kTile, kWeights = kQueries + kTile, kMost = kWeights + kPanel,
              kBarriers = kMost + 2 * kRows * 4;
static_assert(kRows == kLatentKeys && kBarriers + kTmaBarrierBytes + kPanelAlignment == kLatentTmaBytes);

struct Barriers {
  Barrier full[2], empty[2];  // of a stage
  Barrier met;                // of all warps that compute
};
static_assert(sizeof(Barriers) <= kTmaBarrierBytes);

// A warp's part: the tiles of an item, of which `tile` is the first one's number among the block's.
FORETOKEN_DEVICE void ask_for_tiles(const AttentionParams& p, const TensorMap& map, const Item& item,
                                    std::byte* tiles, unsigned tile) {
  Barriers& b = *reinterpret_cast<Barriers*>(tiles + kBarriers);
  const int panels = (p.k_dim + kPanelColumns - 1) / kPanelColumns;
  const LaneBoxes<kLatentKeys> boxes(p);
  unsigned slot = boxes.slot(p, item, item.unit);
  for (int unit = item.unit; unit < item.end_unit; ++unit, ++tile) {
    const unsigned stage = tile % 2, next = boxes.slot(p, item, unit + 1);
    barrier_wait(&b.empty[stage], (tile / 2 + 1) % 2);
    boxes.copy(map, slot, panels, tiles + static_cast<int>(stage) * kTile, &b.full[stage]);
    slot = next;
  }
}

// met: how often the warps that compute have met.
FORETOKEN_DEVICE void attend(const AttentionParams& p, const Item& item, std::byte* tiles, unsigned tile,
                             unsigned& met) {
  Barriers& b = *reinterpret_cast<Barriers*>(tiles + kBarriers);
  std::byte *queries = tiles + kQueries, *weights = tiles + kWeights;
  auto* most = reinterpret_cast<float*>(tiles + kMost);  // [warpgroup][row]
  const int group = static_cast<int>(thread()) / 128, t = static_cast<int>(lane()) % 4;
  const int panels = (p.k_dim + kPanelColumns - 1) / kPanelColumns;
  const int row = static_cast<int>(warp()) % 4 * 16 + static_cast<int>(lane()) / 4;  // and 8 further
  const int first_dim = group * kDims;
  const auto meet = [&] {
    warp_arrive(&b.met);
    barrier_wait(&b.met, met++ % 2);
  };

  query_panels<kRows, kLatentK, kComputing>(p, item, queries);
  show_to_products();
  meet();
  const int position[2] = {position_of(p, item, row), position_of(p, item, row + 8)};
  const int lowest = position_of(p, item, 0);  // of the tile's rows
  float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
  float sums[kDims / 2] = {};

  for (int unit = item.unit; unit < item.end_unit; ++unit, ++tile) {
    const unsigned stage = tile % 2;
    std::byte* keys = tiles + static_cast<int>(stage) * kTile;
    barrier_wait(&b.full[stage], tile / 2 % 2);
    float score[kKeys / 2];
    const RowsOperand q = rows_operand(queries), own = rows_operand(keys + group * kKeys * kPanelRow);
    products_begin();
#pragma unroll 1
    for (int panel = 0; panel < panels; ++panel) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        product_bf16<kKeys>(score, q.advanced(panel * kPanel + k * 32), own.advanced(panel * kPanel + k * 32),
                            panel + k > 0);
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
    if (first_key + kLatentKeys > item.tokens)
      clear_rows<kLatentKeys, kLatentV / kPanelColumns, kComputing>(keys, item.tokens - first_key,
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
    const ColumnsOperand values = columns_operand(keys + group * (kDims / kPanelColumns) * kPanel, kPanel);
    products_begin();
#pragma unroll
    for (int k = 0; k < kLatentKeys / 16; ++k)
      product_bf16<kDims>(sums, of.advanced(k * 32), values.advanced(k * 16 * kPanelRow), true);
    products_commit();
    products_wait<0>();
    settled(sums);
    warp_arrive(&b.empty[stage]);
  }

  // Rows' sums of weights are those of both halves of the keys.
  float total[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] = group_sum<4>(sum[half]);
    if (t == 0) most[group * kRows + row + 8 * half] = total[half];
  }
  meet();
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

__global__ void __launch_bounds__(kTmaThreads, 1)
    latent_tma(const AttentionParams p, const __grid_constant__ AttentionMaps maps) {
  grid_dependency_wait();
  grid_dependency_launch();
  std::byte* tiles = aligned_panels(dynamic_shared());
  Barriers& b = *reinterpret_cast<Barriers*>(tiles + kBarriers);
  if (thread() == 0) {
    for (int i = 0; i < 2; ++i) barrier_init(&b.full[i], 1), barrier_init(&b.empty[i], kWarps);
    barrier_init(&b.met, kWarps);
    show_barriers();
  }
  start_walk(p);
  const Item& item = shared_walk().item;
  unsigned tile = 0, met = 0;  // before this item
  if (thread() < kComputing) {
    take_registers<kManyRegisters>();
    for (; next_item(p); tile += static_cast<unsigned>(item.end_unit - item.unit))
      attend(p, item, tiles, tile, met);
  } else {
    keep_registers<kFewRegisters>();
    show_memory_to_copies();
    for (; next_item(p); tile += static_cast<unsigned>(item.end_unit - item.unit))
      if (warp() == kProducer) ask_for_tiles(p, maps.keys, item, tiles, tile);
  }
}

}  // namespace

TensorAttentionFunction latent_tma_kernel(const AttentionVariant& variant) {
  return variant.storage == Storage::kBf16 ? latent_tma : nullptr;
}

}  // namespace foretoken::cuda
