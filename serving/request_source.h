// What requests look like, apart from when they come: lengths and shared content, one after the other. Drawn
// from distributions or read from a trace.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "serving/length_distribution.h"
#include "serving/trace_reader.h"
#include "serving/workload.h"

namespace foretoken {

// Draws the lengths of a request from its index alone.
class LengthPair {
 public:
  LengthPair(const WorkloadConfig& config, const std::filesystem::path& folder, const std::string& where);
  // A whole prompt, shared prefix included.
  std::int64_t input(std::int64_t index) const;
  std::int64_t output(std::int64_t index) const;
  double mean_input() const { return input_.mean(prefix_len_ + 1); }
  double mean_output() const { return output_.mean(); }
  std::int64_t longest_input() const { return input_.largest(); }  // 0: open
  std::int64_t longest_output() const { return output_.largest(); }
  std::int64_t prefix_len() const { return prefix_len_; }

 private:
  LengthSampler input_, output_;
  std::uint64_t seed_;
  std::int64_t prefix_len_;
};

class RequestSource {
 public:
  virtual ~RequestSource() = default;
  // The next request; its position in the sequence is its id. Call at most total() times.
  virtual void next(TraceEntry& entry) = 0;
  virtual std::int64_t total() const = 0;
  virtual Workload::Means means() const = 0;  // request_rate: of a trace's recorded arrivals, else 0
  virtual std::int64_t longest() const = 0;
  virtual std::string describe() const = 0;  // "Azure trace"
};

// Runs through prompts with private content, or [prefix of a group][private rest].
class SyntheticSource : public RequestSource {
 public:
  SyntheticSource(const WorkloadConfig& config, std::int64_t total, const std::filesystem::path& folder,
                  const std::string& where);
  void next(TraceEntry& entry) override;
  std::int64_t total() const override { return total_; }
  Workload::Means means() const override;
  std::int64_t longest() const override;
  std::string describe() const override { return "synthetic"; }

 private:
  LengthPair lengths_;
  std::optional<SharedPrefix> prefix_;
  std::uint64_t seed_;
  std::int64_t total_, index_ = 0;
};

// The first `total` requests of a trace; arrivals divided by rate_scale.
class TraceSource : public RequestSource {
 public:
  TraceSource(const std::filesystem::path& path, TraceSummary summary, double rate_scale);
  void next(TraceEntry& entry) override;
  std::int64_t total() const override { return summary_.requests; }
  Workload::Means means() const override;
  std::int64_t longest() const override { return summary_.longest; }
  std::string describe() const override;

 private:
  TraceSummary summary_;
  std::unique_ptr<TraceReader> reader_;
  double rate_scale_;
  std::int64_t index_ = 0;
};

}  // namespace foretoken
