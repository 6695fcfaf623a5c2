// Low-rank adapters in the scheduler: at most max_loras distinct ones run, others wait and are passed over;
// slots are taken by the least recently used rule; the prefix cache keeps adapters apart.
#include "serving/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "serving/block_hashes.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::BatchLog;
using toy::ListWorkload;

LoraConfig config(std::int64_t max_loras, std::int64_t adapters, double exponent = 0) {
  return {max_loras, adapters, exponent, 5};
}

TEST(AdapterDraw, SpreadsRequestsAsAsked) {
  const auto counts = [](double exponent) {
    const AdapterDraw draw(config(2, 4, exponent));
    std::vector<int> n(4);
    for (std::int64_t i = 0; i < 20000; ++i) ++n.at(static_cast<std::size_t>(draw({.id = i})));
    return n;
  };
  for (const int n : counts(0)) EXPECT_NEAR(n, 5000, 300);
  const std::vector<int> zipf = counts(1);  // 1, 1/2, 1/3, 1/4 of 25/12
  EXPECT_NEAR(zipf[0], 9600, 300);
  EXPECT_NEAR(zipf[1], 4800, 300);
  EXPECT_NEAR(zipf[3], 2400, 300);
  const AdapterDraw draw(config(2, 100));
  EXPECT_EQ(draw({.id = 1, .session = 7}), draw({.id = 9, .session = 7})) << "a conversation keeps its own";
  EXPECT_EQ(AdapterDraw({})({.id = 3}), -1);
}

TEST(AdapterSlots, TheLeastRecentlyUsedLeavesAndNoneThatIsNeeded) {
  AdapterSlots slots(2);
  const auto use = [&](std::vector<std::int32_t> adapters) {
    std::vector<AdapterLoad> loads;
    slots.use(adapters, loads);
    std::vector<std::pair<int, int>> pairs;
    for (const AdapterLoad& l : loads) pairs.emplace_back(l.adapter, l.slot);
    return pairs;
  };
  using P = std::pair<int, int>;
  EXPECT_THAT(use({4, 7}), ElementsAre(P(4, 0), P(7, 1)));
  EXPECT_THAT(use({7, 4}), ElementsAre());
  EXPECT_THAT(use({9, 7}), ElementsAre(P(9, 0))) << "7 stays though it is the older one";
  EXPECT_THAT(use({4}), ElementsAre(P(4, 1)));
  EXPECT_ANY_THROW(use({1, 2, 3}));
}

TEST(BlockHashes, AdaptersShareNothing) {
  const auto hash = [](std::int32_t adapter) {
    BlockHashes h;
    const ContentRun run{1, 16};
    h.extend(2, 8, {.id = 3, .input_len = 16, .output_len = 1, .adapter = adapter}, {&run, 1});
    return std::pair(h[0], h[1]);
  };
  EXPECT_EQ(hash(2), hash(2));
  EXPECT_NE(hash(2).first, hash(-1).first);
  EXPECT_NE(hash(2).first, hash(0).first);
  EXPECT_NE(hash(2).second, hash(0).second);
}

ListWorkload many(std::int64_t requests) {
  ListWorkload w;
  for (std::int64_t i = 0; i < requests; ++i) {
    CounterRandom random(11, 3, static_cast<std::uint64_t>(i));
    w.add(i * 1500, static_cast<std::int32_t>(random.uniform_int(3, 40)),
          static_cast<std::int32_t>(random.uniform_int(1, 30)), {{1, 2}});
  }
  return w;
}

// Adapters of every step, from the batches that the backend sees.
class AdapterLog : public Backend {
 public:
  explicit AdapterLog(const LoraConfig& c) : draw_(c) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& b = step.ranks[0];
    std::set<std::int32_t> in_batch;
    for (const PrefillPart& p : b.prefill) in_batch.insert(draw_({.id = p.request}));
    for (const DecodePart& p : b.decode) in_batch.insert(draw_({.id = p.request}));
    EXPECT_EQ(static_cast<std::int32_t>(in_batch.size()), b.adapters);
    for (const AdapterLoad& l : b.adapter_loads) slots_[l.slot] = l.adapter;
    loads += static_cast<std::int64_t>(b.adapter_loads.size());
    for (const std::int32_t a : in_batch)
      EXPECT_TRUE(std::any_of(slots_.begin(), slots_.end(), [&](const auto& s) { return s.second == a; }));
    EXPECT_TRUE(!b.prefill.empty() || b.adapter_loads.empty());
    most = std::max(most, in_batch.size());
    ++steps;
    return {1000, 1000};
  }
  std::size_t most = 0;
  std::int64_t loads = 0, steps = 0;

 private:
  AdapterDraw draw_;
  std::vector<std::int64_t> windows_{0};
  std::map<std::int32_t, std::int32_t> slots_;
};

TEST(LoraScheduling, NeverMoreThanMaxLorasAndEveryBatchFindsItsAdapters) {
  for (const std::int64_t max_loras : {1, 2, 3, 8}) {
    ServeOptions o = toy::options(60, 4, 8, 32);
    o.engines[0].scheduler.lora = config(max_loras, 8);
    AdapterLog log(o.engines[0].scheduler.lora);
    ListWorkload w = many(150);
    const ServeResult r = serve(w, log, o);
    EXPECT_EQ(r.records.size(), 150u);
    EXPECT_LE(log.most, static_cast<std::size_t>(max_loras));
    EXPECT_GE(log.loads, 8);
    EXPECT_TRUE(max_loras < 8 || log.loads == 8) << "room for all: each is loaded once";
    EXPECT_TRUE(max_loras > 1 || log.loads > 12);
  }
}

// Adapters cost nothing here, so one at a time can only make requests wait.
TEST(LoraScheduling, OneAtATimeServesLast) {
  std::vector<Picoseconds> last;
  for (const std::int64_t max_loras : {1, 2, 4, 8}) {
    ServeOptions o = toy::options(100, 4, 8, 32);
    o.engines[0].scheduler.lora = config(max_loras, 8);
    ListWorkload w = many(150);
    AdapterLog log(o.engines[0].scheduler.lora);
    const ServeResult r = serve(w, log, o);
    last.push_back(0);
    for (const RequestRecord& record : r.records) last.back() = std::max(last.back(), record.finish);
    EXPECT_LE(last.back(), last.front()) << max_loras;
  }
  EXPECT_LT(last.back(), last.front());
}

TEST(LoraScheduling, WhoeverWaitsForAnAdapterIsPassedOver) {
  ServeOptions o = toy::options(100, 4, 64, 8);
  o.engines[0].scheduler.lora = config(1, 2);
  const AdapterDraw draw(o.engines[0].scheduler.lora);
  ListWorkload w;
  std::vector<std::int32_t> adapters;
  for (std::int64_t i = 0; i < 8; ++i) {
    w.add(0, 4, 2);
    adapters.push_back(draw({.id = i}));
  }
  BatchLog log;
  serve(w, log, o);
  std::string first;
  for (std::int64_t i = 0; i < 8; ++i)
    if (adapters[static_cast<std::size_t>(i)] == adapters[0])
      first += (first.empty() ? "p" : " p") + std::to_string(i) + ":4/0!";
  EXPECT_EQ(log.batches.front(), first);
}

TEST(LoraScheduling, SpansChangeNothing) {
  for (const std::int64_t max_loras : {1, 2, 4}) {
    std::vector<std::vector<Picoseconds>> times;
    for (const bool spans : {false, true}) {
      ServeOptions o = toy::options(60, 4, 8, 32);
      o.use_spans = spans;
      o.engines[0].scheduler.lora = config(max_loras, 6, 1);
      toy::ToyBackend backend(1000, 10, 5, {1});
      ListWorkload w = many(200);
      const ServeResult r = serve(w, backend, o);
      times.emplace_back();
      for (const RequestRecord& record : r.records) {
        times.back().push_back(record.first_token);
        times.back().push_back(record.finish);
      }
    }
    EXPECT_EQ(times[0], times[1]) << max_loras;
  }
}

}  // namespace
}  // namespace foretoken
