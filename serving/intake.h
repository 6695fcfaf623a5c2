// Between a workload and a serving loop: when requests come, and what the workload is told of their ends.
#pragma once

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "serving/engine.h"
#include "serving/metrics.h"
#include "serving/serve.h"
#include "serving/workload.h"

namespace foretoken {

class Intake {
 public:
  Intake(Workload& workload, const ServeOptions& options, MetricsCollector& metrics, ServeResult& result)
      : workload_(workload), options_(options), metrics_(metrics), result_(result) {}

  // When the next request that is known of reaches the scheduler; kNever: there is none.
  Picoseconds next() const {
    const auto arrival = workload_.next_arrival();
    return arrival ? std::max(*arrival, Picoseconds{0}) + options_.ingress : kNever;
  }
  // It, if it has by now; nobody is taken once a run is given up.
  std::optional<Request> take(Picoseconds now) {
    if (result_.aborted || next() > now) return std::nullopt;
    const Request request = workload_.pop();
    if (first_arrival_ < 0) first_arrival_ = request.arrival;
    if (request.input_len < 1 || request.output_len < 1)
      throw std::logic_error("a workload produced a request without prompt or output tokens");
    return request;
  }

  void finished(const Request& request, Picoseconds now) {
    ++completed_;
    workload_.finished(request, now + options_.egress);
    note_session();
  }
  // What became of a request, from the times that a loop keeps of it, to the metrics and the timeline.
  template <class Item>
  void record(const Item& item, std::int32_t engine, std::int32_t preemptions) {
    RequestRecord r;
    r.id = item.request.id;
    r.engine = engine;
    r.session = item.request.session;
    r.input_len = item.request.input_len;
    r.output_len = item.output;
    r.priority = item.request.priority;
    r.arrival = item.request.arrival;
    r.queued = item.queued;
    r.scheduled = item.scheduled;
    r.prefill_done = item.prefill_start;
    r.first_token = item.first_token + options_.egress;
    r.finish = item.last_token + options_.egress;
    r.preemptions = preemptions;
    metrics_.add(r);
    if (options_.timeline != nullptr) options_.timeline->request(r);
  }
  void refuse(const Request& request, const std::string& reason, Picoseconds now) {
    if (result_.rejected++ == 0) result_.rejected_reason = reason;
    drop(request, now);
  }
  // As refuse(), of one that has been counted.
  void drop(const Request& request, Picoseconds now) {
    workload_.refused(request, now + options_.egress);
    note_session();
  }

  // After each round of events: tells how far the run is, and throws Interrupted when it is to stop.
  void check_in() {
    if ((++rounds_ & 4095) != 0) return;
    if (options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed)) throw Interrupted();
    if (!options_.progress || (rounds_ & 65535) != 0) return;
    if (const std::int64_t total = workload_.total_requests(); total > 0)
      options_.progress(static_cast<double>(completed_) / static_cast<double>(total));
  }

  Picoseconds first_arrival() const { return first_arrival_; }  // -1: none yet
  std::int64_t completed() const { return completed_; }

 private:
  void note_session() {
    if (const auto session = workload_.take_ended_session()) metrics_.add_session(*session);
  }

  Workload& workload_;
  const ServeOptions& options_;
  MetricsCollector& metrics_;
  ServeResult& result_;
  Picoseconds first_arrival_ = -1;
  std::int64_t completed_ = 0;
  std::uint64_t rounds_ = 0;
};

}  // namespace foretoken
