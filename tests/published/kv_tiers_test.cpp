// What Mooncake (Qin et al., FAST '25; arXiv 2407.00079) states of KV caches below device memory. Not to be
// reproduced here: the arXiv version's table 1, of a trace that is not among those that are free to ship, and
// the 59 % of the tool and agent trace.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "fixtures.h"
#include "model/kv_cache.h"
#include "model/operators.h"
#include "serving/workload.h"

namespace foretoken {
namespace {

// Takes no time.
class Instant : public Backend {
 public:
  std::span<const std::int64_t> windows() const override { return windows_; }
  StepTime run(const Step&) override { return {1, 1}; }
  SpanTime run_span(const Step&, std::int64_t most) override { return {most, 1, 0}; }
  Picoseconds move_blocks(const TierMove&) override { return 0; }

 private:
  std::vector<std::int64_t> windows_{0};
};

// One engine serves the conversation trace, one request after the other: device memory has room for the
// longest and no more, below it is a tier of so many of the trace's blocks of 512 tokens.
double hit_rate(std::int64_t blocks, KvTierConfig::Eviction eviction = KvTierConfig::Eviction::kLru,
                const std::string& trace = "traces/mooncake-conversation.jsonl.gz",
                std::int64_t requests = 12031) {
  WorkloadConfig config;
  config.trace = trace;
  const auto workload = make_workload(config, test_resources().scenario_folder, "test");
  Instant backend;
  ServeOptions o;
  EngineConfig engine;
  SchedulerConfig& s = engine.scheduler;
  s.block_size = 512;
  s.max_model_len = 131072 + 4096;
  s.num_blocks = 1 + s.max_model_len / s.block_size;
  s.max_num_seqs = 1;
  s.max_num_batched_tokens = s.max_model_len;
  s.kv_tiers.tiers = {{.blocks = blocks, .eviction = eviction}};
  o.engines = {engine};
  const ServeResult r = serve(*workload, backend, o);
  EXPECT_LE(r.rejected, requests / 400) << "longer than the model takes";
  EXPECT_EQ(r.metrics.completed + r.rejected, requests);
  return r.metrics.prefix_cache_hit_rate;
}

// Section 5.1, table: 40 % of the conversation trace's tokens can be found. Here 36.6 %: only whole blocks
// are, and never a prompt's last token. Figure of hit rates against capacity: 3 million tokens, the host
// memory of one node, give at most half of what can be had, 50 million nearly all.
TEST(Mooncake, HitRatesOfTheConversationTrace) {
  const double all = hit_rate(1'000'000);
  EXPECT_NEAR(all, 0.40, 0.04);
  EXPECT_GT(hit_rate(50'000'000 / 512), 0.98 * all);
  const double node = hit_rate(3'000'000 / 512);
  EXPECT_LT(node, 0.5 * all);
  EXPECT_GT(node, 0.3 * all);
}

// The same table: 66 % of the synthetic trace's.
TEST(Mooncake, HitRatesOfTheSyntheticTrace) {
  const char* shared = std::getenv("FORETOKEN_SHARED");
  const std::filesystem::path trace =
      std::filesystem::path(shared == nullptr ? "" : shared) / "data/traces/mooncake_synthetic.jsonl.gz";
  if (!std::filesystem::exists(trace)) GTEST_SKIP() << "the trace is not here";
  const auto at = [&](std::int64_t blocks) {
    return hit_rate(blocks, KvTierConfig::Eviction::kLru, trace.string(), 3993);
  };
  const double all = at(1'000'000);
  EXPECT_NEAR(all, 0.66, 0.04);
  EXPECT_GT(at(50'000'000 / 512), 0.98 * all);
}

// arXiv version, section 4.2: least recently used is best there, of another hour of the same service.
TEST(Mooncake, LeastRecentlyUsedIsBest) {
  using Eviction = KvTierConfig::Eviction;
  const double lru = hit_rate(10'000);
  EXPECT_GT(lru, hit_rate(10'000, Eviction::kLfu));
  EXPECT_GT(lru, hit_rate(10'000, Eviction::kLengthAware));
}

// Equation 2: loading a prefix of 8192 tokens of LLaMA3-70B pays above 6 GB/s on 8 A800 and 19 GB/s on 8
// H800, whose arithmetic is that of A100 and H100. The paper counts 22 d^2 multiplications a layer and token
// for what is 25.5 here, and all of the attention where half of it is masked.
TEST(Mooncake, BandwidthAboveWhichLoadingPays) {
  const struct {
    const char* device;
    double gb_per_s;
  } cases[] = {{"a100-sxm-80gb", 6}, {"h100", 19}};
  for (const auto& c : cases) {
    const Deployment d = resolve_or_fail(
        test_scenario(std::string(R"({"model": "llama-3.1-70b", "hardware": {"device": ")") + c.device +
                      R"("}, "engine": {"behavior": "vllm-0.19", "tensor_parallel_size": 8}})"));
    const Shard& shard = d.mapping.stages.front();
    Work w;
    w.prefill = {{8192, 0, 1}};
    double work = 0;
    for (const Op& op : operators(d.model, shard, w, d.precision, d.fusion).ops)
      work += flops(op).value * static_cast<double>(op.count);
    const double seconds = work / d.device.peak(d.precision.activation).value;  // the eight side by side
    const double bytes = 8 * 8192 * kv_bytes_per_token(d.model, shard, d.precision.kv);
    EXPECT_NEAR(bytes / seconds * 1e-9 / c.gb_per_s, 1, 0.1) << c.device;
  }
}

}  // namespace
}  // namespace foretoken
