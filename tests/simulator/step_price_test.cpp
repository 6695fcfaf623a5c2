// Prices of steps: spans agree with single steps to the picosecond, parts add up to the operator list.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/estimate.h"
#include "simulator/predicted_backend.h"

namespace foretoken {
namespace {

const char* const kScenarios[] = {
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})",
    R"({"model": "llama-3.3-70b", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": 4}})",
    R"({"model": "gpt-oss-120b", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": 2}})",
    R"({"model": "gemma-3-27b", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": 2}})",
    R"({"model": "qwen3-30b-a3b", "hardware": {"device": "h100"}, "engine": {"tensor_parallel_size": 2}})",
    R"({"model": "deepseek-v3", "hardware": {"device": "h200"},
        "engine": {"tensor_parallel_size": 1, "data_parallel_size": 16, "expert_parallel_size": 16}})",
    R"({"model": "qwen3-30b-a3b", "hardware": {"device": "l40s"}, "engine": {"tensor_parallel_size": 2}})",
};

// A norm that rounds for its products saves their pass, and they are never faster than light.
TEST(StepPrice, QuantisationInItsProducerSavesAPass) {
  for (const char* format : {"fp8", "fp8_block"})
    for (const std::int64_t m : {1, 64, 8192}) {
      const Priced priced(
          resolve_or_fail(std::string(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
                                          "engine": {"fuse_quantization": true, "quantization": ")") +
                          format + "\"}}"),
          true);
      const Deployment& d = priced.deployment;
      const CostModel& cost = priced.cost;
      Work work;
      work.prefill = {{m, 0, 1}};
      const Shard& shard = d.mapping.stages.front();
      const OpList fused = operators(d.model, shard, work, d.precision, d.fusion),
                   apart = operators(d.model, shard, work, d.precision);
      ASSERT_EQ(fused.ops.size(), apart.ops.size());
      int rounded = 0;
      for (std::size_t i = 0; i < fused.ops.size(); ++i) {
        const Price a = cost.price(fused.ops[i]), b = cost.price(apart.ops[i]);
        EXPECT_GE(a.time, a.limit);
        EXPECT_LE(a.time, b.time) << fused.ops[i].name;
        const auto* g = std::get_if<GemmShape>(&fused.ops[i].shape);
        if (g == nullptr || !g->quantised_input) continue;
        ++rounded;
        EXPECT_LT(a.time, b.time);
        EXPECT_GT(a.time, 0.4 * b.time) << "most is the product's: " << fused.ops[i].name << " " << m;
      }
      EXPECT_EQ(rounded, 3);
    }
}

// Decode batches of every rank, advanced by one step.
struct Decoding {
  std::vector<Batch> ranks;
  std::vector<std::vector<std::int64_t>> contexts;
  std::span<const std::int64_t> windows;

  Decoding(const PredictedBackend& backend, int rank_count, int sequences) : windows(backend.windows()) {
    for (int r = 0; r < rank_count; ++r) {
      contexts.emplace_back();
      for (int s = 0; s < sequences + 3 * (r % 3); ++s)
        contexts.back().push_back(100 + 37 * s + 900 * (r % 2));
    }
    fill();
  }
  void fill() {
    ranks.assign(contexts.size(), Batch{});
    for (std::size_t r = 0; r < contexts.size(); ++r) {
      Batch& b = ranks[r];
      b.decode_sequences = b.sampled_rows = static_cast<std::int32_t>(contexts[r].size());
      for (std::size_t g = 0; g < windows.size(); ++g)
        for (const std::int64_t c : contexts[r]) {
          b.longest_context = std::max(b.longest_context, static_cast<std::int32_t>(c));
          b.contexts[g] += windows[g] > 0 ? std::min(c, windows[g]) : c;
          b.growing[g] += windows[g] == 0 || c < windows[g] ? 1 : 0;
        }
    }
  }
  // Steps until a sequence leaves a window: the scheduler never asks for a longer span.
  std::int64_t until_window() const {
    std::int64_t k = 1'000'000;
    for (const auto& rank : contexts)
      for (const std::int64_t c : rank)
        for (const std::int64_t w : windows)
          if (w > 0 && c < w) k = std::min(k, w - c);
    return k;
  }
  void advance() {
    for (auto& rank : contexts)
      for (auto& c : rank) ++c;
    fill();
  }
};

class StepPrice : public ::testing::TestWithParam<const char*> {};

TEST_P(StepPrice, SpansAgreeWithSingleSteps) {
  const Priced priced(resolve_or_fail(GetParam()), true);
  PredictedBackend spans(priced.deployment, priced.cost), single(priced.deployment, priced.cost);
  Decoding d(spans, priced.deployment.mapping.ranks_per_engine(), 5);
  std::int64_t steps = 0, covered = 0;
  while (steps < 400) {
    const SpanTime span = spans.run_span({0, 0, d.ranks}, std::min<std::int64_t>(d.until_window(), 150));
    ASSERT_GE(span.steps, 1);
    covered += span.steps > 1;
    for (std::int64_t i = 0; i < span.steps; ++i) {
      const StepTime t = single.run({0, 0, d.ranks});
      ASSERT_EQ(t.tokens_out, span.first + i * span.increment) << "step " << steps << " of the span's " << i;
      ASSERT_EQ(t.next_start, t.tokens_out);
      d.advance();
      ++steps;
    }
  }
  EXPECT_GT(covered, 0);
}

TEST_P(StepPrice, IsTheSumOfTheOperatorListAndHostTime) {
  const Priced priced(resolve_or_fail(GetParam()), true);
  Workload::Means load;
  load.input_len = 1000;
  load.output_len = 300;
  load.request_rate = 2;
  const Estimate e = estimate(priced.deployment, priced.cost, load, 0);
  ASSERT_EQ(e.steps.size(), 4u);
  for (const StepEstimate& s : e.steps) {
    double sum = s.host_seconds;
    for (const OperatorCost& o : s.operators) sum += o.seconds;
    // Attention between knots is interpolated in the step and exact in the list.
    EXPECT_NEAR(sum / s.seconds, 1.0, 0.02) << s.name;
    EXPECT_GT(s.roofline_fraction, 0.01) << s.name;
    EXPECT_LE(s.roofline_fraction, 1.0 + 1e-9) << s.name;
    EXPECT_LE(s.low, s.seconds);
    EXPECT_GE(s.high, s.seconds);
  }
  EXPECT_LT(e.steps[1].seconds, e.steps[3].seconds);
}

// What the serving loop is charged is what the estimate lists.
TEST_P(StepPrice, ServingAndEstimateAgree) {
  const Priced priced(resolve_or_fail(GetParam()), true);
  Workload::Means load;
  load.input_len = 1000;
  load.output_len = 300;
  load.request_rate = 2;
  const Estimate e = estimate(priced.deployment, priced.cost, load, 0);
  PredictedBackend backend(priced.deployment, priced.cost);
  for (const StepEstimate& s : e.steps) {
    const bool prefill = s.name == "prefill";
    const PrefillPart part{0, 0, static_cast<std::int32_t>(s.tokens), 0, true};
    Batch b;
    if (prefill) b.prefill = {&part, 1};
    b.decode_sequences = prefill ? 0 : static_cast<std::int32_t>(s.sequences);
    b.sampled_rows = static_cast<std::int32_t>(s.sequences);
    for (std::size_t g = 0; g < backend.windows().size(); ++g) {
      const double w = static_cast<double>(backend.windows()[g]);
      b.contexts[g] = std::llround(static_cast<double>(b.decode_sequences) *
                                   (w > 0 ? std::min(w, s.context) : s.context));
    }
    const std::vector<Batch> ranks(static_cast<std::size_t>(priced.deployment.mapping.ranks_per_engine()), b);
    EXPECT_NEAR(to_seconds(backend.run({0, 0, ranks}).tokens_out).value / s.seconds, 1.0, 0.02) << s.name;
  }
}

TEST_P(StepPrice, ChunksCostAtLeastTheWholePrompt) {
  const Priced priced(resolve_or_fail(GetParam()), false);
  PredictedBackend backend(priced.deployment, priced.cost);
  auto prefill = [&](std::int32_t q, std::int32_t c) {
    const PrefillPart part{0, 0, q, c, true};
    Batch b;
    b.prefill = {&part, 1};
    b.sampled_rows = 1;
    const std::vector<Batch> ranks(static_cast<std::size_t>(priced.deployment.mapping.ranks_per_engine()), b);
    return backend.run({0, 0, ranks}).tokens_out;
  };
  EXPECT_GT(prefill(1024, 0) + prefill(1024, 1024) + prefill(1024, 2048) + prefill(1024, 3072),
            prefill(4096, 0));
  EXPECT_GT(prefill(1024, 3072), prefill(1024, 0));
}

// vLLM on L40S: FlashAttention-2 takes the prompts and decoding rows of a step in one call.
class OneAttentionCall : public ::testing::Test {
 protected:
  Priced priced{resolve_or_fail(kScenarios[6]), true};
  Priced apart{[] {
                 Deployment d = resolve_or_fail(kScenarios[6]);
                 d.one_attention_call = false;
                 return d;
               }(),
               true};
  static Picoseconds step(const Priced& p, std::int32_t decodes, std::int32_t context, std::int32_t longest,
                          std::int32_t tokens = 0, std::int32_t cached = 0) {
    PredictedBackend backend(p.deployment, p.cost);
    const PrefillPart part{0, 0, tokens, cached, true};
    Batch b;
    if (tokens > 0) b.prefill = {&part, 1};
    b.decode_sequences = decodes;
    b.contexts[0] = static_cast<std::int64_t>(decodes) * context;
    b.longest_context = longest;
    b.sampled_rows = decodes + (tokens > 0 ? 1 : 0);
    return backend.run({0, 0, {&b, 1}}).tokens_out;
  }
};

TEST_F(OneAttentionCall, IsThatOfVllmBeforeAndBesideHopper) {
  EXPECT_TRUE(priced.deployment.one_attention_call);
  EXPECT_FALSE(resolve_or_fail(kScenarios[0]).one_attention_call);  // H100
  EXPECT_FALSE(resolve_or_fail(R"({"model": "llama-3.1-8b", "hardware": {"device": "l40s"},
                                   "engine": {"behavior": "sglang-0.5"}})")
                   .one_attention_call);
}

TEST_F(OneAttentionCall, DecodingRowsCostMoreBesideAPrompt) {
  EXPECT_GT(step(priced, 64, 4000, 4000, 256), step(apart, 64, 4000, 4000, 256));
  // Steps of one kind are what they were.
  EXPECT_EQ(step(priced, 64, 2000, 2000), step(apart, 64, 2000, 2000));
  EXPECT_EQ(step(priced, 0, 0, 0, 512, 64), step(apart, 0, 0, 0, 512, 64));
}

TEST_F(OneAttentionCall, CostsNoLessThanItsLongestChunkAlone) {
  EXPECT_GE(step(priced, 1, 16, 16, 16, 30000), step(priced, 0, 0, 0, 16, 30000));
  EXPECT_GE(step(priced, 33, 1000, 1000, 512), step(priced, 32, 1000, 1000, 512));
  EXPECT_GE(step(priced, 32, 1010, 1010, 512), step(priced, 32, 1000, 1000, 512));
}

TEST_F(OneAttentionCall, UnequalLengthsWaitForTheLongestWhereKeysAreNotSplit) {
  // 128 sequences x 2 KV heads are 1.8 waves over 142 multiprocessors; 64 are 0.9, so that keys are split.
  EXPECT_GT(step(priced, 128, 1000, 4000), step(priced, 128, 1000, 2000));
  EXPECT_GT(step(priced, 128, 1000, 2000), step(priced, 128, 1000, 1000));
  EXPECT_EQ(step(priced, 64, 1000, 4000), step(priced, 64, 1000, 1000));
  EXPECT_EQ(step(apart, 128, 1000, 4000), step(apart, 128, 1000, 1000));
  // By no more than if all were as long.
  EXPECT_LT(step(priced, 128, 1000, 2000), step(priced, 128, 2000, 2000));
}

INSTANTIATE_TEST_SUITE_P(Models, StepPrice, ::testing::ValuesIn(kScenarios));

}  // namespace
}  // namespace foretoken
