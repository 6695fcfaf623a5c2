// The backend that predicts: durations of steps and of spans of decode steps from the cost model.
#pragma once

#include <array>
#include <span>
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
  PredictedBackend(const Deployment& deployment, const CostModel& cost, double scale = 1.0)
      : PredictedBackend(deployment, std::span(&cost, 1), scale) {}
  // costs: one for each of the deployment's kinds of engines, or one for all.
  PredictedBackend(const Deployment& deployment, std::span<const CostModel> costs, double scale = 1.0);

  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step& step) override;
  SpanTime run_span(const Step& step, std::int64_t max_steps) override;
  void cut(std::int32_t engine, std::int64_t steps) override;
  Picoseconds transfer(const KvTransfer& transfer) override;
  // Prices of KV tiers (tier_prices.cpp).
  Picoseconds move_blocks(const TierMove& move) override;
  bool worth_loading(const TierLoad& load) override;
  // Draws from the scenario's acceptance, a draw for each place of a request, whatever it is served beside.
  void verify(const Step& step, std::size_t rank, std::span<Verification> sequences) override;
  TimeBasis basis() const;

 private:
  // Affine price of one stage for the step's batches: `first` now, rising by `rise` a step for `steps` steps.
  struct StagePrice {
    PricedPart first;
    std::array<Picoseconds, 4> rise{};  // by basis
    std::int64_t steps = 0;
    Picoseconds excess = 0;  // of one attention call for prompts and decoding rows over one for each
    Picoseconds increment() const { return rise[0] + rise[1] + rise[2] + rise[3]; }
  };
  // Engines of one kind (Deployment::kinds).
  struct Pool {
    const Deployment* deployment;
    std::vector<StageModel> stages, draft_stages;
  };
  Pool& pool_of(const Step& step) {
    const auto e = static_cast<std::size_t>(step.engine);
    return pools_[e < pool_of_engine_.size() ? pool_of_engine_[e] : 0];
  }
  StagePrice price_stage(const Deployment& deployment, StageModel& stage, const Step& step, bool decode_only,
                         std::int64_t max_steps);
  PricedPart attention(const Deployment& deployment, StageModel& stage, const Batch& batch, StagePrice& r,
                       PricedPart* decode = nullptr);
  // Of elastic instances (elastic_prices.cpp). A step of some groups, repeated where they decode; one group's
  // prefill; the prices of its instances where it decodes.
  SpanTime run_groups(const Step& step, std::int64_t max_steps);
  PricedPart price_ring_prefill(const Deployment& deployment, StageModel& stage,
                                std::span<const Batch> group);
  void price_group_decode(const Deployment& deployment, StageModel& stage, std::span<const Batch> group,
                          std::int64_t max_steps, std::vector<StagePrice>& prices);
  // Of instances that lend KV memory (lending_prices.cpp): beyond a step that computes for so long.
  PricedPart lending(const Deployment& deployment, StageModel& stage, const Batch& batch,
                     Picoseconds computing);
  // All begin together; it lasts as long as one stays the slowest.
  static StagePrice slowest(std::span<const StagePrice> prices);
  // The draft model's passes after the step: device time into `sum`, host time returned.
  Picoseconds price_drafts(Pool& pool, const Step& step, StagePrice& sum);
  Picoseconds host_time(const Pool& pool, const Step& step, Picoseconds device_floor,
                        Picoseconds excess) const;
  Picoseconds copy_price(std::int32_t from, std::int32_t to, std::int64_t blocks);
  Picoseconds prompt_price(std::int32_t engine, std::int64_t cached, std::int64_t tokens);
  Picoseconds context_part(const Step& step, StageModel& stage);
  Picoseconds scaled(Picoseconds t) const;
  void book(const Step& step, const StagePrice& price, Picoseconds host, const SpanTime& span);

  const Deployment* deployment_;
  double scale_;
  std::vector<std::int64_t> windows_;
  std::vector<Pool> pools_;
  std::vector<std::size_t> pool_of_engine_;     // empty where there is one
  std::vector<std::vector<DraftPass>> passes_;  // by rank; scratch of price_drafts
  std::vector<Batch> pass_batches_;
  std::int32_t drafts_ = 0;
  std::vector<StagePrice> rank_prices_;  // scratch of price_stage
  // Latest step or span of each engine: booked when the next one shows how many of its steps were run.
  struct Pending {
    StagePrice price;
    Picoseconds start = 0, host = 0;
    SpanTime span;
  };
  // Sums over steps, in integers, so that they don't depend on how steps were grouped into spans.
  __extension__ using Sum = __int128;
  struct Booked {
    std::array<Sum, 4> by_basis{};
    Sum host = 0, error = 0, total = 0;
    void add(const Pending& pending, std::int64_t steps);
  };
  std::vector<Pending> pending_;
  Booked booked_;
};

}  // namespace foretoken
