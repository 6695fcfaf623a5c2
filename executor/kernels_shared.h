// Operators at which no speed is at stake, the same for every set of kernels, and the cache's addresses.
#pragma once

#include "executor/kernels.h"

namespace foretoken {

// Bytes an element takes in a cache (not kInt4).
inline std::int64_t cache_width(Storage storage) {
  return storage == Storage::kF32 ? 4 : storage == Storage::kBf16 || storage == Storage::kF16 ? 2 : 1;
}
// Which vector of the cache holds a head of a token.
inline std::int64_t cache_slot(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t token,
                               std::int64_t head) {
  return (blocks[token / cache.block_size] * cache.heads + head) * cache.block_size +
         token % cache.block_size;
}
// The scale that puts the largest of `count` values at the format's largest (1 where all are zero).
float scale_of(Storage storage, const float* values, std::int64_t count);
std::int8_t to_integer(float scaled, int largest);
// An element of a weight or cached vector that takes whole bytes (kInt4 as one), before its scale.
float stored_value(Storage storage, const std::byte* at);
// A cached vector as floats.
void read_cached(const CacheLayer& cache, bool value, std::int64_t slot, float* out);

class SharedKernels : public Kernels {
 public:
  void add(const float* x, std::int64_t values, float* y) const override;
  void sigmoid_gate(const float* gate, std::int64_t gate_width, std::int64_t rows, std::int64_t width,
                    float* y) const override;
  void rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
            std::span<const std::int32_t> positions, float* x, std::int64_t x_stride, std::int64_t heads,
            std::int64_t head_dim, std::int64_t first) const override;
  void cache_write(const CacheLayer& cache, std::span<const SequenceRows> sequences, const float* keys,
                   std::int64_t key_stride, const float* values, std::int64_t value_stride) const override;
  void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens, float* keys,
                  float* values) const override;
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

// Plain loops with float64 inside: norms and every activation.
void plain_norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
                std::int64_t width, float* y, std::int64_t y_stride);
void plain_activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                      float* y);

}  // namespace foretoken
