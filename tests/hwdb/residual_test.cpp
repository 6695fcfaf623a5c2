// How far the lookup may be trusted: errors on whole shapes that it was not shown, printed and bounded.
#include <gtest/gtest.h>

#include <cmath>

#include "base/csv.h"
#include "base/quantiles.h"
#include "built_in.h"
#include "hwdb/store.h"

namespace foretoken {
namespace {

TEST(HeldOut, GemmShapes) {
  const Store store(test::built_in_path(), Store::Mode::kBuiltin);
  int devices = 0;
  for (const Device& d : store.devices()) {
    for (const Residual& r : store.residuals(d.name)) {
      if (r.kind != "gemm" || r.method != "shape" || !r.engine.empty()) continue;
      std::printf("%-16s %-10s held-out (n, k): median %4.1f %%, p90 %4.1f %%, %lld rows\n", d.name.c_str(),
                  r.dtype.c_str(), 100 * r.median, 100 * r.p90, static_cast<long long>(r.samples));
      devices += r.dtype == "bfloat16";
      EXPECT_LT(r.median, 0.12) << d.name;
      EXPECT_LT(r.p90, 0.35) << d.name;
    }
  }
  EXPECT_GE(devices, 6);
}

TEST(HeldOut, AttentionLayouts) {
  const Store store(test::built_in_path(), Store::Mode::kBuiltin);
  for (const char* name : {"H100-SXM5-80GB", "H200-SXM-141GB", "B200-SXM-180GB", "A100-SXM4-80GB"}) {
    int found = 0;
    for (const Residual& r : store.residuals(name)) {
      if (r.kind.find("attention") == std::string::npos || r.method != "shape" || !r.engine.empty()) continue;
      ++found;
      EXPECT_LT(r.median, 0.10) << name << " " << r.kind;
      EXPECT_LT(r.p90, 0.30) << name << " " << r.kind;
    }
    EXPECT_GE(found, 2);
  }
}

// Chunks after cached tokens have no rows of their own in the database.
TEST(HeldOut, ChunkedPrefill) {
  const auto file = test::shared_data() / "ops/llmservingsim/v0_attention.csv.gz";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is absent";
  const KernelTable table = test::built_in().kernels(test::built_in().device("h100"));
  CsvReader csv(file);
  const auto gpu = csv.column("gpu"), model = csv.column("model"), prefill = csv.column("is_prefill"),
             chunk = csv.column("prefill_chunk_size"), cached = csv.column("kv_cache_size"),
             time = csv.column("median_ms");
  std::vector<double> errors;
  while (csv.next()) {
    if (csv.text(gpu) != "H100" || csv.text(prefill) != "True" || csv.integer(cached) == 0) continue;
    const bool llama =
        csv.text(model).find("Llama-3.1-70B") != std::string::npos;  // else Mixtral-8x7B; both tp 4
    AttentionShape a = test::attention(false, 1, csv.integer(chunk), llama ? 16 : 8, 2);
    a.cached = csv.integer(cached);
    const auto t = table.find(test::op_with(a));
    ASSERT_TRUE(t);
    errors.push_back(std::abs(t->time.value / (csv.number(time) * 1e-3) - 1));
  }
  std::sort(errors.begin(), errors.end());
  ASSERT_GT(errors.size(), 300u);
  std::printf("H100 chunks after cached tokens: median %.1f %%, p90 %.1f %%, %zu rows\n",
              100 * linear_quantile(errors, 0.5), 100 * linear_quantile(errors, 0.9), errors.size());
  EXPECT_LT(linear_quantile(errors, 0.5), 0.20);
}

// The published table of an engine, asked with that engine: rows that are kept come back, those that were
// thinned or held out nearly so.
TEST(HeldOut, TheTableThatTheRowsCameFrom) {
  const auto file = test::shared_data() / "ops/aiconfigurator/gemm_h100_sxm.csv.gz";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is absent";
  const KernelTable table = test::built_in().kernels(test::built_in().device("h100"), "sglang");
  std::vector<double> errors;
  MeasurementReader reader;
  reader.device_name = [](const std::string&) { return "H100-SXM5-80GB"; };
  reader.row = [&](const Measurement& row) {
    if (!row.series.engine.starts_with("sglang") || row.series.dtype != "bfloat16") return;
    const auto t = table.find(*op_of(row.series, row.point));
    ASSERT_TRUE(t);
    if (t->basis != Basis::kMeasured) errors.push_back(std::abs(t->time.value / row.point.seconds - 1));
  };
  ImportReport report;
  read_measurements(file, "", reader, report);
  std::sort(errors.begin(), errors.end());
  ASSERT_GT(errors.size(), 1000u);
  std::printf("H100 bfloat16, sglang's rows that are not kept: median %.1f %%, p90 %.1f %%, %zu rows\n",
              100 * linear_quantile(errors, 0.5), 100 * linear_quantile(errors, 0.9), errors.size());
  EXPECT_LT(linear_quantile(errors, 0.5), 0.02);
  EXPECT_LT(linear_quantile(errors, 0.9), 0.10);
}

}  // namespace
}  // namespace foretoken
