// Every operator of every instruction set against the reference in float64 sums, with odd shapes and poisoned
// outputs; and that a row's values don't depend on what else is in the batch.
#include "executor/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "executor/kernels_reference.h"

namespace foretoken {
namespace {

constexpr float kPoison = -12345.0f;
constexpr std::size_t kCanary = 8;

std::vector<float> normal(std::size_t n, unsigned seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = d(generator);
  return v;
}

// Poisoned memory with poison around it that must stay.
struct Output {
  explicit Output(std::size_t n) : all(n + 2 * kCanary, kPoison) {}
  float* data() { return all.data() + kCanary; }
  std::size_t size() const { return all.size() - 2 * kCanary; }
  void expect_canaries() const {
    for (std::size_t i = 0; i < kCanary; ++i) {
      EXPECT_EQ(all[i], kPoison);
      EXPECT_EQ(all[all.size() - 1 - i], kPoison);
    }
  }
  std::vector<float> all;
};

double distance(const float* a, const float* b, std::size_t n) {
  double d = 0, r = 0;
  for (std::size_t i = 0; i < n; ++i) d += std::pow(double(a[i]) - b[i], 2), r += double(b[i]) * b[i];
  return std::sqrt(d / std::max(r, 1e-30));
}

struct Packed {
  std::vector<std::byte> memory;
  Matrix w;
  Packed(const Kernels& k, Storage s, std::int64_t n, std::int64_t width, const std::vector<float>& values)
      : memory(k.packed_bytes(s, n, width) + 64) {
    auto* at = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
    w = k.pack(
        s, n, width,
        [&](std::int64_t row, float* out) { std::copy_n(values.data() + row * width, width, out); }, at);
  }
};

std::vector<std::byte> scratch(std::size_t bytes) { return std::vector<std::byte>(bytes + 64); }
std::byte* aligned(std::vector<std::byte>& v) {
  return reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(v.data()) + 63) / 64 * 64);
}

void gemm(const Kernels& k, const Matrix& w, const float* x, std::int64_t m, const float* bias,
          bool accumulate, float* y, Threads& threads) {
  auto s = scratch(k.gemm_scratch(w, m));
  k.gemm(w, x, w.k, m, bias, accumulate, y, w.n, aligned(s), threads);
}

constexpr Storage kStorages[] = {Storage::kF32,  Storage::kBf16, Storage::kF16,
                                 Storage::kInt8, Storage::kInt4, Storage::kFp8};

class EverySet : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    kernels = cpu_kernels(GetParam());
    if (!kernels) GTEST_SKIP() << "this processor has no " << GetParam();
  }
  const Kernels* kernels = nullptr;
  const Kernels& reference = reference_kernels();
  Threads one{1}, three{3};
};
INSTANTIATE_TEST_SUITE_P(Sets, EverySet, testing::Values("avx512-bf16", "avx512", "avx2", "scalar"));

// Against the stored weights the arithmetic alone errs, against the original ones the storage too.
TEST_P(EverySet, Products) {
  const double arithmetic[] = {1e-6, 3e-3, 1e-6, 1e-6, 1e-6, 1e-6};  // bf16 rounds the rows, too
  const double storage[] = {1e-6, 8e-3, 1e-3, 1.5e-2, 0.2, 4e-2};
  for (const auto& [n, k] : {std::pair{48, 64}, {17, 33}, {130, 257}, {1, 1}, {16, 128}, {33, 300}}) {
    const auto values = normal(static_cast<std::size_t>(n * k), 1),
               bias = normal(static_cast<std::size_t>(n), 2);
    for (std::size_t s = 0; s < std::size(kStorages); ++s) {
      const Packed own(*kernels, kStorages[s], n, k, values), plain(reference, Storage::kF32, n, k, values);
      std::vector<float> stored(values.size());
      for (std::int64_t r = 0; r < n; ++r) kernels->unpack_row(own.w, r, stored.data() + r * k);
      const Packed exact(reference, Storage::kF32, n, k, stored);
      for (const std::int64_t m : {1, 2, 3, 5, 17, 64}) {
        const auto x = normal(static_cast<std::size_t>(m * k), 3);
        for (const bool accumulate : {false, true}) {
          Output y(static_cast<std::size_t>(m * n)), a(y.size()), b(y.size());
          if (accumulate)
            for (Output* o : {&y, &a, &b}) std::fill_n(o->data(), o->size(), 0.5f);
          gemm(*kernels, own.w, x.data(), m, bias.data(), accumulate, y.data(), three);
          gemm(reference, exact.w, x.data(), m, bias.data(), accumulate, a.data(), one);
          gemm(reference, plain.w, x.data(), m, bias.data(), accumulate, b.data(), one);
          y.expect_canaries();
          if (n * k > 16) {
            EXPECT_LT(distance(y.data(), a.data(), y.size()), arithmetic[s])
                << s << " " << n << "x" << k << " m " << m;
            EXPECT_LT(distance(y.data(), b.data(), y.size()), storage[s])
                << s << " " << n << "x" << k << " m " << m;
          }
        }
      }
    }
  }
}

TEST_P(EverySet, ARowOfAProductDoesNotDependOnTheOthersNorOnThreads) {
  const std::int64_t n = 100, k = 200, m = 29;
  const auto values = normal(static_cast<std::size_t>(n * k), 1),
             x = normal(static_cast<std::size_t>(m * k), 3);
  for (const Storage s : kStorages) {
    const Packed own(*kernels, s, n, k, values);
    std::vector<float> all(static_cast<std::size_t>(m * n)), again(all.size()),
        row(static_cast<std::size_t>(n));
    gemm(*kernels, own.w, x.data(), m, nullptr, false, all.data(), one);
    gemm(*kernels, own.w, x.data(), m, nullptr, false, again.data(), three);
    EXPECT_EQ(all, again);
    for (std::int64_t r = 0; r < m; ++r) {
      gemm(*kernels, own.w, x.data() + r * k, 1, nullptr, false, row.data(), one);
      EXPECT_TRUE(std::equal(row.begin(), row.end(), all.begin() + r * n)) << "row " << r;
    }
  }
}

// A cache whose blocks are in no order, with the keys and values that it holds.
struct Cache {
  CacheLayer layer;
  std::vector<std::byte> keys, values;
  std::vector<float> key_scales, value_scales;
  std::vector<std::int32_t> blocks;
  Cache(Storage s, std::int64_t heads, std::int64_t k_dim, std::int64_t v_dim, std::int64_t tokens,
        int block_size, std::int32_t stride = 3) {
    const std::int64_t count = (tokens + block_size - 1) / block_size;
    for (std::int64_t b = 0; b < count; ++b)
      blocks.push_back(static_cast<std::int32_t>((b * stride + 1) % (count * stride + 1)));
    const auto entries = static_cast<std::size_t>((count * stride + 1) * heads * block_size);
    keys.resize(stored_bytes(s, static_cast<std::int64_t>(entries) * k_dim));
    values.resize(stored_bytes(s, static_cast<std::int64_t>(entries) * v_dim));
    key_scales.resize(entries), value_scales.resize(entries);
    const bool scaled = s == Storage::kInt8 || s == Storage::kFp8;
    layer = {s,
             block_size,
             heads,
             k_dim,
             v_dim,
             keys.data(),
             values.data(),
             scaled ? key_scales.data() : nullptr,
             scaled && v_dim > 0 ? value_scales.data() : nullptr};
  }
};

struct Case {
  std::int64_t heads, kv_heads, qk, v;
  std::int64_t window;
  bool chunked, sinks, latent;
  float softcap;
};
constexpr Case kCases[] = {
    {4, 4, 64, 64, 0, false, false, false, 0},   {8, 2, 128, 128, 0, false, false, false, 0},
    {6, 1, 80, 80, 0, false, false, false, 30},  {4, 2, 96, 96, 37, false, true, false, 0},
    {2, 1, 256, 256, 32, true, false, false, 0}, {3, 3, 192, 128, 0, false, false, false, 0},
    {16, 1, 576, 512, 0, false, false, true, 0}};

std::vector<float> attend(const Kernels& k, const Case& c, const Cache& cache, std::int64_t cached,
                          std::int64_t rows, const std::vector<float>& q, const std::vector<float>& sinks,
                          Threads& threads) {
  AttentionArgs a;
  a.heads = c.heads, a.qk_dim = c.qk, a.v_dim = c.v, a.scale = 0.11f, a.softcap = c.softcap;
  a.window = c.window, a.chunked = c.chunked, a.sinks = c.sinks ? sinks.data() : nullptr;
  const SequenceRows s{0, rows, cached, cache.blocks.data()};
  auto bytes = scratch(k.attention_scratch(a, cache.layer, rows, cached + rows, threads.count()));
  Output out(static_cast<std::size_t>(rows * c.heads * c.v));
  k.attention(a, cache.layer, {&s, 1}, q.data(), c.heads * c.qk, out.data(), c.heads * c.v, aligned(bytes),
              threads);
  out.expect_canaries();
  return {out.data(), out.data() + out.size()};
}

TEST_P(EverySet, AttentionOverACacheOfEveryStorage) {
  const Storage caches[] = {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8, Storage::kFp8};
  for (const Case& c : kCases)
    for (const Storage s : caches)
      for (const auto& [cached, rows] : {std::pair{0, 1}, {0, 33}, {100, 1}, {63, 2}, {130, 70}}) {
        Cache cache(s, c.kv_heads, c.qk, c.latent ? 0 : c.v, cached + rows, 16);
        const auto tokens = static_cast<std::size_t>(cached + rows);
        const auto k = normal(tokens * static_cast<std::size_t>(c.kv_heads * c.qk), 4),
                   v = normal(tokens * static_cast<std::size_t>(c.kv_heads * c.v), 5),
                   q = normal(static_cast<std::size_t>(rows * c.heads * c.qk), 6), sinks = normal(16, 7);
        const SequenceRows all{0, static_cast<std::int64_t>(tokens), 0, cache.blocks.data()};
        kernels->cache_write(cache.layer, {&all, 1}, k.data(), c.kv_heads * c.qk,
                             c.latent ? nullptr : v.data(), c.kv_heads * c.v);
        const auto own = attend(*kernels, c, cache, cached, rows, q, sinks, one),
                   exact = attend(reference, c, cache, cached, rows, q, sinks, one);
        EXPECT_LT(distance(own.data(), exact.data(), own.size()), 3e-6)
            << "heads " << c.heads << " dim " << c.qk;
        EXPECT_EQ(own, attend(*kernels, c, cache, cached, rows, q, sinks, three));
        std::vector<float> read(k.size()), read_values(v.size());
        kernels->cache_read(cache.layer, cache.blocks.data(), static_cast<std::int64_t>(tokens), read.data(),
                            read_values.data());
        EXPECT_LT(distance(read.data(), k.data(), k.size()), s == Storage::kFp8 ? 4e-2 : 1.5e-2);
      }
}

// However a prompt is cut, and wherever its blocks lie, its rows are the same bits.
TEST_P(EverySet, AttentionDoesNotDependOnChunksNorOnBlocks) {
  for (const Case& c : kCases) {
    const std::int64_t tokens = 150;
    Cache paged(Storage::kBf16, c.kv_heads, c.qk, c.latent ? 0 : c.v, tokens, 16),
        whole(Storage::kBf16, c.kv_heads, c.qk, c.latent ? 0 : c.v, tokens, 256);
    const auto k = normal(static_cast<std::size_t>(tokens * c.kv_heads * c.qk), 4),
               v = normal(static_cast<std::size_t>(tokens * c.kv_heads * c.v), 5),
               q = normal(static_cast<std::size_t>(tokens * c.heads * c.qk), 6), sinks = normal(16, 7);
    for (Cache* cache : {&paged, &whole}) {
      const SequenceRows all{0, tokens, 0, cache->blocks.data()};
      kernels->cache_write(cache->layer, {&all, 1}, k.data(), c.kv_heads * c.qk,
                           c.latent ? nullptr : v.data(), c.kv_heads * c.v);
    }
    const auto at_once = attend(*kernels, c, whole, 0, tokens, q, sinks, one);
    std::vector<float> in_parts;
    for (std::int64_t first = 0; first < tokens;) {
      const std::int64_t n = std::min<std::int64_t>(first % 3 == 0 ? 1 : 41, tokens - first);
      const std::vector<float> rows(q.begin() + first * c.heads * c.qk,
                                    q.begin() + (first + n) * c.heads * c.qk);
      const auto part = attend(*kernels, c, paged, first, n, rows, sinks, one);
      in_parts.insert(in_parts.end(), part.begin(), part.end());
      first += n;
    }
    EXPECT_EQ(at_once, in_parts) << "heads " << c.heads << " dim " << c.qk << " window " << c.window;
  }
}

TEST_P(EverySet, NormsActivationsAndSums) {
  for (const std::int64_t width : {1, 16, 33, 128, 1000}) {
    const std::int64_t rows = 3;
    const auto x = normal(static_cast<std::size_t>(2 * rows * width), 1, 3),
               weight = normal(static_cast<std::size_t>(width), 2);
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
      for (const float offset : {0.0f, 1.0f}) {
        Output a(static_cast<std::size_t>(rows * width)), b(a.size());
        const NormArgs args{kind, 1e-6f, offset, weight.data(), nullptr};
        kernels->norm(args, x.data(), width, rows, width, a.data(), width);
        reference.norm(args, x.data(), width, rows, width, b.data(), width);
        a.expect_canaries();
        if (width > 1) {
          EXPECT_LT(distance(a.data(), b.data(), a.size()), 1e-6);
        }
      }
    for (const auto kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                            Activation::kReluSquared, Activation::kClampedSwiglu})
      for (const bool gated : {true, false}) {
        Output a(static_cast<std::size_t>(rows * width)), b(a.size());
        const ActivationArgs args{kind, gated};
        kernels->activation(args, x.data(), rows, width, a.data());
        reference.activation(args, x.data(), rows, width, b.data());
        a.expect_canaries();
        EXPECT_LT(distance(a.data(), b.data(), a.size()), 1e-6);
      }
    Output a(static_cast<std::size_t>(width)), b(a.size());
    std::copy_n(weight.data(), width, a.data()), std::copy_n(weight.data(), width, b.data());
    kernels->add(x.data(), width, a.data());
    reference.add(x.data(), width, b.data());
    EXPECT_EQ(a.all, b.all);
  }
}

// What both sets share, by hand.
TEST(Reference, RoutingChoosesAndWeighsAsEachFamilyDoes) {
  const float logits[] = {1, 3, 2, 0};
  std::int32_t chosen[2];
  float weights[2];
  RoutingArgs a;
  a.experts = 4, a.top_k = 2;
  reference_kernels().route(a, logits, 1, chosen, weights);
  EXPECT_EQ(chosen[0], 1);
  EXPECT_EQ(chosen[1], 2);
  EXPECT_NEAR(weights[0], 1 / (1 + std::exp(-1.0)), 1e-6);
  a.normalise = false;
  reference_kernels().route(a, logits, 1, chosen, weights);
  EXPECT_NEAR(weights[0], std::exp(3.0) / (std::exp(1.0) + std::exp(3.0) + std::exp(2.0) + 1), 1e-6);
  // Sigmoid scores; a correction moves the choice and not the weight; scaled.
  const float correction[] = {5, 0, 0, 0};
  a.sigmoid = a.normalise = true, a.correction = correction, a.scale = 2.5f;
  reference_kernels().route(a, logits, 1, chosen, weights);
  EXPECT_EQ(chosen[0], 0);
  EXPECT_EQ(chosen[1], 1);
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_NEAR(weights[0], 2.5 * sigmoid(1) / (sigmoid(1) + sigmoid(3)), 1e-6);
  // Of two groups the better one alone: by its best, or by its two best.
  const float grouped[] = {4, -9, 3, 3};
  a = {};
  a.experts = 4, a.top_k = 2, a.groups = 2, a.top_groups = 1;
  reference_kernels().route(a, grouped, 1, chosen, weights);
  EXPECT_EQ(chosen[0], 0);
  a.group_by_top_two = a.sigmoid = true;
  reference_kernels().route(a, grouped, 1, chosen, weights);
  EXPECT_EQ(chosen[0], 2);
  EXPECT_EQ(chosen[1], 3);
}

TEST(Reference, SamplingKeepsTopKAndTopP) {
  const float logits[] = {0, 2, 1, 2};
  float room[8];
  const Kernels& k = reference_kernels();
  EXPECT_EQ(k.sample({}, logits, 4, 0.9, room), 1) << "greedy: the lower index of equals";
  SamplingArgs a{1.0f, 2, 1.0f};
  for (double u = 0.01; u < 1; u += 0.01) {
    const auto t = k.sample(a, logits, 4, u, room);
    EXPECT_TRUE(t == 1 || t == 3);
    EXPECT_EQ(t, u < 0.5 ? 1 : 3);
  }
  a = {1.0f, 0, 0.3f};
  EXPECT_EQ(k.sample(a, logits, 4, 0.99, room), 1);
  a = {1.0f, 0, 1.0f};
  EXPECT_EQ(k.sample(a, logits, 4, 0.999999, room), 0);
}

// The gated delta rule writes what the state doesn't know yet: writing the same pair twice changes nothing.
TEST(Reference, RecurrenceAndConvolution) {
  const Kernels& k = reference_kernels();
  Threads one(1);
  std::vector<float> state(4, 0.0f), out(4);
  float* states[] = {state.data()};
  const float q[] = {1, 0, 1, 0}, key[] = {1, 0, 1, 0}, v[] = {3, 4, 3, 4}, decay[] = {0, 0}, beta[] = {1, 1};
  const SequenceRows s{0, 2, 0, nullptr};
  k.recurrence({1, 2, 2, true}, {&s, 1}, states, q, key, v, decay, beta, out.data(), one);
  EXPECT_EQ(out, (std::vector<float>{3, 4, 3, 4}));
  std::fill(state.begin(), state.end(), 0.0f);
  k.recurrence({1, 2, 2, false}, {&s, 1}, states, q, key, v, decay, nullptr, out.data(), one);
  EXPECT_EQ(out, (std::vector<float>{3, 4, 6, 8}));
  // Three taps over 1, 2, 3, 4 in two calls.
  std::vector<float> last(2, 0.0f), y(4);
  float* kept[] = {last.data()};
  const float x[] = {1, 2, 3, 4}, taps[] = {100, 10, 1};
  const SequenceRows first{0, 3, 0, nullptr}, rest{3, 1, 3, nullptr};
  k.causal_conv({&first, 1}, kept, x, 1, 1, 3, taps, nullptr, false, y.data(), 1);
  k.causal_conv({&rest, 1}, kept, x, 1, 1, 3, taps, nullptr, false, y.data(), 1);
  EXPECT_EQ(y, (std::vector<float>{1, 12, 123, 234}));
}

}  // namespace
}  // namespace foretoken
