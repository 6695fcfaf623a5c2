// Attention of many rows: prompts, and heads of queries that share one of the cache by the dozen. Bound by
// the tensor cores as mma.sync reaches them.
//
// After FlashAttention-2 (Dao 2023): a block has 128 or 256 rows of q in shared memory and walks over tiles
// of 64 keys, of which the next is copied while one is computed; a warp has 16 or 32 rows for itself, whose
// scores, weights and sums never leave its registers. 32 rows a warp halve what is read of shared memory for
// each product, which would bound it otherwise. Rows are tokens x query heads of a group, so a short piece of
// a prompt fills tiles too. Tiles of keys that no row of a warp sees are skipped, and masks are applied where
// a tile needs them. 8-bit keys and values are copied as they are and become bf16 once for all warps.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/products_device.cuh"

namespace foretoken::cuda {
namespace {

template <class Element, int K, int V>
struct Prompt {
  static constexpr int kWidth = sizeof(Element);
  static constexpr bool kScaled = kWidth == 1;
  static constexpr int kWarps = prompt_warps(K), kThreads = 32 * kWarps;
  static constexpr int kTiles = prompt_row_tiles(K), kWarpRows = 16 * kTiles, kRows = prompt_rows(K);
  static constexpr int kKeyRow = padded_row(K, 2), kValueRow = padded_row(V, 2);
  // Shared memory: queries; tiles of keys and values as bf16 (one where the cache's are 8-bit, else two); two
  // as they are stored with their scales, where they are 8-bit; two tables of slots.
  static constexpr int kTile = kPromptKeys * (kKeyRow + kValueRow), kTileValues = kPromptKeys * kKeyRow;
  static constexpr int kStored = kPromptKeys * (K + V + 8), kStoredValues = kPromptKeys * K,
                       kStoredScales = kPromptKeys * (K + V);
  static_assert(kStoredValues < kStoredScales && kStoredScales < kStored);
  static constexpr int kQueries = kRows * kKeyRow;
  static constexpr int kSlots = kQueries + (kScaled ? kTile + 2 * kStored : 2 * kTile);
  static_assert(kSlots + 2 * kPromptKeys * 4 == prompt_shared_bytes(K, V, kWidth));
};

// copy(row, piece, slot) for each piece of 16 bytes of a tile's rows.
template <int Pieces, int Threads, class Copy>
FORETOKEN_DEVICE void copy_rows(const unsigned* slots, Copy copy) {
  constexpr int kLanes = Pieces <= 4 ? 4 : Pieces <= 8 ? 8 : Pieces <= 16 ? 16 : 32;  // of a row
  static_assert(Pieces <= kLanes && kPromptKeys % (Threads / kLanes) == 0);
  const int piece = static_cast<int>(thread()) % kLanes, first = static_cast<int>(thread()) / kLanes;
  if (Pieces < kLanes && piece >= Pieces) return;
  // Slots before copies, after which the compiler reads no memory earlier.
  constexpr int kStep = Threads / kLanes, kRows = kPromptKeys / kStep, kTogether = kRows < 8 ? kRows : 8;
#pragma unroll 1
  for (int row = first; row < kPromptKeys; row += kTogether * kStep) {
    unsigned own[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) own[i] = slots[row + i * kStep];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) copy(row + i * kStep, piece, own[i]);
  }
}

template <class Element, int K, int V>
FORETOKEN_DEVICE void copy_tile(const AttentionParams& p, const unsigned* slots, std::byte* to) {
  using P = Prompt<Element, K, V>;
  constexpr int kKeyRow = P::kScaled ? K : P::kKeyRow, kValueRow = P::kScaled ? V : P::kValueRow;
  std::byte* to_values = to + (P::kScaled ? P::kStoredValues : P::kTileValues);
  const auto key = [&](int row, int piece, unsigned slot) {
    copy_piece(p.keys, p.k_dim * P::kWidth, slot, piece, to + row * kKeyRow + piece * 16);
  };
  const auto value = [&](int row, int piece, unsigned slot) {
    copy_piece(p.values, p.v_dim * P::kWidth, slot, piece, to_values + row * kValueRow + piece * 16);
  };
  if constexpr (K == V) {
    copy_rows<K * P::kWidth / 16, P::kThreads>(
        slots, [&](int row, int piece, unsigned slot) { key(row, piece, slot), value(row, piece, slot); });
  } else {
    copy_rows<K * P::kWidth / 16, P::kThreads>(slots, key);
    copy_rows<V * P::kWidth / 16, P::kThreads>(slots, value);
  }
  if constexpr (P::kScaled) {
    if (const auto i = static_cast<int>(thread()); i < 2 * kPromptKeys) {
      const unsigned slot = slots[i % kPromptKeys];
      const float* scales = i < kPromptKeys ? p.key_scales : p.value_scales;
      copy_async4(to + P::kStoredScales + i * 4, slot == kNoSlot ? scales : scales + slot, slot != kNoSlot);
    }
  }
}

// Rows of a tile from 8 bits to bf16.
template <class Element, int Dims, int Stride, int Threads>
FORETOKEN_DEVICE void widen(const std::byte* stored, std::byte* to) {
  for (int i = static_cast<int>(thread()); i < kPromptKeys * (Dims / 16); i += Threads) {
    const uint4 x = load16(stored + i * 16);
    const float4 f[4] = {unpack_four(x.x, Element{}), unpack_four(x.y, Element{}),
                         unpack_four(x.z, Element{}), unpack_four(x.w, Element{})};
    std::byte* row = to + i / (Dims / 16) * Stride + i % (Dims / 16) * 32;
    store16(row, make_uint4(pack_bf16x2(f[0].x, f[0].y), pack_bf16x2(f[0].z, f[0].w),
                            pack_bf16x2(f[1].x, f[1].y), pack_bf16x2(f[1].z, f[1].w)));
    store16(row + 16, make_uint4(pack_bf16x2(f[2].x, f[2].y), pack_bf16x2(f[2].z, f[2].w),
                                 pack_bf16x2(f[3].x, f[3].y), pack_bf16x2(f[3].z, f[3].w)));
  }
}

template <class Element, int K, int V>
__global__ void __launch_bounds__(Prompt<Element, K, V>::kThreads, K <= 128 ? 2 : 1)
    prompt_attention(const AttentionParams p) {
  using P = Prompt<Element, K, V>;
  constexpr int kTiles = P::kTiles, kKeyTiles = kPromptKeys / 8;
  constexpr int kSums = P::kScaled ? 2 : 4;  // of weights, of 16 rows
  [[maybe_unused]] constexpr int kUnrolled = P::kScaled ? 2 : K / 16;
  constexpr std::uint32_t kOnes = 0x3f803f80u;  // two, of bf16
  __shared__ int4 seen[P::kWarps];
  __shared__ int positions[P::kRows];
  grid_dependency_wait();
  grid_dependency_launch();
  const int i_thread = static_cast<int>(thread()), w = static_cast<int>(warp());
  const int g = static_cast<int>(lane() / 4), t = static_cast<int>(lane() % 4);
  std::byte* queries = dynamic_shared();
  std::byte* tiles = queries + P::kQueries;
  std::byte* stored = tiles + P::kTile;  // of 8-bit caches
  auto* slots = reinterpret_cast<unsigned*>(queries + P::kSlots);
  const LaneRow a = lane_of_a(), b = lane_of_b();
  const int own_row = w * P::kWarpRows;
  const std::byte* query_row = queries + (own_row + a.row) * P::kKeyRow + a.half * 16;
  // Scores that are products times a number needn't be changed before their exponents are taken.
  const bool plain = !P::kScaled && p.cap == 0 && p.by > 0;
  const float by = plain ? p.by : 1;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    const auto slot_of_unit = [&](int unit) {
      return i_thread < kPromptKeys ? slot_of(p, item, unit * kPromptKeys + i_thread) : kNoSlot;
    };
    // Tiles of keys and tables of slots are those of even units and of odd ones.
    unsigned slot = slot_of_unit(item.unit + 2);  // two ahead of the one that is computed
    if (i_thread < kPromptKeys) {
      slots[item.unit % 2 * kPromptKeys + i_thread] = slot_of_unit(item.unit);
      slots[(item.unit + 1) % 2 * kPromptKeys + i_thread] = slot_of_unit(item.unit + 1);
    }
    for (int row = i_thread; row < P::kRows; row += P::kThreads) positions[row] = position_of(p, item, row);
    // Of the warp's rows: [first_first, last] is what some see, [last_first, first] what all do.
    if (lane() == 0) {
      const int here = item.rows - item.tile * p.rows - own_row;
      const int first = position_of(p, item, own_row),
                last = position_of(p, item, own_row + (here < P::kWarpRows ? here : P::kWarpRows) - 1);
      seen[w] = here <= 0 ? make_int4(0, -1, 0, 0)
                          : make_int4(first_visible(p, first), last, first_visible(p, last), first);
    }
    sync_threads();
    const auto copy_unit = [&](int unit) {
      copy_tile<Element, K, V>(p, slots + unit % 2 * kPromptKeys,
                               P::kScaled ? stored + unit % 2 * P::kStored : tiles + unit % 2 * P::kTile);
    };
    copy_unit(item.unit);
    copy_async_commit();
    load_queries<P::kRows, K, P::kThreads, false>(
        p, item, [&](int row, int dim) { return queries + row * P::kKeyRow + dim * 2; });

    // Sums of weights are a product too, with ones: what the sums of values are divided by is made of the
    // same rounded weights, and no weight outlives its product. Weights of 8-bit values hold their scales.
    float top[kTiles][2], sum[kTiles][kSums] = {}, sums[kTiles][V / 8][4] = {};
#pragma unroll
    for (int m = 0; m < kTiles; ++m) top[m][0] = top[m][1] = kNothing;

    for (int unit = item.unit; unit < item.end_unit; ++unit) {
      copy_async_wait<0>();
      sync_threads();
      if (unit + 1 < item.end_unit) copy_unit(unit + 1);
      copy_async_commit();
      if (i_thread < kPromptKeys) slots[unit % 2 * kPromptKeys + i_thread] = slot;
      slot = slot_of_unit(unit + 3);
      const std::byte* keys = P::kScaled ? tiles : tiles + unit % 2 * P::kTile;
      const std::byte* values = keys + P::kTileValues;
      const auto* scales = reinterpret_cast<const float*>(stored + unit % 2 * P::kStored + P::kStoredScales);
      if constexpr (P::kScaled) {
        const std::byte* from = stored + unit % 2 * P::kStored;
        widen<Element, K, P::kKeyRow, P::kThreads>(from, tiles);
        widen<Element, V, P::kValueRow, P::kThreads>(from + P::kStoredValues, tiles + P::kTileValues);
        sync_threads();
      }
      const int key = unit * kPromptKeys;
      if (key > seen[w].y || key + kPromptKeys <= seen[w].x) continue;  // all lanes of the warp

      float score[kTiles][kKeyTiles][4] = {};
#pragma unroll kUnrolled
      for (int k = 0; k < K / 16; ++k) {
        std::uint32_t q[kTiles][4];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) ldmatrix_x4(q[m], query_row + m * 16 * P::kKeyRow + k * 32);
#pragma unroll
        for (int n = 0; n < kKeyTiles; n += 2) {
          std::uint32_t x[4];
          ldmatrix_x4(x, keys + (n * 8 + b.row) * P::kKeyRow + b.half * 16 + k * 32);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            mma_bf16_16816(score[m][n], q[m], {x[0], x[1]});
            mma_bf16_16816(score[m][n + 1], q[m], {x[2], x[3]});
          }
        }
      }

      if (!plain) {
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float scale = P::kScaled ? scales[n * 8 + 2 * t + e % 2] : 1;
#pragma unroll
            for (int m = 0; m < kTiles; ++m) score[m][n][e] = exponent(p, score[m][n][e] * scale);
          }
        }
      }
      if (key + kPromptKeys - 1 > seen[w].w || key < seen[w].z) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int row_last = positions[own_row + m * 16 + half * 8 + g],
                      row_first = row_last < 0 ? 0 : first_visible(p, row_last);
#pragma unroll
            for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const int own = key + n * 8 + 2 * t + e;
                if (own > row_last || own < row_first) score[m][n][2 * half + e] = -INFINITY;
              }
            }
          }
        }
      }

#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        float next[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float most = score[m][0][2 * half];
#pragma unroll
          for (int n = 0; n < kKeyTiles; ++n)
            most = fmaxf(most, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
          next[half] = fmaxf(top[m][half], group_max<4>(most) * by);
        }
        if (warp_any(next[0] > top[m][0] || next[1] > top[m][1])) {
          const float factor[2] = {fast_exp2(top[m][0] - next[0]), fast_exp2(top[m][1] - next[1])};
          top[m][0] = next[0], top[m][1] = next[1];
#pragma unroll
          for (int e = 0; e < kSums; ++e) sum[m][e] *= factor[2 * e / kSums];
#pragma unroll
          for (int n = 0; n < V / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[m][n][e] *= factor[e / 2];
          }
        }
      }

#pragma unroll
      for (int j = 0; j < kPromptKeys / 16; ++j) {
        std::uint32_t weights[kTiles][4];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float weight[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              weight[e] = fast_exp2(fmaf(score[m][2 * j + n][e], by, -top[m][e / 2]));
              if constexpr (P::kScaled) {
                sum[m][e / 2] += weight[e];
                weight[e] *= scales[kPromptKeys + j * 16 + n * 8 + 2 * t + e % 2];
              }
            }
            weights[m][2 * n] = pack_bf16x2(weight[0], weight[1]);
            weights[m][2 * n + 1] = pack_bf16x2(weight[2], weight[3]);
          }
          if constexpr (!P::kScaled) mma_bf16_16816(sum[m], weights[m], {kOnes, kOnes});
        }
        const std::byte* row = values + (j * 16 + a.row) * P::kValueRow + a.half * 16;
#pragma unroll
        for (int n = 0; n < V / 8; n += 2) {
          std::uint32_t x[4];
          ldmatrix_x4_trans(x, row + n * 16);
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            mma_bf16_16816(sums[m][n], weights[m], {x[0], x[1]});
            mma_bf16_16816(sums[m][n + 1], weights[m], {x[2], x[3]});
          }
        }
      }
    }
    copy_async_wait<0>();

    unrolled<2 * kTiles>([&](auto index) {
      constexpr int m = decltype(index)::value / 2, side = decltype(index)::value % 2;
      float total = sum[m][side * kSums / 2];
      if constexpr (P::kScaled) total = group_sum<4>(total);
      const int row = own_row + m * 16 + side * 8 + g;
      const Destination to = destination(p, item, row, top[m][side], total);
      if (to.row == nullptr) return;
      if (t == 0) store_top(p, item, row, top[m][side], total);
      store_row<V / 8>(to, 0, p.v_dim,
                       [&](int n) { return make_float2(sums[m][n][2 * side], sums[m][n][2 * side + 1]); });
    });
  }
}

template <class Element>
struct Prompts {
  template <int K, int V>
  static AttentionFunction heads() {
    return prompt_attention<Element, K, V>;
  }
  static AttentionFunction of(const AttentionVariant& variant) {
    return of_heads<kAttentionHeads, Prompts>(variant);
  }
};

}  // namespace

AttentionFunction prompt_attention_kernel(const AttentionVariant& variant) {
  return of_products<Prompts>(variant);
}

}  // namespace foretoken::cuda
