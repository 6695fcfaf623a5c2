// What Mooncake (Qin et al.) and TetriInfer (Hu et al.) state of prefill and decode apart: requests refused
// under overload, and gains over one engine for both.
#include <gtest/gtest.h>

#include <algorithm>

#include "fixtures.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

Simulation simulated(const std::string& json, double mean_tokens, std::int64_t longest, bool records = false) {
  const Deployment d = resolve_or_fail(test_scenario(json), mean_tokens, longest);
  std::vector<KernelTable> kernels;
  for (const Deployment* kind : d.kinds()) kernels.push_back(test_database().kernels(kind->device));
  SimulateOptions o;
  o.intervals = false;
  o.keep_records = records;
  return simulate(d, make_cost_models(d, kernels), test_resources(), o);
}

ServeResult overloaded(const std::string& conductor, const char* count) {
  return simulated(std::string(R"({"model": {"name": "LLaMA2-70B", "config": {"model_type": "llama",
      "hidden_size": 8192, "architectures": ["LlamaForCausalLM"], "intermediate_size": 28672,
      "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000,
      "torch_dtype": "float16", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": false}},
    "hardware": {"device": "a100-sxm-80gb", "scaleup_bandwidth": "400 GB/s", "network_bandwidth": "100 GB/s"},
    "engine": {"behavior": "vllm-0.19", "tensor_parallel_size": 8, "max_model_len": 131072},
    "cluster": {"router": "mooncake", "prefill": {"replicas": 8}, "decode": {"replicas": 8},
                "conductor": )") + conductor + R"(},
    "workload": {"trace": "traces/mooncake-conversation.jsonl.gz", "rate_scale": 2, "num_prompts": )" + count +
                       "}}",
                   12400, 131072)
      .served;
}

TEST(Mooncake, RequestsRefusedUnderOverload) {
  for (const char* tbt : {"100", "60", "45", "35"}) {
    for (const char* how : {R"("rejection": "late")", R"("rejection": "both")",
                            R"("rejection": "both", "decode_time_s": 10)", R"("rejection": "both", "decode_time_s": 20)"}) {
      const ServeResult r = overloaded(std::string(R"({"ttft_slo_ms": 30000, "tbt_slo_ms": )") + tbt + ", " + how + "}",
                                       "3000");
      printf("tbt %s %s rejected %ld ttft %ld tbt %ld computed %ld mean ttft %.0f itl p99 %.1f\n", tbt, how,
             (long)r.rejected, (long)r.rejected_ttft, (long)r.rejected_tbt, (long)r.rejected_computed, r.metrics.ttft.mean, r.metrics.itl.p99);
    }
  }
}

struct Gains {
  double ttft, jct, resources;
};

Gains tetri(const char* input, const char* output) {
  const std::string model = R"({"model": "opt-13b", "hardware": {"device": "v100-sxm2-32gb"},
    "engine": {"dtype": "float16", "tensor_parallel_size": 2, "max_model_len": 2048, )";
  const std::string workload = std::string(R"(, "workload": {"num_prompts": 128, "request_rate": 1000000,
    "input_len": )") + input + R"(, "output_len": )" + output + "}}";
  const Simulation whole = simulated(model + R"("behavior": "vllm-0.6"})" + workload, 600, 2048, true);
  const Simulation apart =
      simulated(model + R"("behavior": "vllm-0.19"}, "cluster": {"router": "tetriinfer",
        "prefill": {"replicas": 1, "max_num_batched_tokens": 512}, "decode": {"replicas": 1},
        "kv_link": {"bandwidth": "150 GB/s"}})" + workload, 600, 2048, true);
  Picoseconds prefilled = 0, end = 0, whole_end = 0;
  for (const RequestRecord& r : apart.served.records)
    prefilled = std::max(prefilled, r.handed_over), end = std::max(end, r.finish);
  for (const RequestRecord& r : whole.served.records) whole_end = std::max(whole_end, r.finish);
  const ServingMetrics &a = apart.served.metrics, &w = whole.served.metrics;
  return {a.ttft.mean / w.ttft.mean, a.e2el.mean / w.e2el.mean,
          static_cast<double>(prefilled + end) / static_cast<double>(whole_end)};
}

TEST(TetriInfer, GainsOverOneEngineForBoth) {
  constexpr const char *kLight = R"({"distribution": "uniform", "min": 16, "max": 512})",
                       *kHeavy = R"({"distribution": "uniform", "min": 513, "max": 1000})",
                       *kShort = R"({"distribution": "uniform", "min": 8, "max": 128})",
                       *kLong = R"({"distribution": "uniform", "min": 129, "max": 1000})";
  for (const char* in : {kLight, kHeavy})
    for (const char* out : {kShort, kLong}) {
      const Gains g = tetri(in, out);
      printf("in %s out %s ttft %.3f jct %.3f resources %.3f\n", in, out, g.ttft, g.jct, g.resources);
    }
}

}  // namespace
}  // namespace foretoken
