// Infinite-LLM's instances (docs/policies.md) against schedules worked out by hand, and laws over random
// loads.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "base/error.h"
#include "seeds.h"
#include "serving/lending/instances.h"
#include "toy.h"

namespace foretoken {
namespace {

using lending::Decision;
using lending::Instances;
using lending::Order;
using testing::ElementsAre;
using testing::HasSubstr;
using toy::ListWorkload;

// Steps in words: "0 i1 p2:6 >0:4" is a prompt of 6 tokens on instance 1 whose first 4 go to instance 0; "0
// i1 d2/7 <0:1/4 for 0:1/8 >0:4" decodes two sequences over 7 tokens here and 4 of one of them at instance 0,
// and pays for 8 tokens of another's. A token of a prompt takes 100 ps; a decode step 1000, 10 for each token
// attended here or for others, or 50 and 10 for each token elsewhere if that is more.
class LendingLog : public Backend {
 public:
  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step& step) override {
    const Batch& b = step.ranks.front();
    std::string text = fmt::format("{} i{}", step.start, step.engine);
    Picoseconds time = 100 * (b.tokens() - b.decode_sequences);
    for (const PrefillPart& p : b.prefill) text += fmt::format(" p{}:{}", p.request, p.new_tokens);
    if (b.decode_sequences > 0) {
      text += fmt::format(" d{}/{}", b.decode_sequences, b.contexts[0]);
      Picoseconds elsewhere = 0;
      for (const LentContext& c : b.borrowed) elsewhere = std::max(elsewhere, 50 + 10 * c.tokens);
      time = 1000 + std::max(10 * b.contexts[0], elsewhere);
    }
    for (const LentContext& c : b.borrowed)
      text += fmt::format(" <{}:{}/{}", c.instance, c.sequences, c.tokens);
    for (const LentContext& c : b.served) {
      text += fmt::format(" for {}:{}/{}", c.instance, c.sequences, c.tokens);
      time += 10 * c.tokens;
    }
    for (const LentContext& c : b.moved) text += fmt::format(" >{}:{}", c.instance, c.tokens);
    steps.push_back(text);
    return {time, time};
  }
  std::vector<std::string> steps;

 private:
  std::vector<std::int64_t> windows_{0};
};

// So many instances of so many blocks of 2 tokens; requests go to them in turn.
ServeOptions lending_options(int instances, std::int64_t blocks) {
  ServeOptions o;
  SchedulerConfig c;
  c.policy = SchedulerPolicy::kInfiniteLlm;
  c.enable_prefix_caching = false;
  c.enable_chunked_prefill = false;
  c.block_size = 2;
  c.num_blocks = blocks + 1;
  c.max_model_len = c.max_num_batched_tokens = 2 * blocks * instances;
  c.max_num_seqs = 100;
  c.lending.heartbeat = 5000;
  c.lending.move_tokens = 4;
  c.lending.step_ms.assign(8, 10);  // the same for every batch
  c.lending.attention_ms = 0.1;
  o.engines = {{c}};
  o.replicas = instances;
  o.keep_records = true;
  return o;
}
SchedulerConfig& config(ServeOptions& o) { return o.engines[0].scheduler; }

std::vector<std::string> steps(ListWorkload& w, const ServeOptions& o) {
  LendingLog log;
  const ServeResult r = serve(w, log, o);
  EXPECT_FALSE(r.aborted) << r.abort_reason;
  return log.steps;
}

// Ten tokens in instances of three blocks: two blocks are borrowed while the prompt is computed, a third when
// the sixth block is needed.
TEST(Lending, APromptThatNoInstanceHolds) {
  ListWorkload w;
  w.add(0, 10, 3);
  ServeOptions o = lending_options(2, 3);
  config(o).max_model_len = config(o).max_num_batched_tokens = 20;
  EXPECT_THAT(steps(w, o), ElementsAre("0 i0 p0:10 >1:4", "1000 i0 d1/5 <1:1/6 >1:2", "2110 i0 d1/6 <1:1/6"));
}

// What the creditor attends to for the debtor while it computes itself lengthens its next step.
TEST(Lending, ACreditorPaysWithItsNextStep) {
  ListWorkload w;
  w.add(0, 10, 3);
  w.add(0, 2, 3);
  EXPECT_THAT(steps(w, lending_options(2, 4)),
              ElementsAre("0 i0 p0:10 >1:2", "0 i1 p1:2", "200 i1 d1/3", "1000 i0 d1/7 <1:1/4 >1:2",
                          "1230 i1 d1/4 for 0:1/4", "2090 i0 d1/8 <1:1/4"));
}

TEST(Lending, WithoutItThePromptIsRefused) {
  ListWorkload w;
  w.add(0, 10, 3);
  ServeOptions o = lending_options(2, 3);
  config(o).lending.lend_limit = 0;
  LendingLog log;
  const ServeResult r = serve(w, log, o);
  EXPECT_EQ(r.rejected, 1);
  EXPECT_THAT(r.rejected_reason, HasSubstr("an instance has 3 and is lent 0 at the most"));
}

// The gManager moves blocks of the longest request so that who waits can come in: instance 0 holds 8 blocks,
// 7 of them in use, and a prompt of 3 waits. Steps take the same for any batch, so that one more sequence is
// gain; two blocks are enough and moving more would lengthen attention elsewhere beyond attention here.
TEST(Lending, PlansWhatGainsMost) {
  ServeOptions o = lending_options(2, 8);
  config(o).lending.attention_ms = 0.001;
  config(o).lending.exchange_ms = 0;
  Instances instances(config(o), 2);
  instances.enqueue(0, {.id = 0, .input_len = 8, .output_len = 9}, 0);
  instances.enqueue(0, {.id = 1, .input_len = 6, .output_len = 9}, 0);
  instances.enqueue(0, {.id = 2, .input_len = 6, .output_len = 9}, 0);
  Decision d;
  ASSERT_TRUE(instances.decide(0, d));
  EXPECT_EQ(d.slots.size(), 2u);
  instances.plan();
  ASSERT_FALSE(instances.orders(0).empty());
  EXPECT_EQ(instances.orders(0)[0].creditor, 1);
  EXPECT_GE(instances.orders(0)[0].blocks, 2);
  // Where nobody has room to lend there is no order.
  config(o).lending.creditor_usage = 0;
  Instances strict(config(o), 2);
  strict.enqueue(0, {.id = 0, .input_len = 8, .output_len = 9}, 0);
  ASSERT_TRUE(strict.decide(0, d));
  strict.plan();
  EXPECT_TRUE(strict.orders(0).empty());
}

TEST(Lending, RefusesWhatItIsNotModelledWith) {
  const auto error = [](auto change) -> std::string {
    ListWorkload w;
    w.add(0, 1, 1);
    LendingLog log;
    ServeOptions o = lending_options(2, 8);
    change(o);
    try {
      serve(w, log, o);
    } catch (const Error& e) {
      return e.where() + ": " + e.message();
    }
    return "";
  };
  EXPECT_THAT(error([](ServeOptions& x) { config(x).lending.step_ms.clear(); }),
              HasSubstr("which are missing"));
  EXPECT_THAT(error([](ServeOptions& x) { x.router.kind = RouterKind::kKvCost; }), HasSubstr("router"));
  EXPECT_THAT(error([](ServeOptions& x) { x.autoscale.on = true; }), HasSubstr("autoscale"));
  EXPECT_THAT(error([](ServeOptions& x) { x.engines.push_back(x.engines[0]); }), HasSubstr("all alike"));
  EXPECT_THAT(error([](ServeOptions& x) { config(x).max_num_batched_tokens = 8; }), HasSubstr("raise it"));
}

// Holds steps to the memory of all instances.
class Checked : public LendingLog {
 public:
  StepTime run(const Step& step) override {
    for (const LentContext& c : step.ranks.front().borrowed) {
      EXPECT_NE(c.instance, step.engine);
      EXPECT_GT(c.tokens, 0);
    }
    const StepTime time = LendingLog::run(step);
    steps.clear();
    return time;
  }
};

auto key(const RequestRecord& r) {
  return std::tuple(r.id, r.engine, r.output_len, r.queued, r.scheduled, r.prefill_done, r.first_token,
                    r.finish, r.preemptions);
}

TEST(LendingLaws, ReplaysSpansAndConservation) {
  std::int64_t preemptions = 0, moved = 0, borrowers = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(150); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    CounterRandom random(seed, 5);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
    const auto instances = static_cast<int>(pick(1, 4));
    const std::int64_t blocks = pick(8, 40);
    ServeOptions o = lending_options(instances, blocks);
    LendingConfig& l = config(o).lending;
    l.heartbeat = pick(500, 20000);
    l.debtor_batch = pick(1, 20);
    l.creditor_usage = 0.1 * static_cast<double>(pick(3, 10));
    l.lend_limit = 0.25 * static_cast<double>(pick(0, 4));
    l.move_tokens = pick(1, 12);
    config(o).watermark = random.uniform() < 0.5 ? 0 : 0.05;
    config(o).max_num_seqs = pick(2, 20);
    o.ingress = pick(0, 300);
    ListWorkload load;
    Picoseconds clock = 0;
    for (std::int64_t i = pick(1, 40); i > 0; --i) {
      clock += pick(0, 3000);
      const std::int64_t most = random.uniform() < 0.2 ? 2 * blocks * instances : blocks;
      load.add(clock, static_cast<std::int32_t>(pick(1, most)), static_cast<std::int32_t>(pick(1, 20)));
    }
    ListWorkload a = load, b = load, c = load;
    Recording recording;
    o.timeline = &recording;
    Checked priced, again;
    const ServeResult r = serve(a, priced, o);
    ASSERT_FALSE(r.aborted) << r.abort_reason;
    o.timeline = nullptr;
    o.use_spans = false;  // there are none
    const ServeResult steps = serve(b, again, o);
    ReplayBackend replay(recording);
    const ServeResult replayed = serve(c, replay, o);
    ASSERT_EQ(r.records.size(), steps.records.size());
    ASSERT_EQ(r.records.size(), replayed.records.size());
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      ASSERT_EQ(key(r.records[i]), key(steps.records[i]));
      ASSERT_EQ(key(r.records[i]), key(replayed.records[i]));
      tokens += r.records[i].input_len + r.records[i].output_len - 1;
      preemptions += r.records[i].preemptions;
    }
    EXPECT_EQ(r.metrics.completed + r.rejected, a.popped());
    EXPECT_EQ(r.scheduled_tokens - r.discarded_tokens, tokens);
    EXPECT_LE(r.metrics.peak_kv_usage, 1);
    if (l.lend_limit == 0 || instances == 1) {
      EXPECT_EQ(r.lending.moved_blocks, 0);
    }
    moved += r.lending.moved_blocks;
    borrowers += r.lending.borrowers;
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(moved, 0);
  EXPECT_GT(borrowers, 0);
}

// Blocks are neither lost nor made: after every decision those in use are those that requests hold, and all
// that is lent is borrowed.
TEST(LendingLaws, BlocksOverInstances) {
  for (std::uint64_t seed = 0; seed < toy::seeds(40); ++seed) {
    CounterRandom random(seed, 6);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
    const auto n = static_cast<std::int32_t>(pick(2, 4));
    ServeOptions o = lending_options(n, pick(8, 24));
    Instances instances(config(o), n);
    std::map<std::int32_t, std::vector<std::int32_t>> runs;
    std::map<std::int32_t, bool> ids;
    RequestId id = 0;
    for (int i = 0; i < 300; ++i) {
      const auto e = static_cast<std::int32_t>(pick(0, n - 1));
      const Request request{.id = id,
                            .input_len = static_cast<std::int32_t>(pick(1, 2 * instances.usable() + 8)),
                            .output_len = static_cast<std::int32_t>(pick(1, 12))};
      if (random.uniform() < 0.3 && !instances.refuses(request)) instances.enqueue(e, request, 0), ++id;
      if (random.uniform() < 0.1) instances.plan();
      Decision d;
      instances.decide(e, d);
      std::int64_t used = 0, lent = 0, borrowed = 0;
      for (const std::int32_t slot : d.slots) ids[slot] = true;
      for (std::int32_t k = 0; k < n; ++k) {
        EXPECT_GE(instances.used(k), instances.lent(k));
        EXPECT_LE(instances.used(k), instances.usable());
        used += instances.used(k);
        lent += instances.lent(k);
        borrowed += instances.borrowed(k);
      }
      EXPECT_EQ(lent, borrowed);
      std::int64_t held = 0;
      for (const auto& [slot, known] : ids)
        for (const std::int64_t blocks : instances[slot].blocks) held += blocks;
      EXPECT_EQ(held, used);
      instances.end_moves(e);
      for (const std::int32_t slot : d.slots)
        if (++instances[slot].output >= instances[slot].most_output) instances.finish(e, slot);
    }
  }
}

}  // namespace
}  // namespace foretoken
