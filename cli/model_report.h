// A model's costs as a report: parameters, KV cache, FLOPs, activations and operators.
#pragma once

#include "cli/output.h"
#include "model/operators.h"

namespace foretoken {

struct ModelQuestion {
  std::int64_t batch = 1, prompt = 1024, context = 1024;
  int tensor_parallel = 1;
  Precision precision;
};

// FLOPs of one rank for the next token of each sequence after question.context tokens; attention grows with
// it.
double decode_flops(const ModelConfig& model, const ModelQuestion& question);

Report model_report(const ModelConfig& model, const ModelQuestion& question);

}  // namespace foretoken
