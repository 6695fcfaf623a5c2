#include "serving/arrivals.h"

#include <limits>

namespace foretoken {

ArrivalProcess::ArrivalProcess(const WorkloadConfig& config)
    : stages_(config.stages),
      kind_(config.arrival == "constant" ? Kind::kConstant
            : config.arrival == "gamma"  ? Kind::kGamma
                                         : Kind::kPoisson),
      shape_(config.burstiness),
      seed_(static_cast<std::uint64_t>(config.seed)) {
  if (stages_.empty()) {
    stages_.push_back({config.request_rate.value_or(1.0), std::numeric_limits<double>::infinity()});
  }
}

double ArrivalProcess::gap() {
  const std::uint64_t index = index_++;
  if (kind_ == Kind::kConstant) return index == 0 ? 0 : 1;
  CounterRandom random(seed_, random_stream::kArrival, index);
  return kind_ == Kind::kGamma ? random.gamma(shape_) / shape_ : random.exponential();
}

std::optional<Picoseconds> ArrivalProcess::next() {
  if (stage_ == stages_.size()) return std::nullopt;
  work_ += gap();
  while (work_ >= stages_[stage_].request_rate * stages_[stage_].duration_s) {
    work_ -= stages_[stage_].request_rate * stages_[stage_].duration_s;
    stage_start_ += stages_[stage_].duration_s;
    if (++stage_ == stages_.size()) return std::nullopt;
  }
  return to_picoseconds(Seconds(stage_start_ + work_ / stages_[stage_].request_rate));
}

double ArrivalProcess::mean_rate() const {
  if (stages_.size() == 1) return stages_[0].request_rate;
  double requests = 0, seconds = 0;
  for (const RateStage& stage : stages_) {
    requests += stage.request_rate * stage.duration_s;
    seconds += stage.duration_s;
  }
  return requests / seconds;
}

}  // namespace foretoken
