// The executor's kernels on this processor: matrix products by storage and rows, attention, and what the same
// threads read from memory. Where oneDNN is there, the same product through it and the ratio of the two: for
// bfloat16 once with the float32 inputs that a transformer's activations are, which either rounds
// (of_oneDNN), and once with inputs that lie rounded before oneDNN starts, while ours round theirs
// (of_oneDNN_rounded). Decoding attention is divided by what was read between its runs.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "benchmarks/memory_reader.h"
#include "executor/arena.h"
#include "executor/kernels.h"
#include "executor/storage.h"
#if defined(__linux__)
#include <time.h>
#endif
#ifdef FORETOKEN_WITH_ONEDNN
#include <dnnl.hpp>
#include <unordered_map>
#endif

namespace foretoken {
namespace {

using Index = std::int64_t;
constexpr int kCopies = 4;  // of the weights, in turn: more than a cache holds

// As the executor holds weights and caches.
struct Aligned {
  Arena arena;
  std::byte* at;
  explicit Aligned(std::size_t size) : arena(size + 64), at(arena.bytes(size)) { std::memset(at, 0, size); }
  std::byte* data() { return at; }
};

std::vector<float> normal(std::size_t count) {
  std::mt19937 bits(1);
  std::normal_distribution<float> values;
  std::vector<float> out(count);
  for (auto& v : out) v = values(bits);
  return out;
}

// Seconds that count where others share the processors: this thread's own, if it works alone.
double busy(const Threads& threads) {
#if defined(__linux__)
  timespec t;
  if (threads.count() == 1 && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0)
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#endif
  return now();
}

double median(std::vector<double>& times) {
  std::nth_element(times.begin(), times.begin() + static_cast<Index>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

#ifdef FORETOKEN_WITH_ONEDNN
// y = x w^T in f32 or bf16 with weights in oneDNN's own layout; one call is one product.
class OneDnn {
 public:
  OneDnn(Index m, Index n, Index k, bool bf16, const float* inputs)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
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
    const auto held = [&](const memory::desc& d) {
      held_.emplace_back(d.get_size());
      return memory(d, engine_, held_.back().data());
    };
    x_ = held(x);
    y_ = held(y);
    floats_ = held(memory::desc({m, k}, memory::data_type::f32, memory::format_tag::ab));
    std::copy(inputs, inputs + m * k, static_cast<float*>(floats_.get_data_handle()));
    to_inputs_ = dnnl::reorder(floats_, x_);
    take_inputs();
    for (int i = 0; i < kCopies; ++i) {
      weights_.push_back(held(description.weights_desc()));
      std::memset(weights_.back().get_data_handle(), 0x3c, description.weights_desc().get_size());
    }
  }
  void take_inputs() {  // from float32
    to_inputs_.execute(stream_, floats_, x_);
    stream_.wait();
  }
  void multiply(int copy) {
    product_.execute(stream_, {{DNNL_ARG_SRC, x_},
                               {DNNL_ARG_WEIGHTS, weights_[static_cast<std::size_t>(copy)]},
                               {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  dnnl::reorder to_inputs_;
  std::vector<Aligned> held_;
  dnnl::memory floats_, x_, y_;
  std::vector<dnnl::memory> weights_;
};
#endif

// m rows by an n x k matrix.
void product(benchmark::State& state, Storage storage) {
  const Index m = state.range(0), n = state.range(2), k = state.range(3);
  const Kernels& kernels = *cpu_kernels();
  Threads threads(static_cast<int>(state.range(1)));
  const auto w = normal(static_cast<std::size_t>(k)), values = normal(static_cast<std::size_t>(m * k));
  Aligned inputs(values.size() * 4), outputs(static_cast<std::size_t>(m * n * 4));
  auto *x = reinterpret_cast<float*>(inputs.data()), *y = reinterpret_cast<float*>(outputs.data());
  std::copy(values.begin(), values.end(), x);
  const std::size_t bytes = kernels.packed_bytes(storage, n, k);
  std::vector<Aligned> memory;
  std::vector<Matrix> matrices;
  for (int i = 0; i < kCopies; ++i) {
    memory.emplace_back(bytes);
    matrices.push_back(kernels.pack(
        storage, n, k, [&](Index, float* out) { std::copy(w.begin(), w.end(), out); }, memory.back().data()));
  }
  Aligned scratch(kernels.gemm_scratch(matrices[0], m));
#ifdef FORETOKEN_WITH_ONEDNN
  const bool bf16 = storage == Storage::kBf16, compared = bf16 || storage == Storage::kF32;
  OneDnn theirs(m, n, k, bf16, x);
  std::vector<double> other, rounded;
#endif
  std::vector<double> mine;
  int copy = 0;
  const auto once = [&] {
    const double start = busy(threads);
    kernels.gemm(matrices[static_cast<std::size_t>(copy)], x, k, m, nullptr, false, y, n, scratch.data(),
                 threads);
    mine.push_back(busy(threads) - start);
#ifdef FORETOKEN_WITH_ONEDNN
    if (compared) {
      const double begin = busy(threads);
      if (bf16) theirs.take_inputs();
      const double taken = busy(threads);
      theirs.multiply(copy);
      const double end = busy(threads);
      other.push_back(end - begin);
      rounded.push_back(end - taken);
    }
#endif
    copy = (copy + 1) % kCopies;
    return mine.back();
  };
  for (auto _ : state) state.SetIterationTime(once());
  while (mine.size() < 9) once();  // for a median, however long one takes
  const double seconds = median(mine);
  state.counters["GB/s"] = static_cast<double>(bytes) / seconds / 1e9;
  state.counters["GFLOP/s"] = 2.0 * static_cast<double>(m * n * k) / seconds / 1e9;
#ifdef FORETOKEN_WITH_ONEDNN
  if (compared) state.counters["of_oneDNN"] = median(other) / seconds;  // its threads: OMP_NUM_THREADS
  if (bf16) state.counters["of_oneDNN_rounded"] = median(rounded) / seconds;
#endif
}

void memory_read(benchmark::State& state) {
  Threads threads(static_cast<int>(state.range(0)));
  MemoryReader reader;
  std::vector<double> rates;
  for (auto _ : state) {
    const double start = now();
    rates.push_back(reader.read(threads));
    state.SetIterationTime(now() - start);
  }
  state.counters["GB/s"] = median(rates) / 1e9;
}

// new tokens (1: decode) of each of `sequences` over `cached`, 32 query heads on 8.
void attention(benchmark::State& state, Storage storage, Index dim) {
  const Index sequences = state.range(0), cached = state.range(1), fresh = state.range(2),
              tokens = cached + fresh;
  constexpr Index kHeads = 32, kKvHeads = 8;
  const Kernels& kernels = *cpu_kernels();
  Threads threads(static_cast<int>(state.range(3)));
  const Index blocks = (tokens + 15) / 16, slots = sequences * blocks * 16 * kKvHeads;
  Aligned keys(static_cast<std::size_t>(slots * dim * 4)), values(static_cast<std::size_t>(slots * dim * 4));
  std::vector<float> key_scales(static_cast<std::size_t>(slots)), value_scales(key_scales);
  const CacheLayer cache{
      storage, 16, kKvHeads, dim, dim, keys.data(), values.data(), key_scales.data(), value_scales.data()};
  std::vector<std::int32_t> table(static_cast<std::size_t>(sequences * blocks));
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
  const auto kv = normal(static_cast<std::size_t>(tokens * kKvHeads * dim));
  std::vector<SequenceRows> rows;
  for (Index i = 0; i < sequences; ++i) {
    const SequenceRows all{0, tokens, 0, table.data() + i * blocks};
    kernels.cache_write(cache, std::span(&all, 1), kv.data(), kKvHeads * dim, kv.data(), kKvHeads * dim);
    rows.push_back({i * fresh, fresh, cached, all.blocks});
  }
  const AttentionArgs args{kHeads, dim, dim, 0.088f};
  const auto q = normal(static_cast<std::size_t>(sequences * fresh * kHeads * dim));
  std::vector<float> out(q.size());
  Aligned scratch(kernels.attention_scratch(args, cache, sequences * fresh, tokens, threads.count()));
  std::vector<double> times, memory;
  MemoryReader reader;
  for (auto _ : state) {
    if (fresh == 1) memory.push_back(reader.read(threads));
    const double start = now();
    kernels.attention(args, cache, std::span<const SequenceRows>(rows), q.data(), kHeads * dim, out.data(),
                      kHeads * dim, scratch.data(), threads);
    times.push_back(now() - start);
    state.SetIterationTime(times.back());
  }
  const double seconds = median(times), width = storage == Storage::kF32                                ? 4
                                                : storage == Storage::kInt8 || storage == Storage::kFp8 ? 1
                                                                                                        : 2;
  const double pairs = static_cast<double>(sequences * fresh) *
                       (static_cast<double>(cached) + 0.5 * static_cast<double>(fresh + 1));
  const double rate = static_cast<double>(sequences * tokens * kKvHeads * dim * 2) * width / seconds;
  state.counters["GB/s"] = rate / 1e9;
  state.counters["GFLOP/s"] = pairs * 4 * kHeads * static_cast<double>(dim) / seconds / 1e9;
  if (fresh == 1) state.counters["of_memory"] = rate / median(memory);
}

void products(benchmark::internal::Benchmark* b) {
  for (const Index threads : {1, 2})
    for (const Index m : {1, 8, 64, 512}) b->Args({m, threads, 4096, 4096});
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}
// The matrices of a Llama of 1B, at rows from decoding to prompts.
void llama(benchmark::internal::Benchmark* b) {
  for (const Index m : {1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024})
    for (const auto& [n, k] :
         {std::pair<Index, Index>{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}})
      b->Args({m, 1, n, k});
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.1);
}
BENCHMARK_CAPTURE(product, llama_bf16, Storage::kBf16)->Apply(llama);
BENCHMARK_CAPTURE(product, llama_f32, Storage::kF32)->Apply(llama);
BENCHMARK_CAPTURE(product, f32, Storage::kF32)->Apply(products);
BENCHMARK_CAPTURE(product, bf16, Storage::kBf16)->Apply(products);
BENCHMARK_CAPTURE(product, f16, Storage::kF16)->Apply(products);
BENCHMARK_CAPTURE(product, int8, Storage::kInt8)->Apply(products);
BENCHMARK_CAPTURE(product, int4, Storage::kInt4)->Apply(products);
BENCHMARK_CAPTURE(product, fp8, Storage::kFp8)->Apply(products);
BENCHMARK_CAPTURE(product, fp8_block, Storage::kFp8Block)->Apply(products);
BENCHMARK(memory_read)->Arg(1)->Arg(2)->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);

void contexts(benchmark::internal::Benchmark* b) {
  for (const Index threads : {1, 2}) {
    b->Args({16, 2048, 1, threads});
    b->Args({1, 0, 1024, threads});
  }
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}
BENCHMARK_CAPTURE(attention, bf16_64, Storage::kBf16, 64)->Apply(contexts);
BENCHMARK_CAPTURE(attention, bf16_128, Storage::kBf16, 128)->Apply(contexts);
BENCHMARK_CAPTURE(attention, f32_128, Storage::kF32, 128)->Apply(contexts);
BENCHMARK_CAPTURE(attention, f16_128, Storage::kF16, 128)->Apply(contexts);
BENCHMARK_CAPTURE(attention, int8_128, Storage::kInt8, 128)->Apply(contexts);
BENCHMARK_CAPTURE(attention, fp8_128, Storage::kFp8, 128)->Apply(contexts);

}  // namespace
}  // namespace foretoken
