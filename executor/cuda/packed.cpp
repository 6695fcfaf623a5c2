// Packing of weight matrices on the host, and their way to the device.
#include "executor/cuda/packed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <vector>

#include "executor/cuda/cublas.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/stored_rows.h"

namespace foretoken::cuda {
namespace {

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
std::int64_t round_up(std::int64_t value, std::int64_t to) { return divide_up(value, to) * to; }

// Where the four bytes of elements i to i + 3 of 8 bits, or of i to i + 7 of 4 bits, are in a row.
std::int64_t word_of_bytes(std::int64_t i) {
  const std::int64_t eight = i % 64 / 8;
  return i / 64 * kUnitBytes + eight % 4 * 16 + eight / 4 * 8 + i % 8;
}
std::int64_t word_of_nibbles(std::int64_t i) {
  const std::int64_t eight = i % 128 / 8;
  return i / 128 * kUnitBytes + eight % 4 * 16 + eight / 4 * 4;
}

}  // namespace

PackedLayout::PackedLayout(Storage storage, std::int64_t n, std::int64_t k)
    : row_bytes(divide_up(k, unit_elements(storage)) * kUnitBytes) {
  groups = scales_of_row(storage, k);
  std::int64_t count = groups;
  if (storage == Storage::kFp8Block) {
    scale_stride = round_up(groups, 4);
    count = divide_up(n, kScaleGroup);
  } else if (groups > 0) {
    scale_stride = storage == Storage::kInt4 ? round_up(n, 4) : n;
  }
  scales_at = groups > 0 ? round_up(n * row_bytes, 256) : n * row_bytes;
  bytes = scales_at + count * scale_stride * 4;
}

namespace {

// encode(elements) writes the row's.
template <class Encode>
void pack_row(Storage storage, std::int64_t k, std::byte* to, Encode encode) {
  const std::int64_t bytes = divide_up(k, unit_elements(storage)) * kUnitBytes;
  if (element_bytes(storage) > 1) {
    encode(to);
    const std::int64_t used = k * element_bytes(storage);
    std::memset(to + used, 0, static_cast<std::size_t>(bytes - used));
    return;
  }
  std::vector<std::byte> elements(static_cast<std::size_t>(round_up(k, unit_elements(storage))));
  encode(elements.data());
  const std::byte* const from = elements.data();
  const auto size = static_cast<std::int64_t>(elements.size());
  if (storage == Storage::kInt4) {
    for (std::int64_t i = 0; i < size; i += 8) {
      const std::uint32_t word = pack_nibbles(from + i);
      std::memcpy(to + word_of_nibbles(i), &word, sizeof word);
    }
    return;
  }
  for (std::int64_t i = 0; i < size; i += 4) {
    const std::byte word[] = {from[i], from[i + 2], from[i + 1], from[i + 3]};
    std::memcpy(to + word_of_bytes(i), word, sizeof word);
  }
}

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

void pack_row(Storage storage, const float* row, std::int64_t k, std::byte* to, float* scales) {
  pack_row(storage, k, to, [&](std::byte* elements) { encode_row(storage, row, k, elements, scales); });
}

std::size_t CudaKernels::packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const {
  return static_cast<std::size_t>(PackedLayout(storage, n, k).bytes);
}

Matrix CudaKernels::pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read,
                         std::byte* memory, Threads& threads, float scale) const {
  static Staging& staging = *new Staging;
  const std::lock_guard lock(staging.mutex);
  // What takes products to it; its memory can't be allocated within a recorded step.
  if (storage == Storage::kBf16 || of_8_bits(storage)) prepare_cublas();
  const PackedLayout layout(storage, n, k);
  const RowEncoder encoder(storage, n, k, read, threads, scale);
  const bool blocks = storage == Storage::kFp8Block;
  std::vector<float> scales(static_cast<std::size_t>(layout.scales()), 1.0f);
  // A row that is longer than a buffer has one of its own.
  std::vector<std::byte> long_row;
  const auto row_bytes = static_cast<std::size_t>(layout.row_bytes);
  const std::size_t rows_at_once = row_bytes > 0 ? Staging::kBytes / row_bytes : static_cast<std::size_t>(n);
  if (rows_at_once == 0) long_row.resize(row_bytes);

  const auto pack_rows = [&](std::int64_t first, std::int64_t end, std::byte* to) {
    std::vector<float> row(static_cast<std::size_t>(k)), of_row(static_cast<std::size_t>(layout.groups));
    for (std::int64_t r = first; r < end; ++r, to += layout.row_bytes) {
      read(r, row.data());
      pack_row(storage, k, to,
               [&](std::byte* elements) { encoder.encode(r, row.data(), elements, of_row.data()); });
      if (blocks && r % kScaleGroup != 0) continue;  // another row has the block's
      for (std::int64_t g = 0; g < layout.groups; ++g)
        scales[static_cast<std::size_t>(blocks ? r / kScaleGroup * layout.scale_stride + g
                                               : g * layout.scale_stride + r)] =
            of_row[static_cast<std::size_t>(g)];
    }
  };
  std::size_t turn = 0;
  for (std::int64_t first = 0; first < n;) {
    const std::int64_t count =
        std::min<std::int64_t>(n - first, std::max<std::int64_t>(static_cast<std::int64_t>(rows_at_once), 1));
    Staging::Half& half = staging.halves[turn++ % 2];
    if (half.used) half.copied.synchronize();
    std::byte* const to = rows_at_once == 0 ? long_row.data() : half.memory.data();
    constexpr std::int64_t kShares = 4;  // for each thread, so that none waits long for the last one
    const std::int64_t share = divide_up(count, kShares * threads.count());
    threads.run(divide_up(count, share), [&](std::int64_t i) {
      pack_rows(first + i * share, first + std::min((i + 1) * share, count),
                to + i * share * layout.row_bytes);
    });
    copy(stream(), memory + first * layout.row_bytes, to, static_cast<std::size_t>(count * layout.row_bytes));
    half.copied.record(stream());
    half.used = true;
    if (rows_at_once == 0) stream().synchronize();
    first += count;
  }
  copy(stream(), memory + layout.scales_at, scales.data(), scales.size() * sizeof(float));
  stream().synchronize();
  return {.storage = storage, .n = n, .k = k, .packed = memory, .one_scale = scale > 0};
}

}  // namespace foretoken::cuda
