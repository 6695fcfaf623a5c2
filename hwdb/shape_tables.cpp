#include "hwdb/shape_tables.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "hwdb/kriging.h"

namespace foretoken {
namespace {

constexpr double kOctaves = 2.0;  // farther shapes say nothing of this one
// Of the held-out (n, k) pairs of six devices: utilisation changes less along k, and over some octaves.
constexpr double kDepthWeight = 0.6, kGemmRange = 4.0, kGemmNugget = 0.02;
// Attention: sequences x KV heads are the parallel work; with it equal, the number of KV heads hardly
// matters. Plain multi-head attention and other head sizes run other kernels.
constexpr double kGroupWeight = 1.0, kKvWeight = 0.03, kWorkWeight = 2.0, kMultiHead = 0.5, kHeadSize = 3.0;
constexpr double kAttentionRange = 6.0, kAttentionNugget = 0.005, kAttentionFarthest = 3.0;
// MoE: experts a token counts most, as it sets rows an expert.
constexpr double kHiddenWeight = 1.5, kSparsityWeight = 2.0, kTopWeight = 0.7;
constexpr double kMoeRange = 3.0, kMoeNugget = 0.05, kMoeFarthest = 9.0;
constexpr std::size_t kFewNeighbours = 8;
constexpr int kProbes = 16;  // of the cache of neighbours, before a shape is left uncached

double log2_of(std::int64_t v) { return std::log2(static_cast<double>(v)); }

// Logarithm of measured time over the trend's.
double above(const Trend& trend, const Reading& r) {
  return r.log_limit - r.log_utilisation - trend.log_time(r.log_limit);
}

}  // namespace

std::size_t GemmNeighbours::slot(std::int64_t n, std::int64_t k, std::int64_t batch) {
  std::uint64_t h = static_cast<std::uint64_t>(n) * 0x9e3779b97f4a7c15u;
  h = (h ^ static_cast<std::uint64_t>(k)) * 0x9e3779b97f4a7c15u;
  h = (h ^ static_cast<std::uint64_t>(batch)) * 0x9e3779b97f4a7c15u;
  return static_cast<std::size_t>(h >> 54);
}

const GemmNeighbours::Entry* GemmNeighbours::find(std::int64_t n, std::int64_t k, std::int64_t batch) const {
  std::size_t i = slot(n, k, batch);
  for (int probe = 0; probe < kProbes; ++probe, i = (i + 1) % slots_->size()) {
    const Entry* e = (*slots_)[i].load(std::memory_order_acquire);
    if (!e) return nullptr;
    if (e->n == n && e->k == k && e->batch == batch) return e;
  }
  return nullptr;
}

void GemmNeighbours::insert(const Entry& entry) {
  auto copy = std::make_unique<const Entry>(entry);
  std::size_t i = slot(entry.n, entry.k, entry.batch);
  for (int probe = 0; probe < kProbes; ++probe, i = (i + 1) % slots_->size()) {
    const Entry* none = nullptr;
    // Two threads may add the same shape: the second entry is never read.
    if ((*slots_)[i].compare_exchange_strong(none, copy.get(), std::memory_order_release)) {
      static_cast<void>(copy.release());
      return;
    }
  }
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
  seen_ = {};
  if (known) return model_.set(*known);
  std::vector<GemmSample> rows;
  for (const Shape& s : shapes_)
    for (std::size_t i = 0; i < s.curve.size(); ++i)
      rows.push_back({s.curve.key(i), static_cast<double>(s.n), static_cast<double>(s.k),
                      static_cast<double>(s.batch), s.curve.seconds(i)});
  model_.fit(rows);
}

int GemmTable::find_shape(std::int64_t n, std::int64_t k, std::int64_t batch) const {
  const auto key = std::tuple(batch, n, k);
  const auto at = std::lower_bound(shapes_.begin(), shapes_.end(), key, [](const Shape& s, const auto& v) {
    return std::tuple(s.batch, s.n, s.k) < v;
  });
  if (at == shapes_.end() || std::tuple(at->batch, at->n, at->k) != key) return kNoShape;
  return static_cast<int>(at - shapes_.begin());
}

double GemmTable::residual(const Shape& s, double m) const {
  const double n = static_cast<double>(s.n), k = static_cast<double>(s.k), b = static_cast<double>(s.batch);
  return std::log(model_.limit(m, n, k, b) / model_.time(m, n, k, b)) - s.curve.at(m).log_utilisation;
}

std::optional<double> GemmTable::log_above_model(std::int64_t n, std::int64_t k, std::int64_t batch,
                                                 double m) const {
  if (const int shape = find_shape(n, k, batch); shape != kNoShape)
    return residual(shapes_[static_cast<std::size_t>(shape)], m);
  const auto r = blend(n, k, batch, m);
  if (!r) return std::nullopt;
  const auto dn = static_cast<double>(n), dk = static_cast<double>(k), b = static_cast<double>(batch);
  return std::log(model_.limit(m, dn, dk, b) / model_.time(m, dn, dk, b)) - r->log_utilisation;
}

GemmNeighbours::Entry GemmTable::neighbours(std::int64_t n, std::int64_t k, std::int64_t batch,
                                            int except) const {
  const Coordinates query = {log2_of(n), kDepthWeight * log2_of(k)};
  Neighbours near(query, 12, kOctaves, kGemmRange, kGemmNugget);
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const Shape& s = shapes_[i];
    if (s.batch == batch && static_cast<int>(i) != except)
      near.offer({s.log_n, kDepthWeight * s.log_k}, static_cast<int>(i));
  }
  GemmNeighbours::Entry e{n, k, batch, near.size(), 0, {}, {}};
  if (near.empty()) return e;
  near.solve();
  e.nearest = near.nearest();
  for (std::size_t i = 0; i < near.size(); ++i)
    e.shape[i] = near.entry(i).shape, e.weight[i] = near.weight(i);
  return e;
}

std::optional<Reading> GemmTable::blend(std::int64_t n, std::int64_t k, std::int64_t batch, double m,
                                        int except) const {
  GemmNeighbours::Entry found;
  const GemmNeighbours::Entry* near = except == kNoShape ? seen_.find(n, k, batch) : nullptr;
  if (!near) {
    found = neighbours(n, k, batch, except);
    near = &found;
    if (except == kNoShape) seen_.insert(found);
  }
  if (near->count == 0) return std::nullopt;
  double sum = 0;
  for (std::size_t i = 0; i < near->count; ++i)
    sum += near->weight[i] * residual(shapes_[static_cast<std::size_t>(near->shape[i])], m);
  const double dn = static_cast<double>(n), dk = static_cast<double>(k), b = static_cast<double>(batch);
  Reading r;
  r.log_utilisation = std::log(model_.limit(m, dn, dk, b) / model_.time(m, dn, dk, b)) - sum;
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  r.distance = near->nearest;
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
  std::vector<std::pair<double, double>> all;
  for (const Layout& l : layouts_)
    for (const auto& row : l.by_sequences) row.second.collect(all);
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
    r = (above == grid.end() ? grid.back() : grid.front()).second.at(tokens);
    r.exact = r.inside = false;
  } else {
    const auto& [s0, low] = *(above - 1);
    const auto& [s1, high] = *above;
    const Reading a = low.at(tokens), b = high.at(tokens);
    const double t = std::log(sequences / s0) / std::log(s1 / s0);
    r.log_utilisation = a.log_utilisation + t * (b.log_utilisation - a.log_utilisation);
    r.log_limit = a.log_limit + t * (b.log_limit - a.log_limit);
    r.inside = a.inside && b.inside;
  }
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  return r;
}

std::optional<Reading> AttentionTable::nearest(const Heads& heads, double sequences, double tokens,
                                               double limit, int except) const {
  const auto place = [&](const Heads& h, double b) {
    const double kv = std::log2(static_cast<double>(h.kv_heads));
    const double group = std::log2(static_cast<double>(h.heads) / static_cast<double>(h.kv_heads));
    return Coordinates{kGroupWeight * group, kKvWeight * kv, kWorkWeight * (kv + std::log2(b)),
                       h.heads == h.kv_heads && h.head_dim > 0 ? kMultiHead : 0.0,
                       h.head_dim > 0 ? kHeadSize * std::log2(static_cast<double>(h.head_dim)) : 0.0};
  };
  Neighbours near(place(heads, sequences), kFewNeighbours, kAttentionFarthest, kAttentionRange,
                  kAttentionNugget);
  bool known = false;  // the head size has rows of its own; others only help where it has few
  for (std::size_t i = 0; i < layouts_.size(); ++i) {
    const Heads& h = layouts_[i].heads;
    if ((h.head_dim == 0) != (heads.head_dim == 0) || h.cached != heads.cached ||
        static_cast<int>(i) == except)
      continue;
    known = known || h.head_dim == heads.head_dim;
    // Equal parallel work where the grid has it, else as near as it gets.
    const auto& grid = layouts_[i].by_sequences;
    double b = sequences * static_cast<double>(heads.kv_heads) / static_cast<double>(h.kv_heads);
    auto row = grid.end() - 1;
    while (row != grid.begin() && row->second.key(row->second.size() - 1) < tokens) --row;
    b = std::clamp(b, grid.front().first, std::max(grid.front().first, row->first));
    near.offer(place(h, b), static_cast<int>(i), b);
  }
  if (!known || near.empty()) return std::nullopt;
  Reading r;
  r.log_limit = std::log(limit);
  r.log_utilisation =
      r.log_limit - trend_.log_time(r.log_limit) -
      near.blend([&](const Neighbours::Entry& e) { return above(trend_, at(e.shape, e.at, tokens)); });
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  r.distance = near.nearest();
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
  std::vector<std::pair<double, double>> all;
  for (const Shape& shape : shapes_) shape.curve.collect(all);
  trend_.fit(all);
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

std::optional<Reading> MoeTable::nearest(const Key& key, double tokens, double limit, int except) const {
  const auto rows_per_token = [](const Key& k) {
    return static_cast<double>(k[2]) / static_cast<double>(k[3]);
  };
  const auto place = [](const Key& k) {
    return Coordinates{kHiddenWeight * log2_of(k[0]), log2_of(k[1]), log2_of(k[4]),
                       kSparsityWeight * (log2_of(k[3]) - log2_of(k[2])), kTopWeight * log2_of(k[2])};
  };
  Neighbours near(place(key), kFewNeighbours, kMoeFarthest, kMoeRange, kMoeNugget);
  const Key* left_out = except == kNoShape ? nullptr : &shapes_[static_cast<std::size_t>(except)].key;
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const Key& k = shapes_[i].key;
    if (k[5] != key[5] || k[6] != key[6]) continue;
    // With a layer go all its shards.
    if (left_out && k[0] == (*left_out)[0] && k[2] == (*left_out)[2] && k[3] == (*left_out)[3]) continue;
    near.offer(place(k), static_cast<int>(i), tokens * rows_per_token(key) / rows_per_token(k));
  }
  if (near.empty()) return std::nullopt;
  Reading r;
  r.log_limit = std::log(limit);
  r.log_utilisation =
      r.log_limit - trend_.log_time(r.log_limit) -
      near.blend([&](const Neighbours::Entry& e) { return above(trend_, at(e.shape, e.at)); });
  r.low_seconds = 0;
  r.high_seconds = INFINITY;
  r.distance = near.nearest();
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
