// What papers on batching state of memory and of steps.
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "fixtures.h"
#include "serving/scheduler/reservation.h"
#include "serving/sequence.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// Kwon et al. 2023 (PagedAttention), table 1 and section 6.1: OPT-13B on an A100-40GB has 15.7 thousand KV
// slots, sequences have up to 2048 tokens; ShareGPT has 161.31 prompt and 337.99 output tokens on average.
constexpr std::int64_t kSlots = 15'700, kLongest = 2048;
constexpr double kInput = 161.31, kOutput = 337.99;
// The spread of the lengths isn't given. With log-normal outputs of this coefficient of variation,
// independent of the prompts, the requests that run need 751 slots each on average; figure 2 says 757 of Orca
// (Max): 33.7 of the 91.1 % of the memory that regions of 2048 take.
constexpr double kOutputSpread = 0.95, kInputSpread = 1.0;

// All at once, so that memory is what limits.
class ShareGpt : public Workload {
 public:
  std::optional<Picoseconds> next_arrival() const override {
    return next_ < kRequests ? std::optional<Picoseconds>(0) : std::nullopt;
  }
  Request pop() override {
    Request r;
    r.id = next_;
    const auto length = [&](std::uint64_t stream, double mean, double spread, double most) {
      const double variance = std::log1p(spread * spread);
      CounterRandom random(5, stream, static_cast<std::uint64_t>(next_));
      const double x = std::exp(std::log(mean) - variance / 2 + std::sqrt(variance) * random.normal());
      return static_cast<std::int32_t>(std::clamp(x, 1.0, most));
    };
    r.input_len = length(1, kInput, kInputSpread, kLongest / 2);
    r.output_len = length(2, kOutput, kOutputSpread, kLongest - r.input_len);
    ++next_;
    return r;
  }
  void finished(const Request&, Picoseconds) override {}
  std::int64_t total_requests() const override { return kRequests; }
  std::span<const ContentRun> content(const Request&) const override { return {}; }
  std::string describe() const override { return "ShareGPT's lengths"; }
  Means means() const override { return {}; }
  std::int64_t longest() const override { return kLongest; }

 private:
  static constexpr std::int64_t kRequests = 3000;
  std::int64_t next_ = 0;
};

// Steps of one length; what the memory holds in each, while requests wait.
class MemoryShares : public Backend {
 public:
  explicit MemoryShares(const SchedulerConfig& config) : config_(config) {}
  std::span<const std::int64_t> windows() const override { return windows_; }
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override {
    const Batch& b = step.ranks[0];
    if (b.prefill.empty() && last_ < 2800) {
      ++steps_;
      for (const DecodePart& d : b.decode) {
        const Sequence& s = (*b.sequences)[d.slot];
        live += d.context;
        needed += std::int64_t{s.request.input_len} + s.request.output_len;
        allocated +=
            config_.reservation == KvReservation::kPaged ? s.capacity : reserved_tokens(config_, s.request);
      }
    }
    for (const PrefillPart& p : b.prefill) last_ = std::max(last_, p.request);
    return {1000, 1000};
  }
  double share(std::int64_t tokens) const {
    return 100 * static_cast<double>(tokens) / static_cast<double>(steps_ * kSlots);
  }
  std::int64_t live = 0, needed = 0, allocated = 0;

 private:
  const SchedulerConfig config_;
  std::vector<std::int64_t> windows_{0};
  std::int64_t steps_ = 0;
  RequestId last_ = 0;  // admitted
};

struct Shares {
  double tokens, reserved, internal, rest;  // of the memory, in percent
};
Shares shares(SchedulerPolicy policy, KvReservation reservation, int block_size) {
  ServeOptions o;
  EngineConfig engine;
  SchedulerConfig& c = engine.scheduler;
  c.policy = policy;
  c.block_size = block_size;
  c.num_blocks = 1 + kSlots / block_size;
  c.max_model_len = kLongest;
  c.max_num_seqs = 256;
  c.max_num_batched_tokens = 8192;
  c.enable_prefix_caching = c.enable_chunked_prefill = false;
  c.reservation = reservation;
  c.buddy = reservation != KvReservation::kPaged;
  o.engines = {engine};
  ShareGpt workload;
  MemoryShares memory(c);
  const ServeResult r = serve(workload, memory, o);
  EXPECT_EQ(r.metrics.completed, 3000);
  return {memory.share(memory.live), memory.share(memory.needed - memory.live),
          memory.share(memory.allocated - memory.needed), 100 - memory.share(memory.allocated)};
}

// Figure 2, in percent of the memory: slots with tokens; that the request will yet fill; that it never will;
// and what lies between regions. Orca (Max) is where the spread of the lengths was taken from, all but how
// much of it holds tokens; the other two follow. What this leaves open is named by the tolerances.
TEST(PagedAttention, SharesOfTheMemoryUnderOrca) {
  const Shares max = shares(SchedulerPolicy::kOrca, KvReservation::kMaxModelLen, 1);
  EXPECT_NEAR(max.tokens, 20.4, 1.5);
  EXPECT_NEAR(max.reserved, 13.3, 1.5);
  EXPECT_NEAR(max.internal, 57.3, 2.5);
  EXPECT_NEAR(max.rest, 8.9, 0.5);
  const Shares pow2 = shares(SchedulerPolicy::kOrca, KvReservation::kPowerOfTwo, 1);
  EXPECT_NEAR(pow2.tokens, 26.8, 6);
  EXPECT_NEAR(pow2.reserved, 17.9, 4);
  EXPECT_NEAR(pow2.internal, 13.6, 5);
  EXPECT_NEAR(pow2.rest, 41.6, 9);
  const Shares oracle = shares(SchedulerPolicy::kOrca, KvReservation::kExact, 1);
  EXPECT_NEAR(oracle.tokens, 38.2, 5);
  EXPECT_NEAR(oracle.reserved, 25.2, 4);
  EXPECT_NEAR(oracle.internal, 0, 0.01);
  EXPECT_NEAR(oracle.rest, 36.6, 7);
}

// vLLM's blocks of 16 tokens: tokens fill 96.3 % of the memory, all that is lost lies in last blocks.
TEST(PagedAttention, SharesOfTheMemoryUnderVllm) {
  const Shares v = shares(SchedulerPolicy::kVllmV0, KvReservation::kPaged, 16);
  EXPECT_NEAR(v.tokens, 96.3, 2.5);
}

// SARATHI (Agrawal et al. 2023), section 4.4, LLaMA-13B on an A6000: prompts of 128, 256 and 257 tokens take
// 55, 69.8 and 92.33 ms. An A40 is the same die with a tenth less bandwidth; host times left out, 256 tokens
// are met within 10 %, and the 257th costs a tile of rows in every product. What is not met is how much: 15 %
// of the step there and 25 % on an A100, not 32 %.
TEST(Sarathi, The257thTokenCostsATile) {
  const auto prompt_ms = [](const char* device, std::int32_t tokens) {
    const Priced p(resolve_or_fail(test_scenario(std::string(R"({"model": "llama-2-13b",
      "hardware": {"device": ")") + device +
                                                 R"("}, "engine": {"behavior": "foretoken",
      "max_model_len": 1024, "num_gpu_blocks_override": 100}})"),
                                   512, 1024),
                   true);
    StepPricer pricer(p.deployment, p.cost);
    Probe probe;
    PrefillPart part;
    part.new_tokens = tokens;
    part.last = true;
    probe.prefill.push_back(part);
    return 1e3 * pricer.estimate("prompt", probe, false).seconds;
  };
  const double before = prompt_ms("a40", 255), at = prompt_ms("a40", 256), after = prompt_ms("a40", 257);
  EXPECT_NEAR(at, 69.8, 0.1 * 69.8);
  EXPECT_NEAR(at / before, 1, 0.01);
  EXPECT_GT(after / at, 1.12);
  EXPECT_LT(after / at, 1.32);
  EXPECT_NEAR(prompt_ms("a40", 258) / after, 1, 0.01);
  EXPECT_GT(prompt_ms("a100", 257) / prompt_ms("a100", 256), 1.2);
}

}  // namespace
}  // namespace foretoken
