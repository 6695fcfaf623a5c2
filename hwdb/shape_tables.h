// Measured times of one engine and one element type, by shape: the lookup of each kind of operator.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "hwdb/curve.h"
#include "hwdb/gemm_model.h"
#include "hwdb/neighbour_cache.h"
#include "hwdb/trend.h"

namespace foretoken {

inline constexpr int kNoShape = -1;
// In place of the size of a head: MLA has one set of dimensions.
inline constexpr std::int64_t kMlaDim = 0;

// Another engine's table beside this one: shapes that both measured say how the engines differ, which is
// smoother than either one's times.
template <class Table>
struct Beside {
  Beside(const Table& own, const Table& other) : table(&other) {
    for (std::size_t i = 0; i < own.size(); ++i) {
      twin.push_back(own.twin_in(other, static_cast<int>(i)));
      common += twin.back() != kNoShape;
    }
  }
  const Table* table;
  std::vector<int> twin;  // index in `table` of each shape of the own one
  std::size_t common = 0;
};

// Both ways to a shape's time, each of which knows what the other doesn't: the own engine's neighbours, and
// another engine's row.
Reading mixed(Reading paired, const std::optional<Reading>& alone);

// GEMM: a curve along m for each (n, k, batch). A shape that was not measured gets the utilisation of its
// nearest shapes at the same m, weighted by kriging in (log n, log k).
class GemmTable {
 public:
  void add(std::int64_t n, std::int64_t k, std::int64_t batch, std::int64_t m, double seconds, double spread,
           double sol);
  // known: the model's parameters, where they were fitted before.
  void finish(const GemmModel::Parameters* known = nullptr);
  int find_shape(std::int64_t n, std::int64_t k, std::int64_t batch) const;
  Reading at(int shape, double m) const { return shapes_[static_cast<std::size_t>(shape)].curve.at(m); }
  // Shapes within two octaves. Beside: another engine's row of this very shape, times how the two engines
  // differ on the nearest shapes that both have; nothing where the other has no such row.
  std::optional<Reading> blend(std::int64_t n, std::int64_t k, std::int64_t batch, double m,
                               const Beside<GemmTable>* beside = nullptr) const;
  using Near = NeighbourCache<3>::Entry;
  Near neighbours(std::int64_t n, std::int64_t k, std::int64_t batch, int except = kNoShape,
                  const Beside<GemmTable>* beside = nullptr) const;
  std::optional<Reading> blend(const Near& near, double m, const Beside<GemmTable>* beside = nullptr) const;
  std::size_t size() const { return shapes_.size(); }
  int twin_in(const GemmTable& other, int shape) const {
    const Shape& s = shapes_[static_cast<std::size_t>(shape)];
    return other.find_shape(s.n, s.k, s.batch);
  }

  struct Shape {
    std::int64_t n, k, batch;
    double log_n, log_k;
    Curve curve;
    std::vector<double> above{};  // of each point, log of the measured time over the model's
  };
  const std::vector<Shape>& shapes() const { return shapes_; }
  // Log of the time over the model's, measured or of neighbours.
  std::optional<double> log_above_model(std::int64_t n, std::int64_t k, std::int64_t batch, double m) const;
  void set_model(const GemmModel& model) { model_ = model; }  // before finish()
  const GemmModel& model() const { return model_; }

 private:
  void compare_with_model();
  double above_model(const Shape& shape, double m, double log_m) const;
  mutable NeighbourCache<3> seen_, seen_beside_;
  GemmModel model_;
  std::vector<Shape> shapes_;  // sorted by (batch, n, k)
};

// Attention: for each layout of heads a grid of (sequences, tokens). Another layout with the same head size
// is answered from the nearest one at equal parallel work (sequences x KV heads).
class AttentionTable {
 public:
  struct Heads {
    std::int64_t heads, kv_heads, head_dim, cached;
    auto operator<=>(const Heads&) const = default;
  };
  void set_decode(bool decode) { decode_ = decode; }
  // FlashAttention-2 decodes with the query heads of a KV head in place of tokens, which moves them in memory
  // first, unless there is one KV head or one sequence.
  void set_moves_queries(bool moves) { moves_queries_ = moves; }
  void add(const Heads& heads, std::int64_t sequences, std::int64_t tokens, double seconds, double spread,
           double sol);
  void finish();
  int find_layout(const Heads& heads) const;
  Reading at(int layout, double sequences, double tokens) const;
  std::optional<Reading> nearest(const Heads& heads, double sequences, double tokens, double limit) const;
  using Near = NeighbourCache<6>::Entry;
  Near neighbours(const Heads& heads, double sequences, double tokens, int except = kNoShape) const;
  std::optional<Reading> nearest(const Near& near, double tokens, double limit) const;

  struct Layout {
    Heads heads;
    std::vector<std::pair<double, Curve>> by_sequences;
  };
  const std::vector<Layout>& layouts() const { return layouts_; }

 private:
  bool decode_ = false, moves_queries_ = false;
  mutable NeighbourCache<6> seen_;
  std::vector<double> ends_;  // where curves end: between two of them the same rows of a grid reach
  Trend trend_;
  std::vector<Layout> layouts_;  // sorted
};

// Fused MoE: a curve along tokens for each shape and load distribution; else the nearest shapes at equal rows
// an expert.
class MoeTable {
 public:
  // hidden, inter, top_k, experts, local experts, gated, load class (0 balanced, 1 and 2 the power laws)
  using Key = std::array<std::int64_t, 7>;
  void add(const Key& key, std::int64_t tokens, double seconds, double spread, double sol);
  void finish();
  // The same shape; where its load class was not measured, the nearest class that was.
  int find_shape(const Key& key) const;
  Reading at(int shape, double tokens) const {
    return shapes_[static_cast<std::size_t>(shape)].curve.at(tokens);
  }
  std::optional<Reading> nearest(const Key& key, double tokens, double limit,
                                 const Beside<MoeTable>* beside = nullptr) const;
  using Near = NeighbourCache<7>::Entry;
  // With a layer go all its shards.
  Near neighbours(const Key& key, int except = kNoShape, const Beside<MoeTable>* beside = nullptr) const;
  std::optional<Reading> nearest(const Near& near, double tokens, double limit,
                                 const Beside<MoeTable>* beside = nullptr) const;
  std::size_t size() const { return shapes_.size(); }
  int twin_in(const MoeTable& other, int shape) const {
    return other.find_exact(shapes_[static_cast<std::size_t>(shape)].key);
  }
  int find_exact(const Key& key) const {
    const int s = find_shape(key);
    return s != kNoShape && shapes_[static_cast<std::size_t>(s)].key == key ? s : kNoShape;
  }

  struct Shape {
    Key key;
    Curve curve;
    // Far slower than other shards of its layer allow: a kernel that nobody tuned for it. Its own rows stand,
    // but other shapes don't learn from them.
    bool untuned = false;
  };
  const std::vector<Shape>& shapes() const { return shapes_; }

 private:
  bool is_untuned(const Shape& s) const;
  mutable NeighbourCache<7> seen_, seen_beside_;
  Trend trend_;
  std::vector<Shape> shapes_;  // sorted by key
};

// Collectives of one kind: a curve along message bytes for each number of ranks.
class CollectiveTable {
 public:
  // ranks_per_node is 0 where all ranks are in one node.
  void add(int ranks, int ranks_per_node, double message_bytes, double seconds, double spread, double sol);
  void finish();

  struct Ranks {
    int ranks, ranks_per_node;
    Curve curve;
    Trend trend;
    Reading at(double bytes, double limit) const { return curve.at(bytes, trend, limit); }
  };
  const Ranks* find(int ranks, int ranks_per_node) const;
  const std::vector<Ranks>& groups() const { return groups_; }

 private:
  std::vector<Ranks> groups_;
};

}  // namespace foretoken
