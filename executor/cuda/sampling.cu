// Choosing tokens from logits[rows][vocab]. What bounds it is reading the logits (a row of 150,000 is 600 kB)
// and, for few rows, the latency of launches, so rows are cut into slices, a block each, until the device is
// full; what is found of the slices is put together by the last block of a row that comes to it. Never is a
// row sorted:
//
//  - Greedy: one pass, the largest of a row.
//  - The `count` likeliest (best_tokens, select_beams, top_k up to 256): a first pass leaves the largest of
//    each of up to 1024 groups of a row's tokens. The count-th largest of those bounds the count-th largest
//    token from below, and hardly more than `count` tokens lie above it: a second pass lists them, and the
//    last block sorts the list. Beams get the sum of the softmax from the first pass.
//  - All others: the first pass finds the range, the second a histogram of weights in 1024 equal parts of it
//    (those that weigh anything). It tells in which few parts lie the token at which top_k cuts, the one at
//    which top_p cuts and the one that is sampled; the third pass lists the tokens of those parts.
//
// Rows with more candidates than the list holds (thousands of equal logits) are rare: a block goes through
// the bits of the row's numbers, eight at a time, from the highest on. Exact too, in up to 24 passes.
//
// Weights exp((logit - top) / temperature) are integers, in units of 2^-42: their sums don't depend on the
// order in which blocks and atomics add. Tokens below that are never chosen.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "executor/cuda/order.cuh"
#include "executor/cuda/sampling.h"

namespace foretoken::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr int kMostSlices = 64, kLeastSlice = 2048;  // of a row; tokens of a slice
constexpr int kGroups = 1024;
constexpr int kListed = 4096;  // most candidates of a row
constexpr int kBins = 1024;
constexpr int kMostByGroups = 256;    // of a row's likeliest tokens; there are 512 groups or more
constexpr std::int64_t kChunk = 256;  // rows of a launch
constexpr float kOne = 0x1p42f;       // the largest weight; 2^21 of them can be added
constexpr float kFaint = 29.1f;       // exp(-kFaint) is less than 2^-41.9

// A token with its logit. The larger comes first; 0 is none.
using Item = unsigned long long;

__device__ Item item_of(float logit, int token) {
  return static_cast<Item>(ordered(logit)) << 32 | (0xffffffffu - static_cast<unsigned>(token));
}
__device__ int token_of(Item item) { return static_cast<int>(0xffffffffu - static_cast<unsigned>(item)); }
__device__ float logit_of(Item item) { return from_ordered(static_cast<unsigned>(item >> 32)); }

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
  std::int32_t* tokens;
};

// ---- Passes over a row -----------------------------------------------------------------------------------

struct Slice {
  int begin, end;
};
__device__ Slice my_slice(int vocab) {
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
__device__ bool last_of_row(unsigned* arrived) {
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

// Sum of the values of threads before this one, and of all.
template <class T>
struct Before {
  T sum, total;
};
template <class T>
FORETOKEN_DEVICE T warp_up_to(T value) {
#pragma unroll
  for (unsigned by = 1; by < kWarp; by *= 2) {
    const T other = shuffle_up(value, by);
    if (lane() >= by) value += other;
  }
  return value;
}
template <class T>
FORETOKEN_DEVICE Before<T> block_before(T value) {
  __shared__ T of_warp[kWarp];
  const T up_to = warp_up_to(value);
  sync_threads();  // the last call's may still be read
  if (lane() == kWarp - 1) of_warp[warp()] = up_to;
  sync_threads();
  const T own = lane() < warps() ? of_warp[lane()] : T{0};
  const T warps_up_to = warp_up_to(own);
  return {shuffle(warps_up_to - own, warp()) + up_to - value, shuffle(warps_up_to, kWarp - 1)};
}

// Bitonic, the largest first; count: a power of two. A warp's pairs that are at most 32 apart lie in 64
// places of its own, so that only wider steps wait for the block.
__device__ void sort(Item* items, int count) {
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
__device__ void sort_list(const Item* list, int count, Item* items) {
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
__device__ Item needed(float top_p, Item all) {
  const auto share = static_cast<Item>(ceil(static_cast<double>(top_p) * static_cast<double>(all)));
  const Item most = share < all ? share : all;
  return most > 1 ? most : 1;
}
__device__ Item reached(double uniform, Item kept) {
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
__device__ int bin_of(float below_top, float scale) {
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
  const Before<Item> before = block_before(mine);
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

// ---- Greedy ----------------------------------------------------------------------------------------------

__global__ __launch_bounds__(kThreads) void find_largest(const float* logits, int vocab, Workspace w) {
  grid_dependency_wait();
  const std::int64_t row = blockIdx.y;
  Item* const largest = w.groups + row * kGroups;
  Item mine = 0;
  for_each(logits + row * vocab, my_slice(vocab), [&](float logit, int token) {
    const Item item = item_of(logit, token);
    mine = item > mine ? item : mine;
  });
  mine = block_max(mine);
  if (thread() == 0) largest[blockIdx.x] = mine;
  if (!last_of_row(w.arrived + row)) return;
  mine = block_max(thread() < gridDim.x ? largest[thread()] : 0);
  if (thread() == 0) w.tokens[row] = token_of(mine);
}

// ---- The likeliest ---------------------------------------------------------------------------------------

// The sum of exp(x - top) over numbers whose largest is `top`.
struct Sum {
  float top = -INFINITY, sum = 0;
  __device__ void add(float x) {
    if (!(x > -INFINITY)) return;
    const float above = x - top, shrunk = fast_exp(-fabsf(above));
    sum = above > 0 ? sum * shrunk + 1 : sum + shrunk;
    top = fmaxf(top, x);
  }
};
// Every thread gets the sum of all.
FORETOKEN_DEVICE Sum block_join(Sum mine) {
  Sum all;
  all.top = block_max(mine.top);
  all.sum = block_sum(mine.top > -INFINITY ? mine.sum * fast_exp(mine.top - all.top) : 0.0f);
  return all;
}

// The largest item of each of `groups` groups of the slice, a power of two from 16 on.
template <bool kSums>
__global__ __launch_bounds__(kThreads) void find_groups(const float* logits, int vocab, unsigned groups,
                                                        Workspace w) {
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t row = blockIdx.y;
  Item mine = 0;
  Sum sum;
  for_each(logits + row * vocab, my_slice(vocab), [&](float logit, int token) {
    const Item item = item_of(logit, token);
    mine = item > mine ? item : mine;
    if (kSums) sum.add(logit);
  });
  const unsigned lanes = kThreads / groups;
  for (unsigned mask = 1; mask < lanes; mask *= 2) {
    const Item other = shuffle_xor(mine, mask);
    mine = other > mine ? other : mine;
  }
  if (thread() % lanes == 0) w.groups[row * kGroups + blockIdx.x * groups + thread() / lanes] = mine;
  if (kSums) {
    sum = block_join(sum);
    if (thread() == 0) w.parts[row * kMostSlices + blockIdx.x] = make_float2(sum.top, sum.sum);
  }
}

enum class Answer : std::uint8_t { kTokens, kBeams, kSampled };

// kTokens: the row's list becomes `count` tokens; kBeams: its top and sum, then `count` tokens with logits.
template <Answer kAnswer>
__global__ __launch_bounds__(kThreads) void list_best(const float* logits, int vocab, unsigned groups,
                                                      int count, Choice choice, Workspace w) {
  grid_dependency_wait();
  const std::int64_t row = blockIdx.y;
  const float* const from = logits + row * vocab;
  Item* const list = w.list + row * kListed;
  auto* const items = reinterpret_cast<Item*>(dynamic_shared());
  __shared__ unsigned taken;

  const int all_groups = static_cast<int>(groups * gridDim.x);
  Item least = 1;
  if (count <= all_groups) {
    sort_list(w.groups + row * kGroups, all_groups, items);
    least = items[count - 1] > 0 ? items[count - 1] : 1;
    sync_threads();
  }
  for_each(from, my_slice(vocab), [&](float logit, int token) {
    const Item item = item_of(logit, token);
    if (item < least) return;
    const unsigned at = atomic_add(w.listed + row, 1u);
    if (at < kListed) list[at] = item;
  });
  if (!last_of_row(w.arrived + row)) return;

  int listed = static_cast<int>(w.listed[row]);
  sync_threads();
  if (thread() == 0) w.listed[row] = taken = 0;
  if (listed > kListed) {  // the count-th largest itself bounds them
    least =
        descend<false>(from, vocab, static_cast<Item>(count), reinterpret_cast<unsigned*>(items), [](float) {
          return Item{0};
        }).item;
    for_each(from, {0, vocab}, [&](float logit, int token) {
      const Item item = item_of(logit, token);
      if (item >= least) list[atomic_add(&taken, 1u)] = item;
    });
    sync_threads();
    listed = count;
  }
  sort_list(list, listed, items);

  if constexpr (kAnswer == Answer::kTokens) {
    auto* const tokens = reinterpret_cast<std::int32_t*>(list);
    for (int i = static_cast<int>(thread()); i < count; i += static_cast<int>(threads()))
      tokens[i] = i < listed ? token_of(items[i]) : -1;
  } else if constexpr (kAnswer == Answer::kBeams) {
    const float2 part =
        thread() < gridDim.x ? w.parts[row * kMostSlices + thread()] : make_float2(-INFINITY, 0);
    const Sum sum = block_join({part.x, part.y});
    auto* const answer = reinterpret_cast<uint2*>(list);
    if (thread() == 0) answer[0] = make_uint2(as_bits(sum.top), as_bits(sum.sum));
    for (int i = static_cast<int>(thread()); i < count; i += static_cast<int>(threads()))
      answer[1 + i] = make_uint2(static_cast<unsigned>(token_of(items[i])), as_bits(logit_of(items[i])));
  } else {
    const int token = choose<false>(items, listed, Weights(logit_of(items[0]), choice.temperature), choice,
                                    w.uniforms[row], {});
    if (thread() == 0) w.tokens[row] = token;
  }
}

// ---- Sampling from many ----------------------------------------------------------------------------------

// Top and lowest logit of each slice (the lowest that is a number); clears the row's histogram.
__global__ __launch_bounds__(kThreads) void find_range(const float* logits, int vocab, Workspace w) {
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t row = blockIdx.y;
  for (unsigned i = blockIdx.x * threads() + thread(); i < kBins; i += gridDim.x * threads()) {
    w.bin_weights[row * kBins + i] = 0;
    w.bin_sizes[row * kBins + i] = 0;
  }
  float top = -INFINITY, lowest = INFINITY;
  for_each(logits + row * vocab, my_slice(vocab), [&](float logit, int) {
    top = fmaxf(top, logit);
    if (logit > -INFINITY) lowest = fminf(lowest, logit);
  });
  top = block_max(top);
  lowest = -block_max(-lowest);
  if (thread() == 0) w.parts[row * kMostSlices + blockIdx.x] = make_float2(top, lowest);
}

struct Range {
  float top, limit, scale;  // bins reach down to `limit` below the top
};
__device__ Range range_of_row(const float2* parts, float temperature) {
  float top = -INFINITY, lowest = INFINITY;
  for (unsigned i = lane(); i < gridDim.x; i += kWarp) {
    top = fmaxf(top, parts[i].x);
    lowest = fminf(lowest, parts[i].y);
  }
  top = warp_max(top);
  lowest = warp_min(lowest);
  const float limit = fmaxf(fminf(kFaint * temperature, top - lowest), 1e-30f);
  return {top, limit, kBins / limit};
}

__global__ __launch_bounds__(kThreads) void weigh_bins(const float* logits, int vocab, Choice choice,
                                                       Workspace w) {
  grid_dependency_wait();
  grid_dependency_launch();
  __shared__ unsigned bins[3 * kBins];
  const std::int64_t row = blockIdx.y;
  for (unsigned i = thread(); i < 3 * kBins; i += threads()) bins[i] = 0;
  const Range range = range_of_row(w.parts + row * kMostSlices, choice.temperature);
  const Weights weights(range.top, choice.temperature);
  sync_threads();
  Tally tally{bins, bins + kBins, bins + 2 * kBins};
  for_each(logits + row * vocab, my_slice(vocab), [&](float logit, int) {
    const float below = weights.below_top(logit);
    if (below <= range.limit) tally.add(bin_of(below, range.scale), weights.of(logit));
  });
  tally.flush();
  sync_threads();
  for (unsigned i = thread(); i < kBins; i += threads()) {
    if (bins[i] == 0) continue;
    atomic_add(w.bin_sizes + row * kBins + i, bins[i]);
    atomic_add(w.bin_weights + row * kBins + i,
               static_cast<Item>(bins[2 * kBins + i]) << 32 | bins[kBins + i]);
  }
}

// The first bin with which the sums reach `goal`; sums[b]: of the bins before b.
template <class T>
FORETOKEN_DEVICE int bin_reaching(const T* sums, T goal) {
  int first = 0, last = kBins - 1;
  while (first < last) {
    const int middle = (first + last) / 2;
    if (sums[middle + 1] >= goal)
      last = middle;
    else
      first = middle + 1;
  }
  return first;
}

struct BinShared {
  Item items[kListed];
  Item weights[kBins + 1];  // of the bins before
  unsigned sizes[kBins + 1];
};

__global__ __launch_bounds__(kThreads) void list_bins(const float* logits, int vocab, Choice choice,
                                                      Workspace w) {
  static_assert(kBins == 2 * kThreads);
  grid_dependency_wait();
  const std::int64_t row = blockIdx.y;
  const float* const from = logits + row * vocab;
  const double uniform = w.uniforms[row];
  auto& shared = *reinterpret_cast<BinShared*>(dynamic_shared());
  const Range range = range_of_row(w.parts + row * kMostSlices, choice.temperature);
  const Weights weights(range.top, choice.temperature);

  // Of the bins before each.
  const unsigned bin = 2 * thread();
  {
    const Item* const bin_weights = w.bin_weights + row * kBins + bin;
    const unsigned* const bin_sizes = w.bin_sizes + row * kBins + bin;
    const Before<Item> weight = block_before(bin_weights[0] + bin_weights[1]);
    const Before<unsigned> size = block_before(bin_sizes[0] + bin_sizes[1]);
    shared.weights[bin] = weight.sum;
    shared.weights[bin + 1] = weight.sum + bin_weights[0];
    shared.sizes[bin] = size.sum;
    shared.sizes[bin + 1] = size.sum + bin_sizes[0];
    if (thread() == 0) shared.weights[kBins] = weight.total, shared.sizes[kBins] = size.total;
  }
  sync_threads();
  const Item all = shared.weights[kBins];

  // The sum that is kept lies somewhere in the bin at which top_k or top_p cuts, so that what is cut or
  // chosen next lies between the bins of its least and its most.
  int first[3] = {1, 1, 1}, last[3] = {0, 0, 0};
  Item least = all, most = all;
  if (choice.top_k > 0 && static_cast<unsigned>(choice.top_k) < shared.sizes[kBins]) {
    first[0] = last[0] = bin_reaching(shared.sizes, static_cast<unsigned>(choice.top_k));
    least = shared.weights[first[0]];
    most = shared.weights[first[0] + 1];
  }
  if (choice.top_p < 1) {
    first[1] = bin_reaching(shared.weights, needed(choice.top_p, least));
    last[1] = bin_reaching(shared.weights, needed(choice.top_p, most));
    least = shared.weights[first[1]];
    most = shared.weights[last[1] + 1];
  }
  first[2] = bin_reaching(shared.weights, reached(uniform, least));
  last[2] = bin_reaching(shared.weights, reached(uniform, most));
  const auto is_listed = [&](int b) {
    return (first[0] <= b && b <= last[0]) || (first[1] <= b && b <= last[1]) ||
           (first[2] <= b && b <= last[2]);
  };
  unsigned listed = 0;
  for (unsigned b = bin; b < bin + 2; ++b)
    if (is_listed(static_cast<int>(b))) listed += shared.sizes[b + 1] - shared.sizes[b];
  listed = block_before(listed).total;
  if (listed > kListed) {  // all blocks of the row come to that; one goes on
    if (blockIdx.x != 0) return;
    const int token =
        choose_by_bits(from, vocab, weights, choice, uniform, all, reinterpret_cast<unsigned*>(shared.items));
    if (thread() == 0) w.tokens[row] = token;
    return;
  }

  Item* const list = w.list + row * kListed;
  for_each(from, my_slice(vocab), [&](float logit, int token) {
    const float below = weights.below_top(logit);
    if (below <= range.limit && is_listed(bin_of(below, range.scale)))
      list[atomic_add(w.listed + row, 1u)] = item_of(logit, token);
  });
  if (!last_of_row(w.arrived + row)) return;
  if (thread() == 0) w.listed[row] = 0;
  sort_list(list, static_cast<int>(listed), shared.items);

  // From here on: of the bins before each that aren't listed.
  Item weight[2] = {};
  unsigned size[2] = {};
  for (unsigned b = 0; b < 2; ++b)
    if (!is_listed(static_cast<int>(bin + b))) {
      weight[b] = shared.weights[bin + b + 1] - shared.weights[bin + b];
      size[b] = shared.sizes[bin + b + 1] - shared.sizes[bin + b];
    }
  const Before<Item> weight_before = block_before(weight[0] + weight[1]);
  const Before<unsigned> size_before = block_before(size[0] + size[1]);
  shared.weights[bin] = weight_before.sum;
  shared.weights[bin + 1] = weight_before.sum + weight[0];
  shared.sizes[bin] = size_before.sum;
  shared.sizes[bin + 1] = size_before.sum + size[0];
  sync_threads();
  const int token = choose<true>(shared.items, static_cast<int>(listed), weights, choice, uniform,
                                 {range.scale, shared.weights, shared.sizes, all});
  if (thread() == 0) w.tokens[row] = token;
}

// ---- Launches --------------------------------------------------------------------------------------------

constexpr std::size_t kPlace = 256;  // arrays begin at multiples of it
constexpr std::size_t padded(std::size_t bytes) { return (bytes + kPlace - 1) / kPlace * kPlace; }

// Lays the arrays out from `next` on, which ends behind them.
Workspace lay_out(std::uintptr_t& next, std::int64_t rows, const DeviceMemory& counters) {
  const auto take = [&next](auto*& array, std::int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(next);
    next += padded(static_cast<std::size_t>(count) * sizeof *array);
  };
  const std::int64_t chunk = std::min(rows, kChunk);
  Workspace w{};
  take(w.list, chunk * kListed);
  take(w.groups, chunk * kGroups);
  take(w.parts, chunk * kMostSlices);
  take(w.bin_weights, chunk * kBins);
  take(w.bin_sizes, chunk * kBins);
  take(w.uniforms, rows);
  take(w.tokens, rows);
  w.arrived = counters.as<unsigned>();
  w.listed = w.arrived + kChunk;
  return w;
}

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

constexpr std::size_t kListBytes = kListed * sizeof(Item);

}  // namespace

SamplingBuffers::SamplingBuffers(Stream& stream) : counters(2 * kChunk * sizeof(unsigned)) {
  fill(stream, counters.data(), 0, counters.bytes());
}

std::byte* SamplingBuffers::host(std::size_t bytes) {
  if (bytes > pinned.bytes()) pinned = PinnedMemory(std::bit_ceil(std::max<std::size_t>(bytes, 4096)));
  return pinned.data();
}

std::size_t CudaKernels::sampling_scratch(std::int64_t rows, std::int64_t) const {
  std::uintptr_t end = 0;
  lay_out(end, rows, sampling_->counters);
  return end + kPlace;
}

namespace {
Workspace workspace(std::byte* scratch, std::int64_t rows, const DeviceMemory& counters) {
  std::uintptr_t next = padded(reinterpret_cast<std::uintptr_t>(scratch));
  return lay_out(next, rows, counters);
}
// That of the rows from `first` on.
Workspace from_row(Workspace w, std::int64_t first) {
  w.uniforms += first;
  w.tokens += first;
  return w;
}
}  // namespace

void CudaKernels::sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                         std::span<const double> uniforms, std::int32_t* tokens, std::byte* scratch) const {
  const auto rows = static_cast<std::int64_t>(uniforms.size());
  if (rows == 0) return;
  const bool greedy = args.temperature <= 0 || args.top_k == 1 || args.top_p <= 0;
  const bool by_groups = args.top_k > 0 && args.top_k <= kMostByGroups;
  const Workspace all = workspace(scratch, rows, sampling_->counters);
  std::byte* const pinned = sampling_->host(uniforms.size_bytes());
  if (!greedy) {
    std::memcpy(pinned, uniforms.data(), uniforms.size_bytes());
    copy(stream(), const_cast<double*>(all.uniforms), pinned, uniforms.size_bytes());
  }
  // Temperatures whose inverse, and products with kFaint, are numbers.
  const Choice choice{std::clamp(args.temperature, 1e-20f, 1e30f), std::clamp(args.top_p, 0.0f, 1.0f),
                      static_cast<int>(args.top_k < vocab ? args.top_k : 0)};
  const auto width = static_cast<int>(vocab);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const Workspace w = from_row(all, first);
    const float* const from = logits + first * vocab;
    if (greedy) {
      launch(find_largest, c.launch("find_largest"), stream(), from, width, w);
    } else if (by_groups) {
      const auto count = static_cast<int>(std::min(args.top_k, vocab));
      launch(find_groups<false>, c.launch("find_groups"), stream(), from, width, c.groups, w);
      launch(list_best<Answer::kSampled>, c.launch("list_best, sampled", kListBytes), stream(), from, width,
             c.groups, count, choice, w);
    } else {
      launch(find_range, c.launch("find_range"), stream(), from, width, w);
      launch(weigh_bins, c.launch("weigh_bins"), stream(), from, width, choice, w);
      launch(list_bins, c.launch("list_bins", sizeof(BinShared)), stream(), from, width, choice, w);
    }
  }
  const std::size_t bytes = static_cast<std::size_t>(rows) * sizeof(std::int32_t);
  copy(stream(), pinned, all.tokens, bytes);
  stream().synchronize();
  std::memcpy(tokens, pinned, bytes);
}

void CudaKernels::best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                              std::int32_t* tokens, std::byte* scratch) const {
  if (rows == 0 || count == 0) return;
  const auto present = static_cast<int>(std::min<std::int64_t>(count, vocab));
  if (present > kListed)
    throw Error("best_tokens", "more than " + std::to_string(kListed) + " tokens of a row");
  const Workspace w = workspace(scratch, rows, sampling_->counters);
  const std::size_t row_bytes = static_cast<std::size_t>(present) * sizeof(std::int32_t);
  std::byte* const pinned = sampling_->host(static_cast<std::size_t>(rows) * row_bytes);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const float* const from = logits + first * vocab;
    launch(find_groups<false>, c.launch("find_groups"), stream(), from, static_cast<int>(vocab), c.groups, w);
    launch(list_best<Answer::kTokens>, c.launch("list_best, tokens", kListBytes), stream(), from,
           static_cast<int>(vocab), c.groups, present, Choice{}, w);
    cuda::copy_rows(stream(), pinned + static_cast<std::size_t>(first) * row_bytes, row_bytes, w.list,
                    kListBytes, row_bytes, static_cast<std::size_t>(c.rows));
  }
  stream().synchronize();
  for (std::int64_t row = 0; row < rows; ++row, tokens += count) {
    std::fill_n(tokens, count, -1);
    std::memcpy(tokens, pinned + static_cast<std::size_t>(row) * row_bytes, row_bytes);
  }
}

void CudaKernels::select_beams(const float* logits, std::int64_t vocab,
                               std::span<const double> log_probabilities, std::span<Continuation> best,
                               std::byte* scratch) const {
  const auto rows = static_cast<std::int64_t>(log_probabilities.size());
  if (rows == 0 || best.empty()) return;
  const auto count = static_cast<int>(std::min<std::int64_t>(static_cast<std::int64_t>(best.size()), vocab));
  if (count >= kListed) throw Error("select_beams", "more than " + std::to_string(kListed - 1) + " beams");
  struct Answered {  // the row's top and sum; then tokens and logits
    std::uint32_t first;
    float second;
  };
  const Workspace w = workspace(scratch, rows, sampling_->counters);
  const std::size_t row_bytes = static_cast<std::size_t>(count + 1) * sizeof(Answered);
  std::byte* const pinned = sampling_->host(static_cast<std::size_t>(rows) * row_bytes);
  for (std::int64_t first = 0; first < rows; first += kChunk) {
    const Chunk c(first, rows, vocab, device().multiprocessors);
    const float* const from = logits + first * vocab;
    launch(find_groups<true>, c.launch("find_groups"), stream(), from, static_cast<int>(vocab), c.groups, w);
    launch(list_best<Answer::kBeams>, c.launch("list_best, beams", kListBytes), stream(), from,
           static_cast<int>(vocab), c.groups, count, Choice{}, w);
    cuda::copy_rows(stream(), pinned + static_cast<std::size_t>(first) * row_bytes, row_bytes, w.list,
                    kListBytes, row_bytes, static_cast<std::size_t>(c.rows));
  }
  stream().synchronize();

  std::size_t kept = 0;
  const auto* answer = reinterpret_cast<const Answered*>(pinned);
  for (std::int64_t row = 0; row < rows; ++row, answer += count + 1) {
    const double top = std::bit_cast<float>(answer[0].first);
    const double before = log_probabilities[static_cast<std::size_t>(row)];
    const double base = std::isinf(top) ? -INFINITY : before - (top + std::log(double{answer[0].second}));
    for (int i = 0; i < count; ++i) {
      // Of a row that can't be all tokens are equal.
      const auto token =
          static_cast<std::int32_t>(std::isinf(base) ? static_cast<unsigned>(i) : answer[1 + i].first);
      const double value = base + (std::isinf(base) ? 0.0f : answer[1 + i].second);
      if (kept == best.size() && !(value > best[kept - 1].log_probability)) break;  // nor are those below it
      std::size_t at = kept < best.size() ? kept++ : kept - 1;
      for (; at > 0 && value > best[at - 1].log_probability; --at) best[at] = best[at - 1];
      best[at] = {static_cast<std::int32_t>(row), token, value};
    }
  }
}

}  // namespace foretoken::cuda
