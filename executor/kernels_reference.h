// The reference set: plain loops, sums in float64. The processor's own set takes from it what needs no speed.
#pragma once

#include "executor/kernels.h"

namespace foretoken {

class ReferenceKernels : public Kernels {
 public:
  const char* name() const override { return "reference"; }

  std::size_t packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const override;
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k,
              const std::function<void(std::int64_t row, float* out)>& read,
              std::byte* memory) const override;
  void unpack_row(const Matrix& w, std::int64_t row, float* out) const override;
  std::size_t gemm_scratch(const Matrix&, std::int64_t) const override { return 64; }
  void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
            bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
            Threads& threads) const override;

  void norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
            std::int64_t width, float* y, std::int64_t y_stride) const override;
  void add(const float* x, std::int64_t values, float* y) const override;
  void activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                  float* y) const override;
  void sigmoid_gate(const float* gate, std::int64_t gate_width, std::int64_t rows, std::int64_t width,
                    float* y) const override;
  void rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
            std::span<const std::int32_t> positions, float* x, std::int64_t x_stride, std::int64_t heads,
            std::int64_t head_dim, std::int64_t first) const override;

  void cache_write(const CacheLayer& cache, std::span<const SequenceRows> sequences, const float* keys,
                   std::int64_t key_stride, const float* values, std::int64_t value_stride) const override;
  void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens, float* keys,
                  float* values) const override;
  std::size_t attention_scratch(const AttentionArgs& args, const CacheLayer& cache, std::int64_t rows,
                                std::int64_t longest, int threads) const override;
  void attention(const AttentionArgs& args, const CacheLayer& cache, std::span<const SequenceRows> sequences,
                 const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                 std::byte* scratch, Threads& threads) const override;

  void route(const RoutingArgs& args, const float* logits, std::int64_t rows, std::int32_t* chosen,
             float* weights) const override;
  void gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                   float* out) const override;
  void combine_rows(const float* x, std::int64_t width, const std::int32_t* place, const float* weights,
                    std::int64_t rows, std::int64_t top_k, bool accumulate, float* out) const override;
  void causal_conv(std::span<const SequenceRows> sequences, std::span<float* const> states, const float* x,
                   std::int64_t x_stride, std::int64_t channels, std::int64_t taps, const float* weight,
                   const float* bias, bool silu, float* y, std::int64_t y_stride) const override;
  void recurrence(const RecurrenceArgs& args, std::span<const SequenceRows> sequences,
                  std::span<float* const> states, const float* q, const float* k, const float* v,
                  const float* decay, const float* beta, float* out, Threads& threads) const override;
  std::int32_t sample(const SamplingArgs& args, const float* logits, std::int64_t vocab, double uniform,
                      float* scratch) const override;
};

// Bytes of `values` stored numbers, without their scales.
std::size_t stored_bytes(Storage storage, std::int64_t values);
// Numbers of a row, one scale for all (kInt8, kFp8: the largest magnitude becomes 127, 448).
void store_row(Storage storage, const float* from, std::int64_t count, std::byte* to, float* scale);
void load_row(Storage storage, const std::byte* from, std::int64_t count, float scale, float* to);
// One cached key (or value) of a token and head: where it is.
struct CacheEntry {
  std::byte* at;
  float* scale;  // null where the storage has none
};
CacheEntry cache_entry(const CacheLayer& cache, bool value, const std::int32_t* blocks, std::int64_t token,
                       std::int64_t head);
// Positions that a query at `position` attends: [first, position].
inline std::int64_t first_attended(const AttentionArgs& a, std::int64_t position) {
  if (a.window <= 0) return 0;
  return a.chunked ? position / a.window * a.window : (position + 1 > a.window ? position + 1 - a.window : 0);
}

}  // namespace foretoken
