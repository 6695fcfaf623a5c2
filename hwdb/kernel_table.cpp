#include "hwdb/kernel_table.h"

#include <algorithm>
#include <cmath>

#include "hwdb/copy_rows.h"
#include "hwdb/kernel_index.h"

namespace foretoken {
namespace {

constexpr double kRepeatError =
    0.03;  // repeats of one measurement, where the row has no spread (ops/README.md)
constexpr double kOutsideFactor = 1.5;  // beyond the measured range the boundary's utilisation is held

MeasuredKind attention_kind(const AttentionShape& a) {
  if (a.mla) return a.decode ? MeasuredKind::kMlaDecode : MeasuredKind::kMlaPrefill;
  return a.decode ? MeasuredKind::kDecodeAttention : MeasuredKind::kPrefillAttention;
}

std::size_t phase_of(MeasuredKind kind) {
  return static_cast<std::size_t>(kind) - static_cast<std::size_t>(MeasuredKind::kPrefillAttention);
}

// Length of the uncached prompt with as many query-key pairs as this chunk has.
double equal_work_length(const AttentionShape& a) {
  return std::max(static_cast<double>(a.new_tokens), std::sqrt(2 * causal_pairs(a.new_tokens, a.cached, 0)));
}

// A long chunk after cached tokens keeps the device as busy as a prompt of equal work (weight 1), a short one
// as little as a short prompt: its query tiles are too few, and more keys only lengthen each tile's loop.
// Fitted on H100 to chunks of 32 to 2048 tokens after up to 2048 (LLMServingSim's profiles of Llama-3.1-70B
// and Mixtral, tp 4).
double whole_chunk_weight(double new_tokens) {
  const double octave = std::log2(new_tokens);
  // Below 128 tokens a prompt's own time is mostly launch, which the longer loop hides again.
  const double least = 0.15 + 0.12 * std::max(0.0, 7 - octave);
  return std::min(1.0, std::max(least, (octave - 6.5) / 3.2));
}
constexpr double kBorrowedError =
    0.35;  // 90th percentile on those profiles, see tests/hwdb/residual_test.cpp

constexpr std::string_view kDeepEp = "deepep";

// MXFP4 with the other width of activations: the two were 3 to 5 times apart on Blackwell.
constexpr double kOtherWidthError = 0.7;

// Rows whose tokens were dealt to the experts in turn; those of a mild power law, which hit about as many
// experts as tokens drawn evenly do; those of a steep one.
std::int64_t load_class(const MoeShape& e) { return e.dealt ? 0 : e.imbalance < 1.75 ? 1 : 2; }

// Rows are of full causal attention; a window or a selection that covers every key is the same thing.
bool is_dense(const AttentionShape& a) {
  const double length = a.decode ? a.kv_tokens / static_cast<double>(std::max<std::int64_t>(1, a.sequences))
                                 : static_cast<double>(a.cached + a.new_tokens);
  const bool windowed = a.window > 0 && length > static_cast<double>(a.window);
  const bool sparse = a.top_k > 0 && length > static_cast<double>(a.top_k);
  return !windowed && !sparse && a.compress_ratio == 0;
}

}  // namespace

std::string_view name_of(Basis b) {
  constexpr std::string_view names[] = {"measured", "interpolated", "transferred", "roofline"};
  return names[static_cast<std::size_t>(b)];
}

std::optional<OperatorTime> KernelTable::Index::answer(const std::optional<Reading>& reading,
                                                       const MethodErrors& errors, Method method,
                                                       bool preferred, Seconds limit) const {
  if (!reading) return std::nullopt;
  OperatorTime t;
  if (reading->exact && preferred) {
    t.time = std::max(limit, Seconds(reading->seconds));
    t.basis = Basis::kMeasured;
    // Half-width of a 90 % interval: 1.645 standard deviations.
    t.relative_error = reading->spread > 0 ? 1.645 * reading->spread : kRepeatError;
    return t;
  }
  if (method == Method::kShape && reading->distance > kFarOctaves) method = Method::kFar;
  double relative = errors[static_cast<std::size_t>(method)];
  if (!preferred) relative = std::hypot(relative, errors[static_cast<std::size_t>(Method::kEngine)]);
  double seconds = limit.value / std::exp(reading->log_utilisation);
  if (reading->high_seconds > 0) seconds = std::clamp(seconds, reading->low_seconds, reading->high_seconds);
  t.time = std::max(limit, Seconds(seconds));
  t.basis = Basis::kInterpolated;
  t.relative_error = relative;
  if (!reading->inside) t.relative_error *= kOutsideFactor;
  return t;
}

// The shape itself with the engine asked for. Else, whichever errs less on held-out rows: its neighbours, or
// another engine's row of it beside how the two engines differ on its neighbours. Else another engine's.
template <class Table, class Own, class Near>
std::optional<OperatorTime> KernelTable::Index::search(const Tiers<Table>& tiers, Seconds limit, Own&& own,
                                                       Near&& near) const {
  const auto pass = [&](auto&& read, Method method, bool preferred) -> std::optional<OperatorTime> {
    std::optional<OperatorTime> best;
    const std::string* first = nullptr;
    for (const auto& tier : tiers) {
      if (tier.preferred != preferred || (first && tier.engine != *first)) continue;
      const auto t = answer(read(tier), tier.error, method, preferred, limit);
      if (!t) continue;
      first = &tier.engine;
      if (!best || t->time < best->time) best = t;  // of an engine's kernels the fastest
    }
    return best;
  };
  const auto alone = [&](const Tier<Table>& t) {
    return near(t.table, static_cast<const Beside<Table>*>(nullptr));
  };
  const auto beside = [&](const Tier<Table>& t) -> std::optional<Reading> {
    const auto paired = t.beside ? near(t.table, t.beside.get()) : std::nullopt;
    if (!paired) return std::nullopt;
    return mixed(*paired, alone(t));
  };
  const auto exact = [&](const Tier<Table>& t) { return own(t.table); };
  if (const auto t = pass(exact, Method::kPoint, true)) return t;
  const auto paired = pass(beside, Method::kPaired, true), shape = pass(alone, Method::kShape, true);
  if (paired && (!shape || paired->relative_error <= shape->relative_error)) return paired;
  const auto other = shape && paired ? std::nullopt : pass(exact, Method::kPoint, false);
  if (shape && (!other || shape->relative_error <= other->relative_error)) return shape;
  return other ? other : pass(alone, Method::kShape, false);
}

std::optional<OperatorTime> KernelTable::Index::find_gemm(const GemmShape& g, Seconds limit) const {
  const TypeClass type =
      g.weight_is_activation ? type_class(g.activation) : type_class(g.weight, g.activation);
  const auto m = static_cast<double>(g.m);
  const auto found = search((g.batch == 1 ? gemm : batched)[static_cast<std::size_t>(type)], limit,
                            [&](const GemmTable& table) -> std::optional<Reading> {
                              const int shape = table.find_shape(g.n, g.k, g.batch);
                              if (shape == kNoShape) return std::nullopt;
                              return table.at(shape, m);
                            },
                            [&](const GemmTable& table, const Beside<GemmTable>* beside) {
                              return table.blend(g.n, g.k, g.batch, m, beside);
                            });
  return found || g.batch != 1 ? found : transfer_gemm(g, type, limit);
}

// Donors' geometric mean: each device's own quirks cancel.
std::optional<OperatorTime> KernelTable::Index::transfer_gemm(const GemmShape& g, TypeClass type,
                                                              Seconds limit) const {
  const auto m = static_cast<double>(g.m), n = static_cast<double>(g.n), k = static_cast<double>(g.k),
             batch = static_cast<double>(g.batch);
  double sum = 0, count = 0;
  for (const Donor& d : gemm_donors[static_cast<std::size_t>(type)]) {
    const auto above = d.table.log_above_model(g.n, g.k, g.batch, m);
    if (!above) continue;
    sum += std::log(d.model.time(m, n, k, batch)) + *above;
    count += 1;
  }
  if (count == 0) return std::nullopt;
  OperatorTime t;
  t.time = std::max(limit, Seconds(std::exp(sum / count)));
  t.basis = Basis::kTransferred;
  t.relative_error = transfer_error;
  return t;
}

std::optional<OperatorTime> KernelTable::Index::find_attention(const AttentionShape& a, Seconds limit) const {
  if (!is_dense(a) || a.sequences < 1 || (!a.mla && a.qk_dim != a.v_dim)) return std::nullopt;
  const MeasuredKind kind = attention_kind(a);
  const auto& tiers = attention[phase_of(kind)][static_cast<std::size_t>(type_class(a.activation))]
                               [static_cast<std::size_t>(type_class(a.kv))];
  const auto sequences = static_cast<double>(a.sequences);
  const double tokens = a.decode ? a.kv_tokens / sequences : static_cast<double>(a.new_tokens);
  AttentionTable::Heads heads{a.heads, a.mla ? 1 : a.kv_heads, a.mla ? kMlaDim : a.qk_dim,
                              a.decode ? a.new_tokens : a.cached};
  AttentionTable::Heads plain = heads;
  plain.cached = a.decode ? 1 : 0;
  const bool borrowed =
      plain.cached != heads.cached;  // rows of cached (prefill) or drafted (decode) tokens are rare
  // Speed of light of the plain row of this length.
  const auto plain_limit = [&](double length) {
    if (!borrowed) return limit.value;
    AttentionShape p = a;
    p.cached = 0;
    p.new_tokens = a.decode ? 1 : std::max<std::int64_t>(1, std::llround(length));
    Op op;
    op.shape = p;
    return speed_of_light(op, device, topology).value;
  };
  // Utilisation of plain rows stands for them, their work is this operator's own.
  const auto read_plain = [&](auto&& at) -> std::optional<Reading> {
    std::optional<Reading> reading = at(tokens);
    if (!reading || !borrowed) return reading;
    if (!a.decode) {
      const std::optional<Reading> whole = at(equal_work_length(a));
      const double w = whole_chunk_weight(tokens);
      if (whole) reading->log_utilisation += w * (whole->log_utilisation - reading->log_utilisation);
    }
    reading->exact = false;
    reading->low_seconds = 0;
    reading->high_seconds = INFINITY;
    return reading;
  };
  auto found = search(
      tiers, limit,
      [&](const AttentionTable& table) -> std::optional<Reading> {
        int layout = table.find_layout(heads);
        if (layout != kNoShape) return table.at(layout, sequences, tokens);
        layout = table.find_layout(plain);
        if (layout == kNoShape) return std::nullopt;
        return read_plain([&](double t) { return std::optional(table.at(layout, sequences, t)); });
      },
      [&](const AttentionTable& table, const Beside<AttentionTable>*) {
        return read_plain([&](double t) { return table.nearest(plain, sequences, t, plain_limit(t)); });
      });
  if (found && borrowed && found->basis != Basis::kMeasured)
    found->relative_error = std::hypot(found->relative_error, kBorrowedError);
  return found;
}

std::optional<OperatorTime> KernelTable::Index::find_moe(const MoeShape& e, Seconds limit) const {
  const TypeClass type = type_class(e.weight, e.activation);
  const auto found = find_moe(e, type, limit);
  if (type == TypeClass::kMxfp4 && e.activation == DType::kBf16 && device.has_fp4()) {
    // Engines quantise a bfloat16 model's activations where the device multiplies 8 by 4 bits faster.
    const auto narrow = find_moe(e, TypeClass::kMxfp4A8, limit);
    if (narrow && (!found || narrow->time < found->time)) return narrow;
  }
  if (found) return found;
  // MXFP4 weights: where only the other width of activations was timed.
  if (type != TypeClass::kMxfp4 && type != TypeClass::kMxfp4A8) return std::nullopt;
  auto t = find_moe(e, type == TypeClass::kMxfp4 ? TypeClass::kMxfp4A8 : TypeClass::kMxfp4, limit);
  if (t) t->basis = Basis::kInterpolated, t->relative_error = std::hypot(t->relative_error, kOtherWidthError);
  return t;
}

std::optional<OperatorTime> KernelTable::Index::find_moe(const MoeShape& e, TypeClass type,
                                                         Seconds limit) const {
  const MoeTable::Key key = {e.hidden,        e.inter,         e.top_k,      e.num_experts,
                             e.local_experts, e.gated ? 1 : 0, load_class(e)};
  const auto tokens = static_cast<double>(e.tokens);
  return search(
      moe[static_cast<std::size_t>(type)], limit,
      [&](const MoeTable& table) -> std::optional<Reading> {
        const int shape = table.find_shape(key);
        if (shape == kNoShape) return std::nullopt;
        Reading reading = table.at(shape, tokens);
        if (table.shapes()[static_cast<std::size_t>(shape)].key != key) reading.exact = false;
        return reading;
      },
      [&](const MoeTable& table, const Beside<MoeTable>* beside) {
        return table.nearest(key, tokens, limit.value, beside);
      });
}

// The engine's own kernels in the range of sizes that they were timed at, else the communication library's:
// where its table has a size, what the engine chose is in it.
std::optional<OperatorTime> KernelTable::Index::find_collective(const CollectiveShape& c,
                                                                Seconds limit) const {
  if (c.ranks < 2 || c.message_bytes <= 0) return std::nullopt;
  const int ranks_per_node = c.ranks <= c.ranks_per_node ? 0 : c.ranks_per_node;
  const bool library_asked =
      requested.find("ccl") != std::string::npos;  // "nccl 2.29": its own times, no engine's
  const auto& tiers = collective[static_cast<std::size_t>(c.kind)];
  // DeepEP's kernels were timed by themselves; they answer only whom they are asked for. Its dispatch sends 8
  // bits, its combine 16.
  if (requested.starts_with(kDeepEp)) {
    std::optional<OperatorTime> best;
    for (const auto& tier : tiers) {
      if (!tier.engine.starts_with(kDeepEp) ||
          (tier.kernel.find("dispatch") != std::string::npos) != (bytes_of(c.element) < 2))
        continue;
      const CollectiveTable::Ranks* group = tier.table.find(c.ranks, ranks_per_node);
      if (!group) continue;
      auto t = answer(group->at(c.message_bytes, limit.value), tier.error, Method::kPoint, true, limit);
      // A row is told by its bytes alone, so that of another hidden size, number of experts or choices comes
      // back too: it errs like what lies between rows.
      t->relative_error = std::max(t->relative_error, tier.error[static_cast<std::size_t>(Method::kPoint)]);
      if (!best || t->time < best->time) best = t;
    }
    if (best) return best;
  }
  const auto pass = [&](bool library, bool preferred, bool inside) -> std::optional<OperatorTime> {
    for (const auto& tier : tiers) {
      if (tier.engine.starts_with(kDeepEp)) continue;
      if ((tier.engine.find("ccl") != std::string::npos) != library || tier.preferred != preferred) continue;
      const CollectiveTable::Ranks* group = tier.table.find(c.ranks, ranks_per_node);
      if (!group) continue;
      const Reading reading = group->at(c.message_bytes, limit.value);
      if (inside && !reading.inside && !reading.exact) continue;
      return answer(reading, tier.error, Method::kPoint, true, limit);
    }
    return std::nullopt;
  };
  if (!library_asked)
    if (const auto t = pass(false, true, true)) return t;
  if (const auto t = pass(true, true, false)) return t;
  if (const auto t = pass(true, false, false)) return t;
  return pass(false, true, false);
}

// Rows of one kernel: of this width, else of the next narrower and wider at equal work; the engine asked for
// first.
std::optional<OperatorTime> KernelTable::Index::find_rows(const Tiers<RowTable>& tiers,
                                                          const std::string& kernel, double width, double key,
                                                          Seconds limit) const {
  for (const bool preferred : {true, false})
    for (const bool exact : {true, false})
      for (const auto& tier : tiers) {
        if (tier.kernel != kernel || tier.preferred != preferred) continue;
        const auto reading = exact ? tier.table.own(width, key) : tier.table.near(width, key, limit.value);
        if (const auto t =
                answer(reading, tier.error, exact ? Method::kPoint : Method::kShape, preferred, limit))
          return t;
      }
  return std::nullopt;
}

// The operator's own kernel where it was timed, else what was timed of elementwise operators in general.
std::optional<OperatorTime> KernelTable::Index::find_elementwise(const Op& op, Seconds limit) const {
  const auto& e = std::get<ElementwiseShape>(op.shape);
  const auto count = static_cast<double>(e.rows);
  std::string kernel(op.name);
  if (op.name.ends_with("_norm") && op.name != "qk_norm") {
    kernel = "norm";
  }
  if (const auto t = find_rows(elementwise, kernel, e.bytes_per_row, count, limit)) return t;
  return find_rows(elementwise, "", e.bytes_per_row, count, limit);
}

std::optional<OperatorTime> KernelTable::Index::find_recurrence(const RecurrentShape& r,
                                                                Seconds limit) const {
  if (r.form == Recurrence::kScan || r.sequences < 1 || r.tokens < 1) return std::nullopt;
  const AttentionTable::Heads layout = recurrent_layout(r);
  const auto sequences = static_cast<double>(r.sequences);
  const double tokens = static_cast<double>(r.tokens) / sequences;
  return search(
      recurrent[r.form == Recurrence::kConvolution ? 1 : 0][r.decode ? 1 : 0], limit,
      [&](const AttentionTable& table) -> std::optional<Reading> {
        const int at = table.find_layout(layout);
        if (at == kNoShape) return std::nullopt;
        return table.at(at, sequences, tokens);
      },
      [&](const AttentionTable& table, const Beside<AttentionTable>*) {
        return table.nearest(layout, sequences, tokens, limit.value);
      });
}

namespace {

// Few rows were timed; an amount of work or a number of heads beyond these is another regime.
constexpr double kFarthestWork = 8, kFarthestWidth = 2;

bool covers(const RowTable& table, const RowPlace& place) {
  for (const auto& w : table.widths()) {
    const double factor = w.width / place.width, key = place.key / factor;
    if (factor <= kFarthestWidth && factor * kFarthestWidth >= 1 && key * kFarthestWork >= w.curve.key(0) &&
        key <= kFarthestWork * w.curve.key(w.curve.size() - 1))
      return true;
  }
  return false;
}

}  // namespace

std::optional<OperatorTime> KernelTable::Index::find_sparse(const AttentionShape& a, Seconds limit) const {
  const RowPlace place = sparse_place(a);
  const auto& tiers = sparse[a.decode ? 1 : 0];
  for (const auto& tier : tiers)
    if (tier.kernel == place.kernel && covers(tier.table, place))
      return find_rows(tiers, place.kernel, place.width, place.key, limit);
  return std::nullopt;
}

std::optional<OperatorTime> KernelTable::Index::find_indexer(const IndexerShape& i, Seconds limit) const {
  const RowPlace place = indexer_place(i);
  const auto& tiers = indexer[is_decode(i) ? 1 : 0];
  for (const auto& tier : tiers)
    if (tier.kernel == place.kernel && covers(tier.table, place))
      return find_rows(tiers, place.kernel, place.width, place.key, limit);
  return std::nullopt;
}

std::optional<OperatorTime> KernelTable::Index::find(const Op& op) const {
  const Seconds limit = speed_of_light(op, device, topology);
  if (!(limit.value > 0)) return std::nullopt;
  if (const auto* g = std::get_if<GemmShape>(&op.shape)) return find_gemm(*g, limit);
  if (const auto* a = std::get_if<AttentionShape>(&op.shape)) {
    if (a->mla && a->top_k > 0)
      if (const auto t = find_sparse(*a, limit)) return t;
    return find_attention(*a, limit);
  }
  if (const auto* e = std::get_if<MoeShape>(&op.shape)) return find_moe(*e, limit);
  if (const auto* c = std::get_if<CollectiveShape>(&op.shape)) return find_collective(*c, limit);
  if (const auto* r = std::get_if<RecurrentShape>(&op.shape)) return find_recurrence(*r, limit);
  if (const auto* i = std::get_if<IndexerShape>(&op.shape)) return find_indexer(*i, limit);
  if (std::holds_alternative<ElementwiseShape>(op.shape)) return find_elementwise(op, limit);
  if (const auto* c = std::get_if<CopyShape>(&op.shape); c && !c->from_storage)
    return find_rows(elementwise, std::string(kCopyKernel), kCopyRowBytes, c->bytes / kCopyRowBytes, limit);
  return std::nullopt;
}

// As between any two devices of one generation; few were measured with the same engine.
constexpr double kLentError = 0.35;

struct KernelTable::Lender {
  Device device, own_device;
  Topology topology, own_topology;
  KernelTable table;
};

KernelTable::KernelTable() = default;
KernelTable::KernelTable(std::unique_ptr<Index> index) : index_(std::move(index)) {}
KernelTable::~KernelTable() = default;
KernelTable::KernelTable(KernelTable&&) noexcept = default;
KernelTable& KernelTable::operator=(KernelTable&&) noexcept = default;

std::optional<OperatorTime> KernelTable::find(const Op& op) const {
  if (index_)
    if (const auto own = index_->find(op)) return own;
  if (!lender_) return std::nullopt;
  auto lent = lender_->table.find(op);
  if (!lent) return std::nullopt;
  const Seconds there = speed_of_light(op, lender_->device, lender_->topology),
                here = speed_of_light(op, lender_->own_device, lender_->own_topology);
  if (!(there.value > 0) || !(here.value > 0)) return std::nullopt;
  lent->time = std::max(here, Seconds(lent->time.value * (here / there)));
  lent->basis = Basis::kTransferred;
  lent->relative_error = std::hypot(lent->relative_error, kLentError);
  return lent;
}

void KernelTable::borrow(const Device& device, const Topology& topology, const Device& other_device,
                         const Topology& other_topology, KernelTable other) {
  lender_ =
      std::make_unique<Lender>(Lender{other_device, device, other_topology, topology, std::move(other)});
}
std::int64_t KernelTable::rows() const { return index_ ? index_->rows : 0; }
std::string KernelTable::engine() const { return index_ ? index_->engine : std::string(); }

}  // namespace foretoken
