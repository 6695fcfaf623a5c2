// The backend that predicts: durations of steps and of spans of decode steps from the cost model.
#pragma once

#include <array>
#include <vector>

#include "serving/backend.h"
#include "simulator/step_model.h"

namespace foretoken {

// What the priced time rests on, over a whole run.
struct TimeBasis {
  std::array<double, 4> share{};  // measured, interpolated, transferred, roofline; sum 1
  double host_share = 0;          // exposed host time over all time
  double relative_error = 0;      // half-width of the 90 % interval of the total
};

class PredictedBackend : public Backend {
 public:
  // scale: all durations times this (1 +- error gives the ends of an interval). Keeps references to its
  // arguments.
  PredictedBackend(const Deployment& deployment, const CostModel& cost, double scale = 1.0);

  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step& step) override;
  SpanTime run_span(const Step& step, std::int64_t max_steps) override;
  TimeBasis basis() const;

 private:
  // Affine price of one stage for the step's batches: `first` now, rising by `increment` a step for `steps`
  // steps.
  struct StagePrice {
    PricedPart first;
    Picoseconds increment = 0;
    std::int64_t steps = 0;
  };
  StagePrice price_stage(StageModel& stage, const Step& step, bool decode_only, std::int64_t max_steps);
  Picoseconds host_time(const Step& step, Picoseconds device_floor) const;
  Picoseconds context_part(const Step& step, StageModel& stage);
  Picoseconds scaled(Picoseconds t) const;
  void account(const Step& step, const PricedPart& part, Picoseconds total, Picoseconds at_most);

  const Deployment* deployment_;
  double scale_;
  std::vector<std::int64_t> windows_;
  std::vector<StageModel> stages_;
  std::vector<StagePrice> rank_prices_;  // scratch of price_stage
  // Latest step or span of each engine: its shares are booked when the next one shows how long it really ran.
  struct Pending {
    Picoseconds start = 0, longest = 0;
    std::array<double, 4> share{};
    double host = 0, error = 0;
    bool open = false;
  };
  std::vector<Pending> pending_;
  std::array<double, 4> booked_{};
  double booked_host_ = 0, booked_error_ = 0, booked_total_ = 0;
};

}  // namespace foretoken
