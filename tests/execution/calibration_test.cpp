// Calibration: an operator's row stands for that very operator, and with a machine's own rows the prediction
// of other steps comes near, whatever the machine's noise.
#include "executor/calibration.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "base/quantiles.h"
#include "expect_error.h"
#include "fixtures.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

using test::Folder;

Scenario scenario(const std::string& model) {
  return test_scenario(R"({"name": "c", "model": "models/)" + model + R"(.json",
    "hardware": {"device": "epyc-9654", "count": 1, "host_memory": "64 GiB"},
    "engine": {"behavior": "foretoken", "dtype": "bfloat16", "max_model_len": 256, "max_num_seqs": 4,
               "max_num_batched_tokens": 64, "num_gpu_blocks_override": 100},
    "workload": {"request_rate": 1, "num_prompts": 1, "input_len": {"value": 8}, "output_len": {"value": 8}}})");
}

TEST(MeasurementOf, IsUndoneByReadingTheRow) {
  int rows = 0;
  for (const char* model : {"tiny-dense", "tiny-moe", "tiny-mla"}) {
    const Deployment d = resolve_or_fail(scenario(model), 100, 200);
    Work w;
    w.prefill = {{33, 20, 2}};
    w.decode_sequences = 3;
    w.contexts = {3 * 50.0};
    w.sampled_rows = 5;
    for (const Op& op : operators(d.model, Shard{}, w, d.precision).ops) {
      const auto m = measurement_of(op);
      if (!m) {
        EXPECT_EQ(op.name, "sampling") << model;
        continue;
      }
      const auto again = op_of(m->series, m->point);
      ASSERT_TRUE(again) << op.name;
      EXPECT_EQ(kind_name(*again), kind_name(op)) << op.name;
      EXPECT_DOUBLE_EQ(flops(*again).value, flops(op).value) << model << " " << op.name;
      EXPECT_DOUBLE_EQ(bytes(*again).value, bytes(op).value) << model << " " << op.name;
      ++rows;
    }
  }
  EXPECT_GT(rows, 40);
}

TEST(Calibration, AMachinesOwnRowsPredictOtherSteps) {
  const Folder folder;
  const Scenario s = scenario("tiny-dense");
  const Deployment d = resolve_or_fail(s, 100, 200);
  CalibrationOptions options;
  options.budget_seconds = 0.5, options.device = d.device.name, options.date = "2026-01-01",
  options.source = "test";
  double last = -1;
  options.progress = [&](double share) { last = share; };
  const Calibration c = calibrate(d, scenario_model_text(s, test_resources()), {}, options);
  EXPECT_GT(last, 0);
  EXPECT_GT(c.rows.size(), 50u);
  EXPECT_GT(c.held_out.size(), 5u);
  for (const Measurement& m : c.rows) {
    EXPECT_GT(m.point.seconds, 0);
    EXPECT_EQ(m.series.device, d.device.name);
    EXPECT_THAT(m.series.engine, testing::StartsWith("foretoken cpu "));
  }
  std::string csv;
  for (const Measurement& m : c.rows) {
    if (m.series.kind != MeasuredKind::kGemm) continue;
    if (csv.empty()) csv = measurement_csv_header(shape_columns(m.series.kind));
    csv += measurement_csv_row(m, shape_columns(m.series.kind));
  }
  Database database =
      Database::open(std::filesystem::path(FORETOKEN_BINARY_DIR) / "share/foretoken/foretoken.sqlite",
                     folder.path("user.sqlite"));
  EXPECT_GT(database.import_file(folder.put("rows.csv", csv)).imported, 10);
  const auto error = [&](const KernelTable& kernels) {
    std::vector<double> errors;
    for (const StepRun& step : c.held_out)
      errors.push_back(
          std::fabs(price_work(d, make_cost_model(d, kernels), step.work).seconds / step.seconds - 1));
    std::sort(errors.begin(), errors.end());
    return linear_quantile(errors, 0.5);
  };
  const double before = error(KernelTable()),
               after = error(database.kernels(d.device, d.behavior.measured_engine()));
  EXPECT_LT(after, before) << "the datasheet of another processor is no better than this one's rows";
  EXPECT_LT(after, 1);
}

}  // namespace
}  // namespace foretoken
