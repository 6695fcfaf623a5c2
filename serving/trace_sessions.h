// LLMServingSim's agentic traces: a session a line, requests of their own among them.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "serving/sessions.h"

namespace foretoken {

// Whether the file is such a trace: some line of it has sub_requests. Throws Error where it can't be read.
bool is_session_trace(const std::filesystem::path& path);

// One session after the other:
//   {"session_id": "s", "arrival_time_ns": 0, "sub_requests":
//     [{"input_toks": 9, "output_toks": 3, "tool_duration_ns": 1000}, ...]}
// A line {"input_toks", "output_toks", "arrival_time_ns"} is a session of one call. A call's prompt keeps of
// the one before, with its answer, what their token ids have in common where both are given; without ids all
// of it if the prompt is that long, the prompt alone if it is as long as that, else nothing
// (https://github.com/casys-kaist/LLMServingSim, docs/docs/workloads/jsonl-format.md at 7c434c6).
class SessionTraceReader {
 public:
  explicit SessionTraceReader(const std::filesystem::path& path) : path_(path), lines_(path) {}
  bool next(Session& session);                   // false at the end; throws Error{"file:line"}
  const std::string& id() const { return id_; }  // of the last one; empty: a request of its own
  std::string where() const { return lines_.where(); }

 private:
  std::filesystem::path path_;
  LineReader lines_;
  std::string line_, id_;
};

class SessionTraceSource : public SessionSource {
 public:
  // The first `total` requests, the last session cut short; 0: all. in_order: recorded arrivals count, so
  // they must not go back. Throws Error for whatever is wrong with the file.
  SessionTraceSource(const std::filesystem::path& path, std::int64_t total, bool in_order, double rate_scale);
  void next(std::int64_t user, Session& session) override;
  Picoseconds next_arrival() const override { return ahead_->arrival; }
  std::int64_t sessions() const override { return sessions_; }
  std::int64_t requests() const override { return requests_; }
  Picoseconds last_arrival() const { return last_arrival_; }
  Workload::Means means() const override;
  std::int64_t longest() const override { return longest_; }
  std::string describe() const override;

 private:
  void scan(const std::filesystem::path& path, std::int64_t total, bool in_order);
  void look_ahead();
  double rate_scale_;
  std::int64_t sessions_ = 0, requests_ = 0, last_calls_ = 0, longest_ = 0, begun_ = 0;
  double input_tokens_ = 0, output_tokens_ = 0, kept_tokens_ = 0;
  Picoseconds first_arrival_ = 0, last_arrival_ = 0;  // as recorded
  std::unique_ptr<SessionTraceReader> reader_;
  std::optional<Session> ahead_;
};

}  // namespace foretoken
