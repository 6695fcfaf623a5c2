// A token of each row by its weight among all: three passes (sampling.cu).
#include "executor/cuda/sampling_device.cuh"

namespace foretoken::cuda::sampling {
namespace {

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
FORETOKEN_DEVICE Range range_of_row(const float2* parts, float temperature) {
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
    const Before<Item> weight = block_before<kThreads>(bin_weights[0] + bin_weights[1]);
    const Before<unsigned> size = block_before<kThreads>(bin_sizes[0] + bin_sizes[1]);
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
  listed = block_sum(listed);
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
  const Before<Item> weight_before = block_before<kThreads>(weight[0] + weight[1]);
  const Before<unsigned> size_before = block_before<kThreads>(size[0] + size[1]);
  shared.weights[bin] = weight_before.sum;
  shared.weights[bin + 1] = weight_before.sum + weight[0];
  shared.sizes[bin] = size_before.sum;
  shared.sizes[bin + 1] = size_before.sum + size[0];
  sync_threads();
  const int token = choose<true>(shared.items, static_cast<int>(listed), weights, choice, uniform,
                                 {range.scale, shared.weights, shared.sizes, all});
  if (thread() == 0) w.tokens[row] = token;
}

}  // namespace

void launch_sampled(const Chunk& c, const float* logits, int vocab, const Choice& choice, const Workspace& w,
                    Stream& on) {
  launch(find_range, c.launch("find_range"), on, logits, vocab, w);
  launch(weigh_bins, c.launch("weigh_bins"), on, logits, vocab, choice, w);
  launch(list_bins, c.launch("list_bins", sizeof(BinShared)), on, logits, vocab, choice, w);
}

}  // namespace foretoken::cuda::sampling
