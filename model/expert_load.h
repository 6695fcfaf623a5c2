// How unevenly routed tokens fall on experts and on the ranks that hold them. Popularity follows Zipf's law;
// every layer has an order of its own and waits for its fullest rank. With balancing (DeepSeek's EPLB,
// github.com/deepseek-ai/EPLB) spare slots hold copies of the busiest experts, and slots are dealt to ranks
// so that their loads are as equal as a greedy packing makes them.
#pragma once

#include <cstdint>
#include <vector>

namespace foretoken {

struct ExpertSkew {
  double exponent = 0;         // the r-th most popular expert is chosen like r^-exponent; 0: all alike
  bool balanced = false;       // by EPLB, from the popularities as they are
  std::int64_t redundant = 0;  // slots beyond one an expert, over all ranks
};

class ExpertLoad {
 public:
  // experts + skew.redundant must divide by ranks; top_k <= experts.
  ExpertLoad(std::int64_t experts, std::int64_t top_k, std::int64_t ranks, const ExpertSkew& skew);

  // Token-expert pairs of a layer's fullest rank over those of the mean rank; the mean over layers, at
  // least 1.
  double fullest_rank() const { return fullest_rank_; }
  // Expected slots of that rank that get any of `tokens` tokens (of the whole group); the mean over layers.
  double distinct(double tokens) const;

 private:
  double fullest_rank_ = 1, layers_ = 1;
  std::vector<double> misses_;  // log of the chance that a token passes over a slot of a layer's fullest rank
};

// Chance of each expert, most popular first, to be among the top_k of a token: c r^-exponent, at most 1, with
// sum top_k.
std::vector<double> expert_chances(std::int64_t experts, std::int64_t top_k, double exponent);

}  // namespace foretoken
