// TetriInfer: predicted lengths, the decode engine of two, whom it takes in, engines that change sides, and
// the order in which prompts are computed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;

Request request(RequestId id, std::int32_t input, std::int32_t output) {
  Request r;
  r.id = id, r.input_len = input, r.output_len = output;
  return r;
}

TetriInferConfig exact() {
  TetriInferConfig c;
  c.length_accuracy = 1;
  c.load_interval = 0;
  return c;
}

TEST(TetriInfer, PredictsTheRangeOrOneBesideIt) {
  TetriInferConfig config = exact();
  const auto predicted = [&](double accuracy, RequestId id, std::int32_t output) {
    config.length_accuracy = accuracy;
    return TetriInfer(config, 1, 1, {1000, 1000}, 100'000).predicted(request(id, 10, output));
  };
  int right = 0, below = 0;
  for (RequestId id = 0; id < 4000; ++id) {
    EXPECT_EQ(predicted(1, id, 399), 200);
    EXPECT_EQ(predicted(0, id, 199), 200) << "nothing lies below the first range";
    const std::int64_t length = predicted(0.749, id, 450);
    EXPECT_TRUE(length == 200 || length == 400 || length == 600);
    right += length == 400;
    below += length == 200;
  }
  EXPECT_NEAR(right / 4000.0, 0.749, 0.02);
  EXPECT_NEAR(below / 4000.0, 0.251 / 2, 0.02);
}

struct Placed {
  TetriInfer tetri;
  std::int32_t place(RequestId id, std::int32_t input, std::int32_t output, Picoseconds now = 0) {
    const Request r = request(id, input, output);
    tetri.assign(r, now);
    tetri.computed(id, now);
    return tetri.dispatch(r, now);
  }
};

TEST(TetriInfer, HeavyDecodesAreSpread) {
  Placed p{{exact(), 1, 1, {10'000, 10'000, 10'000}, 100'000}};
  EXPECT_EQ(p.place(0, 10, 300), 1);
  EXPECT_EQ(p.place(1, 10, 10), 2) << "fewer requests";
  EXPECT_EQ(p.place(2, 10, 300), 2) << "no heavy one there";
  EXPECT_EQ(p.place(3, 10, 300), 2) << "one of two against one of one";
  EXPECT_EQ(p.place(4, 10, 10), 2 - 0) << "two of three against one of one";
  p.tetri.ended(0, 5);
  EXPECT_EQ(p.place(5, 10, 300, 5), 1);
}

TEST(TetriInfer, OnlyEnginesThatSeemToHaveMemory) {
  Placed p{{exact(), 1, 1, {500, 500, 500}, 100'000}};
  EXPECT_EQ(p.place(0, 200, 250), 1);  // 400 tokens
  EXPECT_EQ(p.place(1, 200, 10), 2);
  EXPECT_EQ(p.place(2, 290, 10), 2) << "490 of 500";
  EXPECT_EQ(p.tetri.counts().crowded, 0);
  p.place(3, 290, 10);
  EXPECT_EQ(p.tetri.counts().crowded, 1);
}

TEST(TetriInfer, LoadsAreAsOldAsTheirBroadcast) {
  TetriInferConfig config = exact();
  config.load_interval = 100;
  Placed p{{config, 1, 1, {1000, 1000, 1000}, 100'000}};
  EXPECT_EQ(p.place(0, 10, 10, 10), 1);
  EXPECT_EQ(p.place(1, 10, 10, 20), 1) << "nobody has told of request 0";
  EXPECT_EQ(p.place(2, 10, 10, 100), 2);
  EXPECT_EQ(p.place(3, 10, 10, 150), 2) << "nor of request 2";
  EXPECT_EQ(p.place(4, 10, 10, 220), 1);
}

TEST(TetriInfer, TakesInWhomItsMemoryWillHold) {
  for (const DecodePolicy policy :
       {DecodePolicy::kGreedy, DecodePolicy::kReserveStatic, DecodePolicy::kReserveDynamic}) {
    TetriInferConfig config = exact();
    config.decode_policy = policy;
    config.length_granularity = 10;
    Placed p{{config, 1, 1, {1000, 100}, 100'000}};
    p.place(0, 30, 25);  // predicted to end at 50 tokens
    const auto admits = [&](std::int32_t input, std::int32_t output, std::int64_t tokens_of_0) {
      static RequestId id = 1;
      p.place(id, input, output);
      return p.tetri.admits(request(id++, input, output), 1, 100 - tokens_of_0,
                            [&](const EnginePlace&) { return tokens_of_0; });
    };
    EXPECT_TRUE(admits(69, 100, 31)) << "nobody is there yet";
    p.tetri.placed(0, {});
    EXPECT_EQ(admits(40, 30, 31), policy == DecodePolicy::kGreedy) << "70 tokens of 69";
    EXPECT_EQ(admits(39, 30, 31), policy != DecodePolicy::kReserveDynamic);
    // After 19 steps request 0 is over: its 50, and 32 + 19, are more than there is.
    EXPECT_EQ(admits(32, 25, 31), policy != DecodePolicy::kReserveDynamic);
    EXPECT_EQ(admits(31, 25, 31), true) << "50 + 50";
    EXPECT_EQ(admits(49, 9, 49), true) << "50 + 50: it ends in the next step";
  }
}

TEST(TetriInfer, IdleEnginesChangeSides) {
  TetriInferConfig config = exact();
  config.flip_idle = 60;
  Placed p{{config, 1, 2, {1000, 1000, 1000}, 100'000}};
  EXPECT_EQ(p.place(0, 10, 300), 2);
  p.place(1, 10, 300, 59);
  EXPECT_TRUE(p.tetri.is_prefill(1)) << "a unit of time is missing";
  p.tetri.assign(request(2, 10, 10), 60);
  EXPECT_FALSE(p.tetri.is_prefill(1)) << "idle, as the decode engine is not";
  EXPECT_TRUE(p.tetri.is_prefill(0)) << "the last one of its side";
  EXPECT_EQ(p.tetri.counts().flips, 1);
  p.tetri.assign(request(3, 10, 10), 200);
  EXPECT_TRUE(p.tetri.is_prefill(1)) << "prompts wait, and it was idle again";
  EXPECT_EQ(p.tetri.counts().flips, 2);
}

// Two at a time, the shorter prompt first.
TEST(TetriInfer, PromptsAreOrderedWithinAWindow) {
  const auto batches = [](PrefillOrder order) {
    toy::ListWorkload w;
    for (const int tokens : {8, 6, 4, 2}) w.add(0, tokens, 1);
    ServeOptions o = toy::options(40, 4, 8, 8);
    toy::share(o, 1, 1, RouterKind::kTetriInfer);
    for (EngineConfig& e : o.engines) e.scheduler.prefill_window = {order, 2};
    return toy::run(w, o).batches;
  };
  EXPECT_THAT(batches(PrefillOrder::kFcfs), ElementsAre("p0:8/0!", "p1:6/0! p2:2/0", "p2:2/2! p3:2/0!"));
  EXPECT_THAT(batches(PrefillOrder::kSjf), ElementsAre("p1:6/0! p0:2/0", "p0:6/2! p3:2/0!", "p2:4/0!"));
  EXPECT_THAT(batches(PrefillOrder::kLjf), ElementsAre("p0:8/0!", "p1:6/0! p2:2/0", "p2:2/2! p3:2/0!"));
}

// A prompt, its move of 250, its tokens at the other engine.
TEST(TetriInfer, ServesAlone) {
  toy::ListWorkload w;
  w.add(0, 9, 3);
  ServeOptions o = toy::options(20, 4, 4, 8);
  toy::share(o, 1, 1, RouterKind::kTetriInfer);
  toy::ToyBackend backend(1000);
  backend.link(250, 0);
  const ServeResult r = serve(w, backend, o);
  ASSERT_EQ(r.records.size(), 1u);
  EXPECT_EQ(r.records[0].engine, 1);
  EXPECT_EQ(r.records[0].first_token, 3012) << "chunks of four, the second and third after 4 and 8 others";
  EXPECT_EQ(r.records[0].moved, 3262);
  EXPECT_EQ(r.records[0].finish, 5262);
}

}  // namespace
}  // namespace foretoken
