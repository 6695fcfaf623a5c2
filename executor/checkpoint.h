// The weights of a model by what they are for, whole and unfused, whatever file and names they come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "executor/numerics.h"

namespace foretoken {

// Matrices are [outputs, inputs]; vectors have one row.
enum class Role : std::uint8_t {
  kEmbedding,
  kPositions,
  kLmHead,  // kLmHead is there for tied embeddings too
  kFinalNorm,
  kFinalNormBias,
  kInputNorm,
  kInputNormBias,
  kPostNorm,
  kPostNormBias,  // before attention, before the feed-forward part
  kAttnOutputNorm,
  kMlpOutputNorm,  // sandwich norms
  kQ,
  kQBias,
  kK,
  kKBias,
  kV,
  kVBias,
  kO,
  kOBias,
  kQNorm,
  kKNorm,
  kSinks,
  kQA,
  kQABias,
  kQANorm,
  kQB,
  kKvA,
  kKvABias,
  kKvANorm,
  kKvB,  // latent attention; kQ where there is no q_lora_rank
  kGate,
  kGateBias,
  kUp,
  kUpBias,
  kDown,
  kDownBias,
  kRouter,
  kRouterBias,
  kRouterCorrection,  // bias: of the logits (gpt-oss); correction: of the choice
  kExpertGate,
  kExpertGateBias,
  kExpertUp,
  kExpertUpBias,
  kExpertDown,
  kExpertDownBias,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kSharedMix,    // shared experts; their sigmoid gate
  kLinearIn,     // gated delta rule: queries, keys, values and output gates of one key head after the other
  kLinearGates,  // write strengths and decays, likewise
  kLinearConv,   // [channels, taps]; channels: queries, keys, values of all heads
  kLinearDecay,  // logarithm of each value head's decay rate
  kLinearStep,   // bias of its step
  kLinearNorm,   // of the output, shared by the heads
  kLinearOut,
};

struct Extent {
  std::int64_t rows = 0, columns = 0;  // 0 x 0: the model has no such weight
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // layer and expert are ignored where they don't apply.
  virtual Extent extent(Role role, std::int64_t layer = 0, std::int64_t expert = 0) const = 0;
  // Rows [first, first + count) as floats, [count][columns]; by any number of threads at once. Transposed
  // files (GPT-2) are read a panel at a time: ask for many rows at once.
  virtual void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first,
                    std::int64_t count, float* out) const = 0;
  // What weights in fp8 have, if any are.
  virtual Fp8Scales fp8_scales() const { return Fp8Scales::kRows; }
  // Of a weight in fp8 with one scale: that, by which read() has multiplied; 0 of others.
  virtual float weight_scale(Role, std::int64_t, std::int64_t) const { return 0; }
  // The scale that what the weight multiplies was calibrated to have; 0: the model has none.
  virtual float input_scale(Role, std::int64_t, std::int64_t) const { return 0; }
};

// Normal values from a counter (seed, role, layer, expert, row, column): the same for every sharding.
// Matrices have the standard deviation that keeps activations of order one; norm weights plus the family's
// offset are near one. Inputs' scales (of fp8) are for values up to 16. fp8_scales()
// is the configuration's.
std::unique_ptr<Checkpoint> synthetic_checkpoint(const ModelConfig& model, const Numerics& numerics,
                                                 std::uint64_t seed);
// *.safetensors of a folder (or one file), mapped; headers fully checked, every tensor that the model needs
// present with its shape and a type that can be read (F32, F16, BF16; F8_E4M3 with scales of blocks of 128 x
// 128, "NAME_scale_inv", or of rows or the tensor, "NAME_scale"; scales of what a matrix multiplies,
// "input_scale" beside its "weight"), before anything else is allocated. Throws
// Error with file and tensor.
std::unique_ptr<Checkpoint> safetensors_checkpoint(const std::filesystem::path& path,
                                                   const ModelConfig& model, const Numerics& numerics);
// One file with the tensors' Hugging Face names and layouts, in F32 or rounded to BF16 (such as a synthetic
// model's, to run it elsewhere). Holds one tensor in memory at a time.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint,
                      const ModelConfig& model, const Numerics& numerics, bool bf16);

}  // namespace foretoken
