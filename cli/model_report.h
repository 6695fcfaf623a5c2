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

Report model_report(const ModelConfig& model, const ModelQuestion& question);

}  // namespace foretoken
