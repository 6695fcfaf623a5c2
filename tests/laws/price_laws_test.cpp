// Laws of prices: monotone where they rest on the roofline, never below the physical limit, no collective at
// TP=1.
#include <gtest/gtest.h>

#include "../simulator/fixtures.h"
#include "simulator/estimate.h"
#include "simulator/predicted_backend.h"

namespace foretoken {
namespace {

const char* const kModels[] = {"llama-3.1-8b",     "mixtral-8x7b",
                               "deepseek-v2-lite", "qwen3-next-80b-a3b-instruct",
                               "gpt-oss-20b",      "gemma-2-27b"};
// Fits on one device in fp8 only.
const char* quantization_of(const std::string& model) {
  return model.starts_with("qwen3-next") ? "fp8" : "none";
}

Deployment on_h200(const std::string& model, int tensor_parallel = 1) {
  return resolve_or_fail(
      R"({"model": ")" + model + R"(", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": )" +
      std::to_string(tensor_parallel) + R"(, "quantization": ")" + quantization_of(model) + R"("}})");
}

Picoseconds step_time(const Deployment& d, std::int64_t decode, std::int64_t context,
                      std::int32_t prefill = 0) {
  const KernelTable none;
  const CostModel cost(d.device, d.topology, none);
  PredictedBackend backend(d, cost);
  Batch b;
  const PrefillPart part{0, 0, prefill, 0, true};
  if (prefill > 0) b.prefill = {&part, 1};
  b.decode_sequences = static_cast<std::int32_t>(decode);
  b.sampled_rows = b.decode_sequences + (prefill > 0 ? 1 : 0);
  for (std::size_t g = 0; g < backend.windows().size(); ++g) {
    const std::int64_t w = backend.windows()[g];
    b.contexts[g] = decode * (w > 0 ? std::min(context, w) : context);
  }
  return backend.run({0, 0, {&b, 1}}).tokens_out;
}

class PriceLaws : public ::testing::TestWithParam<const char*> {};

TEST_P(PriceLaws, FasterDevicesAreNeverSlower) {
  const Deployment slow = on_h200(GetParam());
  for (const double factor : {1.1, 1.5, 2.0, 4.0}) {
    Deployment bandwidth = slow, compute = slow;
    bandwidth.device.memory_bandwidth *= factor;
    for (FlopsPerSecond* peak :
         {&compute.device.fp32_peak, &compute.device.tf32_peak, &compute.device.fp16_peak,
          &compute.device.fp8_peak, &compute.device.int8_peak, &compute.device.fp4_peak})
      *peak *= factor;
    for (const auto& [decode, prefill] :
         {std::pair{1, 0}, {64, 0}, {256, 0}, {0, 512}, {0, 4096}, {32, 1000}}) {
      const Picoseconds base = step_time(slow, decode, 2000, prefill);
      EXPECT_LE(step_time(bandwidth, decode, 2000, prefill), base) << decode << "+" << prefill;
      EXPECT_LE(step_time(compute, decode, 2000, prefill), base) << decode << "+" << prefill;
    }
  }
}

TEST_P(PriceLaws, MoreTokensAndContextNeverCostLess) {
  const Deployment d = on_h200(GetParam());
  Picoseconds last = 0;
  for (std::int64_t n = 1; n <= 512; n += n < 40 ? 1 : 13) {
    const Picoseconds t = step_time(d, n, 1000);
    EXPECT_GE(t, last) << n << " sequences";
    last = t;
  }
  last = 0;
  for (std::int64_t c = 16; c < 200'000; c = c * 5 / 4) {
    const Picoseconds t = step_time(d, 8, c);
    EXPECT_GE(t, last) << c << " tokens of context";
    last = t;
  }
  last = 0;
  for (std::int32_t q = 1; q < 9000; q = q * 9 / 8 + 1) {
    const Picoseconds t = step_time(d, 0, 0, q);
    EXPECT_GE(t, last) << q << " prompt tokens";
    last = t;
  }
}

TEST_P(PriceLaws, NeverBelowThePhysicalLimit) {
  for (const bool measured : {false, true}) {
    const Priced p(on_h200(GetParam()), measured);
    for (const std::int64_t n : {1, 7, 64, 300})
      for (const std::int64_t prompt : {0, 33, 2048}) {
        Work w;
        w.decode_sequences = n;
        w.contexts.assign(p.deployment.model.attention_windows().size(), static_cast<double>(n * 1500));
        if (prompt > 0) w.prefill = {{prompt, 512, 1}};
        w.sampled_rows = n;
        for (const Op& op :
             operators(p.deployment.model, p.deployment.mapping.stages[0], w, p.deployment.precision).ops) {
          const Price price = p.cost.price(op);
          EXPECT_GE(price.time.value, price.limit.value * (1 - 1e-12)) << op.name;
          EXPECT_GE(price.time.value,
                    flops(op).value / p.deployment.device.peak(compute_type(op, false)).value * (1 - 1e-9))
              << op.name;
          EXPECT_GE(price.relative_error, 0) << op.name;
        }
      }
  }
}

TEST_P(PriceLaws, NoCollectiveOnOneDevice) {
  for (const int tp : {1, 2}) {
    const Deployment d = on_h200(GetParam(), tp);
    Work w;
    w.decode_sequences = w.sampled_rows = 4;
    w.contexts.assign(d.model.attention_windows().size(), 4000.0);
    std::int64_t collectives = 0;
    for (const Op& op : operators(d.model, d.mapping.stages[0], w, d.precision).ops)
      collectives += std::holds_alternative<CollectiveShape>(op.shape) ? op.count : 0;
    if (tp == 1) {
      EXPECT_EQ(collectives, 0);
    } else {
      EXPECT_GE(collectives, 2);
    }
  }
}

// More adapters in a batch, or higher ranks, read more: never faster. None at all costs what it always did.
TEST(LoraLaws, MoreAdaptersAreNeverFaster) {
  const auto with = [](std::int64_t rank) {
    return resolve_or_fail(R"({"model": "llama-3.1-8b", "hardware": {"device": "h200"}, "engine": {"lora": {
        "max_loras": 64, "max_lora_rank": )" +
                           std::to_string(rank) + "}}}");
  };
  const auto time = [](const Deployment& d, std::int64_t decode, std::int32_t adapters, std::size_t loads) {
    const KernelTable none;
    const CostModel cost(d.device, d.topology, none);
    PredictedBackend backend(d, cost);
    Batch b;
    b.decode_sequences = b.sampled_rows = static_cast<std::int32_t>(decode);
    b.contexts[0] = decode * 1000;
    b.adapters = adapters;
    const std::vector<AdapterLoad> loaded(loads);
    b.adapter_loads = loaded;
    return backend.run({0, 0, {&b, 1}}).tokens_out;
  };
  const Deployment d = with(16), base = on_h200("llama-3.1-8b");
  for (const std::int64_t decode : {64, 128, 500}) {
    Picoseconds before = time(d, decode, 0, 0);
    EXPECT_EQ(before, time(base, decode, 0, 0));
    for (const std::int32_t adapters : {1, 2, 4, 8, 16, 32, 64}) {
      const Picoseconds t = time(d, decode, adapters, 0);
      EXPECT_GE(t, before) << decode << " sequences, " << adapters << " adapters";
      EXPECT_LE(t, time(with(64), decode, adapters, 0)) << adapters;
      before = t;
    }
    EXPECT_GT(time(d, decode, 4, 2), time(d, decode, 4, 1));
    EXPECT_GT(time(d, decode, 4, 1), time(d, decode, 4, 0));
  }
  // One load moves one adapter over PCIe: 2 bytes a value.
  const double bytes = 2.0 * 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432);
  EXPECT_NEAR(to_seconds(time(d, 64, 4, 2) - time(d, 64, 4, 1)).value,
              bytes / (0.85 * d.device.pcie_bandwidth.value), 1e-7);
}

INSTANTIATE_TEST_SUITE_P(Models, PriceLaws, ::testing::ValuesIn(kModels));

// Weights are read once a step: no decode step beats weight bytes over bandwidth. Llama-3.1-8B, batch 1
// (embedding table excluded): 7.361 ms A100, 4.481 H100, 3.127 H200, 1.949 B200 (7.7 TB/s), 14.891 RTX 4090.
TEST(PublishedLimits, DecodeWeightFloorOfLlama8b) {
  const std::pair<const char*, double> expected[] = {
      {"a100", 7.3614}, {"h100", 4.4806}, {"h200", 3.1271}, {"b200", 1.949}, {"RTX-4090", 14.8907}};
  const ModelConfig model = load_model("llama-3.1-8b", test_resources().preset_folder);
  for (const auto& [name, ms] : expected) {
    const Device device = test_database().device(name);
    Work w;
    w.decode_sequences = w.sampled_rows = 1;
    w.contexts = {1};
    double weights = 0;
    for (const Op& op : operators(model, Shard{}, w, Precision{}).ops)
      if (const auto* g = std::get_if<GemmShape>(&op.shape))
        weights += static_cast<double>(op.count) * static_cast<double>(g->n * g->k) * 2;
    // Norm weights are read too: 65 vectors of 4,096.
    weights += 65 * 4096 * 2;
    EXPECT_NEAR(weights / device.memory_bandwidth.value * 1e3, ms, 5e-4) << name;
  }
}

Deployment with_skew(const std::string& workload, const std::string& engine) {
  return resolve_or_fail(
      R"({"model": "deepseek-v2-lite", "hardware": {"device": "h200"}, "workload": {)" + workload +
      R"(}, "engine": {"tensor_parallel_size": 8, "enable_expert_parallel": true)" + engine + "}}");
}

TEST(PriceLaws, HotExpertsCostTimeAndBalancingGivesItBack) {
  const std::string balanced = R"(, "enable_eplb": true)",
                    copied = R"(, "enable_eplb": true, "num_redundant_experts": 16)";
  for (const auto& [decode, prefill] : {std::pair{256, 0}, {0, 4096}, {64, 2000}}) {
    const auto time = [&](double skew, const std::string& engine) {
      return step_time(with_skew("\"expert_skew\": " + std::to_string(skew), engine), decode, 1000, prefill);
    };
    Picoseconds last = step_time(with_skew("", ""), decode, 1000, prefill);
    EXPECT_EQ(time(0, ""), last);  // without measured rows all alike is the default
    for (const double skew : {0.4, 0.8, 1.2}) {
      const Picoseconds chance = time(skew, "");
      EXPECT_GE(chance, last) << skew;
      EXPECT_LE(time(skew, balanced), chance) << skew;
      // Few tokens read a copy's weights for nothing; with many and a steep law copies pay.
      if (decode == 0 && skew > 0.5) {
        EXPECT_LT(time(skew, copied), time(skew, balanced)) << skew;
      } else if (prefill == 0) {
        EXPECT_GT(time(skew, copied), time(skew, balanced)) << skew;
      }
      last = chance;
    }
  }
}

}  // namespace
}  // namespace foretoken
