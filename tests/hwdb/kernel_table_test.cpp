// Lookup: measured rows come back as they are, between them nothing jumps, beyond them nothing is invented.
#include <gmock/gmock.h>

#include <cmath>

#include "built_in.h"

namespace foretoken {
namespace {

using test::attention;
using test::built_in;
using test::gemm;
using test::op_with;

class Kernels : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    h100 = new Device(built_in().device("h100"));
    table = new KernelTable(built_in().kernels(*h100));
  }
  static void TearDownTestSuite() {
    delete table;
    delete h100;
  }
  Seconds limit(const Op& op) { return speed_of_light(op, *h100, built_in().topology(*h100, 8)); }
  static inline Device* h100 = nullptr;
  static inline KernelTable* table = nullptr;
};

TEST_F(Kernels, MeasuredRowsComeBackExactly) {
  EXPECT_EQ(table->engine(), "vllm 0.19.0");
  EXPECT_GT(table->rows(), 100000);
  // vllm 0.19.0: causal prefill of 4096 tokens with 32 query and 8 KV heads.
  const auto prefill = table->find(op_with(attention(false, 1, 4096, 32, 8)));
  ASSERT_TRUE(prefill);
  EXPECT_DOUBLE_EQ(prefill->time.value, 225.71e-6);
  EXPECT_EQ(prefill->basis, Basis::kMeasured);
  EXPECT_DOUBLE_EQ(prefill->relative_error, 0.03);
  // nccl 2.29.2 over 8 devices, 512 MiB.
  const auto reduce = table->find(op_with(CollectiveShape{.message_bytes = 536870912, .ranks = 8}));
  ASSERT_TRUE(reduce);
  EXPECT_NEAR(reduce->time.value, 2111.1e-6, 20e-6);  // mean of repeats
  // The engine's own kernel wins for small messages.
  const auto small = table->find(op_with(CollectiveShape{.message_bytes = 8192, .ranks = 8}));
  ASSERT_TRUE(small);
  EXPECT_LT(small->time.value, 8e-6);
}

TEST_F(Kernels, TimesGrowWithTheirWork) {
  for (const auto& [n, k] : {std::pair{4096, 4096}, {6144, 4096}, {5000, 3000}}) {
    double last = 0;
    for (const std::int64_t m : {64, 70, 80, 256, 300, 400, 512, 1000, 2000, 4000, 8000, 16000}) {
      const auto t = table->find(gemm(m, n, k));
      ASSERT_TRUE(t) << m;
      EXPECT_GT(t->time.value, 0.80 * last) << n << "x" << k << " m " << m;  // tiles make small steps
      last = t->time.value;
    }
  }
}

TEST_F(Kernels, BetweenTwoRowsTheTimeLiesBetweenTheirs) {
  // Rows of one measured shape bracket every size between them.
  const auto at = [&](std::int64_t m) { return table->find(gemm(m, 4096, 4096))->time.value; };
  const std::int64_t measured[] = {256, 257, 512, 513, 768, 769, 1024, 1025, 1280, 1281, 2048, 2049, 4096};
  for (std::size_t i = 0; i + 1 < std::size(measured); ++i) {
    const double low = at(measured[i]), high = at(measured[i + 1]);
    for (std::int64_t m = measured[i]; m < measured[i + 1]; m += 37) {
      EXPECT_GE(at(m), 0.97 * std::min(low, high)) << m;  // thinned rows come back within 1.5 %
      EXPECT_LE(at(m), 1.03 * std::max(low, high)) << m;
    }
  }
}

TEST_F(Kernels, NothingIsFasterThanLight) {
  for (const std::int64_t m : {1, 7, 100, 3000, 100000})
    for (const std::int64_t n : {512, 5120, 28672})
      for (const WeightFormat w : {WeightFormat::kPlain, WeightFormat::kFp8, WeightFormat::kFp8Block}) {
        const Op op = gemm(m, n, 8192, w);
        const auto t = table->find(op);
        ASSERT_TRUE(t);
        EXPECT_GE(t->time, limit(op));
        EXPECT_GT(t->relative_error, 0);
      }
}

TEST_F(Kernels, BeyondTheRangeTheUtilisationHolds) {
  const Op edge = gemm(32768, 8192, 8192), beyond = gemm(262144, 8192, 8192);
  const auto a = table->find(edge), b = table->find(beyond);
  ASSERT_TRUE(a && b);
  EXPECT_NEAR(b->time / a->time, limit(beyond) / limit(edge), 0.02 * limit(beyond) / limit(edge));
  EXPECT_EQ(b->basis, Basis::kInterpolated);
  EXPECT_GT(b->relative_error, 0.03);
}

TEST_F(Kernels, HeadsThatWereNotMeasuredCostMoreThanFewerThatWere) {
  const auto few = table->find(op_with(attention(true, 16, 4096, 24, 4)));
  const auto odd = table->find(op_with(attention(true, 16, 4096, 28, 4)));
  const auto many = table->find(op_with(attention(true, 16, 4096, 32, 8)));
  ASSERT_TRUE(few && odd && many);
  EXPECT_EQ(odd->basis, Basis::kInterpolated);
  EXPECT_GT(odd->relative_error, few->relative_error);
  EXPECT_GT(odd->time.value, 0.85 * few->time.value);
  EXPECT_LT(odd->time.value, 1.15 * many->time.value);
}

TEST_F(Kernels, CachedTokensAddWork) {
  AttentionShape chunk = attention(false, 1, 512, 32, 8);
  const auto alone = table->find(op_with(chunk));
  chunk.cached = 8192;
  const auto later = table->find(op_with(chunk));
  ASSERT_TRUE(alone && later);
  EXPECT_GT(later->time.value, 2 * alone->time.value);
  EXPECT_EQ(later->basis, Basis::kInterpolated);
}

TEST_F(Kernels, RefuseWhatNoRowCovers) {
  AttentionShape windowed = attention(false, 1, 8192, 32, 8);
  windowed.window = 1024;
  EXPECT_FALSE(table->find(op_with(windowed)));
  windowed.window = 8192;  // covers every key: full attention
  EXPECT_TRUE(table->find(op_with(windowed)));
  AttentionShape sparse = attention(true, 4, 32768, 32, 8);
  sparse.top_k = 2048;
  EXPECT_FALSE(table->find(op_with(sparse)));
  EXPECT_FALSE(table->find(op_with(attention(false, 1, 4096, 32, 8, 96))));  // head size
  EXPECT_FALSE(table->find(op_with(CollectiveShape{.message_bytes = 1e6, .ranks = 16, .ranks_per_node = 8})));
  EXPECT_FALSE(table->find(op_with(RecurrentShape{})));
  EXPECT_FALSE(table->find(gemm(64, 4096, 4096, WeightFormat::kMxfp4)));
  EXPECT_FALSE(KernelTable().find(gemm(1, 1, 1)));
}

TEST_F(Kernels, AnotherEngineIsAskedFor) {
  const KernelTable trtllm = built_in().kernels(*h100, "trtllm-1.3");
  EXPECT_EQ(trtllm.engine(), "trtllm 1.3.0rc20");
  const Op fp8 = gemm(64, 4096, 4096, WeightFormat::kFp8);
  const auto ours = table->find(fp8), theirs = trtllm.find(fp8);
  ASSERT_TRUE(ours && theirs);
  EXPECT_NE(ours->time, theirs->time);
  // Experts of 4-bit integers were timed with vllm only: they stand in.
  const MoeShape mixtral{.tokens = 64,
                         .hidden = 4096,
                         .inter = 14336,
                         .num_experts = 8,
                         .local_experts = 8,
                         .top_k = 2,
                         .weight = WeightFormat::kInt4Wo,
                         .distinct_experts = 8,
                         .local_rows = 128,
                         .dealt = true};
  const auto own = built_in().kernels(*h100, "vllm").find(op_with(mixtral)),
             borrowed = trtllm.find(op_with(mixtral));
  ASSERT_TRUE(own && borrowed);
  EXPECT_DOUBLE_EQ(borrowed->time.value, own->time.value);
}

TEST_F(Kernels, TheLibraryAlone) {
  const KernelTable nccl = built_in().kernels(*h100, "nccl 2.29");
  const Op small = op_with(CollectiveShape{.message_bytes = 8192, .ranks = 8});
  EXPECT_GT(nccl.find(small)->time.value, 2 * table->find(small)->time.value);
}

TEST_F(Kernels, ADeviceWithoutRowsHasAnEmptyTable) {
  const KernelTable none = built_in().kernels(built_in().device("mi300x"));
  EXPECT_EQ(none.rows(), 0);
  EXPECT_FALSE(none.find(gemm(64, 4096, 4096)));
}

TEST_F(Kernels, MixtureOfExperts) {
  MoeShape e;
  e.tokens = 64, e.hidden = 4096, e.inter = 14336, e.num_experts = e.local_experts = 8, e.top_k = 2;
  e.distinct_experts = expected_experts(8, 2, 64), e.local_rows = 128;
  e.dealt = true;
  const auto t = table->find(op_with(e));
  ASSERT_TRUE(t);
  EXPECT_EQ(t->basis, Basis::kMeasured);
  e.inter = 13000;
  const auto odd = table->find(op_with(e));
  ASSERT_TRUE(odd);
  EXPECT_EQ(odd->basis, Basis::kInterpolated);
  EXPECT_NEAR(odd->time / t->time, 13000.0 / 14336, 0.15);
}

// B300 has no attention rows; B200, of its generation, has: as far from the speed of light there as here.
TEST_F(Kernels, WhatADeviceLacksIsLentByItsGeneration) {
  const Device b300 = built_in().device("b300"), b200 = built_in().device("b200");
  const Op op = op_with(attention(true, 16, 2048, 32, 8));
  const auto lent = built_in().kernels(b300).find(op), own = built_in().kernels(b200).find(op);
  ASSERT_TRUE(lent && own);
  EXPECT_EQ(lent->basis, Basis::kTransferred);
  EXPECT_GT(lent->relative_error, own->relative_error);
  const auto light = [&](const Device& d) { return speed_of_light(op, d, built_in().topology(d, 8)); };
  EXPECT_NEAR(lent->time / light(b300), own->time / light(b200), 1e-9);
}

}  // namespace
}  // namespace foretoken
