// Closed loop: a fixed number of clients, each with one request in flight.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "serving/workload_parts.h"

namespace foretoken {

ClosedLoopWorkload::ClosedLoopWorkload(std::unique_ptr<RequestSource> source, std::int64_t max_concurrency,
                                       std::optional<ArrivalProcess> arrivals)
    : source_(std::move(source)),
      max_concurrency_(max_concurrency),
      unused_(max_concurrency),
      arrivals_(std::move(arrivals)) {
  if (arrivals_) planned_ = arrivals_->next();
}

std::optional<Picoseconds> ClosedLoopWorkload::next_arrival() const {
  if (next_id_ == source_->total()) return std::nullopt;
  if (unused_ == 0 && freed_.empty()) return std::nullopt;
  const Picoseconds slot = unused_ > 0 ? 0 : freed_.top();
  return std::max(slot, planned_.value_or(0));
}

Request ClosedLoopWorkload::pop() {
  const Picoseconds arrival = next_arrival().value();
  if (unused_ > 0) {
    --unused_;
  } else {
    freed_.pop();
  }
  if (arrivals_) planned_ = arrivals_->next();
  source_->next(entry_);
  return make_request(next_id_++, arrival, entry_, pool_);
}

void ClosedLoopWorkload::finished(const Request& request, Picoseconds at) {
  pool_.release(request);
  freed_.push(at);
}

std::string ClosedLoopWorkload::describe() const {
  const std::string rate =
      arrivals_ ? fmt::format(", sent at {} a second at most", significant(arrivals_->mean_rate(), 4)) : "";
  return fmt::format("{}, {} requests, {} in flight{}", source_->describe(), with_commas(source_->total()),
                     with_commas(max_concurrency_), rate);
}

Workload::Means ClosedLoopWorkload::means() const {
  Means means = source_->means();
  means.request_rate = 0;
  return means;
}

}  // namespace foretoken
