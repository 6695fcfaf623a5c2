// What LoongServe (Wu et al., SOSP 2024) states of elastic sequence parallelism on eight A800 with
// LWM-1M-Text, which has the shape of Llama-2-7B: an A800 is an A100 with links of 200 GB/s in each
// direction. Its data sets are not at hand: lengths are drawn around theirs, so that orders are compared, no
// rates. Priced by the roofline, as the systems' attention kernels differ from the database's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/elastic_prices.h"
#include "simulator/predicted_backend.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

Priced priced(const std::string& engine, const std::string& cluster, const std::string& workload = "{}") {
  const std::string json = fmt::format(
      R"({{"model": {{"name": "LWM-1M-Text", "config": {{"model_type": "llama", "hidden_size": 4096,
          "architectures": ["LlamaForCausalLM"], "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "torch_dtype": "bfloat16",
          "max_position_embeddings": 1048576, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}}}},
          "hardware": {{"device": "a100-sxm-80gb", "scaleup_bandwidth": "200 GB/s"}},
          "engine": {}, "cluster": {}, "workload": {}}})",
      engine, cluster, workload);
  return Priced(resolve_or_fail(test_scenario(json), 20000, 500000));
}

// The systems as its artifact starts them (test/longserve/5-start-api-server.py).
struct Setting {
  const char *engine, *cluster;
};
constexpr Setting kElastic = {
    R"({"behavior": "loongserve", "tensor_parallel_size": 2, "num_gpu_blocks_override": 210001,
        "max_model_len": 500000, "max_prefill_time": 5000, "max_num_ooe": 4, "avg_decoding_time": 22,
        "min_comp_bound_decoding_batch_size": 128, "running_max_req_size": 1024})",
    R"({"replicas": 4})"};
constexpr Setting kVllm = {
    R"({"behavior": "vllm-v0", "tensor_parallel_size": 8, "max_model_len": 500000, "max_num_seqs": 1024,
        "max_num_batched_tokens": 600000, "enable_chunked_prefill": false, "enforce_eager": true,
        "num_gpu_blocks_override": 56251})",
    R"({"replicas": 1})"};
constexpr Setting kChunked = {
    R"({"behavior": "sarathi", "tensor_parallel_size": 8, "max_model_len": 500000, "chunk_size": 2048,
        "max_num_seqs": 1024, "num_gpu_blocks_override": 56251})",
    R"({"replicas": 1})"};
constexpr Setting kApart = {
    R"({"behavior": "vllm-0.8", "max_model_len": 500000, "enable_chunked_prefill": false,
        "max_num_batched_tokens": 550000, "max_num_seqs": 128, "enforce_eager": true,
        "enable_prefix_caching": false, "num_gpu_blocks_override": 31256})",
    R"({"prefill": {"tensor_parallel_size": 4}, "decode": {"tensor_parallel_size": 4},
        "kv_link": {"bandwidth": "200 GB/s"}})"};

// Mean of the time from arrival to last token over the tokens of prompt and output, ms.
double normalized_latency(const Setting& s, const std::string& workload) {
  const Priced p = priced(s.engine, s.cluster, workload);
  SimulateOptions o;
  o.intervals = false;
  o.keep_records = true;
  const Simulation r = simulate(p.deployment, p.cost, test_resources(), o);
  double sum = 0;
  for (const RequestRecord& record : r.served.records)
    sum += to_ms(record.finish - record.arrival) / (record.input_len + record.output_len);
  EXPECT_EQ(r.served.rejected, 0);
  return sum / static_cast<double>(r.served.records.size());
}

// Lengths of conversations (ShareGPT's): under load the pool keeps the latency that tensor parallelism over
// all devices, with whole or chunked prompts, has lost.
TEST(LoongServe, ShortRequestsUnderLoad) {
  const std::string load =
      R"({"request_rate": 45, "num_prompts": 1500, "input_len": {"distribution": "lognormal", "mean": 300, "p99": 1500},
          "output_len": {"distribution": "lognormal", "mean": 200, "p99": 800}})";
  const double elastic = normalized_latency(kElastic, load);
  EXPECT_LT(1.5 * elastic, normalized_latency(kVllm, load));
  EXPECT_LT(1.5 * elastic, normalized_latency(kChunked, load));
}

// Prompts of up to hundreds of thousands of tokens: better than chunked prefill (up to 3.85 times the rate in
// the abstract), and than prefill and decode apart (up to 5.81 times).
TEST(LoongServe, LongPromptsAgainstChunksAndDisaggregation) {
  const std::string load =
      R"({"request_rate": 0.6, "num_prompts": 300, "input_len": {"distribution": "lognormal", "mean": 40000, "p99": 400000},
          "output_len": {"distribution": "lognormal", "mean": 200, "p99": 800}})";
  const double elastic = normalized_latency(kElastic, load);
  EXPECT_LT(1.5 * elastic, normalized_latency(kChunked, load));
  EXPECT_LT(1.2 * elastic, normalized_latency(kApart, load));
}

// What its scheduler predicts by: time of a prefill as a constant, the sum of lengths and the sum of their
// squares. Fitted to single prompts it stays near the price of a prompt on any number of instances, and more
// instances gain.
TEST(LoongServe, AnalyticalModelOfPrefills) {
  const Priced p = priced(kElastic.engine, kElastic.cluster);
  LoongserveConfig c;
  profile_elastic(p.deployment, p.cost, c);
  ASSERT_EQ(c.prefill_model.size(), 4u);
  PredictedBackend backend(p.deployment, p.cost);
  for (std::int32_t k = 1; k <= 4; ++k)
    for (const std::int64_t length : {200, 1500, 12000, 90000, 400000}) {
      std::vector<Batch> batches(static_cast<std::size_t>(k));
      const PrefillPart part{0, 0, static_cast<std::int32_t>((length + k - 1) / k), 0, true, 0};
      for (Batch& b : batches) b.prefill = {&part, 1};
      batches[0].sampled_rows = 1;
      const double price = to_ms(backend.run({0, 0, batches}).tokens_out), l = static_cast<double>(length);
      const auto& m = c.prefill_model[static_cast<std::size_t>(k - 1)];
      EXPECT_NEAR((m[0] + m[1] * l + m[2] * l * l) / price, 1, 0.25)
          << k << " instances, " << length << " tokens";
    }
  EXPECT_NEAR(c.prefill_model[0][2] / c.prefill_model[3][2], 4, 0.2);
  // 256 KiB of a token's keys and values on each device, at 92 % of 200 GB/s.
  EXPECT_NEAR(static_cast<double>(c.move_per_token), 262144 / 0.92 / 200e9 * 1e12, 5e3);
}

// In decode a step of two groups takes as long as the slower one, and a span gives what its steps would.
TEST(LoongServe, SpansOfGroupsAreTheirSteps) {
  const Priced p = priced(kElastic.engine, kElastic.cluster);
  PredictedBackend spans(p.deployment, p.cost), steps(p.deployment, p.cost);
  std::vector<Batch> batches(4);
  const std::int32_t groups[] = {0, 0, 1, 1}, rows[] = {40, 0, 30, 20}, attended[] = {40, 12, 30, 50};
  const std::int64_t contexts[] = {150000, 90000, 60000, 70000};
  for (std::size_t i = 0; i < 4; ++i) {
    Batch& b = batches[i];
    b.group = groups[i];
    b.instance = static_cast<std::int32_t>(i);
    b.decode_sequences = b.sampled_rows = b.growing[0] = rows[i];
    b.attended = attended[i];
    b.contexts[0] = contexts[i];
  }
  const Picoseconds both = steps.run({0, 0, batches}).tokens_out;
  const Picoseconds first = steps.run({0, 0, std::span(batches).first(2)}).tokens_out,
                    second = steps.run({2, 0, std::span(batches).last(2)}).tokens_out;
  // The host counts everybody's sequences.
  EXPECT_GE(both, std::max(first, second));
  EXPECT_LT(static_cast<double>(both), static_cast<double>(std::max(first, second)) * 1.01);
  for (Picoseconds clock = 0; batches[0].contexts[0] < 200000;) {
    const SpanTime span = spans.run_span({0, clock, batches}, 1000);
    ASSERT_GT(span.steps, 0);
    for (std::int64_t i = 0; i < span.steps; ++i) {
      ASSERT_EQ(steps.run({0, clock, batches}).tokens_out, span.first + i * span.increment);
      for (Batch& b : batches) b.contexts[0] += b.growing[0];
    }
    clock += span.steps * span.first;
  }
}

}  // namespace
}  // namespace foretoken
