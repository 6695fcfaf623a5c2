// Time of one warm lookup in the built-in tables of H100 and H200: a measured GEMM, one between measured
// sizes, one of an unmeasured shape, and attention and MoE likewise.
#include <benchmark/benchmark.h>

#include <array>

#include "hwdb/database.h"

namespace foretoken {
namespace {

const Database& built_in() {
  static const Database db = Database::open(FORETOKEN_BINARY_DIR "/share/foretoken/foretoken.sqlite");
  return db;
}

Op op_with(Shape shape) {
  Op op;
  op.shape = std::move(shape);
  return op;
}

Op gemm(std::int64_t m, std::int64_t n, std::int64_t k) { return op_with(GemmShape{.m = m, .n = n, .k = k}); }

Op decode(std::int64_t sequences, double length, std::int64_t heads, std::int64_t kv_heads) {
  AttentionShape a;
  a.decode = true;
  a.sequences = sequences, a.kv_tokens = static_cast<double>(sequences) * length;
  a.heads = heads, a.kv_heads = kv_heads, a.qk_dim = a.v_dim = 128;
  a.kv_bytes_per_token = 4.0 * static_cast<double>(kv_heads) * 128;
  return op_with(a);
}

Op prefill(std::int64_t tokens, std::int64_t heads, std::int64_t kv_heads) {
  AttentionShape a;
  a.sequences = 1, a.new_tokens = tokens;
  a.heads = heads, a.kv_heads = kv_heads, a.qk_dim = a.v_dim = 128;
  a.kv_bytes_per_token = 4.0 * static_cast<double>(kv_heads) * 128;
  return op_with(a);
}

Op moe(std::int64_t tokens, std::int64_t hidden, std::int64_t inter) {
  MoeShape e;
  e.tokens = tokens, e.hidden = hidden, e.inter = inter, e.num_experts = e.local_experts = 128, e.top_k = 8;
  e.local_rows = static_cast<double>(tokens * 8);
  e.distinct_experts = expected_experts(128, 8, static_cast<double>(tokens));
  return op_with(e);
}

// A few operators in turn, so that no one curve stays in the nearest cache alone.
void look_up(benchmark::State& state, const char* device, const std::array<Op, 4>& ops, const char* engine) {
  const KernelTable table = built_in().kernels(built_in().device(device), engine);
  for (const Op& op : ops)
    if (!table.find(op)) return state.SkipWithError("no answer");
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(table.find(ops[i++ % ops.size()]));
}

const std::array<Op, 4> kGemmMeasured = {gemm(16, 4096, 4096), gemm(64, 8192, 4096), gemm(256, 4096, 8192),
                                         gemm(1024, 8192, 8192)};
const std::array<Op, 4> kGemmBetween = {gemm(17, 4096, 4096), gemm(70, 8192, 4096), gemm(300, 4096, 8192),
                                        gemm(1100, 8192, 8192)};
const std::array<Op, 4> kGemmUnmeasured = {gemm(17, 4480, 4224), gemm(70, 5000, 3000), gemm(300, 9000, 4200),
                                           gemm(1100, 7000, 9000)};
const std::array<Op, 4> kDecodeMeasured = {decode(16, 1000, 32, 8), decode(30, 3000, 32, 8),
                                           decode(64, 777, 8, 1), decode(5, 9000, 8, 1)};
const std::array<Op, 4> kDecodeUnmeasured = {decode(16, 1000, 28, 7), decode(30, 3000, 28, 7),
                                             decode(64, 777, 14, 2), decode(5, 9000, 14, 2)};
const std::array<Op, 4> kPrefillUnmeasured = {prefill(1000, 28, 7), prefill(3000, 28, 7), prefill(500, 14, 2),
                                              prefill(9000, 14, 2)};
const std::array<Op, 4> kMoeMeasured = {moe(16, 2048, 768), moe(70, 2048, 768), moe(300, 2048, 384),
                                        moe(4000, 2048, 384)};
const std::array<Op, 4> kMoeUnmeasured = {moe(16, 3000, 700), moe(70, 3000, 700), moe(300, 2500, 900),
                                          moe(4000, 2500, 900)};

// TensorRT-LLM was timed at these shapes, vLLM at half as many: for it they come from beside.
BENCHMARK_CAPTURE(look_up, GemmMeasured_h100, "h100", kGemmMeasured, "trtllm");
BENCHMARK_CAPTURE(look_up, GemmMeasured_h200, "h200", kGemmMeasured, "trtllm");
BENCHMARK_CAPTURE(look_up, GemmBetween_h100, "h100", kGemmBetween, "trtllm");
BENCHMARK_CAPTURE(look_up, GemmBetween_h200, "h200", kGemmBetween, "trtllm");
BENCHMARK_CAPTURE(look_up, GemmBeside_h100, "h100", kGemmBetween, "vllm");
BENCHMARK_CAPTURE(look_up, GemmBeside_h200, "h200", kGemmBetween, "vllm");
BENCHMARK_CAPTURE(look_up, GemmUnmeasured_h100, "h100", kGemmUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, GemmUnmeasured_h200, "h200", kGemmUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, DecodeMeasured_h100, "h100", kDecodeMeasured, "vllm");
BENCHMARK_CAPTURE(look_up, DecodeMeasured_h200, "h200", kDecodeMeasured, "vllm");
BENCHMARK_CAPTURE(look_up, DecodeUnmeasured_h100, "h100", kDecodeUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, DecodeUnmeasured_h200, "h200", kDecodeUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, PrefillUnmeasured_h100, "h100", kPrefillUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, PrefillUnmeasured_h200, "h200", kPrefillUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, MoeMeasured_h100, "h100", kMoeMeasured, "vllm");
BENCHMARK_CAPTURE(look_up, MoeMeasured_h200, "h200", kMoeMeasured, "vllm");
BENCHMARK_CAPTURE(look_up, MoeUnmeasured_h100, "h100", kMoeUnmeasured, "vllm");
BENCHMARK_CAPTURE(look_up, MoeUnmeasured_h200, "h200", kMoeUnmeasured, "vllm");

void open_and_load(benchmark::State& state) {
  for (auto _ : state) {
    const Database db = Database::open(FORETOKEN_BINARY_DIR "/share/foretoken/foretoken.sqlite");
    benchmark::DoNotOptimize(db.kernels(db.device("h100"), "vllm").rows());
  }
}
BENCHMARK(open_and_load)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace foretoken
