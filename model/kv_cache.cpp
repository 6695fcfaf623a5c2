// KV cache, recurrent state and index cache (formulas.md 2.5).
#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "model/weights.h"

namespace foretoken {
namespace {

// An index key in fp8 with one fp32 scale for every 128 values.
double index_key_bytes(std::int64_t dim) { return static_cast<double>(dim + 4 * ((dim + 127) / 128)); }

// Stored bytes of one token in one layer, by what becomes of them.
struct LayerCache {
  double whole = 0;     // kept for every token
  double windowed = 0;  // kept for the last `window` tokens
  std::int64_t window = 0;
  double index = 0;        // index cache a token
  std::int64_t ratio = 0;  // compressed entries: one of compressed bytes for every `ratio` tokens
  double compressed = 0;
};

LayerCache layer_cache(const LayerKind& kind, int tensor_parallel, DType kv) {
  LayerCache c;
  const double b = bytes_of(kv);
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
    const std::int64_t heads = kv_heads_on_rank(a->kv_heads, tensor_parallel);
    const double token =
        static_cast<double>(heads * (a->head_dim + (a->value_is_key ? 0 : a->v_head_dim))) * b;
    (a->window > 0 ? c.windowed : c.whole) = token;
    c.window = a->window;
    // One key of the index heads a token, in the activation type (MiniMax-M3).
    if (a->index_heads > 0) c.index = 2.0 * static_cast<double>(a->index_head_dim);
  } else if (const auto* m = std::get_if<MlaAttention>(&kind.mixer)) {
    c.whole = static_cast<double>(m->kv_lora_rank + m->rope_dim) * b;
    if (m->has_indexer) c.index = index_key_bytes(m->index_head_dim);
  } else if (const auto* s = std::get_if<CompressedAttention>(&kind.mixer)) {
    c.windowed = static_cast<double>(s->head_dim) * b;
    c.window = s->window;
    c.ratio = s->ratio;
    c.compressed = static_cast<double>(s->head_dim) * b;
    if (s->index_heads > 0) c.index = index_key_bytes(s->index_head_dim) / static_cast<double>(s->ratio);
  }
  return c;
}

template <class F>
void for_layers(const ModelConfig& model, const Shard& shard, F&& f) {
  const auto [first, last] = layer_range(model, shard);
  for (std::size_t k = 0; k < model.kinds.size(); ++k)
    if (const std::int64_t count = model.layers_of_kind(k, first, last); count > 0)
      f(model.kinds[k], static_cast<double>(count));
}

double per_token(const ModelConfig& model, const Shard& shard, DType kv, bool with_index) {
  double sum = 0;
  for_layers(model, shard, [&](const LayerKind& kind, double layers) {
    const LayerCache c = layer_cache(kind, shard.tensor_parallel, kv);
    // Compressed layers keep a window of constant size: what grows is one entry for every `ratio` tokens.
    const double token = c.ratio > 0 ? c.compressed / static_cast<double>(c.ratio) : c.whole + c.windowed;
    sum += layers * (token + (with_index ? c.index : 0.0));
  });
  return sum;
}

double in_blocks(std::int64_t tokens, int block_size) {
  const std::int64_t block = std::max(1, block_size);
  return static_cast<double>((tokens + block - 1) / block * block);
}

// Of one layer, index keys left out.
double kept_bytes(const LayerCache& c, std::int64_t tokens, int block_size) {
  const std::int64_t windowed = c.window > 0 ? std::min(tokens, c.window) : tokens;
  const double bytes = c.whole * in_blocks(tokens, block_size) + c.windowed * in_blocks(windowed, block_size);
  return c.ratio > 0 ? bytes + c.compressed * static_cast<double>(tokens / c.ratio) : bytes;
}
double index_bytes(const LayerCache& c, std::int64_t tokens, int block_size) {
  return c.index * in_blocks(tokens, block_size);
}

}  // namespace

double kv_bytes_per_token(const ModelConfig& model, DType kv) { return per_token(model, Shard{}, kv, false); }

double kv_bytes_per_token(const ModelConfig& model, const Shard& shard, DType kv) {
  return per_token(model, shard, kv, true);
}

double kv_bytes(const ModelConfig& model, const Shard& shard, DType kv, std::int64_t tokens, int block_size) {
  if (tokens <= 0) return 0;
  double sum = 0;
  for_layers(model, shard, [&](const LayerKind& kind, double layers) {
    const LayerCache c = layer_cache(kind, shard.tensor_parallel, kv);
    sum += layers * (kept_bytes(c, tokens, block_size) + index_bytes(c, tokens, block_size));
  });
  return sum;
}

std::vector<KvComponent> kv_components(const ModelConfig& model, const Shard& shard, DType kv,
                                       std::int64_t tokens) {
  std::vector<KvComponent> all;
  const auto add = [&](const std::string& name, double layers, double bytes) {
    if (bytes <= 0) return;
    auto at = std::find_if(all.begin(), all.end(), [&](const KvComponent& c) { return c.name == name; });
    if (at == all.end()) at = all.insert(at, {name});
    at->layers += static_cast<std::int64_t>(layers);
    at->bytes += layers * bytes;
  };
  for_layers(model, shard, [&](const LayerKind& kind, double layers) {
    const LayerCache c = layer_cache(kind, shard.tensor_parallel, kv);
    const bool latents = std::holds_alternative<MlaAttention>(kind.mixer);
    const std::string name = c.ratio > 0    ? "window and compressed entries"
                             : latents      ? "latents"
                             : c.window > 0 ? "attention, window of " + std::to_string(c.window)
                                            : "attention";
    add(name, layers, kept_bytes(c, tokens, 1));
    add("index keys", layers, index_bytes(c, tokens, 1));
  });
  return all;
}

double recurrent_state_bytes(const ModelConfig& model, const Shard& shard) {
  double sum = 0;
  for_layers(model, shard, [&](const LayerKind& kind, double layers) {
    const auto* r = std::get_if<RecurrentMixer>(&kind.mixer);
    if (r != nullptr) sum += layers * layer_state_bytes(*r, shard.tensor_parallel);
  });
  return sum;
}

double layer_state_bytes(const RecurrentMixer& r, int tensor_parallel) {
  const double state = 4.0 * static_cast<double>(r.v_heads * r.k_dim * r.v_dim);
  return state / tensor_parallel + layer_convolution_bytes(r, tensor_parallel);
}

double layer_convolution_bytes(const RecurrentMixer& r, int tensor_parallel) {
  using Kind = RecurrentMixer::Kind;
  // The convolution keeps kernel - 1 inputs of each channel: queries or the state's B and C, keys, and
  // values.
  std::int64_t channels = 2 * r.k_heads * r.k_dim + r.v_heads * r.v_dim;
  if (r.kind == Kind::kLightning) channels = 0;
  if (r.kind == Kind::kMamba1) channels = r.v_heads * r.v_dim;
  const double conv = 2.0 * static_cast<double>(channels * std::max<std::int64_t>(0, r.conv_kernel - 1));
  return conv / tensor_parallel;
}

double index_cache_bytes_per_token(const ModelConfig& model) {
  double sum = 0;
  for_layers(model, Shard{}, [&](const LayerKind& kind, double layers) {
    sum += layers * layer_cache(kind, 1, DType::kBf16).index;
  });
  return sum;
}

}  // namespace foretoken
