// Operators at which no speed is at stake, the same for every set of kernels, and the cache's addresses.
#pragma once

#include "executor/kernels.h"
#include "executor/stored_rows.h"

namespace foretoken {

// Bytes an element takes in a cache (not kInt4).
constexpr std::int64_t cache_width(Storage storage) { return element_bytes(storage); }
// Which vector of the cache holds a head of a token.
inline std::int64_t cache_slot(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t token,
                               std::int64_t head) {
  return (blocks[token / cache.block_size] * cache.heads + head) * cache.block_size +
         token % cache.block_size;
}
// A cached vector as floats.
void read_cached(const CacheLayer& cache, bool value, std::int64_t slot, float* out);

class SharedKernels : public Kernels {
 public:
  // One row of w, as stored.
  virtual void unpack_row(const Matrix& w, std::int64_t row, float* out) const = 0;
  // log sum exp x; -inf where all x are.
  virtual double log_sum_exp(const float* x, std::int64_t count) const = 0;

  void embed(const Matrix& w, std::span<const std::int32_t> ids, std::int64_t offset, float scale,
             bool accumulate, float* out, std::byte* scratch) const override;
  void norm_heads(const NormArgs& args, float* x, std::int64_t x_stride, std::int64_t rows,
                  std::int64_t heads, std::int64_t head_dim) const override;
  void add(const float* x, std::int64_t values, float* y) const override;
  void softcap(float cap, std::int64_t values, float* y) const override;
  void copy_rows(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width,
                 float* to, std::int64_t to_stride) const override;
  void sigmoid_gate(const float* gate, std::int64_t gate_stride, std::int64_t gate_width, std::int64_t rows,
                    std::int64_t width, bool silu, float* y) const override;
  void rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
            std::span<const std::int32_t> positions, float* x, std::int64_t x_stride, std::int64_t heads,
            std::int64_t head_dim, std::int64_t first) const override;
  void cache_write(const CacheLayer& cache, const Sequences& sequences, const float* keys,
                   std::int64_t key_stride, const float* values, std::int64_t value_stride) const override;
  void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens, float* keys,
                  float* values) const override;
  void shift_cached(const CacheLayer& cache, const CacheShift& shift, Threads& threads) const override;
  void merge_attention(const AttentionArgs& args, const Sequences& sequences, const float* part,
                       std::int64_t part_stride, const float* part_lse, float* out,
                       std::int64_t out_stride) const override;
  void expand_latents(const LatentArgs& args, const float* up, const float* latent, std::int64_t tokens,
                      const CacheLayer& to) const override;
  void route(const RoutingArgs& args, const float* logits, std::int64_t rows, std::int32_t* chosen,
             float* weights) const override;
  std::size_t expert_scratch(const Experts& experts, std::int64_t pairs) const override;
  void run_experts(const Experts& experts, const ActivationArgs& activation, const float* x,
                   const std::int32_t* chosen, std::int64_t rows, std::int64_t top_k, const ExpertRows& to,
                   std::byte* scratch, Threads& threads) const override;
  void combine_rows(const float* x, std::int64_t width, const std::int32_t* place, const float* weights,
                    std::int64_t rows, std::int64_t top_k, bool accumulate, float* out) const override;
  void place_rows(const float* x, std::int64_t width, const std::int32_t* place, std::int64_t pairs,
                  bool accumulate, float* out) const override;
  void gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                   float* out) const override;
  void add_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of, float* y,
                std::int64_t y_stride) const override;
  void causal_conv(const Sequences& sequences, const States& states, const float* x, std::int64_t x_stride,
                   std::int64_t channels, std::int64_t taps, const float* weight, const float* bias,
                   bool silu, float* y, std::int64_t y_stride) const override;
  void delta_inputs(const DeltaArgs& args, const float* x, const float* gates, std::int64_t first,
                    std::int64_t rows, float* q, float* k, float* v, float* decay,
                    float* beta) const override;
  void recurrence(const RecurrenceArgs& args, const Sequences& sequences, const States& states,
                  const float* q, const float* k, const float* v, const float* decay, const float* beta,
                  float* out, Threads& threads) const override;
  std::size_t sampling_scratch(std::int64_t rows, std::int64_t vocab) const override;
  void sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
              std::span<const double> uniforms, std::int32_t* tokens, std::byte* scratch) const override;
  void best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                   std::int32_t* tokens, std::byte* scratch) const override;
  void select_beams(const float* logits, std::int64_t vocab, std::span<const double> log_probabilities,
                    std::span<Continuation> best, std::byte* scratch) const override;
};

// Plain loops with float64 inside: norms and every activation.
void plain_norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
                std::int64_t width, float* y, std::int64_t y_stride);
void plain_activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                      float* y);

}  // namespace foretoken
