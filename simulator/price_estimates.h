// What a conductor expects, by the prices that the predicted steps have.
#pragma once

#include <map>
#include <span>
#include <utility>

#include "serving/conductor.h"
#include "simulator/predicted_backend.h"

namespace foretoken {

class PriceEstimates : public TimeEstimates {
 public:
  // Keeps references to its arguments.
  PriceEstimates(const Deployment& deployment, std::span<const CostModel> costs);

  // In chunks as the engine's step budget cuts them.
  Picoseconds prefill(std::int32_t engine, std::int64_t tokens, std::int64_t cached) override;
  Picoseconds decode_step(std::int32_t engine, std::int64_t sequences, std::int64_t contexts) override;
  Picoseconds transfer(std::int32_t from, std::int32_t to, std::int64_t done, std::int64_t tokens) override;

 private:
  const Deployment& deployment_;
  PredictedBackend backend_;
  // Engines of one side are alike. By tokens and cached ones.
  std::map<std::pair<std::int64_t, std::int64_t>, Picoseconds> prefills_;
};

}  // namespace foretoken
