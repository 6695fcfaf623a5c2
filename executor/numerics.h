// What a transformer computes beyond what it costs: which norm, which rotation, which scores. Read from the
// same Hugging Face config.json as ModelConfig, which says the rest (windows, sinks, biases, norms of queries
// and keys: those have norm_epsilon and norm_offset, too).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "executor/kernels.h"
#include "model/model_config.h"

namespace foretoken {

struct Rope {
  std::vector<float> inverse_frequencies;  // one a pair of turned dims; dims beyond them stay (Phi)
  float scale = 1;                         // of cosines and sines (yarn, longrope)
  bool interleaved = false;                // pairs (2i, 2i+1); else (i, i + pairs)
};

// How numbers of fp8 weights, and of what they multiply, are scaled ("fp8" alone; fp8_block has blocks).
enum class Fp8Scales : std::uint8_t {
  kRows,         // each row of a matrix and each token
  kTensorToken,  // each matrix, each token
  kTensors,      // each matrix, and all tokens of a product ("dynamic", per tensor)
  kStatic,       // each matrix, and whatever it multiplies by the scale that it was calibrated to have
};

struct Numerics {
  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-6f;
  float latent_norm_epsilon = 1e-6f;  // of latent attention's norms of its low-rank queries, keys and values
  float norm_offset = 0;              // added to norm weights (Gemma: 1)
  bool sandwich_norms = false;  // attention's and the feed-forward part's outputs have norms too (Gemma)
  float embedding_scale = 1;
  std::int64_t position_offset = 0;  // of learned positions (OPT: 2)
  float attention_scale = 1;         // of query-key products
  float attention_softcap = 0, final_softcap = 0;
  std::vector<Rope> ropes;
  std::vector<int> rope_of_layer;  // index into ropes, -1: no rotation; empty: nothing rotates
  ActivationArgs activation;
  RoutingArgs routing;                      // correction is null here: the weights hold it
  Fp8Scales fp8_scales = Fp8Scales::kRows;  // of quantization_config
};

// longest: tokens of the longest sequence that will run (decides between the factors of longrope and the base
// of dynamic scaling; learned positions must reach it). Throws Error with the key's place; a family that the
// executor does not compute is refused by name, with the list of those that it does.
Numerics read_numerics(const Json& config, const ModelConfig& model, std::int64_t longest,
                       const std::string& where);

}  // namespace foretoken
