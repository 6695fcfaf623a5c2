// Closed forms against values published or worked by hand (docs/cost-model.md lists the sources).
#include "simulator/closed_forms.h"

#include <gtest/gtest.h>

namespace foretoken {
namespace {

TEST(ClosedForms, WaveQuantizationOn132Units) {
  const Waves a = wave_quantization(4096, 4096, 128, 256, 132);
  EXPECT_EQ(a.tiles, 512);
  EXPECT_EQ(a.waves, 4);
  EXPECT_DOUBLE_EQ(a.wave_efficiency, 0.9696969696969697);
  EXPECT_DOUBLE_EQ(a.tile_efficiency, 1.0);
  const Waves b = wave_quantization(1, 4096, 64, 128, 132);
  EXPECT_EQ(b.tiles, 32);
  EXPECT_DOUBLE_EQ(b.wave_efficiency, 0.24242424242424243);
  EXPECT_DOUBLE_EQ(b.tile_efficiency, 0.015625);
  EXPECT_DOUBLE_EQ(wave_quantization(256, 28672, 128, 256, 132).wave_efficiency, 0.8484848484848485);
  EXPECT_DOUBLE_EQ(wave_quantization(1024, 4096, 128, 128, 132).wave_efficiency, 0.9696969696969697);
  EXPECT_DOUBLE_EQ(wave_quantization(4224, 4096, 128, 256, 132).wave_efficiency, 1.0);
}

TEST(ClosedForms, RingAllReduceOfLlama70bPrefill) {
  const Bytes message(8192.0 * 8192 * 2);
  EXPECT_EQ(message.value, 134217728.0);
  const Seconds t = ring_all_reduce(message, 8, BytesPerSecond(450e9));
  EXPECT_NEAR(t.value * 1e6, 521.958, 0.0005);
  EXPECT_NEAR(t.value * 160 * 1e3, 83.513, 0.0005);
  EXPECT_EQ(ring_all_reduce(message, 1, BytesPerSecond(450e9)).value, 0.0);
}

TEST(ClosedForms, FlashDecodingSplits) {
  EXPECT_EQ(flash_decoding_splits(8, 64, 132), 16);
  EXPECT_EQ(flash_decoding_splits(32, 64, 132), 4);
  EXPECT_EQ(flash_decoding_splits(64, 64, 132), 2);
  EXPECT_EQ(flash_decoding_splits(106, 64, 132), 1);
  EXPECT_EQ(flash_decoding_splits(1, 64, 132), 64);
  EXPECT_EQ(flash_decoding_splits(8, 8, 132), 8);
}

TEST(ClosedForms, SpeculativeTokensOfLeviathan) {
  EXPECT_NEAR(speculative_tokens(0.8, 4), 3.3616, 1e-12);
  EXPECT_NEAR(speculative_tokens(0.5, 1), 1.5, 1e-12);
  EXPECT_NEAR(speculative_tokens(0.7, 5), 2.94117, 1e-6);
  EXPECT_NEAR(speculative_tokens(0.9, 8), 6.125795, 1e-6);
  EXPECT_DOUBLE_EQ(speculative_tokens(1.0, 4), 5.0);
  EXPECT_NEAR(speculative_speedup(0.6, 3, 0.02), 2.0528, 5e-5);
  EXPECT_NEAR(speculative_speedup(0.8, 5, 0.05), 2.9514, 5e-5);
  EXPECT_NEAR(speculative_speedup(0.9, 5, 0.1), 3.1237, 5e-5);
}

TEST(ClosedForms, PipelineBubbles) {
  EXPECT_DOUBLE_EQ(pipeline_bubble(4, 1), 0.75);
  EXPECT_DOUBLE_EQ(pipeline_bubble_over_ideal(4, 1), 3.0);
  EXPECT_DOUBLE_EQ(pipeline_bubble_over_ideal(4, 1, 2), 1.5);
  EXPECT_DOUBLE_EQ(pipeline_bubble(8, 32), 0.1794871794871795);
  EXPECT_DOUBLE_EQ(pipeline_bubble_over_ideal(8, 32), 0.21875);
  EXPECT_DOUBLE_EQ(pipeline_bubble_over_ideal(8, 32, 2), 0.109375);
}

// 32 tokens, 9 experts, hidden 7K: 120.96 us a layer on 50 GB/s, twice for two micro-batches, 61
// layers: 14.76 ms.
TEST(ClosedForms, ExpertExchangeLimitOfDeepSeekV3) {
  const Seconds ib = expert_exchange_limit(32, 7000, 9, BytesPerSecond(50e9));
  EXPECT_NEAR(ib.value * 1e6, 120.96, 1e-9);
  EXPECT_NEAR(2 * ib.value * 61 * 1e3, 14.76, 0.005);
  const Seconds nvl72 = expert_exchange_limit(32, 7000, 9, BytesPerSecond(900e9));
  EXPECT_NEAR(nvl72.value * 1e6, 6.72, 1e-9);
  EXPECT_NEAR(2 * nvl72.value * 61 * 1e3, 0.82, 0.005);
}

// DeepSeek's open-infra day: 226.75 nodes of 8 H800 at $2, 608 B input tokens of which 342 B hit the cache,
// 168 B output.
TEST(ClosedForms, DeepSeekOpenInfraDay) {
  const double cost = usd_per_day(226.75 * 8, 2.0);
  EXPECT_DOUBLE_EQ(cost, 87072.0);
  EXPECT_NEAR(342.0 / 608.0, 0.563, 0.0005);
  const double revenue = revenue_usd(342e9, (608.0 - 342.0) * 1e9, 168e9, {0.14, 0.55, 2.19});
  EXPECT_NEAR(revenue, 562'100, 1);
  EXPECT_NEAR(profit_margin(revenue, cost), 5.45, 0.01);
}

TEST(ClosedForms, PriceOfTokens) { EXPECT_DOUBLE_EQ(usd_per_million_tokens(36.0, 10'000), 1.0); }

}  // namespace
}  // namespace foretoken
