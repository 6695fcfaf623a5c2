// What the programs of cuda_benchmark share: data in the kernels' memory, copies of weights and caches that
// no cache of the device holds, and how a time is made (cuda_benchmark.cpp).
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "benchmarks/chosen_kernels.h"
#include "executor/arena.h"
#include "executor/cuda/clocks.h"
#include "executor/kernels_shared.h"

namespace foretoken::cuda_benchmark {

using Index = std::int64_t;
using benchmark::State;

inline constexpr int kLeastLaunches = 20;
inline constexpr double kL2Times = 5;

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Bench {
  explicit Bench(const ChosenKernels& b)
      : kernels(*b.kernels),
        working_set(static_cast<std::size_t>(kL2Times * (b.device ? double(b.device->l2_bytes) : 4e6))),
        clocks(b.device ? b.device->pci_bus_id : ""),
        graphs(kernels.graphs()),
        stopwatch(kernels.stopwatch()),
        ahead(b.device ? std::min<std::size_t>(std::size_t{4} << 30, b.device->memory_bytes / 16) : 1 << 20,
              kernels.memory()) {
    ahead_at = ahead.bytes(ahead.size());
    if (const char* text = std::getenv("FORETOKEN_BENCHMARK_SECONDS")) seconds = std::atof(text);
  }
  const Kernels& kernels;
  std::size_t working_set;  // bytes that no cache holds
  cuda::ClockReader clocks;
  std::unique_ptr<StepGraphs> graphs;
  std::unique_ptr<KernelStopwatch> stopwatch;
  // Cleared before launches that aren't recorded: two milliseconds in which the host gets ahead.
  Arena ahead;
  std::byte* ahead_at = nullptr;
  Threads threads{1};
  double seconds = 0.15;
  std::uint64_t next_recording = 1;
};
inline Bench* bench = nullptr;
inline const Kernels& kernels() { return bench->kernels; }
inline const KernelMemory& memory() { return bench->kernels.memory(); }

// ---- data ----

// A million normal values, again and again.
inline void fill_normal(float* out, Index count, std::uint64_t first, float deviation) {
  static const std::vector<float> values = [] {
    std::mt19937 bits(1);
    std::normal_distribution<float> normal;
    std::vector<float> v(1 << 20);
    for (float& x : v) x = normal(bits);
    return v;
  }();
  std::uint64_t at = first * 0x9e3779b97f4a7c15u >> 44;
  for (Index i = 0; i < count; ++i, at = (at + 1) & (values.size() - 1)) out[i] = deviation * values[at];
}

// In the kernels' memory.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(Index count)
      : arena_(bytes_of(count) + 64, memory()), data_(arena_.bytes(bytes_of(count))) {}
  explicit Array(const std::vector<T>& values) : Array(static_cast<Index>(values.size())) {
    memory().copy(data_, values.data(), values.size() * sizeof(T));
  }
  T* data() const { return reinterpret_cast<T*>(data_); }
  operator T*() const { return data(); }

 private:
  static std::size_t bytes_of(Index count) { return static_cast<std::size_t>(count) * sizeof(T); }
  Arena arena_;
  std::byte* data_ = nullptr;
};

inline Array<float> normal(Index count, std::uint64_t first = 1) {
  constexpr Index kChunk = 1 << 20;
  Array<float> out(count);
  std::vector<float> chunk(static_cast<std::size_t>(std::min(count, kChunk)));
  for (Index at = 0; at < count; at += kChunk) {
    const Index n = std::min(kChunk, count - at);
    fill_normal(chunk.data(), n, first + static_cast<std::uint64_t>(at / kChunk), 1);
    memory().copy(out.data() + at, chunk.data(), static_cast<std::size_t>(n) * sizeof(float));
  }
  return out;
}

inline Matrix packed(Storage storage, Index n, Index k, std::byte* where) {
  return kernels().pack(
      storage, n, k,
      [&](Index row, float* out) { fill_normal(out, k, static_cast<std::uint64_t>(row), 0.02f); }, where);
}

inline int copies_of(std::size_t bytes) {
  return static_cast<int>(std::clamp<std::size_t>((bench->working_set + bytes - 1) / bytes, 1, 128));
}

// ---- times ----

// `count` launches of one kind, which may be recorded.
class Region {
 public:
  Region(int count, std::function<void(int)> launch, bool record = true)
      : count_(std::max(count, kLeastLaunches)), launch_(std::move(launch)) {
    issue();  // whatever is made, chosen or loaded at a first time
    memory().wait();
    if (!record || !bench->graphs) return;
    recording_ = bench->next_recording++;
    try {
      bench->graphs->run(recording_, [this] { issue(); });
      memory().wait();
    } catch (const std::exception& e) {
      std::cerr << "not recorded: " << e.what() << "\n";
      recording_ = 0;
    }
  }
  double run() {  // seconds of a launch
    if (!recorded()) memory().clear(bench->ahead_at, bench->ahead.size());
    bench->stopwatch->restart();
    const int from = bench->stopwatch->mark();
    start();
    const int to = bench->stopwatch->mark();
    memory().wait();
    return bench->stopwatch->seconds(from, to) / count_;
  }
  void start() {
    if (recorded())
      bench->graphs->run(recording_, [this] { issue(); });
    else
      issue();
  }
  int count() const { return count_; }
  bool recorded() const { return recording_ > 0; }

 private:
  void issue() {
    for (int i = 0; i < count_; ++i) launch_(i);
  }
  int count_;
  std::function<void(int)> launch_;
  std::uint64_t recording_ = 0;
};

inline double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<std::size_t>(std::lround(q * static_cast<double>(v.size() - 1)))];
}

inline void add_clocks(State& state, const cuda::Clocks& c, const std::string& when) {
  if (c.sm_mhz) state.counters["sm_mhz" + when] = *c.sm_mhz;
  if (c.memory_mhz) state.counters["memory_mhz" + when] = *c.memory_mhz;
  if (c.power_w) state.counters["watt" + when] = *c.power_w;
  if (c.temperature_c) state.counters["celsius" + when] = *c.temperature_c;
  if (c.throttle_reasons) state.counters["throttle" + when] = static_cast<double>(*c.throttle_reasons);
}

// Measures what the loop of the benchmark is about; the median.
inline double measure(State& state, Region& region, double seconds = bench->seconds) {
  std::vector<double> times;
  for (auto _ : state) {
    const cuda::Clocks before = bench->clocks.read();
    region.run();
    const double end = now() + seconds;
    while (times.size() < 5 || now() < end) times.push_back(region.run());
    state.SetIterationTime(quantile(times, 0.5));
    add_clocks(state, before, "_before");
  }
  const double median = quantile(times, 0.5);
  // Clocks are read while the device is at work.
  if (bench->clocks.available()) {
    const double each = std::max(1e-6, median * region.count());
    for (int i = 0; i < std::clamp(static_cast<int>(0.03 / each), 1, 200); ++i) region.start();
    add_clocks(state, bench->clocks.read(), "");
    memory().wait();
  }
  state.counters["us"] = 1e6 * median;
  state.counters["spread"] = (quantile(times, 0.9) - quantile(times, 0.1)) / 2 / median;
  state.counters["regions"] = static_cast<double>(times.size());
  state.counters["launches"] = region.count();
  state.counters["recorded"] = region.recorded();
  return median;
}
inline double measure(State& state, int count, std::function<void(int)> launch, bool record = true) {
  Region region(count, std::move(launch), record);
  return measure(state, region);
}

inline void add_bytes(State& state, double bytes, double seconds) {
  state.counters["TB/s"] = bytes / seconds / 1e12;
}
inline void add_flops(State& state, double flops, double seconds) {
  state.counters["TFLOP/s"] = flops / seconds / 1e12;
}

// ---- weights and caches ----

inline const std::map<Storage, std::string> kFormats = {{Storage::kBf16, "bfloat16"},
                                                        {Storage::kFp8, "fp8"},
                                                        {Storage::kFp8Block, "fp8_block"},
                                                        {Storage::kInt8, "int8"},
                                                        {Storage::kInt4, "int4"}};

// A matrix several times, packed once.
struct Weights {
  Weights(Storage s, Index rows, Index columns)
      : storage(s), n(rows), k(columns), bytes(kernels().packed_bytes(s, n, k)) {
    const int copies = copies_of(bytes);
    arena = Arena(Arena::padded(bytes) * static_cast<std::size_t>(copies), memory());
    for (int i = 0; i < copies; ++i) {
      std::byte* const at = arena.bytes(bytes);
      if (i == 0) {
        matrices.push_back(packed(storage, n, k, at));
      } else {
        memory().copy(at, matrices[0].packed, bytes);
        matrices.push_back(matrices[0]);
        matrices.back().packed = at;
      }
    }
  }
  const Matrix& operator[](int i) const { return matrices[static_cast<std::size_t>(i) % matrices.size()]; }
  int count() const { return static_cast<int>(matrices.size()); }
  Storage storage;
  Index n, k;
  std::size_t bytes;
  Arena arena;
  std::vector<Matrix> matrices;
};

// Those of one matrix are kept: its rows follow each other, and formats are compared with bfloat16.
inline std::vector<std::shared_ptr<const Weights>> known_weights;

inline std::shared_ptr<const Weights> weights(Storage storage, Index n, Index k) {
  auto& known = known_weights;
  const auto at = std::find_if(known.begin(), known.end(), [&](const auto& w) {
    return w->storage == storage && w->n == n && w->k == k;
  });
  if (at != known.end()) return *at;
  std::erase_if(known, [&](const auto& w) { return w->n != n || w->k != k; });
  if (known.size() > 1) known.pop_back();  // bfloat16 comes first and stays
  known.push_back(std::make_shared<Weights>(storage, n, k));
  return known.back();
}

// A paged cache of `sequences` of `length` tokens, several times, in blocks that lie anywhere.
class Cached {
 public:
  Cached(Storage storage, Index heads, Index k_dim, Index v_dim, Index sequences, Index length, Index fresh,
         int most_copies = 128) {
    constexpr int kBlock = 16;
    const Index each = (length + kBlock - 1) / kBlock;
    bytes_ = static_cast<std::size_t>(sequences * length * heads * (k_dim + v_dim) * cache_width(storage));
    if (storage == Storage::kInt8 || storage == Storage::kFp8)
      bytes_ += static_cast<std::size_t>(sequences * length * heads * (v_dim > 0 ? 8 : 4));
    copies_ = std::min(copies_of(bytes_), most_copies);
    const Index blocks = copies_ * sequences * each, slots = blocks * heads * kBlock;
    keys_ = Array<std::byte>(slots * k_dim * cache_width(storage));
    layer = {storage, kBlock, heads, k_dim, v_dim, keys_};
    if (v_dim > 0) layer.values = (values_ = Array<std::byte>(slots * v_dim * cache_width(storage)));
    if (storage == Storage::kInt8 || storage == Storage::kFp8) {
      layer.key_scales = (key_scales_ = Array<float>(slots));
      if (v_dim > 0) layer.value_scales = (value_scales_ = Array<float>(slots));
    }
    std::vector<std::int32_t> table(static_cast<std::size_t>(blocks));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(2));
    table_ = Array<std::int32_t>(table);
    write(blocks * kBlock);
    for (Index i = 0; i < copies_ * sequences; ++i)
      rows_.push_back({i % sequences * fresh, fresh, length - fresh, table_ + i * each});
    own_ = Array<SequenceRows>(rows_);
    sequences_ = static_cast<std::size_t>(sequences);
  }
  Sequences operator[](int i) const {
    return Sequences(rows_, own_).part(static_cast<std::size_t>(i % copies_) * sequences_, sequences_);
  }
  int copies() const { return copies_; }
  double bytes() const { return static_cast<double>(bytes_); }  // of one copy
  CacheLayer layer;

 private:
  void write(Index tokens) {
    const Index chunk = std::min<Index>(tokens, 4096);
    const Index k = layer.heads * layer.k_dim, v = layer.heads * layer.v_dim;
    const Array<float> keys = normal(chunk * k, 3), values = v > 0 ? normal(chunk * v, 4) : Array<float>();
    for (Index at = 0; at < tokens; at += chunk) {
      const SequenceRows all{0, std::min(chunk, tokens - at), 0, table_ + at / layer.block_size};
      const Array<SequenceRows> own(std::vector<SequenceRows>{all});
      kernels().cache_write(layer, {{&all, 1}, own}, keys, k, values, v);
      memory().wait();
    }
  }
  std::size_t bytes_ = 0, sequences_ = 0;
  int copies_ = 1;
  Array<std::byte> keys_, values_;
  Array<float> key_scales_, value_scales_;
  Array<std::int32_t> table_;
  std::vector<SequenceRows> rows_;
  Array<SequenceRows> own_;
};

// ---- rows ----

template <class F>
void row(const std::string& name, F f) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [f](State& state) {
                                 try {
                                   f(state);
                                 } catch (const std::exception& e) {
                                   state.SkipWithError(e.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMicrosecond);
}
inline std::string number(const char* what, Index n) {
  return "/" + std::string(what) + ":" + std::to_string(n);
}

// Of each part, and what it kept of the device's memory.
void register_machine();
void register_products();
void register_attention();
void register_experts();
void register_small();
void release_experts();

}  // namespace foretoken::cuda_benchmark
