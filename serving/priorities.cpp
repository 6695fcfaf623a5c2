#include "serving/priorities.h"

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "serving/arrivals.h"

namespace foretoken {

PriorityDraw::PriorityDraw(const WorkloadConfig& config)
    : classes_(config.priority_classes), seed_(static_cast<std::uint64_t>(config.seed)) {
  double sum = 0;
  for (const PriorityClass& c : classes_) cumulative_.push_back(sum += c.share);
}

std::int32_t PriorityDraw::operator()(std::int64_t number) const {
  if (classes_.empty()) return 0;
  CounterRandom random(seed_, random_stream::kPriority, static_cast<std::uint64_t>(number));
  const double u = random.uniform() * cumulative_.back();
  const auto at = std::lower_bound(cumulative_.begin(), cumulative_.end() - 1, u);
  return static_cast<std::int32_t>(classes_[static_cast<std::size_t>(at - cumulative_.begin())].priority);
}

PrioritizedSource::PrioritizedSource(std::unique_ptr<RequestSource> source, const PriorityDraw& draw)
    : source_(std::move(source)), draw_(draw) {}

void PrioritizedSource::next(TraceEntry& entry) {
  source_->next(entry);
  const std::int64_t index = index_++;
  if (!entry.priority) entry.priority = draw_(index);
}

}  // namespace foretoken
