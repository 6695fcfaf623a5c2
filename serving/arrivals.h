// When requests (or conversations) begin: a renewal process whose rate may change from stage to stage.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/random.h"
#include "base/units.h"
#include "serving/workload.h"

namespace foretoken {

// Purposes of random draws: one stream for each, so that changing one part of a workload leaves the others
// alone.
namespace random_stream {
inline constexpr std::uint64_t kArrival = 1, kInput = 2, kOutput = 3, kUser = 4, kRouter = 5, kPriority = 6,
                               kCalls = 7, kToolTokens = 8, kToolTime = 9, kLengthGuess = 10;
}

// Draws gaps of mean 1 in units of expected arrivals, and runs through them at the rate of the current stage
// (time change of a renewal process): exact for a Poisson process of piecewise constant rate. Times do not
// decrease.
class ArrivalProcess {
 public:
  // config.request_rate or config.stages. Constant arrivals begin at time 0, the others after the first gap.
  explicit ArrivalProcess(const WorkloadConfig& config);
  std::optional<Picoseconds> next();  // nullopt: the last stage has ended
  double mean_rate() const;           // a second, over all stages

 private:
  double gap();
  enum class Kind { kPoisson, kConstant, kGamma };
  std::vector<RateStage> stages_;  // one without an end for request_rate
  Kind kind_ = Kind::kPoisson;
  double shape_ = 1;
  std::uint64_t seed_ = 0, index_ = 0;
  std::size_t stage_ = 0;
  double stage_start_ = 0;  // s
  double work_ = 0;         // expected arrivals since the stage's start
};

}  // namespace foretoken
