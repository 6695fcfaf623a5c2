// Attention of few rows over a long cache: what decoding spends its time on besides weights. Bound by the
// cache's bytes, so the aim is to keep as many of them in flight as it takes, about 64 KB a multiprocessor.
//
// A block has 4 warps. A unit of 64 keys is 16 for each warp, which copies them into a ring of stages of its
// own: no warp ever waits for another while keys are read, and two stages or more are always under way. The
// 16 rows of a tile (query heads that share a head of the cache, and new tokens) are the 16 rows of
// mma_bf16_16816, so each key is read once for all of them. 8-bit keys and values lie in the ring as they are
// stored and become bf16 in registers: keys through q's dims in another order, values through another order
// of the output's dims. Scales multiply scores and weights. In the end the warps' sums are put together.
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/products_device.cuh"

namespace foretoken::cuda {
namespace {

template <class Element, int K, int V>
struct Decode {
  static constexpr int kWidth = sizeof(Element);
  static constexpr bool kScaled = kWidth == 1;
  static constexpr int kKeyRow = padded_row(K, kWidth), kValueRow = padded_row(V, kWidth);
  static constexpr int kValues = kDecodeKeys * kKeyRow, kScales = kValues + kDecodeKeys * kValueRow;
  static constexpr int kStage = decode_stage_bytes(K, V, kWidth), kStages = decode_stages(K, V, kWidth),
                       kRing = decode_ring_bytes(K, V, kWidth);
  static constexpr int kQueryRow = padded_row(K, 2);
  static constexpr bool kKeepQueries = K <= 192;  // in registers
  static constexpr int kFoundRow = V + 4;
};

// Starts to copy the warp's 16 keys and values into a stage; `slot` of lanes i and i + 16 is key i's.
template <class Element, int K, int V>
FORETOKEN_DEVICE void copy_stage(const AttentionParams& p, unsigned slot, std::byte* stage) {
  using D = Decode<Element, K, V>;
  const int l = static_cast<int>(lane());
  constexpr int kKeyChunks = K * D::kWidth / 16, kValueChunks = V * D::kWidth / 16;
  const int key_bytes = p.k_dim * D::kWidth, value_bytes = p.v_dim * D::kWidth;
#pragma unroll
  for (int i = 0; i < kDecodeKeys * kKeyChunks / 32; ++i) {
    const int row = (l + 32 * i) / kKeyChunks, chunk = (l + 32 * i) % kKeyChunks;
    const unsigned of = shuffle(slot, static_cast<unsigned>(row));
    copy_piece(p.keys, key_bytes, of, chunk, stage + row * D::kKeyRow + chunk * 16);
    if constexpr (K == V)
      copy_piece(p.values, value_bytes, of, chunk, stage + D::kValues + row * D::kValueRow + chunk * 16);
  }
  if constexpr (K != V) {
#pragma unroll
    for (int i = 0; i < kDecodeKeys * kValueChunks / 32; ++i) {
      const int row = (l + 32 * i) / kValueChunks, chunk = (l + 32 * i) % kValueChunks;
      const unsigned of = shuffle(slot, static_cast<unsigned>(row));
      copy_piece(p.values, value_bytes, of, chunk, stage + D::kValues + row * D::kValueRow + chunk * 16);
    }
  }
  if constexpr (D::kScaled) {
    const float* scales = l < kDecodeKeys ? p.key_scales : p.value_scales;
    copy_async4(stage + D::kScales + l * 4, slot == kNoSlot ? scales : scales + slot, slot != kNoSlot);
  }
}

template <class Element, int K, int V>
__global__ void __launch_bounds__(32 * kDecodeWarps, decode_blocks(K, sizeof(Element)))
    decode_attention(const AttentionParams p) {
  using D = Decode<Element, K, V>;
  grid_dependency_wait();
  grid_dependency_launch();
  const int l = static_cast<int>(lane()), w = static_cast<int>(warp()), g = l / 4, t = l % 4;
  std::byte* ring = dynamic_shared() + w * D::kRing;
  std::byte* queries = dynamic_shared() + kDecodeWarps * D::kRing;
  auto* tops = reinterpret_cast<float*>(queries + kDecodeRows * D::kQueryRow);  // [warp][row]
  float* totals = tops + kDecodeWarps * kDecodeRows;
  const LaneRow a = lane_of_a(), b = lane_of_b();
  const std::byte* query_row = queries + a.row * D::kQueryRow + a.half * 16;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    const int units = item.end_unit - item.unit;
    const int first_key = (item.unit * kDecodeWarps + w) * kDecodeKeys;
    // Of tile i; looked up one tile before it is needed.
    const auto slot_of_tile = [&](int i) {
      return slot_of(p, item, first_key + i * kDecodeWarps * kDecodeKeys + l % kDecodeKeys);
    };
    unsigned slot = slot_of_tile(0);
#pragma unroll
    for (int i = 0; i < D::kStages - 1; ++i) {
      if (i < units) copy_stage<Element, K, V>(p, slot, ring + i * D::kStage);
      copy_async_commit();
      slot = slot_of_tile(i + 1);
    }
    load_queries<kDecodeRows, K, 32 * kDecodeWarps, D::kScaled>(
        p, item, [&](int row, int dim) { return queries + row * D::kQueryRow + dim * 2; });
    sync_threads();
    std::uint32_t q[D::kKeepQueries ? K / 16 : 1][4];
    if constexpr (D::kKeepQueries) {
#pragma unroll
      for (int k = 0; k < K / 16; ++k) ldmatrix_x4(q[k], query_row + k * 32);
    }
    const int position[2] = {position_of(p, item, g), position_of(p, item, g + 8)};
    float top[2] = {kNothing, kNothing}, sum[2] = {0, 0};
    float sums[V / 8][4] = {};

    int stage = 0, free_stage = D::kStages - 1;
    for (int i = 0; i < units; ++i) {
      copy_async_wait<D::kStages - 2>();
      sync_warp();  // tile i is there, and no lane reads tile i - 1 any more
      if (i + D::kStages - 1 < units) copy_stage<Element, K, V>(p, slot, ring + free_stage * D::kStage);
      copy_async_commit();
      slot = slot_of_tile(i + D::kStages);
      const std::byte* keys = ring + stage * D::kStage;
      const std::byte* values = keys + D::kValues;
      free_stage = stage;
      stage = stage + 1 == D::kStages ? 0 : stage + 1;

      float score[2][4] = {};  // of keys 0 to 7 and 8 to 15
      if constexpr (!D::kScaled) {
        const std::byte* row = keys + b.row * D::kKeyRow + b.half * 16;
#pragma unroll
        for (int k = 0; k < K / 16; ++k) {
          std::uint32_t x[4];
          ldmatrix_x4(x, row + k * 32);
          if constexpr (!D::kKeepQueries) ldmatrix_x4(q[0], query_row + k * 32);
          const auto& of = q[D::kKeepQueries ? k : 0];
          mma_bf16_16816(score[0], of, {x[0], x[1]});
          mma_bf16_16816(score[1], of, {x[2], x[3]});
        }
      } else {
        const std::byte* row = keys + a.row * D::kKeyRow + a.half * 16;
#pragma unroll
        for (int k = 0; k < K / 16; k += 2) {
          std::uint32_t x[4];  // keys 0 to 7, 8 to 15 of 16 dims, then of 16 more
          ldmatrix_x4(x, row + k * 16);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if constexpr (!D::kKeepQueries) ldmatrix_x4(q[0], query_row + (k + half) * 32);
            const auto& of = q[D::kKeepQueries ? k + half : 0];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
              const uint2 pairs = widen_four(x[2 * half + n], Element{});
              mma_bf16_16816(score[n], of, {pairs.x, pairs.y});
            }
          }
        }
      }

      // Softmax: of row g elements 0 and 1, of row g + 8 elements 2 and 3.
      const int key = first_key + i * kDecodeWarps * kDecodeKeys + 2 * t;
      const auto* scales = reinterpret_cast<const float*>(keys + D::kScales);
      float next[2] = {top[0], top[1]};
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = n * 8 + e % 2, row = e / 2;
          float x = exponent(p, D::kScaled ? score[n][e] * scales[2 * t + column] : score[n][e]);
          if (!sees(p, position[row], key + column)) x = -INFINITY;
          score[n][e] = x;
          next[row] = fmaxf(next[row], x);
        }
      }
      next[0] = group_max<4>(next[0]), next[1] = group_max<4>(next[1]);
      if (warp_any(next[0] > top[0] || next[1] > top[1])) {
        const float factor[2] = {fast_exp2(top[0] - next[0]), fast_exp2(top[1] - next[1])};
        sum[0] *= factor[0], sum[1] *= factor[1];
#pragma unroll
        for (int n = 0; n < V / 8; ++n) {
          sums[n][0] *= factor[0], sums[n][1] *= factor[0];
          sums[n][2] *= factor[1], sums[n][3] *= factor[1];
        }
        top[0] = next[0], top[1] = next[1];
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float weight = fast_exp2(score[n][e] - top[e / 2]);
          sum[e / 2] += weight;
          score[n][e] = D::kScaled ? weight * scales[kDecodeKeys + 2 * t + n * 8 + e % 2] : weight;
        }
      }
      const std::uint32_t weights[4] = {
          pack_bf16x2(score[0][0], score[0][1]), pack_bf16x2(score[0][2], score[0][3]),
          pack_bf16x2(score[1][0], score[1][1]), pack_bf16x2(score[1][2], score[1][3])};

      if constexpr (!D::kScaled) {
        const std::byte* row = values + a.row * D::kValueRow + a.half * 16;
#pragma unroll
        for (int n = 0; n < V / 8; n += 2) {
          std::uint32_t x[4];
          ldmatrix_x4_trans(x, row + n * 16);
          mma_bf16_16816(sums[n], weights, {x[0], x[1]});
          mma_bf16_16816(sums[n + 1], weights, {x[2], x[3]});
        }
      } else {
        // Of each 32 dims column c of product j is dim 4 c + j: 4 bytes of a key's row are 4 products' own.
        const std::byte* row = values + 2 * t * D::kValueRow + g * 4;
#pragma unroll
        for (int n = 0; n < V / 8; n += 4) {
          uint2 pairs[2][2];  // of keys 2t and 2t + 1, or 2t + 8 and 2t + 9: dims 0 and 1, dims 2 and 3
#pragma unroll
          for (int of = 0; of < 2; ++of) {
            const auto word = [&](int key_of) {
              return *reinterpret_cast<const std::uint32_t*>(row + (8 * of + key_of) * D::kValueRow + n * 8);
            };
            const std::uint32_t first = word(0), second = word(1);
            pairs[of][0] = widen_four((first & 0xffffu) | second << 16, Element{});
            pairs[of][1] = widen_four(first >> 16 | (second & 0xffff0000u), Element{});
          }
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            mma_bf16_16816(sums[n + j], weights, {pairs[0][j / 2].x, pairs[1][j / 2].x});
            mma_bf16_16816(sums[n + j + 1], weights, {pairs[0][j / 2].y, pairs[1][j / 2].y});
          }
        }
      }
    }

    // The warp's sums of rows g and g + 8 go where its ring was.
    copy_async_wait<0>();
    sync_warp();
    auto* found = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float* to = found + (g + 8 * row) * D::kFoundRow;
      if constexpr (!D::kScaled) {
#pragma unroll
        for (int n = 0; n < V / 8; ++n)
          *reinterpret_cast<float2*>(to + n * 8 + 2 * t) =
              make_float2(sums[n][2 * row], sums[n][2 * row + 1]);
      } else {
#pragma unroll
        for (int n = 0; n < V / 8; n += 4) {
#pragma unroll
          for (int e = 0; e < 2; ++e)
            *reinterpret_cast<float4*>(to + n * 8 + 8 * t + 4 * e) =
                make_float4(sums[n][2 * row + e], sums[n + 1][2 * row + e], sums[n + 2][2 * row + e],
                            sums[n + 3][2 * row + e]);
        }
      }
      const float total = group_sum<4>(sum[row]);
      if (t == 0) {
        tops[w * kDecodeRows + g + 8 * row] = top[row];
        totals[w * kDecodeRows + g + 8 * row] = total;
      }
    }
    sync_threads();
    for (int i = static_cast<int>(thread()); i < kDecodeRows * (V / 4); i += static_cast<int>(threads())) {
      const int row = i / (V / 4), dim = i % (V / 4) * 4;
      if (item.tile * p.rows + row >= item.rows || dim >= p.v_dim) continue;
      float all_top = kNothing, total = 0;
#pragma unroll
      for (int other = 0; other < kDecodeWarps; ++other)
        all_top = fmaxf(all_top, tops[other * kDecodeRows + row]);
      float4 x = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int other = 0; other < kDecodeWarps; ++other) {
        const float factor = fast_exp2(tops[other * kDecodeRows + row] - all_top);
        const float4 own = *reinterpret_cast<const float4*>(dynamic_shared() + other * D::kRing +
                                                            (row * D::kFoundRow + dim) * 4);
        total += factor * totals[other * kDecodeRows + row];
        x.x = fmaf(factor, own.x, x.x);
        x.y = fmaf(factor, own.y, x.y);
        x.z = fmaf(factor, own.z, x.z);
        x.w = fmaf(factor, own.w, x.w);
      }
      const Destination to = destination(p, item, row, all_top, total);
      if (dim == 0) store_top(p, item, row, all_top, total);
      store_out(to.row, dim, p.v_dim, to.vectors,
                make_float4(x.x * to.factor, x.y * to.factor, x.z * to.factor, x.w * to.factor));
    }
  }
}

template <class Element>
struct Decodes {
  template <int K, int V>
  static AttentionFunction heads() {
    return decode_attention<Element, K, V>;
  }
  static AttentionFunction of(const AttentionVariant& variant) {
    return of_heads<kAttentionHeads, Decodes>(variant);
  }
};

}  // namespace

AttentionFunction decode_attention_kernel(const AttentionVariant& variant) {
  return of_products<Decodes>(variant);
}

}  // namespace foretoken::cuda
