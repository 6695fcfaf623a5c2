// The cache's entries in plain loops: written, read, and shifted to another place.
#include <cstring>
#include <vector>

#include "executor/kernels_shared.h"

namespace foretoken {
namespace {

void write_cached(const CacheLayer& cache, bool value, std::int64_t slot, const float* from) {
  const std::int64_t dims = value ? cache.v_dim : cache.k_dim;
  float* const scales = value ? cache.value_scales : cache.key_scales;
  encode_row(cache.storage, from, dims,
             (value ? cache.values : cache.keys) + slot * dims * cache_width(cache.storage),
             scales_of_row(cache.storage, dims) > 0 ? scales + slot : nullptr);
}

}  // namespace

void read_cached(const CacheLayer& cache, bool value, std::int64_t slot, float* out) {
  const std::int64_t dims = value ? cache.v_dim : cache.k_dim, width = cache_width(cache.storage);
  const std::byte* from = (value ? cache.values : cache.keys) + slot * dims * width;
  const float* scales = value ? cache.value_scales : cache.key_scales;
  const bool scaled = cache.storage == Storage::kFp8 || cache.storage == Storage::kInt8;
  const float scale = scaled ? scales[slot] : 1.0f;
  for (std::int64_t i = 0; i < dims; ++i) out[i] = stored_value(cache.storage, from + i * width) * scale;
}

void SharedKernels::cache_write(const CacheLayer& cache, const Sequences& sequences, const float* keys,
                                std::int64_t key_stride, const float* values,
                                std::int64_t value_stride) const {
  for (const auto& s : sequences.host)
    for (std::int64_t i = 0; i < s.new_tokens; ++i)
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        const std::int64_t slot = cache_slot(cache, s.blocks, s.cached + i, h), row = s.first_row + i;
        write_cached(cache, false, slot, keys + row * key_stride + h * cache.k_dim);
        if (cache.v_dim) write_cached(cache, true, slot, values + row * value_stride + h * cache.v_dim);
      }
}

void SharedKernels::cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens,
                               float* keys, float* values) const {
  for (std::int64_t i = 0; i < tokens; ++i)
    for (std::int64_t h = 0; h < cache.heads; ++h) {
      const std::int64_t slot = cache_slot(cache, blocks, i, h);
      if (keys) read_cached(cache, false, slot, keys + (i * cache.heads + h) * cache.k_dim);
      if (values && cache.v_dim) read_cached(cache, true, slot, values + (i * cache.heads + h) * cache.v_dim);
    }
}

// Tokens in ascending order, so that a place is read before another token is written to it.
void SharedKernels::shift_cached(const CacheLayer& cache, const CacheShift& shift, Threads& threads) const {
  const RopeArgs& turn = shift.turn;
  if (shift.from == shift.to && turn.pairs == 0) return;
  const auto move = [&](bool value, std::int64_t from, std::int64_t to) {
    const std::int64_t bytes = (value ? cache.v_dim : cache.k_dim) * cache_width(cache.storage);
    std::byte* const data = value ? cache.values : cache.keys;
    float* const scales = value ? cache.value_scales : cache.key_scales;
    std::memcpy(data + to * bytes, data + from * bytes, static_cast<std::size_t>(bytes));
    if (scales != nullptr) scales[to] = scales[from];
  };
  threads.run(cache.heads, [&](std::int64_t h) {
    thread_local std::vector<float> key;
    key.resize(static_cast<std::size_t>(cache.k_dim));
    for (std::int64_t t = 0; t < shift.tokens; ++t) {
      const std::int64_t from = cache_slot(cache, shift.blocks, shift.from + t, h),
                         to = cache_slot(cache, shift.blocks, shift.to + t, h);
      if (from != to && cache.v_dim > 0) move(true, from, to);
      if (turn.pairs == 0) {
        move(false, from, to);
        continue;
      }
      read_cached(cache, false, from, key.data());
      constexpr std::int32_t kOnlyAngle[] = {0};
      rope(turn.cosines, turn.sines, turn.pairs, turn.interleaved, kOnlyAngle, key.data(), cache.k_dim, 1,
           cache.k_dim, shift.first);
      write_cached(cache, false, to, key.data());
    }
  });
}

}  // namespace foretoken
