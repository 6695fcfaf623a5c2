// What-ifs: a faster part never slows a step, gains at most its factor, and only where it is used.
#include "simulator/sensitivity.h"

#include <gtest/gtest.h>

#include "fixtures.h"

namespace foretoken {
namespace {

std::vector<Sensitivity> of(const std::string& json, Estimate* e_out = nullptr) {
  const Priced p(resolve_or_fail(json), true);
  Workload::Means load;
  load.input_len = 1500;
  load.output_len = 300;
  load.request_rate = 3;
  const Estimate e = estimate(p.deployment, p.cost, load, 0);
  if (e_out) *e_out = e;
  return sensitivities(p.deployment, p.cost, e, 1.1);
}

TEST(Sensitivity, StaysWithinTheFactor) {
  for (const char* json : {R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})",
                           R"({"model": "llama-3.3-70b", "hardware": {"device": "h200"},
                               "engine": {"tensor_parallel_size": 4, "async_scheduling": false}})",
                           R"({"model": "qwen3-30b-a3b", "hardware": {"device": "h100"}})"}) {
    double together[4] = {};
    for (const Sensitivity& s : of(json)) {
      ASSERT_EQ(s.change.size(), 4u);
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_LE(s.change[i], 1e-9) << s.part;
        EXPECT_GE(s.change[i], 1 / 1.1 - 1 - 1e-9) << s.part;
        together[i] += s.change[i];
      }
    }
    for (const double t : together) EXPECT_GE(t, 1 / 1.1 - 1 - 1e-9);
  }
}

TEST(Sensitivity, NamesWhatBinds) {
  const auto one = of(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})");
  EXPECT_EQ(one[0].part, "memory bandwidth");
  EXPECT_LT(one[0].change[1], -0.05);  // decoding one sequence reads the weights
  EXPECT_LT(one[1].change[0], -0.04);  // a prompt computes
  for (const double change : one[2].change) EXPECT_NEAR(change, 0, 1e-12);  // one device has no links
  const auto four = of(R"({"model": "llama-3.3-70b", "hardware": {"device": "h200"},
                           "engine": {"tensor_parallel_size": 4, "async_scheduling": false}})");
  EXPECT_LT(four[2].change[0], 0);
  EXPECT_LT(four[3].change[1], 0);  // a synchronous scheduler's host time shows
}

}  // namespace
}  // namespace foretoken
