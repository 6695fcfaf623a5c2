// Over random loads: what is the same with and without spans, what a replay gives, what is conserved.
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "group_log.h"
#include "seeds.h"

namespace foretoken {
namespace {

using toy::ListWorkload;
using toy::ToyBackend;

auto key(const RequestRecord& r) {
  return std::tuple(r.id, r.engine, r.input_len, r.output_len, r.queued, r.scheduled, r.prefill_done,
                    r.first_token, r.finish, r.preemptions);
}

// Holds every step to the instances' memory, and single steps to instances of their own.
class Checked : public ToyBackend {
 public:
  Checked(const ToyBackend& toy, std::int64_t capacity) : ToyBackend(toy), capacity_(capacity) {}
  StepTime run(const Step& step) override {
    const StepTime time = ToyBackend::run(step);
    for (const Batch& b : step.ranks) {
      check(b);
      Picoseconds& until = busy_until_[b.instance];
      EXPECT_LE(until, step.start) << "instance " << b.instance;
      until = step.start + time.tokens_out;
    }
    return time;
  }
  SpanTime run_span(const Step& step, std::int64_t max_steps) override {
    for (const Batch& b : step.ranks) check(b, max_steps);
    return ToyBackend::run_span(step, max_steps);
  }

 private:
  void check(const Batch& b, std::int64_t steps = 1) {
    EXPECT_LE(b.contexts[0] + (steps - 1) * b.decode_sequences, capacity_);
    EXPECT_GE(b.contexts[0], b.attended);
    EXPECT_GE(b.attended, b.decode_sequences);
  }
  std::int64_t capacity_;
  std::map<std::int32_t, Picoseconds> busy_until_;
};

struct Load {
  explicit Load(std::uint64_t seed) {
    CounterRandom random(seed, 3);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
    const auto instances = static_cast<int>(pick(1, 5));
    capacity = pick(30, 150);
    options = toy::elastic(instances, capacity, random.uniform() < 0.5 ? 1 : 100);
    for (std::size_t k = 0; k < toy::knobs(options).prefill_model.size(); ++k)
      toy::knobs(options).prefill_model[k][2] = 0.01 / static_cast<double>(k + 1);
    LoongserveConfig& c = toy::knobs(options);
    c.max_wait_tokens = pick(0, 12);
    c.min_comp_bound_decoding_batch_size = pick(1, 8);
    c.max_num_ooe = pick(0, 3);
    c.max_prefill_time = static_cast<double>(pick(5, 300));
    c.avg_decoding_time = 0.1 * static_cast<double>(pick(1, 300));
    c.use_fixed_sp = random.uniform() < 0.15;
    c.disable_scale_up = seed % 7 == 3;
    c.move_per_token = pick(0, 200) * 1'000'000;
    options.engines[0].scheduler.max_num_seqs = pick(2, 40);
    options.ingress = pick(0, 500);
    options.egress = pick(0, 500);
    const Picoseconds unit = random.uniform() < 0.5 ? 100 : 1;
    backend = ToyBackend(pick(1, 50) * unit * 10, pick(0, 20) * unit, pick(0, 5) * unit, {pick(0, 2) * unit});
    if (random.uniform() < 0.3) backend.limit_spans(pick(1, 10));
    Picoseconds clock = 0;
    const Picoseconds gap = pick(0, 60) * 100;
    for (std::int64_t i = pick(1, 80); i > 0; --i) {
      clock += random.uniform() < 0.3 ? 0 : pick(0, gap) * unit;
      const auto most =
          static_cast<std::int32_t>(random.uniform() < 0.2 ? capacity * instances : capacity / 2);
      workload.add(clock, static_cast<std::int32_t>(pick(1, std::max(1, most - 20))),
                   static_cast<std::int32_t>(pick(1, 40)));
    }
    if (random.uniform() < 0.3) workload.close_loop(pick(1, 20));
  }
  ServeOptions options;
  ListWorkload workload;
  ToyBackend backend{0};
  std::int64_t capacity = 0;
};

class ElasticLaws : public testing::TestWithParam<int> {};

TEST_P(ElasticLaws, SpansReplaysAndConservation) {
  std::int64_t pauses = 0;
  const auto most = static_cast<int>(toy::seeds(400) / 4);
  for (int n = 0; n < most; ++n) {
    const auto seed = static_cast<std::uint64_t>(GetParam() * 1000 + n);
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Load load(seed);
    Recording recording;
    ServeOptions o = load.options;
    o.timeline = &recording;
    o.sample_over_time = true;
    o.sample_period = 5000;
    ListWorkload a = load.workload, b = load.workload, c = load.workload;
    Checked with(load.backend, load.capacity), without(load.backend, load.capacity);
    const ServeResult spans = serve(a, with, o);
    ASSERT_FALSE(spans.aborted) << spans.abort_reason;
    o.timeline = nullptr;
    o.use_spans = false;
    const ServeResult steps = serve(b, without, o);
    ASSERT_EQ(spans.records.size(), steps.records.size());
    for (std::size_t i = 0; i < spans.records.size(); ++i)
      ASSERT_EQ(key(spans.records[i]), key(steps.records[i])) << i;
    EXPECT_EQ(spans.metrics.num_steps, steps.metrics.num_steps);
    EXPECT_EQ(spans.metrics.itl.mean, steps.metrics.itl.mean);
    EXPECT_EQ(spans.metrics.itl.count, steps.metrics.itl.count);
    EXPECT_EQ(spans.metrics.mean_running, steps.metrics.mean_running);
    EXPECT_EQ(spans.metrics.peak_kv_usage, steps.metrics.peak_kv_usage);
    EXPECT_EQ(spans.metrics.busy_share, steps.metrics.busy_share);
    EXPECT_EQ(spans.over_time.samples, steps.over_time.samples);

    ReplayBackend replay(recording);
    o.use_spans = true;
    const ServeResult again = serve(c, replay, o);
    ASSERT_EQ(spans.records.size(), again.records.size());
    for (std::size_t i = 0; i < spans.records.size(); ++i)
      ASSERT_EQ(key(spans.records[i]), key(again.records[i])) << i;

    std::int64_t tokens = 0;
    std::set<RequestId> ids;
    for (const RequestRecord& r : spans.records) {
      ids.insert(r.id);
      tokens += r.input_len + r.output_len - 1;
      pauses += r.preemptions;
      EXPECT_LE(r.queued, r.scheduled);
      EXPECT_LE(r.scheduled, r.prefill_done);
      EXPECT_LE(r.first_token, r.finish);
    }
    EXPECT_EQ(ids.size(), spans.records.size());
    EXPECT_EQ(static_cast<std::int64_t>(ids.size()) + spans.rejected, a.popped());
    EXPECT_EQ(spans.scheduled_tokens - spans.discarded_tokens, tokens);
    EXPECT_LE(spans.metrics.peak_kv_usage, 1);
  }
  EXPECT_GT(pauses, 0) << "no load of these lacks memory";
}
INSTANTIATE_TEST_SUITE_P(Seeds, ElasticLaws, testing::Range(0, 4));

}  // namespace
}  // namespace foretoken
