// The timeline is valid JSON in the trace event format, and the file is whole or absent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/json_full.h"
#include "serving/timeline.h"
#include "support.h"

namespace foretoken {
namespace {

using ::testing::HasSubstr;

constexpr Picoseconds kMs = 1'000'000'000;

TimelineWriter::StepEvent decode_span() {
  TimelineWriter::StepEvent e;
  e.engine = 1;
  e.start = 5 * kMs + 1;
  e.steps = 100;
  e.first = 10 * kMs;
  e.increment = 1'000'000;
  e.time = {10 * kMs, 10 * kMs};
  e.decode_tokens = 32;
  e.running = 32;
  e.waiting = 3;
  e.kv_usage = 0.25;
  return e;
}

TEST(Perfetto, TransfersHaveALaneAndAPhase) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "trace.json";
  {
    PerfettoWriter writer(path);
    writer.transfer({12, 1, 3, 512, 0, 2 * kMs, 3 * kMs, 4 * kMs, 7 * kMs});
    RequestRecord r;
    r.id = 12;
    r.scheduled = kMs;
    r.first_token = r.handed_over = 2 * kMs;
    r.moved = 7 * kMs;
    r.finish = 90 * kMs;
    writer.request(r);
    writer.finish();
  }
  const Json trace = read_json(path);
  std::vector<std::string> phases;
  for (const Json& e : trace["traceEvents"]) {
    if (e["ph"] == "b") phases.push_back(e["name"]);
    if (e["ph"] != "X") continue;
    EXPECT_EQ(e["name"], "KV of request 12");
    EXPECT_EQ(e["ts"], 3000.0);
    EXPECT_EQ(e["dur"], 4000.0);
    EXPECT_EQ(e["args"]["to"], 3);
    EXPECT_EQ(e["args"]["tokens"], 512);
    EXPECT_EQ(e["args"]["queued_us"], 1000.0);
  }
  EXPECT_EQ(phases, (std::vector<std::string>{"request 12", "queue", "prefill", "transfer", "decode"}));
}

TEST(Perfetto, EventsParseBack) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "trace.json";
  {
    PerfettoWriter writer(path);
    TimelineWriter::StepEvent prefill;
    prefill.time = {5 * kMs, 7 * kMs};
    prefill.prefill_tokens = 512;
    prefill.decode_tokens = 8;
    writer.step(prefill);
    writer.step(decode_span());
    RequestRecord r;
    r.id = 12;
    r.scheduled = kMs;
    r.first_token = 7 * kMs;
    r.finish = 90 * kMs;
    writer.request(r);
    writer.finish();
  }
  const Json trace = read_json(path);
  std::vector<Json> spans, counters, begins, ends, names;
  for (const Json& e : trace["traceEvents"]) {
    EXPECT_EQ(e["pid"], 1);
    const std::string ph = e["ph"];
    (ph == "X" ? spans : ph == "C" ? counters : ph == "b" ? begins : ph == "e" ? ends : names).push_back(e);
  }
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0]["name"], "prefill 512+decode 8");
  EXPECT_EQ(spans[0]["dur"], 5000.0);  // until the next step starts
  EXPECT_EQ(spans[0]["args"]["tokens_out_us"], 7000.0);
  EXPECT_EQ(spans[1]["name"], "decode n=32 x 100");
  EXPECT_EQ(spans[1]["tid"], 1);
  EXPECT_DOUBLE_EQ(spans[1]["ts"].get<double>(), 5000.000001);
  EXPECT_DOUBLE_EQ(spans[1]["dur"].get<double>(), 100 * 10'000.0 + 4950 * 1.0);
  ASSERT_EQ(counters.size(), 4u);
  EXPECT_EQ(counters[2]["args"]["share"], 0.25);
  EXPECT_EQ(counters[3]["args"]["running"], 32);
  EXPECT_EQ(counters[3]["args"]["waiting"], 3);
  EXPECT_EQ(names.size(), 3u);  // the process and two engines
  ASSERT_EQ(begins.size(), 4u);
  ASSERT_EQ(ends.size(), 4u);
  EXPECT_EQ(begins[0]["name"], "request 12");
  EXPECT_EQ(begins[1]["name"], "queue");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(begins[i]["id"], 12);
    EXPECT_EQ(begins[i]["name"], ends[(i + 3) % 4]["name"]);  // the whole ends last
  }
  for (std::size_t i = 0; i + 1 < 3; ++i) EXPECT_EQ(ends[i]["ts"], begins[i + 2]["ts"]);
  EXPECT_EQ(ends[1]["ts"], 7000.0);
  EXPECT_EQ(ends[3]["ts"], 90'000.0);
}

TEST(Perfetto, WithoutEventsStillATrace) {
  const test::TemporaryFolder folder;
  PerfettoWriter writer(folder.path() / "trace.json");
  writer.finish();
  EXPECT_EQ(read_json(folder.path() / "trace.json")["traceEvents"].size(), 1u);
}

TEST(Perfetto, AnInterruptedRunLeavesNoFile) {
  const test::TemporaryFolder folder;
  {
    PerfettoWriter writer(folder.path() / "trace.json");
    writer.step(decode_span());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Perfetto, AFullDiskIsAnError) {
  const test::TemporaryFolder folder;
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100'000, before.rlim_max};  // stands in for a disk that is full after 100 kB
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = test::error_of([&] {
    PerfettoWriter writer(folder.path() / "trace.json");
    for (int i = 0; i < 10'000; ++i) writer.step(decode_span());
    writer.finish();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("trace.json: cannot write"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace foretoken
