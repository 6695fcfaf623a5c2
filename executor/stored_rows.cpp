#include "executor/stored_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "executor/storage.h"
#include "executor/vector_clones.h"

namespace foretoken {
namespace {

// The largest magnitude; kept for each of some lanes apart, so that the loop becomes vectors. A NaN counts
// for nothing.
FORETOKEN_VECTOR_CLONES float largest_of(const float* values, std::int64_t count) {
  constexpr std::int64_t kLanes = 16;
  float largest[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const float magnitude = std::fabs(values[i + lane]);
      largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
    }
  for (; i < count; ++i) largest[0] = std::max(largest[0], std::fabs(values[i]));
  return *std::max_element(largest, largest + kLanes);
}

FORETOKEN_VECTOR_CLONES void encode_bf16(const float* __restrict row, std::int64_t count,
                                         std::uint16_t* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_bf16(row[i]);
}
FORETOKEN_VECTOR_CLONES void encode_f16(const float* __restrict row, std::int64_t count,
                                        std::uint16_t* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_f16(row[i]);
}
FORETOKEN_VECTOR_CLONES void quantise_fp8(const float* __restrict row, std::int64_t count, float scale,
                                          float* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = fp8_to_float(float_to_fp8(row[i] / scale));
}
FORETOKEN_VECTOR_CLONES void encode_fp8(const float* __restrict row, std::int64_t count, float scale,
                                        std::uint8_t* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_fp8(row[i] / scale);
}
// The nearest whole number of magnitude `limit` at most, ties to even, beside kWhole: a number of that size
// has no places after the point left.
inline constexpr float kWhole = 0x1.8p23f;
inline float beside_whole(float scaled, float limit) {
  const float above = scaled < -limit ? -limit : scaled;
  return (above > limit ? limit : above) + kWhole;
}
FORETOKEN_VECTOR_CLONES void encode_integers(const float* __restrict row, std::int64_t count, float scale,
                                             float limit, std::uint8_t* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(beside_whole(row[i] / scale, limit)));
}
FORETOKEN_VECTOR_CLONES void quantise_integers(const float* __restrict row, std::int64_t count, float scale,
                                               float limit, float* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = beside_whole(row[i] / scale, limit) - kWhole;
}

float limit_of(Storage storage) {
  return is_fp8(storage) ? kFp8Largest : storage == Storage::kInt8 ? 127.0f : 7.0f;
}
float scale_from(float largest, float limit) { return largest > 0 ? largest / limit : 1.0f; }

// visit(first, count) for every part of a row that has a scale.
template <class Visit>
void for_groups(Storage storage, std::int64_t count, Visit visit) {
  const std::int64_t group = scale_group(storage, count);
  for (std::int64_t first = 0; first < count; first += group) visit(first, std::min(group, count - first));
}

void encode_part(Storage storage, const float* part, std::int64_t count, float scale, std::byte* elements) {
  auto* const to = reinterpret_cast<std::uint8_t*>(elements);
  if (is_fp8(storage))
    encode_fp8(part, count, scale, to);
  else
    encode_integers(part, count, scale, limit_of(storage), to);
}

}  // namespace

void encode_row(Storage storage, const float* row, std::int64_t count, std::byte* elements, float* scales) {
  switch (storage) {
    case Storage::kF32:
      std::memcpy(elements, row, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case Storage::kBf16:
      return encode_bf16(row, count, reinterpret_cast<std::uint16_t*>(elements));
    case Storage::kF16:
      return encode_f16(row, count, reinterpret_cast<std::uint16_t*>(elements));
    default:
      break;
  }
  for_groups(storage, count, [&](std::int64_t first, std::int64_t part) {
    *scales = scale_from(largest_of(row + first, part), limit_of(storage));
    encode_part(storage, row + first, part, *scales++, elements + first);
  });
}

RowEncoder::RowEncoder(Storage storage, std::int64_t n, std::int64_t k, const Kernels::ReadRow& read,
                       Threads& threads, float scale)
    : storage_(storage), k_(k), groups_(scales_of_row(storage, k)), scale_(scale) {
  if (storage != Storage::kFp8Block) return;
  const std::int64_t blocks = (n + kScaleGroup - 1) / kScaleGroup;
  of_blocks_.assign(static_cast<std::size_t>(blocks * groups_), 0.0f);
  threads.run(blocks, [&](std::int64_t block) {
    float* const scales = of_blocks_.data() + block * groups_;
    std::vector<float> row(static_cast<std::size_t>(k));
    for (std::int64_t r = block * kScaleGroup; r < std::min(n, (block + 1) * kScaleGroup); ++r) {
      read(r, row.data());
      float* to = scales;
      for_groups(storage, k, [&](std::int64_t first, std::int64_t part) {
        *to = std::max(*to, largest_of(row.data() + first, part));
        ++to;
      });
    }
    for (std::int64_t g = 0; g < groups_; ++g) scales[g] = scale_from(scales[g], kFp8Largest);
  });
}

void RowEncoder::encode(std::int64_t row, const float* values, std::byte* elements, float* scales) const {
  if (storage_ == Storage::kFp8 && scale_ > 0) {
    *scales = scale_;
    return encode_part(storage_, values, k_, scale_, elements);
  }
  if (storage_ != Storage::kFp8Block) return encode_row(storage_, values, k_, elements, scales);
  const float* of_block = of_blocks_.data() + row / kScaleGroup * groups_;
  for_groups(storage_, k_, [&](std::int64_t first, std::int64_t part) {
    encode_part(storage_, values + first, part, *of_block, elements + first);
    *scales++ = *of_block++;
  });
}

float scale_of_x(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t rows) {
  if (!w.one_x_scale || w.x_scale > 0) return w.x_scale;
  float largest = 0;
  for (std::int64_t r = 0; r < rows; ++r) largest = std::max(largest, largest_of(x + r * x_stride, w.k));
  return scale_from(largest, kFp8Largest);
}

float one_fp8_scale(std::int64_t n, std::int64_t k, const Kernels::ReadRow& read, Threads& threads) {
  std::vector<float> of_rows(static_cast<std::size_t>(n));
  threads.run(n, [&](std::int64_t r) {
    std::vector<float> row(static_cast<std::size_t>(k));
    read(r, row.data());
    of_rows[static_cast<std::size_t>(r)] = largest_of(row.data(), k);
  });
  return scale_from(largest_of(of_rows.data(), n), kFp8Largest);
}

void quantise_row(Storage storage, const float* row, std::int64_t count, float* to, float* scales,
                  float scale) {
  if (storage == Storage::kFp8 && scale > 0) {
    *scales = scale;
    return quantise_fp8(row, count, scale, to);
  }
  for_groups(storage, count, [&](std::int64_t first, std::int64_t part) {
    const float limit = limit_of(storage), own = scale_from(largest_of(row + first, part), limit);
    if (is_fp8(storage))
      quantise_fp8(row + first, part, own, to + first);
    else
      quantise_integers(row + first, part, own, limit, to + first);
    *scales++ = own;
  });
}

std::uint32_t pack_nibbles(const std::byte* eight) {
  std::uint32_t packed = 0;
  for (int i = 0; i < 8; ++i)
    packed |= (static_cast<std::uint32_t>(eight[i]) & 15u) << (i % 2 * 16 + i / 2 * 4);
  return packed;
}

float stored_value(Storage storage, const std::byte* at) {
  const auto get = [&](auto element) {
    std::memcpy(&element, at, sizeof element);
    return element;
  };
  switch (storage) {
    case Storage::kF32:
      return get(0.0f);
    case Storage::kBf16:
      return bf16_to_float(get(std::uint16_t{}));
    case Storage::kF16:
      return f16_to_float(get(std::uint16_t{}));
    case Storage::kFp8:
    case Storage::kFp8Block:
      return fp8_to_float(get(std::uint8_t{}));
    default:
      return static_cast<float>(get(std::int8_t{}));
  }
}

}  // namespace foretoken
