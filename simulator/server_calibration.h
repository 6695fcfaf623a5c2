// Fits a few terms of an engine's model to measured runs of one's own server.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "simulator/results/measured_run.h"

namespace foretoken {

struct ServerCalibrationOptions {
  std::vector<std::string> terms;  // keys of engine.host_times; empty: chosen by engine and number of loads
  int threads = 0;                 // 0: all cores
  std::function<void(double share)> progress;
  const std::atomic<bool>* stop = nullptr;  // set: throw Interrupted
};

struct CalibratedTerm {
  std::string name;
  double before = 0, after = 0;
  std::string why_not;  // "" where it was fitted
};

struct CalibratedValue {
  std::size_t run = 0;
  std::string metric;
  bool fitted = false;  // else it is only reported
  double measured = 0, before = 0, after = 0, left_out = 0;
};

struct ServerCalibration {
  std::string device, engine, model;  // full names; the engine as modelled
  int tensor_parallel = 1;
  std::vector<std::string> run_names, run_loads, notes;
  std::int64_t loads = 0;  // different ones
  std::vector<CalibratedTerm> terms;
  std::vector<CalibratedValue> values;
  // Mean |predicted / measured - 1| over fitted values: with the engine's own terms, with the fitted ones,
  // and of each load with terms fitted to the others.
  double error_before = 0, error_after = 0, error_left_out = 0;
  // Whether the fit helps loads that it has not seen; else why not.
  bool improves = false;
  std::string verdict;
};

// scenario: of the server; what it leaves open of the workload comes from the runs. Terms that it states are
// not fitted; terms that a database has already are not used. Throws Error for contradictions, too few
// measurements, and deployments that can't be.
ServerCalibration calibrate_server(const Scenario& scenario, const Resources& resources,
                                   const std::vector<MeasuredRun>& runs,
                                   const ServerCalibrationOptions& options = {});

}  // namespace foretoken
