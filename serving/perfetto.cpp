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

}  // namespace

Picoseconds occupied(const TimelineWriter::StepEvent& e) {
  if (e.steps > 1) return e.steps * e.first + e.increment * (e.steps * (e.steps - 1) / 2);
  return e.time.next_start > 0 ? e.time.next_start : e.time.tokens_out;
}

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

void PerfettoWriter::name_lane(std::vector<bool>& named, std::int32_t engine, std::int32_t lane,
                               std::string_view name) {
  const auto at = static_cast<std::size_t>(engine);
  if (at >= named.size()) named.resize(at + 1);
  if (named[at]) return;
  named[at] = true;
  event(fmt::format(R"({{"ph":"M","pid":1,"tid":{},"name":"thread_name","args":{{"name":"{} {}"}}}})", lane,
                    name, engine));
}

// A lane for the sending port of each prefill engine.
void PerfettoWriter::transfer(const TransferEvent& e) {
  constexpr std::int32_t kFirstLink = 1'000'000;
  name_lane(named_links_, e.from, kFirstLink + e.from, "KV link of engine");
  event(fmt::format(
      R"({{"ph":"X","pid":1,"tid":{},"ts":{},"dur":{},"name":"KV of request {}","args":{{"to":{},"tokens":{},)"
      R"("queued_us":{}}}}})",
      kFirstLink + e.from, microseconds(e.start), microseconds(e.end - e.start), e.request, e.to,
      e.tokens - e.done, microseconds(e.start - e.asked)));
}

// A lane for each direction of an engine's link to each tier.
void PerfettoWriter::tier(const TierEvent& e) {
  constexpr std::int32_t kFirstLink = 2'000'000, kLinks = 16;
  if (e.declined) return;
  const bool reads = e.to < e.from;
  const std::int32_t tier = reads ? e.from : e.to;
  const std::int32_t direction = 2 * tier + (reads ? 0 : 1);
  const std::int32_t lane = kFirstLink + e.engine * kLinks + direction;
  if (named_tiers_.size() <= static_cast<std::size_t>(direction))
    named_tiers_.resize(static_cast<std::size_t>(direction) + 1);
  name_lane(named_tiers_[static_cast<std::size_t>(direction)], e.engine, lane,
            fmt::format("KV tier {} {} engine", tier, reads ? "to" : "from"));
  event(fmt::format(
      R"({{"ph":"X","pid":1,"tid":{},"ts":{},"dur":{},"name":"{} KV blocks","args":{{"request":{},"queued_us":{}}}}})",
      lane, microseconds(e.start), microseconds(e.duration), e.blocks, e.request,
      microseconds(e.start - e.asked)));
}

void PerfettoWriter::step(const StepEvent& e) {
  name_lane(named_, e.engine, e.engine, "engine");
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
  if (r.moved > 0) {
    phase("prefill", r.scheduled, r.handed_over);
    phase("transfer", r.handed_over, r.moved);
    phase("decode", r.moved, r.finish);
  } else {
    phase("prefill", r.scheduled, r.first_token);
    phase("decode", r.first_token, r.finish);
  }
  mark('e', r.id, name, r.finish, "");
}

void PerfettoWriter::finish() {
  file_.write("\n]}\n");
  file_.commit();
}

}  // namespace foretoken
