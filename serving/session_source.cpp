// Conversations and agents, drawn.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "serving/arrivals.h"
#include "serving/content.h"
#include "serving/sessions.h"

namespace foretoken {
namespace {

constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();
// Draws of a session's calls are told apart by the call's number in the low bits.
constexpr std::int64_t kCallBits = 20;
constexpr Picoseconds kPicosPerMillisecond = 1'000'000'000;

void add_prefix(std::int64_t group, std::int64_t tokens, Session& session) {
  if (tokens > 0) session.calls.front().runs.push_back({shared_prefix_content(group), tokens});
}

// Of a request's prompt: begun by all sessions, but computed first by one of each group.
double shared_share(const SharedPrefix& prefix, std::int64_t sessions, std::int64_t requests) {
  return static_cast<double>(prefix.prefix_len) *
         static_cast<double>(sessions - std::min(prefix.groups, sessions)) / static_cast<double>(requests);
}

}  // namespace

ChatSource::ChatSource(const WorkloadConfig& config, std::int64_t total, const std::filesystem::path& folder,
                       const std::string& where)
    : lengths_(config, folder, where),
      prefix_(config.shared_prefix.value()),
      total_(total),
      conversations_((total + prefix_.turns - 1) / prefix_.turns),
      where_(where) {}

std::int64_t ChatSource::turns_of(std::int64_t conversation) const {
  return conversation + 1 < conversations_ ? prefix_.turns : total_ - (conversations_ - 1) * prefix_.turns;
}

void ChatSource::next(std::int64_t user, Session& session) {
  session = {};
  const std::int64_t number = begun_++;
  std::int64_t kept = 0;
  for (std::int64_t turn = 0; turn < turns_of(number); ++turn) {
    const std::int64_t index = number * prefix_.turns + turn;
    SessionCall& call = session.calls.emplace_back();
    call.kept = kept;
    call.input_len = kept + lengths_.input(index);
    call.output_len = lengths_.output(index);
    call.pause = to_picoseconds(Seconds(prefix_.think_time_s));
    kept = call.input_len + call.output_len;
    if (kept > kMostTokens)
      throw Error(
          where_ + "/shared_prefix/turns",
          fmt::format("a conversation grows beyond {} tokens by turn {}; use fewer turns or shorter texts",
                      with_commas(kMostTokens), turn + 1));
  }
  add_prefix(user % prefix_.groups, prefix_.prefix_len, session);
}

// Turn k of a conversation (from 0) has k answers and k + 1 additions in its prompt.
Workload::Means ChatSource::means() const {
  const double in = lengths_.mean_input(), out = lengths_.mean_output();
  const auto before = [](std::int64_t turns) {  // sum of k over the turns
    return static_cast<double>(turns) * static_cast<double>(turns - 1) / 2;
  };
  const std::int64_t last = turns_of(conversations_ - 1);
  const double earlier = static_cast<double>(conversations_ - 1) * before(prefix_.turns) + before(last);
  const double per_request = earlier / static_cast<double>(total_);
  return {in * (1 + per_request) + out * per_request, out, 0, (in + out) * per_request,
          shared_share(prefix_, conversations_, total_)};
}

std::int64_t ChatSource::longest() const {
  if (lengths_.longest_input() == 0 || lengths_.longest_output() == 0) return 0;
  return std::min(prefix_.turns, total_) * (lengths_.longest_input() + lengths_.longest_output());
}

std::string ChatSource::describe() const {
  return fmt::format("conversations of {} turns by {} users", with_commas(prefix_.turns),
                     with_commas(prefix_.groups * prefix_.users_per_group));
}

AgenticSource::AgenticSource(const WorkloadConfig& config, std::int64_t total, std::int64_t sessions,
                             const std::filesystem::path& folder, const std::string& where)
    : lengths_(config, folder, where),
      calls_(config.agentic->calls.value(), folder, where + "/agentic/calls"),
      tool_tokens_(config.agentic->tool_tokens.value(), folder, where + "/agentic/tool_tokens"),
      prefix_(config.shared_prefix.value_or(SharedPrefix())),
      seed_(static_cast<std::uint64_t>(config.seed)),
      where_(where) {
  if (config.agentic->tool_ms) tool_ms_.emplace(*config.agentic->tool_ms, folder, where + "/agentic/tool_ms");
  if (calls_.largest() == 0 || calls_.largest() >= std::int64_t{1} << kCallBits)
    throw Error(where + "/agentic/calls", "is not bounded below 1,048,576; give the distribution a \"max\"");
  Session session;
  while (total > 0 ? total_ < total : sessions_ < sessions) {
    last_calls_ = calls_of(sessions_);
    if (total > 0) last_calls_ = std::min(last_calls_, total - total_);
    draw(sessions_++, last_calls_, session);
    total_ += last_calls_;
    for (const SessionCall& call : session.calls) {
      input_tokens_ += static_cast<double>(call.input_len);
      output_tokens_ += static_cast<double>(call.output_len);
      kept_tokens_ += static_cast<double>(call.kept);
      longest_ = std::max(longest_, call.input_len + call.output_len);
    }
  }
}

std::int64_t AgenticSource::calls_of(std::int64_t session) const {
  return calls_.draw(CounterRandom(seed_, random_stream::kCalls, static_cast<std::uint64_t>(session)));
}

void AgenticSource::draw(std::int64_t number, std::int64_t calls, Session& session) const {
  session = {};
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < calls; ++i) {
    const std::int64_t index = number << kCallBits | i;
    const auto random = [&](std::uint64_t stream) {
      return CounterRandom(seed_, stream, static_cast<std::uint64_t>(index));
    };
    SessionCall& call = session.calls.emplace_back();
    call.kept = kept;
    call.input_len =
        i == 0 ? lengths_.input(index) : kept + tool_tokens_.draw(random(random_stream::kToolTokens));
    call.output_len = lengths_.output(index);
    if (tool_ms_ && i + 1 < calls)
      call.pause = tool_ms_->draw(random(random_stream::kToolTime)) * kPicosPerMillisecond;
    kept = call.input_len + call.output_len;
    if (kept > kMostTokens)
      throw Error(where_ + "/agentic/calls",
                  fmt::format("a session grows beyond {} tokens by call {}; use fewer calls or shorter texts",
                              with_commas(kMostTokens), i + 1));
  }
}

void AgenticSource::next(std::int64_t, Session& session) {
  const std::int64_t number = begun_++;
  draw(number, number + 1 < sessions_ ? calls_of(number) : last_calls_, session);
  CounterRandom random(seed_, random_stream::kUser, static_cast<std::uint64_t>(number));
  add_prefix(random.uniform_int(0, prefix_.groups - 1), prefix_.prefix_len, session);
}

Workload::Means AgenticSource::means() const {
  const auto n = static_cast<double>(total_);
  return {input_tokens_ / n, output_tokens_ / n, 0, kept_tokens_ / n,
          shared_share(prefix_, sessions_, total_)};
}

std::string AgenticSource::describe() const {
  return fmt::format("{} agentic sessions of {} calls", with_commas(sessions_),
                     significant(static_cast<double>(total_) / static_cast<double>(sessions_), 4));
}

}  // namespace foretoken
