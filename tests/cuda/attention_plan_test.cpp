// How launches of attention are sized: which kernel, how many blocks, where keys and prompts are cut.
#include "executor/cuda/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <tuple>
#include <vector>

#include "executor/cuda/attention_kernels.h"
#include "tests/cuda/attention.h"
#include "tests/cuda/on_device.h"

namespace foretoken {
namespace {

using cuda::AttentionKernel;

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
  // A latent model's prompt over keys and values that were projected up, in one block.
  CacheLayer projected = cache_of(Storage::kBf16, 16, 192, 128);
  projected.block_size = 16384;
  EXPECT_EQ(chosen(args_of(16, 192, 128), projected, 500).kernel, AttentionKernel::kPrompt);
  projected.storage = Storage::kF32;
  EXPECT_EQ(chosen(args_of(16, 192, 128), projected, 500).kernel, AttentionKernel::kGeneral);
  // Products of warpgroups, where there are any, for many rows of bf16 caches.
  const cuda::AttentionDevice groups{132, 227 * 1024, true};
  EXPECT_EQ(chosen(args_of(32, 128, 128), bf16, 1, groups).kernel, AttentionKernel::kDecode);
  EXPECT_EQ(chosen(args_of(32, 128, 128), bf16, 500, groups).kernel, AttentionKernel::kPromptWarpgroup);
  EXPECT_EQ(chosen(args_of(32, 96, 96), cache_of(Storage::kBf16, 8, 96, 96), 500, groups).k, 128);
  EXPECT_EQ(chosen(args_of(32, 128, 128), cache_of(Storage::kFp8, 8, 128, 128), 500, groups).kernel,
            AttentionKernel::kPrompt);
  EXPECT_EQ(chosen(args_of(32, 576, 512), latent, 1, groups).kernel, AttentionKernel::kLatent);
  EXPECT_EQ(chosen(args_of(128, 576, 512), latent, 1, groups).kernel, AttentionKernel::kLatentWarpgroup);
  EXPECT_EQ(chosen(args_of(128, 576, 512), cache_of(Storage::kInt8, 1, 576, 0), 1, groups).kernel,
            AttentionKernel::kLatent);
  // By tensor maps where a unit's keys lie in boxes of 8 rows and more, and nobody's lie scattered.
  const cuda::AttentionDevice maps{132, 227 * 1024, true, true};
  CacheLayer blocks = bf16, latent_blocks = latent;
  for (const auto& [size, rows] : {std::pair{16, 16}, {8, 8}, {24, 8}, {48, 16}, {128, 128}, {8192, 128}}) {
    blocks.block_size = latent_blocks.block_size = size;
    const auto prompt = chosen(args_of(32, 128, 128), blocks, 500, maps);
    EXPECT_EQ(prompt.kernel, AttentionKernel::kPromptTma);
    EXPECT_EQ(prompt.box_rows, rows);
    const auto wide = chosen(args_of(128, 576, 512), latent_blocks, 1, maps);
    EXPECT_EQ(wide.kernel, AttentionKernel::kLatentTma);
    EXPECT_EQ(wide.box_rows, std::min(rows, 64));
  }
  for (const int size : {1, 4, 12, 100}) {
    blocks.block_size = latent_blocks.block_size = size;
    EXPECT_EQ(chosen(args_of(32, 128, 128), blocks, 500, maps).kernel, AttentionKernel::kPromptWarpgroup);
    EXPECT_EQ(chosen(args_of(128, 576, 512), latent_blocks, 1, maps).kernel,
              AttentionKernel::kLatentWarpgroup);
  }
  std::vector<SequenceRows> rows(2, {0, 1, 300});
  EXPECT_EQ(attention_plan(args_of(128, 576, 512), latent, rows, 512, maps).variant.kernel,
            AttentionKernel::kLatentTma);
  const std::int32_t branch[] = {301};
  rows[1].branch = branch, rows[1].branch_from = 299;
  EXPECT_EQ(attention_plan(args_of(128, 576, 512), latent, rows, 512, maps).variant.kernel,
            AttentionKernel::kLatentWarpgroup);
  // A device with less shared memory takes smaller tiles, or another kernel.
  const cuda::AttentionDevice small{108, 163 * 1024};
  EXPECT_EQ(chosen(args_of(128, 576, 512), latent, 1, small).rows, 16);
  EXPECT_EQ(chosen(args_of(16, 576, 512), latent, 1, small).stages, 2);
  EXPECT_EQ(chosen(args_of(8, 256, 256), cache_of(Storage::kBf16, 8, 256, 256), 1, small).kernel,
            AttentionKernel::kGeneral);
  for (const auto& d : {kDevice, groups, maps, small})
    for (const auto storage : kStorages)
      for (const std::int64_t k : {7, 64, 80, 96, 128, 192, 256, 576, 1024})
        for (const std::int64_t v : {std::int64_t{0}, k, k - 5})
          for (const std::int64_t tokens : {1, 4, 9, 1000}) {
            const auto variant = chosen(args_of(8, k, v == 0 ? k : v), cache_of(storage, 2, k, v), tokens, d);
            EXPECT_EQ(variant.storage, storage);
            EXPECT_TRUE((attention_kernel(variant) != nullptr) !=
                        (tensor_attention_kernel(variant) != nullptr))
                << attention_kernel_name(variant.kernel);
            EXPECT_LE(variant.shared, d.shared_bytes);
            EXPECT_LE(variant.blocks_per_processor * (variant.shared + 1024), d.shared_bytes + 1024);
            if (variant.kernel != AttentionKernel::kGeneral) {
              EXPECT_GE(variant.k, k);
            }
            EXPECT_GE(variant.v, std::min<std::int64_t>(512, v == 0 ? k : v));
          }
}

TEST(CudaAttentionPlan, EveryVariantHasAKernelOfItsOwn) {
  const auto of = [](AttentionKernel kernel, Storage storage, int k, int v, int rows = 0, int stages = 0) {
    cuda::AttentionVariant variant;
    variant.kernel = kernel, variant.storage = storage;
    variant.k = k, variant.v = v, variant.rows = rows, variant.stages = stages;
    return attention_kernel(variant);
  };
  std::vector<cuda::AttentionFunction> found;
  for (const auto storage : {Storage::kBf16, Storage::kInt8, Storage::kFp8}) {
    for (const auto kernel : {AttentionKernel::kDecode, AttentionKernel::kPrompt})
      for (const auto& heads : cuda::kAttentionHeads) found.push_back(of(kernel, storage, heads.k, heads.v));
    for (const auto& [rows, stages] : {std::pair{16, 2}, {16, 3}, {32, 2}, {64, 2}})
      found.push_back(of(AttentionKernel::kLatent, storage, 576, 512, rows, stages));
  }
  for (const auto& heads : cuda::kGroupAttentionHeads)
    found.push_back(of(AttentionKernel::kPromptWarpgroup, Storage::kBf16, heads.k, heads.v));
  found.push_back(of(AttentionKernel::kLatentWarpgroup, Storage::kBf16, 576, 512, 64, 2));
  for (const auto storage : kStorages)
    for (const bool split : {false, true})
      for (const int v : {cuda::kGeneralVPiece, cuda::kGeneralMostV}) {
        cuda::AttentionVariant variant;
        variant.storage = storage, variant.v = v, variant.unit = cuda::general_unit(split);
        found.push_back(attention_kernel(variant));
      }
  EXPECT_EQ(std::count(found.begin(), found.end(), nullptr), 0);
  std::sort(found.begin(), found.end(), std::less<>());
  EXPECT_EQ(std::adjacent_find(found.begin(), found.end()), found.end());
  std::vector<cuda::TensorAttentionFunction> by_maps;
  for (const auto& heads : cuda::kGroupAttentionHeads) {
    cuda::AttentionVariant variant;
    variant.kernel = AttentionKernel::kPromptTma, variant.storage = Storage::kBf16;
    variant.k = heads.k, variant.v = heads.v;
    by_maps.push_back(tensor_attention_kernel(variant));
    variant.storage = Storage::kFp8;
    EXPECT_EQ(tensor_attention_kernel(variant), nullptr);
  }
  EXPECT_EQ(std::count(by_maps.begin(), by_maps.end(), nullptr), 0);
  std::sort(by_maps.begin(), by_maps.end(), std::less<>());
  EXPECT_EQ(std::adjacent_find(by_maps.begin(), by_maps.end()), by_maps.end());
  // What isn't compiled isn't something else.
  EXPECT_EQ(of(AttentionKernel::kDecode, Storage::kF16, 128, 128), nullptr);
  EXPECT_EQ(of(AttentionKernel::kDecode, Storage::kBf16, 80, 80), nullptr);
  EXPECT_EQ(of(AttentionKernel::kPromptWarpgroup, Storage::kInt8, 128, 128), nullptr);
  EXPECT_EQ(of(AttentionKernel::kPromptWarpgroup, Storage::kBf16, 96, 96), nullptr);
  EXPECT_EQ(of(AttentionKernel::kLatent, Storage::kBf16, 576, 512, 64, 3), nullptr);
}

// The second launch covers every row and dim of what was cut, by a few waves of blocks; and there is none
// where nothing was.
TEST(CudaAttentionPlan, PartsAreAddedUpByASecondLaunch) {
  for (const std::int64_t sequences : {1, 3, 64, 300})
    for (const std::int64_t tokens : {1, 5, 300})
      for (const std::int64_t longest : {512, 4096, 65536})
        for (const auto& [heads, k, v] :
             {std::tuple<std::int64_t, std::int64_t, std::int64_t>{8, 128, 128}, {1, 576, 0}, {2, 60, 60}}) {
          const std::int64_t dims = v == 0 ? 512 : v;
          const auto plan = plan_of(args_of(32, k, dims), cache_of(Storage::kBf16, heads, k, v), sequences,
                                    tokens, longest);
          const cuda::CombineLaunch combine = combine_launch(plan, sequences, heads, dims);
          EXPECT_EQ(combine.needed(), !plan.whole && plan.blocks > 1);
          if (!combine.needed()) continue;
          EXPECT_EQ(combine.items, std::min(plan.items, plan.blocks - 1));
          EXPECT_EQ(combine.by_item, plan.items < plan.blocks);
          EXPECT_GE(combine.rows * combine.row_pieces, plan.most_rows);
          EXPECT_LT(combine.rows * (combine.row_pieces - 1), plan.most_rows);
          EXPECT_EQ(combine.dim_pieces, (dims + 127) / 128);
          EXPECT_LE(combine.items * combine.row_pieces * combine.dim_pieces, 2 * 4096);
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
