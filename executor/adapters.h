// Low-rank adapters of one rank: all of them packed in host memory, as many as there are slots beside the
// weights. A load copies one adapter, whole, into a slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "executor/rank.h"

namespace foretoken {

// Where adapters come from, whole and by target: A [rank, in], B [out, rank], the scale alpha / rank inside
// B.
class AdapterSource {
 public:
  virtual ~AdapterSource() = default;
  // Row `row` of A (of B, where `expand`) as floats.
  virtual void read(std::int64_t adapter, std::int64_t layer, LoraTarget target, bool expand,
                    std::int64_t row, float* out) const = 0;
};

// Values from a counter (seed, adapter, layer, target, row, column): the same for every sharding. Both
// products keep activations of order one, so that adapters change what a model says.
std::unique_ptr<AdapterSource> synthetic_adapters(const ModelConfig& model, std::int64_t rank,
                                                  std::uint64_t seed);

class RankAdapters {
 public:
  RankAdapters() = default;
  RankAdapters(const ModelConfig& model, const AdapterSource& source, const Kernels& kernels,
               const Layout& layout, const Rank& rank);
  static std::size_t bytes_needed(const ModelConfig& model, const Kernels& kernels, const Layout& layout);
  // One that has shapes, but no memory.
  static RankAdapters plan(const ModelConfig& model, const Layout& layout);

  void load(std::int64_t adapter, std::int64_t slot);
  // One fused projection's adapted part: the A of its outputs one below the other, and a B of each.
  struct Product {
    LoraProduct shape;
    Matrix a;  // in the slot at hand
    std::vector<Matrix> b;
  };
  // Null where the layer has none.
  const Product* product(std::int64_t layer, LoraModule module) const;
  static Matrix in_slot(const Matrix& of_first_slot, std::size_t slot_bytes, std::int64_t slot) {
    Matrix m = of_first_slot;
    m.packed += slot_bytes * static_cast<std::size_t>(slot);
    return m;
  }
  std::size_t slot_bytes() const { return slot_bytes_; }
  const std::vector<Product>& all() const { return products_; }

 private:
  const KernelMemory* memory_ = nullptr;
  std::size_t slot_bytes_ = 0;
  Arena host_, slots_;
  std::byte *host_begin_ = nullptr, *slots_begin_ = nullptr;
  std::vector<Product> products_;  // of all layers, in the first slot
  std::vector<int> index_;         // [layer][module], -1: none
};

}  // namespace foretoken
