// The likeliest token of each row, and the likeliest ones: two passes (sampling.cu). And which drafts the
// tokens that were chosen accept.
#include "executor/cuda/sampling_device.cuh"

namespace foretoken::cuda::sampling {
namespace {

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

// ---- Drafts ----------------------------------------------------------------------------------------------

constexpr unsigned kVerifyThreads = 128;

// A warp a sequence. Nodes stand behind those that they continue, so a warp goes through them once, 32 at a
// time, and on from each that it accepts.
__global__ __launch_bounds__(kVerifyThreads) void verify_drafts(Drafted d, const std::int32_t* chosen,
                                                                std::int32_t* accepted, std::int32_t* path) {
  grid_dependency_wait();
  const std::int32_t s = static_cast<std::int32_t>(blockIdx.x * (kVerifyThreads / kWarp) + warp());
  if (s >= d.sequences) return;
  const std::int32_t begin = d.starts[s], nodes = d.starts[s + 1] - begin;
  std::int32_t node = 0, found = 0;
  for (std::int32_t from = 1; from < nodes;) {
    const std::int32_t next = from + static_cast<std::int32_t>(lane());
    const bool follows = next < nodes && (d.parents != nullptr ? d.parents[next] : next - 1) == node &&
                         d.tokens[begin + next] == chosen[begin + node];
    const int first = lowest_bit(ballot(follows));
    if (first < 0) {
      from += kWarp;
      continue;
    }
    node = from + first;
    from = node + 1;
    if (lane() == 0) path[begin + found] = node;
    ++found;
  }
  if (lane() == 0) accepted[s] = found;
}

}  // namespace

void launch_verify(const Drafted& drafted, const std::int32_t* chosen, std::int32_t* accepted,
                   std::int32_t* path, Stream& on) {
  constexpr unsigned kEach = kVerifyThreads / kWarp;
  launch(verify_drafts,
         {.grid = (static_cast<unsigned>(drafted.sequences) + kEach - 1) / kEach,
          .block = kVerifyThreads,
          .name = "verify_drafts"},
         on, drafted, chosen, accepted, path);
}

void launch_largest(const Chunk& c, const float* logits, int vocab, const Workspace& w, Stream& on) {
  launch(find_largest, c.launch("find_largest"), on, logits, vocab, w);
}

void launch_best(Answer answer, const Chunk& c, const float* logits, int vocab, int count,
                 const Choice& choice, const Workspace& w, Stream& on) {
  launch(answer == Answer::kBeams ? find_groups<true> : find_groups<false>, c.launch("find_groups"), on,
         logits, vocab, c.groups, w);
  switch (answer) {
    case Answer::kTokens:
      return launch(list_best<Answer::kTokens>, c.launch("list_best, tokens", kListBytes), on, logits, vocab,
                    c.groups, count, choice, w);
    case Answer::kBeams:
      return launch(list_best<Answer::kBeams>, c.launch("list_best, beams", kListBytes), on, logits, vocab,
                    c.groups, count, choice, w);
    case Answer::kSampled:
      return launch(list_best<Answer::kSampled>, c.launch("list_best, sampled", kListBytes), on, logits,
                    vocab, c.groups, count, choice, w);
  }
}

}  // namespace foretoken::cuda::sampling
