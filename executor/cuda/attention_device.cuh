// What the attention kernels share: which part of the work is a block's, where a position's keys lie, what a
// row sees, and how a score becomes the exponent of 2 that its weight is.
#pragma once

#include <cstddef>
#include <iterator>
#include <type_traits>

#include "executor/cuda/attention_kernels.h"
#include "executor/cuda/device.cuh"

namespace foretoken::cuda {

// A launch, as kernels see it.
struct AttentionParams {
  const SequenceRows* sequences = nullptr;
  int count = 0, tiles = 0;  // sequences; tiles of the one that has most
  int rows = 0, unit = 0;    // of a tile; keys
  int least_units = 1;
  bool whole = false;
  int mirrored_from = 0;  // AttentionPlan's
  const float* q = nullptr;
  float* out = nullptr;
  std::int64_t q_stride = 0, out_stride = 0;
  bool q_vectors = false, out_vectors = false;         // four numbers at a time are aligned
  const std::byte *keys = nullptr, *values = nullptr;  // values: the keys, where they are a part of them
  const float *key_scales = nullptr, *value_scales = nullptr;
  bool key_vectors = false, value_vectors = false;
  int block_size = 1;
  int box_rows = 0;          // the variant's
  int heads = 1, group = 1;  // of the cache; query heads of each
  Divisor by_block, by_group;
  int k_dim = 0, v_dim = 0, value_row = 0;  // value_row: elements of the cache's rows of values
  int v_first = 0, v_count = 0;             // of this launch, which may compute a part of v_dim
  // What products are multiplied by, and what their tanh is (0: none is taken): exponents of 2 come of it.
  float by = 1, cap = 0;
  int window = 0;  // 0: all
  bool chunked = false;
  const float* sinks = nullptr;
  float* lse = nullptr;  // AttentionArgs'
  // Of items that are cut: of block b the parts 2b (what began in an earlier block) and 2b + 1 (what goes on
  // in a later one), each of `rows` rows: sums[part][row][v_pad], and the largest exponent and the sum of the
  // weights at [part][row].
  float* sums = nullptr;
  float2* tops = nullptr;
  int v_pad = 0;
};

// f(0), f(1), ... f(N - 1) with constants: for bodies so long that the compiler leaves them a loop, and the
// arrays that they index in local memory.
template <int N, class F, int I = 0>
FORETOKEN_DEVICE void unrolled(const F& f) {
  if constexpr (I < N) {
    f(std::integral_constant<int, I>{});
    unrolled<N, F, I + 1>(f);
  }
}

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr unsigned kNoSlot = 0xffffffffu;

// ---- Which work is whose ----------------------------------------------------------------------------------

// The first position that a query at `position` sees.
FORETOKEN_DEVICE int first_visible(const AttentionParams& p, int position) {
  if (p.window <= 0) return 0;
  if (p.chunked) return position / p.window * p.window;
  return position < p.window ? 0 : position - p.window + 1;
}

struct KeyUnits {
  int first = 0, count = 0;
};

FORETOKEN_DEVICE int packed_rows(const AttentionParams& p, const SequenceRows& s) {
  return static_cast<int>(s.new_tokens) * p.group;
}

// What the rows of a tile read. None where the sequence has no such tile.
FORETOKEN_DEVICE KeyUnits key_units(const AttentionParams& p, const SequenceRows& s, int tile) {
  const int rows = packed_rows(p, s), begin = tile * p.rows;
  if (begin >= rows) return {};
  const int end = begin + p.rows < rows ? begin + p.rows : rows, cached = static_cast<int>(s.cached);
  const int first = first_visible(p, cached + p.by_group.quotient(begin)) / p.unit;
  return {first, (cached + p.by_group.quotient(end - 1)) / p.unit - first + 1};
}

// Finds the entry (a tile of a sequence) in which unit `at` of all units lies, and where the entry begins.
// Every lane gets the answer; p.heads items of each entry lie behind one another.
struct Entry {
  int index = 0;
  long long begin = 0;
};
FORETOKEN_DEVICE Entry entry_of(const AttentionParams& p, long long at) {
  const int entries = p.count * p.tiles;
  long long before = 0;
  for (int base = 0; base < entries; base += 32) {
    const int e = base + static_cast<int>(lane());
    const long long own =
        e < entries
            ? static_cast<long long>(key_units(p, p.sequences[e / p.tiles], e % p.tiles).count) * p.heads
            : 0;
    const long long upto = warp_up_to(own);
    if (const unsigned hit = ballot(at < before + upto); hit != 0) {
      const auto first = static_cast<unsigned>(lowest_bit(hit));
      return {base + static_cast<int>(first), before + shuffle(upto - own, first)};
    }
    before += shuffle(upto, 31);
  }
  return {entries, before};
}

// How many units there are, and how many of them a block takes. A block function.
struct Shares {
  long long units = 0, each = 1;
};
FORETOKEN_DEVICE Shares shares_of(const AttentionParams& p, int blocks) {
  const int entries = p.count * p.tiles;
  long long own = 0;
  for (int e = static_cast<int>(thread()); e < entries; e += static_cast<int>(threads()))
    own += key_units(p, p.sequences[e / p.tiles], e % p.tiles).count;
  const long long units = block_sum(own) * p.heads, each = (units + blocks - 1) / blocks;
  return {units, each < p.least_units ? p.least_units : each};
}

// What a block works at: rows [tile x p.rows, ...) of a sequence, with one head of the cache, over a part of
// the keys. It lies in shared memory, as registers are what kernels lack.
struct Item {
  const std::int32_t *blocks, *branch;
  std::int64_t first_row;
  int cached, tokens, branch_from;  // tokens: cached and new
  int rows;                         // packed ones of the sequence
  int tile, head;
  int unit, end_unit;        // of the keys, from the sequence's first on
  bool valid, begins, ends;  // whether the item's first and last units are among them

  FORETOKEN_DEVICE void set_sequence(const AttentionParams& p, const SequenceRows& s) {
    blocks = s.blocks, branch = s.branch;
    first_row = s.first_row;
    cached = static_cast<int>(s.cached), tokens = static_cast<int>(s.cached + s.new_tokens);
    branch_from = static_cast<int>(s.branch_from);
    rows = packed_rows(p, s);
  }
  FORETOKEN_DEVICE bool cut() const { return !begins || !ends; }
  FORETOKEN_DEVICE int part() const { return 2 * static_cast<int>(blockIdx.x) + (begins ? 1 : 0); }
};

// A block's items, one after another.
struct Walk {
  Item item;
  long long at, end;  // units still to do
  long long begin;    // the entry's first one
  int entry;
};
FORETOKEN_DEVICE Walk& shared_walk() {
  __shared__ Walk walk;
  return walk;
}

// Block functions: the first before next_item().
FORETOKEN_DEVICE void start_walk(const AttentionParams& p) {
  Walk& walk = shared_walk();
  if (p.whole) {
    if (thread() == 0) walk.at = 0, walk.end = 1;
    return;
  }
  const Shares shares = shares_of(p, static_cast<int>(gridDim.x));
  if (warp() != 0) return;
  const long long at = blockIdx.x * shares.each, upto = at + shares.each;
  const Entry entry = entry_of(p, at);
  if (lane() != 0) return;
  walk.at = at, walk.end = upto < shares.units ? upto : shares.units;
  walk.entry = entry.index, walk.begin = entry.begin;
}

namespace detail {
// An item for each block; the last tiles, which have most to read, come first. Where all blocks run at the
// same time, those that share a multiprocessor with them come the other way round.
FORETOKEN_DEVICE void whole_item(const AttentionParams& p, Item& item) {
  const auto block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const bool mirrored = p.mirrored_from > 0 && block >= p.mirrored_from;
  const int number = mirrored ? block - p.mirrored_from : blocks - 1 - block;
  const int wanted = number / p.heads;
  int before = 0;
  for (int base = 0; base < p.count; base += 32) {
    const int i = base + static_cast<int>(lane());
    const int own = i < p.count ? (packed_rows(p, p.sequences[i]) + p.rows - 1) / p.rows : 0;
    const int upto = warp_up_to(own);
    if (const unsigned hit = ballot(wanted < before + upto); hit != 0) {
      if (static_cast<int>(lane()) == lowest_bit(hit)) {
        const SequenceRows& s = p.sequences[i];
        item.set_sequence(p, s);
        item.tile = wanted - before - (upto - own), item.head = number % p.heads;
        const KeyUnits units = key_units(p, s, item.tile);
        item.unit = units.first, item.end_unit = units.first + units.count;
        item.valid = item.begins = item.ends = true;
      }
      return;
    }
    before += shuffle(upto, 31);
  }
}

FORETOKEN_DEVICE void shared_out_item(const AttentionParams& p, Walk& walk) {
  Item& item = walk.item;
  KeyUnits units;
  for (;; ++walk.entry) {
    const SequenceRows& s = p.sequences[walk.entry / p.tiles];
    item.tile = walk.entry % p.tiles;
    units = key_units(p, s, item.tile);
    const long long all = static_cast<long long>(units.count) * p.heads;
    if (walk.at < walk.begin + all) {
      item.set_sequence(p, s);
      break;
    }
    walk.begin += all;
  }
  const long long into = walk.at - walk.begin;
  item.head = static_cast<int>(into / units.count);
  const int from = static_cast<int>(into % units.count);
  const long long left = walk.end - walk.at;
  const int to = units.count - from <= left ? units.count : from + static_cast<int>(left);
  item.valid = true, item.begins = from == 0, item.ends = to == units.count;
  item.unit = units.first + from, item.end_unit = units.first + to;
  walk.at += to - from;
}
}  // namespace detail

// Whether there is one more; then it is shared_walk().item, until this is called again.
FORETOKEN_DEVICE bool next_item(const AttentionParams& p) {
  Walk& walk = shared_walk();
  sync_threads();  // what start_walk() wrote; or, all are done with the last one
  if (warp() == 0) {
    if (walk.at >= walk.end) {
      if (lane() == 0) walk.item.valid = false;
    } else if (p.whole) {
      detail::whole_item(p, walk.item);
      if (lane() == 0) walk.at = walk.end;
    } else if (lane() == 0) {
      detail::shared_out_item(p, walk);
    }
  }
  sync_threads();
  return walk.item.valid;
}

// ---- Rows and keys ----------------------------------------------------------------------------------------

// The last position that row `row` of a tile sees, its own; -1 where there is no such row.
FORETOKEN_DEVICE int position_of(const AttentionParams& p, const Item& item, int row) {
  const int packed = item.tile * p.rows + row;
  return packed < item.rows ? item.cached + p.by_group.quotient(packed) : -1;
}
FORETOKEN_DEVICE bool sees(const AttentionParams& p, int position, int key) {
  return key <= position && (p.window <= 0 || key >= first_visible(p, position));
}

// Which vector of the cache holds a position; kNoSlot beyond the sequence.
FORETOKEN_DEVICE unsigned slot_of(const AttentionParams& p, const Item& item, int position) {
  if (position >= item.tokens) return kNoSlot;
  int place = position;
  if (item.branch != nullptr && position >= item.branch_from)
    place = item.branch[position - item.branch_from];
  const int block = p.by_block.quotient(place);
  const int inside = place - block * p.block_size;
  return (static_cast<unsigned>(item.blocks[block]) * static_cast<unsigned>(p.heads) +
          static_cast<unsigned>(item.head)) *
             static_cast<unsigned>(p.block_size) +
         static_cast<unsigned>(inside);
}

// Puts the tile's rows of q where at(row, dim, four numbers) does, Dims of them (0 beyond p.k_dim and where
// the tile has no such row), which the block's threads share out.
template <int Rows, int Threads, class Dims, class At>
FORETOKEN_DEVICE void for_queries(const AttentionParams& p, const Item& item, Dims dims, At at) {
  const int fours = dims / 4, first = item.tile * p.rows, rows = item.rows, lead = item.head * p.group;
  const float* q = p.q + item.first_row * p.q_stride;
  const auto fetch = [&](int i, auto vectors) {
    float4 x = make_float4(0, 0, 0, 0);
    const int row = i / fours, dim = i % fours * 4, packed = first + row;
    const bool valid = row < Rows && packed < rows && dim < p.k_dim;
    // What isn't valid is read elsewhere instead, so that no load waits for another one's branch.
    const int token = p.by_group.quotient(valid ? packed : first);
    const int head = lead + (valid ? packed : first) - token * p.group;
    const float* from = q + token * p.q_stride + head * p.k_dim + (valid ? dim : 0);
    if constexpr (decltype(vectors)::value) {
      const float4 all = *reinterpret_cast<const float4*>(from);
      if (valid) x = all;
    } else if (valid) {
      x.x = from[0];
      if (dim + 1 < p.k_dim) x.y = from[1];
      if (dim + 2 < p.k_dim) x.z = from[2];
      if (dim + 3 < p.k_dim) x.w = from[3];
    }
    return x;
  };
  // So many loads of a thread are under way together: one after another they take an item tens of
  // microseconds.
  constexpr int kTogether = 8;
  const auto copy = [&](auto vectors) {
    for (int base = static_cast<int>(thread()); base < Rows * fours; base += kTogether * Threads) {
      float4 x[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) x[j] = fetch(base + j * Threads, vectors);
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int i = base + j * Threads;
        if (i < Rows * fours) at(i / fours, i % fours * 4, x[j]);
      }
    }
  };
  if (p.q_vectors)
    copy(std::true_type{});
  else
    copy(std::false_type{});
}

// Where the tile's row `row` of the output lies; null where the tile has no such row.
FORETOKEN_DEVICE float* out_row(const AttentionParams& p, const Item& item, int row) {
  const int packed = item.tile * p.rows + row;
  if (packed >= item.rows) return nullptr;
  const int token = p.by_group.quotient(packed);
  return p.out + (item.first_row + token) * p.out_stride +
         static_cast<std::int64_t>(item.head * p.group + packed - token * p.group) * p.v_dim;
}

// 4 numbers from dim `dim` of a row of `dims` on; what lies beyond isn't written.
FORETOKEN_DEVICE void store_out(float* row, int dim, int dims, bool vectors, float4 x) {
  if (dim >= dims) return;
  if (vectors) {
    *reinterpret_cast<float4*>(row + dim) = x;
    return;
  }
  row[dim] = x.x;
  if (dim + 1 < dims) row[dim + 1] = x.y;
  if (dim + 2 < dims) row[dim + 2] = x.z;
  if (dim + 3 < dims) row[dim + 3] = x.w;
}

// ---- Softmax ----------------------------------------------------------------------------------------------

// The product of a query and a key (times the key's scale) as an exponent of 2.
FORETOKEN_DEVICE float exponent(const AttentionParams& p, float product) {
  const float x = product * p.by;
  if (p.cap == 0) return x;
  return p.cap * (1 - 2 * fast_reciprocal(fast_exp2(x) + 1));  // tanh(y) = 1 - 2 / (e^2y + 1)
}

// The largest exponent of a row that has seen no key: so low that what it is the factor of vanishes, and not
// so low that differences of two are no numbers.
inline constexpr float kNothing = -1e30f;

// Takes a head's sink into account: a weight without a value. Changes the largest exponent and the sum, and
// returns what the sums so far are to be multiplied by.
FORETOKEN_DEVICE float add_sink(const AttentionParams& p, int head, float& top, float& sum) {
  if (p.sinks == nullptr) return 1;
  const float sink = p.sinks[head] * kLog2E, both = fmaxf(top, sink);
  const float factor = fast_exp2(top - both);
  sum = sum * factor + fast_exp2(sink - both);
  top = both;
  return factor;
}

// What the sums of a row's values are to be multiplied by, once all of its keys were seen.
FORETOKEN_DEVICE float normaliser(const AttentionParams& p, const Item& item, int row, float top, float sum) {
  const int packed = item.tile * p.rows + row, of_group = packed - p.by_group.quotient(packed) * p.group;
  const float factor = add_sink(p, item.head * p.group + of_group, top, sum);
  return factor / sum;
}

// Where a row's sums go, and times what: the output where all of its keys were seen, else the block's part.
// Null where the tile has no such row.
struct Destination {
  float* row;
  float factor;
  bool vectors;
};
FORETOKEN_DEVICE Destination destination(const AttentionParams& p, const Item& item, int row, float top,
                                         float sum) {
  float* out = out_row(p, item, row);
  if (out == nullptr) return {nullptr, 0, false};
  if (!item.cut()) return {out + p.v_first, normaliser(p, item, row, top, sum), p.out_vectors};
  return {p.sums + (static_cast<std::int64_t>(item.part()) * p.rows + row) * p.v_pad, 1, true};
}
// Where it is wanted, of a row whose keys were all seen.
FORETOKEN_DEVICE void store_lse(const AttentionParams& p, const Item& item, int row, float top, float sum) {
  const int packed = item.tile * p.rows + row;
  if (p.lse == nullptr || packed >= item.rows) return;
  const int token = p.by_group.quotient(packed), head = item.head * p.group + packed - token * p.group;
  add_sink(p, head, top, sum);
  p.lse[(item.first_row + token) * (p.heads * p.group) + head] = (top + fast_log2(sum)) / kLog2E;
}
// Once a row: what the sum of its parts needs besides where it is cut, else its part of the softmax.
FORETOKEN_DEVICE void store_top(const AttentionParams& p, const Item& item, int row, float top, float sum) {
  if (item.cut())
    p.tops[static_cast<std::int64_t>(item.part()) * p.rows + row] = make_float2(top, sum);
  else
    store_lse(p, item, row, top, sum);
}

// ---- Which compiled kernel a variant is
// --------------------------------------------------------------------

// Make<Element>::of(variant) for the element that the variant's cache holds.
template <template <class> class Make>
AttentionFunction of_products(const AttentionVariant& variant) {
  switch (variant.storage) {
    case Storage::kBf16:
      return Make<bf16>::of(variant);
    case Storage::kInt8:
      return Make<std::int8_t>::of(variant);
    case Storage::kFp8:
      return Make<e4m3>::of(variant);
    default:
      return nullptr;  // others have no products of bf16
  }
}

// Make::heads<K, V>() for the list's heads that are the variant's.
template <const auto& heads, class Make, class Function = AttentionFunction, std::size_t I = 0>
Function of_heads(const AttentionVariant& variant) {
  if constexpr (I < std::size(heads)) {
    if (variant.k == heads[I].k && variant.v == heads[I].v)
      return Make::template heads<heads[I].k, heads[I].v>();
    return of_heads<heads, Make, Function, I + 1>(variant);
  }
  return nullptr;
}

}  // namespace foretoken::cuda
