// Attention over latents with many query heads by products of warpgroups (latent_group.cuh), for devices that
// have them. All threads copy keys, one tile while one is computed: more have no room beside the queries.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/latent_group.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kLatentGroupRows, kThreads = kLatentGroupThreads;
constexpr int kSlots = kLatentShared, kBytes = kSlots + 2 * kLatentKeys * 4;
static_assert(kBytes + kPanelAlignment == kLatentGroupBytes);

__global__ void __launch_bounds__(kThreads, 1) latent_warpgroup(const AttentionParams p) {
  grid_dependency_wait();
  grid_dependency_launch();
  const int i_thread = static_cast<int>(thread());
  std::byte* shared = aligned_panels(dynamic_shared());
  auto* slots = reinterpret_cast<unsigned*>(shared + kSlots);  // [stage][key]
  const int panels = latent_panels(p);

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
      copy_panels<kLatentKeys, kLatentPanels, kThreads>(p.keys, p.k_dim, slots + stage * kLatentKeys, panels,
                                                        shared + stage * kLatentTile);
    };
    copy_tile(0);
    copy_async_commit();
    query_panels<kRows, kLatentK, kThreads>(p, item, shared + kLatentQueries);
    const auto next_tile = [&](int unit) {
      const int i = unit - item.unit, stage = i % 2;
      copy_async_wait<0>();
      show_to_products();
      sync_threads();
      if (i + 1 < units) copy_tile(1 - stage);
      copy_async_commit();
      if (i_thread < kLatentKeys) slots[stage * kLatentKeys + i_thread] = slot;
      slot = slot_of_tile(i + 3);
      return shared + stage * kLatentTile;
    };
    attend_latents(
        p, item, shared, false, next_tile, [](int) {}, [] { sync_threads(); });
    copy_async_wait<0>();
  }
}

}  // namespace

AttentionFunction latent_warpgroup_kernel(const AttentionVariant& variant) {
  return variant.storage == Storage::kBf16 ? latent_warpgroup : nullptr;
}

}  // namespace foretoken::cuda
