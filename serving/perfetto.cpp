// Timeline as Chrome's trace event format, streamed: one JSON object an event, times in microseconds.
#include <fmt/format.h>

#include <string>

#include "base/text.h"
#include "serving/timeline.h"

namespace foretoken {
namespace {

// Picoseconds as microseconds with all digits: doubles would merge events late in a long run.
std::string microseconds(Picoseconds t) {
  const std::string_view sign = t < 0 ? "-" : "";
  const auto magnitude = static_cast<std::uint64_t>(t < 0 ? -t : t);
  return fmt::format("{}{}.{:06}", sign, magnitude / 1'000'000, magnitude % 1'000'000);
}

std::string step_name(const TimelineWriter::StepEvent& e) {
  std::string name;
  if (e.prefill_tokens > 0) {
    name = fmt::format("prefill {}", e.prefill_tokens);
    if (e.decode_tokens > 0) name += fmt::format("+decode {}", e.decode_tokens);
  } else {
    name = fmt::format("decode n={}", e.decode_tokens);
  }
  if (e.steps > 1) name += fmt::format(" x {}", e.steps);
  return name;
}

// Time that the step keeps its lane: to the next step's start. In a pipeline tokens come out later, when the
// next step is already under way, and events of one lane must not overlap.
Picoseconds occupied(const TimelineWriter::StepEvent& e) {
  if (e.steps > 1) return e.steps * e.first + e.increment * (e.steps * (e.steps - 1) / 2);
  return e.time.next_start > 0 ? e.time.next_start : e.time.tokens_out;
}

}  // namespace

PerfettoWriter::PerfettoWriter(const std::filesystem::path& path) : file_(path) {
  file_.write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  event(R"({"ph":"M","pid":1,"name":"process_name","args":{"name":"foretoken"}})");
}

PerfettoWriter::~PerfettoWriter() = default;

void PerfettoWriter::event(std::string_view json) {
  if (!first_) file_.write(",\n");
  first_ = false;
  file_.write(json);
}

void PerfettoWriter::step(const StepEvent& e) {
  const auto engine = static_cast<std::size_t>(e.engine);
  if (engine >= named_.size()) named_.resize(engine + 1);
  if (!named_[engine]) {
    named_[engine] = true;
    event(fmt::format(R"({{"ph":"M","pid":1,"tid":{0},"name":"thread_name","args":{{"name":"engine {0}"}}}})",
                      e.engine));
  }
  const std::string start = microseconds(e.start);
  event(fmt::format(
      R"({{"ph":"X","pid":1,"tid":{},"ts":{},"dur":{},"name":"{}","args":{{"steps":{},"prefill_tokens":{},)"
      R"("decode_tokens":{},"tokens_out_us":{}}}}})",
      e.engine, start, microseconds(occupied(e)), step_name(e), e.steps, e.prefill_tokens, e.decode_tokens,
      microseconds(e.time.tokens_out)));
  event(fmt::format(R"({{"ph":"C","pid":1,"ts":{},"name":"engine {} KV usage","args":{{"share":{}}}}})",
                    start, e.engine, significant(e.kv_usage, 6)));
  event(fmt::format(
      R"({{"ph":"C","pid":1,"ts":{},"name":"engine {} requests","args":{{"running":{},"waiting":{}}}}})",
      start, e.engine, e.running, e.waiting));
}

void PerfettoWriter::mark(char type, RequestId id, std::string_view name, Picoseconds at,
                          std::string_view args) {
  event(fmt::format(R"({{"ph":"{}","cat":"request","id":{},"pid":1,"ts":{},"name":"{}"{}}})", type, id,
                    microseconds(at), name, args));
}

// In the order of their nesting, so that a viewer that sorts by time alone keeps it where times are equal.
void PerfettoWriter::request(const RequestRecord& r) {
  const std::string name = fmt::format("request {}", r.id);
  mark('b', r.id, name, r.arrival,
       fmt::format(
           R"(,"args":{{"engine":{},"input_len":{},"output_len":{},"cached_tokens":{},"preemptions":{}}})",
           r.engine, r.input_len, r.output_len, r.cached_tokens, r.preemptions));
  const auto phase = [&](std::string_view phase_name, Picoseconds begin, Picoseconds end) {
    mark('b', r.id, phase_name, begin, "");
    mark('e', r.id, phase_name, end, "");
  };
  phase("queue", r.arrival, r.scheduled);
  phase("prefill", r.scheduled, r.first_token);
  phase("decode", r.first_token, r.finish);
  mark('e', r.id, name, r.finish, "");
}

void PerfettoWriter::finish() {
  file_.write("\n]}\n");
  file_.commit();
}

}  // namespace foretoken
