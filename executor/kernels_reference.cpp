// The reference: plain loops in the order of the formulas, sums in float64. Matrices are stored row by row:
// the scales (kInt8, kFp8 one a row, kInt4, kFp8Block one a group), then the elements (kInt4 in a byte each).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "executor/kernels_shared.h"
#include "executor/storage.h"

namespace foretoken {

namespace {

std::int64_t place_of(const SequenceRows& s, std::int64_t position) {
  return s.branch && position >= s.branch_from ? s.branch[position - s.branch_from] : position;
}

class ReferenceKernels final : public SharedKernels {
 public:
  const char* name() const override { return "reference"; }

  std::size_t packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const override {
    return static_cast<std::size_t>(n * (scales_of_row(storage, k) * 4 + k * element_bytes(storage)));
  }
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read, std::byte* memory,
              Threads& threads, float scale) const override {
    const std::int64_t scales = scales_of_row(storage, k), row_bytes = k * element_bytes(storage);
    auto* const first_scale = reinterpret_cast<float*>(memory);
    std::byte* const first_row = memory + n * scales * 4;
    const RowEncoder encoder(storage, n, k, read, threads, scale);
    threads.run(n, [&](std::int64_t r) {
      std::vector<float> row(static_cast<std::size_t>(k));
      read(r, row.data());
      encoder.encode(r, row.data(), first_row + r * row_bytes, first_scale + r * scales);
    });
    return {.storage = storage, .n = n, .k = k, .packed = memory, .one_scale = scale > 0};
  }
  void unpack_row(const Matrix& w, std::int64_t row, float* out) const override {
    const std::int64_t scales = scales_of_row(w.storage, w.k), width = element_bytes(w.storage);
    for (std::int64_t i = 0; i < w.k; ++i) {
      float scale = 1;
      if (scales) std::memcpy(&scale, w.packed + (row * scales + i / scale_group(w.storage, w.k)) * 4, 4);
      out[i] = stored_value(w.storage, w.packed + w.n * scales * 4 + (row * w.k + i) * width) * scale;
    }
  }
  // A row of w, and what products take of x where that isn't x itself: its rows, then their scales.
  std::size_t gemm_scratch(const Matrix& w, std::int64_t m) const override {
    const std::int64_t row = w.k + scales_of_row(w.storage, w.k);
    return static_cast<std::size_t>(w.k + (w.quantised_x ? m * row : 0)) * sizeof(float);
  }
  void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
            bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch, Threads&) const override {
    auto* row = reinterpret_cast<float*>(scratch);
    const float* scales = nullptr;
    const std::int64_t groups = scales_of_row(w.storage, w.k), group = scale_group(w.storage, w.k);
    if (w.quantised_x) {
      float *const rows = row + w.k, *const of_rows = rows + m * w.k;
      const float scale = scale_of_x(w, x, x_stride, m);
      for (std::int64_t r = 0; r < m; ++r)
        quantise_row(w.storage, x + r * x_stride, w.k, rows + r * w.k, of_rows + r * groups, scale);
      x = rows, x_stride = w.k, scales = of_rows;
    }
    const bool exact = w.storage == Storage::kF32 || w.storage == Storage::kF16 || w.quantised_x;
    for (std::int64_t n = 0; n < w.n; ++n) {
      unpack_row(w, n, row);
      for (std::int64_t r = 0; r < m; ++r) {
        double sum = 0;
        for (std::int64_t i = 0; i < w.k; ++i) {
          const float value = x[r * x_stride + i];
          const double of_x = scales ? scales[r * groups + i / group] : 1;
          sum += double{row[i]} * (exact ? value : round_to_bf16(value)) * of_x;
        }
        if (bias) sum += bias[n];
        float& to = y[r * y_stride + n];
        to = static_cast<float>(accumulate ? to + sum : sum);
      }
    }
  }
  void norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
            std::int64_t width, float* y, std::int64_t y_stride) const override {
    plain_norm(args, x, x_stride, rows, width, y, y_stride);
  }
  void activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                  float* y) const override {
    plain_activation(args, x, rows, width, y);
  }
  double log_sum_exp(const float* x, std::int64_t count) const override {
    const double top = *std::max_element(x, x + count);
    if (std::isinf(top)) return top;
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += std::exp(x[i] - top);
    return top + std::log(sum);
  }
  std::size_t attention_scratch(const AttentionArgs& args, const CacheLayer& cache, std::int64_t,
                                std::int64_t longest, int) const override {
    return static_cast<std::size_t>(longest + args.v_dim + 1) * sizeof(double) +
           static_cast<std::size_t>(std::max(cache.k_dim, cache.v_dim)) * sizeof(float);
  }
  void attention(const AttentionArgs& a, const CacheLayer& cache, const Sequences& of, const float* q,
                 std::int64_t q_stride, float* out, std::int64_t out_stride, std::byte* scratch,
                 Threads&) const override {
    const bool exact = cache.storage == Storage::kF32 || cache.storage == Storage::kF16;
    for (const auto& s : of.host) {
      auto* weights = reinterpret_cast<double*>(scratch);
      double* sums = weights + s.cached + s.new_tokens;
      auto* vector = reinterpret_cast<float*>(sums + a.v_dim);
      for (std::int64_t r = 0; r < s.new_tokens; ++r)
        for (std::int64_t h = 0; h < a.heads; ++h) {
          const std::int64_t position = s.cached + r, kv_head = h / (a.heads / cache.heads);
          std::int64_t first = 0;
          if (a.window > 0)
            first = a.chunked ? position / a.window * a.window
                              : std::max<std::int64_t>(0, position - a.window + 1);
          const float* query = q + (s.first_row + r) * q_stride + h * a.qk_dim;
          double top = a.sinks ? a.sinks[h] : -INFINITY;
          for (std::int64_t t = first; t <= position; ++t) {
            read_cached(cache, false, cache_slot(cache, s.blocks, place_of(s, t), kv_head), vector);
            double score = 0;
            for (std::int64_t i = 0; i < a.qk_dim; ++i)
              score += double{exact ? query[i] : round_to_bf16(query[i])} * vector[i];
            score *= a.scale;
            if (a.softcap != 0) score = a.softcap * std::tanh(score / a.softcap);
            weights[t] = score;
            top = std::max(top, score);
          }
          double total = a.sinks ? std::exp(a.sinks[h] - top) : 0;
          std::fill_n(sums, a.v_dim, 0.0);
          for (std::int64_t t = first; t <= position; ++t) {
            const double weight = std::exp(weights[t] - top);
            total += weight;
            read_cached(cache, cache.v_dim != 0, cache_slot(cache, s.blocks, place_of(s, t), kv_head),
                        vector);
            for (std::int64_t i = 0; i < a.v_dim; ++i) sums[i] += weight * vector[i];
          }
          if (a.lse != nullptr)
            a.lse[(s.first_row + r) * a.heads + h] = static_cast<float>(top + std::log(total));
          float* to = out + (s.first_row + r) * out_stride + h * a.v_dim;
          for (std::int64_t i = 0; i < a.v_dim; ++i) to[i] = static_cast<float>(sums[i] / total);
        }
    }
  }
};

}  // namespace

const Kernels& reference_kernels() {
  static const ReferenceKernels kernels;
  return kernels;
}

}  // namespace foretoken
