// Mooncake's conductor: where it sends requests, what it fetches, whom it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;
using toy::ToyEstimates;
using Verdict = Conductor::Verdict;

Request prompt(RequestId id, std::int32_t tokens, std::int32_t output = 10) {
  Request r;
  r.id = id, r.input_len = tokens, r.output_len = output;
  return r;
}

Picoseconds idle(std::int32_t, std::int32_t) { return 0; }

// Ten a token to compute, two to fetch; decode steps of 100 and ten a sequence.
struct Fixture : testing::Test {
  ToyEstimates estimates{10, 2, 100, 10};
  ConductorConfig config;
};
using ConductorDecides = Fixture;

TEST_F(ConductorDecides, TheShortestQueueWhereNothingIsCached) {
  Conductor c(config, estimates, 3, 2);
  const std::vector<std::int64_t> none(3);
  const auto send = [&](RequestId id, std::int32_t tokens) {
    const Request r = prompt(id, tokens);
    const auto d = c.decide(r, none, idle, 0);
    c.accept(r, d, 0);
    return d;
  };
  EXPECT_EQ(send(0, 100).prefill, 0);
  EXPECT_EQ(send(1, 50).prefill, 1);
  EXPECT_EQ(send(2, 10).prefill, 2);
  const auto d = send(3, 10);
  EXPECT_EQ(d.prefill, 2);
  EXPECT_EQ(d.ttft, 10 * 10 + 10 * 10);
  c.computed(0, 1000);
  EXPECT_EQ(send(4, 10).prefill, 0) << "its queue is empty again";
}

// Engine 0 holds 80 of 100 tokens. Engine 1, idle, would fetch them, which takes 160, and compute 20; engine
// 0 has no more than the 20 to compute, but a queue.
TEST_F(ConductorDecides, ToFetchWhatOthersHaveCached) {
  Conductor c(config, estimates, 2, 1);
  const Request first = prompt(0, 30), second = prompt(1, 100);
  const std::vector<std::int64_t> cached{80, 0};
  auto d = c.decide(second, cached, idle, 0);
  EXPECT_EQ(d.prefill, 0);
  EXPECT_EQ(d.fetched, 0);
  EXPECT_EQ(d.ttft, 200);
  c.accept(first, c.decide(first, std::vector<std::int64_t>{0, 0}, idle, 0), 0);  // 300 at engine 0
  d = c.decide(second, cached, idle, 0);
  EXPECT_EQ(d.prefill, 1);
  EXPECT_EQ(d.holder, 0);
  EXPECT_EQ(d.fetched, 80);
  EXPECT_EQ(d.ttft, 160 + 200);
  const auto busy = [](std::int32_t from, std::int32_t to) -> Picoseconds {
    return from == 0 && to == 1 ? 200 : 0;
  };
  EXPECT_EQ(c.decide(second, cached, busy, 0).prefill, 0) << "300 + 200 against 200 + 160 + 200";
}

// Own prefixes of 40 of 80 tokens: fetched from a ratio of two on, not at it.
TEST_F(ConductorDecides, ByTheThreshold) {
  for (const double threshold : {1.0, 1.9, 2.0, 3.0}) {
    config.balancing_threshold = threshold;
    Conductor c(config, estimates, 2, 1);
    const Request first = prompt(0, 300), second = prompt(1, 100);
    c.accept(first, c.decide(first, std::vector<std::int64_t>{0, 0}, idle, 0), 0);
    const auto d = c.decide(second, std::vector<std::int64_t>{80, 40}, idle, 0);
    EXPECT_EQ(d.prefill, 1);
    EXPECT_EQ(d.cached, 40);
    EXPECT_EQ(d.fetched, threshold < 2 ? 40 : 0);
    EXPECT_EQ(d.ttft, threshold < 2 ? 80 + 200 : 600);
  }
}

TEST_F(ConductorDecides, ToRefuseWhoWouldMissALimit) {
  config.ttft_slo = 999;
  config.tbt_slo = 119;
  Conductor c(config, estimates, 1, 1);
  const std::vector<std::int64_t> none(1);
  EXPECT_EQ(c.decide(prompt(0, 100), none, idle, 0).verdict, Verdict::kMissesTtft);
  const Request r = prompt(1, 50);
  const auto d = c.decide(r, none, idle, 0);
  EXPECT_EQ(d.verdict, Verdict::kAccepted);
  EXPECT_EQ(d.tbt, 110);
  c.accept(r, d, 0);
  EXPECT_EQ(c.decide(prompt(2, 50), none, idle, 0).verdict, Verdict::kMissesTtft);
  EXPECT_EQ(c.decide(prompt(2, 49), none, idle, 0).verdict, Verdict::kAccepted)
      << "nobody decodes yet, so that the decode engine seems to be free";
  c.computed(1, 500);
  EXPECT_EQ(c.decide(prompt(2, 49), none, idle, 0).verdict, Verdict::kMissesTbt);
  EXPECT_EQ(c.decide(prompt(2, 49, 1), none, idle, 0).verdict, Verdict::kAccepted)
      << "one token decodes nowhere";
  c.ended(1);
  EXPECT_EQ(c.decide(prompt(2, 49), none, idle, 0).verdict, Verdict::kAccepted);
}

// The load is that of the time at which the prompt will be computed: request 1 will be there from 500 to
// 1500.
TEST_F(ConductorDecides, ByThePredictedDecodeLoad) {
  config.tbt_slo = 119;
  config.decode_time = 1000;
  Conductor c(config, estimates, 1, 1);
  const std::vector<std::int64_t> none(1);
  const Request r = prompt(1, 50);
  c.accept(r, c.decide(r, none, idle, 0), 0);
  EXPECT_EQ(c.decide(prompt(2, 10), none, idle, 0).verdict, Verdict::kMissesTbt) << "at 600";
  EXPECT_EQ(c.decide(prompt(2, 100), none, idle, 0).verdict, Verdict::kAccepted) << "at 1500";
  c.computed(1, 700);
  EXPECT_EQ(c.decide(prompt(2, 90), none, idle, 700).verdict, Verdict::kMissesTbt) << "at 1600, until 1700";
  EXPECT_EQ(c.decide(prompt(2, 100), none, idle, 700).verdict, Verdict::kAccepted);
}

TEST_F(ConductorDecides, TheDecodeEngineWithTheShortestStep) {
  Conductor c(config, estimates, 1, 2);
  const std::vector<std::int64_t> none(1);
  RequestId id = 0;
  for (const std::int32_t expected : {1, 2, 1}) {
    const Request r = prompt(id++, 10);
    const auto d = c.decide(r, none, idle, 0);
    EXPECT_EQ(d.decode, expected);
    c.accept(r, d, 0);
    c.computed(r.id, 0);
  }
}

ServeOptions conducted(int prefill, int decode, ToyEstimates& estimates,
                       ServeOptions o = toy::options(40, 4, 100, 8)) {
  toy::disaggregate(o, prefill, decode);
  o.router.kind = RouterKind::kMooncake;
  o.estimates = &estimates;
  return o;
}

// Steps of 1000 and a link of 10 a token. Request 1 is computed at engine 0 until 4000 together with what it
// has cached from request 0; request 2 finds engine 0 busy and fetches the eight tokens, which takes 80; then
// it computes its other four.
TEST(ConductedServing, APrefixIsFetchedAndFoundThere) {
  ToyEstimates estimates(100, 10, 100, 10);
  ListWorkload w;
  w.add(0, 12, 1, {{7, 8}});
  w.add(2900, 60, 2);
  w.add(3000, 12, 3, {{7, 8}});
  ServeOptions o = conducted(2, 1, estimates);
  Recording recording;
  o.timeline = &recording;
  toy::ToyBackend backend(1000);
  backend.link(0, 10);
  const ServeResult r = serve(w, backend, o);
  ASSERT_EQ(r.records.size(), 3u);
  EXPECT_EQ(r.prefix_fetches, 1);
  EXPECT_EQ(r.fetched_tokens, 8);
  EXPECT_EQ(r.reused_tokens, 8);
  ASSERT_GE(recording.transfers.size(), 1u);
  EXPECT_EQ(recording.transfers[0].request, 2);
  EXPECT_EQ(recording.transfers[0].from, 0);
  EXPECT_EQ(recording.transfers[0].to, 1);
  EXPECT_EQ(recording.transfers[0].start, 3000);
  EXPECT_EQ(r.records[2].queued, 3080);
  EXPECT_EQ(r.records[2].cached_tokens, 8);
  EXPECT_EQ(r.records[2].handed_over, 4088);
  EXPECT_EQ(r.records[2].moved, 4500 + 120) << "behind the cache of request 1";
  EXPECT_EQ(r.metrics.transfers.count, 2);
  EXPECT_DOUBLE_EQ(r.metrics.transfers.link_ms, (600 + 120) / 2 * 1e-9) << "fetches are not among them";
}

// A second one finds the copy.
TEST(ConductedServing, ACopyServesOthersThen) {
  ToyEstimates estimates(100, 10, 100, 10);
  ListWorkload w;
  w.add(0, 12, 1, {{7, 8}});
  for (int i = 0; i < 2; ++i) {
    w.add(3000 + 10'000 * i, 60, 1);
    w.add(3001 + 10'000 * i, 12, 1, {{7, 8}});
  }
  toy::ToyBackend backend(1000);
  backend.link(0, 10);
  const ServeResult r = serve(w, backend, conducted(2, 1, estimates));
  EXPECT_EQ(r.prefix_fetches, 1);
  EXPECT_EQ(r.reused_tokens, 16);
}

// The engine has no more than two free blocks for what it fetches.
TEST(ConductedServing, NoMoreIsFetchedThanThereIsRoomFor) {
  ToyEstimates estimates(100, 1, 100, 10);
  ListWorkload w;
  w.add(0, 24, 1, {{7, 20}});
  w.add(2000, 30, 1);  // at engine 0
  w.add(2001, 40, 1);  // at engine 1
  w.add(2002, 24, 1, {{7, 20}});
  ServeOptions o = conducted(2, 1, estimates, toy::options(13, 4, 100, 8));
  toy::ToyBackend backend(1000);
  backend.link(0, 10);
  const ServeResult r = serve(w, backend, o);
  EXPECT_EQ(r.records.size(), 4u);
  EXPECT_LT(r.fetched_tokens, 20);
}

TEST(ConductedServing, RefusalsAreCountedByTheirLimit) {
  ToyEstimates estimates(100, 10, 100, 10);
  ListWorkload w;
  w.add(0, 50, 5);
  w.add(0, 90, 5);     // 5000 + 9000 at the one engine
  w.add(1001, 10, 5);  // beside request 0, which decodes
  w.add(100'000, 10, 5);
  ServeOptions o = conducted(1, 1, estimates);
  o.conductor.ttft_slo = 9000;
  o.conductor.tbt_slo = 115;
  toy::ToyBackend backend(1000);
  const ServeResult r = serve(w, backend, o);
  EXPECT_EQ(r.rejected, 2);
  EXPECT_EQ(r.rejected_ttft, 1);
  EXPECT_EQ(r.rejected_tbt, 1);
  EXPECT_THAT(r.rejected_reason, HasSubstr("time to first token"));
  EXPECT_EQ(r.records.size(), 2u);
}

// Both prompts are computed in one step, when nobody decodes; the first one then keeps the second out, whose
// prompt was computed for nothing. Early, nobody sees that it will be so; later ones are seen when they come.
TEST(ConductedServing, TheDecodeEngineRefusesWhenThePromptIsComputed) {
  const auto served = [](Rejection rejection, Picoseconds second) {
    ToyEstimates estimates(100, 10, 100, 10);
    ListWorkload w;
    w.add(0, 50, 5);
    w.add(second, 10, 5);
    w.add(100'000, 10, 5);
    ServeOptions o = conducted(1, 1, estimates);
    o.conductor.tbt_slo = 115;  // one sequence
    o.conductor.rejection = rejection;
    toy::ToyBackend backend(1000);
    return serve(w, backend, o);
  };
  struct Expected {
    Rejection rejection;
    Picoseconds second;
    std::int64_t rejected, computed;
  };
  for (const Expected& x : {Expected{Rejection::kEarly, 0, 0, 0}, Expected{Rejection::kLate, 0, 1, 1},
                            Expected{Rejection::kBoth, 0, 1, 1}, Expected{Rejection::kEarly, 1001, 1, 0},
                            Expected{Rejection::kLate, 1001, 1, 1}, Expected{Rejection::kBoth, 1001, 1, 0}}) {
    SCOPED_TRACE(std::to_string(static_cast<int>(x.rejection)) + " at " + std::to_string(x.second));
    const ServeResult r = served(x.rejection, x.second);
    EXPECT_EQ(r.rejected, x.rejected);
    EXPECT_EQ(r.rejected_tbt, x.rejected);
    EXPECT_EQ(r.rejected_computed, x.computed);
    EXPECT_EQ(r.discarded_tokens, 10 * x.computed);
    EXPECT_EQ(std::ssize(r.records), 3 - x.rejected);
  }
}

// Nobody is lost, blocks come back, and what is lost of prompts is lost late alone; in a closed loop refused
// requests make room for the next ones.
TEST(ConductedServing, RequestsEndOrAreRefusedOnce) {
  for (std::uint64_t seed = 0; seed < toy::seeds(60); ++seed) {
    SCOPED_TRACE(seed);
    CounterRandom random(seed, 77);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
    ToyEstimates estimates(pick(1, 20), 1, pick(50, 150), pick(1, 40));
    ListWorkload w;
    Picoseconds at = 0;
    const std::int64_t count = pick(20, 80);
    for (std::int64_t i = 0; i < count; ++i)
      w.add(at += pick(0, 1500), static_cast<std::int32_t>(pick(1, 60)),
            static_cast<std::int32_t>(pick(1, 20)));
    if (seed % 3 == 0) w.close_loop(pick(2, 12));
    ServeOptions o = conducted(static_cast<int>(pick(1, 3)), static_cast<int>(pick(1, 3)), estimates);
    o.conductor.tbt_slo = pick(60, 300);
    if (pick(0, 1) > 0) o.conductor.ttft_slo = pick(200, 3000);
    if (pick(0, 1) > 0) o.conductor.decode_time = pick(500, 20'000);
    o.conductor.rejection = static_cast<Rejection>(seed % 3);
    toy::ToyBackend backend(pick(100, 1000), pick(0, 5));
    backend.link(0, 3);
    const ServeResult r = serve(w, backend, o);
    EXPECT_FALSE(r.aborted) << r.abort_reason;
    EXPECT_EQ(std::ssize(r.records) + r.rejected, count);
    EXPECT_EQ(r.rejected_ttft + r.rejected_tbt, r.rejected);
    EXPECT_GE(r.rejected_computed, o.conductor.rejection == Rejection::kLate ? r.rejected_tbt : 0);
    EXPECT_LE(r.rejected_computed, o.conductor.rejection == Rejection::kEarly ? 0 : r.rejected_tbt);
  }
}

TEST(ConductedServing, WhatItCannotConductIsRefused) {
  ToyEstimates estimates(1, 1, 1, 1);
  const auto message = [&](auto change) {
    ServeOptions o = conducted(1, 1, estimates);
    change(o);
    return toy::refusal_of(o);
  };
  EXPECT_EQ(message([](ServeOptions&) {}), "");
  EXPECT_THAT(message([](ServeOptions& o) { o.estimates = nullptr; }), HasSubstr("predicted times"));
  EXPECT_THAT(message([](ServeOptions& o) { o.engines[0].ranks = 2; }), HasSubstr("one rank"));
  EXPECT_THAT(message([](ServeOptions& o) { o.conductor.balancing_threshold = 0.5; }),
              HasSubstr("at least 1"));
  EXPECT_THAT(message([](ServeOptions& o) {
                o.kv_link.layers = 4;
                o.conductor.rejection = Rejection::kLate;
              }),
              HasSubstr("layers are on their way"));
  EXPECT_THAT(message([](ServeOptions& o) {
                const RouterConfig router = o.router;
                o = toy::options(40, 4, 100, 8);
                o.router = router;
              }),
              HasSubstr("a prefill and a decode engine"));
}

}  // namespace
}  // namespace foretoken
