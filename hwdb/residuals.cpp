// Held-out errors of a table: what its lookup says of rows and shapes that it was not shown.
#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>

#include "base/quantiles.h"
#include "hwdb/kernel_index.h"

namespace foretoken {
namespace {

constexpr std::size_t kFewestRows = 20;    // for a 90th percentile
constexpr std::size_t kMostShapes = 1000;  // of a table that are held out in turn, evenly spread

// Measured over predicted, as the interval stands around the prediction. No prediction is below the speed of
// light, so no utilisation above one.
double error_of(double log_actual, double log_predicted) {
  return std::abs(std::exp(std::min(0.0, log_predicted) - log_actual) - 1);
}

struct Errors {
  std::array<std::vector<double>, kMethods> by_method;

  void add(Method m, double log_actual, double log_predicted) {
    by_method[static_cast<std::size_t>(m)].push_back(error_of(log_actual, log_predicted));
  }
  void add_shape(double log_actual, const Reading& r) {
    add(r.distance > kFarOctaves ? Method::kFar : Method::kShape, log_actual, r.log_utilisation);
  }
  void add_curve(const Curve& curve) {
    for (std::size_t i = 1; i + 1 < curve.size(); ++i)
      add(Method::kPoint, curve.log_utilisation(i), curve.without(i).log_utilisation);
  }
  void add(const Errors& e) {
    for (std::size_t m = 0; m < kMethods; ++m)
      by_method[m].insert(by_method[m].end(), e.by_method[m].begin(), e.by_method[m].end());
  }
  void report(const Residual& of, std::vector<Residual>& out) {
    for (std::size_t m = 0; m < kMethods; ++m) {
      auto& all = by_method[m];
      if (all.size() < kFewestRows) continue;
      std::sort(all.begin(), all.end());
      Residual r = of;
      r.method = name_of(static_cast<Method>(m));
      r.samples = static_cast<std::int64_t>(all.size());
      r.median = linear_quantile(all, 0.5), r.p90 = linear_quantile(all, 0.9);
      out.push_back(std::move(r));
    }
  }
};

Errors errors_of(const KernelTable::Index::Tier<GemmTable>& tier) {
  Errors e;
  const GemmTable& table = tier.table;
  const std::size_t stride = 1 + table.shapes().size() / kMostShapes;
  for (std::size_t i = 0; i < table.shapes().size(); i += stride) {
    const auto& s = table.shapes()[i];
    const int own = static_cast<int>(i);
    e.add_curve(s.curve);
    const auto near = table.neighbours(s.n, s.k, s.batch, own);
    const bool twin = tier.beside && tier.beside->twin[i] != kNoShape;
    const auto common = twin ? table.neighbours(s.n, s.k, s.batch, own, tier.beside.get()) : near;
    for (std::size_t p = 0; p < s.curve.size(); ++p) {
      const double m = s.curve.key(p), actual = s.curve.log_utilisation(p);
      const auto alone = table.blend(near, m);
      if (alone) e.add_shape(actual, *alone);
      if (!twin) continue;
      e.add(Method::kEngine, actual, tier.beside->table->at(tier.beside->twin[i], m).log_utilisation);
      if (const auto r = table.blend(common, m, tier.beside.get()))
        e.add(Method::kPaired, actual, mixed(*r, alone).log_utilisation);
    }
  }
  return e;
}

Errors errors_of(const KernelTable::Index::Tier<MoeTable>& tier) {
  Errors e;
  const MoeTable& table = tier.table;
  for (std::size_t i = 0; i < table.shapes().size(); ++i) {
    const auto& s = table.shapes()[i];
    const int own = static_cast<int>(i);
    e.add_curve(s.curve);
    if (s.untuned) continue;
    const auto near = table.neighbours(s.key, own);
    const bool twin = tier.beside && tier.beside->twin[i] != kNoShape;
    const auto common = twin ? table.neighbours(s.key, own, tier.beside.get()) : near;
    for (std::size_t p = 0; p < s.curve.size(); ++p) {
      const double tokens = s.curve.key(p), actual = s.curve.log_utilisation(p);
      const double limit = s.curve.seconds(p) * std::exp(actual);
      const auto alone = table.nearest(near, tokens, limit);
      if (alone) e.add_shape(actual, *alone);
      if (!twin) continue;
      e.add(Method::kEngine, actual, tier.beside->table->at(tier.beside->twin[i], tokens).log_utilisation);
      if (const auto r = table.nearest(common, tokens, limit, tier.beside.get()))
        e.add(Method::kPaired, actual, mixed(*r, alone).log_utilisation);
    }
  }
  return e;
}

Errors errors_of(const KernelTable::Index::Tier<AttentionTable>& tier) {
  Errors e;
  const AttentionTable& table = tier.table;
  for (std::size_t i = 0; i < table.layouts().size(); ++i) {
    const auto& l = table.layouts()[i];
    for (const auto& [sequences, curve] : l.by_sequences) {
      e.add_curve(curve);
      for (std::size_t p = 0; p < curve.size(); ++p) {
        const double tokens = curve.key(p), actual = curve.log_utilisation(p);
        const double limit = curve.seconds(p) * std::exp(actual);
        const auto near = table.neighbours(l.heads, sequences, tokens, static_cast<int>(i));
        if (const auto r = table.nearest(near, tokens, limit)) e.add_shape(actual, *r);
      }
    }
  }
  return e;
}

Errors errors_of(const KernelTable::Index::Tier<CollectiveTable>& tier) {
  Errors e;
  for (const auto& group : tier.table.groups())
    for (std::size_t i = 1; i + 1 < group.curve.size(); ++i)
      e.add(Method::kPoint, group.curve.log_utilisation(i),
            group.curve.without(i, group.trend).log_utilisation);
  return e;
}

Errors errors_of(const KernelTable::Index::Tier<RowTable>& tier) {
  Errors e;
  const auto& widths = tier.table.widths();
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const auto& w = widths[i];
    e.add_curve(w.curve);
    for (std::size_t p = 0; p < w.curve.size(); ++p) {
      const double actual = w.curve.log_utilisation(p);
      const double limit = w.curve.seconds(p) * std::exp(actual);
      if (const auto r = tier.table.near(w.width, w.curve.key(p), limit, static_cast<int>(i)))
        e.add_shape(actual, *r);
    }
  }
  return e;
}

}  // namespace

std::vector<double> KernelTable::Index::transfer_residuals(const Index& measured) const {
  constexpr std::size_t kStride = 7;  // enough rows of each device for a percentile
  std::vector<double> errors;
  const auto& tiers = measured.gemm[static_cast<std::size_t>(TypeClass::k16)];
  if (tiers.empty()) return errors;
  std::size_t row = 0;
  for (const auto& s : tiers.front().table.shapes())
    for (std::size_t i = 0; i < s.curve.size(); ++i) {
      if (row++ % kStride != 0) continue;
      Op op;
      op.shape = GemmShape{.m = std::llround(s.curve.key(i)), .n = s.n, .k = s.k, .batch = s.batch};
      if (const auto t = find(op)) errors.push_back(std::abs(s.curve.seconds(i) / t->time.value - 1));
    }
  return errors;
}

std::vector<Residual> KernelTable::Index::residuals(bool only_of_user) {
  std::vector<Residual> out;
  std::map<std::pair<MeasuredKind, TypeClass>, Errors> pooled;
  for_each_kind([&](MeasuredKind kind, TypeClass type, TypeClass kv, auto& tiers) {
    const bool attention_kind = kind >= MeasuredKind::kPrefillAttention && kind <= MeasuredKind::kMlaDecode;
    for (const auto& tier : tiers) {
      if (only_of_user && !tier.of_user) continue;
      Errors e = errors_of(tier);
      pooled[{kind, type}].add(e);
      Residual r;
      r.device = device.name, r.kind = name_of(kind), r.engine = tier.engine, r.kernel = tier.kernel;
      r.dtype = name_of(type);
      if (attention_kind) r.kv_dtype = name_of(kv);
      e.report(r, out);
    }
  });
  if (only_of_user) pooled.clear();
  for (auto& [key, e] : pooled) {
    Residual r;
    r.device = device.name, r.kind = name_of(key.first), r.dtype = name_of(key.second);
    e.report(r, out);
  }
  // Those of all engines first: learn() lets the later, narrower ones stand.
  std::stable_sort(out.begin(), out.end(),
                   [](const Residual& a, const Residual& b) { return a.engine.empty() > b.engine.empty(); });
  return out;
}

}  // namespace foretoken
