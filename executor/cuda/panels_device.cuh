// What the attention kernels of warpgroups share: rows of the cache and of q on their way to panels, and what
// becomes of a warpgroup's scores in registers.
#pragma once

#include "executor/cuda/products_device.cuh"
#include "executor/cuda/tensor_copies.cuh"

namespace foretoken::cuda {

// Starts to copy Rows rows of the cache in bf16, each of its first `panels` panels: 8 lanes have a row, and a
// piece of each panel. Zeros beyond the row and the sequence.
template <int Rows, int Panels, int Threads>
FORETOKEN_DEVICE void copy_panels(const std::byte* cache, int dims, const unsigned* slots, int panels,
                                  std::byte* to) {
  static_assert(Rows % (Threads / 8) == 0);
  const int row_bytes = dims * 2, own = static_cast<int>(lane()) % 8;
#pragma unroll
  for (int first = 0; first < Rows; first += Threads / 8) {
    const int row = first + static_cast<int>(thread()) / 8;
    const unsigned slot = slots[row];
    const bool valid = slot != kNoSlot;
    const std::byte* from =
        cache + own * 16 + std::uint64_t{valid ? slot : 0} * static_cast<unsigned>(row_bytes);
    std::byte* piece = to + swizzled(row, own);
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      const int at = panel * kPanelRow;
      if (panel < panels)
        copy_async16(piece + panel * Rows * kPanelRow, from + at, valid && own * 16 + at < row_bytes);
    }
  }
}

// Rows rows of q in K dims, rounded.
template <int Rows, int K, int Threads>
FORETOKEN_DEVICE void query_panels(const AttentionParams& p, const Item& item, std::byte* to) {
  load_queries<Rows, K, Threads, false>(p, item, [to](int row, int dim) {
    return to + dim / kPanelColumns * Rows * kPanelRow + swizzled(row, dim % kPanelColumns / 8) + dim % 8 * 2;
  });
}

// A warp that asks for tiles of Rows rows of the cache by tensor maps: a lane has one box of rows, of so many
// that p.box_rows makes of a tile, and some of its panels.
template <int Rows>
struct LaneBoxes {
  int rows, box, first_panel, panels_on;
  FORETOKEN_DEVICE explicit LaneBoxes(const AttentionParams& p)
      : rows(p.box_rows),
        box(static_cast<int>(lane()) % (Rows / p.box_rows)),
        first_panel(static_cast<int>(lane()) / (Rows / p.box_rows)),
        panels_on(32 / (Rows / p.box_rows)) {}
  // Where the box of an item's unit begins; kNoSlot beyond the sequence or the item.
  FORETOKEN_DEVICE unsigned slot(const AttentionParams& p, const Item& item, int unit) const {
    return unit < item.end_unit ? slot_of(p, item, unit * Rows + box * rows) : kNoSlot;
  }
  // A warp function: the tile's boxes that there are, which `full` counts.
  FORETOKEN_DEVICE void copy(const TensorMap& map, unsigned slot, int panels, std::byte* tile,
                             Barrier* full) const {
    const int boxes = count_bits(ballot(slot != kNoSlot && first_panel == 0));
    if (lane() == 0) barrier_arrive_expecting(full, static_cast<unsigned>(boxes * panels) * box_bytes(rows));
    sync_warp();
    if (slot == kNoSlot) return;
    for (int panel = first_panel; panel < panels; panel += panels_on)
      copy_box(tile + (panel * Rows + box * rows) * kPanelRow, map, static_cast<int>(slot),
               panel * kPanelColumns, full);
  }
};

// Zeros in rows [from, Rows) of a tile of panels: values beyond a sequence, which may be no numbers, where
// weights are 0. Of Threads threads this is number `own`; each shows what it wrote to products.
template <int Rows, int Panels, int Threads>
FORETOKEN_DEVICE void clear_rows(std::byte* panels, int from, int own) {
  constexpr int kPieces = kPanelRow / 16;
  for (int i = own; i < (Rows - from) * kPieces * Panels; i += Threads) {
    const int piece = i % kPieces, rest = i / kPieces;
    store16(panels + (rest % Panels * Rows + from + rest / Panels) * kPanelRow + piece * 16,
            make_uint4(0, 0, 0, 0));
  }
  show_to_products();
}

// ---- A warpgroup's 64 rows of prompts: a thread has rows g and g + 8 of its warp's 16 --------------------

// Of the warpgroup's rows from first_row of the tile on: [x, y] is what some see, [z, w] what all do.
FORETOKEN_DEVICE int4 seen_by_rows(const AttentionParams& p, const Item& item, int first_row) {
  const int here = item.rows - item.tile * p.rows - first_row;
  if (here <= 0) return make_int4(0, -1, 0, 0);
  const int first = position_of(p, item, first_row),
            last = position_of(p, item, first_row + (here < 64 ? here : 64) - 1);
  return make_int4(first_visible(p, first), last, first_visible(p, last), here < 64 ? -1 : first);
}

// Scores of keys from `key` on become what exponents are taken of, and -INFINITY where a row doesn't see its
// key. row: the thread's first one. plain: products are to be multiplied by a number alone, which is left to
// who takes the exponents.
template <int Keys>
FORETOKEN_DEVICE void mask_scores(const AttentionParams& p, const Item& item, int row, int key, int4 seen,
                                  bool plain, float (&score)[Keys / 2]) {
  const int t = static_cast<int>(lane()) % 4;
  if (!plain) {
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) score[i] = exponent(p, score[i]);
  }
  if (key + Keys - 1 > seen.w || key < seen.z) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int last = position_of(p, item, row + 8 * half), first = last < 0 ? 0 : first_visible(p, last);
#pragma unroll
      for (int n = 0; n < Keys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int own = key + n * 8 + 2 * t + e;
          if (own > last || own < first) score[4 * n + 2 * half + e] = -INFINITY;
        }
      }
    }
  }
}

// The rows' largest exponents so far.
template <int Keys>
FORETOKEN_DEVICE void raise_tops(const float (&score)[Keys / 2], float by, const float (&top)[2],
                                 float (&next)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = score[2 * half];
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
      most = fmaxf(most, fmaxf(score[4 * n + 2 * half], score[4 * n + 2 * half + 1]));
    next[half] = fmaxf(top[half], group_max<4>(most) * by);
  }
}

// Sums of values, and of weights, to where they go.
template <int V>
FORETOKEN_DEVICE void store_rows(const AttentionParams& p, const Item& item, int row, const float (&top)[2],
                                 const float (&sum)[2], const float (&sums)[V / 2]) {
  unrolled<2>([&](auto index) {
    constexpr int side = decltype(index)::value;
    const float total = group_sum<4>(sum[side]);
    const Destination to = destination(p, item, row + 8 * side, top[side], total);
    if (to.row == nullptr) return;
    if (lane() % 4 == 0) store_top(p, item, row + 8 * side, top[side], total);
    store_row<V / 8>(to, 0, p.v_dim,
                     [&](int n) { return make_float2(sums[4 * n + 2 * side], sums[4 * n + 2 * side + 1]); });
  });
}

}  // namespace foretoken::cuda
