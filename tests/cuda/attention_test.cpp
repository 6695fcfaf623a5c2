// Attention on the device against the reference: every storage, head size and group, windows, branches, and
// batches of all kinds; and how launches are sized.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "executor/cuda/attention_plan.h"
#include "executor/kernels_shared.h"
#include "tests/cuda/on_device.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken {
namespace {

using cuda::AttentionKernel;

struct Length {
  std::int64_t cached = 0, new_tokens = 0;
  std::int64_t branch = 0;  // so many of the cached tokens lie scattered
};

struct Shape {
  AttentionArgs args;
  std::int64_t kv_heads = 1;
  Storage storage = Storage::kF32;
  int block_size = 16;
  bool latent = false;
};

// Sequences over a cache of shuffled blocks, of which what belongs to no token is NaN.
class Batch {
 public:
  Batch(const Shape& shape, const std::vector<Length>& lengths, unsigned seed = 1) : shape_(shape) {
    const AttentionArgs& a = shape.args;
    const std::int64_t v_dim = shape.latent ? 0 : a.v_dim, size = shape.block_size;
    std::int64_t count = 3;
    for (const Length& n : lengths) count += blocks_of(n);
    const auto vectors = static_cast<std::size_t>(count * size * shape.kv_heads);
    const auto width = static_cast<std::size_t>(cache_width(shape.storage));
    keys_.assign(vectors * static_cast<std::size_t>(a.qk_dim) * width, std::byte{0xff});
    values_.assign(vectors * static_cast<std::size_t>(v_dim) * width, std::byte{0xff});
    key_scales_.assign(vectors, kPoison), value_scales_.assign(vectors, kPoison);
    std::vector<std::int32_t> free(static_cast<std::size_t>(count));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(seed));

    std::int64_t row = 2;  // rows before are others'
    for (const Length& n : lengths) {
      std::vector<std::int32_t> own(free.end() - blocks_of(n), free.end());
      free.resize(free.size() - own.size());
      std::vector<std::int32_t> branch;
      const std::int64_t from = n.cached + n.new_tokens - n.branch;
      for (std::int64_t i = 0; i < n.branch; ++i)
        branch.push_back(static_cast<std::int32_t>(from + 2 * i + i % 2));
      blocks_.push_back(own), branches_.push_back(branch);
      rows_.push_back({row, n.new_tokens, n.cached, nullptr, nullptr, n.branch > 0 ? from : 0});
      row += n.new_tokens;
    }
    rows_in_all_ = row;
    point_into(
        rows_, [](const auto& v) { return v.empty() ? nullptr : v.data(); }, blocks_, branches_);
    q_stride_ = a.heads * a.qk_dim + 3 * (seed % 2), out_stride_ = a.heads * a.v_dim + 5 * (seed % 2);
    q_ = normal(static_cast<std::size_t>((row + 1) * q_stride_), seed + 1);
    if (a.sinks != nullptr) sinks_.assign(a.sinks, a.sinks + a.heads);
    write();
  }

  Floats expected() {
    Floats out(static_cast<std::size_t>((rows_in_all_ + 2) * out_stride_), kPoison);
    std::int64_t longest = 0;
    for (const auto& s : rows_) longest = std::max(longest, s.cached + s.new_tokens);
    Memory scratch(reference_kernels().attention_scratch(shape_.args, layer(), rows_in_all_, longest, 1));
    Threads threads;
    reference_kernels().attention(shape_.args, layer(), std::span<const SequenceRows>(rows_), q_.data(),
                                  q_stride_, out.data(), out_stride_, scratch.data(), threads);
    return out;
  }

  // sized_by: what the host says of the sequences, where it isn't what the device is told.
  Floats got(const std::vector<Length>& sized_by = {}) const {
    const cuda::CudaKernels& kernels = cuda_set();
    const OnDevice<std::byte> keys(keys_), values(values_);
    const OnDevice<float> key_scales(key_scales_), value_scales(value_scales_), q(q_), sinks(sinks_);
    std::vector<std::unique_ptr<OnDevice<std::int32_t>>> blocks, branches;
    for (const auto& b : blocks_) blocks.push_back(std::make_unique<OnDevice<std::int32_t>>(b));
    for (const auto& b : branches_) branches.push_back(std::make_unique<OnDevice<std::int32_t>>(b));
    std::vector<SequenceRows> rows = rows_;
    point_into(
        rows, [](const auto& v) { return v->size() == 0 ? nullptr : v->data(); }, blocks, branches);
    const OnDevice<SequenceRows> own(rows);
    for (std::size_t i = 0; i < sized_by.size(); ++i)
      rows[i].cached = sized_by[i].cached, rows[i].new_tokens = sized_by[i].new_tokens;
    CacheLayer cache = layer();
    cache.keys = keys.data(), cache.values = values.data();
    cache.key_scales = key_scales.data(), cache.value_scales = value_scales.data();
    AttentionArgs args = shape_.args;
    if (args.sinks != nullptr) args.sinks = sinks.data();
    const OnDevice<float> out(static_cast<std::size_t>((rows_in_all_ + 2) * out_stride_), kPoison);
    std::int64_t longest = 0, new_rows = 0;
    for (const auto& s : rows) longest = std::max(longest, s.cached + s.new_tokens), new_rows += s.new_tokens;
    const std::size_t bytes = kernels.attention_scratch(args, cache, new_rows, longest, 1);
    const OnDevice<std::byte> scratch(bytes, std::byte{0xff});
    Threads threads;
    kernels.attention(args, cache, {rows, own.data()}, q.data(), q_stride_, out.data(), out_stride_,
                      scratch.data(), threads);
    return out.back();
  }

  const std::vector<SequenceRows>& rows() const { return rows_; }
  std::int64_t out_stride() const { return out_stride_; }
  CacheLayer layer() const {
    auto* keys = const_cast<std::byte*>(keys_.data());
    auto* values = const_cast<std::byte*>(values_.data());
    return {shape_.storage,
            shape_.block_size,
            shape_.kv_heads,
            shape_.args.qk_dim,
            shape_.latent ? 0 : shape_.args.v_dim,
            keys,
            values,
            const_cast<float*>(key_scales_.data()),
            const_cast<float*>(value_scales_.data())};
  }

 private:
  std::int64_t blocks_of(const Length& n) const {
    return (n.cached + n.new_tokens + n.branch + shape_.block_size) / shape_.block_size + 1;
  }
  template <class Data, class Blocks, class Branches>
  static void point_into(std::vector<SequenceRows>& rows, Data data, const Blocks& blocks,
                         const Branches& branches) {
    for (std::size_t i = 0; i < rows.size(); ++i)
      rows[i].blocks = data(blocks[i]), rows[i].branch = data(branches[i]);
  }
  // Keys and values of every token, where it lies; then, between a branch's places, others.
  void write() {
    const AttentionArgs& a = shape_.args;
    const std::int64_t heads = shape_.kv_heads;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const SequenceRows& s = rows_[i];
      const std::int64_t tokens = s.cached + s.new_tokens;
      const Floats k = normal(static_cast<std::size_t>(tokens * heads * a.qk_dim),
                              static_cast<unsigned>(100 + i)),
                   v = normal(static_cast<std::size_t>(tokens * heads * a.v_dim),
                              static_cast<unsigned>(200 + i));
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t place = s.branch && t >= s.branch_from ? s.branch[t - s.branch_from] : t;
        const SequenceRows one{t, 1, place, s.blocks};
        reference_kernels().cache_write(layer(), std::span(&one, 1), k.data(), heads * a.qk_dim, v.data(),
                                        heads * a.v_dim);
      }
    }
  }

  Shape shape_;
  std::vector<std::byte> keys_, values_;
  Floats key_scales_, value_scales_, q_, sinks_;
  std::vector<SequenceRows> rows_;
  std::vector<std::vector<std::int32_t>> blocks_, branches_;
  std::int64_t rows_in_all_ = 0, q_stride_ = 0, out_stride_ = 0;
};

// Whether the rows of sequences are alike, and nothing else was written.
void expect_alike(const Batch& batch, const Shape& shape, const Floats& got, const Floats& expected,
                  const char* what = "") {
  const std::int64_t width = shape.args.heads * shape.args.v_dim, stride = batch.out_stride();
  std::vector<char> written(got.size(), 0);
  Floats mine, theirs;
  for (const SequenceRows& s : batch.rows())
    for (std::int64_t i = 0; i < s.new_tokens; ++i)
      for (std::int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<std::size_t>((s.first_row + i) * stride + c);
        written[at] = 1;
        mine.push_back(got[at]), theirs.push_back(expected[at]);
      }
  const bool exact = shape.storage == Storage::kF32 || shape.storage == Storage::kF16;
  EXPECT_LT(distance(mine, theirs), exact ? 5e-6 : 2.5e-3) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!written[i]) {
      ASSERT_TRUE(std::isnan(got[i])) << what << ": written beside its rows at " << i;
    }
}

void check(const Shape& shape, const std::vector<Length>& lengths, unsigned seed = 1) {
  SCOPED_TRACE(testing::Message() << "dims " << shape.args.qk_dim << "/" << shape.args.v_dim << " heads "
                                  << shape.args.heads << "/" << shape.kv_heads << " storage "
                                  << static_cast<int>(shape.storage) << " block " << shape.block_size
                                  << " window " << shape.args.window << (shape.args.chunked ? " chunks" : "")
                                  << (shape.latent ? " latent" : "") << " first " << lengths[0].cached << "+"
                                  << lengths[0].new_tokens);
  Batch batch(shape, lengths, seed);
  expect_alike(batch, shape, batch.got(), batch.expected());
}

AttentionArgs args_of(std::int64_t heads, std::int64_t qk, std::int64_t v) {
  return {heads, qk, v, 1.3f / std::sqrt(static_cast<float>(qk))};
}

constexpr Storage kStorages[] = {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8, Storage::kFp8};
constexpr Storage kRounded[] = {Storage::kBf16, Storage::kInt8, Storage::kFp8};

TEST(CudaAttention, DecodesEveryHeadSize) {
  const std::int64_t dims[][2] = {{64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {7, 5}};
  for (const auto& [qk, v] : dims)
    for (const auto storage : {Storage::kF32, Storage::kBf16, Storage::kInt8})
      check({args_of(4, qk, v), 2, storage, 16, false}, {{132, 1}, {0, 1}, {36, 1}});
}

TEST(CudaAttention, PromptsOfEveryHeadSize) {
  const std::int64_t dims[][2] = {{64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {7, 5}};
  for (const auto& [qk, v] : dims)
    for (const auto storage : {Storage::kF32, Storage::kBf16, Storage::kFp8})
      check({args_of(4, qk, v), 2, storage, 16, false}, {{0, 71}});
}

TEST(CudaAttention, EveryStorage) {
  for (const auto storage : kStorages)
    for (const std::int64_t kv_heads : {1, 3, 6}) {
      const Shape shape{{6, 72, 40, 0.12f}, kv_heads, storage, kv_heads == 3 ? 16 : 5, false};
      check(shape, {{149, 1}, {64, 1}});
      check(shape, {{30, 70}});
    }
}

TEST(CudaAttention, EveryGroup) {
  for (const std::int64_t group : {1, 3, 4, 8, 9, 33})
    for (const auto storage : {Storage::kBf16, Storage::kF32}) {
      const Shape shape{args_of(2 * group, 64, 64), 2, storage, 16, false};
      check(shape, {{80, 1}, {3, 1}});
      check(shape, {{11, 9}});
    }
}

TEST(CudaAttention, EveryBlockSize) {
  for (const int block : {1, 5, 8, 64, 128, 300})
    for (const auto storage : {Storage::kBf16, Storage::kF32, Storage::kFp8}) {
      const Shape shape{args_of(4, 64, 64), 2, storage, block, false};
      check(shape, {{130, 1}, {299, 1}});
      check(shape, {{80, 50}});
    }
}

TEST(CudaAttention, Latents) {
  for (const auto storage : kStorages) {
    check({{6, 576, 512, 0.05f}, 1, storage, 16, true}, {{66, 1}, {140, 1}});
    check({{6, 40, 32, 0.2f}, 1, storage, 5, true}, {{66, 1}, {140, 3}, {0, 9}});
  }
  for (const auto storage : kRounded) {
    check({{20, 576, 512, 0.05f}, 1, storage, 64, true}, {{66, 1}});
    check({{70, 576, 512, 0.05f}, 1, storage, 16, true}, {{66, 1}, {5, 2}});
  }
}

TEST(CudaAttention, VerifiesDraftsOfSeveralRows) {
  for (const auto storage : {Storage::kBf16, Storage::kF32, Storage::kInt8})
    for (const std::int64_t group : {1, 3, 8})
      check({args_of(2 * group, 64, 64), 2, storage, 16, false}, {{130, 4}, {0, 1}, {77, 2}, {15, 3}});
}

TEST(CudaAttention, BranchesOfTrees) {
  for (const auto storage : kStorages)
    for (const std::int64_t window : {0, 20, 70})
      for (const bool latent : {false, true}) {
        AttentionArgs args{6, 48, latent ? 32 : 48, 0.15f};
        args.window = window;
        check({args, latent ? 1 : 3, storage, 16, latent}, {{149, 1, 30}, {90, 1}, {20, 1, 2}});
      }
}

TEST(CudaAttention, WindowsChunksSinksAndSoftcap) {
  const auto sinks = normal(8, 14);
  for (const auto storage : {Storage::kF32, Storage::kBf16, Storage::kInt8})
    for (const std::int64_t window : {1, 20, 64, 100})
      for (const bool chunked : {false, true}) {
        AttentionArgs args = args_of(8, 64, 64);
        args.window = window;
        args.chunked = chunked;
        check({args, 2, storage, 16, false}, {{202, 1}, {40, 1}, {63, 1}, {64, 1}});
        args.sinks = sinks.data();
        args.softcap = 2;
        check({args, 2, storage, 16, false}, {{199, 4}, {10, 1}});
        check({args, 2, storage, 16, false}, {{30, 90}});
      }
  for (const auto storage : {Storage::kBf16, Storage::kFp8, Storage::kF32}) {
    AttentionArgs args{8, 40, 32, 0.2f};
    args.window = 70, args.softcap = 3, args.sinks = sinks.data();
    check({args, 1, storage, 16, true}, {{202, 1}, {40, 1}, {3, 5}});
  }
}

TEST(CudaAttention, PromptsCutInPieces) {
  for (const auto storage : {Storage::kBf16, Storage::kF32, Storage::kFp8})
    for (const std::int64_t cached : {1, 63, 64, 150})
      check({args_of(6, 64, 64), 2, storage, 16, false}, {{cached, 45}});
}

TEST(CudaAttention, BatchesOfAllKinds) {
  for (const auto storage : {Storage::kBf16, Storage::kF32}) {
    const Shape shape{args_of(4, 64, 64), 2, storage, 16, false};
    check(shape, {{0, 90}, {0, 1}, {0, 17}});
    check(shape, {{0, 1}});
    check(shape, {{5, 64}, {200, 1}, {3, 66}, {0, 2}, {100, 30}}, 2);
    std::vector<Length> many;
    for (int i = 0; i < 37; ++i) many.push_back({(i * 29) % 97, 1});
    check(shape, many, 2);
    many[20].cached = 1500;  // one long one beside short ones
    check(shape, many);
  }
}

TEST(CudaAttention, NoRows) {
  const Shape shape{args_of(4, 64, 64), 2, Storage::kBf16, 16, false};
  Batch batch(shape, {{10, 0}});
  for (const float x : batch.got()) ASSERT_TRUE(std::isnan(x));
  Threads threads;
  cuda_set().attention(shape.args, batch.layer(), Sequences(std::span<const SequenceRows>()), nullptr, 0,
                       nullptr, 0, nullptr, threads);
}

// Heads beyond what a block sums at a time.
TEST(CudaAttention, WideHeads) {
  check({{2, 600, 700, 0.04f}, 1, Storage::kF16, 16, false}, {{40, 1}});
  check({{2, 1030, 130, 0.04f}, 1, Storage::kBf16, 16, false}, {{10, 20}});
}

// A recorded launch is run with other lengths than it was sized by.
TEST(CudaAttention, LaunchesForLongerContexts) {
  for (const auto storage : {Storage::kBf16, Storage::kF32}) {
    const std::vector<Length> lengths = {{37, 1}, {210, 1}, {0, 1}, {90, 1}};
    const std::vector<Length> longer = {{255, 1}, {255, 1}, {255, 1}, {255, 1}};
    for (const std::int64_t scale : {1, 16}) {
      std::vector<Length> sized_by = longer;
      for (Length& n : sized_by) n.cached *= scale;
      for (const bool latent : {false, true}) {
        AttentionArgs args = args_of(6, 64, 64);
        for (const std::int64_t window : {0, 50}) {
          args.window = window;
          const Shape shape{args, latent ? 1 : 3, storage, 16, latent};
          Batch batch(shape, lengths);
          expect_alike(batch, shape, batch.got(sized_by), batch.expected());
        }
      }
    }
  }
}

#ifdef FORETOKEN_EMULATED
TEST(CudaAttention, AnyOrderOfThreads) {
  using cuda::emulation::Order;
  auto& settings = cuda::emulation::settings();
  for (const auto storage : {Storage::kBf16, Storage::kInt8, Storage::kF32})
    for (const std::int64_t kv_heads : {3, 1, 0}) {  // 1: latents; 0: of many heads
      const bool latent = kv_heads < 3;
      const Shape shape{args_of(kv_heads > 0 ? 6 : 40, 64, 64), latent ? 1 : kv_heads, storage, 16, latent};
      for (const auto& lengths :
           {std::vector<Length>{{200, 1}, {20, 1}}, std::vector<Length>{{10, 40}, {3, 1}}}) {
        Batch batch(shape, lengths);
        const Floats expected = batch.expected();
        std::optional<Floats> first;
        for (const auto order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
          settings.threads = settings.blocks = order;
          const Floats got = batch.got();
          settings = {};
          expect_alike(batch, shape, got, expected, "in some order");
          if (first) {
            EXPECT_TRUE(same_bits(*first, got));
          }
          if (!first) first = got;
        }
      }
    }
}
#endif

// ---- How launches are sized -----------------------------------------------------------------------------

constexpr cuda::AttentionDevice kDevice{132, 227 * 1024};
alignas(16) std::byte somewhere[16];

CacheLayer cache_of(Storage storage, std::int64_t heads, std::int64_t k, std::int64_t v) {
  return {storage, 16, heads, k, v, somewhere, somewhere, nullptr, nullptr};
}

cuda::AttentionPlan plan_of(const AttentionArgs& args, const CacheLayer& cache, std::int64_t sequences,
                            std::int64_t tokens, std::int64_t longest,
                            const cuda::AttentionDevice& device = kDevice) {
  const std::vector<SequenceRows> rows(static_cast<std::size_t>(sequences), {0, tokens, longest - tokens});
  return attention_plan(args, cache, rows, longest, device);
}

TEST(CudaAttentionPlan, ChoosesByStorageRowsAndHeads) {
  const auto chosen = [](const AttentionArgs& a, const CacheLayer& c, std::int64_t tokens,
                         const cuda::AttentionDevice& device = kDevice) {
    return attention_variant(a, c, tokens, device);
  };
  const CacheLayer bf16 = cache_of(Storage::kBf16, 8, 128, 128);
  EXPECT_EQ(chosen(args_of(32, 128, 128), bf16, 1).kernel, AttentionKernel::kDecode);
  EXPECT_EQ(chosen(args_of(32, 128, 128), bf16, 5).kernel, AttentionKernel::kDecode);
  EXPECT_EQ(chosen(args_of(32, 128, 128), bf16, 500).kernel, AttentionKernel::kPrompt);
  EXPECT_EQ(chosen(args_of(32, 128, 128), cache_of(Storage::kF16, 8, 128, 128), 500).kernel,
            AttentionKernel::kGeneral);
  EXPECT_EQ(chosen(args_of(32, 128, 128), cache_of(Storage::kF32, 8, 128, 128), 1).kernel,
            AttentionKernel::kGeneral);
  // Rows of 72 bytes can't be read by 16.
  EXPECT_EQ(chosen(args_of(32, 72, 40), cache_of(Storage::kBf16, 8, 72, 40), 1).kernel,
            AttentionKernel::kDecode);
  EXPECT_EQ(chosen(args_of(32, 72, 40), cache_of(Storage::kInt8, 8, 72, 40), 1).kernel,
            AttentionKernel::kGeneral);
  const CacheLayer latent = cache_of(Storage::kBf16, 1, 576, 0);
  for (const auto& [heads, rows] : {std::pair{16, 16}, {32, 32}, {64, 64}, {128, 64}}) {
    const auto variant = chosen(args_of(heads, 576, 512), latent, 1);
    EXPECT_EQ(variant.kernel, AttentionKernel::kLatent);
    EXPECT_EQ(variant.rows, rows);
    EXPECT_EQ(variant.stages, rows == 16 ? 3 : 2);
  }
  // A device with less shared memory takes smaller tiles, or another kernel.
  const cuda::AttentionDevice small{108, 163 * 1024};
  EXPECT_EQ(chosen(args_of(128, 576, 512), latent, 1, small).rows, 16);
  EXPECT_EQ(chosen(args_of(16, 576, 512), latent, 1, small).stages, 2);
  EXPECT_EQ(chosen(args_of(8, 256, 256), cache_of(Storage::kBf16, 8, 256, 256), 1, small).kernel,
            AttentionKernel::kGeneral);
  for (const auto& d : {kDevice, small})
    for (const auto storage : kStorages)
      for (const std::int64_t k : {7, 64, 80, 96, 128, 192, 256, 576, 1024})
        for (const std::int64_t v : {std::int64_t{0}, k, k - 5})
          for (const std::int64_t tokens : {1, 4, 9, 1000}) {
            const auto variant = chosen(args_of(8, k, v == 0 ? k : v), cache_of(storage, 2, k, v), tokens, d);
            EXPECT_LE(variant.shared, d.shared_bytes);
            EXPECT_LE(variant.blocks_per_processor * (variant.shared + 1024), d.shared_bytes + 1024);
            if (variant.kernel != AttentionKernel::kGeneral) {
              EXPECT_GE(variant.k, k);
            }
            EXPECT_GE(variant.v, std::min<std::int64_t>(512, v == 0 ? k : v));
          }
}

TEST(CudaAttentionPlan, BlocksFillTheDeviceAndNoMore) {
  const AttentionArgs args = args_of(32, 128, 128);
  const CacheLayer cache = cache_of(Storage::kBf16, 8, 128, 128);
  for (const std::int64_t sequences : {1, 2, 7, 33, 256}) {
    std::int64_t before = 0;
    for (std::int64_t longest = 256; longest <= 131072; longest *= 2) {
      const auto plan = plan_of(args, cache, sequences, 1, longest);
      EXPECT_GE(plan.blocks, before);  // longer contexts take no fewer
      EXPECT_LE(plan.blocks, 2 * kDevice.multiprocessors);
      const std::int64_t units = plan.items * ((longest + plan.variant.unit - 1) / plan.variant.unit);
      EXPECT_LE((plan.blocks - 1) * plan.variant.least_units, units);  // none without work
      before = plan.blocks;
    }
    EXPECT_EQ(before, 2 * kDevice.multiprocessors);
  }
  // 8-bit caches: three blocks a multiprocessor, and shared memory for them.
  for (const auto storage : {Storage::kInt8, Storage::kFp8}) {
    const auto plan = plan_of(args, cache_of(storage, 8, 128, 128), 64, 1, 4096);
    EXPECT_EQ(plan.blocks, 3 * kDevice.multiprocessors);
    EXPECT_LE(3 * (plan.variant.shared + 2048), kDevice.shared_bytes + 1024);
  }
  // A window's keys are all that counts.
  AttentionArgs window = args;
  window.window = 100;
  EXPECT_EQ(plan_of(window, cache, 1, 1, 1024).blocks, plan_of(window, cache, 1, 1, 131072).blocks);
  EXPECT_LT(plan_of(window, cache, 1, 1, 131072).blocks, plan_of(args, cache, 1, 1, 131072).blocks);
}

TEST(CudaAttentionPlan, DependsOnTheBucketAlone) {
  const AttentionArgs args = args_of(32, 128, 128);
  for (const auto& cache : {cache_of(Storage::kBf16, 8, 128, 128), cache_of(Storage::kF32, 8, 128, 128)}) {
    std::vector<SequenceRows> rows(5, {0, 1, 0}), others = rows;
    for (std::size_t i = 0; i < rows.size(); ++i)
      rows[i].cached = 300 + static_cast<std::int64_t>(i),
      others[i].cached = 510 - 3 * static_cast<std::int64_t>(i);
    const std::int64_t bucket = cuda_set().context_bucket(303);
    ASSERT_EQ(bucket, cuda_set().context_bucket(510));
    const auto one = attention_plan(args, cache, rows, bucket, kDevice),
               other = attention_plan(args, cache, others, bucket, kDevice);
    EXPECT_EQ(one.blocks, other.blocks);
    EXPECT_EQ(one.whole, other.whole);
    EXPECT_EQ(one.tiles, other.tiles);
    EXPECT_EQ(one.variant.kernel, other.variant.kernel);
  }
}

TEST(CudaAttentionPlan, PromptsFillTheDeviceWhole) {
  const AttentionArgs args = args_of(32, 128, 128);
  const CacheLayer cache = cache_of(Storage::kBf16, 8, 128, 128);
  for (const std::int64_t tokens : {1024, 1025, 2048, 4096, 8192, 16384}) {
    const auto plan = plan_of(args, cache, 1, tokens, tokens);
    EXPECT_TRUE(plan.whole) << tokens;
    EXPECT_EQ(plan.blocks, (tokens * 4 + 127) / 128 * 8);
    // Two a multiprocessor, all at once: one of those with most keys and one of those with least.
    EXPECT_EQ(plan.mirrored_from, plan.blocks <= 264 ? kDevice.multiprocessors : 0);
  }
  // A piece of a prompt behind a long prefix has too few tiles: its keys are shared out.
  const auto piece = plan_of(args, cache, 1, 256, 32768);
  EXPECT_FALSE(piece.whole);
  EXPECT_EQ(piece.blocks, 2 * kDevice.multiprocessors);
}

// What blocks take, item by item, as attention_plan.cpp counts: a unit of keys 1, an item 2 more, adding up
// 5; 0.6 a unit where no other block shares the multiprocessor.
struct Times {
  double whole = 0, shared_out = 0;
};
Times times_of(const AttentionArgs& args, const CacheLayer& cache, std::span<const SequenceRows> sequences,
               const cuda::AttentionVariant& v) {
  const std::int64_t group = args.heads / cache.heads;
  std::vector<double> items;
  double units = 0;
  for (const SequenceRows& s : sequences)
    for (std::int64_t row = 0; row < s.new_tokens * group; row += v.rows) {
      const std::int64_t first = s.cached + row / group,
                         last = s.cached + (std::min(row + v.rows, s.new_tokens * group) - 1) / group;
      const std::int64_t from = args.window > 0 ? std::max<std::int64_t>(0, first - args.window + 1) : 0;
      items.insert(items.end(), static_cast<std::size_t>(cache.heads),
                   static_cast<double>(last / v.unit - from / v.unit + 1));
      units += static_cast<double>(cache.heads) * items.back();
    }
  Times times;
  const auto slots = static_cast<std::size_t>(v.blocks_per_processor * kDevice.multiprocessors);
  const double alone = items.size() <= static_cast<std::size_t>(kDevice.multiprocessors) ? 0.6 : 1;
  std::vector<double> slot(slots, 0);
  for (auto item = items.rbegin(); item != items.rend(); ++item)
    *std::min_element(slot.begin(), slot.end()) += alone * *item + 2;
  times.whole = *std::max_element(slot.begin(), slot.end());
  const double each = std::max<double>(v.least_units, std::ceil(units / static_cast<double>(slots)));
  double left = each, block = 0;
  for (double item : items)
    while (item > 0) {
      const double part = std::min(item, left);
      block += part + 2, item -= part, left -= part;
      times.shared_out = std::max(times.shared_out, block);
      if (left == 0) left = each, block = 0;
    }
  times.shared_out += 5;
  return times;
}

TEST(CudaAttentionPlan, PromptsAreCutWhereThatSaves) {
  const CacheLayer cache = cache_of(Storage::kBf16, 8, 128, 128);
  for (const std::int64_t window : {0, 1000})
    for (const std::int64_t cached : {0, 500, 7680, 30000})
      for (const std::int64_t tokens : {100, 256, 512, 1024, 1500, 2048, 4096, 8192})
        for (const std::int64_t sequences : {1, 3}) {
          AttentionArgs args = args_of(32, 128, 128);
          args.window = window;
          const std::vector<SequenceRows> rows(static_cast<std::size_t>(sequences), {0, tokens, cached});
          const auto plan = attention_plan(args, cache, rows, cached + tokens, kDevice);
          const Times times = times_of(args, cache, rows, plan.variant);
          EXPECT_LE(plan.whole ? times.whole : times.shared_out,
                    1.3 * std::min(times.whole, times.shared_out))
              << sequences << " of " << cached << " + " << tokens << ", window " << window << ": "
              << times.whole << " whole, " << times.shared_out << " shared out";
        }
  // What 1,024 and 2,048 tokens did when they were shared out: blocks of a dozen short items.
  for (const std::int64_t tokens : {1024, 2048}) {
    const std::vector<SequenceRows> rows(1, {0, tokens, 0});
    const auto plan = attention_plan(args_of(32, 128, 128), cache, rows, tokens, kDevice);
    const Times times = times_of(args_of(32, 128, 128), cache, rows, plan.variant);
    EXPECT_LT(times.whole, 0.6 * times.shared_out);
  }
}

TEST(CudaAttentionPlan, DividesByAnyNumber) {
  constexpr int kMost = std::numeric_limits<int>::max();
  for (const int by : {1, 2, 3, 4, 5, 7, 8, 12, 16, 33, 48, 71, 96, 128, 300, 1 << 20, kMost - 1, kMost}) {
    const cuda::Divisor divisor(by);
    for (const int n :
         {0, 1, by - 1, by, 2 * (by / 2), kMost / by * by, kMost / by * by - 1, kMost - 1, kMost})
      EXPECT_EQ(divisor.quotient(n), n / by) << n << " / " << by;
    for (int n = 1; n < kMost / 3; n = 3 * n + 1) EXPECT_EQ(divisor.quotient(n), n / by) << n << " / " << by;
  }
}

TEST(CudaAttentionPlan, ScratchIsEnoughForEveryPlan) {
  const std::int64_t rows = 300;
  for (const auto storage : kStorages)
    for (const auto& [k, v] : {std::pair<std::int64_t, std::int64_t>{64, 64},
                               {128, 128},
                               {192, 128},
                               {7, 5},
                               {256, 256},
                               {576, 0},
                               {40, 0}}) {
      const CacheLayer cache = cache_of(storage, v == 0 ? 1 : 2, k, v);
      AttentionArgs args = args_of(16, k, v == 0 ? k - k / 9 : v), asked = args;
      asked.v_dim = std::max(k, v);  // as who allocates asks
      const std::size_t most = attention_most_part_bytes(asked, cache, rows, kDevice);
      EXPECT_LE(most, std::size_t{160} << 20);
      for (const std::int64_t tokens : {1, 2, 3, 5, 9, 17, 40, 100, 300})
        for (const std::int64_t longest : {512, 8192, 131072}) {
          const auto plan = plan_of(args, cache, rows / tokens, tokens, longest);
          EXPECT_LE(attention_part_bytes(plan, args.v_dim), most);
        }
      EXPECT_GE(attention_most_part_bytes(asked, cache, 2 * rows, kDevice), most);
    }
}

}  // namespace
}  // namespace foretoken
