// Prompts on some engines, the rest on others, caches over links in between: what moves when, who waits for
// whom, and what stays true whatever the settings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;
using toy::PoissonWorkload;
using toy::ToyBackend;

// BatchLog with a link.
class Log : public toy::BatchLog {
 public:
  explicit Log(Picoseconds step = 1000, Picoseconds move = 250) : BatchLog(step), move_(move) {}
  StepTime run(const Step& step) override {
    engines.push_back(step.engine);
    return BatchLog::run(step);
  }
  Picoseconds transfer(const KvTransfer& t) override {
    moves.push_back(t);
    source_blocks.push_back(t.source.size()), target_blocks.push_back(t.target.size());
    return move_;
  }
  std::vector<std::int32_t> engines;
  std::vector<KvTransfer> moves;
  std::vector<std::size_t> source_blocks, target_blocks;

 private:
  Picoseconds move_;
};

TEST(Disaggregated, APromptMovesAndGoesOnWithoutBeingComputedAgain) {
  ListWorkload w;
  w.add(0, 9, 4);
  ServeOptions o = toy::options(20, 4, 100, 8);
  toy::disaggregate(o, 1, 1);
  o.egress = 7;
  Recording recording;
  o.timeline = &recording;
  Log log;
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:9/0!", "d0@10", "d0@11", "d0@12"));
  EXPECT_THAT(log.engines, ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(log.starts, ElementsAre(0, 1250, 2250, 3250));
  ASSERT_EQ(log.moves.size(), 1u);
  EXPECT_EQ(log.moves[0].tokens, 9);
  EXPECT_EQ(log.source_blocks[0], 3u) << "9 tokens in blocks of 4";
  EXPECT_EQ(log.target_blocks[0], 3u) << "and the next one";
  ASSERT_EQ(r.records.size(), 1u);
  const RequestRecord& x = r.records[0];
  EXPECT_EQ(x.engine, 1);
  EXPECT_EQ(x.first_token, 1000 + 7) << "the prefill engine's";
  EXPECT_EQ(x.handed_over, 1000);
  EXPECT_EQ(x.moved, 1250);
  EXPECT_EQ(x.finish, 4250 + 7);
  EXPECT_EQ(r.scheduled_tokens, 9 + 3);
  EXPECT_EQ(r.metrics.transfers.count, 1);
  EXPECT_DOUBLE_EQ(r.metrics.transfers.mean_ms, 250e-9);
  EXPECT_DOUBLE_EQ(r.metrics.transfers.link_ms, 250e-9);
  EXPECT_EQ(r.metrics.ttft_parts.transfer, 0);
  ASSERT_EQ(recording.transfers.size(), 1u);
  EXPECT_EQ(recording.transfers[0].start, 1000);
}

// As vLLM has it: the prompt's last token is computed again, and its answer is the first that anybody sees.
TEST(Disaggregated, TheDecodeEngineMayMakeTheFirstToken) {
  ListWorkload w;
  w.add(0, 9, 4);
  ServeOptions o = toy::options(20, 4, 100, 8);
  toy::disaggregate(o, 1, 1);
  o.decode_makes_first_token = true;
  o.egress = 7;
  Log log;
  const ServeResult r = serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:9/0!", "d0@9", "d0@10", "d0@11", "d0@12"));
  EXPECT_EQ(r.records[0].first_token, 2250 + 7);
  EXPECT_EQ(r.records[0].finish, 5250 + 7);
  const auto& parts = r.metrics.ttft_parts;
  EXPECT_DOUBLE_EQ(parts.prefill, 1000e-9);
  EXPECT_DOUBLE_EQ(parts.transfer, 250e-9);
  EXPECT_DOUBLE_EQ(parts.first_step, 1007e-9);
  EXPECT_DOUBLE_EQ(parts.ingress + parts.queue + parts.prefill + parts.transfer + parts.first_step,
                   r.metrics.ttft.mean);
  EXPECT_EQ(r.metrics.itl.count, 3);
}

TEST(Disaggregated, OneTokenNeedsNoMove) {
  ListWorkload w;
  w.add(0, 9, 1);
  ServeOptions o = toy::options(20, 4, 100, 8);
  toy::disaggregate(o, 1, 1);
  Log log;
  const ServeResult r = serve(w, log, o);
  EXPECT_EQ(log.moves.size(), 0u);
  EXPECT_EQ(r.records[0].engine, 0);
  EXPECT_EQ(r.records[0].finish, 1000);
}

// One sending port: the second cache queues behind the first. Two sending ports into one receiving one: too.
TEST(Disaggregated, CachesQueueForThePorts) {
  for (const bool sender : {true, false}) {
    ListWorkload w;
    w.add(0, 4, 3);
    w.add(0, 4, 3);
    ServeOptions o = toy::options(20, 4, 100, 8);
    toy::disaggregate(o, sender ? 1 : 2, sender ? 2 : 1);
    Recording recording;
    o.timeline = &recording;
    Log log(1000, 300);
    serve(w, log, o);
    ASSERT_EQ(recording.transfers.size(), 2u);
    EXPECT_EQ(recording.transfers[0].start, 1000);
    EXPECT_EQ(recording.transfers[1].asked, 1000);
    EXPECT_EQ(recording.transfers[1].start, 1300);
  }
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 4, 3);
  ServeOptions o = toy::options(20, 4, 100, 8);
  toy::disaggregate(o, 2, 2);
  Recording recording;
  o.timeline = &recording;
  Log log(1000, 300);
  serve(w, log, o);
  EXPECT_EQ(recording.transfers[1].start, 1000) << "ports of their own";
}

// The blocks of a computed prompt are free once it has moved, and it moves once there is room: a decode
// engine without room holds prompts back.
TEST(Disaggregated, ADecodeEngineWithoutRoomHoldsPromptsBack) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 8, 5);
  ServeOptions o =
      toy::options(5, 4, 8, 8);  // four blocks: two prompts of two blocks, or one with its output
  toy::disaggregate(o, 1, 1);
  Log log(1000, 100);
  const ServeResult r = serve(w, log, o);
  ASSERT_EQ(r.records.size(), 3u);
  EXPECT_EQ(r.records[0].moved, 1100);
  // Request 1 is computed at 2000 and finds one block of the three that it takes; request 0 ends at 5100.
  EXPECT_EQ(r.records[1].handed_over, 2000);
  EXPECT_EQ(r.records[1].moved, 5200);
  // Request 2 found its two blocks at the prefill engine when request 0 had moved.
  EXPECT_EQ(r.records[2].scheduled, 2000);
  EXPECT_EQ(r.metrics.preemptions, 0);
  EXPECT_EQ(r.metrics.peak_kv_usage, 1);
}

TEST(Disaggregated, LittleHoldsExactly) {
  PoissonWorkload w(5000, 40, 300, 60, 3, true);
  ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  backend.link(1'000'000'000, 10'000'000);
  ServeOptions o = toy::options(600, 16, 2048, 64);
  toy::disaggregate(o, 2, 2);
  o.ingress = 3'000'000'000;
  o.egress = 2'000'000'000;
  const ServeResult r = serve(w, backend, o);
  double all = 0, moving = 0;
  for (const RequestRecord& x : r.records) {
    all += to_ms(x.finish - o.egress - x.queued);
    moving += to_ms(x.moved - x.handed_over);
  }
  const double duration_ms = r.metrics.duration * 1000;
  const ServingMetrics& m = r.metrics;
  EXPECT_NEAR((m.mean_running + m.mean_waiting + m.transfers.mean_moving) / (all / duration_ms), 1, 1e-9);
  EXPECT_GT(m.transfers.mean_moving, 0.1);
  EXPECT_LE(m.transfers.mean_moving, moving / duration_ms * (1 + 1e-9));
  EXPECT_LE(m.transfers.link_ms, m.transfers.mean_ms);
}

// Alone each request takes its steps and its move, whatever the link is made of.
TEST(Disaggregated, AloneARequestTakesItsStepsAndItsMove) {
  for (const Picoseconds per_token : {0, 1000, 50'000}) {
    ListWorkload w;
    for (int i = 0; i < 20; ++i) w.add(Picoseconds{i} * 1'000'000'000, 10 + i, 2 + i);
    ToyBackend backend(1'000'000, 5000);
    backend.link(per_token > 0 ? 777 : 0, per_token);
    ServeOptions o = toy::options(100, 4, 100, 8);
    toy::disaggregate(o, 1, 1);
    const ServeResult r = serve(w, backend, o);
    ASSERT_EQ(r.records.size(), 20u);
    for (const RequestRecord& x : r.records) {
      const Picoseconds move = per_token > 0 ? 777 + per_token * x.input_len : 0;
      EXPECT_EQ(x.first_token - x.arrival, 1'000'000 + 5000 * x.input_len);
      EXPECT_EQ(x.moved - x.handed_over, move);
      EXPECT_EQ(x.finish - x.first_token, move + 1'000'000 * (x.output_len - 1));
    }
  }
}

// A slower link never lowers anybody's latency where steps cost the same whatever they hold, and never the
// mean under load; the time to first token stays what it is while decode engines have room.
TEST(Disaggregated, ASlowerLinkIsNeverFaster) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<RequestRecord> before;
    double last = 0;
    for (const Picoseconds per_token : {0, 100'000, 1'000'000, 10'000'000, 30'000'000}) {
      PoissonWorkload w(1500, 20, 300, 60, seed, true);
      ToyBackend backend(12'000'000'000, 25'000'000);
      backend.link(0, per_token);
      ServeOptions o = toy::options(20'000, 16, 2048, 512);
      toy::disaggregate(o, 2, 1);
      const ServeResult r = serve(w, backend, o);
      ASSERT_EQ(r.records.size(), 1500u);
      EXPECT_GE(r.metrics.e2el.mean, last);
      last = r.metrics.e2el.mean;
      for (std::size_t i = 0; i < before.size(); ++i) {
        ASSERT_EQ(r.records[i].first_token, before[i].first_token);
        ASSERT_GE(r.records[i].moved, before[i].moved);
      }
      before = r.records;
    }
  }
}

// Prompts of others no longer stand in the way of tokens: the longest gap of a decoding request is a decode
// step, not a step with a long prompt.
TEST(Disaggregated, PromptsDoNotHoldUpTokens) {
  const auto longest_gap = [](bool split) {
    PoissonWorkload w(500, 4, 1000, 100, 5, true);
    ToyBackend backend(12'000'000'000, 100'000'000, 20'000'000);
    backend.link(0, 1000);
    ServeOptions o = toy::options(20'000, 16, 2048, 64);
    o.replicas = 2;
    if (split) toy::disaggregate(o, 1, 1);
    return serve(w, backend, o).metrics.itl.p99;
  };
  EXPECT_LT(longest_gap(true) * 3, longest_gap(false));
}

TEST(Disaggregated, AReplayGivesTheSameTimeline) {
  const auto record = [](Backend& backend) {
    PoissonWorkload w(300, 40, 300, 60, 3, true);
    Recording recording;
    ServeOptions o = toy::options(200, 16, 2048, 64);
    toy::disaggregate(o, 2, 1);
    o.timeline = &recording;
    serve(w, backend, o);
    return recording;
  };
  ToyBackend toy(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  toy.link(1'000'000'000, 10'000'000);
  const Recording first = record(toy);
  ReplayBackend replay(first);
  const Recording again = record(replay);
  ASSERT_EQ(first.transfers.size(), again.transfers.size());
  ASSERT_GT(first.transfers.size(), 250u);
  for (std::size_t i = 0; i < first.transfers.size(); ++i) {
    EXPECT_EQ(first.transfers[i].request, again.transfers[i].request);
    EXPECT_EQ(first.transfers[i].asked, again.transfers[i].asked);
    EXPECT_EQ(first.transfers[i].start, again.transfers[i].start);
    EXPECT_EQ(first.transfers[i].duration, again.transfers[i].duration);
  }
  ASSERT_EQ(first.requests.size(), again.requests.size());
  for (std::size_t i = 0; i < first.requests.size(); ++i)
    EXPECT_EQ(first.requests[i].finish, again.requests[i].finish);
  Recording cut = first;
  cut.transfers[3].tokens += 1;
  ReplayBackend other(cut);
  try {
    record(other);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("leaves the recording"));
  }
}

TEST(Disaggregated, WrongSettingsAreNamed) {
  const auto message = [](auto change) {
    ServeOptions o = toy::options(20, 4, 100, 8);
    toy::disaggregate(o, 1, 1);
    change(o);
    ListWorkload w;
    ToyBackend backend(1);
    try {
      serve(w, backend, o);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message([](ServeOptions&) {}), "");
  EXPECT_THAT(message([](ServeOptions& o) { std::swap(o.engines[0], o.engines[1]); }),
              HasSubstr("come first"));
  EXPECT_THAT(message([](ServeOptions& o) { o.engines[1] = o.engines[0]; }), HasSubstr("one that decodes"));
  EXPECT_THAT(message([](ServeOptions& o) { o.engines[0] = o.engines[1]; }), HasSubstr("one that prefills"));
  EXPECT_THAT(message([](ServeOptions& o) { o.engines[1].scheduler.block_size = 8; }),
              HasSubstr("block_size"));
  EXPECT_THAT(message([](ServeOptions& o) {
                for (EngineConfig& e : o.engines) e.scheduler.policy = SchedulerPolicy::kTrtllm;
              }),
              HasSubstr("vLLM's scheduler and Splitwise's alone"));
}

}  // namespace
}  // namespace foretoken
