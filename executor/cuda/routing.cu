// Which experts each row goes to. A row is a few hundred logits, so what bounds it is the latency of a launch
// and of the choices, one after another: a warp takes a row, expert i x 32 + lane in register i of the lane,
// so that a choice is a maximum of registers and two reductions of a warp, each an instruction, and nothing
// waits for other warps. Only the ranking of groups, whose experts lie in other lanes, goes through shared
// memory.
//
// Scores are float32. Where experts compare by their scores alone they compare by their logits, which order
// alike and are never rounded to equals.
#include "base/error.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "executor/cuda/order.cuh"

namespace foretoken::cuda {
namespace {

constexpr int kWarpsOfBlock = 4;
constexpr std::int64_t kMostExperts = 1024, kMostChosen = kWarp;

// 1 / (1 + exp(-x)), of small ones too.
__device__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

// The order of the sum of a group's two best experts, or of its best.
__device__ unsigned group_order(const float* ranks, int size, bool two) {
  float best = -INFINITY, second = -INFINITY;
  for (int i = 0, at = static_cast<int>(lane()) % size; i < size; ++i) {  // lanes start in different banks
    const float rank = ranks[at];
    second = fmaxf(second, fminf(best, rank));
    best = fmaxf(best, rank);
    if (++at == size) at = 0;
  }
  return ordered(two && size > 1 ? best + second : best);
}

template <int kPerLane>
__global__ __launch_bounds__(kWarpsOfBlock* kWarp) void route_rows(RoutingArgs args, const float* logits,
                                                                   std::int64_t rows, std::int32_t* chosen,
                                                                   float* weights) {
  grid_dependency_wait();
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarpsOfBlock + warp();
  if (row >= rows) return;
  const int n = static_cast<int>(args.experts), k = static_cast<int>(args.top_k);
  const int my_lane = static_cast<int>(lane());
  logits += row * args.experts;
  float logit[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = i * static_cast<int>(kWarp) + my_lane;
    logit[i] = e < n ? logits[e] : -INFINITY;
  }

  // Of the softmax over all, where that is asked for: its largest logit, and one over its sum.
  const bool softmax = !args.sigmoid && !args.softmax_over_selected;
  float top = 0, inverse = 1;
  if (softmax) {
    top = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) top = fmaxf(top, logit[i]);
    top = warp_max(top);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += expf(logit[i] - top);
    inverse = 1 / warp_sum(sum);
  }
  const auto score = [&](float value) {
    if (args.sigmoid) return sigmoid(value);
    return softmax ? expf(value - top) * inverse : value;
  };

  const int groups = static_cast<int>(args.groups), size = n / groups;
  const bool grouped = args.top_groups < args.groups;
  const bool by_score = args.correction != nullptr || (grouped && args.group_by_top_two);
  unsigned order[kPerLane];  // 0: can't be chosen
  float* const ranks = reinterpret_cast<float*>(dynamic_shared()) + std::int64_t{warp()} * (n + groups);
  unsigned* const group_orders = reinterpret_cast<unsigned*>(ranks + n);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = i * static_cast<int>(kWarp) + my_lane;
    order[i] = 0;
    if (e >= n) continue;
    float rank = logit[i];
    if (by_score) rank = args.correction != nullptr ? score(rank) + args.correction[e] : score(rank);
    order[i] = ordered(args.correction != nullptr ? rank : logit[i]);
    if (grouped) ranks[e] = rank;
  }
  if (grouped) {
    sync_warp();
    for (int g = my_lane; g < groups; g += static_cast<int>(kWarp))
      group_orders[g] = group_order(ranks + g * size, size, args.group_by_top_two);
    sync_warp();
    for (int g = my_lane; g < groups; g += static_cast<int>(kWarp)) {
      int better = 0;
      for (int o = 0; o < groups; ++o)
        better += group_orders[o] > group_orders[g] || (group_orders[o] == group_orders[g] && o < g);
      // Of groups below, whose ranks nothing reads any more: whether it is left out.
      ranks[g * size] = better < static_cast<int>(args.top_groups) ? 0.0f : 1.0f;
    }
    sync_warp();
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * static_cast<int>(kWarp) + my_lane;
      if (e < n && ranks[e / size * size] != 0) order[i] = 0;
    }
  }

  // The j-th choice stays with lane j.
  int mine = -1;
  for (int j = 0; j < k; ++j) {
    unsigned best = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) best = order[i] > best ? order[i] : best;
    best = warp_max(best);
    if (best == 0) break;  // no more can be chosen
    unsigned first = ~0u;
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i)
      if (order[i] == best) first = static_cast<unsigned>(i) * kWarp + lane();
    first = warp_min(first);
    if (my_lane == j) mine = static_cast<int>(first);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (static_cast<unsigned>(i) * kWarp + lane() == first) order[i] = 0;
  }

  // A softmax whose chosen weights sum to 1 is one over the chosen, whatever the others are.
  const float value = mine >= 0 ? logits[mine] : -INFINITY;
  const bool over_chosen = args.softmax_over_selected || (softmax && args.normalise);
  float weight = 0;
  if (over_chosen) {
    const float largest = warp_max(value);
    weight = mine >= 0 ? expf(value - largest) : 0.0f;
  } else if (mine >= 0) {
    weight = score(value);
  }
  if (over_chosen || args.normalise) weight /= warp_sum(weight);
  if (my_lane < k) {
    chosen[row * args.top_k + my_lane] = mine;
    weights[row * args.top_k + my_lane] = mine >= 0 ? weight * args.scale : 0.0f;
  }
}

}  // namespace

void CudaKernels::route(const RoutingArgs& args, const float* logits, std::int64_t rows, std::int32_t* chosen,
                        float* weights) const {
  if (rows == 0) return;
  if (args.experts > kMostExperts || args.top_k > kMostChosen)
    throw Error("route", "more than " + std::to_string(kMostExperts) + " experts, or than " +
                             std::to_string(kMostChosen) + " of them for a row");
  const std::size_t shared =
      args.top_groups < args.groups
          ? kWarpsOfBlock * static_cast<std::size_t>(args.experts + args.groups) * sizeof(float)
          : 0;
  const Launch at{.grid = static_cast<unsigned>((rows + kWarpsOfBlock - 1) / kWarpsOfBlock),
                  .block = kWarpsOfBlock * kWarp,
                  .shared = shared,
                  .name = "route_rows"};
  const std::int64_t per_lane = (args.experts + kWarp - 1) / kWarp;
  const auto kernel = per_lane <= 1    ? route_rows<1>
                      : per_lane <= 2  ? route_rows<2>
                      : per_lane <= 4  ? route_rows<4>
                      : per_lane <= 8  ? route_rows<8>
                      : per_lane <= 16 ? route_rows<16>
                                       : route_rows<32>;
  launch(kernel, at, stream(), args, logits, rows, chosen, weights);
}

}  // namespace foretoken::cuda
