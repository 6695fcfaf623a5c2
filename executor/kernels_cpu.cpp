// The processor's own kernels: packing, splitting of outputs over threads, and the choice of the loops that
// this processor runs. Compiled for any processor; kernels_simd.h is the border.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "executor/kernels_shared.h"
#include "executor/kernels_simd.h"
#include "executor/storage.h"

namespace foretoken {

namespace {

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

struct Layout {
  std::int64_t tiles, groups, scale_bytes, tile_bytes;  // groups: scales an output

  Layout(Storage storage, std::int64_t n, std::int64_t k) : tiles((n + kTile - 1) / kTile) {
    groups = scales_of_row(storage, k);
    scale_bytes = tiles * groups * kTile * 4;
    switch (storage) {
      case Storage::kF32:
        tile_bytes = k * kTile * 4;
        break;
      case Storage::kBf16:
      case Storage::kF16:
        tile_bytes = round_up(k, 2) * kTile * 2;
        break;
      case Storage::kInt4:
        tile_bytes = round_up(k, 8) * kTile / 2;
        break;
      default:
        tile_bytes = round_up(k, 4) * kTile;
    }
  }
};

// Which byte of a tile of kInt4 holds element i of an output: see kernels_simd.h.
std::int64_t nibble_byte(std::int64_t i, std::int64_t lane) {
  return ((i / 8 * kTile + lane) * 2 + i % 2) * 2 + i % 8 / 4;
}

// An output's elements to their places in its tile: two share a word, or eight of kInt4.
template <class Word>
void place_words(const std::byte* words, std::int64_t count, std::int64_t lane, std::byte* tile) {
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(tile + (i * kTile + lane) * static_cast<std::int64_t>(sizeof(Word)),
                words + i * static_cast<std::int64_t>(sizeof(Word)), sizeof(Word));
}
void place_lane(Storage storage, std::byte* elements, std::int64_t k, std::int64_t lane, std::byte* tile) {
  switch (storage) {
    case Storage::kF32:
      return place_words<std::uint32_t>(elements, k, lane, tile);
    case Storage::kBf16:
    case Storage::kF16:
      return place_words<std::uint32_t>(elements, (k + 1) / 2, lane, tile);
    case Storage::kInt4: {
      const std::int64_t words = (k + 7) / 8;
      for (std::int64_t i = 0; i < words; ++i) {
        const std::uint32_t word = pack_nibbles(elements + 8 * i);
        std::memcpy(elements + 4 * i, &word, sizeof word);
      }
      return place_words<std::uint32_t>(elements, words, lane, tile);
    }
    default:
      return place_words<std::uint16_t>(elements, (k + 1) / 2, lane, tile);
  }
}

class CpuKernels final : public SharedKernels {
 public:
  explicit CpuKernels(const SimdOps& ops) : ops_(ops) {}
  const char* name() const override { return ops_.name; }

  std::size_t packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const override {
    const Layout layout(storage, n, k);
    return static_cast<std::size_t>(layout.scale_bytes + layout.tiles * layout.tile_bytes);
  }

  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read, std::byte* memory,
              Threads& threads, float scale) const override {
    const Layout layout(storage, n, k);
    const RowEncoder encoder(storage, n, k, read, threads, scale);
    threads.run(layout.tiles, [&](std::int64_t t) {
      std::byte* const tile = memory + layout.scale_bytes + t * layout.tile_bytes;
      auto* const scales = reinterpret_cast<float*>(memory) + t * layout.groups * kTile;
      std::memset(tile, 0, static_cast<std::size_t>(layout.tile_bytes));
      std::fill_n(scales, layout.groups * kTile, 0.0f);
      std::vector<float> row(static_cast<std::size_t>(k)), of_row(static_cast<std::size_t>(layout.groups));
      // Padded with zeros to whole words of a tile.
      const std::int64_t bytes = k * element_bytes(storage);
      std::vector<std::byte> elements(static_cast<std::size_t>(round_up(k, 8) * element_bytes(storage)));
      for (std::int64_t lane = 0; lane < std::min(kTile, n - t * kTile); ++lane) {
        read(t * kTile + lane, row.data());
        encoder.encode(t * kTile + lane, row.data(), elements.data(), of_row.data());
        std::fill(elements.begin() + bytes, elements.end(), std::byte{0});
        for (std::int64_t g = 0; g < layout.groups; ++g)
          scales[g * kTile + lane] = of_row[static_cast<std::size_t>(g)];
        place_lane(storage, elements.data(), k, lane, tile);
      }
    });
    return {.storage = storage, .n = n, .k = k, .packed = memory, .one_scale = scale > 0};
  }

  void unpack_row(const Matrix& w, std::int64_t row, float* out) const override {
    const Layout layout(w.storage, w.n, w.k);
    const std::byte* tile = w.packed + layout.scale_bytes + row / kTile * layout.tile_bytes;
    const std::int64_t lane = row % kTile;
    for (std::int64_t i = 0; i < w.k; ++i) {
      float scale = 1;
      if (layout.groups) {
        const std::int64_t group = i / scale_group(w.storage, w.k);
        std::memcpy(&scale, w.packed + ((row / kTile * layout.groups + group) * kTile + lane) * 4, 4);
      }
      const std::int64_t at = (i / 2 * kTile + lane) * 2 + i % 2;
      const auto get = [&](std::int64_t index, auto element) {
        std::memcpy(&element, tile + index * static_cast<std::int64_t>(sizeof element), sizeof element);
        return element;
      };
      switch (w.storage) {
        case Storage::kF32:
          out[i] = get(i * kTile + lane, 0.0f);
          break;
        case Storage::kBf16:
          out[i] = bf16_to_float(get(at, std::uint16_t{}));
          break;
        case Storage::kF16:
          out[i] = f16_to_float(get(at, std::uint16_t{}));
          break;
        case Storage::kFp8:
        case Storage::kFp8Block:
          out[i] = fp8_to_float(get(at, std::uint8_t{})) * scale;
          break;
        case Storage::kInt8:
          out[i] = static_cast<float>(get(at, std::int8_t{})) * scale;
          break;
        case Storage::kInt4: {
          const int nibble = static_cast<int>(tile[nibble_byte(i, lane)] >> (i / 2 % 2 * 4)) & 15;
          out[i] = static_cast<float>(nibble < 8 ? nibble : nibble - 16) * scale;
        }
      }
    }
  }

  // Rounded rows; and where they are quantised before, these rows as floats and their scales.
  std::size_t gemm_scratch(const Matrix& w, std::int64_t m) const override {
    if (exact(w)) return 0;
    const std::int64_t quantised = w.quantised_x ? w.k + scales_of_row(w.storage, w.k) : 0;
    return static_cast<std::size_t>(m * (ops_.rounded_stride(w.k) + quantised) * 4);
  }

  void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
            bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
            Threads& threads) const override {
    if (m <= 0) return;
    const Layout layout(w.storage, w.n, w.k);
    const void* rounded = x;
    std::int64_t stride = x_stride;
    float* x_scales = nullptr;
    if (!exact(w)) {
      stride = ops_.rounded_stride(w.k);
      constexpr std::int64_t kShare = 16;
      auto* const quantised = reinterpret_cast<float*>(scratch) + m * stride;
      if (w.quantised_x) x_scales = quantised + m * w.k;
      const float one_scale = w.quantised_x ? scale_of_x(w, x, x_stride, m) : 0;
      threads.run((m + kShare - 1) / kShare, [&](std::int64_t i) {
        const std::int64_t first = i * kShare, rows = std::min(kShare, m - first);
        const float* from = x + first * x_stride;
        if (w.quantised_x) {
          for (std::int64_t r = first; r < first + rows; ++r)
            quantise_row(w.storage, x + r * x_stride, w.k, quantised + r * w.k, x_scales + r * layout.groups,
                         one_scale);
          from = quantised + first * w.k;
        }
        ops_.round_rows(from, w.quantised_x ? w.k : x_stride, rows, w.k, scratch + first * stride * 4);
      });
      rounded = scratch;
    }
    const std::int64_t panels = (w.n + kPanel - 1) / kPanel, blocks = (m + kRowBlock - 1) / kRowBlock;
    // Rows are split only where the outputs alone would leave threads idle.
    const std::int64_t splits =
        panels >= 4 * threads.count() ? 1 : std::min<std::int64_t>(blocks, threads.count());
    const std::int64_t share = (blocks + splits - 1) / splits * kRowBlock;
    threads.run(panels * splits, [&](std::int64_t task) {
      const std::int64_t n = task / splits * kPanel, first = task % splits * share;
      if (first >= m) return;
      GemmTask t;
      t.storage = w.storage;
      t.columns = std::min(kPanel, w.n - n);
      t.tiles = (t.columns + kTile - 1) / kTile;
      t.k = w.k;
      t.tile_bytes = layout.tile_bytes;
      t.elements = w.packed + layout.scale_bytes + n / kTile * layout.tile_bytes;
      t.scales = reinterpret_cast<const float*>(w.packed) + n * layout.groups;
      t.x_scales = x_scales == nullptr ? nullptr : x_scales + first * layout.groups;
      t.x = static_cast<const float*>(rounded) + first * stride;
      t.x_stride = stride;
      t.rows = std::min(share, m - first);
      t.bias = bias ? bias + n : nullptr;
      t.accumulate = accumulate;
      t.y = y + first * y_stride + n;
      t.y_stride = y_stride;
      ops_.gemm(t);
    });
  }

  double log_sum_exp(const float* x, std::int64_t count) const override {
    float top, sum;
    ops_.exponentials(x, count, &top, &sum);
    return std::isinf(top) ? double{top} : double{top} + std::log(double{sum});
  }

  void norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
            std::int64_t width, float* y, std::int64_t y_stride) const override {
    ops_.norm(args, x, x_stride, rows, width, y, y_stride);
  }

  void activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                  float* y) const override {
    if (args.kind == Activation::kGelu)
      plain_activation(args, x, rows, width, y);
    else
      ops_.activation(args, x, rows, width, y);
  }

  std::size_t attention_scratch(const AttentionArgs& args, const CacheLayer&, std::int64_t, std::int64_t,
                                int threads) const override {
    return static_cast<std::size_t>(round_up(attend_floats(args.qk_dim, args.v_dim), 16) * 4 * threads);
  }

  void attention(const AttentionArgs& args, const CacheLayer& cache, const Sequences& of, const float* q,
                 std::int64_t q_stride, float* out, std::int64_t out_stride, std::byte* scratch,
                 Threads& threads) const override {
    const std::span<const SequenceRows> sequences = of.host;
    const std::int64_t group = args.heads / cache.heads,
                       floats = round_up(attend_floats(args.qk_dim, args.v_dim), 16);
    // How a sequence is cut: by rows and heads that share a key, or, where those are few, by cache heads, as
    // many in a task as leave a task for every thread: they lie side by side in memory.
    struct Cut {
      std::int64_t heads, parts, rows, cache_heads;
      std::int64_t tasks(const SequenceRows& s, std::int64_t all) const {
        return (s.new_tokens + rows - 1) / rows * ((all + cache_heads - 1) / cache_heads) * parts;
      }
    };
    const auto count = static_cast<std::int64_t>(sequences.size());
    const auto cut_of = [&](const SequenceRows& s) -> Cut {
      const std::int64_t each = s.new_tokens * group;
      if (each > 0 && each <= kFew) {
        const std::int64_t pieces = threads.count() == 1 ? 1 : (4 * threads.count() + count - 1) / count;
        return {group, 1, s.new_tokens,
                std::clamp<std::int64_t>((cache.heads + pieces - 1) / pieces, 1, kQueries / each)};
      }
      const std::int64_t heads = std::min(group, kQueries);
      return {heads, (group + heads - 1) / heads, kQueries / heads, 1};
    };
    std::int64_t tasks = 0;
    for (const auto& s : sequences) tasks += cut_of(s).tasks(s, cache.heads);
    // As many workers as scratches; each takes the next task.
    const std::int64_t workers = std::min<std::int64_t>(threads.count(), tasks);
    std::atomic<std::int64_t> next{0};
    threads.run(workers, [&](std::int64_t worker) {
      for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        std::int64_t left = task;
        for (const auto& s : sequences) {
          const Cut cut = cut_of(s);
          const std::int64_t here = cut.tasks(s, cache.heads),
                             across = (cache.heads + cut.cache_heads - 1) / cut.cache_heads;
          if (left >= here) {
            left -= here;
            continue;
          }
          AttendTask t;
          t.args = &args;
          t.cache = &cache;
          t.sequence = &s;
          t.cache_head = left / cut.parts % across * cut.cache_heads;
          t.cache_heads = std::min(cut.cache_heads, cache.heads - t.cache_head);
          t.first_row = left / cut.parts / across * cut.rows;
          t.rows = std::min(cut.rows, s.new_tokens - t.first_row);
          t.first_head = t.cache_head * group + left % cut.parts * cut.heads;
          t.heads = std::min(cut.heads, group - left % cut.parts * cut.heads);
          t.q = q;
          t.q_stride = q_stride;
          t.out = out;
          t.out_stride = out_stride;
          t.scratch = reinterpret_cast<float*>(scratch) + worker * floats;
          ops_.attend(t);
          break;
        }
      }
    });
  }

 private:
  static bool exact(const Matrix& w) { return w.storage == Storage::kF32 || w.storage == Storage::kF16; }
  const SimdOps& ops_;
};

}  // namespace

const Kernels* cpu_kernels(const char* isa) {
  const std::string_view wanted = isa;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if ((wanted.empty() || wanted == "avx512-bf16") && avx512 && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("avx512vbmi")) {
    static const CpuKernels kernels(kAvx512Bf16Ops);
    return &kernels;
  }
  if ((wanted.empty() || wanted == "avx512") && avx512) {
    static const CpuKernels kernels(kAvx512Ops);
    return &kernels;
  }
  if ((wanted.empty() || wanted == "avx2") && avx2) {
    static const CpuKernels kernels(kAvx2Ops);
    return &kernels;
  }
#endif
  if (wanted.empty() || wanted == "scalar") {
    static const CpuKernels kernels(kScalarOps);
    return &kernels;
  }
  return nullptr;
}

}  // namespace foretoken
