// Attention in float32 on the ordinary units: caches of f32 and f16, and heads that the others don't take.
//
// A block has 4 warps and walks over units of keys. Few rows (8): each warp has 32 keys of a unit of 128 for
// itself and all rows, and what the warps found is put together in the end. Many (32): each warp has 8 rows,
// and all have the unit's 32 keys. A lane has a key while scores are summed, and 4 dims in each 128 of the
// values while those are, so that both read shared memory by 16 bytes without conflicts and a key or value is
// used 8 times. Keys and values come in pieces of 64 and 128 dims, whatever the heads. What bounds it: at
// few rows the latency of loads that aren't overlapped (two blocks and more reside to cover it), at many the
// float32 units, of which 4 in 5 instructions are multiplications.
#include "executor/cuda/attention_device.cuh"
#include "executor/cuda/attention_kernels.h"

namespace foretoken::cuda {
namespace {

constexpr int kRows = kGeneralWarpRows, kKStride = kGeneralKPiece + 4, kVStride = kGeneralVPiece;

template <bool SplitKeys>
inline constexpr int kUnitOf = general_unit(SplitKeys);
template <bool SplitKeys>
inline constexpr int kTileOf = general_rows(SplitKeys);

// Caches of these hold bf16's numbers, or fewer, so queries are rounded too.
template <class Element>
inline constexpr bool kRounded = sizeof(Element) == 1;
template <>
inline constexpr bool kRounded<bf16> = true;

FORETOKEN_DEVICE float4 load_four(const float* from) { return *reinterpret_cast<const float4*>(from); }
FORETOKEN_DEVICE float4 load_four(const bf16* from) {
  const uint2 four = load8(from);
  const float2 low = unpack_bf16x2(four.x), high = unpack_bf16x2(four.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
FORETOKEN_DEVICE float4 load_four(const f16* from) {
  const uint2 four = load8(from);
  const float2 low = unpack_f16x2(four.x), high = unpack_f16x2(four.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
FORETOKEN_DEVICE float4 load_four(const std::int8_t* from) {
  return unpack_int8x4(*reinterpret_cast<const std::uint32_t*>(from));
}
FORETOKEN_DEVICE float4 load_four(const e4m3* from) {
  return unpack_e4m3x4(*reinterpret_cast<const std::uint32_t*>(from));
}

// Dims [first, first + Dims) of the vectors in `slots` (of `row` elements, of which `dims` count) as floats.
template <class Element, int Dims, int Stride>
FORETOKEN_DEVICE void load_piece(const std::byte* cache, const unsigned* slots, int unit, int row, int first,
                                 int dims, bool vectors, float* to) {
  const auto* elements = reinterpret_cast<const Element*>(cache);
  for (int i = static_cast<int>(thread()); i < unit * (Dims / 4); i += static_cast<int>(threads())) {
    const int key = i / (Dims / 4), d = i % (Dims / 4) * 4, dim = first + d;
    const unsigned slot = slots[key];
    float4 x = make_float4(0, 0, 0, 0);
    if (slot != kNoSlot && dim < dims) {
      const Element* from = elements + static_cast<std::int64_t>(slot) * row + dim;
      if (vectors && dim + 3 < dims) {
        x = load_four(from);
      } else {
        x.x = to_float(from[0]);
        if (dim + 1 < dims) x.y = to_float(from[1]);
        if (dim + 2 < dims) x.z = to_float(from[2]);
        if (dim + 3 < dims) x.w = to_float(from[3]);
      }
    }
    *reinterpret_cast<float4*>(to + key * Stride + d) = x;
  }
}

template <class Element>
FORETOKEN_DEVICE float as_query(float x) {
  return kRounded<Element> ? to_float(from_float<bf16>(x)) : x;
}

// Quads: pieces of values that are summed at a time.
template <class Element, bool SplitKeys, int Quads>
__global__ void __launch_bounds__(32 * kGeneralWarps, 2) general_attention(const AttentionParams p) {
  constexpr int kUnit = kUnitOf<SplitKeys>, kTile = kTileOf<SplitKeys>;
  constexpr bool kScaled = sizeof(Element) == 1;
  grid_dependency_wait();
  grid_dependency_launch();
  const int k_padded = (p.k_dim + kGeneralKPiece - 1) / kGeneralKPiece * kGeneralKPiece;
  float* queries = reinterpret_cast<float*>(dynamic_shared());
  float* piece = queries + kTile * k_padded;
  float* weights = piece + kUnit * kVStride;
  float* key_scales = weights + kGeneralWarps * kRows * 32;
  float* value_scales = key_scales + kUnit;
  auto* slots = reinterpret_cast<unsigned*>(value_scales + kUnit);
  const int t = static_cast<int>(thread()), l = static_cast<int>(lane()), w = static_cast<int>(warp());
  const int own_row = SplitKeys ? 0 : w * kRows, own_key = SplitKeys ? w * 32 : 0;
  float* own_weights = weights + w * kRows * 32;

  start_walk(p);
  const Item& item = shared_walk().item;
  while (next_item(p)) {
    for_queries<kTile, 32 * kGeneralWarps>(p, item, k_padded, [&](int row, int dim, float4 x) {
      *reinterpret_cast<float4*>(queries + row * k_padded + dim) = make_float4(
          as_query<Element>(x.x), as_query<Element>(x.y), as_query<Element>(x.z), as_query<Element>(x.w));
    });
    int position[kRows];
    float top[kRows], sum[kRows], sums[Quads][kRows][4] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      position[r] = position_of(p, item, own_row + r);
      top[r] = kNothing, sum[r] = 0;
    }

    for (int unit = item.unit; unit < item.end_unit; ++unit) {
      const int first_key = unit * kUnit;
      sync_threads();  // the last unit's slots and values are done with
      for (int i = t; i < kUnit; i += static_cast<int>(threads())) {
        const unsigned slot = slot_of(p, item, first_key + i);
        slots[i] = slot;
        if (kScaled) {
          key_scales[i] = slot == kNoSlot ? 0 : p.key_scales[slot];
          value_scales[i] = slot == kNoSlot ? 0 : p.value_scales[slot];
        }
      }
      float score[kRows] = {};
      for (int dim = 0; dim < k_padded; dim += kGeneralKPiece) {
        sync_threads();
        load_piece<Element, kGeneralKPiece, kKStride>(p.keys, slots, kUnit, p.k_dim, dim, p.k_dim,
                                                      p.key_vectors, piece);
        sync_threads();
        const float* key = piece + (own_key + l) * kKStride;
#pragma unroll 2
        for (int d = 0; d < kGeneralKPiece; d += 4) {
          const float4 x = *reinterpret_cast<const float4*>(key + d);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float4 q = *reinterpret_cast<const float4*>(queries + (own_row + r) * k_padded + dim + d);
            score[r] = fmaf(q.x, x.x, score[r]);
            score[r] = fmaf(q.y, x.y, score[r]);
            score[r] = fmaf(q.z, x.z, score[r]);
            score[r] = fmaf(q.w, x.w, score[r]);
          }
        }
      }

      const int own_position = first_key + own_key + l;
      const float key_scale = kScaled ? key_scales[own_key + l] : 1,
                  value_scale = kScaled ? value_scales[own_key + l] : 1;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float x = sees(p, position[r], own_position) ? exponent(p, score[r] * key_scale) : -INFINITY;
        const float next = fmaxf(top[r], warp_max(x));
        const float factor = fast_exp2(top[r] - next), weight = fast_exp2(x - next);
        top[r] = next;
        sum[r] = sum[r] * factor + weight;  // of this lane's keys
        own_weights[r * 32 + l] = weight * value_scale;
#pragma unroll
        for (int quad = 0; quad < Quads; ++quad) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[quad][r][i] *= factor;
        }
      }

#pragma unroll
      for (int quad = 0; quad < Quads; ++quad) {
        if (quad * kGeneralVPiece >= p.v_count) continue;
        sync_threads();
        load_piece<Element, kGeneralVPiece, kVStride>(p.values, slots, kUnit, p.value_row,
                                                      p.v_first + quad * kGeneralVPiece,
                                                      p.v_first + p.v_count, p.value_vectors, piece);
        sync_threads();
        for (int key = 0; key < 32; key += 4) {
          float4 x[4];
#pragma unroll
          for (int i = 0; i < 4; ++i)
            x[i] = *reinterpret_cast<const float4*>(piece + (own_key + key + i) * kVStride + l * 4);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float4 weight = *reinterpret_cast<const float4*>(own_weights + r * 32 + key);
            const float of[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              sums[quad][r][0] = fmaf(of[i], x[i].x, sums[quad][r][0]);
              sums[quad][r][1] = fmaf(of[i], x[i].y, sums[quad][r][1]);
              sums[quad][r][2] = fmaf(of[i], x[i].z, sums[quad][r][2]);
              sums[quad][r][3] = fmaf(of[i], x[i].w, sums[quad][r][3]);
            }
          }
        }
      }
    }

#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = warp_sum(sum[r]);
    const auto finish = [&](int row, int dim, float4 x, float row_top, float row_sum) {
      const Destination to = destination(p, item, row, row_top, row_sum);
      if (to.row == nullptr) return;
      if (dim == 0) store_top(p, item, row, row_top, row_sum);
      store_out(to.row, dim, p.v_count, to.vectors,
                make_float4(x.x * to.factor, x.y * to.factor, x.z * to.factor, x.w * to.factor));
    };
    if constexpr (!SplitKeys) {
      unrolled<kRows>([&](auto index) {
        constexpr int r = decltype(index)::value;
#pragma unroll
        for (int quad = 0; quad < Quads; ++quad)
          finish(own_row + r, quad * kGeneralVPiece + l * 4,
                 make_float4(sums[quad][r][0], sums[quad][r][1], sums[quad][r][2], sums[quad][r][3]), top[r],
                 sum[r]);
      });
    } else {
      // Each warp's sums of its keys lie where values were, and its tops and sums where weights were.
      constexpr int kWidth = Quads * kGeneralVPiece;
      sync_threads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int quad = 0; quad < Quads; ++quad)
          *reinterpret_cast<float4*>(piece + (w * kRows + r) * kWidth + quad * kGeneralVPiece + l * 4) =
              make_float4(sums[quad][r][0], sums[quad][r][1], sums[quad][r][2], sums[quad][r][3]);
        if (l == 0) own_weights[2 * r] = top[r], own_weights[2 * r + 1] = sum[r];
      }
      sync_threads();
      for (int i = t; i < kRows * kWidth / 4; i += static_cast<int>(threads())) {
        const int row = i / (kWidth / 4), dim = i % (kWidth / 4) * 4;
        float all_top = kNothing, all_sum = 0;
#pragma unroll
        for (int other = 0; other < kGeneralWarps; ++other)
          all_top = fmaxf(all_top, weights[other * kRows * 32 + 2 * row]);
        float4 x = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int other = 0; other < kGeneralWarps; ++other) {
          const float factor = fast_exp2(weights[other * kRows * 32 + 2 * row] - all_top);
          const float4 own = *reinterpret_cast<const float4*>(piece + (other * kRows + row) * kWidth + dim);
          all_sum += factor * weights[other * kRows * 32 + 2 * row + 1];
          x.x = fmaf(factor, own.x, x.x);
          x.y = fmaf(factor, own.y, x.y);
          x.z = fmaf(factor, own.z, x.z);
          x.w = fmaf(factor, own.w, x.w);
        }
        finish(row, dim, x, all_top, all_sum);
      }
    }
  }
}

template <class Element>
AttentionFunction with(const AttentionVariant& v) {
  const bool split_keys = v.unit == general_unit(true), wide = v.v > kGeneralVPiece;
  if (split_keys)
    return wide ? general_attention<Element, true, kGeneralMostV / kGeneralVPiece>
                : general_attention<Element, true, 1>;
  return wide ? general_attention<Element, false, kGeneralMostV / kGeneralVPiece>
              : general_attention<Element, false, 1>;
}

}  // namespace

AttentionFunction general_attention_kernel(const AttentionVariant& variant) {
  switch (variant.storage) {
    case Storage::kF32:
      return with<float>(variant);
    case Storage::kF16:
      return with<f16>(variant);
    case Storage::kBf16:
      return with<bf16>(variant);
    case Storage::kInt8:
      return with<std::int8_t>(variant);
    case Storage::kFp8:
      return with<e4m3>(variant);
    case Storage::kInt4:
    case Storage::kFp8Block:
      break;  // not a cache's
  }
  return nullptr;
}

}  // namespace foretoken::cuda
