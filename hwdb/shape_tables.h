// Measured times of one engine and one element type, by shape: the lookup of each kind of operator.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "hwdb/curve.h"
#include "hwdb/gemm_model.h"
#include "hwdb/trend.h"

namespace foretoken {

inline constexpr int kNoShape = -1;

// Neighbours and weights of shapes that were asked for before: they don't depend on m, and solving for them
// costs more than all else in a lookup. Thread-safe; entries are only added, and not beyond its capacity.
class GemmNeighbours {
 public:
  struct Entry {
    std::int64_t n, k, batch;
    std::size_t count = 0;  // 0: none is near
    double nearest = 0;     // octaves
    std::array<int, 12> shape;
    std::array<double, 12> weight;
  };
  GemmNeighbours() : slots_(std::make_unique<Slots>()) {}
  GemmNeighbours(const GemmNeighbours&) : GemmNeighbours() {}  // a copy of the table starts empty
  GemmNeighbours(GemmNeighbours&&) noexcept = default;
  GemmNeighbours& operator=(GemmNeighbours&&) noexcept = default;
  ~GemmNeighbours() = default;
  const Entry* find(std::int64_t n, std::int64_t k, std::int64_t batch) const;
  void insert(const Entry& e);

 private:
  struct Slots : std::array<std::atomic<const Entry*>, 1024> {
    ~Slots() {
      for (auto& s : *this) delete s.load();
    }
  };
  static std::size_t slot(std::int64_t n, std::int64_t k, std::int64_t batch);
  std::unique_ptr<Slots> slots_;
};

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
  // Shapes within two octaves, `except` left out.
  std::optional<Reading> blend(std::int64_t n, std::int64_t k, std::int64_t batch, double m,
                               int except = kNoShape) const;

  struct Shape {
    std::int64_t n, k, batch;
    double log_n, log_k;
    Curve curve;
  };
  const std::vector<Shape>& shapes() const { return shapes_; }
  // Log of the time over the model's, measured or of neighbours.
  std::optional<double> log_above_model(std::int64_t n, std::int64_t k, std::int64_t batch, double m) const;
  void set_model(const GemmModel& model) { model_ = model; }
  const GemmModel& model() const { return model_; }

 private:
  double residual(const Shape& shape, double m) const;  // log(measured / model) on the shape's curve
  GemmNeighbours::Entry neighbours(std::int64_t n, std::int64_t k, std::int64_t batch, int except) const;
  mutable GemmNeighbours seen_;
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
  void add(const Heads& heads, std::int64_t sequences, std::int64_t tokens, double seconds, double spread,
           double sol);
  void finish();
  int find_layout(const Heads& heads) const;
  Reading at(int layout, double sequences, double tokens) const;
  std::optional<Reading> nearest(const Heads& heads, double sequences, double tokens, double limit,
                                 int except = kNoShape) const;

  struct Layout {
    Heads heads;
    std::vector<std::pair<double, Curve>> by_sequences;
  };
  const std::vector<Layout>& layouts() const { return layouts_; }

 private:
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
  std::optional<Reading> nearest(const Key& key, double tokens, double limit, int except = kNoShape) const;

  struct Shape {
    Key key;
    Curve curve;
  };
  const std::vector<Shape>& shapes() const { return shapes_; }

 private:
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
