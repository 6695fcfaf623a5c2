// Moves a sequence's cache between two transformers of one model, and blocks between a cache and its tiers.
#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "executor/stored_rows.h"
#include "executor/transformer_state.h"

namespace foretoken {
namespace {

// Lists the entries of one head in one block, of each of the layer's arrays.
void list_head(std::vector<CopyPiece>& pieces, const CacheLayer& from, std::int64_t from_block,
               std::int64_t from_head, const CacheLayer& to, std::int64_t to_block, std::int64_t to_head) {
  const std::int64_t a = (from_block * from.heads + from_head) * from.block_size,
                     b = (to_block * to.heads + to_head) * to.block_size;
  const auto block = static_cast<std::size_t>(from.block_size);
  const auto values = [&](const std::byte* source, std::byte* target, std::int64_t dim) {
    const auto each = static_cast<std::size_t>(element_bytes(from.storage) * dim);
    if (source != nullptr && dim > 0)
      pieces.push_back({target + static_cast<std::size_t>(b) * each,
                        source + static_cast<std::size_t>(a) * each, block * each});
  };
  values(from.keys, to.keys, from.k_dim);
  values(from.values, to.values, from.v_dim);
  if (from.key_scales) pieces.push_back({to.key_scales + b, from.key_scales + a, block * sizeof(float)});
  if (from.value_scales)
    pieces.push_back({to.value_scales + b, from.value_scales + a, block * sizeof(float)});
}

}  // namespace

double Transformer::copy_cache(const Transformer& source_model, std::span<const std::int32_t> source,
                               Transformer& target_model, std::span<const std::int32_t> target,
                               std::int64_t tokens, std::int64_t done) {
  const State& from = *source_model.state_;
  State& to = *target_model.state_;
  const std::int64_t size = from.layout.block_size, blocks = (tokens + size - 1) / size;
  if (size != to.layout.block_size || blocks > static_cast<std::int64_t>(source.size()) ||
      blocks > static_cast<std::int64_t>(target.size()))
    throw std::logic_error("a cache of other blocks is to be moved");
  const KernelMemory& memory = to.kernels.memory();
  double slowest = 0;
  std::vector<CopyPiece> pieces;
  for (const Rank& rank : to.ranks) {
    const auto start = Clock::now();
    pieces.clear();
    for (std::int64_t layer = 0; layer < from.model.num_layers; ++layer) {
      const CacheLayer& own = rank.cache(layer);
      const GqaAttention* a = from.gqa(layer);
      // What has left a window is not attended to again. Kernels read whole tiles, whose masked keys are
      // multiplied by zero, so these have to be numbers.
      constexpr std::int64_t kLongestTile = 128;
      const std::int64_t unread =
          a && a->window > 0 && !a->chunked
              ? std::max<std::int64_t>(0, tokens - a->window) / kLongestTile * kLongestTile
              : 0;
      for (std::int64_t h = 0; h < own.heads; ++h) {
        // Latents are alike on all ranks.
        const std::int64_t head = a ? rank.kv_heads(a->kv_heads).first + h : 0;
        const auto holds = [&](const Rank& r) {
          if (!a) return true;
          const Rank::Slice s = r.kv_heads(a->kv_heads);
          return head >= s.first && head < s.first + s.count;
        };
        const Rank& holder = *std::find_if(from.ranks.begin(), from.ranks.end(), holds);
        const std::int64_t at = a ? head - holder.kv_heads(a->kv_heads).first : 0;
        for (std::int64_t b = std::max(unread, done) / size; b < blocks; ++b)
          list_head(pieces, holder.cache(layer), source[static_cast<std::size_t>(b)], at, own,
                    target[static_cast<std::size_t>(b)], h);
      }
    }
    memory.copy_later(pieces);
    memory.wait();
    slowest = std::max(slowest, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return slowest;
}

double Transformer::move_blocks(std::int32_t from, std::int32_t to, std::span<const BlockCopy> blocks) {
  double slowest = 0;
  for (Rank& rank : state_->ranks) {
    const auto start = Clock::now();
    rank.move_blocks(from, to, blocks);
    state_->kernels.memory().wait();
    slowest = std::max(slowest, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return slowest;
}

}  // namespace foretoken
