// Measures a model's operators on this machine: steps of many sizes, each operator's time a row of the
// hardware database; and steps of other sizes, to see what the rows are worth.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "executor/executed_backend.h"
#include "hwdb/measurement.h"

namespace foretoken {

struct CalibrationOptions {
  double budget_seconds = 60;  // sizes are measured again and again until it is spent, once at least
  std::string device;          // whose rows they are
  std::string date, source;
  std::function<void(double share)> progress;
  const std::atomic<bool>* stop = nullptr;  // set: throw Interrupted
};

struct Calibration {
  std::vector<Measurement> rows;  // median of all layers and repeats, with their spread
  std::vector<StepRun> held_out;  // steps of sizes that the rows don't have, the median of their repeats
  std::vector<double> spread;  // of each held-out step's repeats: half of 10th to 90th percentile, relative
  std::int64_t steps = 0, polluted = 0;  // run, and left out because another process ran meanwhile
};

Calibration calibrate(const Deployment& deployment, const ModelText& model, const ExecutorOptions& executor,
                      const CalibrationOptions& options);

// The row that an operator's time makes; nothing for operators that no table holds.
std::optional<Measurement> measurement_of(const Op& op);

}  // namespace foretoken
