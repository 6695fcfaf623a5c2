#include "hwdb/row_table.h"

#include <algorithm>
#include <cmath>

namespace foretoken {

void RowTable::add(double width, double key, double seconds, double spread, double sol) {
  if (!(width > 0) || !(key > 0)) return;
  if (widths_.empty() || widths_.back().width != width) widths_.push_back({width, {}});
  widths_.back().curve.add(key, seconds, spread, sol);
}

void RowTable::finish() {
  std::stable_sort(widths_.begin(), widths_.end(),
                   [](const Width& a, const Width& b) { return a.width < b.width; });
  std::vector<Width> merged;
  for (Width& w : widths_) {
    if (merged.empty() || merged.back().width != w.width)
      merged.push_back(std::move(w));
    else
      merged.back().curve.append(w.curve);
  }
  for (Width& w : merged) w.curve.finish();
  widths_ = std::move(merged);
}

std::optional<Reading> RowTable::own(double width, double key) const {
  const auto at = std::lower_bound(widths_.begin(), widths_.end(), width,
                                   [](const Width& w, double v) { return w.width < v; });
  if (at == widths_.end() || at->width != width) return std::nullopt;
  return at->curve.at(key);
}

std::optional<Reading> RowTable::near(double width, double key, double limit, int except) const {
  const Width *below = nullptr, *above = nullptr;
  for (std::size_t i = 0; i < widths_.size(); ++i) {
    if (static_cast<int>(i) == except) continue;
    const Width& w = widths_[i];
    if (w.width <= width) below = &w;
    if (w.width >= width && !above) above = &w;
  }
  if (!below && !above) return std::nullopt;
  if (!below) below = above;
  if (!above) above = below;
  const auto read = [&](const Width& w) { return w.curve.at(key * width / w.width); };
  const Reading low = read(*below), high = read(*above);
  const double gap = std::log2(above->width / below->width);
  const double t = gap > 0 ? std::log2(width / below->width) / gap : 0;
  Reading r;
  r.log_limit = std::log(limit);
  r.log_utilisation = low.log_utilisation + t * (high.log_utilisation - low.log_utilisation);
  r.inside = low.inside && high.inside;
  r.distance = std::min(std::abs(std::log2(width / below->width)), std::abs(std::log2(above->width / width)));
  r.low_seconds = 0, r.high_seconds = INFINITY;
  return r;
}

}  // namespace foretoken
