// Whole steps priced from the operator list in one pass, for estimates and what-ifs.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "simulator/estimate.h"
#include "simulator/step_model.h"

namespace foretoken {

// One step of one rank as the serving loop would hand it to the backend.
struct Probe {
  std::int64_t sequences = 0;  // decoding
  double context = 0;          // mean attended tokens
  double drafted = 0;          // mean of the tokens that a decoding sequence verifies beside its newest
  std::vector<PrefillPart> prefill;
};

// Another device or other links than the measured ones: an operator's price changes by the ratio of its
// roofline times.
struct WhatIf {
  Device device;
  Topology topology;
};

// Device time of one step of all stages, operator by operator, with the half-width of its 90 % interval. Host
// time is in it for this program's own executor alone, whose steps are one call.
struct WorkPrice {
  double seconds = 0, half = 0;
  std::vector<std::pair<std::string, double>> operators;  // seconds by name, in order of first use
};
WorkPrice price_work(const Deployment& d, const CostModel& cost, const Work& work);

class StepPricer {
 public:
  StepPricer(const Deployment& d, const CostModel& cost, const WhatIf* what_if = nullptr);
  double seconds(const Probe& probe) { return estimate("", probe, false).seconds; }
  StepEstimate estimate(std::string name, const Probe& probe, bool with_operators);
  std::array<double, 4> basis() const;  // shares of the time of all steps priced so far

 private:
  Price price(const Op& op);
  Price price_anew(const Op& op) const;
  double nano_batches_seconds(const Work& whole, std::int64_t rows);
  template <class Known>
  Price price_once(Known& known, const typename Known::value_type::first_type& shape, const Op& op);
  const Deployment& deployment_;
  const CostModel& cost_;
  const WhatIf* what_if_;
  std::vector<std::int64_t> windows_;
  std::array<double, 4> basis_{};
  // Kinds of layer share projections and attention: those of the step at hand, priced once.
  std::vector<std::pair<GemmShape, Price>> products_;
  std::vector<std::pair<AttentionShape, Price>> attention_;
};

}  // namespace foretoken
