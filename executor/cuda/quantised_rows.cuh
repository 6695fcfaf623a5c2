// Rows quantised to 8 bits by the kernels that make them (quantise.cu has those of rows in memory): scales
// and numbers of the values that threads hold, to the bit as quantise_row() has them.
#pragma once

#include "executor/cuda/products.h"
#include "executor/cuda/rows.cuh"
#include "executor/storage.h"

namespace foretoken::cuda {

// Where they lie: as a QuantisedForm says.
struct QuantisedRows {
  Storage format = Storage::kFp8;
  bool bytes = false;
  std::int64_t rows = 0, width = 0, row_bytes = 0;
  std::byte* to = nullptr;
  float* scales = nullptr;
  float fixed = 0;  // of kFp8: every row's scale; 0: each has its own
};
inline QuantisedRows quantised_rows(const QuantisedForm& form, Storage format, std::int64_t rows,
                                    std::int64_t width, std::byte* to, float fixed) {
  return {format, form.bytes, rows, width, form.row_bytes, to, reinterpret_cast<float*>(to + form.scales_at),
          fixed};
}

FORETOKEN_DEVICE float scale_from(float largest, float limit) { return largest > 0 ? largest / limit : 1.0f; }

// Divided, as the scale's format is defined: a product with the reciprocal rounds differently. Padding is
// written too.
FORETOKEN_DEVICE void put_four(const QuantisedRows& q, std::int64_t row, int column, const Values<4>& values,
                               float scale) {
  if (column >= (q.bytes ? q.row_bytes : q.row_bytes / 2)) return;
  std::byte* const to = q.to + row * q.row_bytes;
  const float a = values.v[0] / scale, b = values.v[1] / scale, c = values.v[2] / scale,
              d = values.v[3] / scale;
  const auto pack = [&](float4 four) { return is_fp8(q.format) ? pack_e4m3x4(four) : pack_int8x4(four); };
  if (q.bytes) {  // packed.h
    const int eight = column % 64 / 8;
    *reinterpret_cast<std::uint32_t*>(to + column / 64 * 64 + eight % 4 * 16 + eight / 4 * 8 + column % 8) =
        pack(make_float4(a, c, b, d));
    return;
  }
  const std::uint32_t word = pack(make_float4(a, b, c, d));
  const float4 four = is_fp8(q.format) ? unpack_e4m3x4(word) : unpack_int8x4(word);
  store8(to + column * 2, make_uint2(pack_bf16x2(four.x, four.y), pack_bf16x2(four.z, four.w)));
}

FORETOKEN_DEVICE float largest_of(const Values<4>& values) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(values.v[i]));
  return largest;
}
// Of a row of a block's, or of a warp's, whose threads know their own values' largest; first: a thread's
// first column.
template <bool kBlock>
FORETOKEN_DEVICE float scale_of_row(const QuantisedRows& q, std::int64_t row, float largest, int first) {
  if (q.format == Storage::kFp8Block) return 1;  // groups have their own
  if (q.fixed > 0) {
    if (first == 0) q.scales[row] = q.fixed;
    return q.fixed;
  }
  if constexpr (kBlock)
    largest = block_max(largest);
  else
    largest = warp_max(largest);
  const float scale = scale_from(largest, is_fp8(q.format) ? kFp8Largest : 127.0f);
  if (first == 0) q.scales[row] = scale;
  return scale;
}
// A warp function: its lanes have 128 columns in a row, zeros beyond the row's.
FORETOKEN_DEVICE void put_values(const QuantisedRows& q, std::int64_t row, int column,
                                 const Values<4>& values, float scale) {
  if (q.format == Storage::kFp8Block) {
    scale = scale_from(warp_max(largest_of(values)), kFp8Largest);
    if (lane() == 0 && column < q.width) q.scales[column / kScaleGroup * q.rows + row] = scale;
  }
  put_four(q, row, column, values, scale);
}
// held[i]: from column first + i x step on.
template <int P, bool kBlock>
FORETOKEN_DEVICE void put_row(const QuantisedRows& q, std::int64_t row, const Values<4> (&held)[P], int first,
                              int step) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < P; ++i) largest = fmaxf(largest, largest_of(held[i]));
  const float scale = scale_of_row<kBlock>(q, row, largest, first);
#pragma unroll
  for (int i = 0; i < P; ++i) put_values(q, row, first + i * step, held[i], scale);
}

}  // namespace foretoken::cuda
