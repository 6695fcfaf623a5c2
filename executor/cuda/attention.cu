// Attention over the paged cache: the host's side, and the kernel that adds up the parts of items that were
// cut. attention_plan.h says which kernel runs and how work is shared out.
#include <algorithm>
#include <limits>

#include "base/error.h"
#include "executor/cuda/attention_device.cuh"
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/launch.h"
#include "executor/kernels_shared.h"

namespace foretoken::cuda {
namespace {

constexpr unsigned kCombineWarps = 4, kMergeThreads = 128;
static_assert(kCombineDims == 4 * kWarp);  // 4 a lane

// Of block (x, y, z): an item, rows of it, 128 of their dims. Which item: number x of all, where there are no
// more items than could be cut; else that in which block x + 1 of the `blocks` before began, if no other
// block before that did. Warps share out the parts that blocks left of it, a lane's loads of 16 bytes are
// under way together. Parts are read once, from the L2 as a rule: bound by latency, so short ways count.
__global__ void __launch_bounds__(32 * kCombineWarps)
    combine_attention(const AttentionParams p, const int blocks, const bool by_item, const int rows) {
  __shared__ float4 found[kCombineWarps][32];
  grid_dependency_wait();
  grid_dependency_launch();
  const Shares shares = shares_of(p, blocks);
  const auto number = static_cast<int>(blockIdx.x);
  Item item;
  long long begin = 0;  // the item's first unit
  int index = 0;        // of its entry
  if (by_item) {
    index = number / p.heads, item.head = number % p.heads;
    long long before = 0;
    for (int e = static_cast<int>(thread()); e < index; e += static_cast<int>(threads()))
      before += key_units(p, p.sequences[e / p.tiles], e % p.tiles).count;
    begin = block_sum(before) * p.heads;
  } else {
    const long long at = (number + 1) * shares.each;
    if (at >= shares.units) return;
    const Entry entry = entry_of(p, at);
    index = entry.index, begin = entry.begin;
  }
  const SequenceRows& s = p.sequences[index / p.tiles];
  item.set_sequence(p, s);
  item.tile = index % p.tiles;
  item.begins = item.ends = true;
  const int count = key_units(p, s, item.tile).count;
  if (count == 0) return;
  if (!by_item) item.head = static_cast<int>(((number + 1) * shares.each - begin) / count);
  begin += static_cast<long long>(item.head) * count;
  const auto first = static_cast<int>(begin / shares.each),
             last = static_cast<int>((begin + count - 1) / shares.each);
  if (first == last || (!by_item && first != number)) return;

  const int parts = last - first + 1;
  const auto place_of = [&](int part, int row) {
    return static_cast<std::int64_t>(2 * (first + part) + (part == 0 ? 1 : 0)) * p.rows + row;
  };
  const int dim = static_cast<int>(blockIdx.z * kCombineDims + lane() * 4);
  const int first_row = static_cast<int>(blockIdx.y) * rows;
  for (int row = first_row; row < first_row + rows; ++row) {
    if (row >= p.rows || item.tile * p.rows + row >= item.rows) return;  // the whole block
    float top = kNothing, sum = 0;
    for (int i = static_cast<int>(lane()); i < parts; i += 32) top = fmaxf(top, p.tops[place_of(i, row)].x);
    top = warp_max(top);
    for (int i = static_cast<int>(lane()); i < parts; i += 32) {
      const float2 own = p.tops[place_of(i, row)];
      sum = fmaf(own.y, fast_exp2(own.x - top), sum);
    }
    sum = warp_sum(sum);
    float4 all = make_float4(0, 0, 0, 0);
    if (dim < p.v_count) {
#pragma unroll 8
      for (int i = static_cast<int>(warp()); i < parts; i += static_cast<int>(kCombineWarps)) {
        const float4 x = *reinterpret_cast<const float4*>(p.sums + place_of(i, row) * p.v_pad + dim);
        const float factor = fast_exp2(p.tops[place_of(i, row)].x - top);
        all.x = fmaf(factor, x.x, all.x);
        all.y = fmaf(factor, x.y, all.y);
        all.z = fmaf(factor, x.z, all.z);
        all.w = fmaf(factor, x.w, all.w);
      }
    }
    found[warp()][lane()] = all;
    sync_threads();
    if (warp() == 0) {
#pragma unroll
      for (unsigned other = 1; other < kCombineWarps; ++other) {
        const float4 x = found[other][lane()];
        all.x += x.x, all.y += x.y, all.z += x.z, all.w += x.w;
      }
      const Destination to = destination(p, item, row, top, sum);
      if (blockIdx.z == 0 && lane() == 0) store_lse(p, item, row, top, sum);
      store_out(to.row, dim, p.v_count, to.vectors,
                make_float4(all.x * to.factor, all.y * to.factor, all.z * to.factor, all.w * to.factor));
    }
    sync_threads();
  }
}

// Of block (x, y, z): row x of sequence y and query head z, whose result over some keys takes in that over
// others. Bound by memory: each number is read and written once.
__global__ void __launch_bounds__(kMergeThreads)
    merge_attention_parts(const SequenceRows* sequences, const int v_dim, const float* part,
                          const std::int64_t part_stride, const float* part_lse, float* out,
                          const std::int64_t out_stride, float* lse) {
  grid_dependency_wait();
  grid_dependency_launch();
  const SequenceRows& s = sequences[blockIdx.y];
  if (static_cast<std::int64_t>(blockIdx.x) >= s.new_tokens) return;
  const std::int64_t row = s.first_row + blockIdx.x, at = row * gridDim.z + blockIdx.z,
                     head = static_cast<std::int64_t>(blockIdx.z) * v_dim;
  const float own = lse[at] * kLog2E, other = part_lse[at] * kLog2E, top = fmaxf(own, other);
  if (other < kNothing) return;
  const float of_own = own < kNothing ? 0 : fast_exp2(own - top), of_other = fast_exp2(other - top),
              all = of_own + of_other;
  for (auto i = static_cast<int>(thread()); i < v_dim; i += static_cast<int>(threads())) {
    float& to = out[row * out_stride + head + i];
    to = ((of_own > 0 ? of_own * to : 0) + of_other * part[row * part_stride + head + i]) / all;
  }
  sync_threads();
  if (thread() == 0) lse[at] = (top + fast_log2(all)) / kLog2E;
}

bool multiple(const void* address, std::size_t of) {
  return reinterpret_cast<std::uintptr_t>(address) % of == 0;
}

AttentionDevice attention_device(const CudaKernels& kernels) {
  const DeviceProperties& device = kernels.device();
  return {device.multiprocessors, device.shared_bytes, kernels.warpgroups(), kernels.tensor_maps()};
}

}  // namespace

AttentionFunction attention_kernel(const AttentionVariant& variant) {
  switch (variant.kernel) {
    case AttentionKernel::kDecode:
      return decode_attention_kernel(variant);
    case AttentionKernel::kPrompt:
      return prompt_attention_kernel(variant);
    case AttentionKernel::kPromptWarpgroup:
      return prompt_warpgroup_kernel(variant);
    case AttentionKernel::kLatent:
      return latent_attention_kernel(variant);
    case AttentionKernel::kLatentWarpgroup:
      return latent_warpgroup_kernel(variant);
    case AttentionKernel::kGeneral:
      return general_attention_kernel(variant);
    case AttentionKernel::kPromptTma:
    case AttentionKernel::kLatentTma:
      break;
  }
  return nullptr;
}

TensorAttentionFunction tensor_attention_kernel(const AttentionVariant& variant) {
  if (variant.kernel == AttentionKernel::kPromptTma) return prompt_tma_kernel(variant);
  if (variant.kernel == AttentionKernel::kLatentTma) return latent_tma_kernel(variant);
  return nullptr;
}

const char* attention_kernel_name(AttentionKernel kernel) {
  switch (kernel) {
    case AttentionKernel::kDecode:
      return "decode_attention";
    case AttentionKernel::kPrompt:
      return "prompt_attention";
    case AttentionKernel::kPromptWarpgroup:
      return "prompt_warpgroup";
    case AttentionKernel::kLatent:
      return "latent_attention";
    case AttentionKernel::kLatentWarpgroup:
      return "latent_warpgroup";
    case AttentionKernel::kPromptTma:
      return "prompt_tma";
    case AttentionKernel::kLatentTma:
      return "latent_tma";
    case AttentionKernel::kGeneral:
      break;
  }
  return "general_attention";
}

std::size_t CudaKernels::attention_scratch(const AttentionArgs& args, const CacheLayer& cache,
                                           std::int64_t rows, std::int64_t, int) const {
  return attention_most_part_bytes(args, cache, rows, attention_device(*this));
}

void CudaKernels::attention(const AttentionArgs& args, const CacheLayer& cache, const Sequences& sequences,
                            const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                            std::byte* scratch, Threads&) const {
  std::int64_t longest = 0;
  for (const SequenceRows& s : sequences.host) longest = std::max(longest, s.cached + s.new_tokens);
  if (longest > std::numeric_limits<int>::max() / 2)
    throw Error("attention", "a context of " + std::to_string(longest) + " tokens is too long");
  const AttentionPlan plan =
      attention_plan(args, cache, sequences.host, context_bucket(longest), attention_device(*this));
  if (plan.items == 0) return;
  const AttentionFunction kernel = attention_kernel(plan.variant);
  const TensorAttentionFunction tensor_kernel = tensor_attention_kernel(plan.variant);
  if (kernel == nullptr && tensor_kernel == nullptr)
    throw Error("attention", std::string(attention_kernel_name(plan.variant.kernel)) +
                                 " isn't compiled for a cache of this storage and size");

  AttentionParams p;
  p.sequences = sequences.own;
  p.count = static_cast<int>(sequences.size()), p.tiles = static_cast<int>(plan.tiles);
  p.rows = plan.variant.rows, p.unit = plan.variant.unit, p.least_units = plan.variant.least_units;
  p.whole = plan.whole, p.mirrored_from = static_cast<int>(plan.mirrored_from);
  p.q = q, p.q_stride = q_stride;
  p.out = out, p.out_stride = out_stride;
  p.q_vectors = multiple(q, 16) && q_stride % 4 == 0 && args.qk_dim % 4 == 0;
  p.out_vectors = multiple(out, 16) && out_stride % 4 == 0 && args.v_dim % 4 == 0;
  const auto width = static_cast<std::size_t>(cache_width(cache.storage));
  const bool latent = cache.v_dim == 0;
  p.keys = cache.keys, p.values = latent ? cache.keys : cache.values;
  p.key_scales = cache.key_scales, p.value_scales = latent ? cache.key_scales : cache.value_scales;
  p.k_dim = static_cast<int>(args.qk_dim), p.v_dim = static_cast<int>(args.v_dim);
  p.value_row = static_cast<int>(latent ? cache.k_dim : cache.v_dim);
  p.key_vectors = p.k_dim % 4 == 0 && multiple(p.keys, 4 * width);
  p.value_vectors = p.value_row % 4 == 0 && multiple(p.values, 4 * width);
  p.box_rows = plan.variant.box_rows;
  p.block_size = cache.block_size, p.by_block = Divisor(cache.block_size);
  p.heads = static_cast<int>(cache.heads), p.group = static_cast<int>(args.heads / cache.heads);
  p.by_group = Divisor(p.group);
  p.by = args.scale * kLog2E;
  if (args.softcap != 0) p.cap = args.softcap * kLog2E, p.by = 2 * kLog2E * args.scale / args.softcap;
  p.window = static_cast<int>(std::min<std::int64_t>(args.window, std::numeric_limits<int>::max() / 2));
  p.chunked = args.chunked;
  p.sinks = args.sinks, p.lse = args.lse;

  AttentionMaps maps;
  if (tensor_kernel != nullptr) {
    maps.keys = tensor_map(p.keys, cache.k_dim, p.box_rows);
    maps.values = latent ? maps.keys : tensor_map(p.values, cache.v_dim, p.box_rows);
  }

  // Values that are wider than a block sums are computed in turns.
  const std::int64_t most = plan.variant.kernel == AttentionKernel::kGeneral ? kGeneralMostV : args.v_dim;
  for (std::int64_t first = 0; first < args.v_dim; first += most) {
    p.v_first = static_cast<int>(first), p.v_count = static_cast<int>(std::min(most, args.v_dim - first));
    p.v_pad = (p.v_count + 3) / 4 * 4;
    p.sums = reinterpret_cast<float*>(scratch);
    p.tops = reinterpret_cast<float2*>(p.sums + 2 * plan.blocks * p.rows * p.v_pad);
    const Launch how{.grid = dim3(static_cast<unsigned>(plan.blocks)),
                     .block = dim3(static_cast<unsigned>(plan.variant.threads)),
                     .shared = plan.variant.shared,
                     .name = attention_kernel_name(plan.variant.kernel)};
    if (tensor_kernel != nullptr)
      launch(tensor_kernel, how, stream(), p, maps);
    else
      launch(kernel, how, stream(), p);
    const CombineLaunch combine = combine_launch(plan, p.count, p.heads, p.v_count);
    if (combine.needed())
      launch(combine_attention,
             {.grid = dim3(static_cast<unsigned>(combine.items), static_cast<unsigned>(combine.row_pieces),
                           static_cast<unsigned>(combine.dim_pieces)),
              .block = dim3(32 * kCombineWarps),
              .name = "combine_attention"},
             stream(), p, static_cast<int>(plan.blocks), combine.by_item, static_cast<int>(combine.rows));
  }
}

void CudaKernels::merge_attention(const AttentionArgs& args, const Sequences& sequences, const float* part,
                                  std::int64_t part_stride, const float* part_lse, float* out,
                                  std::int64_t out_stride) const {
  std::int64_t most = 0;
  for (const SequenceRows& s : sequences.host) most = std::max(most, s.new_tokens);
  if (most == 0) return;
  launch(merge_attention_parts,
         {.grid = dim3(static_cast<unsigned>(most), static_cast<unsigned>(sequences.size()),
                       static_cast<unsigned>(args.heads)),
          .block = dim3(kMergeThreads),
          .name = "merge_attention"},
         stream(), sequences.own, static_cast<int>(args.v_dim), part, part_stride, part_lse, out, out_stride,
         args.lse);
}

}  // namespace foretoken::cuda
