// Attention over the paged cache: the host's side, and the kernel that adds up the parts of items that were
// cut. attention_plan.h says which kernel runs and how work is shared out.
#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"
#include "executor/cuda/attention_device.cuh"
#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/launch.h"
#include "executor/kernels_shared.h"

namespace foretoken::cuda {
namespace {

constexpr unsigned kCombineThreads = 128;

// Block (b, row): where block b + 1 of the `blocks` before began inside an item, and was the first to, the
// item's row is the sum of the parts that it and its neighbours left. 16 bytes a thread and part; a part is
// read once, from the L2 as a rule.
__global__ void __launch_bounds__(kCombineThreads)
    combine_attention(const AttentionParams p, const int blocks) {
  __shared__ float factors[kMostBlocks];
  grid_dependency_wait();
  grid_dependency_launch();
  const Shares shares = shares_of(p, blocks);
  const auto block = static_cast<int>(blockIdx.x) + 1, row = static_cast<int>(blockIdx.y);
  const long long at = block * shares.each;
  if (at >= shares.units) return;
  const Entry entry = entry_of(p, at);
  const SequenceRows& s = p.sequences[entry.index / p.tiles];
  Item item;
  item.set_sequence(p, s);
  item.tile = entry.index % p.tiles;
  const int count = key_units(p, s, item.tile).count;
  item.head = static_cast<int>((at - entry.begin) / count);
  const long long begin = entry.begin + static_cast<long long>(item.head) * count;
  if (begin == at || begin / shares.each != block - 1) return;
  float* to = out_row(p, item, row);
  if (to == nullptr) return;

  const int parts = static_cast<int>((begin + count - 1) / shares.each) - block + 2;
  const auto part = [block](int i) { return 2 * (block - 1 + i) + (i == 0 ? 1 : 0); };
  float top = kNothing, sum = 0;
  for (int i = static_cast<int>(lane()); i < parts; i += 32)
    top = fmaxf(top, p.tops[static_cast<std::int64_t>(part(i)) * p.rows + row].x);
  top = warp_max(top);
  for (int i = static_cast<int>(lane()); i < parts; i += 32) {
    const float2 own = p.tops[static_cast<std::int64_t>(part(i)) * p.rows + row];
    const float factor = fast_exp2(own.x - top);
    sum += own.y * factor;
    if (warp() == 0) factors[i] = factor;
  }
  sum = warp_sum(sum);
  sync_threads();
  const float factor = normaliser(p, item, row, top, sum);
  for (int dim = static_cast<int>(thread()) * 4; dim < p.v_count; dim += static_cast<int>(threads()) * 4) {
    float4 all = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < parts; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(
          p.sums + (static_cast<std::int64_t>(part(i)) * p.rows + row) * p.v_pad + dim);
      const float f = factors[i];
      all.x = fmaf(f, x.x, all.x);
      all.y = fmaf(f, x.y, all.y);
      all.z = fmaf(f, x.z, all.z);
      all.w = fmaf(f, x.w, all.w);
    }
    store_out(to + p.v_first, dim, p.v_count, p.out_vectors,
              make_float4(all.x * factor, all.y * factor, all.z * factor, all.w * factor));
  }
}

bool multiple(const void* address, std::size_t of) {
  return reinterpret_cast<std::uintptr_t>(address) % of == 0;
}

void launch_variant(const AttentionPlan& plan, Storage storage, const AttentionParams& params,
                    Stream& stream) {
  switch (plan.variant.kernel) {
    case AttentionKernel::kDecode:
      return launch_decode_attention(plan, storage, params, stream);
    case AttentionKernel::kPrompt:
      return launch_prompt_attention(plan, storage, params, stream);
    case AttentionKernel::kLatent:
      return launch_latent_attention(plan, storage, params, stream);
    case AttentionKernel::kGeneral:
      return launch_general_attention(plan, storage, params, stream);
  }
}

AttentionDevice attention_device(const DeviceProperties& device) {
  return {device.multiprocessors, device.shared_bytes};
}

}  // namespace

std::size_t CudaKernels::attention_scratch(const AttentionArgs& args, const CacheLayer& cache,
                                           std::int64_t rows, std::int64_t, int) const {
  return attention_most_part_bytes(args, cache, rows, attention_device(device()));
}

void CudaKernels::attention(const AttentionArgs& args, const CacheLayer& cache, const Sequences& sequences,
                            const float* q, std::int64_t q_stride, float* out, std::int64_t out_stride,
                            std::byte* scratch, Threads&) const {
  std::int64_t longest = 0;
  for (const SequenceRows& s : sequences.host) longest = std::max(longest, s.cached + s.new_tokens);
  if (longest > std::numeric_limits<int>::max() / 2)
    throw Error("attention", "a context of " + std::to_string(longest) + " tokens is too long");
  const AttentionPlan plan =
      attention_plan(args, cache, sequences.host, context_bucket(longest), attention_device(device()));
  if (plan.items == 0) return;

  AttentionParams p;
  p.sequences = sequences.own;
  p.count = static_cast<int>(sequences.size()), p.tiles = static_cast<int>(plan.tiles);
  p.rows = plan.variant.rows, p.unit = plan.variant.unit, p.least_units = plan.variant.least_units;
  p.whole = plan.whole;
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
  p.block_size = cache.block_size;
  const auto block = static_cast<unsigned>(cache.block_size);
  p.block_shift = std::has_single_bit(block) ? std::countr_zero(block) : -1;
  p.heads = static_cast<int>(cache.heads), p.group = static_cast<int>(args.heads / cache.heads);
  p.scale = args.scale, p.softcap = args.softcap;
  p.window = static_cast<int>(std::min<std::int64_t>(args.window, std::numeric_limits<int>::max() / 2));
  p.chunked = args.chunked;
  p.sinks = args.sinks;

  // Values that are wider than a block sums are computed in turns.
  const std::int64_t most = plan.variant.kernel == AttentionKernel::kGeneral ? kGeneralMostV : args.v_dim;
  for (std::int64_t first = 0; first < args.v_dim; first += most) {
    p.v_first = static_cast<int>(first), p.v_count = static_cast<int>(std::min(most, args.v_dim - first));
    p.v_pad = (p.v_count + 3) / 4 * 4;
    p.sums = reinterpret_cast<float*>(scratch);
    p.tops = reinterpret_cast<float2*>(p.sums + 2 * plan.blocks * p.rows * p.v_pad);
    launch_variant(plan, cache.storage, p, stream());
    if (!plan.whole && plan.blocks > 1)
      launch(combine_attention,
             {.grid = dim3(static_cast<unsigned>(plan.blocks - 1), static_cast<unsigned>(p.rows)),
              .block = dim3(kCombineThreads),
              .name = "combine_attention"},
             stream(), p, static_cast<int>(plan.blocks));
  }
}

}  // namespace foretoken::cuda
