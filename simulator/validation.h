// Predictions beside measurements: every row of a file of measurements predicted or refused by name, and the
// error by group. Results are data; validation_report.cpp makes JSON, tables and CSV of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/table.h"
#include "deployment/deployment.h"
#include "hwdb/kernel_table.h"

namespace foretoken {

// What another predictor said of the same value.
struct PeerValue {
  std::int32_t peer = 0;  // of Validation::peer_names
  double predicted = 0;
};

// One measured value of one row. Indices point into the lists of Validation.
struct ValidationLine {
  std::int64_t row = 0;  // data lines from 1
  std::int32_t group = 0;
  std::int32_t part = -1;     // finer group, -1: none
  std::int32_t refusal = -1;  // -1: predicted
  std::int32_t metric = 0;
  double measured = 0;  // NaN where a refused row's value could not be read
  double predicted = 0, low = 0, high = 0;
  Basis basis = Basis::kRoofline;  // what most of the predicted time rests on
  std::vector<PeerValue> peers;
};

// Over the predicted lines of one group and metric. APE is |predicted / measured - 1|.
struct ErrorSummary {
  std::string by, metric;
  std::int64_t n = 0;
  double mape = 0, median_ape = 0, p90_ape = 0;
  double bias = 0;             // mean of predicted / measured - 1
  double within_interval = 0;  // share of measured values inside [low, high]
};

// Another predictor and this one over the lines that both predict.
struct PeerSummary {
  std::string peer, metric;
  ErrorSummary theirs, ours;
};

// What a strategy changes: how many times better a metric of a run is than of the run that it is compared
// with (times: theirs over its; rates: its over theirs).
struct StrategyEffect {
  std::string strategy, run, baseline, metric;
  double measured = 0, predicted = 0;
  double spread = 0;  // of the measured one, relative, by the repeats of both runs; 0: not repeated
  enum class Sign { kRight, kWrong, kWithinSpread };
  Sign sign() const;
};

struct Validation {
  std::string title, group_title, part_title;  // "device, engine and type"
  std::vector<std::string> metrics, group_names, part_names, refusal_names, peer_names;
  std::vector<ValidationLine> lines;
  std::vector<std::string> notes;
  std::vector<StrategyEffect> effects;  // of runs
  // Filled by summarize().
  std::int64_t rows = 0, predicted = 0, refused = 0;
  std::map<std::string, std::int64_t> refusals;  // rows by reason
  std::vector<ErrorSummary> groups, parts, pooled;
  std::vector<PeerSummary> peers;
};

// Counts and errors from the lines. Groups and parts are sorted by name.
void summarize(Validation& validation);

// Gives each name of a list its place in it; names stay in the order of their first use.
class NameIndex {
 public:
  explicit NameIndex(std::vector<std::string>& names) : names_(&names) {}
  std::int32_t of(const std::string& name);

 private:
  std::vector<std::string>* names_;
  std::map<std::string, std::int32_t> index_;
};

struct ValidateOptions {
  int threads = 0;         // 0: all cores
  bool intervals = false;  // serving rows: simulate both ends of the interval instead of scaling latencies
  std::filesystem::path recipes;  // serving rows: flags of published benchmarks (ServerRecipes); may be empty
  std::function<void(double done_share)> progress;
  const std::atomic<bool>* stop = nullptr;  // set: throw Interrupted
};

// Each row's operator priced with the kernels of the row's own engine where the database has them. `kind` as
// in read_measurements(). Groups: device, engine, type; parts: device, operator, basis.
Validation validate_operators(const std::filesystem::path& file, const std::string& kind,
                              const Database& database, const ValidateOptions& options = {});

// Each row's load served in virtual time; equal rows once. Groups: model, device, engine; parts: device,
// engine.
Validation validate_end_to_end(const std::filesystem::path& file, const Resources& resources,
                               const ValidateOptions& options = {});

// Each folder in `folder` holds scenario.json and measured.json (keys of `vllm bench serve`; "executor": this
// program's own ran it, whose times are then predicted; "spread": relative, by metric). Groups: the
// scenarios. effects.csv (strategy,run,baseline) names the runs that are compared.
Validation validate_runs(const std::filesystem::path& folder, const Resources& resources,
                         const ValidateOptions& options = {});

Json validation_json(const Validation& validation);
std::vector<Table> validation_tables(const Validation& validation);
// row,group,metric,measured,predicted,low,high,basis,refusal
std::string validation_csv(const Validation& validation);

}  // namespace foretoken
