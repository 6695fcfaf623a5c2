// The executor's kernels on this processor: matrix products by storage and rows, attention, and what the same
// threads read from memory. Where oneDNN is there, the same product through it and the ratio of the two.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "executor/kernels.h"
#ifdef FORETOKEN_WITH_ONEDNN
#include <dnnl.hpp>
#include <unordered_map>
#endif

namespace foretoken {
namespace {

using Index = std::int64_t;
constexpr Index kSide = 4096;
constexpr int kCopies = 4;  // of the weights, in turn: more than a cache holds

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Aligned {
  std::vector<std::byte> bytes;
  explicit Aligned(std::size_t size) : bytes(size + 64) {}
  std::byte* data() { return bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64; }
};

std::vector<float> normal(std::size_t count) {
  std::mt19937 bits(1);
  std::normal_distribution<float> values;
  std::vector<float> out(count);
  for (auto& v : out) v = values(bits);
  return out;
}

double median(std::vector<double>& times) {
  std::nth_element(times.begin(), times.begin() + static_cast<Index>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

#ifdef FORETOKEN_WITH_ONEDNN
// y = x w^T in f32 or bf16 with weights in oneDNN's own layout; one call is one product.
class OneDnn {
 public:
  OneDnn(Index m, Index n, Index k, bool bf16) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using dnnl::memory;
    const auto type = bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc x({m, k}, type, memory::format_tag::ab),
        y({m, n}, memory::data_type::f32, memory::format_tag::ab);
    const memory::desc any({k, n}, type, memory::format_tag::any);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc description(engine_, x, any, y);
#else
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, any, y), engine_);
#endif
    product_ = dnnl::matmul(description);
    x_ = memory(x, engine_);
    y_ = memory(y, engine_);
    std::memset(x_.get_data_handle(), 0, x.get_size());
    for (int i = 0; i < kCopies; ++i) {
      weights_.emplace_back(description.weights_desc(), engine_);
      std::memset(weights_.back().get_data_handle(), 0x3c, description.weights_desc().get_size());
    }
  }
  void operator()(int copy) {
    product_.execute(stream_, {{DNNL_ARG_SRC, x_},
                               {DNNL_ARG_WEIGHTS, weights_[static_cast<std::size_t>(copy)]},
                               {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  dnnl::memory x_, y_;
  std::vector<dnnl::memory> weights_;
};
#endif

void product(benchmark::State& state, Storage storage) {
  const Index m = state.range(0);
  const Kernels& kernels = *cpu_kernels();
  Threads threads(static_cast<int>(state.range(1)));
  const auto w = normal(kSide), x = normal(static_cast<std::size_t>(m * kSide));
  std::vector<float> y(static_cast<std::size_t>(m * kSide));
  const std::size_t bytes = kernels.packed_bytes(storage, kSide, kSide);
  std::vector<Aligned> memory;
  std::vector<Matrix> matrices;
  for (int i = 0; i < kCopies; ++i) {
    memory.emplace_back(bytes);
    matrices.push_back(kernels.pack(
        storage, kSide, kSide, [&](Index, float* out) { std::copy(w.begin(), w.end(), out); },
        memory.back().data()));
  }
  Aligned scratch(kernels.gemm_scratch(matrices[0], m));
#ifdef FORETOKEN_WITH_ONEDNN
  const bool compared = storage == Storage::kF32 || storage == Storage::kBf16;
  OneDnn theirs(m, kSide, kSide, storage == Storage::kBf16);
  std::vector<double> other;
#endif
  std::vector<double> mine;
  int copy = 0;
  for (auto _ : state) {
    const double start = now();
    kernels.gemm(matrices[static_cast<std::size_t>(copy)], x.data(), kSide, m, nullptr, false, y.data(),
                 kSide, scratch.data(), threads);
    const double end = now();
    mine.push_back(end - start);
    state.SetIterationTime(end - start);
#ifdef FORETOKEN_WITH_ONEDNN
    if (compared) {
      theirs(copy);
      other.push_back(now() - end);
    }
#endif
    copy = (copy + 1) % kCopies;
  }
  const double seconds = median(mine);
  state.counters["GB/s"] = static_cast<double>(bytes) / seconds / 1e9;
  state.counters["GFLOP/s"] = 2.0 * static_cast<double>(m * kSide * kSide) / seconds / 1e9;
#ifdef FORETOKEN_WITH_ONEDNN
  if (compared) state.counters["of_oneDNN"] = median(other) / seconds;  // its threads: OMP_NUM_THREADS
#endif
}

void memory_read(benchmark::State& state) {
  Threads threads(static_cast<int>(state.range(0)));
  constexpr Index kWords = Index{1} << 24, kShare = 1 << 16;
  const std::vector<std::uint64_t> words(kWords, 1);
  std::vector<std::uint64_t> sums(kWords / kShare);
  std::vector<double> times;
  for (auto _ : state) {
    const double start = now();
    threads.run(kWords / kShare, [&](Index i) {
      std::uint64_t s[32] = {};
      for (Index j = i * kShare; j < (i + 1) * kShare; j += 32)
        for (Index l = 0; l < 32; ++l) s[l] += words[static_cast<std::size_t>(j + l)];
      for (Index l = 1; l < 32; ++l) s[0] += s[l];
      sums[static_cast<std::size_t>(i)] = s[0];
    });
    times.push_back(now() - start);
    state.SetIterationTime(times.back());
    benchmark::DoNotOptimize(sums.data());
  }
  state.counters["GB/s"] = static_cast<double>(kWords) * 8 / median(times) / 1e9;
}

// new tokens (1: decode) of each of `sequences` over `cached`, 32 query heads on 8 of 128 dims.
void attention(benchmark::State& state, Storage storage) {
  const Index sequences = state.range(0), cached = state.range(1), fresh = state.range(2),
              tokens = cached + fresh;
  constexpr Index kHeads = 32, kKvHeads = 8, kDim = 128;
  const Kernels& kernels = *cpu_kernels();
  Threads threads(static_cast<int>(state.range(3)));
  const Index blocks = (tokens + 15) / 16, slots = sequences * blocks * 16 * kKvHeads;
  Aligned keys(static_cast<std::size_t>(slots * kDim * 4)),
      values(static_cast<std::size_t>(slots * kDim * 4));
  std::vector<float> key_scales(static_cast<std::size_t>(slots)), value_scales(key_scales);
  const CacheLayer cache{
      storage, 16, kKvHeads, kDim, kDim, keys.data(), values.data(), key_scales.data(), value_scales.data()};
  std::vector<std::int32_t> table(static_cast<std::size_t>(sequences * blocks));
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
  const auto kv = normal(static_cast<std::size_t>(tokens * kKvHeads * kDim));
  std::vector<SequenceRows> rows;
  for (Index i = 0; i < sequences; ++i) {
    const SequenceRows all{0, tokens, 0, table.data() + i * blocks};
    kernels.cache_write(cache, {&all, 1}, kv.data(), kKvHeads * kDim, kv.data(), kKvHeads * kDim);
    rows.push_back({i * fresh, fresh, cached, all.blocks});
  }
  const AttentionArgs args{kHeads, kDim, kDim, 0.088f};
  const auto q = normal(static_cast<std::size_t>(sequences * fresh * kHeads * kDim));
  std::vector<float> out(q.size());
  Aligned scratch(kernels.attention_scratch(args, cache, sequences * fresh, tokens, threads.count()));
  std::vector<double> times;
  for (auto _ : state) {
    const double start = now();
    kernels.attention(args, cache, rows, q.data(), kHeads * kDim, out.data(), kHeads * kDim, scratch.data(),
                      threads);
    times.push_back(now() - start);
    state.SetIterationTime(times.back());
  }
  const double seconds = median(times), width = storage == Storage::kF32    ? 4
                                                : storage == Storage::kInt8 ? 1
                                                                            : 2;
  const double pairs = static_cast<double>(sequences * fresh) *
                       (static_cast<double>(cached) + 0.5 * static_cast<double>(fresh + 1));
  state.counters["GB/s"] =
      static_cast<double>(sequences * tokens * kKvHeads * kDim * 2) * width / seconds / 1e9;
  state.counters["GFLOP/s"] = pairs * 4 * kHeads * kDim / seconds / 1e9;
}

void products(benchmark::internal::Benchmark* b) {
  for (const Index threads : {1, 2})
    for (const Index m : {1, 8, 64, 512}) b->Args({m, threads});
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}
BENCHMARK_CAPTURE(product, f32, Storage::kF32)->Apply(products);
BENCHMARK_CAPTURE(product, bf16, Storage::kBf16)->Apply(products);
BENCHMARK_CAPTURE(product, f16, Storage::kF16)->Apply(products);
BENCHMARK_CAPTURE(product, int8, Storage::kInt8)->Apply(products);
BENCHMARK_CAPTURE(product, int4, Storage::kInt4)->Apply(products);
BENCHMARK_CAPTURE(product, fp8, Storage::kFp8)->Apply(products);
BENCHMARK(memory_read)->Arg(1)->Arg(2)->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);

void contexts(benchmark::internal::Benchmark* b) {
  for (const Index threads : {1, 2}) {
    b->Args({16, 2048, 1, threads});
    b->Args({1, 0, 1024, threads});
  }
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}
BENCHMARK_CAPTURE(attention, f32, Storage::kF32)->Apply(contexts);
BENCHMARK_CAPTURE(attention, bf16, Storage::kBf16)->Apply(contexts);
BENCHMARK_CAPTURE(attention, int8, Storage::kInt8)->Apply(contexts);

}  // namespace
}  // namespace foretoken
