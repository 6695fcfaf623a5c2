// Which priority each request is sent with: a draw from the workload's classes, where its trace says nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "serving/request_source.h"

namespace foretoken {

class PriorityDraw {
 public:
  explicit PriorityDraw(const WorkloadConfig& config);
  bool any() const { return !classes_.empty(); }
  // Of the request, or conversation, of this number; 0 without classes.
  std::int32_t operator()(std::int64_t number) const;

 private:
  std::vector<PriorityClass> classes_;
  std::vector<double> cumulative_;
  std::uint64_t seed_;
};

// Gives the requests of another source a priority each.
class PrioritizedSource : public RequestSource {
 public:
  PrioritizedSource(std::unique_ptr<RequestSource> source, const PriorityDraw& draw);
  void next(TraceEntry& entry) override;
  std::int64_t total() const override { return source_->total(); }
  Workload::Means means() const override { return source_->means(); }
  std::int64_t longest() const override { return source_->longest(); }
  std::string describe() const override { return source_->describe(); }

 private:
  std::unique_ptr<RequestSource> source_;
  PriorityDraw draw_;
  std::int64_t index_ = 0;
};

}  // namespace foretoken
