#include "hwdb/shape_tables.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "hwdb/kriging.h"

namespace foretoken {
namespace {

constexpr double kOctaves = 2.0;  // farther shapes say nothing of this one
constexpr double kRatioOctaves = 4.0;
// Of the held-out (n, k) pairs of six devices: utilisation changes less along k, and over some octaves.
constexpr double kDepthWeight = 0.6, kBatchWeight = 0.5, kGemmRange = 4.0, kGemmNugget = 0.02;
constexpr double kHiddenWeight = 1.0, kShardWeight = 1.2, kSparsityWeight = 1.4, kTopWeight = 1.2;
constexpr double kMoeRange = 5.0, kMoeNugget = 0.05, kMoeFarthest = 9.0;
// Attention: octaves of each property of a layout, scaled by how much times change along it. Sequences x KV
// heads are the parallel work; with it equal, the number of KV heads hardly matters. Plain multi-head
// attention and other head sizes run other kernels.
struct AttentionWeights {
  double group, tile, kv, work, multi_head, head_size;
};
constexpr AttentionWeights kPrefillWeights{1.0, 0.0, 0.03, 1.0, 0.5, 3.0},
    kDecodeWeights{0.3, 1.0, 0.03, 2.0, 1.5, 1.5};
// Query heads of a KV head that a decode kernel multiplies at once: 8, then doubled.
constexpr double kLogQueryTile = 3;
// Between two measured numbers of sequences, kernels fill waves that neither shows: an octave off the grid.
constexpr double kGridDoubt = 0.5;
constexpr double kMovedQueries = 1.0;  // another kernel runs before: as far as a step of the tile
constexpr double kAttentionRange = 6.0, kAttentionNugget = 0.005, kAttentionFarthest = 3.0;
// MLA: at equal sequences, at equal work (heads x sequences), and how many heads. Decoding reads one latent
// for all heads, so sequences count; prefilling is the work.
struct MlaWeights {
  double heads, batch, work;
};
constexpr MlaWeights kMlaPrefillWeights{1.0, 0.3, 2.0}, kMlaDecodeWeights{0.6, 3.0, 0.3};
// More heads fill the kernel's tile of 64 query heads, then a second one: they err far more than few do, and
// have an error of their own, that of what is far.
constexpr std::int64_t kMlaFewHeads = 16;
constexpr double kMlaRange = 20.0, kMlaNugget = 0.005, kMlaFarthest = 8.0;
constexpr double kUntunedShare = 1.5;  // how much slower than its parts, or than the whole, a shard may be
constexpr std::size_t kFewNeighbours = 8;

double log2_of(std::int64_t v) { return std::log2(static_cast<double>(v)); }

// How two engines differ changes less from shape to shape than either one's times.
constexpr double kRatioRange = 10.0, kRatioNugget = 0.1, kPairedShare = 0.5;
constexpr std::size_t kFewestCommon = 8;  // shapes that two engines share, to say how they differ

// Logarithm of measured time over the trend's.
double above_trend(const Trend& trend, const Reading& r) {
  return r.log_limit - r.log_utilisation - trend.log_time(r.log_limit);
}

}  // namespace

Reading mixed(Reading paired, const std::optional<Reading>& alone) {
  if (alone) paired.log_utilisation += (1 - kPairedShare) * (alone->log_utilisation - paired.log_utilisation);
  return paired;
}

void GemmTable::add(std::int64_t n, std::int64_t k, std::int64_t batch, std::int64_t m, double seconds,
                    double spread, double sol) {
  // Rows come shape by shape from the database, so the last shape is nearly always the one.
  if (shapes_.empty() || shapes_.back().n != n || shapes_.back().k != k || shapes_.back().batch != batch)
    shapes_.push_back({n, k, batch, log2_of(n), log2_of(k), {}});
  shapes_.back().curve.add(static_cast<double>(m), seconds, spread, sol);
}

void GemmTable::finish(const GemmModel::Parameters* known) {
  const auto key = [](const Shape& s) { return std::tuple(s.batch, s.n, s.k); };
  std::stable_sort(shapes_.begin(), shapes_.end(),
                   [&](const Shape& a, const Shape& b) { return key(a) < key(b); });
  std::vector<Shape> merged;
  for (Shape& s : shapes_) {
    if (merged.empty() || key(merged.back()) != key(s))
      merged.push_back(std::move(s));
    else
      merged.back().curve.append(s.curve);
  }
  for (Shape& s : merged) s.curve.finish();
  shapes_ = std::move(merged);
  seen_ = {}, seen_beside_ = {};
  if (known) {
    model_.set(*known);
    return compare_with_model();
  }
  std::vector<GemmSample> rows;
  for (const Shape& s : shapes_)
    for (std::size_t i = 0; i < s.curve.size(); ++i)
      rows.push_back({s.curve.key(i), static_cast<double>(s.n), static_cast<double>(s.k),
                      static_cast<double>(s.batch), s.curve.seconds(i)});
  model_.fit(rows);
  compare_with_model();
}

void GemmTable::compare_with_model() {
  for (Shape& s : shapes_) {
    s.above.clear();
    const double n = static_cast<double>(s.n), k = static_cast<double>(s.k), b = static_cast<double>(s.batch);
    for (std::size_t i = 0; i < s.curve.size(); ++i)
      s.above.push_back(std::log(s.curve.seconds(i) / model_.time(s.curve.key(i), n, k, b)));
  }
}

double GemmTable::above_model(const Shape& s, double m, double log_m) const {
  return Curve::between(s.curve.place(m, log_m), [&](std::size_t i) { return s.above[i]; });
}

int GemmTable::find_shape(std::int64_t n, std::int64_t k, std::int64_t batch) const {
  const auto key = std::tuple(batch, n, k);
  const auto at = std::lower_bound(shapes_.begin(), shapes_.end(), key, [](const Shape& s, const auto& v) {
    return std::tuple(s.batch, s.n, s.k) < v;
  });
  if (at == shapes_.end() || std::tuple(at->batch, at->n, at->k) != key) return kNoShape;
  return static_cast<int>(at - shapes_.begin());
}

std::optional<double> GemmTable::log_above_model(std::int64_t n, std::int64_t k, std::int64_t batch,
                                                 double m) const {
  if (const int shape = find_shape(n, k, batch); shape != kNoShape)
    return above_model(shapes_[static_cast<std::size_t>(shape)], m, std::log2(m));
  const auto r = blend(n, k, batch, m);
  if (!r) return std::nullopt;
  const auto dn = static_cast<double>(n), dk = static_cast<double>(k), b = static_cast<double>(batch);
  return std::log(model_.limit(m, dn, dk, b) / model_.time(m, dn, dk, b)) - r->log_utilisation;
}

GemmTable::Near GemmTable::neighbours(std::int64_t n, std::int64_t k, std::int64_t batch, int except,
                                      const Beside<GemmTable>* beside) const {
  const Coordinates query = {log2_of(n), kDepthWeight * log2_of(k), kBatchWeight * log2_of(batch)};
  Neighbours near(query, 12, beside ? kRatioOctaves : kOctaves, beside ? kRatioRange : kGemmRange,
                  beside ? kRatioNugget : kGemmNugget);
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const Shape& s = shapes_[i];
    if (static_cast<int>(i) != except && (!beside || beside->twin[i] != kNoShape))
      near.offer({s.log_n, kDepthWeight * s.log_k, kBatchWeight * log2_of(s.batch)}, static_cast<int>(i));
  }
  return NeighbourCache<3>::entry_of({n, k, batch}, near);
}

std::optional<Reading> GemmTable::blend(std::int64_t n, std::int64_t k, std::int64_t batch, double m,
                                        const Beside<GemmTable>* beside) const {
  if (beside && beside->common < kFewestCommon) return std::nullopt;
  return (beside ? seen_beside_ : seen_)
      .with(
          {n, k, batch}, [&] { return neighbours(n, k, batch, kNoShape, beside); },
          [&](const Near& near) { return blend(near, m, beside); });
}

std::optional<Reading> GemmTable::blend(const Near& near, double m, const Beside<GemmTable>* beside) const {
  if (near.count == 0) return std::nullopt;
  const auto [n, k, batch] = near.key;
  Reading r;
  double sum = 0;
  const double log_m = std::log2(m);
  if (beside) {
    const int shape = beside->table->find_shape(n, k, batch);
    if (shape == kNoShape) return std::nullopt;
    r.log_utilisation = beside->table->at(shape, m).log_utilisation;
    for (std::size_t i = 0; i < near.count; ++i) {
      const auto own = static_cast<std::size_t>(near.shape[i]);
      const Curve& twin = beside->table->shapes_[static_cast<std::size_t>(beside->twin[own])].curve;
      sum += near.weight[i] * (twin.log_utilisation(twin.place(m, log_m)) -
                               shapes_[own].curve.log_utilisation(shapes_[own].curve.place(m, log_m)));
    }
  } else {
    for (std::size_t i = 0; i < near.count; ++i)
      sum += near.weight[i] * above_model(shapes_[static_cast<std::size_t>(near.shape[i])], m, log_m);
    const double dn = static_cast<double>(n), dk = static_cast<double>(k), b = static_cast<double>(batch);
    r.log_utilisation = std::log(model_.limit(m, dn, dk, b) / model_.time(m, dn, dk, b));
    r.distance = near.nearest;
  }
  r.log_utilisation -= sum;
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  return r;
}

void AttentionTable::add(const Heads& heads, std::int64_t sequences, std::int64_t tokens, double seconds,
                         double spread, double sol) {
  if (layouts_.empty() || layouts_.back().heads != heads) layouts_.push_back({heads, {}});
  auto& grid = layouts_.back().by_sequences;
  const auto s = static_cast<double>(sequences);
  if (grid.empty() || grid.back().first != s) grid.emplace_back(s, Curve());
  grid.back().second.add(static_cast<double>(tokens), seconds, spread, sol);
}

void AttentionTable::finish() {
  std::stable_sort(layouts_.begin(), layouts_.end(),
                   [](const Layout& a, const Layout& b) { return a.heads < b.heads; });
  std::vector<Layout> merged;
  for (Layout& l : layouts_) {
    if (merged.empty() || merged.back().heads != l.heads) {
      merged.push_back(std::move(l));
    } else {
      auto& to = merged.back().by_sequences;
      to.insert(to.end(), std::make_move_iterator(l.by_sequences.begin()),
                std::make_move_iterator(l.by_sequences.end()));
    }
  }
  for (Layout& l : merged) {
    auto& grid = l.by_sequences;
    std::stable_sort(grid.begin(), grid.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::pair<double, Curve>> rows;
    for (auto& [s, curve] : grid) {
      if (rows.empty() || rows.back().first != s)
        rows.emplace_back(s, std::move(curve));
      else
        rows.back().second.append(curve);
    }
    for (auto& row : rows) row.second.finish();
    grid = std::move(rows);
  }
  layouts_ = std::move(merged);
  ends_.clear();
  std::vector<std::pair<double, double>> all;
  for (const Layout& l : layouts_)
    for (const auto& row : l.by_sequences) {
      row.second.collect(all);
      ends_.push_back(row.second.key(row.second.size() - 1));
    }
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  trend_.fit(all);
}

int AttentionTable::find_layout(const Heads& heads) const {
  const auto at = std::lower_bound(layouts_.begin(), layouts_.end(), heads,
                                   [](const Layout& l, const Heads& h) { return l.heads < h; });
  return at == layouts_.end() || at->heads != heads ? kNoShape : static_cast<int>(at - layouts_.begin());
}

Reading AttentionTable::at(int layout, double sequences, double tokens) const {
  const auto& grid = layouts_[static_cast<std::size_t>(layout)].by_sequences;
  const auto above = std::lower_bound(grid.begin(), grid.end(), sequences,
                                      [](const auto& row, double s) { return row.first < s; });
  if (above != grid.end() && above->first == sequences) return above->second.at(tokens);
  Reading r;
  if (above == grid.begin() || above == grid.end()) {
    // Beyond the grid: as far from the trend as its edge, with work in proportion to sequences.
    const auto& edge = above == grid.end() ? grid.back() : grid.front();
    r = edge.second.at(tokens);
    const double off = above_trend(trend_, r);
    r.log_limit += std::log(sequences / edge.first);
    r.log_utilisation = r.log_limit - trend_.log_time(r.log_limit) - off;
    r.exact = r.inside = false;
  } else {
    const auto& [s0, low] = *(above - 1);
    const auto& [s1, high] = *above;
    const Reading a = low.at(tokens), b = high.at(tokens);
    // Fewer sequences were measured to greater lengths: where only one of the two reaches, it speaks alone.
    const double place = std::log(sequences / s0) / std::log(s1 / s0);
    const double t = a.inside == b.inside ? place : a.inside ? 0 : 1;
    // How far the two lie from the trend, so that a floor may turn into a slope between them.
    r.log_limit = a.log_limit + place * (b.log_limit - a.log_limit);
    const double low_above = above_trend(trend_, a), high_above = above_trend(trend_, b);
    r.log_utilisation =
        r.log_limit - trend_.log_time(r.log_limit) - (low_above + t * (high_above - low_above));
    r.inside = a.inside || b.inside;
  }
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  return r;
}

AttentionTable::Near AttentionTable::neighbours(const Heads& heads, double sequences, double tokens,
                                                int except) const {
  const bool mla = heads.head_dim == kMlaDim;
  const AttentionWeights& weights = decode_ ? kDecodeWeights : kPrefillWeights;
  const auto place = [&](const Heads& h, double b) {
    if (mla) {
      const MlaWeights& w = decode_ ? kMlaDecodeWeights : kMlaPrefillWeights;
      const double log_heads = std::log2(static_cast<double>(h.heads)), log_b = std::log2(b);
      return Coordinates{w.heads * log_heads, w.batch * log_b, w.work * (log_heads + log_b)};
    }
    const double kv = std::log2(static_cast<double>(h.kv_heads));
    const double group = std::log2(static_cast<double>(h.heads) / static_cast<double>(h.kv_heads));
    const double tile = weights.tile * std::max(0.0, std::ceil(group) - kLogQueryTile);
    const bool moved = moves_queries_ && h.kv_heads > 1 && h.heads > h.kv_heads && b > 1;
    return Coordinates{weights.group * group + tile,
                       weights.kv * kv,
                       weights.work * (kv + std::log2(b)),
                       h.heads == h.kv_heads ? weights.multi_head : 0.0,
                       weights.head_size * std::log2(static_cast<double>(h.head_dim)),
                       moved ? kMovedQueries : 0.0};
  };
  Neighbours near(place(heads, sequences), kFewNeighbours, mla ? kMlaFarthest : kAttentionFarthest,
                  mla ? kMlaRange : kAttentionRange, mla ? kMlaNugget : kAttentionNugget);
  bool known = false;  // the head size has rows of its own; others only help where it has few
  for (std::size_t i = 0; i < layouts_.size(); ++i) {
    const Heads& h = layouts_[i].heads;
    if ((h.head_dim == kMlaDim) != mla || h.cached != heads.cached || static_cast<int>(i) == except) continue;
    known = known || h.head_dim == heads.head_dim;
    const auto& grid = layouts_[i].by_sequences;
    auto row = grid.end() - 1;
    while (row != grid.begin() && row->second.key(row->second.size() - 1) < tokens) --row;
    const auto offer = [&](double wanted) {
      const double b = std::clamp(wanted, grid.front().first, std::max(grid.front().first, row->first));
      const auto above =
          std::lower_bound(grid.begin(), grid.end(), b, [](const auto& r, double s) { return r.first < s; });
      const bool between = !mla && above != grid.begin() && above != grid.end() && above->first != b;
      const double off =
          between ? std::min(std::log2(above->first / b), std::log2(b / (above - 1)->first)) : 0.0;
      near.offer(place(h, b), static_cast<int>(i), b, kGridDoubt * off);
      return b;
    };
    // Equal parallel work where the grid has it, else as near as it gets. MLA: at equal sequences too.
    const double ratio = mla ? static_cast<double>(heads.heads) / static_cast<double>(h.heads)
                             : static_cast<double>(heads.kv_heads) / static_cast<double>(h.kv_heads);
    const double b = offer(sequences * ratio);
    if (mla && b != sequences) offer(sequences);
  }
  const auto end = std::lower_bound(ends_.begin(), ends_.end(), tokens) - ends_.begin();
  const NeighbourCache<6>::Key key = {heads.heads,  heads.kv_heads,          heads.head_dim,
                                      heads.cached, std::llround(sequences), static_cast<std::int64_t>(end)};
  if (known) return NeighbourCache<6>::entry_of(key, near);
  Near none;
  none.key = key;
  return none;
}

std::optional<Reading> AttentionTable::nearest(const Heads& heads, double sequences, double tokens,
                                               double limit) const {
  const auto end = std::lower_bound(ends_.begin(), ends_.end(), tokens) - ends_.begin();
  return seen_.with(
      {heads.heads, heads.kv_heads, heads.head_dim, heads.cached, std::llround(sequences),
       static_cast<std::int64_t>(end)},
      [&] { return neighbours(heads, sequences, tokens, kNoShape); },
      [&](const Near& near) { return nearest(near, tokens, limit); });
}

std::optional<Reading> AttentionTable::nearest(const Near& near, double tokens, double limit) const {
  if (near.count == 0) return std::nullopt;
  Reading r;
  r.log_limit = std::log(limit);
  double sum = 0;
  for (std::size_t i = 0; i < near.count; ++i)
    sum += near.weight[i] * above_trend(trend_, at(near.shape[i], near.at[i], tokens));
  r.log_utilisation = r.log_limit - trend_.log_time(r.log_limit) - sum;
  r.distance = near.nearest;
  if (decode_ && near.key[2] == kMlaDim && near.key[0] > kMlaFewHeads) r.distance = INFINITY;
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  return r;
}

void MoeTable::add(const Key& key, std::int64_t tokens, double seconds, double spread, double sol) {
  if (shapes_.empty() || shapes_.back().key != key) shapes_.push_back({key, {}});
  shapes_.back().curve.add(static_cast<double>(tokens), seconds, spread, sol);
}

void MoeTable::finish() {
  std::stable_sort(shapes_.begin(), shapes_.end(),
                   [](const Shape& a, const Shape& b) { return a.key < b.key; });
  std::vector<Shape> merged;
  for (Shape& s : shapes_) {
    if (merged.empty() || merged.back().key != s.key)
      merged.push_back(std::move(s));
    else
      merged.back().curve.append(s.curve);
  }
  for (Shape& s : merged) s.curve.finish();
  shapes_ = std::move(merged);
  for (Shape& shape : shapes_) shape.untuned = is_untuned(shape);
  std::vector<std::pair<double, double>> all;
  for (const Shape& shape : shapes_)
    if (!shape.untuned) shape.curve.collect(all);
  trend_.fit(all);
}

// A shard with a half or a quarter of the experts or of their width takes at least about that share of the
// time, and one with more takes no less.
bool MoeTable::is_untuned(const Shape& s) const {
  const auto ratio = [&](const Shape& other) {
    std::vector<double> logs;
    const std::size_t stride = std::max<std::size_t>(1, s.curve.size() / 7);
    for (std::size_t i = 0; i < s.curve.size(); i += stride) {
      const Reading r = other.curve.at(s.curve.key(i));
      if (r.inside) logs.push_back(std::log(s.curve.seconds(i)) - (r.log_limit - r.log_utilisation));
    }
    if (logs.size() < 3) return 0.0;
    std::nth_element(logs.begin(), logs.begin() + static_cast<long>(logs.size() / 2), logs.end());
    return logs[logs.size() / 2];
  };
  for (const std::int64_t width : {1, 2, 4})
    for (const std::int64_t experts : {1, 2, 4}) {
      if (width * experts == 1 || width * experts > 4) continue;
      if (s.key[1] % width == 0 && s.key[4] % experts == 0) {
        Key part = s.key;
        part[1] /= width, part[4] /= experts;
        if (const int i = find_exact(part);
            i != kNoShape && ratio(shapes_[static_cast<std::size_t>(i)]) >
                                 std::log(kUntunedShare * static_cast<double>(width * experts)))
          return true;
      }
      Key whole = s.key;
      whole[1] *= width, whole[4] *= experts;
      if (const int i = find_exact(whole);
          i != kNoShape && ratio(shapes_[static_cast<std::size_t>(i)]) > std::log(kUntunedShare))
        return true;
    }
  return false;
}

int MoeTable::find_shape(const Key& key) const {
  Key low = key;
  low[6] = 0;
  int best = kNoShape;
  std::int64_t best_distance = 3;
  for (auto at = std::lower_bound(shapes_.begin(), shapes_.end(), low,
                                  [](const Shape&s, const Key&k) { return s.key < k; });
       at != shapes_.end() && std::equal(key.begin(), key.end() - 1, at->key.begin()); ++at) {
    const std::int64_t distance = std::abs(at->key[6] - key[6]);
    if (distance < best_distance) best_distance = distance, best = static_cast<int>(at - shapes_.begin());
  }
  return best;
}

MoeTable::Near MoeTable::neighbours(const Key& key, int except, const Beside<MoeTable>* beside) const {
  const auto rows_per_token = [](const Key& k) {
    return static_cast<double>(k[2]) / static_cast<double>(k[3]);
  };
  const auto place = [](const Key& k) {
    return Coordinates{kHiddenWeight * log2_of(k[0]), kShardWeight * log2_of(k[1]),
                       kShardWeight * log2_of(k[4]), kSparsityWeight * (log2_of(k[3]) - log2_of(k[2])),
                       kTopWeight * log2_of(k[2])};
  };
  Neighbours near(place(key), kFewNeighbours, kMoeFarthest, kMoeRange, beside ? kRatioNugget : kMoeNugget);
  const Key* left_out = except == kNoShape ? nullptr : &shapes_[static_cast<std::size_t>(except)].key;
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const Key& k = shapes_[i].key;
    if (k[5] != key[5] || k[6] != key[6] || shapes_[i].untuned || (beside && beside->twin[i] == kNoShape))
      continue;
    // With a layer go all its shards.
    if (left_out && k[0] == (*left_out)[0] && k[2] == (*left_out)[2] && k[3] == (*left_out)[3]) continue;
    near.offer(place(k), static_cast<int>(i), rows_per_token(key) / rows_per_token(k));
  }
  return NeighbourCache<7>::entry_of(key, near);
}

std::optional<Reading> MoeTable::nearest(const Key& key, double tokens, double limit,
                                         const Beside<MoeTable>* beside) const {
  if (beside && beside->common < kFewestCommon) return std::nullopt;
  return (beside ? seen_beside_ : seen_)
      .with(
          key, [&] { return neighbours(key, kNoShape, beside); },
          [&](const Near& near) { return nearest(near, tokens, limit, beside); });
}

std::optional<Reading> MoeTable::nearest(const Near& near, double tokens, double limit,
                                         const Beside<MoeTable>* beside) const {
  if (near.count == 0) return std::nullopt;
  Reading r;
  r.log_limit = std::log(limit);
  double sum = 0;
  if (beside) {
    const int shape = beside->table->find_exact(near.key);
    if (shape == kNoShape) return std::nullopt;
    r.log_utilisation = beside->table->at(shape, tokens).log_utilisation;
    for (std::size_t i = 0; i < near.count; ++i) {
      const double t = tokens * near.at[i];
      sum += near.weight[i] *
             (beside->table->at(beside->twin[static_cast<std::size_t>(near.shape[i])], t).log_utilisation -
              at(near.shape[i], t).log_utilisation);
    }
    r.log_utilisation -= sum;
  } else {
    for (std::size_t i = 0; i < near.count; ++i)
      sum += near.weight[i] * above_trend(trend_, at(near.shape[i], tokens * near.at[i]));
    r.log_utilisation = r.log_limit - trend_.log_time(r.log_limit) - sum;
    r.distance = near.nearest;
  }
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  return r;
}

void CollectiveTable::add(int ranks, int ranks_per_node, double message_bytes, double seconds, double spread,
                          double sol) {
  auto at = std::find_if(groups_.begin(), groups_.end(), [&](const Ranks& g) {
    return g.ranks == ranks && g.ranks_per_node == ranks_per_node;
  });
  if (at == groups_.end()) at = groups_.insert(at, {ranks, ranks_per_node, {}, {}});
  at->curve.add(message_bytes, seconds, spread, sol);
}

void CollectiveTable::finish() {
  for (Ranks& g : groups_) {
    g.curve.finish();
    std::vector<std::pair<double, double>> rows;
    g.curve.collect(rows);
    g.trend.fit(rows);
  }
}

const CollectiveTable::Ranks* CollectiveTable::find(int ranks, int ranks_per_node) const {
  for (const Ranks& g : groups_)
    if (g.ranks == ranks && g.ranks_per_node == ranks_per_node) return &g;
  return nullptr;
}

}  // namespace foretoken
