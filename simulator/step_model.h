// Price of a whole step as a sum of parts that are computed once: token-wise operators by rows, sampling by
// sampled rows, decode attention affine in the cached tokens between knots, prefill attention by chunk.
// Integer picoseconds, so that sums over spans are exact.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "deployment/deployment.h"
#include "simulator/cost_model.h"

namespace foretoken {

// Part of a step's price with what it rests on.
struct PricedPart {
  Picoseconds time = 0;
  std::array<Picoseconds, 4> by_basis{};  // sums to time
  double variance = 0;                    // of the 90 % half-width, ps squared; independent operators add
  PricedPart& operator+=(const PricedPart& o);
  void add(const PricedPart& o, std::int64_t times);
  std::size_t main_basis() const;  // that most of the time rests on
};

// Decode attention of one group for a fixed number of sequences: `base` at `from` cached tokens, `slope` a
// token, valid up to (excluding) `to`.
struct ContextPiece {
  std::int64_t from = 0, to = 0;
  PricedPart base;
  Picoseconds slope = 0;
};

// Prices as the deployment's engine runs its kernels.
inline CostModel make_cost_model(const Deployment& d, const KernelTable& kernels) {
  return {d.device, d.topology, kernels, d.behavior.kernel, d.behavior.device_time_factor};
}
// Of each of its kinds of engines; kernels: likewise.
inline std::vector<CostModel> make_cost_models(const Deployment& d, std::span<const KernelTable> kernels) {
  std::vector<CostModel> costs;
  for (const Deployment* kind : d.kinds()) costs.push_back(make_cost_model(*kind, kernels[costs.size()]));
  return costs;
}

// Kernels that an eager framework dispatches for the operator: routing, permutations and both products of
// experts, the copies around latent attention, the small steps of a recurrence, quantised inputs.
std::int64_t eager_kernels(const Op& op);

// Host time that the devices wait for: all of it under a synchronous scheduler, what exceeds the device time
// under an asynchronous one; and the dispatch of kernels outside captured graphs where it is slower than
// their execution. device_floor: device time without decode attention, so that the result is constant over a
// span.
Picoseconds exposed_host(const Deployment& deployment, std::int64_t sequences, std::int64_t rows,
                         bool decode_only, std::int64_t kernels, Picoseconds device_floor,
                         Picoseconds shared_call_excess = 0);
// The part of it that dispatches kernels.
Picoseconds exposed_dispatch(const Deployment& deployment, std::int64_t rows, bool decode_only,
                             std::int64_t kernels, Picoseconds device_floor,
                             Picoseconds shared_call_excess = 0);

// What a step waits for streamed weights beyond its computation, of which `outside` is no layer's. The layers
// count as equal: each computes and is fetched in the mean time. With a ring of n >= 2 of K layers, steps
// follow one another at the largest of: all computation; all fetches; and, when the ring is full at the
// step's start, two layers' computation, what is outside, and K - n fetches. (The critical cycles of the
// event graph in which a fetch waits for the one before and for the layer n before to have computed, a layer
// for the one before and for its fetch.) With one buffer fetch and computation take turns; without overlap
// they add.
Picoseconds streaming_stall(const WeightStreaming& streaming, std::int64_t layers, Picoseconds fetches,
                            Picoseconds computation, Picoseconds outside);

// Prices steps of one pipeline stage on one rank. Not thread-safe (it remembers); one for each simulation.
class StageModel {
 public:
  StageModel(const Deployment& deployment, const CostModel& cost, const Shard& shard);

  // Token-wise operators of one rank for `rows` rows; `group_rows` rows of all ranks that share the experts.
  const PricedPart& tokens(std::int64_t rows);
  const PricedPart& group(std::int64_t group_rows);
  const PricedPart& sampled(std::int64_t rows);
  // mixed: beside prompts. queries: tokens that each sequence attends for (1 + drafted ones).
  const ContextPiece& decode(int attention_group, std::int64_t sequences, std::int64_t context, bool mixed,
                             std::int64_t queries = 1);
  PricedPart prefill(std::int64_t new_tokens, std::int64_t cached, bool mixed);
  // Products of low-rank adapters for `rows` tokens of `adapters` distinct ones; loads of so many.
  const PricedPart& adapters(std::int64_t rows, std::int64_t adapters);
  const PricedPart& adapter_loads(std::int64_t loads);
  // A step of so many rows in nano-batches that run together with `attention` of prompts and `decode`
  // attention (nano_batches.h): tokens(), group() and attention in one.
  PricedPart nano_batches(std::int64_t rows, const PricedPart& attention, const PricedPart& decode);
  // What decode attention of a group takes beyond that of as many sequences of mean length, the longest
  // having `longest` of `context` cached tokens; unchanged while all grow. Priced where one kernel splits no
  // keys.
  Picoseconds skew(int attention_group, std::int64_t sequences, std::int64_t context,
                   std::int64_t longest) const;
  // Cached tokens copied to host memory and back.
  PricedPart swap(std::int64_t out_tokens, std::int64_t in_tokens, std::int64_t shifted_tokens = 0) const;
  // What the step waits for streamed weights; computation: all of it, `outside` no layer's.
  PricedPart stall(Picoseconds computation, Picoseconds outside) const;
  bool streams() const { return streamed_layers_ > 0; }
  std::int64_t kernels_per_step() const { return kernels_; }
  std::size_t attention_groups() const { return groups_count_; }

 private:
  enum class Kind { kAny, kLink, kDevice };  // of operators: all, collectives, all others
  PricedPart price_scope(const Work& work, OpScope scope, int attention_group = -1,
                         Kind kind = Kind::kAny) const;
  struct Rows {  // prices by rows
    std::vector<PricedPart> price;
    std::vector<std::uint8_t> known;
  };
  const PricedPart& interpolated(Rows& rows, std::int64_t count, OpScope scope, Kind kind = Kind::kAny);
  PricedPart prefill_knot(int q_index, int c_index, bool one_call);

  const Deployment* deployment_;
  const CostModel* cost_;
  Shard shard_;
  Rows tokens_, group_, sampled_, token_links_, group_links_, token_device_, group_device_;
  std::array<std::unordered_map<std::uint64_t, ContextPiece>, kMaxAttentionGroups> decode_, decode_mixed_;
  std::unordered_map<std::uint32_t, PricedPart> prefill_, prefill_mixed_;
  std::unordered_map<std::uint64_t, PricedPart> adapters_;  // by rows and adapters; by loads above bit 62
  std::int64_t kernels_ = 0;
  std::size_t groups_count_ = 1;
  // An attention operator without a window: seconds that a tile takes for a token of one sequence, and the
  // sequences from which on the kernel no longer splits keys.
  struct Tail {
    int group;
    double seconds_per_token;
    std::int64_t unsplit_from;
  };
  std::vector<Tail> tails_;
  std::int64_t streamed_layers_ = 0;
  PricedPart fetches_;  // all of them, one after the other
};

}  // namespace foretoken
