// Fitting an engine's terms: the fit alone on functions, and the law that terms which made a result come back
// from it. What files and scenarios may not contradict each other in.
#include "simulator/server_calibration.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "fixtures.h"
#include "simulator/engine_fit.h"
#include "simulator/results/run_scenario.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

// value = a + b x, the third term shows nowhere and the fourth does what the second does.
FitProblem line(const std::vector<double>& x, const std::vector<double>& y, std::size_t most) {
  FitProblem p;
  p.terms = {{"a", 1, 1, 0, 100}, {"b", 1, 1, 0, 100}, {"unseen", 5, 1, 0, 100}, {"like b", 0, 1, 0, 100}};
  for (std::size_t i = 0; i < x.size(); ++i) {
    p.measured.push_back({std::log(y[i])});
    p.load.push_back(static_cast<std::int64_t>(i));
  }
  p.most_terms = most;
  p.predict = [x](std::size_t run, const std::vector<double>& t) {
    return std::vector<double>{std::log(t[0] + (t[1] + t[3]) * x[run])};
  };
  return p;
}

TEST(EngineFit, FindsTermsAndSaysWhichItCant) {
  const EngineFit fit = fit_engine_terms(line({1, 2, 5, 10}, {5, 8, 17, 32}, 3));  // 2 + 3 x
  EXPECT_NEAR(fit.value[0], 2, 1e-3);
  EXPECT_NEAR(fit.value[1], 3, 1e-3);
  EXPECT_EQ(fit.value[2], 5);
  EXPECT_EQ(fit.value[3], 0);
  EXPECT_EQ(fit.verdict[0], FitVerdict::kFitted);
  EXPECT_EQ(fit.verdict[2], FitVerdict::kUnseen);
  EXPECT_EQ(fit.verdict[3], FitVerdict::kConfused);
  // Without noise each run is predicted by the others.
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(fit.left_out[i][0], fit.after[i][0], 1e-3);
}

TEST(EngineFit, OneOutlierOfSevenMovesLittle) {
  const EngineFit fit = fit_engine_terms(line({1, 2, 3, 5, 8, 10, 12}, {5, 8, 11, 51, 26, 32, 38}, 2));
  EXPECT_NEAR(fit.value[1], 3, 0.3);
  EXPECT_GT(std::fabs(fit.after[3][0] - std::log(51.0)), 0.9);
}

TEST(EngineFit, StaysInItsBoundsAndFitsNoMoreTermsThanAllowed) {
  FitProblem p = line({1, 2, 5}, {0.5, 0.6, 0.9}, 1);  // 0.4 + 0.1 x
  p.terms[0].low = 0.8;
  const EngineFit fit = fit_engine_terms(p);
  EXPECT_EQ(fit.value[0], 0.8);
  EXPECT_EQ(fit.verdict[1], FitVerdict::kTooMany);
}

TEST(EngineFit, AKindThatNoTermMatchesCountsForLess) {
  // Two kinds a run: the first is 3 x, the second wants 6 x and 20 x in turn.
  FitProblem p;
  p.terms = {{"b", 1, 1, 0, 100}};
  for (int i = 1; i <= 6; ++i) {
    p.measured.push_back({std::log(3.0 * i), std::log((i % 2 ? 6.0 : 20.0) * i)});
    p.kind.push_back({0, 1});
    p.load.push_back(i);
  }
  p.most_terms = 1;
  p.predict = [](std::size_t run, const std::vector<double>& t) {
    const double v = std::log(t[0] * static_cast<double>(run + 1));
    return std::vector<double>{v, v};
  };
  const double together = fit_engine_terms(p).value[0];
  p.kind.clear();
  EXPECT_LT(std::fabs(together - 3), 0.5 * std::fabs(fit_engine_terms(p).value[0] - 3));
}

constexpr const char* kServer = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100-sxm"},
  "engine": {"behavior": "vllm-0.19", "max_model_len": 4096}})";

// What `vllm bench serve` would have written of a server with these terms.
MeasuredRun made_run(const std::string& terms, int concurrency, int input, int output) {
  Json json = Json::parse(kServer);
  json["engine"]["host_times"] = Json::parse(terms);
  json["workload"] = {{"max_concurrency", concurrency},
                      {"num_prompts", 3 * concurrency},
                      {"input_len", input},
                      {"output_len", output}};
  const Scenario s = scenario_from_json(json, "made.json");
  const Deployment d = resolve_or_fail(s, input + output, input + output);
  const KernelTable kernels = test_database().kernels(d.device);
  const Simulation done = simulate(d, make_cost_model(d, kernels), test_resources(), {.intervals = false});
  const ServingMetrics& m = done.served.metrics;
  const Json file = {{"backend", "vllm"},
                     {"model_id", "meta-llama/Llama-3.1-8B"},
                     {"num_prompts", 3 * concurrency},
                     {"request_rate", "inf"},
                     {"max_concurrency", concurrency},
                     {"completed", m.completed},
                     {"duration", m.duration},
                     {"total_input_tokens", 3 * concurrency * input},
                     {"total_output_tokens", 3 * concurrency * output},
                     {"request_throughput", m.request_throughput},
                     {"output_throughput", m.output_throughput},
                     {"mean_ttft_ms", m.ttft.mean},
                     {"mean_tpot_ms", m.tpot.mean},
                     {"mean_e2el_ms", m.e2el.mean}};
  return measured_runs(file, "made.json", "made.json:").at(0);
}

ServerCalibration calibrate(const std::vector<MeasuredRun>& runs, std::vector<std::string> terms = {},
                            int threads = 0) {
  ServerCalibrationOptions o;
  o.terms = std::move(terms);
  o.threads = threads;
  return calibrate_server(test_scenario(kServer), test_resources(), runs, o);
}

std::vector<MeasuredRun> made_runs(const std::string& terms) {
  return {made_run(terms, 1, 128, 24), made_run(terms, 6, 900, 16), made_run(terms, 24, 300, 32),
          made_run(terms, 48, 100, 24)};
}

TEST(ServerCalibration, TermsThatMadeAResultComeBackFromIt) {
  const auto runs = made_runs(R"({"device_time_factor": 1.2, "ingress_ms": 9, "prefill_layer_us": 600})");
  const ServerCalibration c = calibrate(runs, {"device_time_factor", "ingress_ms", "prefill_layer_us"});
  ASSERT_EQ(c.terms.size(), 3u);
  EXPECT_NEAR(c.terms[0].after, 1.2, 0.012);
  EXPECT_NEAR(c.terms[1].after, 9, 0.3);
  EXPECT_NEAR(c.terms[2].after, 600, 20);
  EXPECT_LT(c.error_after, 0.005);
  EXPECT_LT(c.error_left_out, 0.02);
  EXPECT_GT(c.error_before, 0.1);
  EXPECT_TRUE(c.improves) << c.verdict;
  EXPECT_EQ(c.engine, "vllm-0.19");
  EXPECT_EQ(c.device, "H100-SXM5-80GB");
  const ServerCalibration alone =
      calibrate(runs, {"device_time_factor", "ingress_ms", "prefill_layer_us"}, 1);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(alone.terms[i].after, c.terms[i].after);  // to the bit
  EXPECT_EQ(alone.error_left_out, c.error_left_out);
  // Whole requests follow, though they were not fitted.
  for (const CalibratedValue& v : c.values)
    if (v.metric == "mean_e2el_ms") {
      EXPECT_FALSE(v.fitted);
      EXPECT_NEAR(v.after / v.measured, 1, 0.01);
    }
}

TEST(ServerCalibration, AnEngineThatIsAsPredictedStaysAsItIs) {
  const auto runs = made_runs("{}");
  const ServerCalibration c = calibrate({runs[0], runs[1]});
  EXPECT_FALSE(c.improves);
  EXPECT_LT(c.error_before, 1e-9);
  EXPECT_EQ(c.terms[0].after, 1);
  EXPECT_NE(c.verdict, "");
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ServerCalibration, TooFewLoadsForTheTermsAreRefused) {
  const MeasuredRun one = made_run("{}", 1, 128, 24);
  EXPECT_THAT(error_of([&] { calibrate({one}); }), HasSubstr("1 run of 1 different load can't fit 1 term"));
  EXPECT_THAT(error_of([&] { calibrate({one, one}); }), HasSubstr("2 runs of 1 different load can't"));
  EXPECT_THAT(error_of([&] { calibrate({one, one}, {"step"}); }), HasSubstr("--fit: \"step\" is no term"));
}

TEST(RunScenario, AContradictionNamesBoth) {
  MeasuredRun run{"r.json", "vllm bench serve", {}, {}, {}, "r.json:", 0, {}};
  run.load.max_concurrency = 8, run.load.num_prompts = 80;
  run.load.input_len = MeasuredLength{100, {}, {}, {}}, run.load.output_len = MeasuredLength{10, {}, {}, {}};
  std::vector<std::string> notes;
  const auto with = [&](const std::string& workload) {
    Json json = Json::parse(kServer);
    json["workload"] = Json::parse(workload);
    return error_of(
        [&] { scenario_of_run(scenario_from_json(json, "test.json"), test_resources(), run, notes); });
  };
  EXPECT_EQ(with("{}"), "accepted");
  EXPECT_EQ(with(R"({"max_concurrency": 8, "input_len": 102})"), "accepted");
  EXPECT_THAT(
      with(R"({"max_concurrency": 16})"),
      HasSubstr(
          "r.json: was measured with max_concurrency 8, but test.json:/workload/max_concurrency is 16"));
  EXPECT_THAT(with(R"({"input_len": 200})"),
              HasSubstr("input_len 100, but test.json:/workload/input_len is 200"));
  EXPECT_THAT(with(R"({"request_rate": 2})"), HasSubstr("request_rate without limit, but"));
  EXPECT_THAT(with(R"({"num_prompts": 20})"), HasSubstr("num_prompts 80, but"));
  EXPECT_THAT(with(R"({"all_at_once": true})"), HasSubstr("all_at_once false, but"));
  run.load.model = "llama-3.1-70b";
  EXPECT_THAT(with("{}"),
              HasSubstr("was measured with model llama-3.1-70b, but test.json:/model is llama-3.1-8b"));
  run.load.model = "a name of our own";
  EXPECT_EQ(with("{}"), "accepted");
  run.failed = 20;
  EXPECT_THAT(with("{}"), HasSubstr("20 of 80 requests failed"));
  run.failed = 0, run.load.max_concurrency.reset();
  EXPECT_THAT(with("{}"), HasSubstr("does not say how requests were sent"));
  run.load.all_at_once = true;
  EXPECT_THAT(with(R"({"max_concurrency": 4})"), HasSubstr("max_concurrency without limit, but"));
  run.load.output_len.reset();
  EXPECT_THAT(with("{}"), HasSubstr("does not say how long requests were; give output_len"));
  run.unusable = "was cancelled before its end";
  EXPECT_THAT(with("{}"), HasSubstr("r.json: was cancelled before its end, and no measurement"));
}

TEST(RunScenario, DetailedResultsAreTheTraceOfTheirLoad) {
  MeasuredRun run{"r.json", "vllm bench serve", {}, {}, {}, "r.json:", 0, {}};
  run.load.all_at_once = true, run.load.num_prompts = 80, run.load.trace = "r.json";
  std::vector<std::string> notes;
  const auto workload = [&](const Scenario& s) {
    return scenario_of_run(s, test_resources(), run, notes).workload;
  };
  WorkloadConfig w = workload(test_scenario(kServer));
  EXPECT_EQ(w.trace, std::filesystem::absolute("r.json").string());  // starts as recorded
  EXPECT_FALSE(w.all_at_once || w.max_concurrency || w.num_prompts);
  run.load.all_at_once = false, run.load.max_concurrency = 4;
  EXPECT_EQ(workload(test_scenario(kServer)).max_concurrency, 4);  // each end starts the next
  Scenario own = test_scenario(kServer);
  own.workload.input_len = own.workload.output_len = LengthDistribution{.value = 10};
  EXPECT_EQ(workload(own).trace, "");
}

TEST(RunScenario, LengthsKeepTheirSpread) {
  MeasuredRun run{"r.json", "AIPerf", {}, {}, {}, "r.json:", 0, {}};
  run.load.request_rate = 3, run.load.arrival = "constant", run.load.num_prompts = 50;
  run.load.input_len = MeasuredLength{100, 20, {}, {}};
  run.load.output_len = MeasuredLength{75, {}, 50, 100};
  std::vector<std::string> notes;
  const WorkloadConfig w = scenario_of_run(test_scenario(kServer), test_resources(), run, notes).workload;
  EXPECT_EQ(w.input_len->min, 65);  // 100 -+ sqrt(3) 20
  EXPECT_EQ(w.input_len->max, 135);
  EXPECT_EQ(w.output_len->min, 50);
  EXPECT_EQ(w.output_len->max, 100);
  EXPECT_EQ(w.arrival, "constant");
  EXPECT_EQ(notes.size(), 1u);
  EXPECT_EQ(describe_load(w), "3/s, 65-135 in, 50-100 out");
}

}  // namespace
}  // namespace foretoken
