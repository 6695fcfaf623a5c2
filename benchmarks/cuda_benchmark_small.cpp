// Norms, rotation, activation, sampling; copies and launches.
#include "benchmarks/cuda_benchmark.h"

namespace foretoken::cuda_benchmark {
namespace {

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

}  // namespace

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

}  // namespace foretoken::cuda_benchmark
