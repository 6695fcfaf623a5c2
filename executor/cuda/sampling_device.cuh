// What the kernels that choose tokens share (sampling.cu says how they work): tokens as numbers that can be
// compared, passes over a row, exact weights, and the sampled one of sorted candidates.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "executor/cuda/block_scan.cuh"
#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "executor/cuda/order.cuh"

namespace foretoken::cuda::sampling {

inline constexpr unsigned kThreads = 512;
inline constexpr int kMostSlices = 64, kLeastSlice = 2048;  // of a row; tokens of a slice
inline constexpr int kGroups = 1024;
inline constexpr int kListed = 4096;  // most candidates of a row
inline constexpr int kBins = 1024;
inline constexpr int kMostByGroups = 256;    // of a row's likeliest tokens; there are 512 groups or more
inline constexpr std::int64_t kChunk = 256;  // rows of a launch
inline constexpr float kOne = 0x1p42f;       // the largest weight; 2^21 of them can be added
inline constexpr float kFaint = 29.1f;       // exp(-kFaint) is less than 2^-41.9

// A token with its logit. The larger comes first; 0 is none.
using Item = unsigned long long;

FORETOKEN_DEVICE Item item_of(float logit, int token) {
  return static_cast<Item>(ordered(logit)) << 32 | (0xffffffffu - static_cast<unsigned>(token));
}
FORETOKEN_DEVICE int token_of(Item item) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(item));
}
FORETOKEN_DEVICE float logit_of(Item item) { return from_ordered(static_cast<unsigned>(item >> 32)); }

struct Choice {
  float temperature, top_p;
  int top_k;  // 0: all
};

// In scratch, of the rows of a chunk; counters are SamplingBuffers'.
struct Workspace {
  Item* list;           // [row][kListed]; then what the row answers
  Item* groups;         // [row][kGroups]: the largest of each
  float2* parts;        // [row][kMostSlices]: of a slice, its top and lowest logit, or its top and sum
  Item* bin_weights;    // [row][kBins]
  unsigned* bin_sizes;  // [row][kBins]
  unsigned* listed;     // [row]
  unsigned* arrived;    // [row]: slices
  const double* uniforms;
  std::int32_t* tokens;   // [row]; of verified drafts [row] accepted ones and [row] of paths behind them
  std::int32_t* drafted;  // [3 x row + 1]: what verification is told (Drafted)
};

// ---- Passes over a row -----------------------------------------------------------------------------------

struct Slice {
  int begin, end;
};
FORETOKEN_DEVICE Slice my_slice(int vocab) {
  const int slices = static_cast<int>(gridDim.x);
  const int size = ((vocab + slices - 1) / slices + 31) / 32 * 32;
  const int begin = static_cast<int>(blockIdx.x) * size;
  return {begin < vocab ? begin : vocab, begin + size < vocab ? begin + size : vocab};
}

// use(logit, token) of all tokens of [begin, end), shared among the threads of the block; a thread's ascend.
// 64 bytes a thread are on their way at a time.
template <class F>
FORETOKEN_DEVICE void for_each(const float* row, Slice slice, F use) {
  constexpr int kInFlight = 4;
  const int t = static_cast<int>(thread()), n = static_cast<int>(threads());
  const int odd = static_cast<int>(reinterpret_cast<std::uintptr_t>(row + slice.begin) / 4 % 4);
  const int head = odd == 0 ? 0 : 4 - odd, count = slice.end - slice.begin;
  if (t < head && t < count) use(row[slice.begin + t], slice.begin + t);
  const int first = slice.begin + head, quads = count > head ? (count - head) / 4 : 0;
  for (int q = t; q < quads; q += kInFlight * n) {
    uint4 bits[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (q + j * n < quads) bits[j] = load_streaming16(row + first + 4 * (q + j * n));
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (q + j * n < quads) {
        const int at = first + 4 * (q + j * n);
        use(as_float(bits[j].x), at);
        use(as_float(bits[j].y), at + 1);
        use(as_float(bits[j].z), at + 2);
        use(as_float(bits[j].w), at + 3);
      }
  }
  const int tail = first + 4 * quads + t;
  if (tail < slice.end) use(row[tail], tail);
}

// Whether all other blocks of the row have come here; what they wrote before is seen then. Once a kernel.
FORETOKEN_DEVICE bool last_of_row(unsigned* arrived) {
  __shared__ unsigned before;
  thread_fence();
  sync_threads();
  if (thread() == 0) before = atomic_add(arrived, 1u);
  sync_threads();
  const bool last = before + 1 == gridDim.x;
  thread_fence();
  if (last && thread() == 0) *arrived = 0;
  return last;
}

// Bitonic, the largest first; count: a power of two. A warp's pairs that are at most 32 apart lie in 64
// places of its own, so that only wider steps wait for the block: none for 64 items, 10 of 55 for 1,024,
// which most lists have no more of. CUB's block sorts take their rounds for whatever 512 threads may hold:
// 16 of ten barriers for a radix of 64 bits, 9 of two barriers and a binary search for a merge.
FORETOKEN_DEVICE void sort(Item* items, int count) {
  for (int size = 2; size <= count; size *= 2)
    for (int apart = size / 2; apart > 0; apart /= 2) {
      for (int i = static_cast<int>(thread()); i < count / 2; i += static_cast<int>(threads())) {
        const int at = 2 * i - (i & (apart - 1));
        const Item a = items[at], b = items[at + apart];
        if ((a < b) == ((at & size) == 0)) {
          items[at] = b;
          items[at + apart] = a;
        }
      }
      const int next = apart > 1 ? apart / 2 : size;
      if (apart > 32 || next > 32)
        sync_threads();
      else
        sync_warp();
    }
  sync_threads();
}
// The row's list, sorted, in shared memory.
FORETOKEN_DEVICE void sort_list(const Item* list, int count, Item* items) {
  int padded = 1;
  while (padded < count) padded *= 2;
  for (int i = static_cast<int>(thread()); i < padded; i += static_cast<int>(threads()))
    items[i] = i < count ? list[i] : 0;
  sync_threads();
  sort(items, padded);
}

// ---- Weights ---------------------------------------------------------------------------------------------

struct Weights {
  __device__ Weights(float of_top, float of_temperature)
      : top(of_top), temperature(of_temperature), inverse(1 / of_temperature) {}
  __device__ float below_top(float logit) const { return logit == top ? 0.0f : top - logit; }
  __device__ Item of(float logit) const {
    const float below = below_top(logit);
    if (!(below <= kFaint * temperature)) return 0;
    float exponent = below * inverse;  // then, as good as always, the rounded quotient
    exponent = fmaf(fmaf(-exponent, temperature, below), inverse, exponent);
    return static_cast<Item>(expf(-exponent) * kOne);
  }
  float top, temperature, inverse;
};

// The weight that has to be reached for top_p of all, and the one beyond which the sampled token ends. Both
// ascend with what they are of.
FORETOKEN_DEVICE Item needed(float top_p, Item all) {
  const auto share = static_cast<Item>(ceil(static_cast<double>(top_p) * static_cast<double>(all)));
  const Item most = share < all ? share : all;
  return most > 1 ? most : 1;
}
FORETOKEN_DEVICE Item reached(double uniform, Item kept) {
  const auto target = static_cast<Item>(uniform * static_cast<double>(kept));
  return target < kept ? target + 1 : kept > 1 ? kept : 1;
}

// Adds weights up in bins of shared memory, in words of 32 bits, for which there are atomics. What goes to
// one bin after another (equal logits) is added at once.
struct Tally {
  unsigned *sizes, *low, *high;
  int bin = 0;
  unsigned held = 0;
  Item weight = 0;

  __device__ void add(int to, Item of) {
    if (to != bin) flush();
    bin = to;
    ++held;
    weight += of;
  }
  __device__ void flush() {
    if (held == 0) return;
    atomic_add(sizes + bin, held);
    unsigned more = static_cast<unsigned>(weight >> 32);
    const auto less = static_cast<unsigned>(weight);
    if (less != 0) more += atomic_add(low + bin, less) + less < less;
    if (more != 0) atomic_add(high + bin, more);
    held = 0;
    weight = 0;
  }
};

// ---- The token at a place of a row, by its bits ----------------------------------------------------------

struct Found {
  Item item, before;  // before: weight of all that come before it
};
// The first item at which the number of items, or their weight, reaches `goal`; there is one. bins: 768 words
// of shared memory. Only one block works at the row.
template <bool kByWeight, class F>
FORETOKEN_DEVICE Found descend(const float* row, int vocab, Item goal, unsigned* bins, F weight_of) {
  constexpr unsigned kDigits = 256, kEach = kDigits / kWarp;
  __shared__ Found found;
  __shared__ Item left;
  Found at{0, 0};
  for (unsigned shift = 56;; shift -= 8) {
    for (unsigned i = thread(); i < 3 * kDigits; i += threads()) bins[i] = 0;
    sync_threads();
    Tally tally{bins, bins + kDigits, bins + 2 * kDigits};
    const Item higher = shift == 56 ? 0 : ~Item{0} << (shift + 8);
    for_each(row, {0, vocab}, [&](float logit, int token) {
      const Item item = item_of(logit, token);
      if (((item ^ at.item) & higher) == 0)
        tally.add(static_cast<int>(item >> shift & 255), weight_of(logit));
    });
    tally.flush();
    sync_threads();
    if (warp() == 0) {  // lane 0 has the highest digits
      const auto weight_at = [&](unsigned digit) {
        return static_cast<Item>(bins[2 * kDigits + digit]) << 32 | bins[kDigits + digit];
      };
      Item size = 0, weight = 0;
      for (unsigned i = 0; i < kEach; ++i) {
        size += bins[kDigits - 1 - kEach * lane() - i];
        weight += weight_at(kDigits - 1 - kEach * lane() - i);
      }
      const Item sizes = warp_up_to(size), weights = warp_up_to(weight);
      const Item mine = kByWeight ? weight : size, reach = kByWeight ? weights : sizes;
      if (reach - mine < goal && goal <= reach) {
        Item passed = reach - mine, before = weights - weight;
        for (unsigned i = 0; i < kEach; ++i) {
          const unsigned digit = kDigits - 1 - kEach * lane() - i;
          const Item by = kByWeight ? weight_at(digit) : bins[digit];
          if (passed + by >= goal) {
            found = {at.item | static_cast<Item>(digit) << shift, at.before + before};
            left = goal - passed;
            break;
          }
          passed += by;
          before += weight_at(digit);
        }
      }
    }
    sync_threads();
    at = found;
    goal = left;
    if (shift == 0) return at;
    // `found` is written again behind two barriers.
  }
}

// ---- The sampled token of sorted candidates --------------------------------------------------------------

// Where candidates are those of some bins: the bin of a logit, and what all bins before it that are not
// listed hold.
struct Gaps {
  float scale;
  const Item* weights;
  const unsigned* sizes;
  Item all;  // weight of the row
};
FORETOKEN_DEVICE int bin_of(float below_top, float scale) {
  const int bin = static_cast<int>(below_top * scale);
  return bin < kBins ? bin : kBins - 1;
}

template <bool kGaps>
FORETOKEN_DEVICE int choose(const Item* items, int count, const Weights& weights, const Choice& choice,
                            double uniform, const Gaps& gaps) {
  __shared__ Item all, kept;
  __shared__ int token;
  const int each = (count + static_cast<int>(threads()) - 1) / static_cast<int>(threads());
  const int begin = static_cast<int>(thread()) * each, end = begin + each < count ? begin + each : count;
  Item mine = 0;
  for (int i = begin; i < end; ++i) mine += weights.of(logit_of(items[i]));
  const Before<Item> before = block_before<kThreads>(mine);
  // use(item, its place in the row's order, weight of all before it, and with it)
  const auto walk = [&](auto use) {
    Item passed = before.sum;
    for (int i = begin; i < end; ++i) {
      const float logit = logit_of(items[i]);
      const Item weight = weights.of(logit);
      Item skipped = 0;
      int place = i;
      if constexpr (kGaps) {
        const int bin = bin_of(weights.below_top(logit), gaps.scale);
        skipped = gaps.weights[bin];
        place += static_cast<int>(gaps.sizes[bin]);
      }
      use(items[i], place, passed + skipped, passed + skipped + weight);
      passed += weight;
    }
  };
  if (thread() == 0) {
    all = kGaps ? gaps.all : before.total;
    token = count > 0 ? token_of(items[0]) : 0;  // where nothing weighs anything: NaNs
  }
  sync_threads();
  if (choice.top_k > 0) {
    walk([&](Item, int place, Item, Item with) {
      if (place == choice.top_k - 1) all = with;
    });
    sync_threads();
  }
  Item goal = needed(choice.top_p, all);
  if (thread() == 0) kept = all;
  sync_threads();
  if (choice.top_p < 1) {
    walk([&](Item, int, Item without, Item with) {
      if (without < goal && goal <= with) kept = with;
    });
    sync_threads();
  }
  goal = reached(uniform, kept);
  walk([&](Item item, int, Item without, Item with) {
    if (without < goal && goal <= with) token = token_of(item);
  });
  sync_threads();
  return token;
}

// The same of a whole row that no list holds.
FORETOKEN_DEVICE int choose_by_bits(const float* row, int vocab, const Weights& weights, const Choice& choice,
                                    double uniform, Item all, unsigned* bins) {
  const auto weight_of = [&](float logit) { return weights.of(logit); };
  if (choice.top_k > 0 && choice.top_k < vocab) {
    const Found last = descend<false>(row, vocab, static_cast<Item>(choice.top_k), bins, weight_of);
    all = last.before + weights.of(logit_of(last.item));
  }
  Item kept = all;
  if (choice.top_p < 1) {
    const Found last = descend<true>(row, vocab, needed(choice.top_p, all), bins, weight_of);
    kept = last.before + weights.of(logit_of(last.item));
  }
  return token_of(descend<true>(row, vocab, reached(uniform, kept), bins, weight_of).item);
}

// ---- Launches --------------------------------------------------------------------------------------------

// Chunks of rows, in launches of `slices` blocks a row.
struct Chunk {
  std::int64_t first, rows;
  unsigned slices, groups;  // groups: of a slice

  Chunk(std::int64_t first_row, std::int64_t all_rows, std::int64_t vocab, int multiprocessors)
      : first(first_row), rows(std::min(all_rows - first_row, kChunk)) {
    const std::int64_t most =
        std::min<std::int64_t>({kMostSlices, vocab / kLeastSlice, 4 * multiprocessors / rows});
    slices = std::bit_floor(static_cast<unsigned>(std::max<std::int64_t>(most, 1)));
    groups = std::min(kGroups / slices, kThreads);
  }
  Launch launch(const char* name, std::size_t shared = 0) const {
    return {
        .grid = dim3(slices, static_cast<unsigned>(rows)), .block = kThreads, .shared = shared, .name = name};
  }
};

// What becomes of a row's likeliest.
enum class Answer : std::uint8_t { kTokens, kBeams, kSampled };

inline constexpr std::size_t kListBytes = kListed * sizeof(Item);

// The largest of each row to w.tokens.
void launch_largest(const Chunk& chunk, const float* logits, int vocab, const Workspace& w, Stream& stream);
// The `count` likeliest of each row, in order. kTokens: as many tokens in the row's list, -1 where there are
// no more; kBeams: two floats, the row's top and the sum of exp(logit - top), then `count` pairs of token and
// logit; kSampled: one of them to w.tokens.
void launch_best(Answer answer, const Chunk& chunk, const float* logits, int vocab, int count,
                 const Choice& choice, const Workspace& w, Stream& stream);
// Verification (Kernels::sample_and_verify()) of rows whose tokens are chosen; pointers are the device's.
struct Drafted {
  const std::int32_t *starts, *tokens, *parents;  // parents: null for chains
  std::int32_t sequences;
};
void launch_verify(const Drafted& drafted, const std::int32_t* chosen, std::int32_t* accepted,
                   std::int32_t* path, Stream& stream);
// A token of each row to w.tokens, of all that weigh anything.
void launch_sampled(const Chunk& chunk, const float* logits, int vocab, const Choice& choice,
                    const Workspace& w, Stream& stream);

}  // namespace foretoken::cuda::sampling
