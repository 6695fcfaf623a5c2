// The event loop: who goes first at one time, closed loops, giving up, bad settings, timeline.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::BatchLog;
using toy::ListWorkload;
using toy::PoissonWorkload;
using toy::ToyBackend;

TEST(Serve, AnArrivalAtTheBoundaryIsSeenByTheStepThatStartsThere) {
  for (const bool spans : {true, false}) {
    ListWorkload w;
    w.add(0, 4, 10);
    w.add(3000, 4, 1);  // exactly where step 3 starts
    w.add(5001, 4, 1);  // during step 5
    ToyBackend backend(1000);
    ServeOptions o = toy::options(100, 4, 100, 16);
    o.use_spans = spans;
    const ServeResult r = serve(w, backend, o);
    EXPECT_EQ(r.records[1].scheduled, 3000);
    EXPECT_EQ(r.records[1].finish, 4000);
    EXPECT_EQ(r.records[2].scheduled, 6000);
    EXPECT_EQ(r.records[0].finish, 10000);
  }
}

TEST(Serve, AClosedLoopStartsTheNextRequestInTheVeryNextStep) {
  ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 4, 2);
  w.close_loop(2);
  BatchLog log;
  const ServeResult r = serve(w, log, toy::options(100, 4, 100, 16));
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "p2:4/0! p3:4/0!", "d2@5 d3@5"));
  EXPECT_EQ(r.records[2].arrival, 2000);
}

TEST(Serve, ASpanIsOneEvent) {
  ListWorkload w;
  w.add(0, 4, 1001);
  ToyBackend backend(1000, 0, 0, {3});
  Recording recording;
  ServeOptions o = toy::options(1000, 4, 100, 16);
  o.timeline = &recording;
  const ServeResult r = serve(w, backend, o);
  ASSERT_EQ(recording.steps.size(), 2u);
  const TimelineWriter::StepEvent& span = recording.steps[1];
  EXPECT_EQ(span.steps, 1000);
  EXPECT_EQ(span.first, 1000 + 3 * 5);
  EXPECT_EQ(span.increment, 3);
  EXPECT_EQ(r.records[0].finish, 1000 + 1000 * 1015 + 3 * (1000 * 999 / 2));
  EXPECT_EQ(r.metrics.num_steps, 1001);
  EXPECT_DOUBLE_EQ(r.metrics.peak_kv_usage, 251.0 / 999.0);
}

TEST(Serve, TokensMayBeOutBeforeTheNextStepCanStart) {
  class Pauses : public BatchLog {
   public:
    StepTime run(const Step& step) override {
      BatchLog::run(step);
      return {1500, 1000};
    }
  };
  ListWorkload w;
  w.add(0, 4, 2);
  w.add(1200, 4, 1);  // in the pause after the first step
  Pauses log;
  const ServeResult r = serve(w, log, toy::options(100, 4, 100, 16));
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "p1:4/0! d0@5"));
  EXPECT_THAT(log.starts, ElementsAre(0, 1500));
  EXPECT_EQ(r.records[0].first_token, 1000);
  EXPECT_EQ(r.records[0].finish, 2500);
}

TEST(Serve, IngressAndEgressAddUp) {
  ListWorkload w;
  w.add(100, 4, 2);
  ToyBackend backend(1000);
  ServeOptions o = toy::options(100, 4, 100, 16);
  o.ingress = 30;
  o.egress = 7;
  const ServeResult r = serve(w, backend, o);
  EXPECT_EQ(r.records[0].queued, 130);
  EXPECT_EQ(r.records[0].first_token, 1137);
  EXPECT_EQ(r.records[0].finish, 2137);
}

TEST(Serve, ManyRejectedRequestsNeitherHangNorCount) {
  ListWorkload w;
  for (int i = 0; i < 50; ++i) w.add(0, i % 2 ? 4 : 5000, 2);
  w.close_loop(3);
  ToyBackend backend(1000);
  const ServeResult r = serve(w, backend, toy::options(100, 4, 100, 16));
  EXPECT_EQ(r.rejected, 25);
  EXPECT_EQ(r.metrics.completed, 25);
  EXPECT_THAT(r.rejected_reason,
              HasSubstr("5001 tokens needs 1251 KV blocks of 4 tokens, the engine has 99"));
}

TEST(Serve, AnOverloadedRunIsGivenUp) {
  PoissonWorkload w(1'000'000, 1000, 100, 100, 1);
  ToyBackend backend(10'000'000'000);
  ServeOptions o = toy::options(1000, 16, 2048, 16);
  o.keep_records = false;
  o.abort_backlog = 50;
  o.replicas = 2;
  const ServeResult r = serve(w, backend, o);
  EXPECT_TRUE(r.aborted);
  EXPECT_THAT(r.abort_reason, HasSubstr("101 requests waiting at 2 engines"));
}

TEST(Serve, EndsWhenTheWorkloadEnds) {
  ListWorkload w;
  ToyBackend backend(1000);
  const ServeResult r = serve(w, backend, toy::options(100, 4, 100, 16));
  EXPECT_EQ(r.metrics.completed, 0);
  EXPECT_FALSE(r.aborted);
}

TEST(Serve, StopsWhenAsked) {
  PoissonWorkload w(100'000, 1000, 100, 100, 1);
  ToyBackend backend(1000);
  std::atomic<bool> stop = true;
  ServeOptions o = toy::options(1000, 16, 2048, 16);
  o.stop = &stop;
  EXPECT_THROW(serve(w, backend, o), Interrupted);
}

TEST(Serve, BadSettingsAreNamed) {
  const auto where = [](const auto& change) {
    ServeOptions o = toy::options(100, 4, 100, 16);
    change(o, o.engines[0].scheduler);
    ListWorkload w;
    ToyBackend backend(1000);
    try {
      serve(w, backend, o);
    } catch (const Error& e) {
      return e.where();
    }
    return std::string("none");
  };
  EXPECT_EQ(where([](auto&, auto& c) { c.num_blocks = 1; }), "num_gpu_blocks");
  EXPECT_EQ(where([](auto&, auto& c) { c.max_num_seqs = 0; }), "max_num_seqs");
  EXPECT_EQ(where([](auto&, auto& c) { c.enable_chunked_prefill = false; }), "max_num_batched_tokens");
  EXPECT_EQ(where([](auto&, auto& c) { c.pipeline_depth = 0; }), "pipeline_parallel_size");
  EXPECT_EQ(where([](auto&, auto& c) { c.watermark = 1; }), "watermark");
  EXPECT_EQ(where([](auto& o, auto&) { o.replicas = 0; }), "replicas");
  EXPECT_EQ(where([](auto& o, auto&) { o.engines.resize(2); }), "replicas");
  EXPECT_EQ(where([](auto&, auto&) {}), "none");
}

// Slots are recycled: 100,000 requests in a closed loop of 4 never use more than a few.
TEST(Serve, SlotsAreRecycled) {
  class SlotWatch : public ToyBackend {
   public:
    using ToyBackend::ToyBackend;
    StepTime run(const Step& step) override {
      for (const PrefillPart& part : step.ranks[0].prefill) most = std::max(most, part.slot);
      return ToyBackend::run(step);
    }
    std::int32_t most = 0;
  };
  ListWorkload w;
  for (int i = 0; i < 100'000; ++i) w.add(0, 10, 5);
  w.close_loop(4);
  SlotWatch backend(1000);
  serve(w, backend, toy::options(100, 4, 100, 16));
  EXPECT_LE(backend.most, 3);
}

}  // namespace
}  // namespace foretoken
