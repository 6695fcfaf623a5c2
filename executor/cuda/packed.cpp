// Packing of weight matrices on the host, and their way to the device.
#include "executor/cuda/packed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <vector>

#include "executor/cuda/cublas.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/kernels_shared.h"
#include "executor/storage.h"

namespace foretoken::cuda {
namespace {

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
std::int64_t round_up(std::int64_t value, std::int64_t to) { return divide_up(value, to) * to; }

// Byte of an 8-bit element, and byte and shift of a 4-bit one.
std::int64_t byte_of(std::int64_t i) {
  static constexpr std::int64_t kOrder[] = {0, 2, 1, 3};
  const std::int64_t eight = i % 64 / 8;
  return i / 64 * kUnitBytes + eight % 4 * 16 + eight / 4 * 8 + i % 8 / 4 * 4 + kOrder[i % 4];
}
std::int64_t nibble_byte_of(std::int64_t i) {
  const std::int64_t eight = i % 128 / 8;
  return i / 128 * kUnitBytes + eight % 4 * 16 + eight / 4 * 4 + i % 2 * 2 + i % 8 / 4;
}

}  // namespace

PackedLayout::PackedLayout(Storage storage, std::int64_t n, std::int64_t k)
    : row_bytes(divide_up(k, unit_elements(storage)) * kUnitBytes) {
  if (storage == Storage::kInt4) {
    groups = divide_up(k, kInt4Group);
    scale_stride = round_up(n, 4);
  } else if (storage == Storage::kInt8 || storage == Storage::kFp8) {
    groups = 1;
    scale_stride = n;
  }
  scales_at = groups > 0 ? round_up(n * row_bytes, 256) : n * row_bytes;
  bytes = scales_at + groups * scale_stride * 4;
}

void pack_row(Storage storage, const float* row, std::int64_t k, std::byte* to, float* scales) {
  const std::int64_t bytes = divide_up(k, unit_elements(storage)) * kUnitBytes;
  const auto fill = [&](auto element) {
    const auto width = static_cast<std::int64_t>(sizeof(element(0.0f)));
    for (std::int64_t i = 0; i < k; ++i) {
      const auto value = element(row[i]);
      std::memcpy(to + i * width, &value, sizeof value);
    }
    std::memset(to + k * width, 0, static_cast<std::size_t>(bytes - k * width));
  };
  switch (storage) {
    case Storage::kF32:
      return fill([](float value) { return value; });
    case Storage::kBf16:
      return fill(float_to_bf16);
    case Storage::kF16:
      return fill(float_to_f16);
    default:
      break;
  }
  std::memset(to, 0, static_cast<std::size_t>(bytes));
  if (storage == Storage::kInt4) {
    for (std::int64_t i = 0; i < k; ++i) {
      if (i % kInt4Group == 0)
        scales[i / kInt4Group] = scale_of(storage, row + i, std::min(kInt4Group, k - i));
      const int number = to_integer(row[i] / scales[i / kInt4Group], 7) & 15;
      to[nibble_byte_of(i)] |= static_cast<std::byte>(number << (i % 4 / 2 * 4));
    }
    return;
  }
  const float scale = scales[0] = scale_of(storage, row, k);
  for (std::int64_t i = 0; i < k; ++i)
    to[byte_of(i)] = storage == Storage::kFp8 ? static_cast<std::byte>(float_to_fp8(row[i] / scale))
                                              : static_cast<std::byte>(to_integer(row[i] / scale, 127));
}

namespace {

// Two buffers of the host: one is filled while the other is copied. Kept for the process's life: there are
// thousands of matrices, and pinning memory takes longer than packing a small one. Never released: the
// driver may be gone by then.
struct Staging {
  static constexpr std::size_t kBytes = std::size_t{4} << 20;
  struct Half {
    PinnedMemory memory{kBytes};
    Event copied;
    bool used = false;
  };
  std::mutex mutex;
  std::array<Half, 2> halves;
};

}  // namespace

std::size_t CudaKernels::packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const {
  return static_cast<std::size_t>(PackedLayout(storage, n, k).bytes);
}

Matrix CudaKernels::pack(Storage storage, std::int64_t n, std::int64_t k,
                         const std::function<void(std::int64_t row, float* out)>& read,
                         std::byte* memory) const {
  static Staging& staging = *new Staging;
  const std::lock_guard lock(staging.mutex);
  // What takes products to it; its memory can't be allocated within a recorded step.
  if (storage == Storage::kBf16 || storage == Storage::kInt8 || storage == Storage::kFp8) prepare_cublas();
  const PackedLayout layout(storage, n, k);
  std::vector<float> row(static_cast<std::size_t>(k)), scales(static_cast<std::size_t>(layout.groups)),
      all(static_cast<std::size_t>(layout.groups * layout.scale_stride), 1.0f);
  // A row that is longer than a buffer has one of its own.
  std::vector<std::byte> long_row;
  const auto row_bytes = static_cast<std::size_t>(layout.row_bytes);
  const std::size_t rows_at_once = row_bytes > 0 ? Staging::kBytes / row_bytes : static_cast<std::size_t>(n);
  if (rows_at_once == 0) long_row.resize(row_bytes);

  std::size_t turn = 0;
  for (std::int64_t first = 0; first < n;) {
    const std::int64_t count =
        std::min<std::int64_t>(n - first, std::max<std::int64_t>(static_cast<std::int64_t>(rows_at_once), 1));
    Staging::Half& half = staging.halves[turn++ % 2];
    if (half.used) half.copied.synchronize();
    std::byte* const to = rows_at_once == 0 ? long_row.data() : half.memory.data();
    for (std::int64_t r = 0; r < count; ++r) {
      read(first + r, row.data());
      pack_row(storage, row.data(), k, to + r * layout.row_bytes, scales.data());
      for (std::int64_t g = 0; g < layout.groups; ++g)
        all[static_cast<std::size_t>(g * layout.scale_stride + first + r)] =
            scales[static_cast<std::size_t>(g)];
    }
    copy(stream(), memory + first * layout.row_bytes, to, static_cast<std::size_t>(count * layout.row_bytes));
    half.copied.record(stream());
    half.used = true;
    if (rows_at_once == 0) stream().synchronize();
    first += count;
  }
  copy(stream(), memory + layout.scales_at, all.data(), all.size() * sizeof(float));
  stream().synchronize();
  return {storage, n, k, memory};
}

}  // namespace foretoken::cuda
