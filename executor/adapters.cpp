#include "executor/adapters.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace foretoken {
namespace {

class Synthetic final : public AdapterSource {
 public:
  Synthetic(const ModelConfig& model, std::int64_t rank, std::uint64_t seed)
      : rank_(rank), seed_(seed), model_(model) {
    whole_.lora.rank = rank, whole_.lora.targets = 0x7f;
  }
  void read(std::int64_t adapter, std::int64_t layer, LoraTarget target, bool expand, std::int64_t row,
            float* out) const override {
    std::int64_t width = rank_;
    const LayerKind& kind = model_.kinds[model_.layers[static_cast<std::size_t>(layer)]];
    if (!expand)
      for (const LoraProduct& p : lora_products(kind, model_.hidden, whole_))
        for (const LoraProduct::Output& o : p.outputs)
          if (o.target == target) width = p.in;
    std::uint64_t key = mix64(seed_ ^ 0x6c6f7261);
    for (const std::int64_t part :
         {adapter, layer, static_cast<std::int64_t>(target), std::int64_t{expand}, row})
      key = mix64(key ^ static_cast<std::uint64_t>(part + 1));
    // Uniform of deviation 1 / sqrt(columns).
    const double most = std::sqrt(3.0 / static_cast<double>(width));
    for (std::int64_t i = 0; i < width; ++i) {
      const double u = static_cast<double>(mix64(key + static_cast<std::uint64_t>(i)) >> 11) * 0x1p-53;
      out[i] = static_cast<float>(most * (2 * u - 1));
    }
  }

 private:
  std::int64_t rank_;
  std::uint64_t seed_;
  ModelConfig model_;
  Shard whole_;
};

Shard shard_of(const Layout& layout) {
  Shard s;
  s.tensor_parallel = layout.ranks;
  s.lora = layout.lora;
  return s;
}

template <class Visit>
void for_each_matrix(const LoraProduct& p, std::int64_t rank, Visit&& visit) {
  visit(static_cast<std::int64_t>(p.outputs.size()) * rank, p.in);
  for (const LoraProduct::Output& o : p.outputs) visit(o.rows, rank);
}

std::size_t one_adapter(const ModelConfig& model, const Kernels& kernels, const Layout& layout) {
  std::size_t bytes = 0;
  for (const std::uint8_t kind : model.layers)
    for (const LoraProduct& p : lora_products(model.kinds[kind], model.hidden, shard_of(layout)))
      for_each_matrix(p, layout.lora.rank, [&](std::int64_t n, std::int64_t k) {
        bytes += Arena::padded(kernels.packed_bytes(layout.plain, n, k));
      });
  return bytes;
}

}  // namespace

std::unique_ptr<AdapterSource> synthetic_adapters(const ModelConfig& model, std::int64_t rank,
                                                  std::uint64_t seed) {
  return std::make_unique<Synthetic>(model, rank, seed);
}

std::size_t RankAdapters::bytes_needed(const ModelConfig& model, const Kernels& kernels,
                                       const Layout& layout) {
  if (layout.lora.rank <= 0) return 0;
  return one_adapter(model, kernels, layout) *
         static_cast<std::size_t>((kernels.memory().host_reads() ? layout.num_adapters : 0) +
                                  layout.lora.slots);
}

RankAdapters RankAdapters::plan(const ModelConfig& model, const Layout& layout) {
  RankAdapters plan;
  for (const std::uint8_t kind : model.layers)
    for (LoraProduct& p : lora_products(model.kinds[kind], model.hidden, shard_of(layout))) {
      Product product;
      for_each_matrix(p, layout.lora.rank, [&](std::int64_t n, std::int64_t k) {
        const Matrix m{layout.plain, n, k, nullptr};
        if (product.a.n == 0)
          product.a = m;
        else
          product.b.push_back(m);
      });
      product.shape = std::move(p);
      plan.products_.push_back(std::move(product));
    }
  return plan;
}

RankAdapters::RankAdapters(const ModelConfig& model, const AdapterSource& source, const Kernels& kernels,
                           const Layout& layout, const Rank& rank) {
  memory_ = &kernels.memory();
  slot_bytes_ = one_adapter(model, kernels, layout);
  host_ = Arena(slot_bytes_ * static_cast<std::size_t>(layout.num_adapters), *memory_, Arena::Place::kHost);
  slots_ = Arena(slot_bytes_ * static_cast<std::size_t>(layout.lora.slots), *memory_);
  host_begin_ = host_.bytes(slot_bytes_ * static_cast<std::size_t>(layout.num_adapters));
  slots_begin_ = slots_.bytes(slot_bytes_ * static_cast<std::size_t>(layout.lora.slots));
  const std::int64_t low = layout.lora.rank;
  std::vector<float> row;

  // Row of B that this rank's row `at` is, and the first of the columns of A that it holds.
  const auto first_row = [&](const LayerKind& kind, LoraTarget t) -> std::int64_t {
    const auto* a = std::get_if<GqaAttention>(&kind.mixer);
    const auto* m = std::get_if<DenseMlp>(&kind.mlp);
    switch (t) {
      case LoraTarget::kQ:
        return rank.heads(a->heads).first * a->head_dim;
      case LoraTarget::kK:
        return rank.kv_heads(a->kv_heads).first * a->head_dim;
      case LoraTarget::kV:
        return rank.kv_heads(a->kv_heads).first * a->v_head_dim;
      case LoraTarget::kGate:
      case LoraTarget::kUp:
        return rank.heads(m->inter).first;
      default:
        return 0;
    }
  };
  const auto input = [&](const LayerKind& kind, LoraModule module) -> std::pair<std::int64_t, std::int64_t> {
    if (module == LoraModule::kO) {
      const auto& a = std::get<GqaAttention>(kind.mixer);
      return {rank.heads(a.heads).first * a.v_head_dim, a.heads * a.v_head_dim};
    }
    if (module == LoraModule::kDown) {
      const auto& m = std::get<DenseMlp>(kind.mlp);
      return {rank.heads(m.inter).first, m.inter};
    }
    return {0, model.hidden};
  };

  index_.assign(model.layers.size() * kLoraModules, -1);
  for (std::int64_t adapter = 0; adapter < layout.num_adapters; ++adapter) {
    std::size_t offset = 0;
    for (std::size_t l = 0; l < model.layers.size(); ++l) {
      const auto layer = static_cast<std::int64_t>(l);
      const LayerKind& kind = model.kinds[model.layers[l]];
      for (LoraProduct& p : lora_products(kind, model.hidden, shard_of(layout))) {
        Product product;
        const auto pack = [&](std::int64_t n, std::int64_t k, const auto& read) {
          // In the first slot, then put away.
          const std::size_t size = kernels.packed_bytes(layout.plain, n, k);
          const Matrix m = kernels.pack(layout.plain, n, k, read, slots_begin_ + offset);
          memory_->copy(host_begin_ + slot_bytes_ * static_cast<std::size_t>(adapter) + offset, m.packed,
                        size);
          offset += Arena::padded(size);
          return m;
        };
        const auto [column, width] = input(kind, p.module);
        row.resize(static_cast<std::size_t>(width));
        product.a =
            pack(static_cast<std::int64_t>(p.outputs.size()) * low, p.in, [&](std::int64_t r, float* out) {
              const LoraTarget t = p.outputs[static_cast<std::size_t>(r / low)].target;
              source.read(adapter, layer, t, false, r % low, row.data());
              std::copy_n(row.data() + column, p.in, out);
            });
        for (const LoraProduct::Output& o : p.outputs)
          product.b.push_back(pack(o.rows, low, [&](std::int64_t r, float* out) {
            source.read(adapter, layer, o.target, true, first_row(kind, o.target) + r, out);
          }));
        if (adapter > 0) continue;  // the places are alike in all
        index_[l * kLoraModules + static_cast<std::size_t>(p.module)] = static_cast<int>(products_.size());
        product.shape = std::move(p);
        products_.push_back(std::move(product));
      }
    }
  }
}

void RankAdapters::load(std::int64_t adapter, std::int64_t slot) {
  memory_->copy_later(slots_begin_ + slot_bytes_ * static_cast<std::size_t>(slot),
                      host_begin_ + slot_bytes_ * static_cast<std::size_t>(adapter), slot_bytes_);
}

const RankAdapters::Product* RankAdapters::product(std::int64_t layer, LoraModule module) const {
  if (index_.empty()) return nullptr;
  const int at = index_[static_cast<std::size_t>(layer) * kLoraModules + static_cast<std::size_t>(module)];
  return at < 0 ? nullptr : &products_[static_cast<std::size_t>(at)];
}

}  // namespace foretoken
