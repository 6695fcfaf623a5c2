// Rotary position embeddings from a Hugging Face config: base, scaling, partial rotation. Internal.
#pragma once

#include <cstdint>

#include "executor/numerics.h"
#include "model/config_reader.h"

namespace foretoken {

struct RopeSettings {
  double theta = 10000;      // where the config has none
  std::int64_t dim = 0;      // of a head, before partial_rotary_factor
  std::int64_t longest = 0;  // tokens of the longest sequence
  double partial = 1;        // where the config has no partial_rotary_factor
};
// parameters: the object of the scaling (rope_scaling, rope_parameters or one layer type's part of it); null:
// none.
Rope read_rope(const ConfigReader& config, const ConfigReader* parameters, const RopeSettings& settings);

// yarn's 0.1 mscale ln(factor) + 1.
double yarn_mscale(double factor, double mscale);
double number_or(const ConfigReader& r, const char* key, double otherwise);  // finite

}  // namespace foretoken
