// What papers on scheduling state of systems side by side: Orca, vLLM, DeepSpeed-FastGen,
// EffectiveTransformer. What isn't met, and what a published figure can't say here, stands beside each;
// docs/policies.md has the table.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "fixtures.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// Seconds a token of each request, from its arrival. with_batch: answers return when the last one of their
// batch has ended, as a batch server's do.
std::vector<double> normalized_latencies(const ServeResult& served, bool with_batch) {
  std::map<Picoseconds, Picoseconds> batch_end;  // requests of a batch start together
  for (const RequestRecord& r : served.records)
    batch_end[r.scheduled] = std::max(batch_end[r.scheduled], r.finish);
  std::vector<double> all;
  for (const RequestRecord& r : served.records) {
    const Picoseconds end = with_batch ? batch_end[r.scheduled] : r.finish;
    all.push_back(to_seconds(end - r.arrival).value / r.output_len);
  }
  return all;
}
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}
double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

class System {
 public:
  explicit System(const std::string& json, bool with_batch = false)
      : p_(resolve_or_fail(test_scenario(json), 500, 2048), true), with_batch_(with_batch) {}

  Simulation simulate_at(double rate) {
    p_.deployment.scenario.workload.request_rate = rate;
    SimulateOptions o;
    o.intervals = false;
    o.keep_records = true;
    return simulate(p_.deployment, p_.cost, test_resources(), o);
  }
  std::vector<double> latencies(double rate) {
    return normalized_latencies(simulate_at(rate).served, with_batch_);
  }
  // Requests a second up to which a statistic of the latencies stays below the limit, within 3 %.
  template <class Statistic>
  double rate_within(Statistic statistic, double limit, double low, double high) {
    EXPECT_LE(statistic(latencies(low)), limit);
    EXPECT_GT(statistic(latencies(high)), limit);
    while (high > 1.03 * low) {
      const double middle = std::sqrt(low * high);
      (statistic(latencies(middle)) <= limit ? low : high) = middle;
    }
    return low;
  }

 private:
  Priced p_;
  bool with_batch_;
};

// Yu et al. 2022 (Orca), section 6.2: GPT-3 175B on 16 A100-40GB, two stages of tensor parallelism over 8,
// prompts of 32 to 512 and answers of 1 to 128 tokens, evenly spread. Where the median latency a token is
// twice that of a request alone, Orca serves 36.9 times what FasterTransformer does (6.81 and 0.185 requests
// a second; 190 ms). Orca keeps two batches under way, one in
// each stage: that is served here by two replicas of half the load, whose steps are as long.
// FasterTransformer has one batch in both stages, so it is one replica. Its best settings were batches of 1,
// and of 8 in micro-batches of 8; which of them served at that point isn't stated: with 2 to 4 requests the
// published ratio is met within a third, and its throughput in units of what a request alone takes (0.185/s
// x 64.5 tokens x 95 ms = 1.13) lies between. Absolute times are not met: a token alone takes 35 ms here, 95
// ms there.
TEST(Orca, ThroughputOfFasterTransformerAtTwiceTheLatencyOfARequestAlone) {
  const auto scenario = [](const char* count, const std::string& engine) {
    return std::string(R"({"model": "gpt3-175b", "hardware": {"device": "a100-sxm-80gb", "count": )") +
           count +
           R"(}, "engine": {"dtype": "float16", "tensor_parallel_size": 8, "max_model_len": 1024,
               "num_gpu_blocks_override": 1500, )" +
           engine +
           R"(}, "cluster": {"router": "least_outstanding"}, "workload": {"num_prompts": 1000, "request_rate": 1,
               "input_len": {"distribution": "uniform", "min": 32, "max": 512},
               "output_len": {"distribution": "uniform", "min": 1, "max": 128}}})";
  };
  System orca(scenario("16", R"("behavior": "orca", "kv_reservation": "exact", "max_batch_size": 64)"));
  const double alone = median(orca.latencies(0.02));
  const double continuous = orca.rate_within(median, 2 * alone, 1, 40);
  std::vector<double> ratios;
  for (const char* batch : {"1", "2", "4", "8"}) {
    System ft(scenario("8", std::string(R"("behavior": "fastertransformer", "max_batch_size": )") + batch),
              true);
    const double rate = ft.rate_within(median, 2 * alone, 0.05, 5);
    ratios.push_back(continuous / rate);
    RecordProperty(std::string("ratio_at_batch_") + batch, std::to_string(ratios.back()));
    const double in_units = rate * 64.5 * alone;
    if (*batch == '2') {
      EXPECT_LT(in_units, 1.13);
    } else if (*batch == '4') {
      EXPECT_GT(in_units, 1.13);
    }
  }
  EXPECT_GT(ratios[0], 36.9);
  EXPECT_NEAR(ratios[1] / 36.9, 1, 0.33);
  EXPECT_NEAR(ratios[2] / 36.9, 1, 0.33);
  EXPECT_GT(ratios[3], 10) << "whatever its batch";
}

// Kwon et al. 2023 (PagedAttention), figure 12 and section 6.2: OPT-13B on an A100-40GB, ShareGPT's lengths.
// At similar latencies vLLM sustains 1.7 to 2.7 times the rate of Orca that knows the lengths, 2.7 to 8 times
// that of Orca that reserves the longest, and up to 22 times FasterTransformer's; ranges are over models and
// traces. Which latency is meant isn't stated, so it is taken at 2, 4 and 8 times that of a request alone.
// Memory is the paper's 15.7 thousand slots; the lengths' spread is the one that batching_test.cpp deduces;
// vLLM is V0's scheduler of a later version. FasterTransformer's batch is what the memory holds, 7 requests
// of 2048 tokens.
TEST(PagedAttention, RatesOfSystemsAtTheSameLatency) {
  const auto scenario = [](const std::string& engine) {
    return R"({"model": "opt-13b", "hardware": {"device": "a100-sxm-40gb"},
      "engine": {"dtype": "float16", "max_model_len": 2048, "num_gpu_blocks_override": 982, )" +
           engine + R"(}, "workload": {"num_prompts": 1500, "request_rate": 1,
        "input_len": {"distribution": "lognormal", "mean": 161.31, "p99": 791, "max": 1024},
        "output_len": {"distribution": "lognormal", "mean": 337.99, "p99": 1583, "max": 1024}}})";
  };
  const std::string orca =
      R"("behavior": "orca", "kv_layout": "buddy", "max_batch_size": 256, "kv_reservation": )";
  System vllm(scenario(R"("behavior": "vllm-0.6")")), oracle(scenario(orca + R"("exact")")),
      pow2(scenario(orca + R"("power_of_two")")), max(scenario(orca + R"("max_model_len")"));
  System ft(scenario(R"("behavior": "fastertransformer", "max_batch_size": 7)"), true);
  const double alone = mean(vllm.latencies(0.02));
  double most = 0;
  for (const double times : {2, 4, 8}) {
    const double limit = times * alone;
    const double rate = vllm.rate_within(mean, limit, 0.2, 30);
    const double of_oracle = oracle.rate_within(mean, limit, 0.2, 30),
                 of_pow2 = pow2.rate_within(mean, limit, 0.2, 30),
                 of_max = max.rate_within(mean, limit, 0.1, 30);
    EXPECT_GT(rate / of_oracle, 1.7) << times;
    EXPECT_LT(rate / of_oracle, 2.7) << times;
    EXPECT_GT(rate / of_max, 2.7) << times;
    EXPECT_LT(rate / of_max, 8) << times;
    EXPECT_GT(of_oracle, of_pow2) << times;
    EXPECT_GT(of_pow2, of_max) << times;
    const double over_static = rate / ft.rate_within(mean, limit, 0.005, 30);
    EXPECT_GT(over_static, 6) << times;
    most = std::max(most, over_static);
    RecordProperty("over_oracle_" + std::to_string(static_cast<int>(times)),
                   std::to_string(rate / of_oracle));
    RecordProperty("over_max_" + std::to_string(static_cast<int>(times)), std::to_string(rate / of_max));
    RecordProperty("over_static_" + std::to_string(static_cast<int>(times)), std::to_string(over_static));
  }
  EXPECT_GT(most, 22) << "near the latency of a request alone a batch's slowest answer costs most";
}

// DeepSpeed-FastGen (Holmes et al. 2024, and its blog of November 2023), figures 2, 4 and 5: Llama-2-70B on
// four A100-80GB, 512 requests from 1 to 32 clients, lengths around 2600 or 1200 and 60 or 128, "normal with
// a variance of 30 %": here evenly spread with that deviation. Its own points are met: 1.36 requests a second
// at 9 s (here 1.29), 1.2 at 7 s, 1.42 to 1.46 at the most. Not met is vLLM's side (0.67 requests a second at
// 9 s): with this version's kernels and host times it serves half again as much as FastGen, where the blog's
// vLLM 0.2 served half. What is met of it is why: prompts that stop the generation make its slow tokens slow
// (figure 5).
class FastGen : public testing::Test {
 protected:
  static ServingMetrics served(const char* behavior, int clients, int input, int output) {
    const auto spread = [](int mean) {
      return R"({"distribution": "uniform", "min": )" + std::to_string(48 * mean / 100) + R"(, "max": )" +
             std::to_string(mean * 3 / 2) + "}";
    };
    const Priced p(
        resolve_or_fail(
            test_scenario(std::string(R"({"model": "llama-2-70b",
        "hardware": {"device": "a100-sxm-80gb", "count": 4}, "engine": {"dtype": "float16", "tensor_parallel_size": 4,
        "max_model_len": 4096, "behavior": ")") +
                          behavior + R"("}, "workload": {"num_prompts": 512, "max_concurrency": )" +
                          std::to_string(clients) + R"(, "input_len": )" + spread(input) +
                          R"(, "output_len": )" + spread(output) + "}}"),
            input + output, 4096),
        true);
    SimulateOptions o;
    o.intervals = false;
    return simulate(p.deployment, p.cost, test_resources(), o).served.metrics;
  }
};

TEST_F(FastGen, ThroughputAndLatencyOfItsOwn) {
  const ServingMetrics at_9s = served("deepspeed-fastgen", 12, 2600, 60);
  EXPECT_NEAR(at_9s.e2el.mean / 1000, 9, 0.9);
  EXPECT_NEAR(at_9s.request_throughput, 1.36, 0.14);
  const ServingMetrics at_7s = served("deepspeed-fastgen", 8, 2600, 60);
  EXPECT_NEAR(at_7s.e2el.mean / 1000, 7, 0.7);
  EXPECT_NEAR(at_7s.request_throughput, 1.2, 0.12);
  EXPECT_NEAR(served("deepspeed-fastgen", 32, 2600, 60).request_throughput, 1.44, 0.1);
}

// Figure 5, 16 clients, answers of 128 tokens: half of the tokens take as long under both; the 95th
// percentile is 3.7 times as long under vLLM. Its 90th is not met: fewer steps of prompts than that lie
// between tokens here.
TEST_F(FastGen, PromptsStopTheGenerationUnderVllm) {
  const ServingMetrics split = served("deepspeed-fastgen", 16, 2600, 128),
                       whole = served("vllm-0.6", 16, 2600, 128);
  EXPECT_NEAR(whole.itl.p50 / split.itl.p50, 1, 0.1);
  EXPECT_GT(whole.itl.p95 / split.itl.p95, 2.3);
  EXPECT_LT(whole.itl.p95 / split.itl.p95, 4.5);
  EXPECT_GT(whole.itl.p99 / split.itl.p99, 3.7);
  EXPECT_LT(split.itl.max, 250) << "four tokens a second in every single gap: less than 1 % fail there";
  EXPECT_GT(whole.itl.max, 1000);
}

// EffectiveTransformer in FasterTransformer (its BERT guide): 12 layers of BERT's base size, 32 sequences of
// up to 384 tokens and 192 on average, half precision: 97.66 ms padded, 48.60 ms packed. Encoders are not
// among the models; the smallest GPT-2 has layers of the same size, so its prompts cost the same but for the
// causal half of attention and the output head, which sees a row a sequence in both. What is reproduced is
// the ratio, not the times, whose device isn't named here. Padding is put back around attention, so that
// stays as it was and all else takes half the rows: 1.85. That one sequence gets slower (6.61 to 9.03 ms) is
// not reproduced: the kernels that pack and unpack are not modelled.
TEST(EffectiveTransformer, PackedPromptsTakeTheirShareOfPaddedOnes) {
  const Priced p(resolve_or_fail(test_scenario(R"({"model": "gpt2", "hardware": {"device": "v100"},
      "engine": {"behavior": "foretoken", "dtype": "float16", "max_model_len": 1024, "num_gpu_blocks_override": 2000,
                 "max_num_batched_tokens": 16384}})"),
                                 400, 1024));
  StepPricer pricer(p.deployment, p.cost);
  struct Seconds {
    double attention = 0, rest = 0;
  };
  const auto price = [&](bool packed) {
    Probe probe;
    std::int64_t tokens = 0;
    for (std::int32_t i = 0; i < 32; ++i) {
      PrefillPart part;
      part.new_tokens = !packed || i == 31 ? 384 : 6 + 12 * i;
      part.last = true;
      tokens += part.new_tokens;
      probe.prefill.push_back(part);
    }
    EXPECT_NEAR(static_cast<double>(tokens) / 32, packed ? 192 : 384, 0.5);
    Seconds sum;
    for (const OperatorCost& o : pricer.estimate("prompts", probe, true).operators)
      (o.name == "attention" ? sum.attention : sum.rest) += o.seconds;
    return sum;
  };
  const Seconds padded = price(false), packed = price(true);
  EXPECT_GT(padded.attention, 0.02 * padded.rest);
  EXPECT_NEAR(padded.rest / packed.rest, 2, 0.15);
  EXPECT_NEAR((padded.attention + padded.rest) / (padded.attention + packed.rest), 97.66 / 48.60, 0.2);
}

}  // namespace
}  // namespace foretoken
