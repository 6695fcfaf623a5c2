// The processor's set: packed panels of 16 columns, products and attention in vectors by the instruction set
// that the processor has. What needs no speed is the reference's.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "executor/kernels_isa.h"
#include "executor/kernels_reference.h"
#include "executor/storage.h"

namespace foretoken {
namespace {

constexpr std::int64_t kMostRows = 12;  // of one call of IsaTable::product

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

std::size_t panel_bytes(Storage s, std::int64_t k) {
  const auto steps = static_cast<std::size_t>(k);
  switch (s) {
    case Storage::kF32:
      return steps * 64;
    case Storage::kBf16:
      return (steps + 1) / 2 * 64;
    case Storage::kF16:
      return steps * 32;
    case Storage::kInt4:
      return (steps + 1) / 2 * 16;
    default:
      return steps * 16;
  }
}

std::int64_t groups_of(Storage s, std::int64_t k) {
  if (s == Storage::kInt8 || s == Storage::kFp8) return 1;
  return s == Storage::kInt4 ? (k + kInt4Group - 1) / kInt4Group : 0;
}

std::size_t scales_at(Storage s, std::int64_t n, std::int64_t k) {
  return static_cast<std::size_t>(round_up(n, kPanel) / kPanel) * ((panel_bytes(s, k) + 63) / 64 * 64);
}

class CpuKernels final : public ReferenceKernels {
 public:
  explicit CpuKernels(const IsaTable* isa) : isa_(isa) {}
  const char* name() const override { return isa_->name; }

  std::size_t packed_bytes(Storage s, std::int64_t n, std::int64_t k) const override {
    return scales_at(s, n, k) +
           static_cast<std::size_t>(round_up(n, kPanel) * groups_of(s, k)) * sizeof(float);
  }

  Matrix pack(Storage s, std::int64_t n, std::int64_t k,
              const std::function<void(std::int64_t, float*)>& read, std::byte* memory) const override {
    const std::size_t each = (panel_bytes(s, k) + 63) / 64 * 64;
    const std::int64_t groups = groups_of(s, k);
    auto* scales = reinterpret_cast<float*>(memory + scales_at(s, n, k));
    std::vector<float> rows(static_cast<std::size_t>(kPanel * k));
    for (std::int64_t p = 0; p * kPanel < n; ++p) {
      std::fill(rows.begin(), rows.end(), 0.0f);
      for (std::int64_t c = 0; c < std::min(kPanel, n - p * kPanel); ++c)
        read(p * kPanel + c, rows.data() + c * k);
      pack_panel(s, k, rows.data(), memory + static_cast<std::size_t>(p) * each,
                 scales + p * groups * kPanel);
    }
    return {s, n, k, memory};
  }

  void unpack_row(const Matrix& w, std::int64_t row, float* out) const override {
    const std::size_t each = (panel_bytes(w.storage, w.k) + 63) / 64 * 64;
    const std::byte* panel = w.packed + static_cast<std::size_t>(row / kPanel) * each;
    const std::int64_t c = row % kPanel, groups = groups_of(w.storage, w.k);
    const auto* scales = reinterpret_cast<const float*>(w.packed + scales_at(w.storage, w.n, w.k)) +
                         row / kPanel * groups * kPanel + c;
    for (std::int64_t k = 0; k < w.k; ++k) {
      const auto halves = reinterpret_cast<const std::uint16_t*>(panel);
      const auto octets = reinterpret_cast<const std::uint8_t*>(panel);
      switch (w.storage) {
        case Storage::kF32:
          out[k] = reinterpret_cast<const float*>(panel)[k * kPanel + c];
          break;
        case Storage::kBf16:
          out[k] = from_bf16(halves[k / 2 * 32 + c * 2 + k % 2]);
          break;
        case Storage::kF16:
          out[k] = from_f16(halves[k * kPanel + c]);
          break;
        case Storage::kInt8:
          out[k] = *scales * static_cast<float>(static_cast<std::int8_t>(octets[k * kPanel + c]));
          break;
        case Storage::kInt4:
          out[k] = scales[k / kInt4Group * kPanel] *
                   static_cast<float>((octets[k / 2 * kPanel + c] >> (k % 2 ? 4 : 0) & 15) - 8);
          break;
        case Storage::kFp8:
          out[k] = *scales * from_fp8(octets[k * kPanel + c]);
      }
    }
  }

  std::size_t gemm_scratch(const Matrix& w, std::int64_t m) const override {
    if (w.storage != Storage::kBf16) return 64;
    return static_cast<std::size_t>(m * round_up(w.k, 2)) * (isa_->bf16_pairs ? 2 : 4);
  }

  void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
            bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
            Threads& threads) const override {
    PanelProduct p;
    p.storage = static_cast<int>(w.storage);
    p.panel_bytes = (panel_bytes(w.storage, w.k) + 63) / 64 * 64;
    p.groups = groups_of(w.storage, w.k), p.group_k = kInt4Group;
    p.k = w.k;
    p.y_stride = y_stride;
    p.accumulate = accumulate;
    std::size_t x_bytes = sizeof(float);
    const auto* rows = reinterpret_cast<const std::byte*>(x);
    p.x_stride = x_stride;
    if (w.storage == Storage::kBf16) {
      const bool pairs = isa_->bf16_pairs;
      p.x_stride = pairs ? (w.k + 1) / 2 : w.k;
      for (std::int64_t i = 0; i < m; ++i) {
        if (pairs)
          isa_->round_pairs(x + i * x_stride, w.k,
                            reinterpret_cast<std::uint32_t*>(scratch) + i * p.x_stride);
        else
          isa_->round_floats(x + i * x_stride, w.k, reinterpret_cast<float*>(scratch) + i * p.x_stride);
      }
      rows = scratch;
    }
    const auto* scales = reinterpret_cast<const float*>(w.packed + scales_at(w.storage, w.n, w.k));
    // Panels of a few columns stay in cache while all rows pass.
    const std::int64_t columns = m < 4 ? 8 * kPanel : 2 * kPanel, chunks = (w.n + columns - 1) / columns;
    threads.run(chunks, [&](std::int64_t chunk) {
      PanelProduct own = p;
      const std::int64_t first = chunk * columns, panel = first / kPanel;
      own.columns = std::min(columns, w.n - first);
      own.w = w.packed + static_cast<std::size_t>(panel) * p.panel_bytes;
      own.scales = scales + panel * p.groups * kPanel;
      own.bias = bias ? bias + first : nullptr;
      for (std::int64_t i = 0; i < m;) {
        const std::int64_t left = m - i, n = left >= kMostRows ? kMostRows
                                             : left >= 8       ? 8
                                             : left >= 4       ? 4
                                             : left >= 2       ? 2
                                                               : 1;
        own.x = rows + static_cast<std::size_t>(i * p.x_stride) * x_bytes;
        own.y = y + i * y_stride + first;
        isa_->product(own, n);
        i += n;
      }
    });
  }

  void norm(const NormArgs& a, const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t width,
            float* y, std::int64_t y_stride) const override {
    if (a.kind != NormKind::kRms || a.bias)
      return ReferenceKernels::norm(a, x, x_stride, rows, width, y, y_stride);
    for (std::int64_t r = 0; r < rows; ++r)
      isa_->rms_norm(x + r * x_stride, width, a.epsilon, a.weight, a.offset, y + r * y_stride);
  }

  void add(const float* x, std::int64_t values, float* y) const override { isa_->add(x, values, y); }

  void activation(const ActivationArgs& a, const float* x, std::int64_t rows, std::int64_t width,
                  float* y) const override {
    if (a.kind != Activation::kSilu) return ReferenceKernels::activation(a, x, rows, width, y);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* gate = x + r * width * (a.gated ? 2 : 1);
      isa_->silu_gate(gate, a.gated ? gate + width : nullptr, width, y + r * width);
    }
  }

  void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens, float* keys,
                  float* values) const override {
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        load_entry(cache, false, blocks, t, h, cache.k_dim, keys + (t * cache.heads + h) * cache.k_dim);
        if (cache.v_dim > 0 && values)
          load_entry(cache, true, blocks, t, h, cache.v_dim, values + (t * cache.heads + h) * cache.v_dim);
      }
  }

  std::size_t attention_scratch(const AttentionArgs& a, const CacheLayer& cache, std::int64_t, std::int64_t,
                                int threads) const override {
    return static_cast<std::size_t>(threads) * worker_floats(a, cache) * sizeof(float);
  }

  void attention(const AttentionArgs& a, const CacheLayer& cache, std::span<const SequenceRows> sequences,
                 const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                 std::byte* scratch, Threads& threads) const override {
    const std::int64_t block = rows_at_once(a, cache), workers = threads.count();
    // Work is dealt out by (sequence, block of rows, KV head), one after the other to each worker.
    threads.run(workers, [&](std::int64_t worker) {
      float* own =
          reinterpret_cast<float*>(scratch) + worker * static_cast<std::int64_t>(worker_floats(a, cache));
      std::int64_t item = 0;
      for (const SequenceRows& s : sequences)
        for (std::int64_t row = 0; row < s.new_tokens; row += block)
          for (std::int64_t head = 0; head < cache.heads; ++head)
            if (item++ % workers == worker)
              attend_block(a, cache, s, row, std::min(block, s.new_tokens - row), head, q, q_stride, out,
                           out_stride, own);
    });
  }

 private:
  static void pack_panel(Storage s, std::int64_t k, const float* rows, std::byte* to, float* scales) {
    std::memset(to, 0, panel_bytes(s, k));
    const std::int64_t groups = groups_of(s, k), group = s == Storage::kInt4 ? kInt4Group : k;
    for (std::int64_t c = 0; c < kPanel; ++c) {
      const float* row = rows + c * k;
      float scale = 1;
      for (std::int64_t i = 0; i < k; ++i) {
        if (groups > 0 && i % group == 0) {
          float largest = 0;
          for (std::int64_t j = i; j < std::min(k, i + group); ++j)
            largest = std::max(largest, std::fabs(row[j]));
          const float range = s == Storage::kInt4 ? 7.0f : s == Storage::kInt8 ? 127.0f : 448.0f;
          scale = largest > 0 ? largest / range : 1.0f;
          scales[i / group * kPanel + c] = scale;
        }
        auto* halves = reinterpret_cast<std::uint16_t*>(to);
        auto* octets = reinterpret_cast<std::uint8_t*>(to);
        switch (s) {
          case Storage::kF32:
            reinterpret_cast<float*>(to)[i * kPanel + c] = row[i];
            break;
          case Storage::kBf16:
            halves[i / 2 * 32 + c * 2 + i % 2] = to_bf16(row[i]);
            break;
          case Storage::kF16:
            halves[i * kPanel + c] = to_f16(row[i]);
            break;
          case Storage::kInt8:
            octets[i * kPanel + c] =
                static_cast<std::uint8_t>(static_cast<std::int8_t>(std::nearbyint(row[i] / scale)));
            break;
          case Storage::kInt4:
            octets[i / 2 * kPanel + c] |= static_cast<std::uint8_t>(
                (static_cast<int>(std::nearbyint(row[i] / scale)) + 8) << (i % 2 ? 4 : 0));
            break;
          case Storage::kFp8:
            octets[i * kPanel + c] = to_fp8(row[i] / scale);
        }
      }
    }
  }

  void load_entry(const CacheLayer& cache, bool value, const std::int32_t* blocks, std::int64_t token,
                  std::int64_t head, std::int64_t count, float* to) const {
    const CacheEntry e = cache_entry(cache, value, blocks, token, head);
    isa_->load_row(static_cast<int>(cache.storage), e.at, count, e.scale ? *e.scale : 1.0f, to);
  }

  // Rows of a sequence that share a pass over its keys.
  static std::int64_t rows_at_once(const AttentionArgs& a, const CacheLayer& cache) {
    return std::max<std::int64_t>(1, 64 * cache.heads / a.heads);
  }
  struct Sizes {
    std::int64_t queries, k, v;
    Sizes(const AttentionArgs& a, const CacheLayer& c)
        : queries(rows_at_once(a, c) * (a.heads / c.heads)),
          k(round_up(a.qk_dim, 16)),
          v(round_up(a.v_dim, 16)) {}
  };
  static std::size_t worker_floats(const AttentionArgs& a, const CacheLayer& c) {
    const Sizes z(a, c);
    return static_cast<std::size_t>(
        round_up(z.queries * (z.k + z.v + kKeyTile + 2) + kKeyTile * (z.k + z.v), 16));
  }

  // Keys in tiles from position 0, each row's softmax carried from tile to tile: the order of a row's sums
  // depends on its position alone.
  void attend_block(const AttentionArgs& a, const CacheLayer& cache, const SequenceRows& s,
                    std::int64_t first_row, std::int64_t rows, std::int64_t head, const float* q,
                    std::int64_t q_stride, float* out, std::int64_t out_stride, float* own) const {
    const Sizes z(a, cache);
    const std::int64_t group = a.heads / cache.heads, queries = rows * group;
    float *query = own, *acc = query + z.queries * z.k, *scores = acc + z.queries * z.v,
          *largest = scores + z.queries * kKeyTile, *total = largest + z.queries, *keys = total + z.queries,
          *values = keys + kKeyTile * z.k;
    std::memset(query, 0, static_cast<std::size_t>(queries * z.k) * sizeof(float));
    std::memset(acc, 0, static_cast<std::size_t>(queries * z.v) * sizeof(float));
    if (z.k > cache.k_dim) std::memset(keys, 0, static_cast<std::size_t>(kKeyTile * z.k) * sizeof(float));
    if (z.v > a.v_dim) std::memset(values, 0, static_cast<std::size_t>(kKeyTile * z.v) * sizeof(float));
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t h = head * group + i % group;
      std::memcpy(query + i * z.k, q + (s.first_row + first_row + i / group) * q_stride + h * a.qk_dim,
                  static_cast<std::size_t>(a.qk_dim) * sizeof(float));
      largest[i] = a.sinks ? a.sinks[h] : -std::numeric_limits<float>::infinity();
      total[i] = a.sinks ? 1.0f : 0.0f;
    }
    const std::int64_t from = s.cached + first_row, last = from + rows - 1;
    for (std::int64_t tile = first_attended(a, from) / kKeyTile * kKeyTile; tile <= last; tile += kKeyTile) {
      const std::int64_t count = std::min(kKeyTile, last + 1 - tile);
      for (std::int64_t j = 0; j < count; ++j) {
        load_entry(cache, false, s.blocks, tile + j, head, cache.k_dim, keys + j * z.k);
        load_entry(cache, cache.v_dim > 0, s.blocks, tile + j, head, a.v_dim, values + j * z.v);
      }
      isa_->scores(query, queries, z.k, keys, count, scores);
      for (std::int64_t i = 0; i < queries; ++i) {
        const std::int64_t position = from + i / group;
        const std::int64_t begin = std::max<std::int64_t>(0, first_attended(a, position) - tile),
                           end = std::min(kKeyTile, position + 1 - tile);
        if (begin >= end) continue;
        float* score = scores + i * kKeyTile;
        float most = largest[i];
        for (std::int64_t j = 0; j < kKeyTile; ++j) {
          if (j < begin || j >= end) {
            score[j] = -std::numeric_limits<float>::infinity();
            continue;
          }
          score[j] *= a.scale;
          if (a.softcap > 0) score[j] = a.softcap * std::tanh(score[j] / a.softcap);
          most = std::max(most, score[j]);
        }
        const float fade = largest[i] == most ? 1.0f : std::exp(largest[i] - most);
        largest[i] = most;
        isa_->attend(score, std::min(count, end), most, fade, values, z.v, acc + i * z.v, total + i);
      }
    }
    for (std::int64_t i = 0; i < queries; ++i) {
      float* to =
          out + (s.first_row + first_row + i / group) * out_stride + (head * group + i % group) * a.v_dim;
      for (std::int64_t v = 0; v < a.v_dim; ++v) to[v] = acc[i * z.v + v] / total[i];
    }
  }

  const IsaTable* isa_;
};

bool supported(std::string_view isa) {
#if defined(__x86_64__)
  if (isa == "avx512-bf16")
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw");
  if (isa == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd");
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == "scalar";
}

}  // namespace

const Kernels* cpu_kernels(const char* isa) {
#if defined(__x86_64__)
  static const std::array sets = {CpuKernels(avx512_bf16_table()), CpuKernels(avx512_table()),
                                  CpuKernels(avx2_table()), CpuKernels(scalar_table())};
#else
  static const std::array sets = {CpuKernels(scalar_table())};
#endif
  const std::string_view wanted = isa;
  for (const CpuKernels& set : sets)
    if (supported(set.name()) && (wanted.empty() || wanted == set.name())) return &set;
  return nullptr;
}

}  // namespace foretoken
