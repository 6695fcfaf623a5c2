// Attention over latents (MLA's decoding): one key for all query heads, and values that are its first dims.
// With few heads bound by the cache's bytes, with many by the tensor cores and by what they read of shared
// memory.
//
// A block has 8 warps and a tile of 16, 32 or 64 rows (query heads, and new tokens). It reads tiles of 64
// keys once, for scores and for values; one or (16 rows, where there is room) two more are copied while one
// is computed, as a copy that begins when the last one has come leaves the memory idle in between. Scores: a
// warp has 16 rows and a part of the keys. Their largest exponents are exchanged and the weights written to
// shared memory as bf16; then a warp has all or half of the rows and a part of the values' dims, so that what
// is read for a product stays small (32 rows by 128 dims where there are 64). 16 rows of q stay in registers,
// more in shared memory. Rows in shared memory are not padded, as there is no room: their pieces of 16 bytes
// change places instead.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/products_device.cuh"

namespace foretoken::cuda {
namespace {

template <class Element, int Rows, int Stages>
struct Latent {
  static constexpr int kWidth = sizeof(Element);
  static constexpr bool kScaled = kWidth == 1;
  static constexpr int kThreads = 32 * kLatentWarps, kRow = kLatentK * 2, kStoredRow = kLatentK;
  static constexpr bool kKeepQueries = Rows == 16;
  static constexpr int kGroups = kLatentK / 64;  // of dims: 8 pieces of 16 bytes, 4 products
  // Scores: a warp has 16 rows and so many tiles of 8 keys.
  static constexpr int kKeyGroups = latent_key_groups(Rows), kKeyTiles = kLatentKeys / kKeyGroups / 8;
  // Values: so many tiles of 16 rows and of 8 dims.
  static constexpr int kRowGroups = Rows == 64 ? 2 : 1, kRowTiles = Rows / 16 / kRowGroups;
  static constexpr int kDimGroups = kLatentWarps / kRowGroups, kDimTiles = kLatentV / kDimGroups / 8;
  // Shared memory: tiles of keys; or one, and those as they are stored with their scales.
  static constexpr int kTile = kLatentKeys * kRow, kStored = kLatentKeys * kStoredRow;
  static constexpr int kScales = kScaled ? kTile + Stages * kStored : Stages * kTile,
                       kQueries = kScales + (kScaled ? Stages * kLatentKeys * 4 : 0);
  static constexpr int kWeights = kQueries + (kKeepQueries ? 0 : Rows * kRow);
  static constexpr int kMost = kWeights + Rows * kLatentKeys * 2, kFactors = kMost + kKeyGroups * Rows * 4,
                       kSlots = kFactors + Rows * 4, kBytes = kSlots + Stages * kLatentKeys * 4;
  static_assert(kBytes == latent_shared_bytes(Rows, Stages, kWidth));
};

// Where piece `piece` of 16 bytes of a row of `Bytes` bytes lies: the pieces of 8 rows that ldmatrix reads at
// a time lie in different banks.
template <int Bytes>
FORETOKEN_DEVICE int place_of(int row, int piece) {
  return row * Bytes + (piece ^ (row & 7)) * 16;
}

// Starts to copy 64 keys, `groups` groups of 64 dims each: 8 lanes (4 of 8-bit keys) have a row, and a piece
// of each group.
template <class L>
FORETOKEN_DEVICE void copy_keys(const AttentionParams& p, const unsigned* slots, int groups, std::byte* to,
                                std::byte* scales) {
  constexpr int kLanes = L::kScaled ? 4 : 8, kRows = 32 / kLanes;
  const int row_bytes = p.k_dim * L::kWidth, own = static_cast<int>(lane()) % kLanes;
#pragma unroll
  for (int first = 0; first < kLatentKeys; first += kLatentWarps * kRows) {
    const int row = first + static_cast<int>(warp()) * kRows + static_cast<int>(lane()) / kLanes;
    const unsigned slot = slots[row];
    const bool valid = slot != kNoSlot;
    const std::byte* from =
        p.keys + own * 16 + std::uint64_t{valid ? slot : 0} * static_cast<unsigned>(row_bytes);
    std::byte* piece = to + (L::kScaled ? row * L::kStoredRow + own * 16 : place_of<L::kRow>(row, own));
#pragma unroll
    for (int group = 0; group < L::kGroups; ++group) {
      const int at = group * kLanes * 16;
      if (group < groups) copy_async16(piece + at, from + at, valid && own * 16 + at < row_bytes);
    }
  }
  if constexpr (L::kScaled) {
    if (const auto i = static_cast<int>(thread()); i < kLatentKeys) {
      const unsigned slot = slots[i];
      copy_async4(scales + i * 4, slot == kNoSlot ? p.key_scales : p.key_scales + slot, slot != kNoSlot);
    }
  }
}

// A tile from 8 bits to bf16.
template <class L, class Element>
FORETOKEN_DEVICE void widen(const std::byte* stored, int pieces, std::byte* to) {
  for (int row = static_cast<int>(warp()); row < kLatentKeys; row += kLatentWarps)
    for (int piece = static_cast<int>(lane()); piece < pieces; piece += 32) {
      const uint4 x = load16(stored + row * L::kStoredRow + piece * 16);
      const float4 f[4] = {unpack_four(x.x, Element{}), unpack_four(x.y, Element{}),
                           unpack_four(x.z, Element{}), unpack_four(x.w, Element{})};
      store16(to + place_of<L::kRow>(row, 2 * piece),
              make_uint4(pack_bf16x2(f[0].x, f[0].y), pack_bf16x2(f[0].z, f[0].w),
                         pack_bf16x2(f[1].x, f[1].y), pack_bf16x2(f[1].z, f[1].w)));
      store16(to + place_of<L::kRow>(row, 2 * piece + 1),
              make_uint4(pack_bf16x2(f[2].x, f[2].y), pack_bf16x2(f[2].z, f[2].w),
                         pack_bf16x2(f[3].x, f[3].y), pack_bf16x2(f[3].z, f[3].w)));
    }
}

template <class Element, int Rows, int Stages>
__global__ void __launch_bounds__(32 * kLatentWarps, 1) latent_attention(const AttentionParams p) {
  using L = Latent<Element, Rows, Stages>;
  grid_dependency_wait();
  grid_dependency_launch();
  const int i_thread = static_cast<int>(thread()), w = static_cast<int>(warp()), l = static_cast<int>(lane());
  const int g = l / 4, t = l % 4;
  std::byte* tiles = dynamic_shared();
  std::byte* stored = tiles + L::kTile;  // of 8-bit caches
  // Those that registers keep lie where a tile comes later.
  std::byte* queries = tiles + (L::kKeepQueries ? (L::kScaled ? 0 : (Stages - 1) * L::kTile) : L::kQueries);
  std::byte* weights = tiles + L::kWeights;
  auto* most = reinterpret_cast<float*>(tiles + L::kMost);        // [key group][row]
  auto* factors = reinterpret_cast<float*>(tiles + L::kFactors);  // [row]
  auto* slots = reinterpret_cast<unsigned*>(tiles + L::kSlots);   // [stage][key]
  const LaneRow a = lane_of_a(), b = lane_of_b();
  const int groups = (p.k_dim + 63) / 64;
  // What the warp has of the scores, and of the values.
  const int key_group = w % L::kKeyGroups, score_row = w / L::kKeyGroups * 16,
            score_key = key_group * L::kKeyTiles * 8;
  const int value_row = w / L::kDimGroups * L::kRowTiles * 16,
            first_dim = w % L::kDimGroups * L::kDimTiles * 8;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    const int units = item.end_unit - item.unit, first_key = item.unit * kLatentKeys;
    const auto slot_of_tile = [&](int i) {
      return i_thread < kLatentKeys ? slot_of(p, item, first_key + i * kLatentKeys + i_thread) : kNoSlot;
    };
    unsigned slot = slot_of_tile(Stages);  // of the tile after those that are in the tables
    if (i_thread < kLatentKeys) {
#pragma unroll
      for (int i = 0; i < Stages; ++i) slots[i * kLatentKeys + i_thread] = slot_of_tile(i);
    }
    sync_threads();
    const auto copy_tile = [&](int i, int stage) {
      if (i < units)
        copy_keys<L>(p, slots + stage * kLatentKeys, groups,
                     L::kScaled ? stored + stage * L::kStored : tiles + stage * L::kTile,
                     tiles + L::kScales + stage * kLatentKeys * 4);
      copy_async_commit();
    };
#pragma unroll
    for (int i = 0; i < Stages - 1; ++i) copy_tile(i, i);
    load_queries<Rows, kLatentK, L::kThreads, false>(
        p, item, [&](int row, int dim) { return queries + place_of<L::kRow>(row, dim / 8) + dim % 8 * 2; });
    std::uint32_t q[L::kKeepQueries ? kLatentK / 16 : 1][4];
    if constexpr (L::kKeepQueries) {  // before what lies in their place is copied, after a barrier
      sync_threads();
#pragma unroll
      for (int k = 0; k < kLatentK / 16; ++k)
        ldmatrix_x4(q[k], queries + place_of<L::kRow>(a.row, 2 * k + a.half));
    }
    const int position[2] = {position_of(p, item, score_row + g), position_of(p, item, score_row + g + 8)};
    float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
    float sums[L::kRowTiles][L::kDimTiles][4] = {};

    const int lowest = position_of(p, item, 0);  // of the tile's rows

    for (int i = 0, stage = 0, free_stage = Stages - 1; i < units; ++i) {
      copy_async_wait<Stages - 2>();
      sync_threads();
      copy_tile(i + Stages - 1, free_stage);
      if (i_thread < kLatentKeys) slots[stage * kLatentKeys + i_thread] = slot;
      slot = slot_of_tile(i + Stages + 1);
      const std::byte* keys = L::kScaled ? tiles : tiles + stage * L::kTile;
      const auto* scales = reinterpret_cast<const float*>(tiles + L::kScales) + stage * kLatentKeys;
      if constexpr (L::kScaled) {
        widen<L, Element>(stored + stage * L::kStored, groups * 4, tiles);
        sync_threads();
      }
      free_stage = stage;
      stage = stage + 1 == Stages ? 0 : stage + 1;

      float score[L::kKeyTiles][4] = {};
      if constexpr (L::kKeepQueries) {
        static_assert(L::kKeyTiles == 1);
        // Four sums, as each product waits for the one before it of the same sum.
        float part[3][4] = {};
        const std::byte* row[2] = {keys + place_of<L::kRow>(score_key + l % 8, l / 8),
                                   keys + place_of<L::kRow>(score_key + l % 8, 4 + l / 8)};
#pragma unroll
        for (int group = 0; group < L::kGroups; ++group) {
          if (group >= groups) break;
          std::uint32_t x[2][4];  // 8 keys, 32 dims
          ldmatrix_x4(x[0], row[0] + group * 128);
          ldmatrix_x4(x[1], row[1] + group * 128);
          mma_bf16_16816(score[0], q[4 * group], {x[0][0], x[0][1]});
          mma_bf16_16816(part[0], q[4 * group + 1], {x[0][2], x[0][3]});
          mma_bf16_16816(part[1], q[4 * group + 2], {x[1][0], x[1][1]});
          mma_bf16_16816(part[2], q[4 * group + 3], {x[1][2], x[1][3]});
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) score[0][e] = (score[0][e] + part[0][e]) + (part[1][e] + part[2][e]);
      } else {
        const std::byte *query_row[4], *key_row[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          query_row[k] = queries + place_of<L::kRow>(score_row + a.row, 2 * k + a.half);
          key_row[k] = keys + place_of<L::kRow>(score_key + b.row, 2 * k + b.half);
        }
#pragma unroll 1
        for (int group = 0; group < groups; ++group) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            ldmatrix_x4(q[0], query_row[k] + group * 128);
#pragma unroll
            for (int n = 0; n < L::kKeyTiles; n += 2) {
              std::uint32_t x[4];
              ldmatrix_x4(x, key_row[k] + group * 128 + n * 8 * L::kRow);
              mma_bf16_16816(score[n], q[0], {x[0], x[1]});
              mma_bf16_16816(score[n + 1], q[0], {x[2], x[3]});
            }
          }
        }
      }

      const int own_key = score_key + 2 * t, key = first_key + i * kLatentKeys + own_key;
      const bool masked = p.window > 0 || first_key + i * kLatentKeys + kLatentKeys - 1 > lowest;
      float next[2] = {top[0], top[1]};
#pragma unroll
      for (int n = 0; n < L::kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = n * 8 + e % 2, row = e / 2;
          float x = exponent(p, L::kScaled ? score[n][e] * scales[own_key + column] : score[n][e]);
          if (masked && !sees(p, position[row], key + column)) x = -INFINITY;
          score[n][e] = x;
          next[row] = fmaxf(next[row], x);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        next[half] = group_max<4>(next[half]);
        if (t == 0) most[key_group * Rows + score_row + g + 8 * half] = next[half];
      }
      sync_threads();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = score_row + g + 8 * half;
#pragma unroll
        for (int other = 0; other < L::kKeyGroups; ++other)
          next[half] = fmaxf(next[half], most[other * Rows + row]);
        const float factor = fast_exp2(top[half] - next[half]);
        if (key_group == 0 && t == 0) factors[row] = factor;
        top[half] = next[half];
        sum[half] *= factor;
#pragma unroll
        for (int n = 0; n < L::kKeyTiles; ++n) {
          float weight[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            weight[e] = fast_exp2(score[n][2 * half + e] - top[half]);
            sum[half] += weight[e];
            if (L::kScaled) weight[e] *= scales[own_key + n * 8 + e];
          }
          *reinterpret_cast<std::uint32_t*>(
              weights + place_of<kLatentKeys * 2>(row, key_group * L::kKeyTiles + n) + t * 4) =
              pack_bf16x2(weight[0], weight[1]);
        }
      }
      sync_threads();

      if (first_dim >= p.v_dim) continue;  // all lanes of the warp
#pragma unroll
      for (int m = 0; m < L::kRowTiles; ++m) {
        const float factor[2] = {factors[value_row + m * 16 + g], factors[value_row + m * 16 + g + 8]};
        if (warp_any(factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
          for (int n = 0; n < L::kDimTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[m][n][e] *= factor[e / 2];
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kLatentKeys / 16; ++j) {
        std::uint32_t of[L::kRowTiles][4];
#pragma unroll
        for (int m = 0; m < L::kRowTiles; ++m)
          ldmatrix_x4(of[m], weights + place_of<kLatentKeys * 2>(value_row + m * 16 + a.row, 2 * j + a.half));
#pragma unroll
        for (int n = 0; n < L::kDimTiles; n += 2) {
          std::uint32_t x[4];  // beyond p.v_dim whatever lies there, for sums that go nowhere
          ldmatrix_x4_trans(x, keys + place_of<L::kRow>(j * 16 + a.row, first_dim / 8 + n + a.half));
#pragma unroll
          for (int m = 0; m < L::kRowTiles; ++m) {
            mma_bf16_16816(sums[m][n], of[m], {x[0], x[1]});
            mma_bf16_16816(sums[m][n + 1], of[m], {x[2], x[3]});
          }
        }
      }
    }

    // Rows' sums of weights are those of all groups of keys.
    copy_async_wait<0>();
    sync_threads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = group_sum<4>(sum[half]);
      const int row = score_row + g + 8 * half;
      if (t == 0) most[key_group * Rows + row] = total;
      if (key_group == 0 && t == 0) factors[row] = top[half];
    }
    sync_threads();
    unrolled<2 * L::kRowTiles>([&](auto index) {
      constexpr int m = decltype(index)::value / 2, side = decltype(index)::value % 2;
      const int row = value_row + m * 16 + side * 8 + g;
      float total = 0;
#pragma unroll
      for (int other = 0; other < L::kKeyGroups; ++other) total += most[other * Rows + row];
      const Destination to = destination(p, item, row, factors[row], total);
      if (to.row == nullptr) return;
      if (first_dim == 0 && t == 0) store_top(p, item, row, factors[row], total);
      store_row<L::kDimTiles>(to, first_dim, p.v_dim, [&](int n) {
        return make_float2(sums[m][n][2 * side], sums[m][n][2 * side + 1]);
      });
    });
  }
}

template <class Element>
struct Latents {
  static AttentionFunction of(const AttentionVariant& variant) {
    if (variant.rows == 64 && variant.stages == 2) return latent_attention<Element, 64, 2>;
    if (variant.rows == 32 && variant.stages == 2) return latent_attention<Element, 32, 2>;
    if (variant.rows == 16 && variant.stages == 3) return latent_attention<Element, 16, 3>;
    if (variant.rows == 16 && variant.stages == 2) return latent_attention<Element, 16, 2>;
    return nullptr;
  }
};

}  // namespace

AttentionFunction latent_attention_kernel(const AttentionVariant& variant) {
  return of_products<Latents>(variant);
}

}  // namespace foretoken::cuda
