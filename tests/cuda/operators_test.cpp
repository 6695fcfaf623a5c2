// Norms, elements, moved rows and cache entries on the device against the reference, in odd shapes.
#include <array>
#include <functional>
#include <numeric>

#include "executor/kernels_shared.h"
#include "tests/cuda/both_sets.h"

namespace foretoken {
namespace {

TEST(CudaOperators, Norms) {
  struct Shape {
    std::int64_t width, gap, rows;
  };
  for (const auto& [width, gap, rows] :
       {Shape{1, 0, 3}, Shape{3, 1, 3}, Shape{64, 4, 9}, Shape{129, 0, 3}, Shape{192, 0, 1}, Shape{256, 3, 2},
        Shape{576, 64, 3}, Shape{1024, 0, 2}, Shape{1025, 0, 2}, Shape{1028, 4, 3}, Shape{4096, 0, 2},
        Shape{4100, 0, 9}, Shape{16388, 0, 1}, Shape{64, 0, 0}})
    for (const auto kind : {NormKind::kRms, NormKind::kLayer}) {
      if (width == 1 && kind == NormKind::kLayer) continue;  // nothing but rounding is left
      Floats x = spaced(rows, width, width + gap, 1);
      for (float& value : x) value += 2;  // a mean to be taken off
      const Floats w = normal(size_of(width), 2), b = normal(size_of(width), 3);
      const std::string what = "norm of " + std::to_string(width);
      for (const std::size_t shift : {0u, 1u}) {
        compare(
            Floats(size_of(rows * (width + gap)), kPoison),
            [&](const Kernels& kernels, const Put& put, float* out) {
              const NormArgs args{kind, 0.1f, 1, put(w), put(b)};
              kernels.norm(args, put(x), width + gap, rows, width, out, width + gap);
            },
            1e-6, what, shift);
      }
      compare(
          x,
          [&](const Kernels& kernels, const Put&, float* out) {  // in place, without weights
            kernels.norm({kind, 1e-6f, 0, nullptr, nullptr}, out, width + gap, rows, width, out, width + gap);
          },
          1e-6, what + " in place");
    }
}

// The stream with what is added to it, then its norm.
TEST(CudaOperators, NormsOfSums) {
  for (const auto kind : {NormKind::kRms, NormKind::kLayer})
    for (const std::int64_t rows : {0, 1, 3, 300})
      for (const std::int64_t width : {5, 64, 256, 1028, 4096, 20480}) {
        if (rows == 300 && width > 300) continue;
        const Floats w = normal(size_of(width), 2), b = normal(size_of(width), 3),
                     added = normal(size_of(rows * width), 4);
        Floats before = normal(size_of(rows * width), 5);
        before.resize(size_of(2 * rows * width + 3), kPoison);
        compare(
            before,
            [&](const Kernels& kernels, const Put& put, float* out) {
              kernels.add_norm({kind, 1e-6f, 1, put(w), put(b)}, put(added), rows, width, out,
                               out + rows * width);
            },
            1e-6, std::to_string(rows) + " rows of " + std::to_string(width));
      }
}

TEST(CudaOperators, NormsOfHeads) {
  for (const std::int64_t rows : {0, 1, 5})
    for (const std::int64_t heads : {1, 2, 9})
      for (const std::int64_t dim : {7, 64, 128, 260}) {
        const Floats w = normal(size_of(dim), 2);
        const std::int64_t stride = heads * dim + (dim % 4 == 0 ? 12 : 3);
        compare(
            spaced(rows, heads * dim, stride, 4),
            [&](const Kernels& kernels, const Put& put, float* x) {
              kernels.norm_heads({NormKind::kRms, 1e-6f, 0, put(w), nullptr}, x, stride, rows, heads, dim);
            },
            1e-6, std::to_string(heads) + " heads of " + std::to_string(dim));
      }
}

TEST(CudaOperators, FlatElements) {
  for (const std::int64_t values : {0, 1, 3, 4, 1000, 2880, 5120, 9 * 1024})
    for (const std::size_t shift : {0u, 3u}) {
      const Floats x = normal(size_of(values), 5), y = normal(size_of(values), 6);
      const std::string what = std::to_string(values) + " values";
      compare(
          y, [&](const Kernels& kernels, const Put& put, float* out) { kernels.add(put(x), values, out); }, 0,
          "add " + what, shift);
      compare(
          y, [&](const Kernels& kernels, const Put&, float* out) { kernels.softcap(0.7f, values, out); },
          1e-6, "softcap " + what, shift);
    }
}

// More rows than a thread each: several a thread, and the rest of a last group.
TEST(CudaOperators, ManyRows) {
  const std::int64_t values = 1024 * 1031;
  const Floats x = normal(size_of(values), 5), y = normal(size_of(values), 6);
  Floats expected(y);
  reference.add(x.data(), values, expected.data());
  const OnDevice<float> in(x), out(y);
  cuda_set().add(in.data(), values, out.data());
  expect_near(out.back(), expected, 0, "add");
}

TEST(CudaOperators, Activations) {
  for (const auto kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                          Activation::kReluSquared, Activation::kClampedSwiglu})
    for (const bool gated : {false, true})
      for (const std::int64_t width : {1, 21, 256, 1028}) {
        Floats x = normal(size_of(9 * 2 * width), 4);
        for (auto& value : x) value = std::fabs(value) < 1.9f ? 3 * value : 60 * value;  // far tails too
        for (const std::int64_t rows : {0, 3, 9})  // one alone may be all cancellation
          compare(
              Floats(size_of(rows * width), kPoison),
              [&](const Kernels& kernels, const Put& put, float* out) {
                kernels.activation({kind, gated}, put(x), rows, width, out);
              },
              1e-6, std::to_string(static_cast<int>(kind)) + " of " + std::to_string(width));
      }
}

TEST(CudaOperators, Gates) {
  for (const std::int64_t width : {1, 33, 64, 1028})
    for (const std::int64_t gate_width : {std::int64_t{1}, width})
      for (const bool silu : {false, true})
        for (const std::int64_t rows : {0, 1, 9}) {
          const std::int64_t stride = gate_width + (silu ? 8 : 5);  // 8: in vectors, where the width is too
          const Floats gate = spaced(rows, gate_width, stride, 7);
          compare(
              normal(size_of(rows * width), 8),
              [&](const Kernels& kernels, const Put& put, float* y) {
                kernels.sigmoid_gate(put(gate), stride, gate_width, rows, width, silu, y);
              },
              1e-6, "gates of " + std::to_string(gate_width) + " for " + std::to_string(width));
        }
}

TEST(CudaOperators, Rope) {
  struct Shape {
    std::int64_t pairs, heads, head_dim, first, gap;
  };
  for (const auto& [pairs, heads, head_dim, first, gap] :
       {Shape{64, 3, 128, 0, 256}, Shape{8, 1, 32, 16, 4}, Shape{3, 5, 9, 2, 1}, Shape{4, 2, 11, 0, 0},
        Shape{32, 8, 64, 0, 0}, Shape{5, 6, 12, 0, 4}})
    for (const bool interleaved : {false, true})
      for (const Indices& positions : {Indices{}, Indices{6}, Indices{0, 7, 3, 3, 1}}) {
        const Floats cosines = normal(size_of(8 * pairs), 9), sines = normal(size_of(8 * pairs), 10);
        const std::int64_t stride = heads * head_dim + gap;
        const OnDevice<std::int32_t> at(positions);
        const auto rows = static_cast<std::int64_t>(positions.size());
        compare(
            spaced(rows, heads * head_dim, stride, 11),
            [&](const Kernels& kernels, const Put& put, float* x) {
              kernels.rope(put(cosines), put(sines), pairs, interleaved,
                           &kernels == &reference ? std::span<const std::int32_t>(positions) : at.span(), x,
                           stride, heads, head_dim, first);
            },
            3e-7, std::to_string(pairs) + " pairs");
      }
}

TEST(CudaOperators, RowsThatMove) {
  for (const std::int64_t width : {1, 6, 64, 1540}) {
    const std::int64_t stride = width + (width % 4 == 0 ? 4 : 3);
    const Floats x = normal(size_of(7 * width), 12), wide = spaced(7, width, stride, 13);
    const std::string what = " of " + std::to_string(width);
    for (const std::int64_t rows : {0, 1, 7})
      compare(
          Floats(size_of(rows * stride), kPoison),
          [&](const Kernels& kernels, const Put& put, float* to) {
            kernels.copy_rows(put(wide), stride, rows, width, to, stride);
          },
          0, "copy" + what);
    for (const Indices& rows_of : {Indices{}, Indices{4}, Indices{6, 0, 3, 1, 5}}) {
      const auto rows = static_cast<std::int64_t>(rows_of.size());
      const OnDevice<std::int32_t> device(rows_of);
      const auto of = [&](const Kernels& kernels) {
        return &kernels == &reference ? std::span<const std::int32_t>(rows_of) : device.span();
      };
      compare(
          Floats(size_of(rows * width), kPoison),
          [&](const Kernels& kernels, const Put& put, float* out) {
            kernels.gather_rows(put(x), width, of(kernels), out);
          },
          0, "gather" + what);
      compare(
          wide,
          [&](const Kernels& kernels, const Put& put, float* y) {
            kernels.add_rows(put(x), width, of(kernels), y, stride);
          },
          0, "add" + what);
    }
    const Indices place = {3, -1, 0, 6, -1, 2};
    const OnDevice<std::int32_t> device(place);
    const auto at = [&](const Kernels& kernels) {
      return &kernels == &reference ? place.data() : device.data();
    };
    for (const bool accumulate : {false, true}) {
      compare(
          normal(size_of(6 * width), 14),
          [&](const Kernels& kernels, const Put& put, float* out) {
            kernels.place_rows(put(x), width, at(kernels), 6, accumulate, out);
          },
          0, "place" + what);
      const Floats weights = {0.5f, kPoison, 2, -1, kPoison, 0.1f};  // of other ranks' experts: anything
      for (const std::int64_t top_k : {1, 2, 3, 6})
        compare(
            accumulate ? normal(size_of(6 / top_k * width), 15) : Floats(size_of(6 / top_k * width), kPoison),
            [&](const Kernels& kernels, const Put& put, float* out) {
              kernels.combine_rows(put(x), width, at(kernels), put(weights), 6 / top_k, top_k, accumulate,
                                   out);
            },
            2e-7, "combine " + std::to_string(top_k) + what);
      compare(
          Floats(3, kPoison),
          [&](const Kernels& kernels, const Put& put, float* out) {
            kernels.combine_rows(put(x), width, at(kernels), put(weights), 0, 2, accumulate, out);
          },
          0, "combine nothing");
    }
  }
}

TEST(CudaOperators, LatentsAreExpanded) {
  struct Shape {
    LatentArgs latent;
    int length;
  };
  for (const auto& [a, length] : {Shape{{3, 8, 4, 12, 16}, 7}, Shape{{2, 5, 3, 2, 6}, 5},
                                  Shape{{1, 128, 64, 128, 512}, 5}, Shape{{5, 8, 6, 4, 8}, 5}})
    for (const std::int64_t tokens : {0, 1, 5}) {
      const Floats up = normal(size_of(5 * a.heads * (a.nope + a.v)), 16),
                   latent = normal(size_of(5 * (a.rank + a.rope)), 17);
      // Of bf16 two share a float of what is compared; heads of an odd length end within one.
      for (const Storage storage : {Storage::kF32, Storage::kBf16}) {
        const std::int64_t each = storage == Storage::kBf16 ? 2 : 1,
                           keys = (a.heads * length * (a.nope + a.rope) + each - 1) / each,
                           values = (a.heads * length * a.v + each - 1) / each;
        compare(
            Floats(size_of(keys + 4 + values), kPoison),
            [&](const Kernels& kernels, const Put& put, float* out) {
              CacheLayer to;
              to.storage = storage, to.block_size = length, to.heads = a.heads;
              to.k_dim = a.nope + a.rope, to.v_dim = a.v;
              to.keys = reinterpret_cast<std::byte*>(out);
              to.values = reinterpret_cast<std::byte*>(out + (keys + 4) / 4 * 4);
              kernels.expand_latents(a, put(up), put(latent), tokens, to);
            },
            0, storage == Storage::kBf16 ? "latents in bf16" : "latents");
      }
    }
}

constexpr Storage kCacheStorages[] = {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8,
                                      Storage::kFp8};

// A cache's memory: each of its four parts, on the host or the device.
struct CacheBytes {
  std::vector<unsigned char> keys, values;
  Floats key_scales, value_scales;
};

TEST(CudaOperators, CacheEntries) {
  struct Shape {
    std::int64_t heads, k_dim, v_dim;
    int block_size;
  };
  for (const Storage storage : kCacheStorages)
    for (const auto& [heads, k_dim, v_dim, block_size] :
         {Shape{2, 128, 64, 4}, Shape{1, 576, 0, 16}, Shape{3, 7, 5, 3}, Shape{9, 20, 132, 4},
          Shape{1, 1028, 4, 2}})
      for (const auto& [lengths, cached] :
           {std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>>{{1, 1, 1}, {0, 5, 8}},
            {{3, 0, 6, 1}, {0, 3, 2, 7}},
            {{1}, {2}}}) {
        const Rows rows(lengths, cached, block_size);
        const std::int64_t slots = rows.most_blocks() * heads * block_size, width = cache_width(storage);
        const std::int64_t key_stride = heads * k_dim + (k_dim % 4 == 0 ? 8 : 1),
                           value_stride = heads * v_dim + (k_dim % 4 == 0 ? 4 : 2);
        Floats keys = normal(size_of(rows.end() * key_stride), 18),
               values = normal(size_of(rows.end() * value_stride), 19);
        std::fill_n(keys.begin() + 2 * key_stride, k_dim, 0.0f);  // a vector without a largest
        CacheBytes before{std::vector<unsigned char>(size_of(slots * k_dim * width), 0xab),
                          std::vector<unsigned char>(size_of(slots * v_dim * width), 0xab),
                          Floats(size_of(slots), kPoison), Floats(size_of(slots), kPoison)};
        const auto layer = [&](auto* k, auto* v, float* ks, float* vs) {
          return CacheLayer{storage,
                            block_size,
                            heads,
                            k_dim,
                            v_dim,
                            reinterpret_cast<std::byte*>(k),
                            v_dim > 0 ? reinterpret_cast<std::byte*>(v) : nullptr,
                            ks,
                            vs};
        };
        CacheBytes expected(before);
        const CacheLayer host = layer(expected.keys.data(), expected.values.data(),
                                      expected.key_scales.data(), expected.value_scales.data());
        reference.cache_write(host, rows.of(reference), keys.data(), key_stride,
                              v_dim > 0 ? values.data() : nullptr, value_stride);
        const std::int64_t tokens = rows.host()[0].cached + rows.host()[0].new_tokens;
        Floats read_keys(size_of(tokens * heads * k_dim) + 3, kPoison),
            read_values(size_of(tokens * heads * v_dim) + 3, kPoison);
        const std::string what = std::to_string(static_cast<int>(storage)) + ": " + std::to_string(heads) +
                                 " heads of " + std::to_string(k_dim);
        everywhere([&](const cuda::CudaKernels& set) {
          const OnDevice<unsigned char> k(before.keys), v(before.values);
          const OnDevice<float> ks(before.key_scales), vs(before.value_scales), in_keys(keys),
              in_values(values), out_keys(read_keys), out_values(read_values);
          const CacheLayer device = layer(k.data(), v.data(), ks.data(), vs.data());
          set.cache_write(device, rows.of(set), in_keys.data(), key_stride,
                          v_dim > 0 ? in_values.data() : nullptr, value_stride);
          EXPECT_EQ(k.back(), expected.keys) << what;
          EXPECT_EQ(v.back(), expected.values) << what;
          expect_near(ks.back(), expected.key_scales, 0, what);
          expect_near(vs.back(), expected.value_scales, 0, what);

          // What was cached before is any bits: read the new tokens' alone, as those of one sequence.
          for (const SequenceRows& s : rows.host()) {
            if (s.cached > 0) continue;
            const std::ptrdiff_t at = s.blocks - rows.blocks().data();
            set.cache_read(device, rows.device_blocks() + at, s.new_tokens, out_keys.data(),
                           v_dim > 0 ? out_values.data() : nullptr);
            Floats a(read_keys), b(read_values);
            reference.cache_read(host, s.blocks, s.new_tokens, a.data(), v_dim > 0 ? b.data() : nullptr);
            expect_near(out_keys.back(), a, 0, what);
            expect_near(out_values.back(), b, 0, what);
          }
        });
      }
  const Rows none({}, {}, 4);
  cuda_set().cache_write({Storage::kF32, 4, 1, 4, 4}, none.of(cuda_set()), nullptr, 4, nullptr, 4);
  cuda_set().cache_read({Storage::kF32, 4, 1, 4, 4}, nullptr, 0, nullptr, nullptr);
}

// Queries and keys turned and the cache written at once, beside one after the other.
TEST(CudaOperators, TurnedRowsGoToTheCache) {
  const std::int64_t q_heads = 6, kv_heads = 2;
  const int block_size = 4;
  const Rows rows({3, 6, 1}, {0, 2, 7}, block_size);
  for (const Storage storage : kCacheStorages)
    for (const std::int64_t dim : {7, 40, 128, 256, 320})
      for (const bool interleaved : {false, true}) {
        const std::int64_t pairs = dim / 2 - (dim == 40 ? 4 : 0),
                           slots = rows.most_blocks() * kv_heads * block_size,
                           stride = (q_heads + 2 * kv_heads) * dim + 3, k_at = q_heads * dim,
                           v_at = k_at + kv_heads * dim;
        const Floats x = normal(size_of(rows.end() * stride), 21), angles = normal(size_of(20 * pairs), 22);
        Floats cosines, sines;
        for (const float a : angles) cosines.push_back(std::cos(a)), sines.push_back(std::sin(a));
        Indices positions;
        for (std::int64_t row = 0; row < rows.end(); ++row)
          positions.push_back(static_cast<std::int32_t>((7 * row) % 20));
        const auto run = [&](const Kernels& set, const float* c, const float* s,
                             std::span<const std::int32_t> at, float* all, std::byte* k, std::byte* v,
                             float* ks, float* vs) {
          const CacheLayer layer{storage, block_size, kv_heads, dim, dim, k, v, ks, vs};
          set.rope_and_write({c, s, pairs, interleaved}, at, all, q_heads, all + k_at, all + v_at, stride,
                             layer, rows.of(set));
          return layer;
        };
        const std::size_t bytes = size_of(slots * dim * cache_width(storage));
        std::vector<unsigned char> keys(bytes, 0), values(bytes, 0);
        Floats key_scales(size_of(slots), 1), value_scales(size_of(slots), 1), expected(x);
        const CacheLayer host =
            run(reference, cosines.data(), sines.data(), positions, expected.data(),
                reinterpret_cast<std::byte*>(keys.data()), reinterpret_cast<std::byte*>(values.data()),
                key_scales.data(), value_scales.data());
        const auto read = [&](const Kernels& set, const CacheLayer& layer, const std::int32_t* blocks,
                              float* k, float* v) { set.cache_read(layer, blocks, 3, k, v); };
        const std::size_t first = size_of(3 * kv_heads * dim);
        Floats k_expected(first), v_expected(first);
        read(reference, host, rows.host()[0].blocks, k_expected.data(), v_expected.data());
        const std::string what =
            std::to_string(static_cast<int>(storage)) + ", " + std::to_string(dim) + " dims";
        everywhere([&](const cuda::CudaKernels& set) {
          const OnDevice<unsigned char> k(std::vector<unsigned char>(bytes, 0)),
              v(std::vector<unsigned char>(bytes, 0));
          const OnDevice<float> c(cosines), s(sines), all(x), ks(Floats(size_of(slots), 1)),
              vs(Floats(size_of(slots), 1)), k_got(Floats(first, kPoison)), v_got(Floats(first, kPoison));
          const OnDevice<std::int32_t> at(positions);
          const CacheLayer device =
              run(set, c.data(), s.data(), at.span(), all.data(), reinterpret_cast<std::byte*>(k.data()),
                  reinterpret_cast<std::byte*>(v.data()), ks.data(), vs.data());
          expect_near(all.back(), expected, 1e-6, what);
          const std::ptrdiff_t blocks = rows.host()[0].blocks - rows.blocks().data();
          read(set, device, rows.device_blocks() + blocks, k_got.data(), v_got.data());
          const double limit = storage == Storage::kF32 ? 1e-6 : 1e-3;
          expect_near(k_got.back(), k_expected, limit, what);
          expect_near(v_got.back(), v_expected, limit, what);
        });
      }
}

// Moved by one place, by some and by more than there are tokens, and turned where they are.
TEST(CudaOperators, ShiftedTokens) {
  struct Shape {
    std::int64_t heads, k_dim, v_dim, pairs, first;
    bool interleaved;
    int block_size;
  };
  constexpr std::int64_t kEnd = 60;
  for (const Storage storage : kCacheStorages)
    for (const Shape& s :
         {Shape{2, 128, 64, 64, 0, false, 4}, Shape{1, 576, 0, 32, 512, true, 16},
          Shape{3, 7, 5, 3, 0, false, 1}, Shape{9, 20, 132, 4, 0, true, 3}, Shape{5, 6, 6, 0, 0, false, 4}})
      for (const auto& [from, to, tokens] :
           {std::array<std::int64_t, 3>{9, 8, 41}, {20, 9, 40}, {50, 1, 9}, {5, 5, 50}, {7, 5, 1}}) {
        Indices blocks;
        const auto count = (kEnd + s.block_size - 1) / s.block_size;
        for (std::int64_t b = 0; b < count; ++b)  // in no order
          blocks.push_back(static_cast<std::int32_t>((b % 2 == 0 ? b + 1 : b - 1)));
        const std::int64_t slots = (count + 1) * s.block_size * s.heads, width = cache_width(storage);
        const Floats angles = normal(size_of(s.pairs), 24),
                     keys = normal(size_of(kEnd * s.heads * s.k_dim), 25),
                     values = normal(size_of(kEnd * s.heads * s.v_dim), 26);
        Floats cosines, sines;
        for (const float a : angles) cosines.push_back(std::cos(a)), sines.push_back(std::sin(a));
        CacheBytes cache{std::vector<unsigned char>(size_of(slots * s.k_dim * width), 0),
                         std::vector<unsigned char>(size_of(slots * s.v_dim * width), 0),
                         Floats(size_of(slots), 1), Floats(size_of(slots), 1)};
        const auto layer = [&](unsigned char* k, unsigned char* v, float* ks, float* vs) {
          return CacheLayer{storage,
                            s.block_size,
                            s.heads,
                            s.k_dim,
                            s.v_dim,
                            reinterpret_cast<std::byte*>(k),
                            reinterpret_cast<std::byte*>(v),
                            of_8_bits(storage) ? ks : nullptr,
                            of_8_bits(storage) ? vs : nullptr};
        };
        const CacheLayer host =
            layer(cache.keys.data(), cache.values.data(), cache.key_scales.data(), cache.value_scales.data());
        const SequenceRows all{0, kEnd, 0, blocks.data()};
        reference.cache_write(host, std::span(&all, 1), keys.data(), s.heads * s.k_dim, values.data(),
                              s.heads * s.v_dim);
        const CacheBytes before(cache);
        Threads threads;
        reference.shift_cached(host,
                               {blocks.data(),
                                from,
                                to,
                                tokens,
                                {cosines.data(), sines.data(), s.pairs, s.interleaved},
                                s.first},
                               threads);
        Floats read(keys.size());
        reference.cache_read(host, blocks.data(), kEnd, read.data(), nullptr);
        const std::string what = std::to_string(static_cast<int>(storage)) + ": " + std::to_string(s.heads) +
                                 " heads of " + std::to_string(s.k_dim) + " from " + std::to_string(from);
        everywhere([&](const cuda::CudaKernels& set) {
          const OnDevice<unsigned char> k(before.keys), v(before.values);
          const OnDevice<float> ks(before.key_scales), vs(before.value_scales), c(cosines), sn(sines),
              got(Floats(read.size(), kPoison));
          const OnDevice<std::int32_t> at(blocks);
          const CacheLayer device = layer(k.data(), v.data(), ks.data(), vs.data());
          set.shift_cached(
              device, {at.data(), from, to, tokens, {c.data(), sn.data(), s.pairs, s.interleaved}, s.first},
              threads);
          EXPECT_EQ(v.back(), cache.values) << what;
          expect_near(vs.back(), cache.value_scales, 0, what);
          if (s.pairs == 0) {
            EXPECT_EQ(k.back(), cache.keys) << what;
          }
          set.cache_read(device, at.data(), kEnd, got.data(), nullptr);
          expect_near(got.back(), read, storage == Storage::kF32 ? 1e-6 : 2e-3, what);
        });
      }
}

// Lengths and blocks are read from the device, so that a recorded launch serves other ones.
TEST(CudaOperators, RecordedStepsReadTheTables) {
  const cuda::CudaKernels& set = cuda_set();
  const auto steps = set.graphs();
  const std::int64_t heads = 2, dims = 8, slots = 40 * heads * 4;
  const Rows first({1, 1}, {0, 5}, 4), second({1, 1}, {9, 2}, 4);
  std::vector<SequenceRows> own(first.host());
  for (std::size_t i = 0; i < 2; ++i)
    own[i].blocks = first.device_blocks() + (first.host()[i].blocks - first.blocks().data());
  const OnDevice<SequenceRows> table(own);
  const Floats x = normal(size_of(4 * heads * dims), 20);
  const Floats gates = {0, 0, 0, 0, -0.1f, -0.2f, -0.3f, -0.4f}, ones(8, 0.5f),
               w = normal(size_of(4 * 16), 21);
  const OnDevice<float> in(x), decay(gates), beta(ones), weight(w);
  const Indices slot = {2, 0};
  const OnDevice<std::int32_t> device_slot(slot);
  const std::int64_t values = heads * dims * dims, conv = 3 * heads * dims;
  Floats states = normal(size_of(3 * values), 22), convs = normal(size_of(3 * conv), 23),
         cache(size_of(slots * dims), 0.0f), out(size_of(4 * heads * dims), kPoison), convolved(out);
  const OnDevice<float> d_states(states), d_convs(convs), d_cache(cache), d_out(out), d_convolved(out);
  Threads threads;
  const auto step = [&](const Kernels& kernels, const Sequences& sequences, const std::int32_t* where,
                        float* cached, float* state, float* convs_at, float* to, float* convolved_to,
                        const float* from, const float* g, const float* b, const float* weights) {
    kernels.cache_write({Storage::kF32, 4, heads, dims, 0, reinterpret_cast<std::byte*>(cached)}, sequences,
                        from, heads * dims, nullptr, 0);
    kernels.causal_conv(sequences, {convs_at, conv, where}, from, heads * dims, heads * dims, 4, weights,
                        nullptr, true, convolved_to, heads * dims);
    kernels.recurrence({heads, dims, dims, true}, sequences, {state, values, where}, from, from, from, g, b,
                       to, threads);
  };
  for (const Rows* rows : {&first, &second, &first}) {
    for (std::size_t i = 0; i < 2; ++i) {
      own[i] = rows->host()[i];
      own[i].blocks = rows->device_blocks() + (rows->host()[i].blocks - rows->blocks().data());
    }
    set.memory().copy(table.data(), own.data(), sizeof(SequenceRows) * 2);
    steps->run(1, [&] {
      step(set, Sequences(first.host(), table.data()), device_slot.data(), d_cache.data(), d_states.data(),
           d_convs.data(), d_out.data(), d_convolved.data(), in.data(), decay.data(), beta.data(),
           weight.data());
    });
    step(reference, Sequences(rows->host()), slot.data(), cache.data(), states.data(), convs.data(),
         out.data(), convolved.data(), x.data(), gates.data(), ones.data(), w.data());
    expect_near(d_cache.back(), cache, 0, "cache");
    expect_near(d_states.back(), states, 1e-6, "states");
    expect_near(d_convs.back(), convs, 0, "last rows");
    expect_near(d_out.back(), out, 1e-6, "out");
    expect_near(d_convolved.back(), convolved, 1e-6, "convolved");
  }
}

}  // namespace
}  // namespace foretoken
