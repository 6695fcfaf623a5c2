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
#include <vector>

#include "serving/arrivals.h"
#include "serving/priorities.h"
#include "serving/request_source.h"
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

// Conversations: a turn's prompt is the last prompt, its answer, and new tokens; it comes think_time after
// the answer. groups x users_per_group users hold one conversation at a time each; a conversation that begins
// while all are busy waits for the first to become free. Lengths depend on conversation and turn alone, not
// on when they happen.
class ChatWorkload : public Workload {
 public:
  // total: requests in all; the last conversation is cut short when it is no multiple of the turns.
  // in_flight: conversations that are under way at most (closed loop; 0: as many as users). arrivals: when
  // conversations begin; none: as soon as they may.
  ChatWorkload(const WorkloadConfig& config, std::int64_t total, std::int64_t in_flight,
               std::optional<ArrivalProcess> arrivals, const std::filesystem::path& folder,
               const std::string& where);
  std::optional<Picoseconds> next_arrival() const override;
  Request pop() override;
  void finished(const Request& request, Picoseconds at) override;
  std::int64_t total_requests() const override { return total_; }
  std::span<const ContentRun> content(const Request& request) const override;
  std::string describe() const override;
  Means means() const override;
  std::int64_t longest() const override;

 private:
  struct Conversation {
    std::int64_t number = 0, user = 0, turn = 0, tokens = 0;  // tokens: of prompt and answers so far
    std::vector<ContentRun> runs;
  };
  struct Waiting {  // a place for a conversation, or a conversation's next turn
    Picoseconds at = 0;
    std::int64_t order = 0;  // conversation number
    std::int32_t slot = -1;
    bool operator>(const Waiting& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  using Queue = std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>>;

  std::optional<Picoseconds> next_start() const;
  std::int32_t begin();
  std::int64_t turns_of(std::int64_t conversation) const;

  LengthPair lengths_;
  SharedPrefix prefix_;
  PriorityDraw priority_of_;
  std::int64_t total_, conversations_;
  bool closed_;
  std::optional<ArrivalProcess> arrivals_;
  std::optional<Picoseconds> planned_;
  std::string where_;
  std::vector<Conversation> slots_;
  std::vector<std::int32_t> free_slots_;
  std::int64_t users_, places_;                      // places_: conversations under way at most
  std::int64_t fresh_users_ = 0, fresh_places_ = 0;  // those already used once
  std::deque<std::int64_t> idle_users_;              // in the order in which their conversations ended
  Queue turns_, freed_places_;
  std::int64_t begun_ = 0;
  RequestId next_id_ = 0;
};

}  // namespace foretoken
