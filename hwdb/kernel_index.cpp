#include "hwdb/kernel_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/text.h"

namespace foretoken {
namespace {

std::size_t at(TypeClass t) { return static_cast<std::size_t>(t); }

// "vllm 0.19.0", "vllm-0.19" -> {"vllm", 0.019000}; digits beyond the third part are ignored.
std::pair<std::string, double> family_and_version(const std::string& engine) {
  const std::string name = lower(trim(engine));
  const auto cut = name.find_first_of(" -");
  std::string family = name.substr(0, cut);
  if (family == "tensorrt" || family == "tensorrt_llm") family = "trtllm";
  double version = 0, unit = 1;
  if (cut != std::string::npos) {
    double part = 0;
    int parts = 0;
    for (std::size_t i = name.find_first_of("0123456789", cut); i <= name.size() && parts < 3; ++i) {
      if (i < name.size() && name[i] >= '0' && name[i] <= '9') {
        part = part * 10 + (name[i] - '0');
        continue;
      }
      version += part * unit;
      unit /= 1000, part = 0, ++parts;
      if (i >= name.size() || name[i] != '.') break;
    }
  }
  return {family, version};
}

constexpr const char* kBatched = "batched";

std::string fit_key(const std::string& device, TypeClass type) {
  return fmt::format("gemm model {} {} ", device, name_of(type));
}

template <class Table>
Table& tier(KernelTable::Index::Tiers<Table>& tiers, const std::string& engine, bool preferred, bool of_user,
            const std::string& kernel = {}) {
  for (auto& t : tiers)
    if (t.engine == engine && t.of_user == of_user && t.kernel == kernel) return t.table;
  tiers.push_back({engine, preferred, of_user, kernel});
  return tiers.back().table;
}

// Of the other engines the one with the most shapes, if it shares any.
template <class Table>
void pair_up(KernelTable::Index::Tiers<Table>& tiers) {
  // Attention: its own engine's neighbours say more of a layout.
  if constexpr (std::is_same_v<Table, GemmTable> || std::is_same_v<Table, MoeTable>)
    for (auto& t : tiers)
      for (auto& other : tiers) {
        if (other.engine == t.engine || (t.beside && other.table.size() <= t.beside->table->size())) continue;
        auto beside = std::make_unique<Beside<Table>>(t.table, other.table);
        if (beside->common > 0) t.beside = std::move(beside);
      }
}

}  // namespace

RowPlace sparse_place(const AttentionShape& a) {
  const double heads = static_cast<double>(a.heads);
  return {fmt::format("top {} {}-{} {}", a.top_k, a.qk_dim, a.v_dim, name_of(a.kv)), heads,
          attention_pairs(a)};
}

// Decoding scores every key once for each of its few queries; a prompt's queries share the keys.
bool is_decode(const IndexerShape& i) {
  constexpr double kMostDrafted = 16;
  return i.pairs <= kMostDrafted * i.keys;
}

RowPlace indexer_place(const IndexerShape& i) {
  const std::string kernel = fmt::format("{}x{}", i.heads, i.head_dim);
  if (is_decode(i)) return {kernel, std::max(1.0, i.pairs / std::max(1.0, i.keys)), i.keys};
  return {kernel, 1, i.pairs};
}

AttentionTable::Heads recurrent_layout(const RecurrentShape& r) {
  return {r.heads, r.form == Recurrence::kConvolution ? r.heads : r.k_heads, r.k_dim * r.v_dim, 0};
}

TypeClass type_class(DType t) {
  switch (t) {
    case DType::kF32:
      return TypeClass::k32;
    case DType::kF16:
    case DType::kBf16:
      return TypeClass::k16;
    case DType::kFp8:
      return TypeClass::kFp8;
    case DType::kInt8:
      return TypeClass::kInt8;
    case DType::kFp4:
      return TypeClass::kNvfp4;
  }
  return TypeClass::k16;
}

TypeClass type_class(WeightFormat f, DType activation) {
  switch (f) {
    case WeightFormat::kPlain:
      return type_class(activation);
    case WeightFormat::kFp8:
      return TypeClass::kFp8;
    case WeightFormat::kFp8Block:
      return TypeClass::kFp8Block;
    case WeightFormat::kInt8:
      return TypeClass::kInt8;
    case WeightFormat::kInt4Wo:
      return TypeClass::kInt4Wo;
    case WeightFormat::kNvfp4:
      return TypeClass::kNvfp4;
    case WeightFormat::kMxfp4:
      return bytes_of(activation) < 2 ? TypeClass::kMxfp4A8 : TypeClass::kMxfp4;
  }
  return TypeClass::k16;
}

std::string_view name_of(TypeClass t) {
  constexpr std::string_view names[] = {"float32", "bfloat16", "fp8",   "fp8_block", "int8",
                                        "int4_wo", "nvfp4",    "mxfp4", "mxfp4_a8"};
  return names[at(t)];
}

std::string_view name_of(Method m) {
  constexpr std::string_view names[] = {"point", "shape", "engine", "far", "paired"};
  return names[static_cast<std::size_t>(m)];
}

EngineRank engine_rank(const std::string& engine, const std::string& requested, bool of_user) {
  const auto [family, version] = family_and_version(engine);
  if (!requested.empty()) {
    const auto [wanted, wanted_version] = family_and_version(requested);
    if (family == wanted)
      return {of_user ? 0 : 1, wanted_version > 0 ? std::abs(version - wanted_version) : -version};
  }
  int rank = 6;
  if (of_user)
    rank = 2;
  else if (family == "vllm")
    rank = 3;
  else if (family == "trtllm")
    rank = 4;
  else if (family == "sglang")
    rank = 5;
  return {rank, -version};
}

void KernelTable::Index::add(const MeasurementSeries& series, bool preferred, bool of_user,
                             const std::function<void(const PointVisitor&)>& points) {
  if (is_module(series.kind)) return;  // its parts have rows of their own
  // Types and shapes that the program has no operator for stay in the database only.
  bool known = true, plain = series.kind != MeasuredKind::kGemm;
  points([&](const MeasuredPoint& p) {
    if (!known) return;
    const auto op = op_of(series, p);
    if (!op) {
      known = false;
      return;
    }
    const double limit = speed_of_light(*op, device, topology).value;
    if (!(limit > 0)) return;
    ++rows;
    const auto& s = p.shape;
    switch (series.kind) {
      case MeasuredKind::kGemm: {
        const auto& g = std::get<GemmShape>(op->shape);
        const std::size_t type = at(type_class(g.weight, g.activation));
        plain |= g.batch == 1;
        GemmTable& table = g.batch == 1 ? tier(gemm[type], series.engine, preferred, of_user)
                                        : tier(batched[type], series.engine, preferred, of_user, kBatched);
        if (!table.model().ready()) table.set_model(GemmModel(device, g));
        table.add(g.n, g.k, g.batch, g.m, p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kPrefillAttention:
      case MeasuredKind::kDecodeAttention:
      case MeasuredKind::kMlaPrefill:
      case MeasuredKind::kMlaDecode: {
        const auto& a = std::get<AttentionShape>(op->shape);
        const auto phase =
            static_cast<std::size_t>(series.kind) - static_cast<std::size_t>(MeasuredKind::kPrefillAttention);
        const int grid = shape_identity_columns(series.kind);
        AttentionTable& table = tier(attention[phase][at(type_class(a.activation))][at(type_class(a.kv))],
                                     series.engine, preferred, of_user);
        table.set_decode(a.decode);
        // vLLM runs FlashAttention-2 before Hopper.
        table.set_moves_queries(a.decode && family_and_version(series.engine).first == "vllm" &&
                                device.vendor == "NVIDIA" && device.generation.starts_with("8."));
        table.add({a.heads, a.mla ? 1 : a.kv_heads, a.mla ? kMlaDim : a.qk_dim, s[grid - 1]}, s[grid],
                  s[grid + 1], p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kMoe: {
        const auto& e = std::get<MoeShape>(op->shape);
        const std::int64_t load = series.distribution == "power_law_1.2" ? 2 : e.imbalance > 1 ? 1 : 0;
        tier(moe[at(type_class(e.weight, e.activation))], series.engine, preferred, of_user, series.kernel)
            .add({e.hidden, e.inter, e.top_k, e.num_experts, e.local_experts, e.gated ? 1 : 0, load},
                 e.tokens, p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kElementwise:
        tier(elementwise, series.engine, preferred, of_user, series.kernel)
            .add(static_cast<double>(s[0]), static_cast<double>(s[2]), p.seconds, p.spread, limit);
        break;
      case MeasuredKind::kRecurrencePrefill:
      case MeasuredKind::kRecurrenceDecode:
      case MeasuredKind::kConvolutionPrefill:
      case MeasuredKind::kConvolutionDecode: {
        const auto& r = std::get<RecurrentShape>(op->shape);
        auto& tiers = recurrent[r.form == Recurrence::kConvolution ? 1 : 0][r.decode ? 1 : 0];
        AttentionTable& table = tier(tiers, series.engine, preferred, of_user, series.kernel);
        table.set_decode(r.decode);
        table.add(recurrent_layout(r), r.sequences, r.tokens / r.sequences, p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kSparsePrefill:
      case MeasuredKind::kSparseDecode: {
        const auto& a = std::get<AttentionShape>(op->shape);
        const RowPlace place = sparse_place(a);
        tier(sparse[a.decode ? 1 : 0], series.engine, preferred, of_user, place.kernel)
            .add(place.width, place.key, p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kIndexerPrefill:
      case MeasuredKind::kIndexerDecode: {
        const auto& i = std::get<IndexerShape>(op->shape);
        const RowPlace place = indexer_place(i);
        tier(indexer[is_decode(i) ? 1 : 0], series.engine, preferred, of_user, place.kernel)
            .add(place.width, place.key, p.seconds, p.spread, limit);
        break;
      }
      case MeasuredKind::kExpertExchange: {
        const auto& c = std::get<CollectiveShape>(op->shape);
        tier(collective[static_cast<std::size_t>(c.kind)], series.engine, preferred, of_user, series.kernel)
            .add(c.ranks, c.ranks <= c.ranks_per_node ? 0 : c.ranks_per_node, c.message_bytes, p.seconds,
                 p.spread, limit);
        break;
      }
      default: {
        const auto& c = std::get<CollectiveShape>(op->shape);
        tier(collective[static_cast<std::size_t>(c.kind)], series.engine, preferred, of_user)
            .add(c.ranks, c.ranks <= c.ranks_per_node ? 0 : c.ranks_per_node, c.message_bytes, p.seconds,
                 p.spread, limit);
        break;
      }
    }
  });
  if (known && plain && (engine.empty() || (series.kind == MeasuredKind::kGemm && gemm_engine_.empty()))) {
    engine = series.engine;
    if (series.kind == MeasuredKind::kGemm) gemm_engine_ = series.engine;
  }
}

void KernelTable::Index::finish() {
  std::string key;  // of a GEMM table's model
  const auto finish_table = [&](auto& t) {
    if constexpr (std::is_same_v<std::decay_t<decltype(t.table)>, GemmTable>) {
      const std::string text = fitted && !t.of_user ? fitted(key + t.kernel + t.engine) : std::string();
      GemmModel::Parameters known{};
      const auto parts = text.empty() ? std::vector<std::string>() : split(text, ' ');
      for (std::size_t i = 0; i < known.size() && i < parts.size(); ++i) known[i] = std::stod(parts[i]);
      return t.table.finish(parts.size() == known.size() ? &known : nullptr);
    } else {
      t.table.finish();
    }
  };
  const auto each = [&](auto& tiers) {
    for (auto& t : tiers) {
      finish_table(t);
      // One element type may be measured with another engine than the rest: the first that has it leads.
      const bool same = family_and_version(t.engine).first == family_and_version(tiers.front().engine).first;
      t.preferred = t.preferred && (t.of_user || same || tiers.front().of_user);
    }
    pair_up(tiers);
  };
  for (std::size_t t = 0; t < kTypeClasses; ++t) {
    key = fit_key(device.name, static_cast<TypeClass>(t));
    each(gemm[t]);
    each(batched[t]);
  }
  for (auto& phase : attention)
    for (auto& type : phase)
      for (auto& t : type) each(t);
  for (auto& t : moe) each(t);
  for (auto& t : collective) each(t);
  each(elementwise);
  for (auto* by_phase : {&sparse, &indexer})
    for (auto& t : *by_phase) each(t);
  for (auto& form : recurrent)
    for (auto& t : form) each(t);
}

std::vector<std::pair<std::string, std::string>> KernelTable::Index::fits() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (std::size_t t = 0; t < kTypeClasses; ++t)
    for (const auto* tiers : {&gemm[t], &batched[t]})
      for (const auto& tier : *tiers) {
        std::string text;
        for (const double p : tier.table.model().parameters())
          text += fmt::format("{}{}", text.empty() ? "" : " ", p);
        all.emplace_back(fit_key(device.name, static_cast<TypeClass>(t)) + tier.kernel + tier.engine, text);
      }
  return all;
}

void KernelTable::Index::borrow(const Index& donor) {
  constexpr GemmShape like = {.m = 1, .n = 1, .k = 1};
  const auto type = at(TypeClass::k16);
  if (!gemm[type].empty() || donor.gemm[type].empty()) return;
  const std::string& leading = donor.gemm[type].front().engine;
  const Tier<GemmTable>* most = nullptr;  // of the versions of its engine the one with the most shapes
  for (const auto& t : donor.gemm[type])
    if (family_and_version(t.engine).first == family_and_version(leading).first &&
        (!most || t.table.size() > most->table.size()))
      most = &t;
  const GemmTable& table = most->table;
  Donor d{GemmModel(device, like), table};
  if (!d.model.ready() || device.peak(DType::kBf16).value <= 0) return;
  if (device.architecture == donor.device.architecture)
    d.model.borrow(table.model());
  else
    d.model.set(table.model().parameters());
  gemm_donors[type].push_back(std::move(d));
}

void KernelTable::Index::learn(const std::vector<Residual>& residuals) {
  for (const Residual& r : residuals) {
    const auto kind = measured_kind_from_name(r.kind);
    std::size_t method = 0;
    while (method < kMethods && name_of(static_cast<Method>(method)) != r.method) ++method;
    if (!kind || method == kMethods) continue;
    for_each_kind([&](MeasuredKind k, TypeClass type, TypeClass kv, auto& tiers) {
      if (k != *kind || name_of(type) != r.dtype || (!r.kv_dtype.empty() && name_of(kv) != r.kv_dtype))
        return;
      // Those of an engine come after those of all, which have no engine's name.
      for (auto& t : tiers)
        if (r.engine.empty() || (r.engine == t.engine && r.kernel == t.kernel)) t.error[method] = r.p90;
    });
  }
}

}  // namespace foretoken
