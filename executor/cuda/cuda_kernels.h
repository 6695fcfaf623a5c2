// The operators on a CUDA device, or on the emulated one. A file of this folder implements each group:
// products.cu, attention.cu, operators.cu, moves.cu, recurrent.cu, sampling.cu, experts.cu; cuda_kernels.cpp
// has the memory, the stream and graphs. All launch on one stream and wait for nothing, but those that answer
// to the host.
//
// Sums are in float32, and their order depends on a launch's sizes (how keys are split among blocks, which
// product cuBLASLt takes), so the last bits of a request's logits may depend on its batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "executor/cuda/runtime.h"
#include "executor/cuda/tensor_map.h"
#include "executor/kernels.h"

namespace foretoken::cuda {

struct SamplingBuffers;

class CudaKernels final : public Kernels {
 public:
  CudaKernels();
  ~CudaKernels() override;
  const char* name() const override;
  std::string machine() const override;
  std::string condition() const override;
  const KernelMemory& memory() const override;
  std::size_t own_bytes() const override;
  std::unique_ptr<KernelStopwatch> stopwatch(OperatorTimes how) const override;
  std::vector<std::string> remarks() const override;
  std::unique_ptr<StepGraphs> graphs() const override;
  std::int64_t context_bucket(std::int64_t longest) const override;

  std::size_t packed_bytes(Storage storage, std::int64_t n, std::int64_t k) const override;
  using Kernels::pack;
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, const ReadRow& read, std::byte* memory,
              Threads& threads, float scale = 0) const override;
  void embed(const Matrix& w, std::span<const std::int32_t> ids, std::int64_t offset, float scale,
             bool accumulate, float* out, std::byte* scratch) const override;
  std::size_t gemm_scratch(const Matrix& w, std::int64_t m) const override;
  void gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m, const float* bias,
            bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
            Threads& threads) const override;
  void norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
            std::int64_t width, float* y, std::int64_t y_stride) const override;
  std::size_t quantised_bytes(Storage format, std::int64_t rows, std::int64_t width) const override;
  void norm_quantised(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                      float* stream, Storage format, std::byte* to, float x_scale = 0) const override;
  void activation_quantised(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                            Storage format, std::byte* to, float x_scale = 0) const override;
  void gemm_quantised(const Matrix& w, const std::byte* x, std::int64_t m, const float* bias, bool accumulate,
                      float* y, std::int64_t y_stride, std::byte* scratch, Threads& threads) const override;
  void add_norm(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                float* stream, float* y) const override;
  void norm_heads(const NormArgs& args, float* x, std::int64_t x_stride, std::int64_t rows,
                  std::int64_t heads, std::int64_t head_dim) const override;
  void add(const float* x, std::int64_t values, float* y) const override;
  void softcap(float cap, std::int64_t values, float* y) const override;
  void copy_rows(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width,
                 float* to, std::int64_t to_stride) const override;
  void activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                  float* y) const override;
  void sigmoid_gate(const float* gate, std::int64_t gate_stride, std::int64_t gate_width, std::int64_t rows,
                    std::int64_t width, bool silu, float* y) const override;
  void rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
            std::span<const std::int32_t> positions, float* x, std::int64_t x_stride, std::int64_t heads,
            std::int64_t head_dim, std::int64_t first) const override;
  void cache_write(const CacheLayer& cache, const Sequences& sequences, const float* keys,
                   std::int64_t key_stride, const float* values, std::int64_t value_stride) const override;
  void rope_and_write(const RopeArgs& args, std::span<const std::int32_t> positions, float* q,
                      std::int64_t heads, float* keys, const float* values, std::int64_t stride,
                      const CacheLayer& cache, const Sequences& sequences) const override;
  void cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens, float* keys,
                  float* values) const override;
  void shift_cached(const CacheLayer& cache, const CacheShift& shift, Threads& threads) const override;
  std::size_t attention_scratch(const AttentionArgs& args, const CacheLayer& cache, std::int64_t rows,
                                std::int64_t longest, int threads) const override;
  void attention(const AttentionArgs& args, const CacheLayer& cache, const Sequences& sequences,
                 const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                 std::byte* scratch, Threads& threads) const override;
  void expand_latents(const LatentArgs& args, const float* up, const float* latent, std::int64_t tokens,
                      const CacheLayer& to) const override;
  void route(const RoutingArgs& args, const float* logits, std::int64_t rows, std::int32_t* chosen,
             float* weights) const override;
  std::size_t expert_scratch(const Experts& experts, std::int64_t pairs) const override;
  void run_experts(const Experts& experts, const ActivationArgs& activation, const float* x,
                   const std::int32_t* chosen, std::int64_t rows, std::int64_t top_k, const ExpertRows& to,
                   std::byte* scratch, Threads& threads) const override;
  void merge_attention(const AttentionArgs& args, const Sequences& sequences, const float* part,
                       std::int64_t part_stride, const float* part_lse, float* out,
                       std::int64_t out_stride) const override;
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
  void sample_and_verify(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                         std::span<const double> uniforms, const DraftedRows& drafts, std::int32_t* tokens,
                         std::int32_t* accepted, std::int32_t* path, std::byte* scratch) const override;
  void best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                   std::int32_t* tokens, std::byte* scratch) const override;
  void select_beams(const float* logits, std::int64_t vocab, std::span<const double> log_probabilities,
                    std::span<Continuation> best, std::byte* scratch) const override;

  // By NCCL where each process has a device of its own, else through the host's memory.
  void all_gather(Processes& processes, std::span<const float> mine, float* all) const override;

  Stream& stream() const;
  const DeviceProperties& device() const;
  // Whether kernels multiply by warpgroups: the device has them, and they were found right.
  bool warpgroups() const;
  void use_warpgroups(bool use) const;  // false: as on a device without them, to compare
  // Likewise whether keys of attention come by tensor maps.
  bool tensor_maps() const;
  void use_tensor_maps(bool use) const;
  // Of the rows of 16-bit numbers from `first` on, remembered.
  const TensorMap& tensor_map(const void* first, std::int64_t columns, int box_rows) const;

 private:
  // Leaves a token of each row on the device, at the address that it returns.
  std::int32_t* launch_sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                              std::span<const double> uniforms, std::byte* scratch) const;
  struct State;
  std::unique_ptr<State> state_;
  std::unique_ptr<SamplingBuffers> sampling_;
};

}  // namespace foretoken::cuda
