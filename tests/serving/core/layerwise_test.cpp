// Caches that are sent layer by layer while their prompts are computed, and ports that engines share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "serving/link_port.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::HasSubstr;
using toy::ListWorkload;
using toy::PoissonWorkload;
using toy::ToyBackend;

ServeOptions layered(std::int64_t layers, int prefill, int decode, ServeOptions o) {
  toy::disaggregate(o, prefill, decode);
  o.kv_link.layers = layers;
  return o;
}

struct Outcome {
  ServeResult result;
  Recording recording;
};

// Steps of 1000 ps whatever they hold.
Outcome run(ListWorkload w, ServeOptions o, Picoseconds per_token, Picoseconds latency = 0) {
  Outcome r;
  o.timeline = &r.recording;
  o.kv_link.latency = latency;
  ToyBackend backend(1000);
  backend.link(latency, per_token);
  r.result = serve(w, backend, o);
  return r;
}

TEST(LinkPort, GivesTheFirstGapThatIsLongEnough) {
  LinkPort port;
  port.take(100, 50, 0);
  port.take(200, 100, 0);
  EXPECT_EQ(port.end(), 300);
  EXPECT_EQ(port.fit(0, 100), 0);
  EXPECT_EQ(port.fit(0, 101), 300);
  EXPECT_EQ(port.fit(120, 50), 150);
  EXPECT_EQ(port.fit(120, 51), 300);
  EXPECT_EQ(port.fit(150, 20), 150);
  port.take(150, 50, 0);  // closes the gap
  EXPECT_EQ(port.fit(90, 20), 300);
  EXPECT_EQ(port.fit(90, 10), 90);
  port.take(90, 10, 0);
  EXPECT_EQ(port.fit(85, 6), 300);
  port.take(400, 10, 300);  // what lies before is forgotten, what comes isn't
  EXPECT_EQ(port.fit(300, 101), 410);
  port.give_back(403, 4);
  EXPECT_EQ(port.fit(400, 4), 403);
  EXPECT_EQ(port.end(), 410);
  port.give_back(407, 3);
  EXPECT_EQ(port.fit(400, 5), 403);
  EXPECT_EQ(port.end(), 403);
}

// Four layers, computed at 250, 500, 750 and 1000, each 100 on the link.
TEST(Layerwise, OnlyTheLastLayerIsExposedWhereTheLinkIsFaster) {
  ListWorkload w;
  w.add(0, 8, 3);
  const Outcome r = run(w, layered(4, 1, 1, toy::options(20, 4, 100, 8)), 50, 7);
  ASSERT_EQ(r.recording.transfers.size(), 1u);
  const auto& t = r.recording.transfers[0];
  EXPECT_EQ(t.asked, 0);
  EXPECT_EQ(t.start, 250);
  EXPECT_EQ(t.duration, 407);
  EXPECT_EQ(t.end, 1107);
  EXPECT_EQ(r.result.records[0].handed_over, 1000);
  EXPECT_EQ(r.result.records[0].first_token, 1000);
  EXPECT_EQ(r.result.records[0].moved, 1107);
  EXPECT_EQ(r.result.records[0].finish, 3107);
  EXPECT_DOUBLE_EQ(r.result.metrics.transfers.mean_ms, 107e-9);
}

// Each 1000 on the link: all but the first one's computing is exposed.
TEST(Layerwise, ASlowerLinkExposesWhatItIsSlower) {
  ListWorkload w;
  w.add(0, 8, 3);
  const Outcome r = run(w, layered(4, 1, 1, toy::options(20, 4, 100, 8)), 500);
  EXPECT_EQ(r.result.records[0].moved, 250 + 4000);
}

TEST(Layerwise, LayersOfPromptsOfAStepTakeTurns) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 4, 3);
  const ServeOptions o = layered(2, 1, 2, toy::options(20, 4, 100, 8));
  const Outcome r = run(w, o, 50);
  EXPECT_EQ(r.result.records[0].moved, 1100);
  EXPECT_EQ(r.result.records[1].moved, 1200) << "at 600 and 1100, behind the other's layers";
}

TEST(Layerwise, ChunksGoOutWhileTheNextIsComputed) {
  ListWorkload w;
  w.add(0, 8, 3);
  const ServeOptions o = layered(2, 1, 1, toy::options(20, 4, 4, 8));
  const Outcome fast = run(w, o, 100);
  ASSERT_EQ(fast.recording.transfers.size(), 2u);
  EXPECT_EQ(fast.recording.transfers[0].end, 1200);
  EXPECT_EQ(fast.recording.transfers[1].done, 4);
  EXPECT_EQ(fast.recording.transfers[1].start, 1502) << "that step takes 1004";
  EXPECT_EQ(fast.result.records[0].moved, 2204);
  EXPECT_EQ(fast.result.metrics.transfers.count, 1);
  EXPECT_EQ(run(w, o, 1000).result.records[0].moved, 500 + 8000);
}

// What the prefill engine had in its prefix cache can go at once: eight tokens at 2000 to 2400, then the
// layers of the other four at 2504 and 3008.
TEST(Layerwise, AFoundPrefixGoesAtOnce) {
  ListWorkload w;
  w.add(0, 12, 1, {{7, 8}});
  w.add(2000, 12, 3, {{7, 8}});
  const Outcome r = run(w, layered(2, 1, 1, toy::options(20, 4, 100, 8)), 50);
  ASSERT_EQ(r.recording.transfers.size(), 2u);
  EXPECT_EQ(r.recording.transfers[0].tokens, 8);
  EXPECT_EQ(r.recording.transfers[0].start, 2000);
  EXPECT_EQ(r.recording.transfers[0].end, 2400);
  EXPECT_EQ(r.recording.transfers[1].start, 2504);
  EXPECT_EQ(r.result.records[1].moved, 3108);
}

// Four blocks at the decode engine: request 0 holds three of them until 5200, then 1 gets its two.
TEST(Layerwise, WithoutRoomEverythingWaitsAndGoesAsOne) {
  ListWorkload w;
  w.add(0, 8, 5);
  w.add(0, 8, 5);
  ServeOptions o = layered(4, 1, 1, toy::options(5, 4, 8, 8));
  const Outcome r = run(w, o, 50);
  EXPECT_EQ(r.result.records[0].moved, 1100);
  EXPECT_EQ(r.result.records[0].finish, 5100);
  EXPECT_EQ(r.result.records[1].handed_over, 2000);
  EXPECT_EQ(r.recording.transfers[1].asked, 5100);
  EXPECT_EQ(r.result.records[1].moved, 5500);
}

// Room that comes while a prompt is computed: the layers computed by then follow at once.
TEST(Layerwise, RoomThatComesDuringTheStep) {
  ListWorkload w;
  w.add(0, 8, 2);     // decodes from 1100 to 2100
  w.add(1500, 8, 2);  // computed from 1500 to 2500
  const Outcome r = run(w, layered(4, 1, 1, toy::options(5, 4, 8, 8)), 50);
  EXPECT_EQ(r.recording.transfers[1].asked, 2100);
  EXPECT_EQ(r.recording.transfers[1].start, 2100) << "layers of 1750 and 2000, the others at 2300 and 2500";
  EXPECT_EQ(r.result.records[1].moved, 2600);
}

TEST(Layerwise, NeighboursShareAPort) {
  for (const bool senders : {true, false}) {
    ListWorkload w;
    w.add(0, 4, 3);
    w.add(0, 4, 3);
    ServeOptions o = layered(0, 2, 2, toy::options(20, 4, 100, 8));
    EXPECT_EQ(run(w, o, 100).result.records[1].moved, 1400) << "ports of their own";
    o.kv_link.engines_per_port = 2;
    EXPECT_EQ(run(w, o, 100).result.records[1].moved, 1800);
    o.kv_link.layers = 4;
    EXPECT_EQ(run(w, o, 100).result.records[1].moved, 1200) << "their layers take turns";
    if (senders) o.kv_link.engines_per_port = 3;  // more than there are
    EXPECT_EQ(run(w, o, 100).result.records[1].moved, 1200);
  }
}

// Alone: the last layer after the last step, or all but the first one's computing, whatever is longer.
TEST(Layerwise, AloneTheExposedTimeIsThatOfTheLastLayerOrOfTheSlowerLink) {
  for (std::int64_t layers : {1, 2, 5, 32}) {
    for (const Picoseconds per_token : {0, 3, 40, 900, 5000}) {
      ListWorkload w;
      for (int i = 0; i < 20; ++i) w.add(Picoseconds{i} * 1'000'000'000, 10 + i, 2 + i);
      ToyBackend backend(6'400'000, 0);
      backend.link(777, 6400 * per_token);
      ServeOptions o = layered(layers, 1, 1, toy::options(100, 4, 100, 8));
      o.kv_link.latency = 777;
      const ServeResult r = serve(w, backend, o);
      for (const RequestRecord& x : r.records) {
        const Picoseconds link = 6400 * per_token * x.input_len, step = 6'400'000;
        const Picoseconds exposed = std::max((link + layers - 1) / layers, link + step / layers - step) + 777;
        EXPECT_EQ(x.moved - x.handed_over, exposed) << layers << " layers, link " << link;
      }
    }
  }
}

// Nobody waits longer for a cache than if it were pulled, where its link is its own and memory is plenty.
TEST(Layerwise, OverlapNeverHurtsWithoutContention) {
  PoissonWorkload a(1000, 20, 300, 60, 3, true), b(1000, 20, 300, 60, 3, true);
  ServeOptions o = toy::options(20'000, 16, 512, 512);
  toy::disaggregate(o, 1, 1);
  ToyBackend backend(12'000'000'000, 25'000'000);
  backend.link(1000, 20'000'000);
  const ServeResult pulled = serve(a, backend, o);
  o.kv_link.layers = 32;
  o.kv_link.latency = 1000;
  const ServeResult pushed = serve(b, backend, o);
  EXPECT_LT(pushed.metrics.transfers.mean_ms * 4, pulled.metrics.transfers.mean_ms);
  EXPECT_EQ(pushed.metrics.ttft.mean, pulled.metrics.ttft.mean);
  for (std::size_t i = 0; i < pulled.records.size(); ++i)
    EXPECT_LE(pushed.records[i].moved, pulled.records[i].moved);
}

TEST(Layerwise, LittleHoldsExactly) {
  PoissonWorkload w(5000, 40, 300, 60, 3, true);
  ToyBackend backend(12'000'000'000, 25'000'000, 20'000'000, {20'000});
  backend.link(1'000'000'000, 10'000'000);
  ServeOptions o = layered(8, 2, 2, toy::options(600, 16, 256, 64));
  o.kv_link.latency = 1'000'000'000;
  o.kv_link.engines_per_port = 2;
  const ServeResult r = serve(w, backend, o);
  double all = 0;
  for (const RequestRecord& x : r.records) all += to_ms(x.finish - x.queued);
  const ServingMetrics& m = r.metrics;
  EXPECT_NEAR((m.mean_running + m.mean_waiting + m.transfers.mean_moving) / (all / m.duration / 1000), 1,
              1e-9);
  EXPECT_GT(m.transfers.mean_moving, 0.01);
}

// Whose prompt is preempted starts over, and its layers too.
TEST(Layerwise, AReplayGivesTheSameTimelineAndPreemptedPromptsAreSentAgain) {
  std::int64_t again = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto record = [&](Backend& backend) {
      PoissonWorkload w(200, 300, 300, 60, seed, true);
      Recording recording;
      ServeOptions o = layered(6, 2, 1, toy::options(2000, 16, 128, 64));
      for (EngineConfig& e : o.engines) {
        e.scheduler.reserve_full_prompt = false;
        if (e.role == EngineRole::kPrefill) e.scheduler.num_blocks = 45;
      }
      o.kv_link.latency = 300;
      o.timeline = &recording;
      EXPECT_EQ(serve(w, backend, o).records.size(), 200u);
      return recording;
    };
    ToyBackend toy(12'000'000'000, 25'000'000, 20'000'000, {20'000});
    toy.link(1'000'000'000, 200'000'000);
    const Recording first = record(toy);
    ReplayBackend replay(first);
    const Recording second = record(replay);
    ASSERT_EQ(first.transfers.size(), second.transfers.size());
    std::vector<int> starts(200);
    for (std::size_t i = 0; i < first.transfers.size(); ++i) {
      ASSERT_EQ(first.transfers[i].request, second.transfers[i].request);
      ASSERT_EQ(first.transfers[i].start, second.transfers[i].start);
      ASSERT_EQ(first.transfers[i].end, second.transfers[i].end);
      const auto request = static_cast<std::size_t>(first.transfers[i].request);
      again += first.transfers[i].done == 0 && ++starts[request] > 1;
    }
    ASSERT_EQ(first.requests.size(), second.requests.size());
    for (std::size_t i = 0; i < first.requests.size(); ++i)
      ASSERT_EQ(first.requests[i].finish, second.requests[i].finish);
  }
  EXPECT_GT(again, 10);
}

TEST(Layerwise, APipelineIsRefused) {
  ServeOptions o = layered(4, 1, 1, toy::options(20, 4, 100, 8));
  o.engines[0].scheduler.pipeline_depth = 2;
  ListWorkload w;
  ToyBackend backend(1);
  try {
    serve(w, backend, o);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("without a pipeline"));
  }
}

}  // namespace
}  // namespace foretoken
