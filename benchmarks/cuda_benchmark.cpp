// The executor's kernels on a CUDA device, as the executor launches them (activations in float32): products
// by format and rows, attention of decoding and of prompts, latent attention, experts, the small operators,
// sampling, copies, launches. Without a device it says so and ends well.
//
// How a time is made: launches go around copies of weights and caches that hold more than five times the L2
// cache together; at least 20 of them lie between two marks, recorded and run as one, so that the host's time
// a launch is left out (`launches` measures that); it is the median of many such regions, `spread` half of
// their 10th to 90th percentile over it. Activations are normal, weights normal with a deviation of 0.02.
// Each row says the clocks, power and heat before it and while its launches run (NVML).
//
// FORETOKEN_BENCHMARK_BACKEND=cpu runs the processor's kernels instead: to try this program, not to compare.
// FORETOKEN_BENCHMARK_SECONDS is the time a row is measured for (0.15). --describe prints the device and its
// clocks, and ends.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/chosen_kernels.h"
#include "executor/arena.h"
#include "executor/cuda/clocks.h"
#include "executor/kernels_shared.h"

namespace foretoken {
namespace {

using Index = std::int64_t;
using benchmark::State;

constexpr int kLeastLaunches = 20;
constexpr double kL2Times = 5;

double now() {
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
Bench* bench = nullptr;
const Kernels& kernels() { return bench->kernels; }
const KernelMemory& memory() { return bench->kernels.memory(); }

// ---- data ----

// A million normal values, again and again.
void fill_normal(float* out, Index count, std::uint64_t first, float deviation) {
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

Array<float> normal(Index count, std::uint64_t first = 1) {
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

Matrix packed(Storage storage, Index n, Index k, std::byte* where) {
  return kernels().pack(
      storage, n, k,
      [&](Index row, float* out) { fill_normal(out, k, static_cast<std::uint64_t>(row), 0.02f); }, where);
}

int copies_of(std::size_t bytes) {
  return static_cast<int>(std::clamp<std::size_t>((bench->working_set + bytes - 1) / bytes, 1, 128));
}

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
std::vector<std::shared_ptr<const Weights>> known_weights;

std::shared_ptr<const Weights> weights(Storage storage, Index n, Index k) {
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

double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<std::size_t>(std::lround(q * static_cast<double>(v.size() - 1)))];
}

void add_clocks(State& state, const cuda::Clocks& c, const std::string& when) {
  if (c.sm_mhz) state.counters["sm_mhz" + when] = *c.sm_mhz;
  if (c.memory_mhz) state.counters["memory_mhz" + when] = *c.memory_mhz;
  if (c.power_w) state.counters["watt" + when] = *c.power_w;
  if (c.temperature_c) state.counters["celsius" + when] = *c.temperature_c;
  if (c.throttle_reasons) state.counters["throttle" + when] = static_cast<double>(*c.throttle_reasons);
}

// Measures what the loop of the benchmark is about; the median.
double measure(State& state, Region& region, double seconds = bench->seconds) {
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
double measure(State& state, int count, std::function<void(int)> launch, bool record = true) {
  Region region(count, std::move(launch), record);
  return measure(state, region);
}

void add_bytes(State& state, double bytes, double seconds) {
  state.counters["TB/s"] = bytes / seconds / 1e12;
}
void add_flops(State& state, double flops, double seconds) {
  state.counters["TFLOP/s"] = flops / seconds / 1e12;
}

// ---- products ----

const std::map<Storage, std::string> kFormats = {
    {Storage::kBf16, "bfloat16"}, {Storage::kFp8, "fp8"}, {Storage::kInt8, "int8"}, {Storage::kInt4, "int4"}};

struct Shape {
  const char* name;
  Index n, k;
};
// Of a Llama of 8B.
constexpr Shape kMatrices[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};
constexpr Shape kHead = {"lm_head", 128256, 4096};

struct Product {
  Product(Storage storage, const Shape& s, Index rows)
      : w(weights(storage, s.n, s.k)),
        m(rows),
        x(normal(m * s.k)),
        y(m * s.n),
        scratch(static_cast<Index>(kernels().gemm_scratch((*w)[0], m))) {}
  void operator()(int i) const {
    kernels().gemm((*w)[i], x, w->k, m, nullptr, false, y, w->n, scratch, bench->threads);
  }
  double flops() const { return 2.0 * static_cast<double>(m * w->n * w->k); }
  std::shared_ptr<const Weights> w;
  Index m;
  Array<float> x, y;
  Array<std::byte> scratch;
};

// of_bf16: the speed over that of the same product in bfloat16, in turns.
void product(State& state, Storage storage, const Shape& shape, Index m) {
  const Product mine(storage, shape, m);
  Region region(mine.w->count(), std::cref(mine));
  const double seconds = measure(state, region);
  add_bytes(state, static_cast<double>(mine.w->bytes), seconds);
  add_flops(state, mine.flops(), seconds);
  if (storage == Storage::kBf16) return;
  const Product plain(Storage::kBf16, shape, m);
  Region other(plain.w->count(), std::cref(plain));
  std::vector<double> ratios;
  for (int i = 0; i < 7; ++i) ratios.push_back(other.run() / region.run());
  state.counters["of_bf16"] = quantile(ratios, 0.5);
}

// Three seconds without a pause: what heat and power leave of the speed after one of two seconds.
void sustained(State& state, Storage storage) {
  const Product mine(storage, kMatrices[2], 8192);
  Region region(mine.w->count(), std::cref(mine));
  std::this_thread::sleep_for(std::chrono::seconds(2));
  const double first = region.run();
  const double seconds = measure(state, region, 20 * bench->seconds);
  add_flops(state, mine.flops(), seconds);
  state.counters["first_TFLOP/s"] = mine.flops() / first / 1e12;
}

// ---- attention ----

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

struct Heads {
  Index heads, kv_heads, qk_dim, v_dim;
  bool latent = false;  // values are the first dims of the keys
};

// fresh: new tokens of each sequence, 1 in decoding.
void attend(State& state, Storage storage, const Heads& h, Index sequences, Index length, Index fresh) {
  const Cached cache(storage, h.kv_heads, h.qk_dim, h.latent ? 0 : h.v_dim, sequences, length, fresh,
                     fresh > 1 ? 4 : 128);
  const AttentionArgs args{h.heads, h.qk_dim, h.v_dim, 1 / std::sqrt(static_cast<float>(h.qk_dim))};
  const Index rows = sequences * fresh, width = h.heads * h.qk_dim;
  const Array<float> q = normal(rows * width), out(rows * h.heads * h.v_dim);
  const Array<std::byte> scratch(
      static_cast<Index>(kernels().attention_scratch(args, cache.layer, rows, length, 1)));
  const double seconds = measure(state, cache.copies(), [&](int i) {
    kernels().attention(args, cache.layer, cache[i], q, width, out, h.heads * h.v_dim, scratch,
                        bench->threads);
  });
  const double pairs = static_cast<double>(rows) *
                       (static_cast<double>(length - fresh) + 0.5 * static_cast<double>(fresh + 1));
  add_bytes(state, cache.bytes(), seconds);
  add_flops(state, pairs * 2 * static_cast<double>(h.heads * (h.qk_dim + h.v_dim)), seconds);
}

// ---- experts ----

struct Mixture {
  const char* name;
  Index hidden, inter, top_k, experts;
};
constexpr Mixture kMixtures[] = {{"mixtral-8x7b", 4096, 14336, 2, 8}, {"qwen3-30b-a3b", 2048, 768, 8, 128}};

// Which experts each row takes: alike often, or by a power law, whose busiest expert takes many times the
// mean.
std::vector<std::int32_t> choices(const Mixture& m, Index rows, bool skewed, unsigned seed) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<double> uniform(1e-12, 1);
  std::vector<std::pair<double, std::int32_t>> keys(static_cast<std::size_t>(m.experts));
  std::vector<std::int32_t> out;
  for (Index r = 0; r < rows; ++r) {
    for (Index e = 0; e < m.experts; ++e) {
      const double weight = skewed ? std::pow(static_cast<double>(e + 1), -1.2) : 1;
      // The largest of u^(1 / weight) are a weighted draw without putting back (Efraimidis and Spirakis).
      keys[static_cast<std::size_t>(e)] = {std::log(uniform(bits)) / weight, static_cast<std::int32_t>(e)};
    }
    std::partial_sort(keys.begin(), keys.begin() + m.top_k, keys.end(), std::greater<>());
    for (Index j = 0; j < m.top_k; ++j) out.push_back(keys[static_cast<std::size_t>(j)].second);
  }
  return out;
}

struct ExpertWeights {
  ExpertWeights(const Mixture& m, Storage storage) : mixture(&m) {
    const std::size_t up = kernels().packed_bytes(storage, 2 * m.inter, m.hidden),
                      down = kernels().packed_bytes(storage, m.hidden, m.inter);
    bytes = up + down;
    experts.stride = Arena::padded(up) + Arena::padded(down);
    experts.count = m.experts;
    arena = Arena(experts.stride * static_cast<std::size_t>(m.experts), memory());
    std::byte* const first = arena.bytes(arena.size());
    experts.gate_up = packed(storage, 2 * m.inter, m.hidden, first);
    experts.down = packed(storage, m.hidden, m.inter, first + Arena::padded(up));
    for (Index e = 1; e < m.experts; ++e)
      memory().copy(first + experts.stride * static_cast<std::size_t>(e), first, experts.stride);
  }
  const Mixture* mixture;
  std::size_t bytes = 0;  // of one
  Experts experts;
  Arena arena;
};

std::unique_ptr<ExpertWeights> known_experts;

// Gathering rows by expert, both products, the activation between them.
void run_experts(State& state, const Mixture& m, Storage storage, Index rows, bool skewed) {
  auto& kept = known_experts;
  if (!kept || kept->mixture != &m || kept->experts.down.storage != storage) {
    kept.reset();
    kept = std::make_unique<ExpertWeights>(m, storage);
  }
  constexpr int kDraws = 16;
  std::vector<Array<std::int32_t>> chosen;
  double read = 0;
  for (int i = 0; i < kDraws; ++i) {
    const auto drawn = choices(m, rows, skewed, static_cast<unsigned>(7 + i));
    std::vector<char> used(static_cast<std::size_t>(m.experts));
    for (const std::int32_t e : drawn) used[static_cast<std::size_t>(e)] = 1;
    read += static_cast<double>(std::accumulate(used.begin(), used.end(), 0)) / kDraws;
    chosen.emplace_back(drawn);
  }
  const Index pairs = rows * m.top_k;
  const Array<float> x = normal(rows * m.hidden), in(pairs * m.hidden), mid(pairs * 2 * m.inter),
                     act(pairs * m.inter), out(pairs * m.hidden);
  const Array<std::int32_t> place(pairs), order(pairs), begin(m.experts + 1);
  const Array<std::byte> scratch(static_cast<Index>(kernels().expert_scratch(kept->experts, pairs)));
  const ExpertRows to{in, mid, act, out, place, order, begin};
  const double seconds = measure(state, kDraws, [&](int i) {
    kernels().run_experts(kept->experts, {}, x, chosen[static_cast<std::size_t>(i % kDraws)], rows, m.top_k,
                          to, scratch, bench->threads);
  });
  state.counters["experts_read"] = read;
  add_bytes(state, read * static_cast<double>(kept->bytes), seconds);
  add_flops(state, 6.0 * static_cast<double>(pairs * m.inter * m.hidden), seconds);
}

// ---- small operators ----
// Their tensors are as warm as in a step: what one wrote the next one reads.

void norm(State& state, Index rows, bool added) {
  constexpr Index kWidth = 4096;
  const Array<float> x = normal(rows * kWidth), more = normal(rows * kWidth, 5), y(rows * kWidth),
                     weight = normal(kWidth, 6);
  NormArgs args;
  args.weight = weight;
  const double seconds = measure(state, kLeastLaunches, [&](int) {
    if (added)
      kernels().add_norm(args, more, rows, kWidth, x, y);
    else
      kernels().norm(args, x, kWidth, rows, kWidth, y, kWidth);
  });
  add_bytes(state, static_cast<double>(rows * kWidth) * 4 * (added ? 4 : 2), seconds);
}

void norm_heads(State& state, Index rows) {
  constexpr Index kHeads = 40, kDim = 128;
  const Array<float> x = normal(rows * kHeads * kDim), weight = normal(kDim, 6);
  NormArgs args;
  args.weight = weight;
  const double seconds = measure(
      state, kLeastLaunches, [&](int) { kernels().norm_heads(args, x, kHeads * kDim, rows, kHeads, kDim); });
  add_bytes(state, static_cast<double>(rows * kHeads * kDim) * 8, seconds);
}

// One sequence of `rows` new tokens, or as many that decode.
void rope_and_write(State& state, Index rows, bool decode) {
  constexpr Index kHeads = 32, kKvHeads = 8, kDim = 128, kStride = (kHeads + 2 * kKvHeads) * kDim;
  const Index length = decode ? 64 : rows;
  const Cached cache(Storage::kBf16, kKvHeads, kDim, kDim, decode ? rows : 1, length, decode ? 1 : rows, 1);
  std::vector<float> cosines, sines;
  for (Index p = 0; p < length; ++p)
    for (Index i = 0; i < kDim / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(5e5, -static_cast<double>(2 * i) / kDim);
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows), static_cast<std::int32_t>(length - 1));
  if (!decode) std::iota(positions.begin(), positions.end(), 0);
  const Array<float> c(cosines), s(sines), x = normal(rows * kStride);
  const Array<std::int32_t> at(positions);
  const double seconds = measure(state, kLeastLaunches, [&](int) {
    kernels().rope_and_write({c, s, kDim / 2, false}, {at.data(), positions.size()}, x, kHeads,
                             x + kHeads * kDim, x + (kHeads + kKvHeads) * kDim, kStride, cache.layer,
                             cache[0]);
  });
  add_bytes(state, static_cast<double>(rows * kDim) * (2 * kHeads * 4 + 2 * kKvHeads * (4 + 2)), seconds);
}

void activation(State& state, Index rows) {
  constexpr Index kWidth = 14336;
  const Array<float> x = normal(rows * 2 * kWidth), y(rows * kWidth);
  const double seconds =
      measure(state, kLeastLaunches, [&](int) { kernels().activation({}, x, rows, kWidth, y); });
  add_bytes(state, static_cast<double>(rows * kWidth) * 12, seconds);
}

void add(State& state, Index rows) {
  constexpr Index kWidth = 4096;
  const Array<float> x = normal(rows * kWidth), y = normal(rows * kWidth, 5);
  const double seconds = measure(state, kLeastLaunches, [&](int) { kernels().add(x, rows * kWidth, y); });
  add_bytes(state, static_cast<double>(rows * kWidth) * 12, seconds);
}

void route(State& state, Index rows) {
  constexpr Index kExperts = 128, kTopK = 8;
  const Array<float> logits = normal(rows * kExperts), routed(rows * kTopK);
  const Array<std::int32_t> chosen(rows * kTopK);
  RoutingArgs args;
  args.experts = kExperts, args.top_k = kTopK;
  measure(state, kLeastLaunches, [&](int) { kernels().route(args, logits, rows, chosen, routed); });
}

void embed(State& state, Index rows) {
  const auto w = weights(Storage::kBf16, 128256, 4096);
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < rows; ++i) ids.push_back(static_cast<std::int32_t>(i * 7919 % w->n));
  const Array<std::int32_t> at(ids);
  const Array<float> out(rows * w->k);
  const Array<std::byte> scratch(w->k * 4);
  measure(state, kLeastLaunches, [&](int) {
    kernels().embed((*w)[0], {at.data(), ids.size()}, 0, 1, false, out, scratch);
  });
}

// It answers to the host, so it isn't recorded, and the host's waiting is part of its time.
void sample(State& state, const SamplingArgs& args, Index rows) {
  constexpr Index kVocab = 128256;
  const Array<float> logits = normal(rows * kVocab);
  const Array<std::byte> scratch(static_cast<Index>(kernels().sampling_scratch(rows, kVocab)));
  const std::vector<double> uniforms(static_cast<std::size_t>(rows), 0.37);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows));
  const double seconds = measure(
      state, kLeastLaunches,
      [&](int) { kernels().sample(args, logits, kVocab, uniforms, tokens.data(), scratch); }, false);
  add_bytes(state, static_cast<double>(rows * kVocab) * 4, seconds);
}

// ---- copies and launches ----

enum class Way { kWithin, kClear, kIn, kOut };

// Within the device what is read and what is written both count.
void copy(State& state, Way way, std::size_t bytes) {
  Arena device(2 * Arena::padded(bytes), memory());
  Arena host(way == Way::kIn || way == Way::kOut ? bytes : 0, memory(), Arena::Place::kHost);
  std::byte *const a = device.bytes(bytes), *const b = device.bytes(bytes);
  std::byte* const pinned = host.size() > 0 ? host.bytes(bytes) : nullptr;
  const double seconds = measure(
      state, kLeastLaunches,
      [&](int i) {
        if (way == Way::kClear)
          memory().clear(a, bytes);
        else if (way == Way::kIn)
          memory().copy_later(a, pinned, bytes);
        else if (way == Way::kOut)
          memory().copy_later(pinned, a, bytes);
        else
          memory().copy_later(i % 2 == 0 ? a : b, i % 2 == 0 ? b : a, bytes);
      },
      false);
  const double rate = static_cast<double>(bytes) * (way == Way::kWithin ? 2 : 1) / seconds;
  state.counters["GB/s"] = rate / 1e9;
}

// From memory of the host that the system may move: copied twice, and waited for.
void copy_pageable(State& state, std::size_t bytes) {
  const Array<std::byte> device(static_cast<Index>(bytes));
  const std::vector<std::byte> host(bytes, std::byte{1});
  std::vector<double> times;
  for (auto _ : state) {
    for (int i = 0; i < 9; ++i) {
      const double start = now();
      memory().copy(device.data(), host.data(), bytes);
      times.push_back(now() - start);
    }
    state.SetIterationTime(quantile(times, 0.5));
  }
  state.counters["GB/s"] = static_cast<double>(bytes) / quantile(times, 0.5) / 1e9;
}

// `count` launches that do next to nothing. host_us: what the host takes to issue one, without waiting.
void launches(State& state, int count, bool recorded) {
  const Array<float> x = normal(128), y = normal(128);
  const auto issue = [&] {
    for (int i = 0; i < count; ++i) kernels().add(x, 128, y);
  };
  if (recorded && !bench->graphs) return state.SkipWithError("nothing is recorded on this backend");
  const std::uint64_t key = bench->next_recording++;
  const auto start = [&] { recorded ? bench->graphs->run(key, issue) : issue(); };
  start();
  memory().wait();
  std::vector<double> device, host, whole;
  for (auto _ : state) {
    for (int i = 0; i < 50; ++i) {
      bench->stopwatch->restart();
      const double begin = now();
      const int from = bench->stopwatch->mark();
      start();
      const int to = bench->stopwatch->mark();
      const double issued = now();
      memory().wait();
      whole.push_back((now() - begin) / count), host.push_back((issued - begin) / count);
      device.push_back(bench->stopwatch->seconds(from, to) / count);
    }
    state.SetIterationTime(quantile(device, 0.5));
  }
  state.counters["device_us"] = 1e6 * quantile(device, 0.5);
  state.counters["host_us"] = 1e6 * quantile(host, 0.5);
  state.counters["whole_us"] = 1e6 * quantile(whole, 0.5);  // with the wait at the end
}

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
std::string number(const char* what, Index n) { return "/" + std::string(what) + ":" + std::to_string(n); }

void register_products() {
  const auto add_row = [](Storage storage, const Shape& s, Index m) {
    row("product/" + kFormats.at(storage) + "/" + s.name + number("m", m),
        [=](State& state) { product(state, storage, s, m); });
  };
  for (const Shape& s : kMatrices) {
    for (const Index m : {1, 16, 64, 256, 1024, 4096, 8192}) add_row(Storage::kBf16, s, m);
    for (const Storage storage : {Storage::kFp8, Storage::kInt8, Storage::kInt4})
      for (const Index m : {1, 4, 16, 64, 256, 1024, 4096}) add_row(storage, s, m);
  }
  for (const Index m : {1, 16, 64, 256}) add_row(Storage::kBf16, kHead, m);
  for (const Index rows : {1, 64, 8192})
    row("embed" + number("rows", rows), [=](State& state) { embed(state, rows); });
  for (const Storage storage : {Storage::kBf16, Storage::kFp8})
    row("product_sustained/" + kFormats.at(storage), [=](State& state) { sustained(state, storage); });
}

void register_attention() {
  constexpr Heads kLlama{32, 8, 128, 128};
  for (const Storage storage : {Storage::kBf16, Storage::kFp8, Storage::kInt8})
    for (const Index sequences : {1, 8, 32, 64})
      for (const Index length : {1024, 4096, 16384}) {
        if (storage != Storage::kBf16 && length == 16384) continue;
        row("decode_attention/" + kFormats.at(storage) + number("batch", sequences) + number("kv", length),
            [=](State& state) { attend(state, storage, kLlama, sequences, length, 1); });
      }
  for (const Index length : {1024, 2048, 4096, 8192, 16384})
    row("prompt_attention/bfloat16" + number("length", length),
        [=](State& state) { attend(state, Storage::kBf16, kLlama, 1, length, length); });
  row("prompt_attention/bfloat16/cached:7680/length:8192",
      [=](State& state) { attend(state, Storage::kBf16, kLlama, 1, 8192, 512); });
  // A DeepSeek's prompt, whose latents were projected up, and its decoding over latents.
  row("prompt_attention/bfloat16_192_128/length:4096", [=](State& state) {
    attend(state, Storage::kBf16, {16, 16, 192, 128}, 1, 4096, 4096);
  });
  for (const Index heads : {16, 128})
    for (const Index sequences : {1, 32, 128})
      for (const Index length : {4096, 16384})
        row("latent_attention/bfloat16" + number("heads", heads) + number("batch", sequences) +
                number("kv", length),
            [=](State& state) {
              attend(state, Storage::kBf16, {heads, 1, 576, 512, true}, sequences, length, 1);
            });
}

void register_experts() {
  for (const Mixture& m : kMixtures)
    for (const Storage storage : {Storage::kBf16, Storage::kFp8})
      for (const Index rows : {1, 8, 64, 2048, 8192})
        for (const bool skewed : {false, true}) {
          if (skewed && (rows < 64 || storage != Storage::kBf16)) continue;
          row("experts/" + std::string(m.name) + "/" + kFormats.at(storage) + number("rows", rows) +
                  (skewed ? "/power_law" : ""),
              [&m, storage, rows, skewed](State& state) { run_experts(state, m, storage, rows, skewed); });
        }
  for (const Index rows : {1, 64, 8192})
    row("route" + number("rows", rows), [=](State& state) { route(state, rows); });
}

void register_small() {
  for (const Index rows : {1, 64, 8192}) {
    row("norm" + number("rows", rows), [=](State& state) { norm(state, rows, false); });
    row("add_norm" + number("rows", rows), [=](State& state) { norm(state, rows, true); });
    row("norm_heads" + number("rows", rows), [=](State& state) { norm_heads(state, rows); });
    row("activation" + number("rows", rows), [=](State& state) { activation(state, rows); });
    row("add" + number("rows", rows), [=](State& state) { add(state, rows); });
    row("rope_and_write" + number("rows", rows),
        [=](State& state) { rope_and_write(state, rows, rows < 8192); });
  }
  SamplingArgs top_k, top_p;
  top_k.temperature = 0.8f, top_k.top_k = 50;
  top_p.temperature = 0.8f, top_p.top_p = 0.9f;
  for (const Index rows : {1, 64, 256}) {
    row("sample/greedy" + number("rows", rows), [=](State& state) { sample(state, {}, rows); });
    row("sample/top_k" + number("rows", rows), [=](State& state) { sample(state, top_k, rows); });
    row("sample/top_p" + number("rows", rows), [=](State& state) { sample(state, top_p, rows); });
  }
}

void register_machine() {
  const auto copies = [](const char* name, Way way, std::initializer_list<int> kib) {
    for (const int n : kib)
      row("copy/" + std::string(name) + number("kib", n),
          [=](State& state) { copy(state, way, static_cast<std::size_t>(n) << 10); });
  };
  copies("within", Way::kWithin, {64, 1 << 10, 64 << 10, 1 << 20});
  copies("clear", Way::kClear, {64, 64 << 10, 1 << 20});
  copies("to_device", Way::kIn, {4, 64, 1 << 10, 64 << 10, 256 << 10});
  copies("to_host", Way::kOut, {4, 64, 1 << 10, 64 << 10, 256 << 10});
  row("copy/to_device_pageable/kib:65536", [](State& state) { copy_pageable(state, 64 << 20); });
  for (const int count : {1, 10, 100, 1000}) {
    row("launches/issued" + number("count", count), [=](State& state) { launches(state, count, false); });
    row("launches/recorded" + number("count", count), [=](State& state) { launches(state, count, true); });
  }
}

std::vector<std::pair<std::string, std::string>> facts(const cuda::DeviceProperties& d) {
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  std::vector<std::pair<std::string, std::string>> list{
      {"device", d.name},
      {"compute_capability",
       std::to_string(d.compute_capability / 10) + "." + std::to_string(d.compute_capability % 10)},
      {"multiprocessors", std::to_string(d.multiprocessors)},
      {"memory_bytes", std::to_string(d.memory_bytes)},
      {"l2_bytes", std::to_string(d.l2_bytes)},
      {"driver_cuda", version(d.driver_version)},
      {"runtime_cuda", version(d.runtime_version)}};
  const cuda::Clocks c = cuda::ClockReader(d.pci_bus_id).read();
  const auto add_if = [&](const char* key, const auto& value) {
    if (value) list.emplace_back(key, std::to_string(*value));
  };
  add_if("sm_mhz", c.sm_mhz), add_if("memory_mhz", c.memory_mhz), add_if("watt", c.power_w);
  add_if("celsius", c.temperature_c);
  if (c.throttle_reasons) list.emplace_back("throttle", cuda::throttle_text(*c.throttle_reasons));
  return list;
}

int describe() {
  const ChosenKernels backend = open_backend("cuda");
  if (!backend.device) std::cout << backend.why_not << "\n";
  if (backend.device)
    for (const auto& [key, value] : facts(*backend.device)) std::cout << key << ": " << value << "\n";
  return 0;
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using namespace foretoken;
  if (count == 2 && std::string(arguments[1]) == "--describe") return describe();
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  const ChosenKernels backend = open_backend(wanted_backend("cuda"));
  if (backend.kernels == nullptr) {
    std::cerr << backend.why_not << "; nothing was measured\n";
    return 0;
  }
  std::unique_ptr<Bench> opened;
  try {
    opened = std::make_unique<Bench>(backend);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
  bench = opened.get();
  benchmark::AddCustomContext("kernels", backend.kernels->name());
  benchmark::AddCustomContext("machine", backend.kernels->machine());
  if (backend.device)
    for (const auto& [key, value] : facts(*backend.device)) benchmark::AddCustomContext(key, value);
  register_machine();
  register_products();
  register_attention();
  register_experts();
  register_small();
  benchmark::RunSpecifiedBenchmarks();
  known_weights.clear(), known_experts.reset();  // while the device is there
  benchmark::Shutdown();
}
