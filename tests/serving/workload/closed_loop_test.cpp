// Closed loops: never more than max_concurrency in flight, each end starts the next.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <queue>

#include "base/random.h"
#include "support.h"

namespace foretoken {
namespace {

using test::make;
using test::synthetic;

struct InFlight {
  Picoseconds end = 0;
  Request request;
  bool operator>(const InFlight& o) const { return end > o.end; }
};

// Serves requests with pseudo-random durations; returns the most that were in flight.
template <class Check>
std::int64_t serve_all(Workload& workload, Check&& check) {
  std::priority_queue<InFlight, std::vector<InFlight>, std::greater<>> running;
  std::size_t most = 0;
  for (;;) {
    const auto arrival = workload.next_arrival();
    if (arrival && (running.empty() || *arrival < running.top().end)) {
      const Request r = workload.pop();
      check(r);
      CounterRandom random(1, 99, static_cast<std::uint64_t>(r.id));
      running.push({r.arrival + random.uniform_int(1, 1'000'000), r});
      most = std::max(most, running.size());
    } else if (!running.empty()) {
      const InFlight done = running.top();
      running.pop();
      workload.finished(done.request, done.end);
    } else {
      return static_cast<std::int64_t>(most);
    }
  }
}

TEST(ClosedLoop, KeepsTheConcurrencyFull) {
  WorkloadConfig c = synthetic(100, 10);
  c.max_concurrency = 16;
  const auto workload = make(c);
  EXPECT_EQ(workload->total_requests(), 160);
  EXPECT_EQ(workload->means().request_rate, 0);
  EXPECT_EQ(workload->describe(), "synthetic, 160 requests, 16 in flight");
  std::int64_t served = 0, at_zero = 0;
  Picoseconds last = 0;
  const std::int64_t most = serve_all(*workload, [&](const Request& r) {
    EXPECT_EQ(r.id, served++);
    EXPECT_GE(r.arrival, last);
    last = r.arrival;
    at_zero += r.arrival == 0;
  });
  EXPECT_EQ(most, 16);
  EXPECT_EQ(at_zero, 16);
  EXPECT_EQ(served, 160);
}

TEST(ClosedLoop, WaitsForAnEnd) {
  WorkloadConfig c = synthetic(100, 10);
  c.max_concurrency = 2;
  c.num_prompts = 3;
  const auto workload = make(c);
  const Request a = workload->pop(), b = workload->pop();
  EXPECT_EQ(workload->next_arrival(), std::nullopt);
  workload->finished(b, 500);
  EXPECT_EQ(workload->next_arrival(), 500);
  const Request third = workload->pop();
  EXPECT_EQ(third.arrival, 500);
  workload->finished(a, 600);
  EXPECT_EQ(workload->next_arrival(), std::nullopt);  // num_prompts are out
}

TEST(ClosedLoop, FewerRequestsThanClients) {
  WorkloadConfig c = synthetic(100, 10);
  c.max_concurrency = 64;
  c.num_prompts = 3;
  const auto workload = make(c);
  EXPECT_EQ(serve_all(*workload, [](const Request&) {}), 3);
}

TEST(ClosedLoop, RateAndConcurrencyBothHold) {
  WorkloadConfig c = synthetic(100, 10);
  c.max_concurrency = 2;
  c.request_rate = 1;
  c.arrival = "constant";
  c.num_prompts = 4;
  const auto workload = make(c);
  const Request first = workload->pop();
  EXPECT_EQ(first.arrival, 0);
  EXPECT_EQ(workload->next_arrival(), 1'000'000'000'000);  // a slot is free, the arrival is not yet due
  const Request second = workload->pop();
  EXPECT_EQ(workload->next_arrival(), std::nullopt);
  workload->finished(first, 5'000'000'000'000);
  EXPECT_EQ(workload->next_arrival(), 5'000'000'000'000);  // due since 2 s, sent when a slot is free
  workload->finished(second, 6'000'000'000'000);
}

TEST(ClosedLoop, RunsOverTheLengthsOfATrace) {
  const test::TemporaryFolder folder;
  folder.write("t.csv", "num_prefill_tokens,num_decode_tokens\n10,1\n20,2\n30,3\n");
  WorkloadConfig c;
  c.trace = "t.csv";
  c.max_concurrency = 2;
  const auto workload = make(c, folder.path());
  EXPECT_EQ(workload->total_requests(), 3);
  EXPECT_DOUBLE_EQ(workload->means().input_len, 20);
  std::int64_t tokens = 0;
  EXPECT_EQ(serve_all(*workload, [&](const Request& r) { tokens += r.input_len; }), 2);
  EXPECT_EQ(tokens, 60);
}

TEST(ClosedLoop, ConversationsKeepToTheirNumber) {
  WorkloadConfig c = synthetic(100, 10);
  c.max_concurrency = 7;
  c.num_prompts = 500;
  c.shared_prefix =
      SharedPrefix{.groups = 3, .users_per_group = 5, .prefix_len = 20, .multi_turn = true, .turns = 3};
  const auto workload = make(c);
  std::int64_t served = 0;
  std::vector<int> turn(200, 0);
  const std::int64_t most = serve_all(*workload, [&](const Request& r) {
    ++served;
    EXPECT_EQ(r.turn, turn[static_cast<std::size_t>(r.session)]++);
  });
  EXPECT_EQ(most, 7);
  EXPECT_EQ(served, 500);
}

}  // namespace
}  // namespace foretoken
