#include "executor/rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/error.h"
#include "executor/stored_rows.h"

namespace foretoken {

// Walks over the rank's weights twice: without memory it adds up what they take, with memory it reads and
// packs them.
class Rank::Loader {
 public:
  Loader(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels, const Layout& layout,
         Threads& threads, Arena* arena)
      : model_(model),
        checkpoint_(checkpoint),
        kernels_(kernels),
        quantised_x_(layout.quantised_x),
        fp8_scales_(layout.fp8_scales),
        threads_(threads),
        arena_(arena),
        matrices_(arena) {}
  std::size_t bytes() const { return bytes_; }
  std::size_t matrix_bytes() const { return matrix_bytes_; }  // of them, matrices and their biases
  // Matrices and biases go there from now on, from its start; null: beside the vectors.
  void put_matrices(Arena* arena) {
    if (arena) arena->reset();
    matrices_ = arena ? arena : arena_;
  }

  // Elements [part.first, part.first + part.count) of a vector; null where the model has none.
  const float* vector(Role role, std::int64_t layer, Slice part, std::int64_t expert = 0) {
    const Extent e = checkpoint_.extent(role, layer, expert);
    if (e.rows == 0 || part.count <= 0) return nullptr;
    float* out = take(part.count, arena_);
    if (!out) return nullptr;
    row_.resize(static_cast<std::size_t>(e.columns));
    checkpoint_.read(role, layer, expert, 0, 1, row_.data());
    put(row_.data() + part.first, part.count, out);
    return out;
  }
  const float* whole(Role role, std::int64_t layer) {
    return vector(role, layer, {0, checkpoint_.extent(role, layer).columns});
  }

  // Rows [rows.first, ...) of a matrix, one below the other.
  void append_rows(Role role, std::int64_t layer, Slice rows, float*& out) {
    if (!out) return;
    const std::int64_t values = rows.count * checkpoint_.extent(role, layer).columns;
    row_.resize(static_cast<std::size_t>(values));
    checkpoint_.read(role, layer, 0, rows.first, rows.count, row_.data());
    put(row_.data(), values, out);
    out += values;
  }
  float* floats(std::int64_t count) { return take(count, arena_); }

  // Rows of several matrices one below the other, all with the same columns.
  struct Part {
    Role weight, bias;
    Slice rows;
    bool add_bias = true;  // false on all ranks but one where outputs are summed over ranks
  };
  Linear linear(std::initializer_list<Part> parts, Slice columns, Storage storage, std::int64_t layer,
                std::int64_t expert = 0) {
    return linear(std::span(parts.begin(), parts.size()), columns, storage, layer, expert);
  }
  Linear linear(std::span<const Part> parts, Slice columns, Storage storage, std::int64_t layer,
                std::int64_t expert = 0) {
    std::int64_t n = 0;
    bool any_bias = false;
    for (const Part& p : parts) {
      n += p.rows.count;
      any_bias |= p.add_bias && checkpoint_.extent(p.bias, layer, expert).rows > 0;
    }
    Linear result;
    if (n <= 0 || columns.count <= 0) return result;
    const auto read = [&](std::int64_t row, float* out) {
      for (const Part& p : parts) {
        if (row >= p.rows.count) {
          row -= p.rows.count;
          continue;
        }
        const std::int64_t width = checkpoint_.extent(p.weight, layer, expert).columns;
        if (columns.count == width)
          return checkpoint_.read(p.weight, layer, expert, p.rows.first + row, 1, out);
        std::vector<float> whole(static_cast<std::size_t>(width));
        checkpoint_.read(p.weight, layer, expert, p.rows.first + row, 1, whole.data());
        std::copy_n(whole.data() + columns.first, columns.count, out);
        return;
      }
    };
    const bool one_scale = storage == Storage::kFp8 && fp8_scales_ != Fp8Scales::kRows;
    float scale = 0;
    if (one_scale && matrices_ != nullptr) {
      for (const Part& p : parts) {
        const float of_part = checkpoint_.weight_scale(p.weight, layer, expert);
        scale = of_part > 0 && (scale > 0 || &p == parts.data()) ? std::max(scale, of_part) : 0;
      }
      if (scale == 0) scale = one_fp8_scale(n, columns.count, read, threads_);
    }
    result.w = pack(storage, n, columns.count, read, scale);
    result.w.quantised_x = quantised_x_ && of_8_bits(storage);
    if (result.w.quantised_x && one_scale) {
      result.w.one_x_scale = fp8_scales_ != Fp8Scales::kTensorToken;
      if (fp8_scales_ == Fp8Scales::kStatic) result.w.x_scale = input_scale(parts, layer, expert);
    }
    if (!any_bias) return result;
    matrix_bytes_ += Arena::padded(static_cast<std::size_t>(n) * sizeof(float));
    float* bias = take(n, matrices_);
    if (!bias) return result;
    result.bias = bias;
    for (const Part& p : parts) {
      const Extent e = checkpoint_.extent(p.bias, layer, expert);
      row_.assign(static_cast<std::size_t>(std::max(e.columns, p.rows.first + p.rows.count)), 0.0f);
      if (p.add_bias && e.rows > 0) checkpoint_.read(p.bias, layer, expert, 0, 1, row_.data());
      put(row_.data() + p.rows.first, p.rows.count, bias);
      bias += p.rows.count;
    }
    return result;
  }

  template <class Read>
  Matrix pack(Storage storage, std::int64_t n, std::int64_t k, Read&& read, float scale = 0) {
    const std::size_t size = kernels_.packed_bytes(storage, n, k);
    bytes_ += Arena::padded(size);
    matrix_bytes_ += Arena::padded(size);
    if (!matrices_) return {storage, n, k, nullptr};
    return kernels_.pack(storage, n, k, read, matrices_->bytes(size), threads_, scale);
  }

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelConfig& model() const { return model_; }

 private:
  void put(const float* values, std::int64_t count, float* to) const {
    kernels_.memory().copy(to, values, static_cast<std::size_t>(count) * sizeof(float));
  }
  // The largest of what the parts' inputs, which are the same one, were calibrated to have.
  float input_scale(std::span<const Part> parts, std::int64_t layer, std::int64_t expert) const {
    float largest = 0;
    for (const Part& p : parts) {
      const float scale = checkpoint_.input_scale(p.weight, layer, expert);
      if (!(scale > 0))
        throw Error(
            "--fp8-scales",
            fmt::format("is static, and a matrix of layer {} has no input_scale in the checkpoint; use "
                        "tensor-token",
                        layer));
      largest = std::max(largest, scale);
    }
    return largest;
  }
  float* take(std::int64_t count, Arena* from) {
    const auto n = static_cast<std::size_t>(count);
    bytes_ += Arena::padded(n * sizeof(float));
    return from ? from->array<float>(n) : nullptr;
  }
  const ModelConfig& model_;
  const Checkpoint& checkpoint_;
  const Kernels& kernels_;
  const bool quantised_x_;
  const Fp8Scales fp8_scales_;
  Threads& threads_;
  Arena *arena_, *matrices_;
  std::size_t bytes_ = 0, matrix_bytes_ = 0;
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

// A pointer into memory that begins at `from`, into its copy at `to`.
template <class T>
void move_pointer(T*& p, const std::byte* from, const std::byte* to) {
  if (p == nullptr) return;
  const std::byte* at = to + (reinterpret_cast<const std::byte*>(p) - from);
  p = reinterpret_cast<T*>(const_cast<std::byte*>(at));
}

void move_matrices(LayerWeights& w, const std::byte* from, const std::byte* to) {
  const auto move = [&](Linear& l) {
    move_pointer(l.w.packed, from, to);
    move_pointer(l.bias, from, to);
  };
  for (Linear* l :
       {&w.qkv, &w.o, &w.gate_up, &w.down, &w.router, &w.shared_gate_up, &w.shared_down, &w.shared_mix,
        &w.q_a, &w.q_b, &w.kv_a, &w.kv_b, &w.linear_in, &w.linear_gates, &w.linear_out})
    move(*l);
  for (Linear& l : w.absorb_k) move(l);
  for (Linear& l : w.absorb_v) move(l);
  for (ExpertWeights& e : w.experts) move(e.gate_up), move(e.down);
}

std::size_t block_bytes(std::span<const KvArray> arrays) {
  std::size_t bytes = 0;
  for (const KvArray& a : arrays) bytes += a.block_bytes;
  return bytes;
}

}  // namespace

Rank::Slice Rank::kv_heads(std::int64_t all) const {
  if (all >= layout_.ranks) return slice(all, index_, layout_.ranks);
  return {index_ * all / layout_.ranks, 1};  // shared by ranks
}

Rank::Rank(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
           const Layout& layout, int index, Threads& threads)
    : Rank(layout, index, kernels.memory()) {
  Loader measure(model, checkpoint, kernels, layout, threads, nullptr);
  load(measure);
  std::size_t resident = measure.bytes();
  for (const std::size_t bytes : streamed_bytes_) resident -= bytes;
  weights_ = std::make_shared<Arena>(resident, *memory_);
  if (!streamed_bytes_.empty())
    stream_ = std::make_unique<WeightStream>(streamed_bytes_, layout.stream, *memory_);
  Loader loader(model, checkpoint, kernels, layout, threads, weights_.get());
  load(loader);
  allocate_caches(model);
}

void Rank::allocate_caches(const ModelConfig& model) {
  cache_memory_ =
      Arena(allocate_cache(model, layout_.cache_blocks(), nullptr, cache_, &recurrent_), *memory_);
  allocate_cache(model, layout_.cache_blocks(), &cache_memory_, cache_, &recurrent_);
  arrays_ = cache_arrays();
  for (const KvStoreLayout& of : stores()) {
    std::shared_ptr<KvStore> own;
    const auto at = static_cast<std::size_t>(index_);
    if (of.shared) {
      of.shared->resize(std::max(of.shared->size(), at + 1));
      own = (*of.shared)[at];
    }
    if (!own) own = std::make_shared<KvStore>(of, block_bytes(arrays_), *memory_);
    if (of.shared) (*of.shared)[at] = own;
    stores_.push_back(std::move(own));
  }
}

std::vector<KvStoreLayout> Rank::stores() const {
  std::vector<KvStoreLayout> all = layout_.kv_tiers;
  if (layout_.num_host_blocks > 0) all.insert(all.begin(), KvStoreLayout{layout_.num_host_blocks});
  return all;
}

Experts Rank::experts_of(std::int64_t i, std::int64_t all) const {
  const std::vector<ExpertWeights>& own = layer(i).experts;
  const Slice slice = experts(all);
  Experts e{own.front().gate_up.w, own.front().down.w, own.front().gate_up.bias, own.front().down.bias, 0,
            slice.first,           slice.count};
  if (own.size() > 1)
    e.stride = static_cast<std::size_t>(own[1].gate_up.w.packed - own.front().gate_up.w.packed);
  return e;
}

Rank Rank::twin(const ModelConfig& model, const Layout& layout) const {
  Rank rank(layout, index_, *memory_);
  rank.weights_ = weights_;
  rank.layers_ = layers_;
  rank.lm_head_ = lm_head_;
  rank.allocate_caches(model);
  return rank;
}

Rank Rank::plan(const ModelConfig& model, const Checkpoint& checkpoint, const Kernels& kernels,
                const Layout& layout, int index, std::size_t& weights, std::size_t& cache) {
  Rank plan(layout, index, kernels.memory());
  Threads none;
  Loader loader(model, checkpoint, kernels, layout, none, nullptr);
  plan.load(loader);
  weights += loader.bytes();
  for (const std::size_t bytes : plan.streamed_bytes_) weights -= bytes;
  if (!plan.streamed_bytes_.empty())  // and a layer that is being packed
    weights += WeightStream::bytes_needed(plan.streamed_bytes_, layout.stream, kernels.memory()) +
               *std::max_element(plan.streamed_bytes_.begin(), plan.streamed_bytes_.end());
  cache += plan.allocate_cache(model, layout.cache_blocks(), nullptr, plan.cache_, &plan.recurrent_);
  if (!kernels.memory().host_reads()) return plan;  // stores are in another memory
  const std::size_t block = block_bytes(plan.cache_arrays());
  for (const KvStoreLayout& of : plan.stores())
    cache += (KvStore::bytes_needed(of, block) + of.sharers - 1) / of.sharers;
  return plan;
}

// Without a stream sizes are added up, with one each streamed layer is packed in one place and put away.
void Rank::load(Loader& in) {
  const ModelConfig& m = in.model();
  Shard shard;
  shard.streamed_layers = layout_.streamed_layers;
  layers_.assign(static_cast<std::size_t>(m.num_layers), {});
  streamed_.assign(layout_.streamed_layers > 0 ? layers_.size() : 0, 0);
  bases_.assign(streamed_.size(), nullptr);
  Arena packed(stream_ ? *std::max_element(streamed_bytes_.begin(), streamed_bytes_.end()) : 0, *memory_);
  std::size_t streamed = 0;
  for (std::int64_t l = 0; l < m.num_layers; ++l) {
    if (layout_.streamed_layers == 0 || !is_streamed(m, shard, static_cast<int>(l))) {
      load_layer(in, l);
      continue;
    }
    streamed_[static_cast<std::size_t>(l)] = 1;
    const std::size_t before = in.matrix_bytes();
    if (stream_) in.put_matrices(&packed);
    load_layer(in, l);
    in.put_matrices(nullptr);
    if (!stream_) {
      streamed_bytes_.push_back(in.matrix_bytes() - before);
      continue;
    }
    packed.reset();
    bases_[static_cast<std::size_t>(l)] = packed.bytes(0);
    stream_->store(streamed++, bases_[static_cast<std::size_t>(l)]);
  }
  lm_head_ = in.linear({{Role::kLmHead, Role::kFinalNormBias, vocabulary(m.vocab), false}}, {0, m.hidden},
                       layout_.plain, 0);
}

void Rank::fetch(std::int64_t layer) {
  const auto l = static_cast<std::size_t>(layer);
  const std::byte* at = stream_->acquire();
  move_matrices(layers_[l], bases_[l], at);
  bases_[l] = at;
}

void Rank::load_layer(Loader& in, std::int64_t l) {
  const ModelConfig& m = in.model();
  const Slice hidden{0, m.hidden};
  const bool first = index_ == 0;
  LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  const LayerKind& kind = m.kinds[m.layers[static_cast<std::size_t>(l)]];
  w.input_norm = in.whole(Role::kInputNorm, l), w.input_norm_bias = in.whole(Role::kInputNormBias, l);
  w.post_norm = in.whole(Role::kPostNorm, l), w.post_norm_bias = in.whole(Role::kPostNormBias, l);
  w.attn_output_norm = in.whole(Role::kAttnOutputNorm, l),
  w.mlp_output_norm = in.whole(Role::kMlpOutputNorm, l);
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
    const Slice q = heads(a->heads), kv = kv_heads(a->kv_heads);
    const auto rows = [&](const Slice& s, std::int64_t dim) { return Slice{s.first * dim, s.count * dim}; };
    // An output gate stands beside each head's query in the checkpoint, behind all values here.
    std::vector<Loader::Part> parts{{Role::kQ, Role::kQBias, rows(q, a->head_dim)},
                                    {Role::kK, Role::kKBias, rows(kv, a->head_dim)},
                                    {Role::kV, Role::kVBias, rows(kv, a->v_head_dim)}};
    if (a->output_gate) {
      parts.erase(parts.begin());
      for (std::int64_t h = 0; h < q.count; ++h) {
        const std::int64_t at = 2 * (q.first + h) * a->head_dim;
        parts.insert(parts.begin() + h, {Role::kQ, Role::kQBias, {at, a->head_dim}, false});
        parts.push_back({Role::kQ, Role::kQBias, {at + a->head_dim, a->head_dim}, false});
      }
    }
    w.qkv = in.linear(std::span<const Loader::Part>(parts), hidden, layout_.weights, l);
    w.o = in.linear({{Role::kO, Role::kOBias, hidden, first}}, rows(q, a->v_head_dim), layout_.weights, l);
    w.q_norm = in.whole(Role::kQNorm, l), w.k_norm = in.whole(Role::kKNorm, l);
    w.sinks = in.vector(Role::kSinks, l, q);
  } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
    load_latent(in, *latent, l, w);
  } else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
    load_recurrent(in, *r, l, w);
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
    const bool adds = expert_index() % layout_.moe_tensor_parallel == 0;
    for (std::int64_t x = local.first; x < local.first + local.count; ++x) {
      ExpertWeights expert;
      expert.gate_up = in.linear(
          {{Role::kExpertGate, Role::kExpertGateBias, width}, {Role::kExpertUp, Role::kExpertUpBias, width}},
          hidden, layout_.weights, l, x);
      expert.down =
          in.linear({{Role::kExpertDown, Role::kExpertDownBias, hidden, adds}}, width, layout_.weights, l, x);
      w.experts.push_back(expert);
    }
    // Rows are rounded once, whichever experts they go to: by the largest scale of any of the layer's.
    if (!w.experts.empty() && w.experts.front().gate_up.w.x_scale > 0) {
      float up = 0, down = 0;
      for (std::int64_t x = 0; x < e->experts; ++x) {
        for (const Role role : {Role::kExpertGate, Role::kExpertUp})
          up = std::max(up, in.checkpoint().input_scale(role, l, x));
        down = std::max(down, in.checkpoint().input_scale(Role::kExpertDown, l, x));
      }
      for (ExpertWeights& x : w.experts) x.gate_up.w.x_scale = up, x.down.w.x_scale = down;
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
  // Both read the layer's norm, which is rounded once where it is made.
  Matrix& beside = a.q_lora_rank > 0 ? w.q_a.w : w.q_b.w;
  beside.x_scale = w.kv_a.w.x_scale = std::max(beside.x_scale, w.kv_a.w.x_scale);
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

// From the order of the checkpoint, one key head after the other, to all queries, all keys, all values and
// all gates: what the convolution reads lies together.
void Rank::load_recurrent(Loader& in, const RecurrentMixer& r, std::int64_t l, LayerWeights& w) {
  const Slice groups = heads(r.k_heads), hidden{0, in.model().hidden};
  const std::int64_t each = r.v_heads / r.k_heads, v = each * r.v_dim, group = 2 * r.k_dim + 2 * v;
  std::vector<Loader::Part> parts, gates;
  const auto add = [&](std::int64_t offset, std::int64_t rows) {
    for (std::int64_t g = groups.first; g < groups.first + groups.count; ++g)
      parts.push_back({Role::kLinearIn, Role::kQBias, {g * group + offset, rows}, false});
  };
  add(0, r.k_dim), add(r.k_dim, r.k_dim), add(2 * r.k_dim, v), add(2 * r.k_dim + v, v);
  for (const std::int64_t offset : {std::int64_t{0}, each})
    for (std::int64_t g = groups.first; g < groups.first + groups.count; ++g)
      gates.push_back({Role::kLinearGates, Role::kQBias, {2 * g * each + offset, each}, false});
  w.linear_in = in.linear(std::span<const Loader::Part>(parts), hidden, layout_.weights, l);
  w.linear_gates = in.linear(std::span<const Loader::Part>(gates), hidden, layout_.plain, l);
  const Slice own{groups.first * each, groups.count * each};
  w.linear_out = in.linear({{Role::kLinearOut, Role::kQBias, hidden, false}},
                           {own.first * r.v_dim, own.count * r.v_dim}, layout_.weights, l);
  w.decay = in.vector(Role::kLinearDecay, l, own);
  w.step = in.vector(Role::kLinearStep, l, own);
  w.linear_norm = in.whole(Role::kLinearNorm, l);
  const std::int64_t k = r.k_heads * r.k_dim, own_k = groups.count * r.k_dim, own_v = own.count * r.v_dim;
  float* conv = in.floats((2 * own_k + own_v) * r.conv_kernel);
  w.conv = conv;
  in.append_rows(Role::kLinearConv, l, {groups.first * r.k_dim, own_k}, conv);
  in.append_rows(Role::kLinearConv, l, {k + groups.first * r.k_dim, own_k}, conv);
  in.append_rows(Role::kLinearConv, l, {2 * k + own.first * r.v_dim, own_v}, conv);
}

void Rank::move_cached(const std::int32_t* blocks, std::int64_t from, std::int64_t to) {
  const auto slot = [&](const CacheLayer& c, std::int64_t place, std::int64_t head) {
    return (std::int64_t{blocks[place / c.block_size]} * c.heads + head) * c.block_size +
           place % c.block_size;
  };
  pieces_.clear();
  for (const CacheLayer& c : cache_)
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const auto a = static_cast<std::size_t>(slot(c, from, h)), b = static_cast<std::size_t>(slot(c, to, h));
      const auto move = [&](void* entries, std::size_t size) {
        auto* const at = static_cast<std::byte*>(entries);
        if (at != nullptr && size > 0) pieces_.push_back({at + b * size, at + a * size, size});
      };
      move(c.keys, cache_bytes(c.storage, c.k_dim)), move(c.values, cache_bytes(c.storage, c.v_dim));
      move(c.key_scales, sizeof(float)), move(c.value_scales, sizeof(float));
    }
  memory_->copy_later(pieces_);
}

std::size_t Rank::allocate_cache(const ModelConfig& m, std::int64_t blocks, Arena* arena,
                                 std::vector<CacheLayer>& cache,
                                 std::vector<RecurrentState>* recurrent) const {
  std::size_t bytes = 0;
  cache.assign(static_cast<std::size_t>(m.num_layers), {});
  if (recurrent) recurrent->assign(static_cast<std::size_t>(m.num_layers), {});
  for (std::int64_t l = 0; l < m.num_layers; ++l) {
    CacheLayer& c = cache[static_cast<std::size_t>(l)];
    const LayerKind& kind = m.kinds[m.layers[static_cast<std::size_t>(l)]];
    c.storage = layout_.cache, c.block_size = layout_.block_size;
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
      c.heads = kv_heads(a->kv_heads).count, c.k_dim = a->head_dim, c.v_dim = a->v_head_dim;
    } else if (const auto* latent = std::get_if<MlaAttention>(&kind.mixer)) {
      c.heads = 1, c.k_dim = latent->kv_lora_rank + latent->rope_dim, c.v_dim = 0;
    } else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
      if (!recurrent) continue;
      RecurrentState& s = (*recurrent)[static_cast<std::size_t>(l)];
      const std::int64_t v = heads(r->k_heads).count * (r->v_heads / r->k_heads);
      s.conv_values = (r->conv_kernel - 1) * (2 * heads(r->k_heads).count * r->k_dim + v * r->v_dim);
      s.state_values = v * r->k_dim * r->v_dim;
      const auto floats = [&](std::int64_t each) {
        const auto count = static_cast<std::size_t>(each * layout_.max_sequences);
        bytes += Arena::padded(count * sizeof(float));
        return arena ? arena->array<float>(count) : nullptr;
      };
      s.conv = floats(s.conv_values), s.state = floats(s.state_values);
      continue;
    } else {
      continue;
    }
    const std::int64_t entries = blocks * c.heads * layout_.block_size;
    const auto take = [&](std::size_t size) {
      bytes += Arena::padded(size);
      return arena && size > 0 ? arena->bytes(size) : nullptr;
    };
    const auto scales = [&](bool any) {
      return reinterpret_cast<float*>(
          take(any && of_8_bits(c.storage) ? static_cast<std::size_t>(entries) * 4 : 0));
    };
    c.keys = take(cache_bytes(c.storage, entries * c.k_dim));
    c.values = take(cache_bytes(c.storage, entries * c.v_dim));
    c.key_scales = scales(true);
    c.value_scales = scales(c.v_dim > 0);
  }
  return bytes;
}

// Heads and tokens of a block lie together, so that each of its parts is one piece.
std::vector<KvArray> Rank::cache_arrays() const {
  std::vector<KvArray> arrays;
  for (const CacheLayer& c : cache_) {
    const std::int64_t entries = c.heads * c.block_size;
    const auto add = [&](auto* first, std::size_t bytes) {
      if (bytes > 0) arrays.push_back({reinterpret_cast<std::byte*>(first), bytes});
    };
    const std::size_t scales = of_8_bits(c.storage) ? static_cast<std::size_t>(entries) * sizeof(float) : 0;
    add(c.keys, cache_bytes(c.storage, entries * c.k_dim));
    add(c.values, cache_bytes(c.storage, entries * c.v_dim));
    add(c.key_scales, scales);
    add(c.value_scales, c.v_dim > 0 ? scales : 0);
  }
  return arrays;
}

void Rank::move_blocks(std::int32_t from, std::int32_t to, std::span<const BlockCopy> blocks) {
  const auto store = [&](std::int32_t tier) -> KvStore& { return *stores_[static_cast<std::size_t>(tier)]; };
  if (from < 0) return store(to).write(blocks, arrays_);
  if (to < 0) return store(from).read(blocks, arrays_);
  store(from).copy(blocks, store(to));
}

}  // namespace foretoken
