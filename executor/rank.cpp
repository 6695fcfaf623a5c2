#include "executor/rank.h"

#include <algorithm>
#include <cstring>

namespace foretoken {

// Walks over the rank's weights twice: without memory it adds up what they take, with memory it reads and
// packs them.
class Rank::Loader {
 public:
  Loader(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels, Arena* arena)
      : model_(model), checkpoint_(checkpoint), kernels_(kernels), arena_(arena) {}
  std::size_t bytes() const { return bytes_; }

  // Elements [part.first, part.first + part.count) of a vector; null where the model has none.
  const float* vector(Role role, std::int64_t layer, Slice part, std::int64_t expert = 0) {
    const Extent e = checkpoint_.extent(role, layer, expert);
    if (e.rows == 0 || part.count <= 0) return nullptr;
    float* out = take<float>(part.count);
    if (!out) return nullptr;
    row_.resize(static_cast<std::size_t>(e.columns));
    checkpoint_.read(role, layer, expert, 0, 1, row_.data());
    std::copy_n(row_.data() + part.first, part.count, out);
    return out;
  }
  const float* whole(Role role, std::int64_t layer) {
    return vector(role, layer, {0, checkpoint_.extent(role, layer).columns});
  }

  // Rows of several matrices one below the other, all with the same columns.
  struct Part {
    Role weight, bias;
    Slice rows;
    bool add_bias = true;  // false on all ranks but one where outputs are summed over ranks
  };
  Linear linear(std::initializer_list<Part> parts, Slice columns, Storage storage, std::int64_t layer,
                std::int64_t expert = 0) {
    std::int64_t n = 0;
    bool any_bias = false;
    for (const Part& p : parts) {
      n += p.rows.count;
      any_bias |= p.add_bias && checkpoint_.extent(p.bias, layer, expert).rows > 0;
    }
    Linear result;
    if (n <= 0 || columns.count <= 0) return result;
    result.w = pack(storage, n, columns.count, [&](std::int64_t row, float* out) {
      for (const Part& p : parts) {
        if (row >= p.rows.count) {
          row -= p.rows.count;
          continue;
        }
        const std::int64_t width = checkpoint_.extent(p.weight, layer, expert).columns;
        if (columns.count == width)
          return checkpoint_.read(p.weight, layer, expert, p.rows.first + row, 1, out);
        row_.resize(static_cast<std::size_t>(width));
        checkpoint_.read(p.weight, layer, expert, p.rows.first + row, 1, row_.data());
        std::copy_n(row_.data() + columns.first, columns.count, out);
        return;
      }
    });
    if (!any_bias) return result;
    float* bias = take<float>(n);
    if (!bias) return result;
    result.bias = bias;
    for (const Part& p : parts) {
      const Extent e = checkpoint_.extent(p.bias, layer, expert);
      if (p.add_bias && e.rows > 0) {
        row_.resize(static_cast<std::size_t>(e.columns));
        checkpoint_.read(p.bias, layer, expert, 0, 1, row_.data());
        std::copy_n(row_.data() + p.rows.first, p.rows.count, bias);
      } else {
        std::fill_n(bias, p.rows.count, 0.0f);
      }
      bias += p.rows.count;
    }
    return result;
  }

  template <class Read>
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, Read&& read) {
    const std::size_t size = kernels_.packed_bytes(storage, n, k);
    bytes_ += Arena::padded(size);
    if (!arena_) return {storage, n, k, nullptr};
    return kernels_.pack(storage, n, k, read, arena_->bytes(size));
  }

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelConfig& model() const { return model_; }

 private:
  template <class T>
  T* take(std::int64_t count) {
    const std::size_t size = static_cast<std::size_t>(count) * sizeof(T);
    bytes_ += Arena::padded(size);
    return arena_ ? arena_->array<T>(static_cast<std::size_t>(count)) : nullptr;
  }
  const ModelConfig& model_;
  const Checkpoint& checkpoint_;
  const Kernels& kernels_;
  Arena* arena_;
  std::size_t bytes_ = 0;
  std::vector<float> row_;
};

namespace {

// Bytes of one cache layer's keys or values, and of its scales.
std::size_t cache_bytes(Storage storage, std::int64_t values) {
  switch (storage) {
    case Storage::kF32:
      return static_cast<std::size_t>(values) * 4;
    case Storage::kBf16:
    case Storage::kF16:
      return static_cast<std::size_t>(values) * 2;
    default:
      return static_cast<std::size_t>(values);
  }
}

bool has_scales(Storage storage) { return storage == Storage::kInt8 || storage == Storage::kFp8; }

}  // namespace

Rank::Slice Rank::kv_heads(std::int64_t all) const {
  if (all >= layout_.ranks) return slice(all, index_, layout_.ranks);
  return {index_ * all / layout_.ranks, 1};  // shared by ranks
}

Rank::Rank(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
           const Layout& layout, int index)
    : layout_(layout), index_(index) {
  const Sizes needed = sizes(model, checkpoint, kernels, layout, index);
  weights_ = Arena(needed.weights);
  cache_memory_ = Arena(needed.cache);
  Loader loader(model, checkpoint, kernels, &weights_);
  load(loader);
  allocate_cache(model, &cache_memory_);
}

Rank::Sizes Rank::sizes(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
                        const Layout& layout, int index) {
  Rank plan(layout, index);
  Loader loader(model, checkpoint, kernels, nullptr);
  plan.load(loader);
  return {loader.bytes(), plan.allocate_cache(model, nullptr)};
}

void Rank::load(Loader& in) {
  const ModelConfig& m = in.model();
  const Slice hidden{0, m.hidden};
  const bool first = index_ == 0;
  layers_.assign(static_cast<std::size_t>(m.num_layers), {});
  for (std::int64_t l = 0; l < m.num_layers; ++l) {
    LayerWeights& w = layers_[static_cast<std::size_t>(l)];
    const LayerKind& kind = m.kinds[m.layers[static_cast<std::size_t>(l)]];
    w.input_norm = in.whole(Role::kInputNorm, l), w.input_norm_bias = in.whole(Role::kInputNormBias, l);
    w.post_norm = in.whole(Role::kPostNorm, l), w.post_norm_bias = in.whole(Role::kPostNormBias, l);
    w.attn_output_norm = in.whole(Role::kAttnOutputNorm, l),
    w.mlp_output_norm = in.whole(Role::kMlpOutputNorm, l);
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      const Slice q = heads(a->heads), kv = kv_heads(a->kv_heads);
      const auto rows = [&](const Slice& s, std::int64_t dim) { return Slice{s.first * dim, s.count * dim}; };
      w.qkv = in.linear({{Role::kQ, Role::kQBias, rows(q, a->head_dim)},
                         {Role::kK, Role::kKBias, rows(kv, a->head_dim)},
                         {Role::kV, Role::kVBias, rows(kv, a->v_head_dim)}},
                        hidden, layout_.weights, l);
      w.o = in.linear({{Role::kO, Role::kOBias, hidden, first}}, rows(q, a->v_head_dim), layout_.weights, l);
      w.q_norm = in.whole(Role::kQNorm, l), w.k_norm = in.whole(Role::kKNorm, l);
      w.sinks = in.vector(Role::kSinks, l, q);
    } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
      load_latent(in, *latent, l, w);
    }
    if (const auto* d = std::get_if<DenseMlp>(&kind.mlp)) {
      const Slice width = heads(d->inter);
      if (d->gated)
        w.gate_up = in.linear({{Role::kGate, Role::kGateBias, width}, {Role::kUp, Role::kUpBias, width}},
                              hidden, layout_.weights, l);
      else
        w.gate_up = in.linear({{Role::kUp, Role::kUpBias, width}}, hidden, layout_.weights, l);
      w.down = in.linear({{Role::kDown, Role::kDownBias, hidden, first}}, width, layout_.weights, l);
    } else if (const auto* e = std::get_if<MoeMlp>(&kind.mlp)) {
      w.router = in.linear({{Role::kRouter, Role::kRouterBias, {0, e->experts}}}, hidden, Storage::kF32, l);
      w.correction = in.whole(Role::kRouterCorrection, l);
      const Slice width = expert_width(e->inter), local = experts(e->experts);
      const bool adds = index_ % layout_.moe_tensor_parallel == 0;
      for (std::int64_t x = local.first; x < local.first + local.count; ++x) {
        ExpertWeights expert;
        expert.gate_up = in.linear({{Role::kExpertGate, Role::kExpertGateBias, width},
                                    {Role::kExpertUp, Role::kExpertUpBias, width}},
                                   hidden, layout_.weights, l, x);
        expert.down = in.linear({{Role::kExpertDown, Role::kExpertDownBias, hidden, adds}}, width,
                                layout_.weights, l, x);
        w.experts.push_back(expert);
      }
      if (e->shared_inter > 0) {
        const Slice shared = heads(e->shared_inter);
        w.shared_gate_up = in.linear({{Role::kSharedGate, Role::kUpBias, shared, false},
                                      {Role::kSharedUp, Role::kUpBias, shared, false}},
                                     hidden, layout_.weights, l);
        w.shared_down =
            in.linear({{Role::kSharedDown, Role::kDownBias, hidden, false}}, shared, layout_.weights, l);
        if (e->shared_gate)
          w.shared_mix =
              in.linear({{Role::kSharedMix, Role::kUpBias, {0, 1}, false}}, hidden, Storage::kF32, l);
      }
    }
  }
  lm_head_ = in.linear({{Role::kLmHead, Role::kFinalNormBias, vocabulary(m.vocab), false}}, hidden,
                       layout_.plain, 0);
}

// The absorbed halves of the up-projection: queries into the latent's space, attended latents into values.
// Kept in the plain format, as engines keep them.
void Rank::load_latent(Loader& in, const MlaAttention& a, std::int64_t l, LayerWeights& w) {
  const Slice q = heads(a.heads), hidden{0, in.model().hidden};
  const std::int64_t qk = a.nope_dim + a.rope_dim, up = a.nope_dim + a.v_dim;
  const bool first = index_ == 0;
  if (a.q_lora_rank > 0) {
    w.q_a = in.linear({{Role::kQA, Role::kQABias, {0, a.q_lora_rank}}}, hidden, layout_.weights, l);
    w.q_a_norm = in.whole(Role::kQANorm, l);
    w.q_b = in.linear({{Role::kQB, Role::kQBias, {q.first * qk, q.count * qk}, false}}, {0, a.q_lora_rank},
                      layout_.weights, l);
  } else {
    w.q_b = in.linear({{Role::kQ, Role::kQBias, {q.first * qk, q.count * qk}}}, hidden, layout_.weights, l);
  }
  w.kv_a =
      in.linear({{Role::kKvA, Role::kKvABias, {0, a.kv_lora_rank + a.rope_dim}}}, hidden, layout_.weights, l);
  w.kv_a_norm = in.whole(Role::kKvANorm, l);
  w.kv_b = in.linear({{Role::kKvB, Role::kKBias, {q.first * up, q.count * up}, false}}, {0, a.kv_lora_rank},
                     layout_.weights, l);
  w.o = in.linear({{Role::kO, Role::kOBias, hidden, first}}, {q.first * a.v_dim, q.count * a.v_dim},
                  layout_.weights, l);
  std::vector<float> head(static_cast<std::size_t>(up * a.kv_lora_rank));
  for (std::int64_t h = q.first; h < q.first + q.count; ++h) {
    in.checkpoint().read(Role::kKvB, l, 0, h * up, up, head.data());
    Linear k, v;
    k.w = in.pack(layout_.plain, a.kv_lora_rank, a.nope_dim, [&](std::int64_t row, float* out) {
      for (std::int64_t i = 0; i < a.nope_dim; ++i)
        out[i] = head[static_cast<std::size_t>(i * a.kv_lora_rank + row)];
    });
    v.w = in.pack(layout_.plain, a.v_dim, a.kv_lora_rank, [&](std::int64_t row, float* out) {
      std::copy_n(head.data() + (a.nope_dim + row) * a.kv_lora_rank, a.kv_lora_rank, out);
    });
    w.absorb_k.push_back(k);
    w.absorb_v.push_back(v);
  }
}

void Rank::move_cached(const std::int32_t* blocks, std::int64_t from, std::int64_t to) {
  const auto slot = [&](const CacheLayer& c, std::int64_t place, std::int64_t head) {
    return (std::int64_t{blocks[place / c.block_size]} * c.heads + head) * c.block_size +
           place % c.block_size;
  };
  for (const CacheLayer& c : cache_)
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const std::int64_t a = slot(c, from, h), b = slot(c, to, h);
      const auto copy = [&](std::byte* entries, std::int64_t dims) {
        const std::size_t size = cache_bytes(c.storage, dims);
        if (entries)
          std::memcpy(entries + static_cast<std::size_t>(b) * size,
                      entries + static_cast<std::size_t>(a) * size, size);
      };
      copy(c.keys, c.k_dim);
      copy(c.values, c.v_dim);
      if (c.key_scales) c.key_scales[b] = c.key_scales[a];
      if (c.value_scales) c.value_scales[b] = c.value_scales[a];
    }
}

std::size_t Rank::allocate_cache(const ModelConfig& m, Arena* arena) {
  std::size_t bytes = 0;
  cache_.assign(static_cast<std::size_t>(m.num_layers), {});
  for (std::int64_t l = 0; l < m.num_layers; ++l) {
    CacheLayer& c = cache_[static_cast<std::size_t>(l)];
    const LayerKind& kind = m.kinds[m.layers[static_cast<std::size_t>(l)]];
    c.storage = layout_.cache, c.block_size = layout_.block_size;
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      c.heads = kv_heads(a->kv_heads).count, c.k_dim = a->head_dim, c.v_dim = a->v_head_dim;
    } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
      c.heads = 1, c.k_dim = latent->kv_lora_rank + latent->rope_dim, c.v_dim = 0;
    } else {
      continue;
    }
    const std::int64_t entries = layout_.num_blocks * c.heads * layout_.block_size;
    const auto take = [&](std::size_t size) {
      bytes += Arena::padded(size);
      return arena && size > 0 ? arena->bytes(size) : nullptr;
    };
    const auto scales = [&](bool any) {
      return reinterpret_cast<float*>(
          take(any && has_scales(c.storage) ? static_cast<std::size_t>(entries) * 4 : 0));
    };
    c.keys = take(cache_bytes(c.storage, entries * c.k_dim));
    c.values = take(cache_bytes(c.storage, entries * c.v_dim));
    c.key_scales = scales(true);
    c.value_scales = scales(c.v_dim > 0);
  }
  return bytes;
}

}  // namespace foretoken
