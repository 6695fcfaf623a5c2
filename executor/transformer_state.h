// What a Transformer holds (weights, workspace, the step at hand), shared by the files that implement it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "executor/rope_table.h"
#include "executor/step_table.h"
#include "executor/transformer.h"
#include "executor/widths.h"

namespace foretoken {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Transformer::State {
  const ModelConfig& model;
  const Numerics& numerics;
  const Kernels& kernels;
  const Layout layout;
  const Precision precision;
  Threads& threads;
  const Widths widths;
  const std::vector<std::int64_t> windows = model.attention_windows();

  std::vector<Rank> ranks;             // those that this process computes
  std::vector<RankAdapters> adapters;  // of each; empty without adapters
  std::vector<Shard> stages;           // at least one
  // Whole on every rank.
  std::shared_ptr<Arena> tables;
  Matrix embedding, positions;
  const float *final_norm = nullptr, *final_norm_bias = nullptr;
  std::vector<RopeTable> ropes;

  // Workspace. hidden: the residual stream; normed: what the next projection reads; delta: what the last part
  // of a layer adds to the stream at the next norm.
  Arena workspace;
  std::vector<float*> stage_hidden;  // of each stage; hidden is the one at work
  float *hidden = nullptr, *normed = nullptr, *delta = nullptr, *logits = nullptr, *sampled = nullptr;
  // In place of normed where what reads it takes 8 bits (Fusion::quantisation).
  std::byte* quantised = nullptr;
  float *router_logits = nullptr, *routing_weights = nullptr, *mix = nullptr;
  std::int32_t *chosen = nullptr, *place = nullptr, *order = nullptr, *expert_rows = nullptr;
  float* scattered = nullptr;                    // normed rows before they are gathered
  float* gathered = nullptr;                     // of all processes
  float *latent_q = nullptr, *latent = nullptr;  // MLA: alike on every rank
  float *up_latent = nullptr, *moe_in = nullptr, *moe_mid = nullptr, *moe_act = nullptr, *moe_out = nullptr;
  std::byte* scratch = nullptr;
  std::size_t scratch_bytes = 0;
  struct PerRank {
    float *qkv = nullptr, *heads_out = nullptr, *inter = nullptr, *act = nullptr, *partial = nullptr,
          *shared = nullptr, *logits = nullptr;
    std::byte* quantised_act = nullptr;  // in place of act
    float *linear = nullptr, *linear_gates = nullptr, *convolved = nullptr;
    float* low_rank = nullptr;  // between an adapter's two products
    float *absorbed = nullptr, *attended = nullptr, *up = nullptr;
    std::byte *up_keys = nullptr, *up_values = nullptr;
    // InstanceGroup: AttentionArgs::lse of own rows and of a part's, a part's results, queries from
    // elsewhere; keys and values of a step's prompts, own ones and those of the instance whose turn it is.
    float *lse = nullptr, *part_lse = nullptr, *part = nullptr, *visitors = nullptr;
    struct Staged {
      std::byte *keys = nullptr, *values = nullptr;
      float *key_scales = nullptr, *value_scales = nullptr;
    } staged[2];
  };
  std::vector<PerRank> work;
  float *linear_q = nullptr, *linear_k = nullptr, *linear_v = nullptr;  // of every value head
  float *linear_decay = nullptr, *linear_beta = nullptr;
  float *lora_in = nullptr, *lora_out = nullptr;  // rows grouped by adapter

  // The step at hand. Lists keep their memory from step to step, so that a step allocates nothing once one as
  // large has run.
  std::int64_t rows = 0;
  StepTable<SequenceRows> sequences{kernels.memory()};
  Swaps swaps;
  // Decoding ones as attention sees them, where some form trees; each with its prompt's projected latents as
  // its cache.
  StepTable<SequenceRows> attending{kernels.memory()}, projected{kernels.memory()};
  StepTable<std::int32_t> branches{kernels.memory()};  // of attending
  // Of the sequences, where kernels can't read the callers'; the first is block 0 of a cache of one block.
  StepTable<std::int32_t> blocks{kernels.memory()};
  StepTable<std::int32_t> row_positions{kernels.memory()}, row_tokens{kernels.memory()},
      sampled_rows{kernels.memory()};
  // Of each shift: where its blocks are listed, as above; cosines and sines of its angles, by rope.
  StepTable<std::int32_t> shift_blocks{kernels.memory()};
  std::vector<std::size_t> shift_lists;
  StepTable<float> turns{kernels.memory()};
  StepTable<std::int32_t> state_of{kernels.memory()};  // of each sequence; models with recurrent layers
  std::size_t first_decode = 0;                        // sequences[first_decode...] decode
  Work asked;
  std::vector<std::int32_t> slot_adapters;                 // what each slot holds, -1: nothing
  StepTable<std::int32_t> adapted_rows{kernels.memory()};  // by adapter, in the order of their first rows
  struct AdapterGroup {
    std::int32_t slot = 0;
    std::int64_t first = 0, count = 0;  // of adapted_rows
  };
  std::vector<AdapterGroup> adapter_groups;
  std::vector<std::pair<std::size_t, std::size_t>> chunk_sequences;  // of each PrefillChunk
  std::size_t next_chunk = 0;                                        // of the layer's attention operators
  bool pending = false;                                              // delta waits to be added
  const float* pending_norm = nullptr;  // its norm, where outputs are normed first
  std::vector<OpList> lists;            // by stage
  // The step's operators in the order in which they run, layer after layer.
  struct Launch {
    const Op* op;
    int layer, stage;
    std::size_t chunk;  // of the layer's attention operators
  };
  std::vector<Launch> launches;
  std::size_t next_launch = 0;
  // Attention is an InstanceGroup's: launches stop before it. stages_prompts: keys go to PerRank::staged.
  bool reaches = false, stages_prompts = false;
  std::vector<OperatorRun> runs;
  std::unique_ptr<KernelStopwatch> stopwatch = kernels.stopwatch(layout.operator_times);
  // Parts of operators by the stopwatch's places, whose seconds are read when the step is done. kProjecting:
  // what a prompt's attention spent on projecting latents up, which is an operator of its own.
  struct Timed {
    enum class Kind { kShared, kRank, kProjecting } kind;
    std::size_t run;
    int from, to;
  };
  std::vector<Timed> timed;
  // Steps of decoding sequences that the kernels record: what is timed of each, by its key. A key is of what
  // the launches depend on: padded rows and the longest context, as far as it matters.
  std::unique_ptr<StepGraphs> graphs = layout.step_sizes.empty() ? nullptr : kernels.graphs();
  std::unordered_map<std::uint64_t, std::vector<Timed>> recordings;
  bool published = false;       // kernels may still read the step's lists
  bool recorded = false;        // the step at hand
  std::uint64_t recording = 0;  // its key
  std::size_t logit_rows = 0;   // that were asked for
  static constexpr std::string_view kUpProjection = "kv_b_proj";

  State(const ModelConfig& m, const Numerics& n, const Checkpoint& checkpoint, const Kernels& k,
        const Layout& l, const Precision& p, Threads& t, const AdapterSource* source)
      : model(m), numerics(n), kernels(k), layout(l), precision(p), threads(t), widths(m, l.ranks) {
    const auto [first, last] = own_ranks(layout);
    for (int r = first; r < last; ++r) ranks.emplace_back(m, checkpoint, k, l, r, t);
    if (source != nullptr && l.lora.rank > 0) {
      for (const Rank& rank : ranks) adapters.emplace_back(m, *source, k, l, rank);
      slot_adapters.assign(static_cast<std::size_t>(l.lora.slots), -1);
      adapter_groups.reserve(static_cast<std::size_t>(l.lora.slots));
    }
    load_tables(checkpoint);
    for (const Rope& rope : numerics.ropes)
      ropes.push_back(rope_table(rope, layout.max_length, kernels.memory()));
    prepare_workspace();
  }

  // A twin: weights and tables are the other's.
  State(const State& o, const Layout& l)
      : model(o.model),
        numerics(o.numerics),
        kernels(o.kernels),
        layout(l),
        precision(o.precision),
        threads(o.threads),
        widths(o.widths),
        tables(o.tables),
        embedding(o.embedding),
        positions(o.positions),
        final_norm(o.final_norm),
        final_norm_bias(o.final_norm_bias) {
    for (const Rank& r : o.ranks) ranks.push_back(r.twin(model, l));
    for (const Rope& rope : numerics.ropes)
      ropes.push_back(rope_table(rope, layout.max_length, kernels.memory()));
    prepare_workspace();
  }

  // A plan: shapes without memory. Adds up what a transformer takes.
  State(const ModelConfig& m, const Numerics& n, const Checkpoint& checkpoint, const Kernels& k,
        const Layout& l, Threads& t, Bytes& bytes)
      : model(m), numerics(n), kernels(k), layout(l), threads(t), widths(m, l.ranks) {
    const auto [first, last] = own_ranks(layout);
    for (int r = first; r < last; ++r)
      ranks.push_back(Rank::plan(m, checkpoint, k, l, r, bytes.weights, bytes.cache));
    for (int r = first; r < last && l.lora.rank > 0; ++r) {
      adapters.push_back(RankAdapters::plan(m, l));
      bytes.weights += RankAdapters::bytes_needed(m, k, l);
    }
    bytes.weights += table_bytes(m, checkpoint, k, l);
    for (const Rope& rope : numerics.ropes) bytes.workspace += rope_table_bytes(rope, layout.max_length);
    set_stages();
    Plan measure{nullptr};
    plan(measure);
    bytes.workspace += Arena::padded(measure.bytes);
    for_each_table(
        [&](const auto& table, std::size_t capacity) { bytes.workspace += table.bytes_needed(capacity); });
  }

  void set_stages() {
    stages = layout.stages;
    if (stages.empty()) {
      Shard whole;
      whole.tensor_parallel = layout.ranks;
      whole.expert_parallel = layout.expert_parallel;
      whole.moe_tensor_parallel = layout.moe_tensor_parallel;
      whole.streamed_layers = layout.streamed_layers;
      whole.streams_from_storage = layout.stream.from_storage;
      whole.lora = layout.lora;
      stages.push_back(whole);
    }
    lists.resize(stages.size());
    stage_hidden.resize(stages.size());
  }

  void prepare_workspace() {
    set_stages();
    allocate();
    hidden = stage_hidden.front();
    for_each_table([](auto& table, std::size_t capacity) { table.reserve(capacity); });
  }

  // Lists of a step, with what they hold at most; those of trees grow with them.
  template <class Visit>
  void for_each_table(Visit&& visit) {
    const auto tokens = static_cast<std::size_t>(layout.max_tokens),
               most = static_cast<std::size_t>(layout.max_sequences),
               each =
                   static_cast<std::size_t>((layout.max_length + layout.block_size - 1) / layout.block_size);
    visit(sequences, most), visit(state_of, most);
    visit(row_positions, tokens), visit(row_tokens, tokens);
    visit(sampled_rows, static_cast<std::size_t>(layout.sampled()));
    if (widths.latent > 0) visit(projected, most);
    if (!adapters.empty()) visit(adapted_rows, tokens);
    visit(blocks, kernels.memory().host_reads() ? 1 : 1 + most * each);
  }

  static std::pair<int, int> own_ranks(const Layout& l) {
    if (l.processes == nullptr) return {0, l.ranks};
    return {l.processes->rank(), l.processes->rank() + 1};
  }

  // ---- memory ----

  static std::size_t table_bytes(const ModelConfig& m, const Checkpoint& checkpoint, const Kernels& k,
                                 const Layout& l) {
    std::size_t bytes = 0;
    for (const Role role : {Role::kEmbedding, Role::kPositions}) {
      const Extent e = checkpoint.extent(role);
      if (e.rows > 0) bytes += Arena::padded(k.packed_bytes(l.plain, e.rows, e.columns));
    }
    return bytes + 2 * Arena::padded(static_cast<std::size_t>(m.hidden) * 4);
  }

  void load_tables(const Checkpoint& checkpoint) {
    tables = std::make_shared<Arena>(table_bytes(model, checkpoint, kernels, layout), kernels.memory());
    const auto table = [&](Role role, Matrix& out) {
      const Extent e = checkpoint.extent(role);
      if (e.rows == 0) return;
      out = kernels.pack(
          layout.plain, e.rows, e.columns,
          [&](std::int64_t row, float* to) { checkpoint.read(role, 0, 0, row, 1, to); },
          tables->bytes(kernels.packed_bytes(layout.plain, e.rows, e.columns)), threads);
    };
    table(Role::kEmbedding, embedding);
    table(Role::kPositions, positions);
    const auto vector = [&](Role role) -> const float* {
      const Extent e = checkpoint.extent(role);
      if (e.rows == 0) return nullptr;
      std::vector<float> values(static_cast<std::size_t>(e.columns));
      checkpoint.read(role, 0, 0, 0, 1, values.data());
      float* out = tables->array<float>(values.size());
      kernels.memory().copy(out, values.data(), values.size() * sizeof(float));
      return out;
    };
    final_norm = vector(Role::kFinalNorm);
    final_norm_bias = vector(Role::kFinalNormBias);
  }

  // Hands out the workspace, or adds up what it takes.
  struct Plan {
    Arena* arena;
    std::size_t bytes = 0;
    template <class T>
    void operator()(T*& to, std::int64_t rows, std::int64_t width = 1) {
      const std::size_t size = count_of(rows, width) * sizeof(T);
      bytes += Arena::padded(size);
      if (arena && size > 0) to = reinterpret_cast<T*>(arena->bytes(size));
    }
  };

  // transformer_workspace.cpp.
  void plan(Plan& take);
  std::int64_t quantised_bytes(std::int64_t width) const;
  std::int64_t quantised_act_bytes() const;
  std::size_t scratch_needed() const;

  // instance_group.cpp; which: of PerRank::staged.
  void plan_reaching(Plan& take, PerRank& w) const;
  std::int64_t staged_blocks() const;
  CacheLayer staged(std::size_t r, std::int64_t layer, std::size_t which) const;
  CacheLayer cache_of(std::size_t r, std::int64_t layer) const {
    return stages_prompts ? staged(r, layer, 0) : ranks[r].cache(layer);
  }

  void allocate() {
    Plan measure{nullptr};
    plan(measure);
    workspace = Arena(measure.bytes, kernels.memory());
    Plan take{&workspace};
    plan(take);
  }

  // ---- helpers ----

  std::int64_t vocabulary_width() const { return (model.vocab + layout.ranks - 1) / layout.ranks; }

  const LayerKind& kind_of(std::int64_t layer) const {
    return model.kinds[model.layers[static_cast<std::size_t>(layer)]];
  }
  const GqaAttention* gqa(std::int64_t layer) const {
    return std::get_if<GqaAttention>(&kind_of(layer).mixer);
  }
  const MlaAttention* latent_attention(std::int64_t layer) const {
    return std::get_if<MlaAttention>(&kind_of(layer).mixer);
  }

  Experts experts_of(const Rank& rank, std::int64_t layer) const {
    return rank.experts_of(layer, std::get<MoeMlp>(kind_of(layer).mlp).experts);
  }

  void gemm(const Linear& l, const float* x, std::int64_t x_stride, std::int64_t m, float* y,
            std::int64_t y_stride, bool accumulate = false) {
    kernels.gemm(l.w, x, x_stride, m, l.bias, accumulate, y, y_stride, scratch, threads);
  }
  void gemm(const Linear& l, const float* x, std::int64_t m, float* y) { gemm(l, x, l.w.k, m, y, l.w.n); }

  // Of rows that their producer rounded where the operator list says so, of floats else.
  bool is_rounded(const Op& op, const Linear& l) const;
  void gemm(const Op& op, const Linear& l, const float* x, const std::byte* rounded, float* y,
            bool accumulate = false);
  void gemm(const Op& op, const Linear& l, float* y) { gemm(op, l, normed, quantised, y); }
  // Whether the layer's product of this name finds what the operator at hand writes rounded.
  bool is_read_rounded(int layer, std::string_view product, const Linear& l) const;

  NormArgs norm_args(const float* weight, const float* bias) const {
    return {numerics.norm, numerics.norm_epsilon, numerics.norm_offset, weight, bias};
  }

  // Rows of the stream that are a rank's under sequence parallelism.
  Rank::Slice own_rows(const Rank& rank) const { return Rank::slice(rows, rank.index(), layout.ranks); }

  // What the part of the layer that ran last adds to the stream, in rows `own`.
  float* added(Rank::Slice own) {
    return (layout.ranks == 1 ? work.front().partial : delta) + count_of(own.first, model.hidden);
  }
  void add_pending(Rank::Slice own) {
    if (!pending || own.count <= 0) return;
    float* const rows_added = added(own);
    if (pending_norm)
      kernels.norm(norm_args(pending_norm, nullptr), rows_added, model.hidden, own.count, model.hidden,
                   rows_added, model.hidden);
    kernels.add(rows_added, own.count * model.hidden, hidden + count_of(own.first, model.hidden));
  }

  // The partial results of other processes.
  void gather_partials() {
    if (layout.processes != nullptr)
      kernels.all_gather(*layout.processes, {work.front().partial, count_of(rows, model.hidden)}, gathered);
  }
  // The sum of all ranks' partial results, in their order, of rows `own`.
  void reduce(Rank::Slice own) {
    const std::size_t first = count_of(own.first, model.hidden), size = count_of(own.count, model.hidden);
    const auto partial = [&](int r) {
      const float* all = layout.processes != nullptr
                             ? gathered + static_cast<std::size_t>(r) * count_of(rows, model.hidden)
                             : work[static_cast<std::size_t>(r)].partial;
      return all + first;
    };
    kernels.copy_rows(partial(0), model.hidden, own.count, model.hidden, delta + first, model.hidden);
    for (int r = 1; r < layout.ranks; ++r)
      kernels.add(partial(r), static_cast<std::int64_t>(size), delta + first);
  }

  // As attention multiplies over the cache: where that is by bfloat16, projected keys and values are too, as
  // servers keep them.
  Storage up_storage() const {
    return layout.cache == Storage::kF32 || layout.cache == Storage::kF16 ? Storage::kF32 : Storage::kBf16;
  }
  CacheLayer up_cache(const MlaAttention& a, const Rank& rank, const PerRank& w) const {
    CacheLayer c;
    c.storage = up_storage();
    c.block_size = static_cast<int>(layout.max_length);
    c.heads = rank.heads(a.heads).count;
    c.k_dim = a.nope_dim + a.rope_dim, c.v_dim = a.v_dim;
    c.keys = w.up_keys, c.values = w.up_values;
    return c;
  }

  // ---- operators ----

  // One operator of one layer on one rank; collectives and what is alike on all ranks run once, as rank 0.
  void run_shared(const Op& op, int layer);
  void run_rank(const Op& op, int layer, std::size_t rank);
  static bool is_shared(std::string_view name);

  bool is_split(std::string_view name) const;
  void norm_rows(const Op& op, int layer, Rank::Slice own);
  void gather_rows();
  void gather_sampled();

  void input_norm(int layer, bool before_attention, Rank::Slice own);
  // Once all rows are normed.
  void end_norm(const Op& op, int layer) {
    pending = false;
    if (op.name == "final_norm" || op.name == "residual_add") return;
    const LayerWeights& w = ranks.front().layer(layer);
    pending_norm = op.name == "input_norm" ? w.attn_output_norm : w.mlp_output_norm;
  }

  void embed() {
    kernels.embed(embedding, row_tokens.own(0, row_tokens.size()), 0, numerics.embedding_scale, false, hidden,
                  scratch);
    if (positions.n > 0)
      kernels.embed(positions, row_positions.own(0, row_positions.size()), numerics.position_offset, 1, true,
                    hidden, scratch);
    pending = false;
  }

  const RopeTable* rope_of(int layer) const {
    if (numerics.rope_of_layer.empty()) return nullptr;
    const int i = numerics.rope_of_layer[static_cast<std::size_t>(layer)];
    return i < 0 ? nullptr : &ropes[static_cast<std::size_t>(i)];
  }

  void rope(const RopeTable& t, float* x, std::int64_t stride, std::int64_t heads, std::int64_t dim,
            std::int64_t first) {
    kernels.rope(t.cosines, t.sines, t.pairs, t.interleaved, row_positions.own(0, row_positions.size()), x,
                 stride, heads, dim, first);
  }

  AttentionArgs attention_args(int layer, const Rank& rank, std::int64_t heads) const {
    AttentionArgs a;
    a.heads = heads;
    a.scale = numerics.attention_scale;
    a.softcap = numerics.attention_softcap;
    if (const auto* g = gqa(layer)) {
      a.qk_dim = g->head_dim, a.v_dim = g->v_head_dim;
      a.window = g->window, a.chunked = g->chunked;
      a.sinks = rank.layer(layer).sinks;
    }
    return a;
  }

  // Sequences of the attention operator at hand: a group of equal chunks, or all that decode.
  Sequences sequences_of(bool decode, std::size_t chunk) const {
    if (decode && !attending.empty()) return {attending.host(), attending.own()};
    const Sequences all{sequences.host(), sequences.own()};
    if (decode) return all.part(first_decode, all.size() - first_decode);
    const auto [first, count] = chunk_sequences[chunk];
    return all.part(first, count);
  }

  void grouped_query(const Op& op, int layer, std::size_t r, const GqaAttention& a);
  void latent_operator(const Op& op, int layer, std::size_t r, const MlaAttention& a);
  void prefill_latent(const MlaAttention& a, int layer, std::size_t r, const Sequences& chunk);
  void experts(int layer, std::size_t r);
  // Routes `count` rows, multiplies those of the rank's own experts, and leaves the results in moe_out, a row
  // for each pair of row and choice at place[pair]; place is -1 where the expert is another rank's.
  void multiply_experts(int layer, const Rank& rank, const float* in, const float* routed,
                        std::int64_t count);
  // Where the blocks that hold a sequence's `tokens` tokens are listed for the kernels.
  const std::int32_t* list_blocks(const std::int32_t* of, std::int64_t tokens);
  void publish();
  void wait();
  // The stream goes to the next stage of the pipeline.
  void send(int stage);
  // A pipeline's stages and ranks that take turns are told apart by the times of their operators.
  bool timing() const {
    return layout.operator_times != OperatorTimes::kNone || stages.size() > 1 || ranks.size() > 1;
  }
  int mark() { return timing() ? stopwatch->mark() : 0; }
  void time(Timed::Kind kind, int from) {
    if (timing()) timed.push_back({kind, runs.size() - 1, from, stopwatch->mark()});
  }
  void read_times();
  // transformer_recurrent.cpp
  void recurrent_operator(const Op& op, int layer, std::size_t r, const RecurrentMixer& mixer);
  States states_of(const Sequences& chunk, float* first, std::int64_t values) const {
    return {first, values, state_of.own() + (chunk.own - sequences.own())};
  }
  void recur(const RecurrentMixer& mixer, int layer, std::size_t r, const Sequences& chunk);
  // transformer_shifts.cpp
  void prepare_shifts();
  void shift_keys(int stage, Rank& rank);
  // transformer_adapters.cpp
  void group_by_adapter(std::span<const StepSequence> all);
  void adapter_operator(std::string_view name, int layer, std::size_t r);

  // group_tokens: rows of all ranks that share the experts; 0: there are no others.
  void prepare(std::span<const StepSequence> asked_sequences, std::int64_t group_tokens = 0);
  void branch_out(std::span<const StepSequence> asked_sequences);
  bool can_record(std::span<const StepSequence> asked_sequences) const;
  void pad();
  void order_launches();
  // Runs the operators up to the next exchange between data-parallel ranks, or all that are left; whether
  // there is such an exchange.
  void release_streamed(std::size_t launch);
  bool run_to_exchange();
  void run(const Launch& launch);
  void begin_run(const Launch& launch);
  void cap_logits();
  void finish();
  void execute();
};

}  // namespace foretoken
