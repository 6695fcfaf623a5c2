// What sessions look like, apart from when they come: requests that follow one another, each with what it
// keeps of the one before. Conversations, agents with tools, and traces of either.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "serving/request_source.h"

namespace foretoken {

struct SessionCall {
  std::int64_t kept = 0;  // of the tokens of the prompt before and its answer, so many from the first on
  std::int64_t input_len = 0, output_len = 0;
  Picoseconds pause = 0;  // from its answer to the next call; after the last: until the place is free again
  std::vector<ContentRun> runs;  // of the prompt after what is kept; what they leave over is its own
};

struct Session {
  Picoseconds arrival = 0;  // of its first call, in a trace
  std::vector<SessionCall> calls;
};

class SessionSource {
 public:
  virtual ~SessionSource() = default;
  // The next session, held by this user. Call at most sessions() times.
  virtual void next(std::int64_t user, Session& session) = 0;
  virtual Picoseconds next_arrival() const { return 0; }  // of the session that comes next, as recorded
  virtual std::int64_t sessions() const = 0;
  virtual std::int64_t requests() const = 0;
  virtual Workload::Means means() const = 0;  // request_rate: of a trace's recorded arrivals, else 0
  virtual std::int64_t longest() const = 0;   // prompt + answer; 0: open
  virtual std::string describe() const = 0;   // "agentic sessions of 8 calls"
};

// A turn's prompt is the last prompt, its answer, and new tokens. Lengths depend on conversation and turn
// alone, not on when they happen.
class ChatSource : public SessionSource {
 public:
  // total: requests in all; the last conversation is cut short when it is no multiple of the turns.
  ChatSource(const WorkloadConfig& config, std::int64_t total, const std::filesystem::path& folder,
             const std::string& where);
  void next(std::int64_t user, Session& session) override;
  std::int64_t sessions() const override { return conversations_; }
  std::int64_t requests() const override { return total_; }
  Workload::Means means() const override;
  std::int64_t longest() const override;
  std::string describe() const override;

 private:
  std::int64_t turns_of(std::int64_t conversation) const;
  LengthPair lengths_;
  SharedPrefix prefix_;
  std::int64_t total_, conversations_, begun_ = 0;
  std::string where_;
};

// Calls with tools in between, drawn for each session by its number alone.
class AgenticSource : public SessionSource {
 public:
  // total: requests in all, the last session cut short; 0: those of `sessions` whole sessions.
  AgenticSource(const WorkloadConfig& config, std::int64_t total, std::int64_t sessions,
                const std::filesystem::path& folder, const std::string& where);
  void next(std::int64_t user, Session& session) override;
  std::int64_t sessions() const override { return sessions_; }
  std::int64_t requests() const override { return total_; }
  Workload::Means means() const override;
  std::int64_t longest() const override { return longest_; }
  std::string describe() const override;

 private:
  std::int64_t calls_of(std::int64_t session) const;
  void draw(std::int64_t session, std::int64_t calls, Session& out) const;
  LengthPair lengths_;
  LengthSampler calls_, tool_tokens_;
  std::optional<LengthSampler> tool_ms_;
  SharedPrefix prefix_;
  std::uint64_t seed_;
  std::string where_;
  std::int64_t total_ = 0, sessions_ = 0, last_calls_ = 0;  // last_calls_: of the last session
  std::int64_t longest_ = 0, begun_ = 0;
  double input_tokens_ = 0, output_tokens_ = 0, kept_tokens_ = 0;
};

}  // namespace foretoken
