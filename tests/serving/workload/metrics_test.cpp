// Metrics against figures worked out by hand, and numpy's on the same lists.
#include "serving/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace foretoken {
namespace {

constexpr Picoseconds kMs = 1'000'000'000;

RequestRecord record(RequestId id, std::int64_t arrival_ms, std::int64_t first_ms, std::int64_t finish_ms,
                     std::int32_t output) {
  RequestRecord r;
  r.id = id;
  r.input_len = 100;
  r.output_len = output;
  r.arrival = arrival_ms * kMs;
  r.queued = r.arrival + 1 * kMs;
  r.scheduled = r.queued + 2 * kMs;
  r.prefill_done = r.scheduled + 3 * kMs;
  r.first_token = first_ms * kMs;
  r.finish = finish_ms * kMs;
  return r;
}

Slo limits(std::optional<double> ttft, std::optional<double> tpot, std::optional<double> e2el = {}) {
  Slo slo;
  slo.ttft_ms = ttft;
  slo.tpot_ms = tpot;
  slo.e2el_ms = e2el;
  return slo;
}

MetricsCollector four_requests(Slo slo = {}) {
  MetricsCollector m(slo, true);
  // ttft 10, 20, 30, 40; e2el 110, 220, 330, 40; tpot 10, 20, 30 and none.
  m.add(record(2, 200, 230, 530, 11));
  m.add(record(0, 0, 10, 110, 11));
  m.add(record(3, 300, 340, 340, 1));
  m.add(record(1, 100, 120, 320, 11));
  return m;
}

TEST(Metrics, WorkedOutByHand) {
  const ServingMetrics m = four_requests().summarize();
  EXPECT_EQ(m.completed, 4);
  EXPECT_EQ(m.total_input_tokens, 400);
  EXPECT_EQ(m.total_output_tokens, 34);
  EXPECT_DOUBLE_EQ(m.duration, 0.53);
  EXPECT_DOUBLE_EQ(m.request_throughput, 4 / 0.53);
  EXPECT_DOUBLE_EQ(m.output_throughput, 34 / 0.53);
  EXPECT_DOUBLE_EQ(m.total_token_throughput, 434 / 0.53);
  // numpy: mean 25, median 25, std (population) 11.1803, percentiles by linear interpolation.
  EXPECT_TRUE(m.ttft.exact);
  EXPECT_DOUBLE_EQ(m.ttft.mean, 25);
  EXPECT_DOUBLE_EQ(m.ttft.median, 25);
  EXPECT_NEAR(m.ttft.std, 11.180339887498949, 1e-12);
  EXPECT_NEAR(m.ttft.p90, 37, 1e-12);
  EXPECT_NEAR(m.ttft.p95, 38.5, 1e-12);
  EXPECT_NEAR(m.ttft.p99, 39.7, 1e-12);
  EXPECT_EQ(m.ttft.min, 10);
  EXPECT_EQ(m.ttft.max, 40);
  EXPECT_EQ(m.tpot.count, 3);  // the request of one token has none
  EXPECT_DOUBLE_EQ(m.tpot.mean, 20);
  EXPECT_DOUBLE_EQ(m.e2el.mean, 175);
  EXPECT_NEAR(m.e2el.p90, 297, 1e-12);
  EXPECT_FALSE(m.request_goodput.has_value());
}

TEST(Metrics, PartsSumToMeanTtft) {
  const ServingMetrics m = four_requests().summarize();
  const auto& p = m.ttft_parts;
  EXPECT_DOUBLE_EQ(p.ingress, 1);
  EXPECT_DOUBLE_EQ(p.queue, 2);
  EXPECT_DOUBLE_EQ(p.prefill, 3);
  EXPECT_DOUBLE_EQ(p.transfer, 0);
  EXPECT_DOUBLE_EQ(p.first_step, 19);
  EXPECT_NEAR(p.ingress + p.queue + p.prefill + p.transfer + p.first_step, m.ttft.mean, 1e-12);
}

TEST(Metrics, GoodputMeetsAllLimits) {
  // ttft <= 35 fails request 3, tpot <= 20 fails request 2; limits include their value.
  const ServingMetrics m = four_requests(limits(35, 20)).summarize();
  EXPECT_DOUBLE_EQ(*m.slo_attainment, 0.5);
  EXPECT_DOUBLE_EQ(*m.request_goodput, 2 / 0.53);
  // A single token has a TPOT of 0, as vLLM counts it.
  EXPECT_DOUBLE_EQ(*four_requests(limits({}, 0.1)).summarize().slo_attainment, 0.25);
  EXPECT_DOUBLE_EQ(*four_requests(limits({}, {}, 220)).summarize().slo_attainment, 0.75);
}

TEST(Metrics, RecordsComeById) {
  const MetricsCollector m = four_requests();
  ASSERT_EQ(m.records().size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(m.records()[i].id, static_cast<RequestId>(i));
}

TEST(Metrics, GapsOfASpanAreARamp) {
  MetricsCollector m;
  m.add_gaps(10 * kMs, kMs, 11, 4);  // 10, 11, ... 20 ms, four sequences each
  m.add(record(0, 0, 10, 110, 11));
  const ServingMetrics s = m.summarize();
  EXPECT_EQ(s.itl.count, 44);
  EXPECT_FALSE(s.itl.exact);
  EXPECT_DOUBLE_EQ(s.itl.mean, 15);
  EXPECT_NEAR(s.itl.median, 15, 0.015);
  EXPECT_EQ(s.itl.max, 20);
}

TEST(Metrics, EmptyRun) {
  const ServingMetrics m = MetricsCollector(limits(1, {})).summarize();
  EXPECT_EQ(m.completed, 0);
  EXPECT_EQ(m.request_throughput, 0);
  EXPECT_EQ(m.ttft.mean, 0);
  EXPECT_EQ(*m.slo_attainment, 0);
}

std::vector<RequestRecord> many(std::int64_t count) {
  std::vector<RequestRecord> records;
  for (std::int64_t i = 0; i < count; ++i) {
    CounterRandom random(3, 5, static_cast<std::uint64_t>(i));
    RequestRecord r = record(i, i, i + random.uniform_int(7, 4000), 0,
                             static_cast<std::int32_t>(random.uniform_int(1, 90)));
    r.finish = r.first_token + r.output_len * random.uniform_int(kMs, 60 * kMs);
    r.cached_tokens = 25;
    records.push_back(r);
  }
  return records;
}

TEST(Metrics, HistogramsAgreeWithTheListsWithinAThousandth) {
  MetricsCollector exact, rough({}, false, 1000);
  for (const RequestRecord& r : many(20'000)) {
    exact.add(r);
    rough.add(r);
  }
  const ServingMetrics a = exact.summarize(), b = rough.summarize();
  EXPECT_TRUE(a.ttft.exact);
  EXPECT_FALSE(b.ttft.exact);
  EXPECT_DOUBLE_EQ(a.prefix_cache_hit_rate, 0.25);
  for (const auto& [x, y] :
       {std::pair(a.ttft, b.ttft), std::pair(a.tpot, b.tpot), std::pair(a.e2el, b.e2el)}) {
    EXPECT_EQ(x.count, y.count);
    EXPECT_NEAR(y.mean / x.mean, 1, 1e-12);
    EXPECT_NEAR(y.std / x.std, 1, 1e-3);
    EXPECT_NEAR(y.p50 / x.p50, 1, 1e-3);
    EXPECT_NEAR(y.p90 / x.p90, 1, 1e-3);
    EXPECT_NEAR(y.p99 / x.p99, 1, 1e-3);
    EXPECT_EQ(x.max, y.max);
  }
}

TEST(Metrics, OrderOfAddsChangesNoBit) {
  auto records = many(5000);
  for (const std::size_t limit : {std::size_t{100}, std::size_t{1'000'000}}) {
    MetricsCollector forward({}, false, limit), backward({}, false, limit);
    for (const RequestRecord& r : records) forward.add(r);
    std::for_each(records.rbegin(), records.rend(), [&](const RequestRecord& r) { backward.add(r); });
    const ServingMetrics a = forward.summarize(), b = backward.summarize();
    EXPECT_EQ(a.ttft.mean, b.ttft.mean);
    EXPECT_EQ(a.ttft.std, b.ttft.std);
    EXPECT_EQ(a.tpot.mean, b.tpot.mean);
    EXPECT_EQ(a.tpot.p99, b.tpot.p99);
    EXPECT_EQ(a.e2el.std, b.e2el.std);
    EXPECT_EQ(a.ttft_parts.first_step, b.ttft_parts.first_step);
    EXPECT_EQ(a.duration, b.duration);
  }
}

}  // namespace
}  // namespace foretoken
