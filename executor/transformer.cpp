#include "executor/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "executor/transformer_state.h"

namespace foretoken {
namespace {

std::int64_t depth_of(const StepSequence& s, std::int64_t node) {
  std::int64_t depth = 0;
  for (; s.parents[node] >= 0; node = s.parents[node]) ++depth;
  return depth;
}

}  // namespace

// Every token of a tree attends as a sequence of its own, over its own branch.
void Transformer::State::branch_out(std::span<const StepSequence> all) {
  for (std::size_t i = first_decode; i < all.size(); ++i) {
    const StepSequence& s = all[i];
    if (!s.parents) {
      attending.push_back(sequences[i]);
      continue;
    }
    const std::int64_t root = s.cached - s.first_node;
    for (std::int64_t t = 0; t < sequences[i].new_tokens; ++t) {
      const std::int64_t node = s.first_node + t, depth = depth_of(s, node);
      std::int32_t up = static_cast<std::int32_t>(node);
      const std::size_t end = branches.size() + static_cast<std::size_t>(depth);
      branches.resize(end);
      for (std::int64_t d = 1; d <= depth; ++d, up = s.parents[up])
        branches[end - static_cast<std::size_t>(d)] = static_cast<std::int32_t>(root + up);
      attending.push_back(
          {sequences[i].first_row + t, 1, root + depth, sequences[i].blocks, nullptr, root + 1});
    }
  }
  // Their places are known once the list no longer grows.
  std::size_t next = 0;
  for (SequenceRows& s : attending) {
    if (s.branch_from == 0) continue;
    s.branch = branches.own() + next;
    next += static_cast<std::size_t>(s.cached - s.branch_from + 1);
  }
}

// Steps whose launches depend on nothing but their number of sequences and longest context.
bool Transformer::State::can_record(std::span<const StepSequence> all) const {
  if (!graphs || reaches || layout.data_parallel > 1 || all.empty() || rows > layout.step_sizes.back())
    return false;
  if (layout.processes != nullptr || !swaps.out.empty() || !swaps.in.empty() || !swaps.loads.empty() ||
      !swaps.shifts.empty() || layout.streamed_layers > 0 || widths.linear > 0)
    return false;
  return std::all_of(all.begin(), all.end(), [](const StepSequence& s) {
    return s.decode && s.sample && s.tokens.size() == 1 && s.parents == nullptr && s.adapter < 0;
  });
}

// Rows of no sequence, which write to the block that no sequence gets.
void Transformer::State::pad() {
  std::int64_t longest = 1;
  for (const SequenceRows& s : sequences) longest = std::max(longest, s.cached + 1);
  const std::int64_t size =
      std::min({*std::lower_bound(layout.step_sizes.begin(), layout.step_sizes.end(), rows),
                layout.max_sequences, layout.max_tokens, layout.sampled()});
  const auto spare = static_cast<std::int32_t>(layout.num_blocks);
  for (; rows < size; ++rows) {
    row_tokens.push_back(0), row_positions.push_back(0), state_of.push_back(0);
    sampled_rows.push_back(static_cast<std::int32_t>(rows));
    sequences.push_back({rows, 1, 0, list_blocks(&spare, 1)});
    if (widths.latent > 0) projected.push_back({rows, 1, 0, blocks.own()});
  }
  recording =
      static_cast<std::uint64_t>(rows) << 40 | static_cast<std::uint64_t>(kernels.context_bucket(longest));
}

void Transformer::State::execute() {
  if (!recorded) {
    run_to_exchange();
    return finish();
  }
  std::vector<Timed>& times = recordings[recording];
  bool fresh = false;
  graphs->run(recording, [&] {
    fresh = true;
    run_to_exchange();
    cap_logits();
  });
  if (fresh) {
    times = timed;
  } else {
    for (const Launch& launch : launches) begin_run(launch);
    timed = times;
  }
  wait();
  read_times();
}

const std::int32_t* Transformer::State::list_blocks(const std::int32_t* of, std::int64_t tokens) {
  if (kernels.memory().host_reads()) return of;
  const std::size_t first = blocks.size();
  const std::int64_t count = (tokens + layout.block_size - 1) / layout.block_size;
  for (std::int64_t i = 0; i < count; ++i) blocks.push_back(of[i]);
  return blocks.own() + first;
}

void Transformer::State::publish() {
  published = true;
  sequences.publish(), attending.publish(), projected.publish(), branches.publish(), blocks.publish();
  row_positions.publish(), row_tokens.publish(), sampled_rows.publish(), state_of.publish();
  adapted_rows.publish(), shift_blocks.publish(), turns.publish();
}

void Transformer::State::wait() {
  kernels.memory().wait();
  published = false;
}

void Transformer::State::prepare(std::span<const StepSequence> all, std::int64_t group_tokens) {
  if (published) {  // a step that failed halfway
    wait();
    for (Rank& rank : ranks) rank.restart_stream();
  }
  state_of.clear();
  sequences.clear(), row_positions.clear(), row_tokens.clear(), sampled_rows.clear();
  chunk_sequences.clear(), attending.clear(), projected.clear(), branches.clear(), blocks.clear();
  blocks.push_back(0);
  asked.clear();
  first_decode = 0;
  rows = 0;
  asked.contexts.assign(windows.size(), 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const StepSequence& s = all[i];
    const auto n = static_cast<std::int64_t>(s.tokens.size());
    if (n < 1 || s.cached + n > layout.max_length)
      throw Error("sequence",
                  fmt::format("{} new tokens after {} cached ones; at least 1 and at most {} in all", n,
                              s.cached, layout.max_length));
    if (rows + n > layout.max_tokens)
      throw Error("step", fmt::format("more than {} rows", layout.max_tokens));
    if (static_cast<std::int64_t>(i) >= layout.max_sequences)
      throw Error("step", fmt::format("more than {} sequences", layout.max_sequences));
    sequences.push_back({rows, n, s.cached, list_blocks(s.blocks, s.cached + n)});
    if (widths.latent > 0) projected.push_back({rows, n, s.cached, blocks.own()});
    if (widths.linear > 0 && (s.state < 0 || s.state >= layout.max_sequences))
      throw Error("sequence", fmt::format("a recurrent state from 0 to {} is needed, not {}",
                                          layout.max_sequences - 1, s.state));
    state_of.push_back(s.state);
    const std::int64_t root = s.cached - s.first_node;
    if (s.first_position >= 0 && s.first_position + (n - 1) * s.position_step >= layout.max_length)
      throw Error("sequence", fmt::format("a token beyond {}", layout.max_length));
    const auto position_of = [&](std::int64_t t) {
      if (s.parents) return root + depth_of(s, s.first_node + t);
      return s.first_position >= 0 ? s.first_position + t * s.position_step : s.cached + t;
    };
    for (std::int64_t t = 0; t < n; ++t) {
      const std::int32_t token = s.tokens[static_cast<std::size_t>(t)];
      if (token < 0 || token >= model.vocab)
        throw Error("token", fmt::format("{} is not in a vocabulary of {}", token, model.vocab));
      row_tokens.push_back(token);
      row_positions.push_back(static_cast<std::int32_t>(position_of(t)));
    }
    rows += n;
    if (s.sample)
      for (std::int64_t row = s.every_row ? rows - n : rows - 1; row < rows; ++row)
        sampled_rows.push_back(static_cast<std::int32_t>(row));
    if (static_cast<std::int64_t>(sampled_rows.size()) > layout.sampled())
      throw Error("step", fmt::format("logits of more than {} rows", layout.sampled()));
    if (s.decode) {
      ++asked.decode_sequences;
      asked.decode_queries = std::max(asked.decode_queries, n);
      for (std::size_t g = 0; g < windows.size(); ++g)
        asked.contexts[g] +=
            static_cast<double>(windows[g] > 0 ? std::min(s.cached + n, windows[g]) : s.cached + n);
    } else {
      if (asked.decode_sequences > 0) throw Error("step", "prompts come before decoding sequences");
      auto& chunks = asked.prefill;
      if (!chunks.empty() && chunks.back().new_tokens == n && chunks.back().cached == s.cached) {
        ++chunks.back().count;
        ++chunk_sequences.back().second;
      } else {
        chunks.push_back({n, s.cached, 1});
        chunk_sequences.emplace_back(i, 1);
      }
      first_decode = i + 1;
    }
  }
  logit_rows = sampled_rows.size();
  recorded = can_record(all);
  if (recorded) pad();
  group_by_adapter(all);
  if (std::any_of(all.begin(), all.end(), [](const StepSequence& s) { return s.parents != nullptr; }))
    branch_out(all);
  asked.padded_tokens = rows;
  asked.group_tokens = group_tokens;
  asked.sampled_rows = static_cast<std::int64_t>(sampled_rows.size());
  asked.swap_out_tokens = static_cast<std::int64_t>(swaps.out.size()) * layout.block_size;
  asked.swap_in_tokens = static_cast<std::int64_t>(swaps.in.size()) * layout.block_size;
  prepare_shifts();
  for (std::size_t i = 0; i < stages.size(); ++i)
    operators(model, stages[i], asked, precision, layout.fusion, lists[i]);
  order_launches();
  publish();
  runs.clear(), timed.clear();
  stopwatch->restart();
  next_launch = 0;
  hidden = stage_hidden.front();
}

void Transformer::State::order_launches() {
  launches.clear();
  for (int stage = 0; stage < static_cast<int>(stages.size()); ++stage) {
    const auto& ops = lists[static_cast<std::size_t>(stage)].ops;
    std::size_t i = 0;
    for (; i < ops.size() && ops[i].layer_kind < 0 &&
           (ops[i].scope == OpScope::kSwap || ops[i].name == "lora_load" ||
            ops[i].name.starts_with("embedding"));
         ++i)
      // All layers' caches are copied at once.
      if (ops[i].scope != OpScope::kSwap || stage == 0 || ops[i].name == "key_shift")
        launches.push_back({&ops[i], -1, stage, 0});
    const auto [first, last] = layer_range(model, stages[static_cast<std::size_t>(stage)]);
    for (int layer = first; layer < last; ++layer) {
      const int kind = model.layers[static_cast<std::size_t>(layer)];
      // Operators of prompts' chunks follow each other, one a chunk.
      std::size_t chunk = 0;
      std::string_view before;
      for (const Op& op : ops) {
        if (op.layer_kind != kind) continue;
        if (op.scope == OpScope::kStreaming && !ranks.front().streams(layer)) continue;
        chunk = op.name == before ? chunk + 1 : 0;
        before = op.name;
        launches.push_back({&op, layer, stage, chunk});
      }
    }
    for (; i < ops.size(); ++i)
      if (ops[i].layer_kind < 0) launches.push_back({&ops[i], -1, stage, 0});
  }
}

void Transformer::State::begin_run(const Launch& launch) {
  runs.push_back({*launch.op, launch.layer, launch.stage});
  runs.back().op.count = 1;
}

void Transformer::State::run(const Launch& launch) {
  const Op& op = *launch.op;
  begin_run(launch);
  next_chunk = launch.chunk;
  if (is_shared(op.name) && !is_split(op.name)) {
    const int start = mark();
    if (op.name == "stage_send")
      send(launch.stage);
    else
      run_shared(op, launch.layer);
    time(Timed::Kind::kShared, start);
  } else {
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const int start = mark();
      run_rank(op, launch.layer, r);
      time(Timed::Kind::kRank, start);
    }
  }
  if (is_split(op.name)) end_norm(op, launch.layer);
  pending |= op.name == "o_proj" || op.name == "out_proj" || op.name == "down_proj" || op.name == "experts";
}

// A rank's time is without its projecting, which comes before it in the list and is of the operator that
// stands for it.
void Transformer::State::read_times() {
  double projecting = 0, most_projecting = 0, all_projecting = 0;
  std::size_t run = 0;
  const auto give_projecting = [&] {
    if (all_projecting <= 0) return;
    std::size_t own = run;
    while (runs[own].op.name != kUpProjection) --own;
    runs[own].seconds += most_projecting, runs[own].all_seconds += all_projecting;
    most_projecting = all_projecting = 0;
  };
  for (const Timed& t : timed) {
    if (t.run != run) give_projecting();
    run = t.run;
    const double seconds = stopwatch->seconds(t.from, t.to);
    if (t.kind == Timed::Kind::kProjecting) {
      projecting += seconds;
      continue;
    }
    OperatorRun& o = runs[run];
    o.seconds = std::max(o.seconds, seconds - projecting);
    o.all_seconds += seconds - projecting;
    most_projecting = std::max(most_projecting, projecting), all_projecting += projecting;
    projecting = 0;
  }
  give_projecting();
  timed.clear();
}

void Transformer::State::send(int stage) {
  if (stages.front().sequence_parallel)
    for (const Rank& r : ranks) add_pending(own_rows(r));
  else
    add_pending({0, rows});
  pending = false;
  float* const next = stage_hidden[static_cast<std::size_t>(stage) + 1];
  kernels.copy_rows(hidden, model.hidden, rows, model.hidden, next, model.hidden);
  hidden = next;
}

// After the last operator of a layer whose weights were fetched.
void Transformer::State::release_streamed(std::size_t launch) {
  const int layer = launches[launch].layer;
  if (rows == 0 || layer < 0 || !ranks.front().streams(layer)) return;
  if (launch + 1 < launches.size() && launches[launch + 1].layer == layer) return;
  for (Rank& rank : ranks) rank.release();
}

bool Transformer::State::run_to_exchange() {
  for (; next_launch < launches.size(); ++next_launch) {
    const std::string_view name = launches[next_launch].op->name;
    if (name == "moe_dispatch" || (reaches && name == "attention")) return true;
    run(launches[next_launch]);
    release_streamed(next_launch);
  }
  return false;
}

void Transformer::State::cap_logits() {
  if (numerics.final_softcap > 0)
    kernels.softcap(numerics.final_softcap, static_cast<std::int64_t>(sampled_rows.size()) * model.vocab,
                    logits);
}

void Transformer::State::finish() {
  cap_logits();
  wait();
  read_times();
}

namespace {

// What the operators here can't do, by name.
void check(const ModelConfig& m, const Layout& l) {
  const auto refuse = [](const std::string& what) {
    throw Error("model", what + ": the executor does not run it");
  };
  for (const LayerKind& kind : m.kinds) {
    if (kind.parallel) refuse("attention and feed-forward part in parallel");
    if (kind.residual_streams > 1) refuse("several residual streams");
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      if (a->gate_width > 0 || (a->output_gate && (a->qkv_bias || a->head_dim != a->v_head_dim)))
        refuse("attention with a gate of its own projection or with biases");
      if (a->value_is_key || a->shared_kv_projection) refuse("values taken from keys");
      if (a->index_heads > 0) refuse("block-sparse attention");
      if (l.ranks > 1 && a->qk_norm == GqaAttention::QkNorm::kFull)
        refuse("norms over all heads on several ranks");
      if (a->heads % l.ranks != 0) throw Error("tensor_parallel_size", "must divide the number of heads");
    } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
      if (latent->index_top_k > 0) refuse("sparse attention with an indexer");
      if (latent->output_gate) refuse("gated attention");
      if (latent->heads % l.ranks != 0)
        throw Error("tensor_parallel_size", "must divide the number of heads");
    } else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
      if (r->kind != RecurrentMixer::Kind::kGatedDelta || r->conv_kernel < 1 || r->projection_bias)
        refuse("layer kind " + kind.name);
      if (r->k_heads % l.ranks != 0)
        throw Error("tensor_parallel_size", "must divide the number of key heads of linear attention");
    } else {
      refuse("layer kind " + kind.name);
    }
    if (const auto* e = std::get_if<MoeMlp>(&kind.mlp)) {
      if (e->latent > 0) refuse("experts in a smaller space");
    } else if (!std::holds_alternative<DenseMlp>(kind.mlp)) {
      refuse("layer kind " + kind.name);
    }
  }
  if (m.embedding_norm) refuse("a norm after the embedding");
  if (m.embedding_projection > 0) refuse("projections around the embedding");
}

}  // namespace

Transformer::Transformer(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
                         const Kernels& kernels, const Layout& layout, const Precision& precision,
                         Threads& threads, const AdapterSource* adapters) {
  check(model, layout);
  state_ =
      std::make_unique<State>(model, numerics, checkpoint, kernels, layout, precision, threads, adapters);
}

Transformer::Transformer(std::unique_ptr<State> state) : state_(std::move(state)) {}

Transformer::~Transformer() = default;

std::unique_ptr<Transformer> Transformer::twin(const Layout& layout) const {
  return std::unique_ptr<Transformer>(new Transformer(std::make_unique<State>(*state_, layout)));
}

Transformer::Bytes Transformer::bytes_needed(const ModelConfig& model, const Numerics& numerics,
                                             const Checkpoint& checkpoint, const Kernels& kernels,
                                             const Layout& layout, Threads& threads) {
  check(model, layout);
  Bytes bytes;
  State(model, numerics, checkpoint, kernels, layout, threads, bytes);
  return bytes;
}

std::span<const float> Transformer::step(std::span<const StepSequence> sequences, const Swaps& swaps) {
  State& s = *state_;
  s.swaps = swaps;
  s.prepare(sequences);
  s.execute();
  return {s.logits, s.logit_rows * static_cast<std::size_t>(s.model.vocab)};
}

void Transformer::move_path(const std::int32_t* blocks, std::int64_t root, std::span<const int> nodes) {
  std::int64_t place = 0;
  for (const int node : nodes)
    if (node != ++place)
      for (Rank& rank : state_->ranks) rank.move_cached(blocks, root + node, root + place);
}

std::span<const OperatorRun> Transformer::operators_run() const { return state_->runs; }
const Layout& Transformer::layout() const { return state_->layout; }

}  // namespace foretoken
