// Held-out errors of a table: what its lookup says of rows and shapes that it was not shown.
#include <algorithm>
#include <cmath>

#include "base/quantiles.h"
#include "hwdb/kernel_index.h"

namespace foretoken {
namespace {

// No prediction is below the speed of light, so no utilisation above one.
double error_of(double log_actual, double log_predicted) {
  return std::abs(std::exp(log_actual - std::min(0.0, log_predicted)) - 1);
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
  void report(MeasuredKind kind, TypeClass type, const std::string& device, std::vector<Residual>& out) {
    for (std::size_t m = 0; m < kMethods; ++m) {
      auto& all = by_method[m];
      if (all.size() < 20) continue;  // too few for a 90th percentile
      std::sort(all.begin(), all.end());
      out.push_back({device, std::string(name_of(kind)), std::string(name_of(type)),
                     std::string(name_of(static_cast<Method>(m))), static_cast<std::int64_t>(all.size()),
                     linear_quantile(all, 0.5), linear_quantile(all, 0.9)});
    }
  }
};

}  // namespace

std::vector<Residual> KernelTable::Index::residuals() const {
  std::vector<Residual> out;
  for (std::size_t t = 0; t < kTypeClasses; ++t) {
    const auto type = static_cast<TypeClass>(t);
    Errors e;
    if (!gemm[t].empty()) {
      const GemmTable& first = gemm[t].front().table;
      for (std::size_t i = 0; i < first.shapes().size(); ++i) {
        const auto& s = first.shapes()[i];
        e.add_curve(s.curve);
        for (std::size_t p = 0; p < s.curve.size(); ++p) {
          const double m = s.curve.key(p), actual = s.curve.log_utilisation(p);
          if (const auto r = first.blend(s.n, s.k, s.batch, m, static_cast<int>(i))) e.add_shape(actual, *r);
          if (gemm[t].size() < 2) continue;
          const GemmTable& other = gemm[t][1].table;
          if (const int shape = other.find_shape(s.n, s.k, s.batch); shape != kNoShape)
            e.add(Method::kEngine, actual, other.at(shape, m).log_utilisation);
        }
      }
    }
    e.report(MeasuredKind::kGemm, type, device.name, out);

    Errors moe_errors;
    if (!moe[t].empty()) {
      const MoeTable& first = moe[t].front().table;
      for (std::size_t i = 0; i < first.shapes().size(); ++i) {
        const auto& s = first.shapes()[i];
        moe_errors.add_curve(s.curve);
        for (std::size_t p = 0; p < s.curve.size(); ++p) {
          const double tokens = s.curve.key(p), actual = s.curve.log_utilisation(p);
          if (const auto r =
                  first.nearest(s.key, tokens, s.curve.seconds(p) * std::exp(actual), static_cast<int>(i)))
            moe_errors.add_shape(actual, *r);
          if (moe[t].size() < 2) continue;
          const MoeTable& other = moe[t][1].table;
          if (const int shape = other.find_shape(s.key); shape != kNoShape)
            moe_errors.add(Method::kEngine, actual, other.at(shape, tokens).log_utilisation);
        }
      }
    }
    moe_errors.report(MeasuredKind::kMoe, type, device.name, out);

    for (std::size_t phase = 0; phase < attention.size(); ++phase) {
      Errors a;
      for (const auto& tiers : attention[phase][t]) {  // by KV type: one error for all
        if (tiers.empty()) continue;
        const AttentionTable& first = tiers.front().table;
        for (std::size_t i = 0; i < first.layouts().size(); ++i) {
          const auto& l = first.layouts()[i];
          for (const auto& [sequences, curve] : l.by_sequences) {
            a.add_curve(curve);
            for (std::size_t p = 0; p < curve.size(); ++p) {
              const double tokens = curve.key(p), actual = curve.log_utilisation(p);
              if (const auto r = first.nearest(l.heads, sequences, tokens,
                                               curve.seconds(p) * std::exp(actual), static_cast<int>(i)))
                a.add_shape(actual, *r);
              if (tiers.size() < 2) continue;
              const AttentionTable& other = tiers[1].table;
              if (const int layout = other.find_layout(l.heads); layout != kNoShape)
                a.add(Method::kEngine, actual, other.at(layout, sequences, tokens).log_utilisation);
            }
          }
        }
      }
      const auto kind =
          static_cast<MeasuredKind>(phase + static_cast<std::size_t>(MeasuredKind::kPrefillAttention));
      a.report(kind, type, device.name, out);
    }
  }
  for (std::size_t c = 0; c < collective.size(); ++c) {
    Errors e;
    for (const auto& tier : collective[c])
      for (const auto& group : tier.table.groups())
        for (std::size_t i = 1; i + 1 < group.curve.size(); ++i)
          e.add(Method::kPoint, group.curve.log_utilisation(i),
                group.curve.without(i, group.trend).log_utilisation);
    e.report(static_cast<MeasuredKind>(c + static_cast<std::size_t>(MeasuredKind::kAllReduce)),
             TypeClass::k16, device.name, out);
  }
  Errors e;
  e.add_curve(elementwise);
  e.report(MeasuredKind::kElementwise, TypeClass::k16, device.name, out);
  return out;
}

}  // namespace foretoken
