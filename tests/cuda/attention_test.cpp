// Attention on the device against the reference: every storage, head size and group, windows, branches, and
// batches of all kinds.
#include "tests/cuda/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "executor/kernels_shared.h"
#include "tests/cuda/on_device.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken {
namespace {

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
    AttentionArgs args = shape_.args;
    expected_lse_.assign(static_cast<std::size_t>(rows_in_all_ * args.heads), kPoison);
    args.lse = expected_lse_.data();
    reference_kernels().attention(args, layer(), std::span<const SequenceRows>(rows_), q_.data(), q_stride_,
                                  out.data(), out_stride_, scratch.data(), threads);
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
    const OnDevice<float> lse(static_cast<std::size_t>(rows_in_all_ * args.heads), kPoison);
    args.lse = lse.data();
    const std::size_t bytes = kernels.attention_scratch(args, cache, new_rows, longest, 1);
    const OnDevice<std::byte> scratch(bytes, std::byte{0xff});
    Threads threads;
    kernels.attention(args, cache, {rows, own.data()}, q.data(), q_stride_, out.data(), out_stride_,
                      scratch.data(), threads);
    lse_ = lse.back();
    return out.back();
  }

  const std::vector<SequenceRows>& rows() const { return rows_; }
  // Logarithms of the sums of the last got(), and those of expected().
  void compare_sums(double most) const {
    const auto heads = static_cast<std::size_t>(shape_.args.heads);
    for (const SequenceRows& s : rows_)
      for (std::size_t i = 0; i < static_cast<std::size_t>(s.new_tokens) * heads; ++i) {
        const std::size_t at = static_cast<std::size_t>(s.first_row) * heads + i;
        ASSERT_NEAR(lse_.at(at), expected_lse_.at(at), most);
      }
  }
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
  Floats key_scales_, value_scales_, q_, sinks_, expected_lse_;
  mutable Floats lse_;
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
  batch.compare_sums(exact ? 2e-5 : 1e-2);
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
  const Floats expected = batch.expected();
  expect_alike(batch, shape, batch.got(), expected);
  if (shape.storage != Storage::kBf16 || !cuda_set().warpgroups()) return;
  if (cuda_set().tensor_maps()) {
    cuda_set().use_tensor_maps(false);
    expect_alike(batch, shape, batch.got(), expected, "without tensor maps");
    cuda_set().use_tensor_maps(true);
  }
  cuda_set().use_warpgroups(false);
  expect_alike(batch, shape, batch.got(), expected, "without warpgroups");
  cuda_set().use_warpgroups(true);
}

constexpr Storage kRounded[] = {Storage::kBf16, Storage::kInt8, Storage::kFp8};

TEST(CudaAttention, DecodesEveryHeadSize) {
  const std::int64_t dims[][2] = {{64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {7, 5}};
  for (const auto& [qk, v] : dims)
    for (const auto storage : {Storage::kF32, Storage::kBf16, Storage::kInt8})
      check({args_of(4, qk, v), 2, storage, 16, false}, {{132, 1}, {0, 1}, {36, 1}});
}

// Results over two parts of the keys become those over both; some parts hold none.
TEST(CudaAttention, PartsMerge) {
  const std::int64_t heads = 5, v = 72, rows = 9, width = heads * v;
  AttentionArgs args = args_of(heads, 64, v);
  const Floats part = normal(rows * (width + 3), 1);
  Floats out = normal(rows * width, 2), lse = normal(rows * heads, 3), part_lse = normal(rows * heads, 4);
  const float none = -std::numeric_limits<float>::infinity();
  part_lse[7] = part_lse[12] = none;
  lse[20] = none;
  std::fill_n(out.begin() + 20 * v, v, kPoison);
  const std::vector<SequenceRows> sequences{{1, 3, 0, nullptr}, {4, 1, 5, nullptr}, {6, 2, 0, nullptr}};
  const OnDevice<float> own(out), own_lse(lse), other(part), other_lse(part_lse);
  const OnDevice<SequenceRows> on_device(sequences);
  args.lse = own_lse.data();
  cuda_set().merge_attention(args, {sequences, on_device.data()}, other.data(), width + 3, other_lse.data(),
                             own.data(), width);
  args.lse = lse.data();
  reference_kernels().merge_attention(args, std::span<const SequenceRows>(sequences), part.data(), width + 3,
                                      part_lse.data(), out.data(), width);
  EXPECT_LT(distance(own.back(), out), 1e-6);
  const Floats got = own_lse.back();
  for (std::size_t i = 0; i < lse.size(); ++i) EXPECT_NEAR(got[i], lse[i], 1e-6) << i;
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

// More than 32 rows, of which a device with products of warpgroups makes tiles of 64 and 128.
TEST(CudaAttention, ManyRows) {
  const auto sinks = normal(8, 15);
  for (const auto& [qk, v] :
       {std::pair{64, 64}, {72, 56}, {128, 128}, {192, 128}, {160, 96}, {256, 256}, {200, 136}}) {
    const Shape shape{args_of(8, qk, v), 2, Storage::kBf16, 16, false};
    check(shape, {{0, 33}, {150, 20}, {129, 9}});
    check({args_of(2, qk, v), 2, Storage::kBf16, 5, false}, {{0, 300}}, 2);
  }
  for (const std::int64_t window : {1, 40, 130, 200})
    for (const bool chunked : {false, true}) {
      AttentionArgs args = args_of(8, 128, 128);
      args.window = window, args.chunked = chunked;
      check({args, 2, Storage::kBf16, 16, false}, {{100, 70}, {260, 10}});
      args.sinks = sinks.data(), args.softcap = 2;
      check({args, 2, Storage::kBf16, 16, false}, {{100, 70}, {260, 10}});
    }
}

// Where keys come in boxes: of 8 rows and more, whole ones of a block, and a last one that no sequence fills.
TEST(CudaAttention, BoxesOfEveryBlockSize) {
  AttentionArgs window = args_of(8, 64, 64);
  window.window = 70;
  for (const int block : {8, 24, 64, 136}) {
    for (const AttentionArgs& args : {args_of(8, 64, 64), window})
      check({args, 2, Storage::kBf16, block, false}, {{0, 33}, {250, 23}, {127, 10}});
    check({{70, 72, 64, 0.1f}, 1, Storage::kBf16, block, true}, {{191, 1}, {128, 1}, {64, 2}});
  }
}

TEST(CudaAttention, LatentsOfManyHeads) {
  const auto sinks = normal(70, 16);
  for (const std::int64_t heads : {40, 64, 128})
    check({{heads, 576, 512, 0.05f}, 1, Storage::kBf16, 16, true}, {{700, 1}, {64, 1}, {3, 2}});
  check({{70, 520, 488, 0.05f}, 1, Storage::kBf16, 16, true}, {{150, 1, 20}, {127, 1}});
  for (const std::int64_t window : {1, 50, 200}) {
    AttentionArgs args{70, 576, 512, 0.05f};
    args.window = window, args.sinks = sinks.data(), args.softcap = 3;
    check({args, 1, Storage::kBf16, 16, true}, {{300, 1}, {60, 3}});
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
TEST(CudaAttention, WhatFailsItsCheckIsNotUsed) {
  EXPECT_TRUE(cuda_set().tensor_maps());
  EXPECT_EQ(cuda_set().machine().find("TMA"), std::string::npos);
  using cuda::emulation::TensorMaps;
  auto& settings = cuda::emulation::settings();
  for (const auto how : {TensorMaps::kNone, TensorMaps::kOtherPlaces, TensorMaps::kFewerBytes}) {
    settings.tensor_maps = how;
    const cuda::CudaKernels kernels;
    settings = {};
    EXPECT_TRUE(kernels.warpgroups());
    EXPECT_FALSE(kernels.tensor_maps());
    EXPECT_NE(kernels.machine().find(", TMA failed its check and isn't used"), std::string::npos);
    kernels.use_tensor_maps(true);
    EXPECT_FALSE(kernels.tensor_maps());
  }
}

TEST(CudaAttention, AnyOrderOfThreads) {
  using cuda::emulation::Order;
  auto& settings = cuda::emulation::settings();
  // Heads, and of the cache: 1 are latents.
  const std::pair<std::int64_t, std::int64_t> heads[] = {{6, 3}, {24, 3}, {6, 1}, {40, 1}, {70, 1}};
  for (const auto storage : {Storage::kBf16, Storage::kInt8, Storage::kF32})
    for (const auto& [queries, kv_heads] : heads) {
      const bool latent = kv_heads == 1;
      const Shape shape{args_of(queries, 64, 64), kv_heads, storage, 16, latent};
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

}  // namespace
}  // namespace foretoken
