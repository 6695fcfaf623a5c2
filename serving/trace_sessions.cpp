#include "serving/trace_sessions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "serving/trace_json.h"

namespace foretoken {
namespace {

using trace_detail::integer;

void check_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& where) {
  for (const auto& item : object.items())
    if (std::find(known.begin(), known.end(), item.key()) == known.end())
      throw Error(where,
                  fmt::format("\"{}\" is not a key of LLMServingSim traces; remove it, and keep to one "
                              "format in a file",
                              item.key()));
}

// Prompt and answer of a call, as far as their token ids are given.
struct Said {
  std::vector<std::int64_t> ids;
  bool has_ids = false;
  std::int64_t prompt = 0, answer = 0;
};

std::int64_t kept_of(const Said& before, const std::vector<std::int64_t>& ids, bool has_ids,
                     std::int64_t input) {
  if (before.has_ids && has_ids)
    return std::mismatch(before.ids.begin(), before.ids.end(), ids.begin(), ids.end()).first -
           before.ids.begin();
  if (input >= before.prompt + before.answer) return before.prompt + before.answer;
  return input >= before.prompt ? before.prompt : 0;
}

Picoseconds tool_time(const Json& call, const std::string& where) {
  if (!call.contains("tool_duration_ns")) return 0;
  const double ns = trace_detail::number(call, "tool_duration_ns", where);
  if (ns < 0) throw Error(where, fmt::format("tool_duration_ns is negative ({})", significant(ns, 6)));
  return trace_detail::clock_time(ns, 1e3, "tool_duration_ns", where);
}

void add_call(const Json& json, Said& said, Session& session, const std::string& where) {
  if (!json.is_object()) throw Error(where, "a call is not a JSON object; correct the line");
  TraceEntry entry;
  entry.input_len = integer(json, "input_toks", where);
  entry.output_len = integer(json, "output_toks", where);
  trace_detail::check_lengths(entry, "input_toks", "output_toks", where);
  const auto ids_of = [&](std::string_view key, std::int64_t count, std::string_view count_key) {
    const auto at = json.find(key);
    if (at == json.end() || at->is_null()) return std::optional<std::vector<std::int64_t>>();
    return std::optional(trace_detail::token_ids(*at, count, key, count_key, where));
  };
  auto prompt = ids_of("input_tok_ids", entry.input_len, "input_toks");
  const auto answer = ids_of("output_tok_ids", entry.output_len, "output_toks");
  const bool has_ids = prompt.has_value();
  std::vector<std::int64_t> ids = has_ids ? std::move(*prompt) : std::vector<std::int64_t>();

  SessionCall call;
  call.input_len = entry.input_len, call.output_len = entry.output_len;
  if (!session.calls.empty()) call.kept = kept_of(said, ids, has_ids, entry.input_len);
  // What sessions have in common is their first prompt's beginning.
  if (session.calls.empty() && has_ids) trace_detail::add_tokens(ids, call.runs);
  call.pause = tool_time(json, where);
  session.calls.push_back(std::move(call));

  if (has_ids && answer) ids.insert(ids.end(), answer->begin(), answer->end());
  said = {std::move(ids), has_ids, entry.input_len, entry.output_len};
}

}  // namespace

bool is_session_trace(const std::filesystem::path& path) {
  LineReader lines(path);
  std::string line;
  bool first = true;
  while (lines.next(line)) {
    if (trim(line).empty()) continue;
    if (line.find("\"sub_requests\"") != std::string::npos) return true;
    if (first && line.find("\"input_toks\"") == std::string::npos) return false;
    first = false;
  }
  return false;
}

bool SessionTraceReader::next(Session& session) {
  do {
    if (!lines_.next(line_)) return false;
  } while (trim(line_).empty());
  const std::string at = where();
  const Json json = parse_json(line_, at);
  if (!json.is_object())
    throw Error(at, "the line is not a JSON object; a JSONL trace has one session on each line");
  session = {};
  Said said;
  id_.clear();
  session.arrival =
      trace_detail::clock_time(trace_detail::number(json, "arrival_time_ns", at), 1e3, "arrival_time_ns", at);
  const auto calls = json.find("sub_requests");
  if (calls == json.end()) {
    check_keys(json, {"input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "output_tok_ids"}, at);
    add_call(json, said, session, at);
    return true;
  }
  check_keys(json, {"session_id", "arrival_time_ns", "sub_requests"}, at);
  const auto id = json.find("session_id");
  if (id == json.end()) throw Error(at, "session_id is missing; fill it in or remove the line");
  if (!id->is_string() && !id->is_number_integer())
    throw Error(at, "session_id is neither a text nor a whole number");
  id_ = id->is_string() ? id->get<std::string>() : id->dump();
  if (!calls->is_array() || calls->empty())
    throw Error(at, "sub_requests is not a list of at least one call; correct or remove the line");
  for (const Json& call : *calls) {
    const std::string here = fmt::format("{}:/sub_requests/{}", at, session.calls.size());
    if (call.is_object())
      check_keys(call, {"input_toks", "output_toks", "tool_duration_ns", "input_tok_ids", "output_tok_ids"},
                 here);
    add_call(call, said, session, here);
  }
  session.calls.back().pause = 0;  // nobody waits for the last one's tool
  return true;
}

SessionTraceSource::SessionTraceSource(const std::filesystem::path& path, std::int64_t total, bool in_order,
                                       double rate_scale)
    : rate_scale_(rate_scale) {
  scan(path, total, in_order);
  reader_ = std::make_unique<SessionTraceReader>(path);
  look_ahead();
}

void SessionTraceSource::scan(const std::filesystem::path& path, std::int64_t total, bool in_order) {
  SessionTraceReader reader(path);
  std::set<std::string> ids;
  Session session;
  while ((total == 0 || requests_ < total) && reader.next(session)) {
    if (in_order && sessions_ > 0 && session.arrival < last_arrival_)
      throw Error(
          reader.where(),
          fmt::format("the session arrives {} before the one above it; sort the file: {} {} | jq -c -s "
                      "'sort_by(.arrival_time_ns)[]' > sorted.jsonl",
                      to_text(to_seconds(last_arrival_ - session.arrival)),
                      path.extension() == ".gz" ? "zcat" : "cat", path.filename().string()));
    if (!reader.id().empty() && !ids.insert(reader.id()).second)
      throw Error(reader.where(), fmt::format("session_id \"{}\" is taken by a session above", reader.id()));
    if (sessions_++ == 0) first_arrival_ = session.arrival;
    last_arrival_ = session.arrival;
    last_calls_ = std::ssize(session.calls);
    if (total > 0) last_calls_ = std::min(last_calls_, total - requests_);
    requests_ += last_calls_;
    for (std::int64_t i = 0; i < last_calls_; ++i) {
      const SessionCall& call = session.calls[static_cast<std::size_t>(i)];
      input_tokens_ += static_cast<double>(call.input_len);
      kept_tokens_ += static_cast<double>(call.kept);
      output_tokens_ += static_cast<double>(call.output_len);
      longest_ = std::max(longest_, call.input_len + call.output_len);
    }
  }
}

void SessionTraceSource::look_ahead() {
  ahead_.reset();
  if (begun_ == sessions_) return;
  ahead_.emplace();
  if (!reader_->next(*ahead_))
    throw Error(reader_->where(), "the trace has become shorter while it was read; run again");
  ++begun_;
  if (begun_ == sessions_) {
    ahead_->calls.resize(static_cast<std::size_t>(last_calls_));
    ahead_->calls.back().pause = 0;
  }
  if (rate_scale_ != 1) ahead_->arrival = std::llround(static_cast<double>(ahead_->arrival) / rate_scale_);
}

void SessionTraceSource::next(std::int64_t, Session& session) {
  session = std::move(ahead_.value());
  look_ahead();
}

Workload::Means SessionTraceSource::means() const {
  const auto n = static_cast<double>(requests_);
  const double seconds = to_seconds(last_arrival_ - first_arrival_).value / rate_scale_;
  const double starts = static_cast<double>(sessions_);
  return {input_tokens_ / n, output_tokens_ / n, seconds > 0 ? (starts - 1) / seconds * n / starts : 0,
          kept_tokens_ / n};
}

std::string SessionTraceSource::describe() const {
  return fmt::format("LLMServingSim trace, {} sessions", with_commas(sessions_));
}

}  // namespace foretoken
