// Attention over latents with many query heads by products of warpgroups (latent_group.cuh), for caches whose
// keys lie in boxes: a warp of a third warpgroup asks for the tiles of keys, box by box from the blocks'
// table, so that those that compute copy nothing and meet only to exchange what they found.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/latent_group.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kComputing = kLatentGroupThreads, kProducer = kComputing / 32;
constexpr unsigned kWarps = kComputing / 32;  // that compute
constexpr int kFewRegisters = 40, kManyRegisters = 232;
constexpr int kBarriers = kLatentShared;
static_assert(kBarriers + kTmaBarrierBytes + kPanelAlignment == kLatentTmaBytes);

struct Barriers {
  Barrier full[2], empty[2];  // of a stage
  Barrier met;                // of all warps that compute
};
static_assert(sizeof(Barriers) <= kTmaBarrierBytes);

// A warp's part: the tiles of an item, of which `tile` is the first one's number among the block's.
FORETOKEN_DEVICE void ask_for_tiles(const AttentionParams& p, const TensorMap& map, const Item& item,
                                    std::byte* tiles, unsigned tile) {
  Barriers& b = *reinterpret_cast<Barriers*>(tiles + kBarriers);
  const int panels = latent_panels(p);
  const LaneBoxes<kLatentKeys> boxes(p);
  unsigned slot = boxes.slot(p, item, item.unit);
  for (int unit = item.unit; unit < item.end_unit; ++unit, ++tile) {
    const unsigned stage = tile % 2, next = boxes.slot(p, item, unit + 1);
    barrier_wait(&b.empty[stage], (tile / 2 + 1) % 2);
    boxes.copy(map, slot, panels, tiles + static_cast<int>(stage) * kLatentTile, &b.full[stage]);
    slot = next;
  }
}

// tile: number of the item's first one among the block's. met: how often the warps that compute have met.
FORETOKEN_DEVICE void attend(const AttentionParams& p, const Item& item, std::byte* shared, unsigned tile,
                             unsigned& met) {
  Barriers& b = *reinterpret_cast<Barriers*>(shared + kBarriers);
  const auto meet = [&] {
    warp_arrive(&b.met);
    barrier_wait(&b.met, met++ % 2);
  };
  const auto number = [&](int unit) { return tile + static_cast<unsigned>(unit - item.unit); };
  query_panels<kLatentGroupRows, kLatentK, kComputing>(p, item, shared + kLatentQueries);
  show_to_products();
  meet();
  const auto next_tile = [&](int unit) {
    barrier_wait(&b.full[number(unit) % 2], number(unit) / 2 % 2);
    return shared + static_cast<int>(number(unit) % 2) * kLatentTile;
  };
  attend_latents(
      p, item, shared, true, next_tile, [&](int unit) { warp_arrive(&b.empty[number(unit) % 2]); }, meet);
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
  sync_threads();  // its lanes part; registers are given and taken by whole warps
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
