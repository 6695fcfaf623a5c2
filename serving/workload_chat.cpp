// Multi-turn conversations.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "serving/content.h"
#include "serving/workload_parts.h"

namespace foretoken {

ChatWorkload::ChatWorkload(const WorkloadConfig& config, std::int64_t total, std::int64_t in_flight,
                           std::optional<ArrivalProcess> arrivals, const std::filesystem::path& folder,
                           const std::string& where)
    : lengths_(config, folder, where),
      prefix_(config.shared_prefix.value()),
      priority_of_(config),
      total_(total),
      conversations_((total + prefix_.turns - 1) / prefix_.turns),
      closed_(in_flight > 0),
      arrivals_(std::move(arrivals)),
      where_(where),
      users_(prefix_.groups * prefix_.users_per_group),
      places_(in_flight > 0 ? in_flight : users_) {
  if (arrivals_) planned_ = arrivals_->next();
}

std::int64_t ChatWorkload::turns_of(std::int64_t conversation) const {
  return conversation + 1 < conversations_ ? prefix_.turns : total_ - (conversations_ - 1) * prefix_.turns;
}

// When the next conversation begins: it needs its arrival and a free user.
std::optional<Picoseconds> ChatWorkload::next_start() const {
  if (begun_ == conversations_) return std::nullopt;
  if (fresh_places_ == places_ && freed_places_.empty()) return std::nullopt;
  const Picoseconds free = fresh_places_ < places_ ? 0 : freed_places_.top().at;
  return std::max(free, planned_.value_or(0));
}

std::optional<Picoseconds> ChatWorkload::next_arrival() const {
  const auto start = next_start();
  if (turns_.empty()) return start;
  return start ? std::min(*start, turns_.top().at) : turns_.top().at;
}

std::int32_t ChatWorkload::begin() {
  if (fresh_places_ < places_) {
    ++fresh_places_;
  } else {
    freed_places_.pop();
  }
  std::int64_t user = 0;
  if (fresh_users_ < users_) {
    user = fresh_users_++;
  } else {
    user = idle_users_.front();
    idle_users_.pop_front();
  }
  if (arrivals_) planned_ = arrivals_->next();
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::int32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  Conversation& c = slots_[static_cast<std::size_t>(slot)];
  c.number = begun_++;
  c.user = user;
  c.turn = c.tokens = 0;
  c.runs.clear();
  return slot;
}

Request ChatWorkload::pop() {
  Request request;
  request.arrival = next_arrival().value();
  const auto start = next_start();
  std::int32_t slot = 0;
  if (start && *start == request.arrival) {
    slot = begin();
  } else {
    slot = turns_.top().slot;
    turns_.pop();
  }
  Conversation& c = slots_[static_cast<std::size_t>(slot)];
  const std::int64_t index = c.number * prefix_.turns + c.turn;
  std::int64_t added = lengths_.input(index);
  const std::int64_t output = lengths_.output(index);
  request.id = next_id_++;
  if (c.tokens + added + output > std::numeric_limits<std::int32_t>::max()) {
    throw Error(
        where_ + "/shared_prefix/turns",
        fmt::format("a conversation grows beyond {} tokens by turn {}; use fewer turns or shorter texts",
                    with_commas(std::numeric_limits<std::int32_t>::max()), c.turn + 1));
  }
  c.tokens += added;
  if (c.turn == 0 && prefix_.prefix_len > 0) {
    c.runs.push_back({shared_prefix_content(c.user % prefix_.groups), prefix_.prefix_len});
    added -= prefix_.prefix_len;
  }
  c.runs.push_back({private_prompt_content(request.id), added});
  request.input_len = static_cast<std::int32_t>(c.tokens);
  request.output_len = static_cast<std::int32_t>(output);
  request.session = static_cast<std::int32_t>(c.number);
  request.turn = static_cast<std::int32_t>(c.turn);
  request.priority = priority_of_(c.number);
  request.first_run = slot;
  request.num_runs = static_cast<std::int32_t>(c.runs.size());
  return request;
}

void ChatWorkload::finished(const Request& request, Picoseconds at) {
  Conversation& c = slots_[static_cast<std::size_t>(request.first_run)];
  const Picoseconds next = at + to_picoseconds(Seconds(prefix_.think_time_s));
  if (++c.turn < turns_of(c.number)) {
    c.tokens += request.output_len;
    c.runs.push_back({generated_content(request.id), request.output_len});
    turns_.push({next, c.number, request.first_run});
  } else {
    freed_places_.push({next, c.number, -1});
    idle_users_.push_back(c.user);
    free_slots_.push_back(request.first_run);
  }
}

std::span<const ContentRun> ChatWorkload::content(const Request& request) const {
  return slots_[static_cast<std::size_t>(request.first_run)].runs;
}

std::string ChatWorkload::describe() const {
  const std::string pace = closed_ ? fmt::format("{} at a time", with_commas(places_))
                           : arrivals_
                               ? fmt::format("{} begun a second", significant(arrivals_->mean_rate(), 4))
                               : std::string("begun at once");
  return fmt::format("conversations of {} turns by {} users, {}, {} requests", with_commas(prefix_.turns),
                     with_commas(users_), pace, with_commas(total_));
}

// Turn k of a conversation (from 0) has k answers and k + 1 additions in its prompt.
Workload::Means ChatWorkload::means() const {
  const double in = lengths_.mean_input(), out = lengths_.mean_output();
  const auto before = [](std::int64_t turns) {  // sum of k over the turns
    return static_cast<double>(turns) * static_cast<double>(turns - 1) / 2;
  };
  const std::int64_t last = turns_of(conversations_ - 1);
  const double earlier = static_cast<double>(conversations_ - 1) * before(prefix_.turns) + before(last);
  const double per_request = earlier / static_cast<double>(total_);
  Means means{in * (1 + per_request) + out * per_request, out, 0};
  if (arrivals_ && !closed_) {
    means.request_rate =
        arrivals_->mean_rate() * static_cast<double>(total_) / static_cast<double>(conversations_);
  }
  return means;
}

std::int64_t ChatWorkload::longest() const {
  if (lengths_.longest_input() == 0 || lengths_.longest_output() == 0) return 0;
  return std::min(prefix_.turns, total_) * (lengths_.longest_input() + lengths_.longest_output());
}

}  // namespace foretoken
