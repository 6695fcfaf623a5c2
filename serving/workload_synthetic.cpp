// Open loop: requests with drawn or recorded arrivals, or all at once. Also the run pool of all workloads.
#include <fmt/format.h>

#include <utility>

#include "base/text.h"
#include "serving/content.h"
#include "serving/workload_parts.h"

namespace foretoken {

void RunPool::put(Request& request, std::span<const ContentRun> runs) {
  request.first_run = request.num_runs = 0;
  if (runs.empty()) return;
  if (free_.empty()) {
    free_.push_back(static_cast<std::int32_t>(slots_.size()));
    slots_.emplace_back();
  }
  request.first_run = free_.back();
  free_.pop_back();
  auto& slot = slots_[static_cast<std::size_t>(request.first_run)];
  slot.assign(runs.begin(), runs.end());
  std::int64_t rest = request.input_len;
  for (const ContentRun& run : runs) rest -= run.tokens;
  if (rest > 0) slot.push_back({private_prompt_content(request.id), rest});
  request.num_runs = static_cast<std::int32_t>(slot.size());
}

std::span<const ContentRun> RunPool::get(const Request& request) const {
  if (request.num_runs == 0) return {};
  return slots_[static_cast<std::size_t>(request.first_run)];
}

void RunPool::release(const Request& request) {
  if (request.num_runs > 0) free_.push_back(request.first_run);
}

Request make_request(RequestId id, Picoseconds arrival, const TraceEntry& entry, RunPool& pool) {
  Request request;
  request.id = id;
  request.arrival = arrival;
  request.input_len = static_cast<std::int32_t>(entry.input_len);
  request.output_len = static_cast<std::int32_t>(entry.output_len);
  request.turn = entry.turn;
  request.priority = entry.priority.value_or(0);
  pool.put(request, entry.runs);
  return request;
}

OpenLoopWorkload::OpenLoopWorkload(std::unique_ptr<RequestSource> source, Timing timing,
                                   std::optional<ArrivalProcess> arrivals)
    : source_(std::move(source)), timing_(timing), arrivals_(std::move(arrivals)) {
  look_ahead();
}

void OpenLoopWorkload::look_ahead() {
  ahead_.reset();
  if (next_id_ == source_->total()) return;
  source_->next(entry_);
  Picoseconds arrival = timing_ == Timing::kRecorded ? entry_.arrival : 0;
  if (timing_ == Timing::kDrawn) arrival = arrivals_->next().value();
  ahead_ = make_request(next_id_++, arrival, entry_, pool_);
}

std::optional<Picoseconds> OpenLoopWorkload::next_arrival() const {
  if (!ahead_) return std::nullopt;
  return ahead_->arrival;
}

Request OpenLoopWorkload::pop() {
  const Request request = ahead_.value();
  look_ahead();
  return request;
}

void OpenLoopWorkload::finished(const Request& request, Picoseconds /*at*/) { pool_.release(request); }

std::string OpenLoopWorkload::describe() const {
  const std::string count = with_commas(source_->total());
  switch (timing_) {
    case Timing::kRecorded:
      return fmt::format("{}, {} requests", source_->describe(), count);
    case Timing::kDrawn:
      return fmt::format("{}, {} requests at {} a second", source_->describe(), count,
                         significant(arrivals_->mean_rate(), 4));
    case Timing::kAllAtOnce:
      break;
  }
  return fmt::format("{}, {} requests all at once", source_->describe(), count);
}

Workload::Means OpenLoopWorkload::means() const {
  Means means = source_->means();
  if (timing_ == Timing::kDrawn) means.request_rate = arrivals_->mean_rate();
  if (timing_ == Timing::kAllAtOnce) means.request_rate = 0;
  return means;
}

}  // namespace foretoken
