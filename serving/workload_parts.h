// The three kinds of Workload that make_workload chooses from, and the storage of prompt contents that they
// share.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "serving/arrivals.h"
#include "serving/priorities.h"
#include "serving/request_source.h"
#include "serving/sessions.h"
#include "serving/workload.h"

namespace foretoken {

// Content runs of the requests in flight. A slot is given back when its request ends, so memory follows the
// number of requests in flight; a span stays valid until then (growth moves the lists, not their elements).
class RunPool {
 public:
  // Fills first_run and num_runs. What the runs leave over of the prompt becomes the request's own content.
  void put(Request& request, std::span<const ContentRun> runs);
  std::span<const ContentRun> get(const Request& request) const;
  void release(const Request& request);

 private:
  std::vector<std::vector<ContentRun>> slots_;
  std::vector<std::int32_t> free_;
};

Request make_request(RequestId id, Picoseconds arrival, const TraceEntry& entry, RunPool& pool);

enum class Timing { kRecorded, kDrawn, kAllAtOnce };

// Requests come regardless of how the system fares.
class OpenLoopWorkload : public Workload {
 public:
  // arrivals: given when timing is kDrawn.
  OpenLoopWorkload(std::unique_ptr<RequestSource> source, Timing timing,
                   std::optional<ArrivalProcess> arrivals);
  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request& request, Picoseconds at) override;
  std::int64_t total_requests() const override { return source_->total(); }
  std::span<const ContentRun> content(const Request& request) const override { return pool_.get(request); }
  std::string describe() const override;
  Means means() const override;
  std::int64_t longest() const override { return source_->longest(); }

 private:
  void look_ahead();
  std::unique_ptr<RequestSource> source_;
  Timing timing_;
  std::optional<ArrivalProcess> arrivals_;
  RunPool pool_;
  TraceEntry entry_;
  std::optional<Request> ahead_;
  RequestId next_id_ = 0;
};

// max_concurrency requests start at time 0, each end starts the next. With arrivals as well, a request also
// waits for its arrival, as `vllm bench serve --request-rate R --max-concurrency C` does; its time counts
// from when it is sent.
class ClosedLoopWorkload : public Workload {
 public:
  ClosedLoopWorkload(std::unique_ptr<RequestSource> source, std::int64_t max_concurrency,
                     std::optional<ArrivalProcess> arrivals);
  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request& request, Picoseconds at) override;
  std::int64_t total_requests() const override { return source_->total(); }
  std::span<const ContentRun> content(const Request& request) const override { return pool_.get(request); }
  std::string describe() const override;
  Means means() const override;
  std::int64_t longest() const override { return source_->longest(); }

 private:
  std::unique_ptr<RequestSource> source_;
  std::int64_t max_concurrency_, unused_;  // unused_: client slots that have not sent anything yet
  std::optional<ArrivalProcess> arrivals_;
  std::optional<Picoseconds> planned_;  // next arrival of arrivals_
  std::priority_queue<Picoseconds, std::vector<Picoseconds>, std::greater<>> freed_;
  RunPool pool_;
  TraceEntry entry_;
  RequestId next_id_ = 0;
};

// Sessions: their first requests come by `timing` or arrivals, each further one its pause after the answer to
// the one before. A session that begins while all users, or all places, are taken waits for the first to
// become free.
class SessionWorkload : public Workload {
 public:
  // in_flight: sessions that are under way at most (closed loop; 0: as many as users). users: who hold one
  // session at a time each; 0: anybody. arrivals: when sessions begin, where timing is kDrawn.
  SessionWorkload(std::unique_ptr<SessionSource> source, Timing timing, std::int64_t in_flight,
                  std::int64_t users, std::optional<ArrivalProcess> arrivals,
                  const PriorityDraw& priority_of);
  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request& request, Picoseconds at) override;
  void refused(const Request& request, Picoseconds at) override;
  std::optional<SessionRecord> take_ended_session() override { return std::exchange(ended_, std::nullopt); }
  std::int64_t total_requests() const override { return source_->requests(); }
  std::span<const ContentRun> content(const Request& request) const override;
  std::string describe() const override;
  Means means() const override;
  std::int64_t longest() const override { return source_->longest(); }

 private:
  struct UnderWay {
    std::int64_t number = 0, user = 0;
    std::size_t next = 0;  // the call that is being served or comes next
    Session session;
    std::vector<ContentRun> runs;  // of its prompt
    SessionRecord record;
  };
  struct Waiting {  // a place for a session, or a session's next call
    Picoseconds at = 0;
    std::int64_t order = 0;  // session number
    std::int32_t slot = -1;
    bool operator>(const Waiting& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  using Queue = std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>>;

  bool limited() const { return places_ > 0; }
  void plan();
  std::optional<Picoseconds> next_start() const;
  std::int32_t begin(Picoseconds now);
  static void keep(std::vector<ContentRun>& runs, std::int64_t tokens);

  std::unique_ptr<SessionSource> source_;
  Timing timing_;
  PriorityDraw priority_of_;
  std::optional<ArrivalProcess> arrivals_;
  bool closed_;
  std::optional<Picoseconds> planned_;
  std::vector<UnderWay> slots_;
  std::vector<std::int32_t> free_slots_;
  std::int64_t users_, places_;                      // places_: sessions under way at most; 0: any number
  std::int64_t fresh_users_ = 0, fresh_places_ = 0;  // those already used once
  std::deque<std::int64_t> idle_users_;              // in the order in which their sessions ended
  Queue calls_, freed_places_;
  std::int64_t begun_ = 0;
  RequestId next_id_ = 0;
  std::optional<SessionRecord> ended_;
};

}  // namespace foretoken
