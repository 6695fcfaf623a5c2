// Products by format and rows, and rows of tables.
#include <thread>

#include "benchmarks/cuda_benchmark.h"

namespace foretoken::cuda_benchmark {
namespace {

struct Shape {
  const char* name;
  Index n, k;
};
// Of a Llama of 8B.
constexpr Shape kMatrices[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};
constexpr Shape kHead = {"lm_head", 128256, 4096};

struct Product {
  Product(Storage storage, const Shape& s, Index rows, bool quantised = false)
      : w(weights(storage, s.n, s.k)),
        m(rows),
        quantised_x(quantised),
        x(normal(m * s.k)),
        y(m * s.n),
        scratch(static_cast<Index>(kernels().gemm_scratch(matrix(0), m))) {}
  Matrix matrix(int i) const {
    Matrix own = (*w)[i];
    own.quantised_x = quantised_x;
    return own;
  }
  void operator()(int i) const {
    kernels().gemm(matrix(i), x, w->k, m, nullptr, false, y, w->n, scratch, bench->threads);
  }
  double flops() const { return 2.0 * static_cast<double>(m * w->n * w->k); }
  std::shared_ptr<const Weights> w;
  Index m;
  bool quantised_x;
  Array<float> x, y;
  Array<std::byte> scratch;
};

// of_bf16: the speed over that of the same product in bfloat16, in turns. quantised: x of 8 bits too.
void product(State& state, Storage storage, const Shape& shape, Index m, bool quantised) {
  const Product mine(storage, shape, m, quantised);
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
void sustained(State& state, Storage storage, bool quantised) {
  const Product mine(storage, kMatrices[2], 8192, quantised);
  Region region(mine.w->count(), std::cref(mine));
  std::this_thread::sleep_for(std::chrono::seconds(2));
  const double first = region.run();
  const double seconds = measure(state, region, 20 * bench->seconds);
  add_flops(state, mine.flops(), seconds);
  state.counters["first_TFLOP/s"] = mine.flops() / first / 1e12;
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

}  // namespace

void register_products() {
  const auto add_row = [](Storage storage, const Shape& s, Index m, bool quantised = false) {
    row((quantised ? "quantised_product/" : "product/") + kFormats.at(storage) + "/" + s.name +
            number("m", m),
        [=](State& state) { product(state, storage, s, m, quantised); });
  };
  for (const Shape& s : kMatrices) {
    for (const Index m : {1, 16, 64, 256, 1024, 4096, 8192}) add_row(Storage::kBf16, s, m);
    for (const Storage storage : {Storage::kFp8, Storage::kInt8, Storage::kInt4})
      for (const Index m : {1, 4, 16, 64, 256, 1024, 4096}) add_row(storage, s, m);
    for (const Storage storage : {Storage::kFp8, Storage::kFp8Block, Storage::kInt8})
      for (const Index m : {1, 16, 64, 256, 1024, 4096, 8192}) add_row(storage, s, m, true);
  }
  for (const Index m : {1, 16, 64, 256}) add_row(Storage::kBf16, kHead, m);
  for (const Index rows : {1, 64, 8192})
    row("embed" + number("rows", rows), [=](State& state) { embed(state, rows); });
  for (const Storage storage : {Storage::kBf16, Storage::kFp8})
    row("product_sustained/" + kFormats.at(storage), [=](State& state) { sustained(state, storage, false); });
  row("quantised_sustained/fp8", [](State& state) { sustained(state, Storage::kFp8, true); });
}

}  // namespace foretoken::cuda_benchmark
