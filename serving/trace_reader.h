// Request traces: eight published formats, plain or gzip, told by their header or first object. One request
// is in memory at a time, except for vLLM's results, which are one JSON value.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "serving/request.h"

namespace foretoken {

struct TraceEntry {
  Picoseconds arrival = 0;  // 0 when the trace has lengths only
  std::int64_t input_len = 0, output_len = 0;
  std::int32_t turn = 0;
  std::optional<std::int32_t> priority;  // where the trace has a column of that name
  std::vector<ContentRun> runs;          // of the prompt, from prefix hashes; empty: private
};

class TraceReader {
 public:
  virtual ~TraceReader() = default;
  virtual bool next(TraceEntry& entry) = 0;  // false at the end; throws Error{"file:line"}
  virtual std::string format() const = 0;    // "Azure", "Mooncake", ...
  virtual bool has_arrivals() const = 0;
  virtual std::string where() const = 0;         // of the last entry
  virtual std::string sort_command() const = 0;  // what puts the file into order of arrival
  virtual std::int64_t left_out() const {
    return 0;
  }  // failed requests passed over so far (no token was produced)
};

std::unique_ptr<TraceReader> open_trace(const std::filesystem::path& path);

// What a pass over a trace finds out. Throws Error for whatever is wrong with it.
struct TraceSummary {
  std::string format;
  bool has_arrivals = false;
  std::int64_t requests = 0, left_out = 0;
  std::int64_t input_tokens = 0, output_tokens = 0;
  std::int64_t longest = 0;  // prompt + output
  Picoseconds first_arrival = 0, last_arrival = 0;
};
// in_order: arrivals are going to be used, so they must not go back. limit: stop after this many requests (0:
// none).
TraceSummary scan_trace(const std::filesystem::path& path, bool in_order, std::int64_t limit = 0);

// The parts that formats share.
namespace trace_detail {

inline constexpr std::string_view kFormatsRead =
    "traces read: Azure CSV (TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake JSONL (timestamp, "
    "input_length, "
    "output_length, hash_ids), Qwen Bailian JSONL (the same with chat_id), BurstGPT CSV (Timestamp,Request "
    "tokens,Response tokens), Splitwise CSV (arrival_timestamp,prompt_size,token_size), Vidur CSV "
    "(arrived_at,num_prefill_tokens,num_decode_tokens), LLMServingSim CSV or JSONL "
    "(input_toks,output_toks,arrival_time_ns; sub_requests), APEX JSONL "
    "(StartTimeOffset,ContextTokens,GeneratedTokens), "
    "vLLM "
    "--save-detailed JSON (start_times, input_lens, output_lens); a column or key \"priority\" may be added "
    "to "
    "CSV and JSONL";

std::unique_ptr<TraceReader> open_csv_trace(const std::filesystem::path& path);
std::unique_ptr<TraceReader> open_jsonl_trace(const std::filesystem::path& path);
std::unique_ptr<TraceReader> open_vllm_results(const std::filesystem::path& path);

// Lengths that a request may have; throws Error{where}.
void check_lengths(const TraceEntry& entry, std::string_view input_name, std::string_view output_name,
                   const std::string& where);
// A column, or key, that every format may have beside its own.
inline constexpr std::string_view kPriority = "priority";
// Throws Error{where} where a priority is beyond 32 bits.
std::int32_t checked_priority(std::int64_t value, const std::string& where);
// value x unit (picoseconds) on the virtual clock; throws Error{where} when negative or beyond it (106 days).
Picoseconds clock_time(double value, double unit, std::string_view name, const std::string& where);

// "2023-11-16 18:15:46.6805900", "2024-05-10T00:00:00.009930+00:00", "...Z"; throws Error{where}.
struct Timestamp {
  std::int64_t seconds = 0;  // since 1970, UTC
  std::int64_t picoseconds = 0;
};
Timestamp parse_timestamp(std::string_view text, const std::string& where);

}  // namespace trace_detail
}  // namespace foretoken
