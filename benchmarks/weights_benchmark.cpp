// Synthetic weights of a matrix, made and packed for a set of kernels, by format and threads: GB/s of what is
// stored, and a thread's time for each weight. This processor's kernels, or with
// FORETOKEN_BENCHMARK_BACKEND=cuda a device's, whose memory they go to.
#include <benchmark/benchmark.h>

#include <iostream>
#include <thread>

#include "base/json_full.h"
#include "benchmarks/chosen_kernels.h"
#include "benchmarks/model_formats.h"
#include "executor/arena.h"
#include "executor/checkpoint.h"
#include "model/hf_config.h"

namespace foretoken {
namespace {

constexpr std::int64_t kRows = 4096, kColumns = 4096;

void make_and_pack(benchmark::State& state, const Kernels& kernels, const Format& format, int count) {
  const Json json{{"model_type", "llama"},    {"hidden_size", kColumns},       {"intermediate_size", kRows},
                  {"num_hidden_layers", 1},   {"num_attention_heads", 32},     {"num_key_value_heads", 8},
                  {"vocab_size", 1024},       {"max_position_embeddings", 64}, {"rms_norm_eps", 1e-5},
                  {"rope_theta", 10000.0},    {"hidden_act", "silu"},          {"tie_word_embeddings", false},
                  {"torch_dtype", "bfloat16"}};
  const ModelConfig config = read_hf_config(json, "config", "benchmark");
  const auto weights = synthetic_checkpoint(config, read_numerics(json, config, 64, "config"), 1);
  const std::size_t bytes = kernels.packed_bytes(format.weights, kRows, kColumns);
  Arena memory(bytes, kernels.memory());
  std::byte* const to = memory.bytes(bytes);
  Threads threads(count);
  for (auto _ : state)
    kernels.pack(
        format.weights, kRows, kColumns,
        [&](std::int64_t row, float* out) { weights->read(Role::kUp, 0, 0, row, 1, out); }, to, threads);
  const auto packed = static_cast<double>(state.iterations()) * static_cast<double>(kRows * kColumns);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
  state.counters["thread_time"] =
      benchmark::Counter(packed / count, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

}  // namespace
}  // namespace foretoken

int main(int argc, char** argv) {
  using namespace foretoken;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const ChosenKernels backend = open_backend(wanted_backend("cpu"));
  if (backend.kernels == nullptr) {
    std::cerr << backend.why_not << "; nothing was measured\n";
    return 0;
  }
  const int all = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (const Format& format : kFormats)
    for (const int threads : {1, all}) {
      if (threads == 1 || all > 1)
        benchmark::RegisterBenchmark(
            (std::string("weights/") + format.name + "/threads:" + std::to_string(threads)).c_str(),
            [&backend, &format, threads](benchmark::State& state) {
              make_and_pack(state, *backend.kernels, format, threads);
            })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
    }
  benchmark::RunSpecifiedBenchmarks();
}
