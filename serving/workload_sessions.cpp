// Requests that follow one another in sessions: conversations, and agents with tools.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "serving/content.h"
#include "serving/workload_parts.h"

namespace foretoken {

SessionWorkload::SessionWorkload(std::unique_ptr<SessionSource> source, Timing timing, std::int64_t in_flight,
                                 std::int64_t users, std::optional<ArrivalProcess> arrivals,
                                 const PriorityDraw& priority_of)
    : source_(std::move(source)),
      timing_(timing),
      priority_of_(priority_of),
      arrivals_(std::move(arrivals)),
      closed_(in_flight > 0),
      users_(users),
      places_(in_flight > 0 ? in_flight : users) {
  plan();
}

// When the next session would begin if nothing held it up.
void SessionWorkload::plan() {
  planned_.reset();
  if (arrivals_)
    planned_ = arrivals_->next();
  else if (timing_ == Timing::kRecorded && begun_ < source_->sessions())
    planned_ = source_->next_arrival();
}

// It needs its arrival and a free place.
std::optional<Picoseconds> SessionWorkload::next_start() const {
  if (begun_ == source_->sessions()) return std::nullopt;
  if (limited() && fresh_places_ == places_ && freed_places_.empty()) return std::nullopt;
  const Picoseconds free = limited() && fresh_places_ == places_ ? freed_places_.top().at : 0;
  return std::max(free, planned_.value_or(0));
}

std::optional<Picoseconds> SessionWorkload::next_arrival() const {
  const auto start = next_start();
  if (calls_.empty()) return start;
  return start ? std::min(*start, calls_.top().at) : calls_.top().at;
}

std::int32_t SessionWorkload::begin(Picoseconds now) {
  std::int64_t user = 0;
  if (limited()) {
    if (fresh_places_ < places_) {
      ++fresh_places_;
    } else {
      freed_places_.pop();
    }
  }
  if (users_ > 0) {
    if (fresh_users_ < users_) {
      user = fresh_users_++;
    } else {
      user = idle_users_.front();
      idle_users_.pop_front();
    }
  }
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::int32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  UnderWay& s = slots_[static_cast<std::size_t>(slot)];
  s.number = begun_++;
  s.user = user;
  s.next = 0;
  s.runs.clear();
  s.record = {};
  s.record.begin = now;
  source_->next(user, s.session);
  s.record.calls = std::ssize(s.session.calls);
  plan();
  return slot;
}

Request SessionWorkload::pop() {
  Request request;
  request.arrival = next_arrival().value();
  const auto start = next_start();
  std::int32_t slot = 0;
  if (start && *start == request.arrival) {
    slot = begin(request.arrival);
  } else {
    slot = calls_.top().slot;
    calls_.pop();
  }
  UnderWay& s = slots_[static_cast<std::size_t>(slot)];
  const SessionCall& call = s.session.calls[s.next];
  request.id = next_id_++;
  keep(s.runs, call.kept);
  std::int64_t own = call.input_len - call.kept;
  for (const ContentRun& run : call.runs) {
    s.runs.push_back(run);
    own -= run.tokens;
  }
  if (own > 0) s.runs.push_back({private_prompt_content(request.id), own});
  request.input_len = static_cast<std::int32_t>(call.input_len);
  request.output_len = static_cast<std::int32_t>(call.output_len);
  request.session = static_cast<std::int32_t>(s.number);
  request.turn = static_cast<std::int32_t>(s.next);
  request.priority = priority_of_(s.number);
  request.first_run = slot;
  request.num_runs = static_cast<std::int32_t>(s.runs.size());
  return request;
}

void SessionWorkload::keep(std::vector<ContentRun>& runs, std::int64_t tokens) {
  std::size_t count = 0;
  for (; count < runs.size() && tokens > 0; ++count) {
    runs[count].tokens = std::min(runs[count].tokens, tokens);
    tokens -= runs[count].tokens;
  }
  runs.resize(count);
}

void SessionWorkload::finished(const Request& request, Picoseconds at) {
  UnderWay& s = slots_[static_cast<std::size_t>(request.first_run)];
  const Picoseconds pause = s.session.calls[s.next].pause;
  if (++s.next < s.session.calls.size()) {
    s.runs.push_back({generated_content(request.id), request.output_len});
    s.record.pauses += pause;
    calls_.push({at + pause, s.number, request.first_run});
    return;
  }
  s.record.end = at;
  ended_ = s.record;
  if (limited()) freed_places_.push({at + pause, s.number, -1});
  if (users_ > 0) idle_users_.push_back(s.user);
  free_slots_.push_back(request.first_run);
}

void SessionWorkload::refused(const Request& request, Picoseconds at) {
  slots_[static_cast<std::size_t>(request.first_run)].record.broken = true;
  finished(request, at);
}

std::span<const ContentRun> SessionWorkload::content(const Request& request) const {
  return slots_[static_cast<std::size_t>(request.first_run)].runs;
}

std::string SessionWorkload::describe() const {
  std::string pace;
  if (closed_)
    pace = fmt::format(", {} at a time", with_commas(places_));
  else if (arrivals_)
    pace = fmt::format(", {} begun a second", significant(arrivals_->mean_rate(), 4));
  else if (timing_ != Timing::kRecorded)
    pace = ", begun at once";
  return fmt::format("{}{}, {} requests", source_->describe(), pace, with_commas(source_->requests()));
}

Workload::Means SessionWorkload::means() const {
  Means means = source_->means();
  if (closed_ || timing_ == Timing::kAllAtOnce) means.request_rate = 0;
  if (arrivals_ && !closed_)
    means.request_rate = arrivals_->mean_rate() * static_cast<double>(source_->requests()) /
                         static_cast<double>(source_->sessions());
  return means;
}

}  // namespace foretoken
