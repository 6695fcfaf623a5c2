// Attention over a paged cache against the reference, and the same bits however prompts are cut and batched.
#include <numeric>
#include <random>

#include "tests/executor/kernels_testing.h"

namespace foretoken {
namespace {

// A cache of shuffled blocks and what was written to it.
struct Cache {
  CacheLayer layer;
  Memory keys, values;
  Floats key_scales, value_scales;
  std::vector<std::int32_t> blocks;

  Cache(Storage storage, int block_size, std::int64_t heads, std::int64_t k_dim, std::int64_t v_dim,
        int count, unsigned seed)
      : keys(static_cast<std::size_t>(count * block_size * heads * k_dim * 4)),
        values(static_cast<std::size_t>(count * block_size * heads * v_dim * 4)),
        key_scales(static_cast<std::size_t>(count * block_size * heads), kPoison),
        value_scales(key_scales),
        blocks(static_cast<std::size_t>(count)) {
    std::memset(keys.data(), 0xff, static_cast<std::size_t>(count * block_size * heads * k_dim * 4));
    layer = {storage,           block_size,         heads, k_dim, v_dim, keys.data(), values.data(),
             key_scales.data(), value_scales.data()};
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
  }
};

// Runs a sequence of `tokens` in steps that end at `cuts`, over its own cache; its rows' outputs.
Floats attend(const Kernels& kernels, const AttentionArgs& args, Cache& cache, const Floats& q,
              const Floats& k, const Floats& v, const std::vector<std::int64_t>& cuts, Threads& threads) {
  const std::int64_t width = args.heads * args.v_dim, tokens = cuts.back();
  Floats out(static_cast<std::size_t>((tokens + 2) * width), kPoison);
  std::int64_t cached = 0;
  for (const auto end : cuts) {
    const SequenceRows rows{cached, end - cached, cached, cache.blocks.data()};
    const auto& layer = cache.layer;
    kernels.cache_write(layer, std::span(&rows, 1), k.data(), layer.heads * layer.k_dim, v.data(),
                        layer.heads * layer.v_dim);
    Memory scratch(kernels.attention_scratch(args, layer, rows.new_tokens, end, threads.count()));
    kernels.attention(args, layer, std::span(&rows, 1), q.data(), args.heads * args.qk_dim,
                      out.data() + width, width, scratch.data(), threads);
    cached = end;
  }
  for (std::int64_t i = 0; i < width; ++i) {
    EXPECT_TRUE(std::isnan(out[static_cast<std::size_t>(i)]));
    EXPECT_TRUE(std::isnan(out[static_cast<std::size_t>((tokens + 1) * width + i)]));
  }
  return Floats(out.begin() + width, out.end() - width);
}

struct Problem {
  Floats q, k, v;
  Problem(const AttentionArgs& a, std::int64_t kv_heads, std::int64_t tokens)
      : q(normal(static_cast<std::size_t>(tokens * a.heads * a.qk_dim), 11)),
        k(normal(static_cast<std::size_t>(tokens * kv_heads * a.qk_dim), 12)),
        v(normal(static_cast<std::size_t>(tokens * kv_heads * a.v_dim), 13)) {}
};

void compare(const Kernels& kernels, const AttentionArgs& args, std::int64_t kv_heads, Storage storage,
             int block, std::int64_t tokens, bool latent) {
  SCOPED_TRACE(testing::Message() << "dims " << args.qk_dim << "/" << args.v_dim << " heads " << args.heads
                                  << "/" << kv_heads << " storage " << static_cast<int>(storage) << " block "
                                  << block << " tokens " << tokens << " window " << args.window);
  const Problem p(args, kv_heads, tokens);
  Threads threads(2);
  const int count = static_cast<int>(tokens / block + 2);
  Cache mine(storage, block, kv_heads, args.qk_dim, latent ? 0 : args.v_dim, count, 1);
  Cache theirs(storage, block, kv_heads, args.qk_dim, latent ? 0 : args.v_dim, count, 2);
  const auto got = attend(kernels, args, mine, p.q, p.k, p.v, {tokens}, threads);
  // Weights of the softmax that are rounded to bf16 differ from the reference's by up to 2^-9.
  const bool exact = storage == Storage::kF32 || storage == Storage::kF16;
  EXPECT_LT(distance(got, attend(reference_kernels(), args, theirs, p.q, p.k, p.v, {tokens}, threads)),
            exact ? 5e-6 : 2.5e-3);
  // One token at a time, and in uneven pieces over other blocks, with other threads.
  std::vector<std::int64_t> singly(static_cast<std::size_t>(tokens));
  std::iota(singly.begin(), singly.end(), 1);
  Threads one;
  Cache again(storage, block, kv_heads, args.qk_dim, latent ? 0 : args.v_dim, count, 3);
  EXPECT_TRUE(same_bits(got, attend(kernels, args, again, p.q, p.k, p.v, singly, one)));
  Cache third(storage, block, kv_heads, args.qk_dim, latent ? 0 : args.v_dim, count, 4);
  EXPECT_TRUE(same_bits(got, attend(kernels, args, third, p.q, p.k, p.v, {tokens / 3 + 1, tokens}, threads)));
}

TEST_P(EverySet, AttentionOfEveryHeadSize) {
  const std::int64_t dims[][2] = {{64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {7, 5}};
  for (const auto& [qk, v] : dims)
    for (const std::int64_t tokens : {1, 37, 133}) {
      AttentionArgs args{4, qk, v, 1 / std::sqrt(static_cast<float>(qk))};
      compare(*kernels, args, 2, Storage::kF32, 16, tokens, false);
    }
}

TEST_P(EverySet, AttentionOfEveryStorage) {
  for (const auto storage : {Storage::kBf16, Storage::kF16, Storage::kInt8, Storage::kFp8})
    for (const std::int64_t kv_heads : {1, 3, 6})
      compare(*kernels, {6, 72, 40, 0.12f}, kv_heads, storage, kv_heads == 3 ? 16 : 5, 150, false);
}

TEST_P(EverySet, AttentionOfEveryGroup) {
  // Query heads that share a key: few (decoding reads several heads of the cache at a time) and many; blocks
  // that hold a part of a tile of keys, one, and several.
  for (const std::int64_t group : {1, 3, 4, 8, 9})
    compare(*kernels, {5 * group, 64, 64, 0.125f}, 5, Storage::kBf16, 16, 81, false);
  for (const auto storage : {Storage::kBf16, Storage::kF32, Storage::kFp8})
    for (const int block : {64, 128}) compare(*kernels, {20, 64, 64, 0.125f}, 5, storage, block, 131, false);
}

TEST_P(EverySet, LatentAttention) {
  compare(*kernels, {70, 576, 512, 0.07f}, 1, Storage::kBf16, 16, 67, true);
  compare(*kernels, {6, 576, 512, 0.07f}, 1, Storage::kBf16, 16, 67, true);
  compare(*kernels, {6, 576, 512, 0.07f}, 1, Storage::kInt8, 16, 67, true);
}

// A token at the end of a branch whose tokens lie scattered in the cache is computed as at the end of a
// chain.
TEST_P(EverySet, BranchesAreSummedInTheOrderOfAChain) {
  const std::int64_t from = 120, tokens = 150;
  std::vector<std::int32_t> branch(static_cast<std::size_t>(tokens - from));
  for (std::size_t i = 0; i < branch.size(); ++i)
    branch[i] = static_cast<std::int32_t>(from + 3 * static_cast<std::int64_t>(i) + (i % 2));
  for (const Kernels* set : {kernels, &reference_kernels()})
    for (const auto storage : {Storage::kF32, Storage::kF16, Storage::kBf16, Storage::kInt8, Storage::kFp8})
      for (const std::int64_t group : {2, 9})
        for (const std::int64_t window : {0, 20, 70})
          for (const bool latent : {false, true}) {
            AttentionArgs args{3 * group, 40, latent ? 32 : 40, 0.15f};
            args.window = window;
            const std::int64_t kv_heads = 3, last = tokens - 1;
            const Problem p(args, kv_heads, tokens);
            Threads threads(2);
            const std::int64_t v_dim = latent ? 0 : args.v_dim, width = args.heads * args.v_dim;
            Cache chain(storage, 16, kv_heads, args.qk_dim, v_dim, 20, 5);
            Cache tree(storage, 16, kv_heads, args.qk_dim, v_dim, 20, 6);
            const auto write = [&](Cache& to, std::int64_t first, std::int64_t count, std::int64_t place) {
              const SequenceRows rows{first, count, place, to.blocks.data()};
              set->cache_write(to.layer, std::span(&rows, 1), p.k.data(), kv_heads * args.qk_dim, p.v.data(),
                               kv_heads * v_dim);
            };
            write(chain, 0, tokens, 0);
            write(tree, 0, from, 0);
            for (std::int64_t t = from; t < tokens; ++t)
              write(tree, t, 1, branch[static_cast<std::size_t>(t - from)]);
            const auto last_row = [&](const Cache& cache, const std::int32_t* places) {
              const SequenceRows rows{last, 1, last, cache.blocks.data(), places, places ? from : 0};
              Floats out(static_cast<std::size_t>(tokens * width), kPoison);
              Memory scratch(set->attention_scratch(args, cache.layer, 1, tokens, threads.count()));
              set->attention(args, cache.layer, std::span(&rows, 1), p.q.data(), args.heads * args.qk_dim,
                             out.data(), width, scratch.data(), threads);
              return Floats(out.end() - width, out.end());
            };
            const Floats got = last_row(tree, branch.data());
            EXPECT_TRUE(same_bits(last_row(chain, nullptr), got));
            EXPECT_FALSE(same_bits(last_row(tree, nullptr), got)) << "places between branches hold others";
          }
}

TEST_P(EverySet, WindowsOfRoundedCaches) {
  for (const auto storage : {Storage::kBf16, Storage::kInt8})
    for (const bool chunked : {false, true}) {
      AttentionArgs args{8, 64, 64, 0.125f};
      args.window = 70;
      args.chunked = chunked;
      compare(*kernels, args, 2, storage, 16, 203, false);
    }
}

TEST_P(EverySet, WindowsChunksSinksAndSoftcap) {
  const auto sinks = normal(8, 14);
  for (const std::int64_t window : {1, 20, 64, 100})
    for (const bool chunked : {false, true}) {
      AttentionArgs args{8, 64, 64, 0.125f};
      args.window = window;
      args.chunked = chunked;
      compare(*kernels, args, 2, Storage::kF32, 16, 203, false);
      args.sinks = sinks.data();
      args.softcap = 2;
      compare(*kernels, args, 2, Storage::kF32, 16, 203, false);
    }
}

TEST_P(EverySet, SequencesOfABatchDoNotMeet) {
  const AttentionArgs args{4, 64, 64, 0.125f};
  const std::int64_t tokens[] = {90, 1, 17};
  Threads threads(2);
  Cache shared(Storage::kBf16, 16, 2, 64, 64, 20, 5);
  std::vector<SequenceRows> rows;
  std::vector<Floats> alone;
  Floats q, k, v;
  std::int64_t first = 0, block = 0;
  for (const auto count : tokens) {
    Problem p(args, 2, count);
    Cache own(Storage::kBf16, 16, 2, 64, 64, 20, 6);
    alone.push_back(attend(*kernels, args, own, p.q, p.k, p.v, {count}, threads));
    rows.push_back({first, count, 0, shared.blocks.data() + block});
    q.insert(q.end(), p.q.begin(), p.q.end());
    k.insert(k.end(), p.k.begin(), p.k.end());
    v.insert(v.end(), p.v.begin(), p.v.end());
    first += count;
    block += count / 16 + 1;
  }
  Floats out(static_cast<std::size_t>(first * 256), kPoison);
  kernels->cache_write(shared.layer, std::span<const SequenceRows>(rows), k.data(), 128, v.data(), 128);
  Memory scratch(kernels->attention_scratch(args, shared.layer, first, 90, 2));
  kernels->attention(args, shared.layer, std::span<const SequenceRows>(rows), q.data(), 256, out.data(), 256,
                     scratch.data(), threads);
  for (std::size_t i = 0; i < rows.size(); ++i)
    EXPECT_TRUE(same_bits(alone[i], Floats(out.begin() + rows[i].first_row * 256,
                                           out.begin() + (rows[i].first_row + rows[i].new_tokens) * 256)));
}

// Keys on several caches, each token on any of them, some of which hold none: partial results merge to the
// attention over all, and so do the logarithms of their sums. Against sums in float64.
TEST_P(EverySet, PartsOfTheKeysMerge) {
  std::mt19937 random(7);
  const int cases[][4] = {{4, 2, 150, 3}, {6, 1, 9, 4}, {3, 3, 70, 2}, {20, 2, 200, 5}};
  for (const auto& [heads, kv_heads, tokens, parts] : cases)
    for (const bool sinks : {false, true}) {
      SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " " << tokens << " " << parts);
      const std::int64_t dim = 40, rows = 3, width = heads * dim;
      AttentionArgs args{heads, dim, dim, 0.3f};
      const Floats logits = normal(static_cast<std::size_t>(heads), 3);
      const Floats q = normal(static_cast<std::size_t>(rows * width), 11),
                   k = normal(static_cast<std::size_t>(tokens * kv_heads * dim), 12),
                   v = normal(static_cast<std::size_t>(tokens * kv_heads * dim), 13);
      Threads threads(2);
      Floats out(static_cast<std::size_t>(rows * width), kPoison),
          lse(static_cast<std::size_t>(rows * heads));
      Floats part = out, part_lse = lse;
      std::vector<int> holder(static_cast<std::size_t>(tokens));
      for (int& h : holder) h = static_cast<int>(random() % static_cast<unsigned>(parts));
      std::replace(holder.begin(), holder.end(), parts - 1, 0);  // the last holds none
      holder.front() = 0;
      for (int p = 0; p < parts; ++p) {
        Cache cache(Storage::kF32, 16, kv_heads, dim, dim, tokens / 16 + 2, 5);
        std::int64_t count = 0;
        for (std::int64_t t = 0; t < tokens; ++t) {
          if (holder[static_cast<std::size_t>(t)] != p) continue;
          const SequenceRows row{t, 1, count++, cache.blocks.data()};
          kernels->cache_write(cache.layer, std::span(&row, 1), k.data(), kv_heads * dim, v.data(),
                               kv_heads * dim);
        }
        std::vector<SequenceRows> asked;
        for (std::int64_t r = 0; r < rows; ++r) asked.push_back({r, 1, count - 1, cache.blocks.data()});
        AttentionArgs own = args;
        own.sinks = sinks && p == 0 ? logits.data() : nullptr;
        own.lse = p == 0 ? lse.data() : part_lse.data();
        float* const to = p == 0 ? out.data() : part.data();
        if (count > 0) {
          Memory scratch(kernels->attention_scratch(own, cache.layer, rows, count, threads.count()));
          kernels->attention(own, cache.layer, std::span<const SequenceRows>(asked), q.data(), width, to,
                             width, scratch.data(), threads);
        } else {
          std::fill(part_lse.begin(), part_lse.end(), -std::numeric_limits<float>::infinity());
        }
        if (p == 0) continue;
        own.lse = lse.data();
        kernels->merge_attention(own, std::span<const SequenceRows>(asked), part.data(), width,
                                 part_lse.data(), out.data(), width);
      }
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t h = 0; h < heads; ++h) {
          std::vector<double> weights;
          double total = sinks ? std::exp(double{logits[static_cast<std::size_t>(h)]}) : 0;
          const auto key = [&](std::int64_t t) {
            return static_cast<std::size_t>((t * kv_heads + h / (heads / kv_heads)) * dim);
          };
          for (std::int64_t t = 0; t < tokens; ++t) {
            double score = 0;
            for (std::int64_t i = 0; i < dim; ++i)
              score += double{q[static_cast<std::size_t>(r * width + h * dim + i)]} *
                       k[key(t) + static_cast<std::size_t>(i)];
            weights.push_back(std::exp(score * double{args.scale}));
            total += weights.back();
          }
          EXPECT_NEAR(lse[static_cast<std::size_t>(r * heads + h)], std::log(total), 1e-5);
          for (std::int64_t i = 0; i < dim; ++i) {
            double sum = 0;
            for (std::int64_t t = 0; t < tokens; ++t)
              sum += weights[static_cast<std::size_t>(t)] * v[key(t) + static_cast<std::size_t>(i)];
            EXPECT_NEAR(out[static_cast<std::size_t>(r * width + h * dim + i)], sum / total, 1e-5);
          }
        }
    }
}

TEST(Reference, AttentionByHand) {
  // One head, one dim: scores q k = 0 and ln 3, so weights 1/4 and 3/4; a sink of logit ln 4 halves both.
  AttentionArgs args{1, 1, 1};
  const Floats q = {1, 1}, k = {0, std::log(3.0f)}, v = {4, 8}, sinks = {std::log(4.0f)};
  Threads threads;
  Cache cache(Storage::kF32, 16, 1, 1, 1, 1, 1);
  const auto plain = attend(reference_kernels(), args, cache, q, k, v, {2}, threads);
  EXPECT_FLOAT_EQ(plain[0], 4);
  EXPECT_FLOAT_EQ(plain[1], 7);
  args.sinks = sinks.data();
  EXPECT_FLOAT_EQ(attend(reference_kernels(), args, cache, q, k, v, {2}, threads)[1], 3.5f);
}

TEST(Reference, CacheReturnsWhatWasWritten) {
  Cache cache(Storage::kInt8, 4, 2, 8, 8, 3, 1);
  const auto k = normal(9 * 16, 1), v = normal(9 * 16, 2);
  const SequenceRows rows{0, 9, 0, cache.blocks.data()};
  reference_kernels().cache_write(cache.layer, std::span(&rows, 1), k.data(), 16, v.data(), 16);
  Floats keys(k.size(), kPoison), values(v.size(), kPoison);
  reference_kernels().cache_read(cache.layer, cache.blocks.data(), 9, keys.data(), values.data());
  EXPECT_LT(distance(keys, k), 1.5e-2);
  EXPECT_LT(distance(values, v), 1.5e-2);
}

}  // namespace
}  // namespace foretoken
