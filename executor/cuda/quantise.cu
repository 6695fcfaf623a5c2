// Rows of x quantised to 8 bits for products by weights of the same format: a scale a row, or of 128 values
// of it, that puts the largest value at the format's largest, values divided by it and rounded, to the bit as
// quantise_row() has them; or, of fp8, the scale that the matrix says. A row, a block. Bound by memory: 4
// bytes a value that are read, and 1 (bytes for cuBLASLt) or 2 (bf16 for our own kernels) that are written;
// of few rows by the latency of one load and a launch.
#include "executor/cuda/launch.h"
#include "executor/cuda/packed.h"
#include "executor/cuda/product_parts.cuh"
#include "executor/cuda/quantised_rows.cuh"

namespace foretoken::cuda {
namespace {

constexpr unsigned kThreads = 512;

template <Storage storage>
FORETOKEN_DEVICE std::uint32_t pack_four(float a, float b, float c, float d) {
  const float4 four = make_float4(a, b, c, d);
  return is_fp8(storage) ? pack_e4m3x4(four) : pack_int8x4(four);
}
template <Storage storage>
FORETOKEN_DEVICE float4 unpack_four(std::uint32_t word) {
  return is_fp8(storage) ? unpack_e4m3x4(word) : unpack_int8x4(word);
}

// Eight values over their scale to their places in a row: as bytes in the order of packed rows, or as bf16.
// Divided, as the scale's format is defined: a product with the reciprocal rounds differently.
template <Storage storage, bool bytes>
FORETOKEN_DEVICE void put_eight(std::byte* row, std::int64_t at, float (&v)[8], float scale) {
#pragma unroll
  for (unsigned i = 0; i < 8; ++i) v[i] = v[i] / scale;
  if constexpr (bytes) {
    const std::int64_t eight = at % kUnitBytes / 8;
    store8(
        row + at / kUnitBytes * kUnitBytes + eight % 4 * 16 + eight / 4 * 8,
        make_uint2(pack_four<storage>(v[0], v[2], v[1], v[3]), pack_four<storage>(v[4], v[6], v[5], v[7])));
  } else {
    const float4 low = unpack_four<storage>(pack_four<storage>(v[0], v[1], v[2], v[3])),
                 high = unpack_four<storage>(pack_four<storage>(v[4], v[5], v[6], v[7]));
    store16(row + at * 2, {pack_bf16x2(low.x, low.y), pack_bf16x2(low.z, low.w), pack_bf16x2(high.x, high.y),
                           pack_bf16x2(high.z, high.w)});
  }
}

// As below for kFp8Block: the 16 lanes whose values share a scale find it among themselves.
template <bool bytes, bool even>
__global__ void __launch_bounds__(kThreads)
    quantise_groups(const float* x, std::int64_t x_stride, std::int64_t k, std::byte* to,
                    std::int64_t row_bytes, float* scales, const std::int32_t* count) {
  grid_dependency_wait();
  grid_dependency_launch();
  if (count != nullptr && blockIdx.x >= static_cast<unsigned>(*count)) return;
  const float* const row = x + blockIdx.x * x_stride;
  to += blockIdx.x * row_bytes;
  const std::int64_t end = bytes ? row_bytes : (k + 7) / 8 * 8;
#pragma unroll 4
  for (std::int64_t first = 0; first < end; first += kThreads * 8) {
    const std::int64_t at = first + thread() * 8;
    float v[8] = {};
    if (at < k) load_eight<even>(row, at, k, v);
    float largest = 0;
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i]));
    const float scale = scale_from(group_max<16>(largest), kFp8Largest);
    if (at % kScaleGroup == 0 && at < k) scales[at / kScaleGroup * gridDim.x + blockIdx.x] = scale;
    if (at < end) put_eight<Storage::kFp8Block, bytes>(to, at, v, scale);
  }
}

// The largest magnitude of all rows, as an int's bits, whose order is theirs; *to is 0 before. Bound by
// memory.
template <bool even>
__global__ void __launch_bounds__(kThreads)
    find_largest(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k, int* to) {
  grid_dependency_wait();
  grid_dependency_launch();
  float largest = 0;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x)
#pragma unroll 4
    for (std::int64_t at = thread() * 8; at < k; at += kThreads * 8) {
      float v[8];
      load_eight<even>(x + row * x_stride, at, k, v);
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i]));
    }
  largest = block_max(largest);
  if (thread() == 0) atomic_max(to, static_cast<int>(as_bits(largest)));
}

// A thread takes 8 neighbours of k, kHeld times in registers, so that rows of up to 16384 are read once and
// all of a row's loads are under way together; of longer ones the rest is read again. bytes: in the order of
// packed rows, to `row_bytes` a row, of which what is beyond k is zeros; else as bf16, padded with zeros to a
// multiple of 8. fixed: every row's scale; 0: that of *all, where it is given, or of the row, in which case
// alone a block's threads wait for each other.
template <Storage storage, bool bytes, bool even>
__global__ void __launch_bounds__(kThreads)
    quantise_rows(const float* x, std::int64_t x_stride, std::int64_t k, std::byte* to,
                  std::int64_t row_bytes, float* scales, const std::int32_t* count, float fixed,
                  const float* all) {
  constexpr unsigned kHeld = 4;
  grid_dependency_wait();
  grid_dependency_launch();
  if (count != nullptr && blockIdx.x >= static_cast<unsigned>(*count)) return;
  const float* const row = x + blockIdx.x * x_stride;
  float largest = 0;
  const auto load = [&](std::int64_t at, float(&v)[8]) {
    if (at < k) {
      load_eight<even>(row, at, k, v);
    } else {
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) v[i] = 0;
    }
  };
  const auto look = [&](const float(&v)[8]) {
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i]));
  };
  float held[kHeld][8];
#pragma unroll
  for (unsigned h = 0; h < kHeld; ++h) load((h * kThreads + thread()) * 8, held[h]);
  float scale = fixed;
  if (scale == 0) {
    if (all != nullptr) {
      largest = *all;
    } else {
#pragma unroll
      for (unsigned h = 0; h < kHeld; ++h) look(held[h]);
      for (std::int64_t at = (kHeld * kThreads + thread()) * 8; at < k; at += kThreads * 8) {
        float v[8];
        load(at, v);
        look(v);
      }
      largest = block_max(largest);
    }
    scale = scale_from(largest, storage == Storage::kFp8 ? kFp8Largest : 127.0f);
  }
  if (thread() == 0) scales[blockIdx.x] = scale;

  to += blockIdx.x * row_bytes;
  const std::int64_t end = bytes ? row_bytes : (k + 7) / 8 * 8;
  const auto put = [&](std::int64_t at, float(&v)[8]) {
    if (at < end) put_eight<storage, bytes>(to, at, v, scale);
  };
#pragma unroll
  for (unsigned h = 0; h < kHeld; ++h) put((h * kThreads + thread()) * 8, held[h]);
  for (std::int64_t at = (kHeld * kThreads + thread()) * 8; at < end; at += kThreads * 8) {
    float v[8];
    load(at, v);
    put(at, v);
  }
}

template <bool bytes>
void quantise(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k,
              std::byte* to, std::int64_t row_bytes, float* scales, const std::int32_t* count, OneScale one,
              Stream& on) {
  if (rows <= 0 || k <= 0) return;
  const bool even = reinterpret_cast<std::uintptr_t>(x) % 16 == 0 && x_stride % 4 == 0 && k % 8 == 0;
  const auto with = [&](auto kernel, auto... more) {
    launch(kernel, {.grid = static_cast<unsigned>(rows), .block = kThreads, .name = "quantise_rows"}, on, x,
           x_stride, k, to, row_bytes, scales, count, more...);
  };
  if (storage == Storage::kFp8Block)
    return with(even ? quantise_groups<bytes, true> : quantise_groups<bytes, false>);
  if (storage == Storage::kInt8)
    return with(
        even ? quantise_rows<Storage::kInt8, bytes, true> : quantise_rows<Storage::kInt8, bytes, false>, 0.0f,
        nullptr);
  float* const all = one.is && one.scale == 0 ? scales + rows : nullptr;
  if (all != nullptr) {
    constexpr std::int64_t kMostBlocks = 1024;
    fill(on, all, 0, sizeof *all);
    launch(even ? find_largest<true> : find_largest<false>,
           {.grid = static_cast<unsigned>(std::min(rows, kMostBlocks)),
            .block = kThreads,
            .name = "find_largest"},
           on, x, x_stride, rows, k, reinterpret_cast<int*>(all));
  }
  with(even ? quantise_rows<Storage::kFp8, bytes, true> : quantise_rows<Storage::kFp8, bytes, false>,
       one.is ? one.scale : 0.0f, static_cast<const float*>(all));
}

}  // namespace

void launch_quantise(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows,
                     std::int64_t k, std::uint16_t* to, float* scales, const std::int32_t* count, Stream& on,
                     OneScale one) {
  quantise<false>(storage, x, x_stride, rows, k, reinterpret_cast<std::byte*>(to),
                  2 * rounded_stride(storage, k), scales, count, one, on);
}

void launch_quantise(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows,
                     std::int64_t k, std::byte* to, float* scales, const std::int32_t* count, Stream& on,
                     OneScale one) {
  quantise<true>(storage, x, x_stride, rows, k, to, PackedLayout(storage, 1, k).row_bytes, scales, count, one,
                 on);
}

void quantise_for_tiles(Product& p, const float* x, std::int64_t x_stride, std::int64_t rows,
                        std::uint16_t* to, float* scales, const std::int32_t* count,
                        const DeviceProperties& device, Stream& on) {
  const OneScale one{p.one_x_scale, p.x_scale};
  p.x_in_bytes = takes_bytes(p, device);
  p.rounded = to;
  if (p.quantised != nullptr) {  // bytes
    p.x_stride = p.x_in_bytes ? p.row_bytes / 2 : p.row_bytes;
    if (p.x_in_bytes) {
      p.rounded = reinterpret_cast<const std::uint16_t*>(p.quantised);
      return;
    }
    Product widened;
    widened.storage = p.storage, widened.elements = p.quantised;
    widened.n = rows, widened.row_bytes = p.row_bytes;
    return launch_expand(widened, to, on);
  }
  p.x_stride = p.x_in_bytes ? p.row_bytes / 2 : rounded_stride(p.storage, p.k);
  if (p.x_in_bytes)
    launch_quantise(p.storage, x, x_stride, rows, p.k, reinterpret_cast<std::byte*>(to), scales, count, on,
                    one);
  else
    launch_quantise(p.storage, x, x_stride, rows, p.k, to, scales, count, on, one);
}

}  // namespace foretoken::cuda
