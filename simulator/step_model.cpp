#include "simulator/step_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "simulator/nano_batches.h"

namespace foretoken {
namespace {

// Mean context at knot i: 16 x 2^(i/4), so that linear pieces follow any smooth price within half a per cent.
constexpr int kKnotsPerOctave = 4;
constexpr double kFirstKnot = 16;

std::int64_t context_knot(int i) {
  if (i < 0) return 1;
  return std::llround(kFirstKnot * std::exp2(static_cast<double>(i) / kKnotsPerOctave));
}

// Largest i with sequences x context_knot(i) <= context; -1 below the first knot.
int context_piece(std::int64_t sequences, std::int64_t context) {
  const double mean = static_cast<double>(context) / static_cast<double>(sequences);
  int i =
      mean < kFirstKnot ? -1 : static_cast<int>(std::floor(std::log2(mean / kFirstKnot) * kKnotsPerOctave));
  while (i >= 0 && sequences * context_knot(i) > context) --i;
  while (sequences * context_knot(i + 1) <= context) ++i;
  return i;
}

// Of the host time of a layer. Found with runs of vLLM 0.15.1 under load in view (docs/validation.md).
constexpr double kShareOutsidePieces = 0.1;

// FlashAttention-2 gives a tile (a sequence's KV head) to one multiprocessor unless tiles are fewer than 0.8
// of two waves; then it splits keys evenly. Unsplit, the last wave waits for its longest tile: this share of
// what that has beyond the mean, chosen on decode batches of unequal length on RTX PRO 6000
// (docs/cost-model.md).
constexpr double kUnsplitWaves = 1.6, kSkewShare = 0.7;

// Cached tokens of prefill chunks: 0, then 64 x 2^(j/2).
std::int64_t cached_knot(int j) { return j <= 0 ? 0 : std::llround(64 * std::exp2((j - 1) / 2.0)); }
// New tokens of prefill chunks: 1, 2, 3, ... doubling every four knots from 8 on.
std::int64_t chunk_knot(int i) { return i < 8 ? i + 1 : std::llround(8 * std::exp2((i - 7) / 4.0)); }

template <class Knot>
int knot_at_or_below(std::int64_t v, Knot knot, int guess) {
  int i = std::max(0, guess);
  while (i > 0 && knot(i) > v) --i;
  while (knot(i + 1) <= v) ++i;
  return i;
}

Picoseconds blend(Picoseconds a, Picoseconds b, double share) {
  return a + std::llround(share * static_cast<double>(b - a));
}

PricedPart blend(const PricedPart& a, const PricedPart& b, double share) {
  PricedPart r;
  for (std::size_t i = 0; i < r.by_basis.size(); ++i) {
    r.by_basis[i] = blend(a.by_basis[i], b.by_basis[i], share);
    r.time += r.by_basis[i];
  }
  r.variance = a.variance + share * (b.variance - a.variance);
  return r;
}

// The same in less time. What is saved is as uncertain as it is large.
PricedPart shrunk(const PricedPart& all, double time) {
  if (all.time == 0) return all;
  const double share = time / static_cast<double>(all.time), saved = static_cast<double>(all.time) - time;
  PricedPart r;
  for (std::size_t i = 0; i < r.by_basis.size(); ++i) {
    r.by_basis[i] = std::llround(share * static_cast<double>(all.by_basis[i]));
    r.time += r.by_basis[i];
  }
  r.variance = share * share * all.variance + saved * saved;
  return r;
}

}  // namespace

std::int64_t eager_kernels(const Op& op) {
  if (const auto* g = std::get_if<GemmShape>(&op.shape))
    return g->weight == WeightFormat::kPlain || g->quantised_input ? 1 : 2;
  if (std::holds_alternative<MoeShape>(op.shape)) return 12;
  if (const auto* r = std::get_if<RecurrentShape>(&op.shape))
    return r->form == Recurrence::kConvolution ? 1 : 12;
  if (const auto* a = std::get_if<AttentionShape>(&op.shape)) return a->mla ? 12 : 2;
  return 1;
}

PricedPart& PricedPart::operator+=(const PricedPart& o) {
  time += o.time;
  for (std::size_t i = 0; i < by_basis.size(); ++i) by_basis[i] += o.by_basis[i];
  variance += o.variance;
  return *this;
}

void PricedPart::add(const PricedPart& o, std::int64_t times) {
  time += times * o.time;
  for (std::size_t i = 0; i < by_basis.size(); ++i) by_basis[i] += times * o.by_basis[i];
  variance += static_cast<double>(times * times) * o.variance;
}

std::size_t PricedPart::main_basis() const {
  return static_cast<std::size_t>(std::max_element(by_basis.begin(), by_basis.end()) - by_basis.begin());
}

Picoseconds exposed_dispatch(const Deployment& deployment, std::int64_t rows, bool decode_only,
                             std::int64_t kernels, Picoseconds device_floor, Picoseconds shared_call_excess) {
  const Behavior& behavior = deployment.behavior;
  const bool captured =
      decode_only && !deployment.graph_sizes.empty() && rows <= deployment.graph_sizes.back();
  Picoseconds dispatch =
      captured ? to_picoseconds(behavior.launch_graph)
               : std::max<Picoseconds>(0, kernels * to_picoseconds(behavior.launch_eager) - device_floor);
  // Attention and its metadata lie outside the captured pieces: the devices wait for the host once a layer.
  // Beyond the captured sizes so does all the rest of the layer.
  Picoseconds layers = 0;
  if (!decode_only) {
    const double doublings = std::log2(static_cast<double>(deployment.mapping.tensor_parallel));
    const bool pieces = !deployment.graph_sizes.empty() && rows <= deployment.graph_sizes.back();
    layers = to_picoseconds(behavior.prefill_step) +
             deployment.model.num_layers / deployment.mapping.pipeline_parallel *
                 to_picoseconds((pieces ? kShareOutsidePieces : 1.0) *
                                (behavior.prefill_layer + doublings * behavior.prefill_layer_doubling));
  }
  return dispatch + std::max<Picoseconds>(0, layers - shared_call_excess);
}

Picoseconds exposed_host(const Deployment& deployment, std::int64_t sequences, std::int64_t rows,
                         bool decode_only, std::int64_t kernels, Picoseconds device_floor,
                         Picoseconds shared_call_excess) {
  const Behavior& behavior = deployment.behavior;
  const Picoseconds schedule =
      to_picoseconds(behavior.host_step) + sequences * to_picoseconds(behavior.host_per_sequence);
  const Picoseconds dispatch =
      exposed_dispatch(deployment, rows, decode_only, kernels, device_floor, shared_call_excess);
  if (deployment.scheduler.pipeline_depth > 1) return dispatch;
  const bool hidden = deployment.scenario.engine.async_scheduling.value_or(false);
  return dispatch + (hidden ? std::max<Picoseconds>(0, schedule - device_floor) : schedule);
}

Picoseconds streaming_stall(const WeightStreaming& streaming, std::int64_t layers, Picoseconds fetches,
                            Picoseconds computation, Picoseconds outside) {
  if (layers <= 0) return 0;
  if (!streaming.overlap) return fetches;
  const Picoseconds fetch = fetches / layers, layer = (computation - outside) / layers;
  if (streaming.buffers == 1) return fetches - std::min(outside, fetch);
  const Picoseconds full_ring = outside + 2 * layer + (layers - streaming.buffers) * fetch;
  return std::max<Picoseconds>({0, fetches - computation, full_ring - computation});
}

StageModel::StageModel(const Deployment& deployment, const CostModel& cost, const Shard& shard)
    : deployment_(&deployment),
      cost_(&cost),
      shard_(shard),
      groups_count_(
          std::clamp<std::size_t>(deployment.model.attention_windows().size(), 1, kMaxAttentionGroups)) {
  Work one;
  one.prefill = {{1, 0, 1}};
  one.sampled_rows = 1;
  one.adapters = 1;
  for (const Op& op : operators(deployment.model, shard_, one, deployment.precision, deployment.fusion).ops) {
    kernels_ += op.count * eager_kernels(op);
    if (op.scope == OpScope::kStreaming) streamed_layers_ += op.count;
  }
  if (streamed_layers_ > 0) fetches_ = price_scope(one, OpScope::kStreaming);
  if (!deployment.one_attention_call) return;
  one.decode_sequences = 1;
  one.contexts.assign(deployment.model.attention_windows().size(), 1);
  const double units = deployment.device.sm_count;
  for (const Op& op : operators(deployment.model, shard_, one, deployment.precision, deployment.fusion).ops) {
    const auto* a = std::get_if<AttentionShape>(&op.shape);
    if (!a || !a->decode || a->mla || a->window > 0) continue;
    const double head_token = a->kv_bytes_per_token / static_cast<double>(a->kv_heads);
    tails_.push_back(
        {op.attention_group,
         kSkewShare * static_cast<double>(op.count) * head_token * units /
             deployment.device.memory_bandwidth.value,
         static_cast<std::int64_t>(std::ceil(kUnsplitWaves * units / static_cast<double>(a->kv_heads)))});
  }
}

Picoseconds StageModel::skew(int attention_group, std::int64_t sequences, std::int64_t context,
                             std::int64_t longest) const {
  double seconds = 0;
  for (const Tail& t : tails_)
    if (t.group == attention_group && sequences >= t.unsplit_from) seconds += t.seconds_per_token;
  // Constant while every sequence grows.
  const std::int64_t beyond = std::max<std::int64_t>(0, longest * sequences - context);
  return to_picoseconds(Seconds(seconds * static_cast<double>(beyond) / static_cast<double>(sequences)));
}

PricedPart StageModel::price_scope(const Work& work, OpScope scope, int attention_group, Kind kind) const {
  PricedPart sum;
  const OpList list =
      operators(deployment_->model, shard_, work, deployment_->precision, deployment_->fusion);
  for (const Op& op : list.ops) {
    if (op.scope != scope || (attention_group >= 0 && op.attention_group != attention_group)) continue;
    if (kind != Kind::kAny && is_network_bound(op) != (kind == Kind::kLink)) continue;
    const Price p = cost_->price(op);
    const Picoseconds t = to_picoseconds(p.time) * op.count;
    sum.time += t;
    sum.by_basis[static_cast<std::size_t>(p.basis)] += t;
    const double half = static_cast<double>(t) * p.relative_error;
    sum.variance += half * half;
  }
  return sum;
}

namespace {

// Rows up to 512 exactly (steps of decoding, where tiles and captured sizes show); beyond, 16 knots an
// octave.
std::int64_t row_step(std::int64_t rows) {
  return rows <= 512 ? 1 : std::int64_t{1} << (std::bit_width(static_cast<std::uint64_t>(rows - 1)) - 5);
}

}  // namespace

const PricedPart& StageModel::adapters(std::int64_t rows, std::int64_t adapters) {
  const std::uint64_t key = static_cast<std::uint64_t>(adapters) << 40 | static_cast<std::uint64_t>(rows);
  if (const auto found = adapters_.find(key); found != adapters_.end()) return found->second;
  const std::int64_t step = row_step(rows), low = rows / step * step;
  PricedPart price;
  if (low == rows) {
    Work w;
    w.decode_sequences = rows;
    w.contexts = {static_cast<double>(rows)};
    w.adapters = adapters;
    price = price_scope(w, OpScope::kAdapters);
  } else {
    const PricedPart a = this->adapters(low, adapters), b = this->adapters(low + step, adapters);
    price = blend(a, b, static_cast<double>(rows - low) / static_cast<double>(step));
  }
  return adapters_.emplace(key, price).first->second;
}

const PricedPart& StageModel::adapter_loads(std::int64_t loads) {
  const std::uint64_t key = std::uint64_t{1} << 62 | static_cast<std::uint64_t>(loads);
  if (const auto found = adapters_.find(key); found != adapters_.end()) return found->second;
  Work w;
  w.decode_sequences = 1;
  w.contexts = {1};
  w.adapter_loads = loads;
  return adapters_.emplace(key, price_scope(w, OpScope::kAdapters)).first->second;
}

const PricedPart& StageModel::interpolated(Rows& known_rows, std::int64_t rows, OpScope scope, Kind kind) {
  auto& [cache, known] = known_rows;
  const auto index = static_cast<std::size_t>(rows);
  if (index >= cache.size()) {
    cache.resize(std::bit_ceil(index + 1));
    known.resize(cache.size());
  }
  if (known[index]) return cache[index];
  const std::int64_t step = row_step(rows);
  if (rows % step == 0) {
    Work w;
    w.decode_sequences = w.padded_tokens = w.group_tokens = rows;
    w.contexts = {static_cast<double>(rows)};
    w.sampled_rows = scope == OpScope::kSampled ? rows : 0;
    const PricedPart price = price_scope(w, scope, -1, kind);
    cache[index] = price;
  } else {
    const std::int64_t low = rows / step * step;
    const PricedPart a = interpolated(known_rows, low, scope, kind),
                     b = interpolated(known_rows, low + step, scope, kind);
    known_rows.price[index] = blend(a, b, static_cast<double>(rows - low) / static_cast<double>(step));
  }
  known_rows.known[index] = 1;
  return known_rows.price[index];
}

const PricedPart& StageModel::tokens(std::int64_t rows) {
  return interpolated(tokens_, rows, OpScope::kTokens);
}
const PricedPart& StageModel::group(std::int64_t rows) {
  return interpolated(group_, rows, OpScope::kGroupTokens);
}
const PricedPart& StageModel::sampled(std::int64_t rows) {
  return interpolated(sampled_, rows, OpScope::kSampled);
}

PricedPart StageModel::nano_batches(std::int64_t rows, const PricedPart& attention,
                                    const PricedPart& decode) {
  PricedPart compute = attention, network;
  for (const std::int64_t part : foretoken::nano_batches(rows)) {
    if (part == 0) continue;
    compute += interpolated(token_device_, part, OpScope::kTokens, Kind::kDevice);
    compute += interpolated(group_device_, part, OpScope::kGroupTokens, Kind::kDevice);
    network += interpolated(token_links_, part, OpScope::kTokens, Kind::kLink);
    network += interpolated(group_links_, part, OpScope::kGroupTokens, Kind::kLink);
  }
  const auto seconds = [](const PricedPart& p) { return static_cast<double>(p.time); };
  const double together = overlapped(seconds(compute), seconds(decode), seconds(network));
  PricedPart all = compute;
  all += decode;
  all += network;
  return shrunk(all, together);
}

const ContextPiece& StageModel::decode(int attention_group, std::int64_t sequences, std::int64_t context,
                                       bool mixed, std::int64_t queries) {
  const int i = context_piece(sequences, context);
  const bool one_call = mixed && deployment_->one_attention_call;
  auto& pieces = (one_call ? decode_mixed_ : decode_)[static_cast<std::size_t>(attention_group)];
  const std::uint64_t key = static_cast<std::uint64_t>(queries) << 48 |
                            static_cast<std::uint64_t>(sequences) << 16 | static_cast<std::uint64_t>(i + 1);
  if (const auto found = pieces.find(key); found != pieces.end()) return found->second;

  ContextPiece piece;
  piece.from = sequences * context_knot(i);
  piece.to = sequences * context_knot(i + 1);
  auto at = [&](std::int64_t sum) {
    Work w;
    w.decode_sequences = sequences;
    w.decode_queries = queries;
    w.one_attention_call = one_call;
    w.contexts.assign(deployment_->model.attention_windows().size(), static_cast<double>(sum));
    return price_scope(w, OpScope::kDecodeAttention, attention_group);
  };
  piece.base = at(piece.from);
  const PricedPart end = at(piece.to);
  piece.slope = static_cast<Picoseconds>(std::llround(static_cast<double>(end.time - piece.base.time) /
                                                      static_cast<double>(piece.to - piece.from)));
  return pieces.emplace(key, piece).first->second;
}

PricedPart StageModel::stall(Picoseconds computation, Picoseconds outside) const {
  PricedPart p = fetches_;
  p.time = streaming_stall(deployment_->streaming, streamed_layers_, fetches_.time, computation, outside);
  const double share =
      fetches_.time > 0 ? static_cast<double>(p.time) / static_cast<double>(fetches_.time) : 0;
  p.by_basis.fill(0);
  p.by_basis[static_cast<std::size_t>(std::max_element(fetches_.by_basis.begin(), fetches_.by_basis.end()) -
                                      fetches_.by_basis.begin())] = p.time;
  p.variance *= share * share;
  return p;
}

PricedPart StageModel::swap(std::int64_t out_tokens, std::int64_t in_tokens,
                            std::int64_t shifted_tokens) const {
  Work w;
  w.swap_out_tokens = out_tokens, w.swap_in_tokens = in_tokens, w.shifted_tokens = shifted_tokens;
  return price_scope(w, OpScope::kSwap);
}

PricedPart StageModel::prefill_knot(int q_index, int c_index, bool one_call) {
  auto& knots = one_call ? prefill_mixed_ : prefill_;
  const std::uint32_t key = static_cast<std::uint32_t>(q_index) << 16 | static_cast<std::uint32_t>(c_index);
  if (const auto found = knots.find(key); found != knots.end()) return found->second;
  Work w;
  w.prefill = {{chunk_knot(q_index), cached_knot(c_index), 1}};
  w.one_attention_call = one_call;
  return knots.emplace(key, price_scope(w, OpScope::kPrefillAttention)).first->second;
}

PricedPart StageModel::prefill(std::int64_t new_tokens, std::int64_t cached, bool mixed) {
  const bool one_call = mixed && deployment_->one_attention_call;
  const double q = static_cast<double>(new_tokens), c = static_cast<double>(cached);
  const int i = knot_at_or_below(
      new_tokens, chunk_knot,
      new_tokens <= 8 ? static_cast<int>(new_tokens) - 1 : 7 + static_cast<int>(std::log2(q / 8) * 4));
  const int j =
      knot_at_or_below(cached, cached_knot, cached < 64 ? 0 : 1 + static_cast<int>(std::log2(c / 64) * 2));
  const double q0 = static_cast<double>(chunk_knot(i)), q1 = static_cast<double>(chunk_knot(i + 1));
  const double c0 = static_cast<double>(cached_knot(j)), c1 = static_cast<double>(cached_knot(j + 1));
  const double u = (q - q0) / (q1 - q0), v = (c - c0) / (c1 - c0);
  PricedPart low = prefill_knot(i, j, one_call);
  if (u > 0) low = blend(low, prefill_knot(i + 1, j, one_call), u);
  if (v <= 0) return low;
  PricedPart high = prefill_knot(i, j + 1, one_call);
  if (u > 0) high = blend(high, prefill_knot(i + 1, j + 1, one_call), u);
  return blend(low, high, v);
}

}  // namespace foretoken
