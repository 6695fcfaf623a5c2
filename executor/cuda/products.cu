// Products of matrices, rows of tables: which kernel takes them, and rounding before them.
#include <algorithm>
#include <vector>

#include "executor/cuda/cublas.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"
#include "executor/stored_rows.h"

namespace foretoken::cuda {
namespace {

constexpr unsigned kThreads = 256;

// A thread rounds 8 neighbours of a few rows. Bound by memory: 6 bytes a value.
template <bool even>
__global__ void __launch_bounds__(kThreads)
    round_rows(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k, std::uint16_t* to) {
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t eights = (k + 7) / 8,
                     eight = static_cast<std::int64_t>(blockIdx.x) * kThreads + thread();
  if (eight >= eights) return;
#pragma unroll 2
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y)
    store16(to + (row * eights + eight) * 8, rounded_eight<even>(x + row * x_stride, eight * 8, k));
}

// A row, a block each, in two of f16: the second is what the first leaves, exactly, so that both have 22
// bits. Scaled by a power of two so that the largest is in [2^14, 2^15); what is lost of the smaller ones is
// below 2^-39 of it.
__global__ void __launch_bounds__(kThreads)
    split_rows(const float* x, std::int64_t x_stride, std::int64_t k, std::uint16_t* to, float* scales,
               const std::int32_t* count) {
  grid_dependency_wait();
  grid_dependency_launch();
  if (count != nullptr && blockIdx.x >= static_cast<unsigned>(*count)) return;
  const float* const row = x + blockIdx.x * x_stride;
  float largest = 0;
  for (std::int64_t i = thread(); i < k; i += kThreads) largest = fmaxf(largest, fabsf(row[i]));
  const auto exponent = static_cast<int>(as_bits(block_max(largest)) >> 23),
             power = exponent < 15 ? 253 : 268 - exponent;  // 127: 1
  const float up = as_float(static_cast<std::uint32_t>(power) << 23);
  if (thread() == 0) scales[blockIdx.x] = as_float(static_cast<std::uint32_t>(254 - power) << 23);
  const std::int64_t eights = (k + 31) / 32 * 4;
  to += blockIdx.x * eights * 16;
  for (std::int64_t eight = thread(); eight < eights; eight += kThreads) {
    std::uint32_t high[4], low[4];
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      float pair[2];
      for (unsigned j = 0; j < 2; ++j) {
        const std::int64_t at = eight * 8 + 2 * i + j;
        pair[j] = at < k ? row[at] * up : 0.0f;
      }
      high[i] = pack_f16x2(pair[0], pair[1]);
      const float2 taken = unpack_f16x2(high[i]);
      low[i] = pack_f16x2(pair[0] - taken.x, pair[1] - taken.y);
    }
    std::uint16_t* const place = to + eight / 4 * 64 + eight % 4 * 8;
    store16(place, {high[0], high[1], high[2], high[3]});
    store16(place + 32, {low[0], low[1], low[2], low[3]});
  }
}

// A thread takes 16 bytes of a few rows. Bound by memory: 3 bytes a weight.
template <Storage storage>
__global__ void __launch_bounds__(kThreads) expand_rows(Product p, std::uint16_t* to) {
  grid_dependency_wait();
  grid_dependency_launch();
  constexpr unsigned kParts = Weights<storage>::kParts;
  const std::int64_t chunk = static_cast<std::int64_t>(blockIdx.x) * kThreads + thread();
  if (chunk * 16 >= p.row_bytes) return;
#pragma unroll 4
  for (std::int64_t row = blockIdx.y; row < p.n; row += gridDim.y) {
    const uint4 raw = load_streaming16(p.elements + row * p.row_bytes + chunk * 16);
#pragma unroll
    for (unsigned part = 0; part < kParts; ++part) {
      std::uint32_t pairs[4];
      Weights<storage>::decode(raw, part, pairs);
      store16(to + row * p.row_bytes + ((chunk / 4 * kParts + part) * 4 + chunk % 4) * 8,
              {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
  }
}

// A thread takes a few rows of kWidth columns. Bound by memory: 8 bytes a value. integers: the sums are of
// int32.
template <unsigned kWidth, bool integers>
__global__ void __launch_bounds__(kThreads) scale_columns(Product p, float* y, std::int64_t y_stride) {
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kThreads + thread()) * kWidth;
  if (first >= p.n) return;
  float by[kWidth], more[kWidth];
#pragma unroll
  for (unsigned i = 0; i < kWidth; ++i) {
    by[i] = p.scales[first + i];
    more[i] = p.bias == nullptr ? 0.0f : p.bias[first + i];
  }
#pragma unroll 4
  for (std::int64_t row = blockIdx.y; row < p.m; row += gridDim.y) {
    float* const at = y + row * y_stride + first;
    const float of_x = p.x_scales == nullptr ? 1.0f : p.x_scales[row];
    const auto scaled = [&](std::uint32_t sum, unsigned i) {
      const float value = integers ? static_cast<float>(static_cast<std::int32_t>(sum)) : as_float(sum);
      return as_bits(value * (by[i] * of_x) + more[i]);
    };
    if constexpr (kWidth == 4) {
      const uint4 sums = load16(at);
      store16(at, {scaled(sums.x, 0), scaled(sums.y, 1), scaled(sums.z, 2), scaled(sums.w, 3)});
    } else {
      *at = as_float(scaled(as_bits(*at), 0));
    }
  }
}

// Rows of a table, a block each: a thread unpacks 16 bytes.
template <Storage storage>
__global__ void __launch_bounds__(kThreads)
    embed_rows(Product p, const std::int32_t* ids, std::int64_t offset, float scale) {
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t row = ids[blockIdx.x] + offset;
  const std::byte* const from = p.elements + row * p.row_bytes;
  float* const to = p.y + blockIdx.x * p.y_stride;
  const bool aligned = p.k % 4 == 0 && reinterpret_cast<std::uintptr_t>(p.y) % 16 == 0;
  const auto put_four = [&](std::int64_t at, float(&values)[4], float by) {
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      values[i] = multiply(values[i], by);
      if (scale != 1) values[i] = multiply(values[i], scale);
    }
    if (aligned && at < p.k) {
      if (p.accumulate) {
        const uint4 there = load16(to + at);
        values[0] += as_float(there.x), values[1] += as_float(there.y);
        values[2] += as_float(there.z), values[3] += as_float(there.w);
      }
      store16(to + at, {as_bits(values[0]), as_bits(values[1]), as_bits(values[2]), as_bits(values[3])});
      return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
      if (at + i < p.k) to[at + i] = p.accumulate ? to[at + i] + values[i] : values[i];
  };
  for (std::int64_t chunk = thread(); chunk < p.row_bytes / 16; chunk += kThreads) {
    const uint4 raw = load16(from + chunk * 16);
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    if constexpr (storage == Storage::kF32) {
      float values[4] = {as_float(raw.x), as_float(raw.y), as_float(raw.z), as_float(raw.w)};
      put_four(chunk * 4, values, 1);
    } else if constexpr (storage == Storage::kF16) {
#pragma unroll
      for (unsigned i = 0; i < 4; i += 2) {
        const float2 first = unpack_f16x2(words[i]), second = unpack_f16x2(words[i + 1]);
        float values[4] = {first.x, first.y, second.x, second.y};
        put_four(chunk * 8 + 2 * i, values, 1);
      }
    } else {
      // What lane `chunk % 4` of a product takes of the unit.
      constexpr unsigned kParts = Weights<storage>::kParts;
      const std::int64_t unit = chunk / 4;
      float by = 1;
      if constexpr (in_groups(storage) || of_8_bits(storage)) by = p.scales[scale_at<storage>(p, row, unit)];
#pragma unroll
      for (unsigned part = 0; part < kParts; ++part) {
        std::uint32_t pairs[4];
        Weights<storage>::decode(raw, part, pairs);
#pragma unroll
        for (unsigned i = 0; i < 4; i += 2) {
          const float2 first = unpack_bf16x2(pairs[i]), second = unpack_bf16x2(pairs[i + 1]);
          float values[4] = {first.x, first.y, second.x, second.y};
          put_four(((unit * kParts + part) * 4 + chunk % 4) * 8 + 2 * i, values, by);
        }
      }
    }
  }
}

std::size_t padded(std::int64_t bytes) { return static_cast<std::size_t>((bytes + 255) / 256 * 256); }

// Of x as the tensor cores take it, and behind it the scales of its rows.
std::size_t rounded_bytes(Storage storage, std::int64_t k, std::int64_t m) {
  return padded(m * rounded_stride(storage, k) * 2);
}
std::size_t scale_bytes(Storage storage, std::int64_t k, std::int64_t m, bool quantised_x) {
  if (quantised_x) return padded((scales_of_row(storage, k) * m + 1) * 4);  // and that of all rows
  return storage == Storage::kF16 ? padded(m * 4) : 0;
}
// Quantised rows may come as bytes, which become bf16 with the same padding.
std::size_t row_bytes_for(Storage storage, std::int64_t k, std::int64_t m, bool quantised_x) {
  return quantised_x ? padded(m * PackedLayout(storage, 1, k).row_bytes * 2) : rounded_bytes(storage, k, m);
}

// Rows of w that are expanded at a time, in 256 MiB or somewhat more.
std::int64_t expanded_rows(std::int64_t n, std::int64_t row_bytes) {
  constexpr std::int64_t kBytes = std::int64_t{256} << 20, kRows = 256;
  return std::min(n, (kBytes / (2 * row_bytes) + kRows - 1) / kRows * kRows);
}
std::size_t expanded_bytes(Storage storage, std::int64_t n, std::int64_t k, std::int64_t m) {
  if (choose_path(storage, m, n, k) != Path::kExpand) return 0;
  const std::int64_t row_bytes = PackedLayout(storage, n, k).row_bytes;
  return padded(expanded_rows(n, row_bytes) * row_bytes * 2);
}

CublasOffer offer_of(CublasForm form, const Product& p, const void* w, std::int64_t w_stride, const void* x,
                     std::int64_t x_stride, const float* bias) {
  CublasOffer offer;
  offer.form = form;
  offer.w = w, offer.x = x;
  offer.m = p.m, offer.n = p.n, offer.k = x_stride;
  offer.w_stride = w_stride, offer.x_stride = x_stride;
  offer.bias = bias, offer.accumulate = p.accumulate;
  offer.y = p.y, offer.y_stride = p.y_stride;
  return offer;
}

// By cuBLASLt where that is faster; offer: of bf16.
bool by_cublas(const Product& p, const CublasOffer& offer, const DeviceProperties& device, Stream& on) {
  const auto own = [&](float* y, std::int64_t y_stride) {
    Product other = p;
    other.y = y, other.y_stride = y_stride, other.accumulate = false;
    launch_tiles(other, device, on);
  };
  return cublas_product({&offer, 1}, on, own);
}

void run_expanded(const Product& p, std::uint16_t* w, const DeviceProperties& device, Stream& on) {
  const std::int64_t rows = expanded_rows(p.n, p.row_bytes);
  for (std::int64_t first = 0; first < p.n; first += rows) {
    Product part = p;
    part.n = std::min(rows, p.n - first);
    part.elements += first * p.row_bytes, part.scales += first, part.y += first;
    if (p.bias != nullptr) part.bias += first;
    CublasOffer offer =
        offer_of(CublasForm::kBf16, part, w, part.row_bytes, part.rounded, part.x_stride, nullptr);
    offer.before = [&] { launch_expand(part, w, on); };
    offer.after = [&](float* y, std::int64_t y_stride) { launch_scale(part, y, y_stride, on); };
    // Scaled after the library's sum, which is all that y may hold then.
    if (part.accumulate || !by_cublas(part, offer, device, on)) launch_tiles(part, device, on);
  }
}

// x as bytes by cuBLASLt, or by what takes products of an x that isn't quantised: as bf16, or as bytes where
// warpgroups take these. Each makes its own form of x. rows, scales: memory for them.
void run_quantised(Product p, std::byte* rows, float* scales, std::uint16_t* expanded,
                   const DeviceProperties& device, Stream& on) {
  const auto by_bf16 = [&](float* y, std::int64_t y_stride, bool accumulate) {
    Product other = p;
    other.y = y, other.y_stride = y_stride, other.accumulate = accumulate;
    quantise_for_tiles(other, p.x, p.x_stride, p.m, reinterpret_cast<std::uint16_t*>(rows), scales, nullptr,
                       device, on);
    if (!other.x_in_bytes && choose_path(p.storage, p.m, p.n, p.k) == Path::kExpand)
      return run_expanded(other, expanded, device, on);
    launch_tiles(other, device, on);
  };
  const bool fp8 = is_fp8(p.storage), blocks = p.storage == Storage::kFp8Block;
  const std::byte* const x = p.quantised != nullptr ? p.quantised : rows;
  CublasOffer plain = offer_of(fp8 ? CublasForm::kFp8 : CublasForm::kInt8, p, p.elements, p.row_bytes, x,
                               p.row_bytes, nullptr);
  if (p.quantised == nullptr)
    plain.before = [&] {
      launch_quantise(p.storage, p.x, p.x_stride, p.m, p.k, rows, scales, nullptr, on,
                      {p.one_x_scale, p.x_scale});
    };
  CublasOffer scaled = plain;
  plain.after = [&](float* y, std::int64_t y_stride) { launch_scale(p, y, y_stride, on, !fp8); };
  scaled.form = blocks                         ? CublasForm::kFp8Blocks
                : p.one_scale && p.one_x_scale ? CublasForm::kFp8Tensors
                                               : CublasForm::kFp8Scaled;
  scaled.w_scales = p.scales, scaled.x_scales = p.x_scales;
  // Where sums are scaled after, they are all that y may hold; the library's bias of fp8 products is of bf16.
  std::vector<CublasOffer> offers;
  if (fp8 && p.bias == nullptr) offers.push_back(scaled);
  if (!p.accumulate && !blocks) offers.push_back(plain);
  const auto own = [&](float* y, std::int64_t y_stride) { by_bf16(y, y_stride, false); };
  if (offers.empty() || !cublas_product(offers, on, own)) by_bf16(p.y, p.y_stride, p.accumulate);
}

}  // namespace

Product product_of(const Matrix& w) {
  const PackedLayout layout(w.storage, w.n, w.k);
  Product p;
  p.storage = w.storage;
  p.elements = w.packed;
  if (layout.groups > 0) p.scales = reinterpret_cast<const float*>(w.packed + layout.scales_at);
  p.n = w.n, p.k = w.k;
  p.row_bytes = layout.row_bytes, p.scale_stride = layout.scale_stride;
  p.quantised_x = w.quantised_x;
  p.one_scale = w.one_scale, p.one_x_scale = w.one_x_scale, p.x_scale = w.x_scale;
  return p;
}

Path choose_path(Storage storage, std::int64_t m, std::int64_t n, std::int64_t k, bool quantised_x) {
  if (m <= kStreamRows) return exact_product(storage) ? Path::kFloatStream : Path::kStream;
  if (storage == Storage::kF32) return Path::kFloatTiles;
  if (quantised_x && n >= 8 && k >= 8) return Path::kQuantised;
  if (storage == Storage::kBf16 && n >= 8 && k >= 8) return Path::kCublas;
  // The fewer rows, the less it pays to write and read twice the bytes.
  if (of_8_bits(storage) && !in_groups(storage) && m >= kExpandRows && n >= 8 && k >= 8) return Path::kExpand;
  return Path::kTiles;
}

void launch_expand(const Product& p, std::uint16_t* to, Stream& on) {
  if (p.n <= 0 || p.row_bytes <= 0) return;
  constexpr std::int64_t kMostRows = 4096;
  const std::int64_t columns = (p.row_bytes / 16 + kThreads - 1) / kThreads;
  launch(p.storage == Storage::kInt8 ? expand_rows<Storage::kInt8> : expand_rows<Storage::kFp8>,
         {.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(std::min(p.n, kMostRows))),
          .block = kThreads,
          .name = "expand_rows"},
         on, p, to);
}

void launch_scale(const Product& p, float* y, std::int64_t y_stride, Stream& on, bool integers) {
  if (p.m <= 0 || p.n <= 0) return;
  constexpr std::int64_t kMostRows = 1024;
  const std::int64_t width =
      reinterpret_cast<std::uintptr_t>(y) % 16 == 0 && y_stride % 4 == 0 && p.n % 4 == 0 ? 4 : 1;
  const std::int64_t columns = (p.n + kThreads * width - 1) / (kThreads * width);
  launch(width == 4 ? integers ? scale_columns<4, true> : scale_columns<4, false>
         : integers ? scale_columns<1, true>
                    : scale_columns<1, false>,
         {.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(std::min(p.m, kMostRows))),
          .block = kThreads,
          .name = "scale_columns"},
         on, p, y, y_stride);
}

void launch_round(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k,
                  std::uint16_t* to, float* scales, const std::int32_t* count, Stream& on) {
  if (rows <= 0 || k <= 0) return;
  if (storage == Storage::kF16)
    return launch(split_rows, {.grid = static_cast<unsigned>(rows), .block = kThreads, .name = "split_rows"},
                  on, x, x_stride, k, to, scales, count);
  // A thread has several of more rows.
  constexpr std::int64_t kMostRows = 2048;
  const std::int64_t columns = (k + 8 * kThreads - 1) / (8 * kThreads);
  const bool even = reinterpret_cast<std::uintptr_t>(x) % 16 == 0 && x_stride % 4 == 0 && k % 8 == 0;
  launch(even ? round_rows<true> : round_rows<false>,
         {.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(std::min(rows, kMostRows))),
          .block = kThreads,
          .name = "round_rows"},
         on, x, x_stride, rows, k, to);
}

// Alike or more for more rows, so that what was planned for the most does for fewer.
std::size_t product_scratch(Storage storage, std::int64_t n, std::int64_t k, std::int64_t m,
                            int multiprocessors, bool quantised_x) {
  const std::size_t rows =
      row_bytes_for(storage, k, m, quantised_x) + scale_bytes(storage, k, m, quantised_x);
  if (m <= kStreamRows) return quantised_x ? rows : 0;
  const std::size_t partial = partial_bytes(m, multiprocessors);
  if (storage == Storage::kF32) return partial;
  return rows + partial + expanded_bytes(storage, n, k, m);
}

void run_product(Path path, Product p, std::byte* scratch, const DeviceProperties& device, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  if (path == Path::kStream && !p.quantised_x) return launch_stream(p, device, on);
  if (path == Path::kFloatStream) return launch_float_stream(p, on);
  if (path == Path::kFloatTiles) {
    p.partial = reinterpret_cast<float*>(scratch);
    return launch_float_tiles(p, device, on);
  }
  std::byte* const rows = scratch;
  auto* const rounded = reinterpret_cast<std::uint16_t*>(scratch);
  scratch += row_bytes_for(p.storage, p.k, p.m, p.quantised_x);
  const std::size_t of_scales = scale_bytes(p.storage, p.k, p.m, p.quantised_x);
  auto* const scales = of_scales > 0 ? reinterpret_cast<float*>(scratch) : nullptr;
  scratch += of_scales;
  p.partial = reinterpret_cast<float*>(scratch);
  if (path == Path::kStream) p.partial = nullptr;
  scratch += partial_bytes(p.m, device.multiprocessors);
  auto* const expanded = reinterpret_cast<std::uint16_t*>(scratch);
  if (p.quantised == nullptr) p.x_scales = scales;
  p.x_scale_stride = p.m;
  if (path == Path::kQuantised) return run_quantised(p, rows, scales, expanded, device, on);
  if (p.quantised_x && path == Path::kTiles) {
    quantise_for_tiles(p, p.x, p.x_stride, p.m, rounded, scales, nullptr, device, on);
    return launch_tiles(p, device, on);
  }
  const bool is_made = p.quantised != nullptr;
  if (p.quantised_x && !is_made)
    launch_quantise(p.storage, p.x, p.x_stride, p.m, p.k, rounded, scales, nullptr, on,
                    {p.one_x_scale, p.x_scale});
  else if (!is_made)
    launch_round(p.storage, p.x, p.x_stride, p.m, p.k, rounded, scales, nullptr, on);
  p.rounded = is_made ? reinterpret_cast<const std::uint16_t*>(p.quantised) : rounded;
  p.x_stride = rounded_stride(p.storage, p.k);
  if (path == Path::kStream) return launch_stream(p, device, on);
  if (path == Path::kExpand) return run_expanded(p, expanded, device, on);
  if (path == Path::kCublas &&
      by_cublas(p, offer_of(CublasForm::kBf16, p, p.elements, p.row_bytes / 2, p.rounded, p.x_stride, p.bias),
                device, on))
    return;
  launch_tiles(p, device, on);
}

QuantisedForm::QuantisedForm(Storage format, std::int64_t rows, std::int64_t width) {
  constexpr std::int64_t kHeld = 32768;  // values of a row, by a block of 1024 threads
  floats = !of_8_bits(format) || width % 4 != 0 || width > kHeld;
  if (floats) {
    size = rows * width * static_cast<std::int64_t>(sizeof(float));
    return;
  }
  bytes = rows > kStreamRows;
  row_bytes = bytes ? PackedLayout(format, 1, width).row_bytes : 2 * rounded_stride(format, width);
  scales_at = static_cast<std::int64_t>(padded(rows * row_bytes));
  size = scales_at + scales_of_row(format, width) * rows * static_cast<std::int64_t>(sizeof(float));
}

// Of so many rows or fewer.
std::size_t CudaKernels::quantised_bytes(Storage format, std::int64_t rows, std::int64_t width) const {
  return static_cast<std::size_t>(std::max(QuantisedForm(format, rows, width).size,
                                           QuantisedForm(format, std::min(rows, kStreamRows), width).size));
}

void CudaKernels::gemm_quantised(const Matrix& w, const std::byte* x, std::int64_t m, const float* bias,
                                 bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
                                 Threads& threads) const {
  const QuantisedForm form(w.storage, m, w.k);
  if (form.floats)
    return gemm(w, reinterpret_cast<const float*>(x), w.k, m, bias, accumulate, y, y_stride, scratch,
                threads);
  Product p = product_of(w);
  p.quantised = x, p.x_scales = reinterpret_cast<const float*>(x + form.scales_at);
  p.m = m;
  p.bias = bias, p.accumulate = accumulate;
  p.y = y, p.y_stride = y_stride;
  p.warpgroups = warpgroups();
  run_product(choose_path(w.storage, m, w.n, w.k, true), p, scratch, device(), stream());
}

void CudaKernels::embed(const Matrix& w, std::span<const std::int32_t> ids, std::int64_t offset, float scale,
                        bool accumulate, float* out, std::byte*) const {
  if (ids.empty() || w.k <= 0) return;
  Product p = product_of(w);
  p.accumulate = accumulate;
  p.y = out, p.y_stride = w.k;
  const auto with = [&](auto kernel) {
    launch(kernel, {.grid = static_cast<unsigned>(ids.size()), .block = kThreads, .name = "embed_rows"},
           stream(), p, ids.data(), offset, scale);
  };
  switch (w.storage) {
    case Storage::kF32:
      return with(embed_rows<Storage::kF32>);
    case Storage::kBf16:
      return with(embed_rows<Storage::kBf16>);
    case Storage::kF16:
      return with(embed_rows<Storage::kF16>);
    case Storage::kInt8:
      return with(embed_rows<Storage::kInt8>);
    case Storage::kInt4:
      return with(embed_rows<Storage::kInt4>);
    case Storage::kFp8:
      return with(embed_rows<Storage::kFp8>);
    case Storage::kFp8Block:
      return with(embed_rows<Storage::kFp8Block>);
  }
}

std::size_t CudaKernels::gemm_scratch(const Matrix& w, std::int64_t m) const {
  return product_scratch(w.storage, w.n, w.k, m, device().multiprocessors, w.quantised_x);
}

void CudaKernels::gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m,
                       const float* bias, bool accumulate, float* y, std::int64_t y_stride,
                       std::byte* scratch, Threads&) const {
  Product p = product_of(w);
  p.x = x, p.x_stride = x_stride, p.m = m;
  p.bias = bias, p.accumulate = accumulate;
  p.y = y, p.y_stride = y_stride;
  p.warpgroups = warpgroups();
  run_product(choose_path(w.storage, m, w.n, w.k, w.quantised_x), p, scratch, device(), stream());
}

}  // namespace foretoken::cuda
