#include "executor/cuda/attention_plan.h"

#include <algorithm>

#include "base/error.h"
#include "executor/kernels_shared.h"

namespace foretoken::cuda {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

constexpr std::size_t kStaticBytes = 1024;  // that kernels use of shared memory besides, or little more

using Heads = AttentionHeads;

const Heads* smallest(std::span<const Heads> all, std::int64_t k, std::int64_t v) {
  for (const Heads& heads : all)
    if (k <= heads.k && v <= heads.v) return &heads;
  return nullptr;
}

// Rows of the cache are read by 16 bytes, and rounded to bf16.
bool takes_products(const CacheLayer& cache) {
  const Storage s = cache.storage;
  if (s != Storage::kBf16 && s != Storage::kInt8 && s != Storage::kFp8) return false;
  const std::int64_t width = cache_width(s);
  return cache.k_dim * width % 16 == 0 && cache.v_dim * width % 16 == 0 && aligned(cache.keys) &&
         (cache.v_dim == 0 || aligned(cache.values));
}

AttentionVariant reside(AttentionVariant variant, int by_registers, const AttentionDevice& device) {
  const std::size_t each = variant.shared + kStaticBytes + 1024;
  const auto fit = static_cast<int>((device.shared_bytes + 1024) / each);
  variant.blocks_per_processor = std::clamp(fit, 1, by_registers);
  return variant;
}

AttentionVariant general(const CacheLayer& cache, std::int64_t rows, std::int64_t v_dim,
                         const AttentionDevice& device) {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kGeneral;
  variant.k = static_cast<int>(cache.k_dim);
  variant.v = v_dim <= kGeneralVPiece ? kGeneralVPiece : kGeneralMostV;
  // Few rows: warps share them and each has keys of its own.
  for (const bool split_keys : {rows <= 2 * kGeneralWarpRows, true}) {
    variant.rows = general_rows(split_keys);
    variant.unit = general_unit(split_keys);
    variant.threads = 32 * kGeneralWarps;
    variant.shared = static_cast<std::size_t>(general_shared_bytes(split_keys, cache.k_dim));
    variant.least_units = split_keys ? 1 : 8;
    if (variant.shared <= device.shared_bytes / 2 ||
        (split_keys && variant.shared + kStaticBytes <= device.shared_bytes))
      return reside(variant, variant.v > kGeneralVPiece ? 2 : 3, device);
  }
  throw Error("attention", "heads of more than " + std::to_string(cache.k_dim) + " dims are too large");
}

AttentionVariant decode(const Heads& heads, int width) {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kDecode;
  variant.k = heads.k, variant.v = heads.v;
  variant.rows = kDecodeRows, variant.unit = kDecodeWarps * kDecodeKeys;
  variant.threads = 32 * kDecodeWarps;
  variant.shared = static_cast<std::size_t>(decode_shared_bytes(heads.k, heads.v, width));
  variant.least_units = 2;
  return variant;
}

AttentionVariant prompt(const Heads& heads, int width) {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kPrompt;
  variant.k = heads.k, variant.v = heads.v;
  variant.rows = prompt_rows(heads.k), variant.unit = kPromptKeys;
  variant.threads = 32 * prompt_warps(heads.k);
  variant.shared = static_cast<std::size_t>(prompt_shared_bytes(heads.k, heads.v, width));
  variant.least_units = 4;
  return variant;
}

AttentionVariant latent(int rows, int stages, int width) {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kLatent;
  variant.k = kLatentK, variant.v = kLatentV;
  variant.rows = rows, variant.unit = kLatentKeys, variant.stages = stages;
  variant.threads = 32 * kLatentWarps;
  variant.shared = static_cast<std::size_t>(latent_shared_bytes(rows, stages, width));
  variant.least_units = 1;
  return variant;
}

AttentionVariant prompt_warpgroup(const Heads& heads) {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kPromptWarpgroup;
  variant.k = heads.k, variant.v = heads.v;
  variant.rows = kPromptGroupRows, variant.unit = prompt_group_keys(heads.k);
  variant.threads = kPromptGroupThreads;
  variant.shared = static_cast<std::size_t>(prompt_group_bytes(heads.k, heads.v));
  variant.least_units = 256 / variant.unit;
  return variant;
}

AttentionVariant latent_warpgroup() {
  AttentionVariant variant;
  variant.kernel = AttentionKernel::kLatentWarpgroup;
  variant.k = kLatentK, variant.v = kLatentV;
  variant.rows = kLatentGroupRows, variant.unit = kLatentKeys, variant.stages = 2;
  variant.threads = kLatentGroupThreads;
  variant.shared = kLatentGroupBytes;
  return variant;
}

// The same rows and units; keys come by tensor maps, in boxes of so many rows.
AttentionVariant by_tensor_map(AttentionVariant variant, int rows) {
  const bool prompt = variant.kernel == AttentionKernel::kPromptWarpgroup;
  variant.kernel = prompt ? AttentionKernel::kPromptTma : AttentionKernel::kLatentTma;
  variant.box_rows = rows;
  variant.threads = kTmaThreads;
  variant.shared =
      static_cast<std::size_t>(prompt ? prompt_tma_bytes(variant.k, variant.v) : kLatentTmaBytes);
  return variant;
}

// Whichever of a sequence's rows fill a tile: the variants in the order of their liking.
AttentionVariant choose(const CacheLayer& cache, std::int64_t v_dim, std::int64_t rows,
                        const AttentionDevice& device) {
  const auto fits = [&](const AttentionVariant& variant) {
    return variant.shared + kStaticBytes <= device.shared_bytes;
  };
  const auto by_warpgroups = [&](const AttentionVariant& variant) {
    const int boxes = device.tensor_maps ? box_rows(cache.block_size, variant.unit) : 0;
    if (boxes > 0 && fits(by_tensor_map(variant, boxes)))
      return reside(by_tensor_map(variant, boxes), 1, device);
    return reside(variant, 1, device);
  };
  if (!takes_products(cache)) return general(cache, rows, v_dim, device);
  const auto width = static_cast<int>(cache_width(cache.storage));
  if (cache.v_dim == 0) {
    if (cache.k_dim > kLatentK || v_dim > kLatentV) return general(cache, rows, v_dim, device);
    if (device.warpgroups && width == 2 && rows > kLatentGroupRows / 2 && fits(latent_warpgroup()))
      return by_warpgroups(latent_warpgroup());
    for (const auto& [tile, stages] : {std::pair{64, 2}, {32, 2}, {16, 3}, {16, 2}}) {
      const AttentionVariant variant = latent(tile, stages, width);
      if ((tile == 16 || rows > tile / 2) && fits(variant)) return reside(variant, 1, device);
    }
    return general(cache, rows, v_dim, device);
  }
  const Heads* heads = smallest(kGroupAttentionHeads, cache.k_dim, cache.v_dim);
  if (device.warpgroups && width == 2 && rows > 2 * kDecodeRows && heads != nullptr &&
      fits(prompt_warpgroup(*heads)))
    return by_warpgroups(prompt_warpgroup(*heads));
  heads = smallest(kAttentionHeads, cache.k_dim, cache.v_dim);
  if (heads == nullptr) return general(cache, rows, v_dim, device);
  if (rows > 2 * kDecodeRows && fits(prompt(*heads, width)))
    return reside(prompt(*heads, width), heads->k > 128 ? 1 : 2, device);
  if (fits(decode(*heads, width)))
    return reside(decode(*heads, width), decode_blocks(heads->k, width), device);
  return general(cache, rows, v_dim, device);
}

AttentionVariant variant_of(const CacheLayer& cache, std::int64_t v_dim, std::int64_t rows,
                            const AttentionDevice& device) {
  AttentionVariant variant = choose(cache, v_dim, rows, device);
  variant.storage = cache.storage;
  return variant;
}

// Units that the rows of a tile read (key_units() of attention_device.cuh).
std::int64_t tile_units(const AttentionArgs& args, const AttentionVariant& v, std::int64_t group,
                        const SequenceRows& s, std::int64_t tile) {
  const std::int64_t begin = tile * v.rows, end = std::min(begin + v.rows, s.new_tokens * group);
  const std::int64_t from = s.cached + begin / group, to = s.cached + (end - 1) / group;
  std::int64_t first = 0;
  if (args.window > 0)
    first =
        args.chunked ? from / args.window * args.window : std::max<std::int64_t>(0, from - args.window + 1);
  return to / v.unit - first / v.unit + 1;
}

// What all items read, in units; the one that reads most; and the last that begins where each is a block's.
struct Work {
  double units = 0;
  std::int64_t longest = 0, last = 0;
};
Work work_of(const AttentionArgs& args, const CacheLayer& cache, const AttentionVariant& v,
             std::span<const SequenceRows> sequences) {
  const std::int64_t group = args.heads / cache.heads;
  Work work;
  for (const SequenceRows& s : sequences) {
    const std::int64_t tiles = ceil_div(s.new_tokens * group, v.rows);
    if (tiles == 0) continue;
    // Tiles between the first and the last read as many as both on average, within a window no more.
    const std::int64_t first = tile_units(args, v, group, s, 0),
                       end = tile_units(args, v, group, s, tiles - 1);
    work.units += 0.5 * static_cast<double>((first + end) * tiles * cache.heads);
    work.longest = std::max({work.longest, first, end});
    if (work.last == 0) work.last = first;
  }
  return work;
}

// How long a launch takes, in times of a block for a unit of keys while another block shares its
// multiprocessor. Fitted to an H200's prompts, of which a unit took 3.6 us: what an item costs besides its
// keys (queries, first keys, output); what adding up parts costs, in a second kernel; and what a block takes
// for a unit that has a multiprocessor for itself.
constexpr double kBeginning = 2, kAddingUp = 5, kAlone = 0.6;

double whole_time(const AttentionPlan& plan, const Work& work, std::int64_t slots,
                  const AttentionDevice& device) {
  const auto items = static_cast<double>(plan.items), longest = static_cast<double>(work.longest);
  if (plan.items <= device.multiprocessors) return kAlone * longest + kBeginning;
  if (plan.items <= slots) {
    const double beside = std::clamp(2 * work.units / items - longest, 0.0, longest);
    return beside + kAlone * (longest - beside) + kBeginning;
  }
  return std::max(kAlone * longest, (work.units + kBeginning * items) / static_cast<double>(slots) +
                                        static_cast<double>(work.last));
}

double shared_out_time(const AttentionPlan& plan, const Work& work, std::int64_t blocks,
                       const AttentionDevice& device) {
  const auto shares = static_cast<double>(blocks);
  const double units = work.units / shares * (blocks <= device.multiprocessors ? kAlone : 1);
  return units + kBeginning * (static_cast<double>(plan.items) / shares + 1) + kAddingUp;
}

std::int64_t slots_of(const AttentionVariant& variant, const AttentionDevice& device) {
  return std::min<std::int64_t>(kMostBlocks,
                                std::int64_t{variant.blocks_per_processor} * device.multiprocessors);
}

}  // namespace

AttentionVariant attention_variant(const AttentionArgs& args, const CacheLayer& cache,
                                   std::int64_t most_tokens, const AttentionDevice& device) {
  return variant_of(cache, args.v_dim, most_tokens * (args.heads / cache.heads), device);
}

AttentionPlan attention_plan(const AttentionArgs& args, const CacheLayer& cache,
                             std::span<const SequenceRows> sequences, std::int64_t longest,
                             const AttentionDevice& device) {
  const std::int64_t group = args.heads / cache.heads;
  std::int64_t most = 0;
  AttentionDevice able = device;
  for (const SequenceRows& s : sequences) {
    most = std::max(most, s.new_tokens);
    if (s.branch != nullptr) able.tensor_maps = false;  // its keys lie anywhere
  }
  AttentionPlan plan;
  plan.variant = attention_variant(args, cache, most, able);
  const AttentionVariant& v = plan.variant;
  plan.tiles = ceil_div(most * group, v.rows);
  plan.most_rows = std::min<std::int64_t>(most * group, v.rows);
  std::int64_t tiles = 0;
  for (const SequenceRows& s : sequences) tiles += ceil_div(s.new_tokens * group, v.rows);
  plan.items = tiles * cache.heads;
  if (plan.items == 0) return plan;
  // The units of the longest item there may be: a window's may begin and end inside a unit.
  const std::int64_t tokens = std::min(most, ceil_div(v.rows, group) + 1);
  std::int64_t units = ceil_div(longest, v.unit);
  if (args.window > 0) units = std::min(units, (args.window + tokens - 2) / v.unit + 2);
  const std::int64_t slots = slots_of(v, device);
  const std::int64_t shared_out = std::min(slots, ceil_div(plan.items * units, v.least_units));
  // Sequences that decode are shared out wherever there is something to share: their lengths differ, and
  // aren't known here, as launches are recorded and run again. Those of several tokens are not.
  plan.whole = units <= v.least_units;
  if (!plan.whole && most > 1) {
    const Work work = work_of(args, cache, v, sequences);
    plan.whole = whole_time(plan, work, slots, device) <= shared_out_time(plan, work, shared_out, device);
  }
  plan.blocks = plan.whole ? plan.items : shared_out;
  if (plan.whole && v.blocks_per_processor == 2 && plan.items > device.multiprocessors && plan.items <= slots)
    plan.mirrored_from = device.multiprocessors;
  return plan;
}

CombineLaunch combine_launch(const AttentionPlan& plan, std::int64_t sequences, std::int64_t heads,
                             std::int64_t v_count) {
  CombineLaunch combine;
  if (plan.whole || plan.blocks <= 1) return combine;
  const std::int64_t all = sequences * plan.tiles * heads, cuts = plan.blocks - 1;
  combine.items = std::min(all, cuts);
  combine.by_item = all <= cuts;
  combine.dim_pieces = ceil_div(v_count, kCombineDims);
  // A few waves of blocks: rows are shared out no further than that.
  combine.rows = std::max<std::int64_t>(1, combine.items * plan.most_rows * combine.dim_pieces / 4096);
  combine.row_pieces = ceil_div(plan.most_rows, combine.rows);
  return combine;
}

std::size_t attention_part_bytes(const AttentionPlan& plan, std::int64_t v_dim) {
  if (plan.whole) return 0;
  return static_cast<std::size_t>(2 * plan.blocks * plan.variant.rows * ((v_dim + 3) / 4 * 4 + 2)) *
         sizeof(float);
}

std::size_t attention_most_part_bytes(const AttentionArgs& args, const CacheLayer& cache, std::int64_t rows,
                                      const AttentionDevice& device) {
  if (rows == 0) return 0;
  const std::int64_t group = args.heads / cache.heads;
  std::size_t most = 0;
  // Every choice that up to so many rows may lead to, with the values' real size and with the size asked for.
  for (std::int64_t packed = 1; packed < 2 * rows * group; packed *= 2)
    for (const std::int64_t v_dim : {std::min<std::int64_t>(args.v_dim, cache.k_dim), std::int64_t{1}}) {
      AttentionPlan plan;
      plan.variant = variant_of(cache, v_dim, std::min(packed, rows * group), device);
      plan.blocks = slots_of(plan.variant, device);
      most = std::max(most, attention_part_bytes(plan, args.v_dim));
    }
  return most;
}

}  // namespace foretoken::cuda
