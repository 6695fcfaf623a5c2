#include "executor/kernels_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "executor/storage.h"

namespace foretoken {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activated(const ActivationArgs& a, double x) {
  switch (a.kind) {
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(0.0, x);
    case Activation::kReluSquared:
      return x > 0 ? x * x : 0;
    case Activation::kClampedSwiglu:
      return x * sigmoid(a.alpha * x);
  }
  return x;
}

// Scales of a matrix follow its rows: one a row, or one a group of kInt4Group along it.
std::int64_t scales_of_row(Storage s, std::int64_t k) {
  if (s == Storage::kInt8 || s == Storage::kFp8) return 1;
  return s == Storage::kInt4 ? (k + kInt4Group - 1) / kInt4Group : 0;
}
std::size_t row_bytes(Storage s, std::int64_t k) {
  return s == Storage::kInt4 ? static_cast<std::size_t>((k + 1) / 2) : stored_bytes(s, k);
}
std::size_t scales_at(Storage s, std::int64_t n, std::int64_t k) {
  return (static_cast<std::size_t>(n) * row_bytes(s, k) + 63) / 64 * 64;
}

}  // namespace

std::size_t stored_bytes(Storage storage, std::int64_t values) {
  const auto n = static_cast<std::size_t>(values);
  switch (storage) {
    case Storage::kF32:
      return 4 * n;
    case Storage::kBf16:
    case Storage::kF16:
      return 2 * n;
    default:
      return n;
  }
}

void store_row(Storage storage, const float* from, std::int64_t count, std::byte* to, float* scale) {
  float largest = 0;
  if (storage == Storage::kInt8 || storage == Storage::kFp8)
    for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(from[i]));
  switch (storage) {
    case Storage::kF32:
      std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
      break;
    case Storage::kBf16:
      for (std::int64_t i = 0; i < count; ++i) reinterpret_cast<std::uint16_t*>(to)[i] = to_bf16(from[i]);
      break;
    case Storage::kF16:
      for (std::int64_t i = 0; i < count; ++i) reinterpret_cast<std::uint16_t*>(to)[i] = to_f16(from[i]);
      break;
    case Storage::kFp8:
      *scale = largest > 0 ? largest / 448.0f : 1.0f;
      for (std::int64_t i = 0; i < count; ++i)
        reinterpret_cast<std::uint8_t*>(to)[i] = to_fp8(from[i] / *scale);
      break;
    default:
      *scale = largest > 0 ? largest / 127.0f : 1.0f;
      for (std::int64_t i = 0; i < count; ++i)
        reinterpret_cast<std::int8_t*>(to)[i] = static_cast<std::int8_t>(std::nearbyint(from[i] / *scale));
  }
}

void load_row(Storage storage, const std::byte* from, std::int64_t count, float scale, float* to) {
  switch (storage) {
    case Storage::kF32:
      std::memcpy(to, from, static_cast<std::size_t>(count) * 4);
      break;
    case Storage::kBf16:
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = from_bf16(reinterpret_cast<const std::uint16_t*>(from)[i]);
      break;
    case Storage::kF16:
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = from_f16(reinterpret_cast<const std::uint16_t*>(from)[i]);
      break;
    case Storage::kFp8:
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = scale * from_fp8(reinterpret_cast<const std::uint8_t*>(from)[i]);
      break;
    default:
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = scale * static_cast<float>(reinterpret_cast<const std::int8_t*>(from)[i]);
  }
}

CacheEntry cache_entry(const CacheLayer& c, bool value, const std::int32_t* blocks, std::int64_t token,
                       std::int64_t head) {
  const std::int64_t dim = value ? c.v_dim : c.k_dim;
  const std::int64_t entry =
      (blocks[token / c.block_size] * c.heads + head) * c.block_size + token % c.block_size;
  float* scales = value ? c.value_scales : c.key_scales;
  return {(value ? c.values : c.keys) + stored_bytes(c.storage, entry * dim),
          scales ? scales + entry : nullptr};
}

std::size_t ReferenceKernels::packed_bytes(Storage s, std::int64_t n, std::int64_t k) const {
  return scales_at(s, n, k) + static_cast<std::size_t>(n * scales_of_row(s, k)) * sizeof(float);
}

Matrix ReferenceKernels::pack(Storage s, std::int64_t n, std::int64_t k,
                              const std::function<void(std::int64_t, float*)>& read,
                              std::byte* memory) const {
  std::vector<float> row(static_cast<std::size_t>(k));
  auto* scales = reinterpret_cast<float*>(memory + scales_at(s, n, k));
  for (std::int64_t i = 0; i < n; ++i) {
    read(i, row.data());
    std::byte* to = memory + static_cast<std::size_t>(i) * row_bytes(s, k);
    if (s != Storage::kInt4) {
      store_row(s, row.data(), k, to, scales + i);
      continue;
    }
    std::memset(to, 0, row_bytes(s, k));
    for (std::int64_t g = 0; g < k; g += kInt4Group) {
      const std::int64_t end = std::min(k, g + kInt4Group);
      float largest = 0;
      for (std::int64_t j = g; j < end; ++j)
        largest = std::max(largest, std::fabs(row[static_cast<std::size_t>(j)]));
      const float scale = largest > 0 ? largest / 7.0f : 1.0f;
      *scales++ = scale;
      for (std::int64_t j = g; j < end; ++j) {
        const int v = static_cast<int>(std::nearbyint(row[static_cast<std::size_t>(j)] / scale)) + 8;
        to[j / 2] |= static_cast<std::byte>(j % 2 ? v << 4 : v);
      }
    }
  }
  return {s, n, k, memory};
}

void ReferenceKernels::unpack_row(const Matrix& w, std::int64_t row, float* out) const {
  const std::byte* from = w.packed + static_cast<std::size_t>(row) * row_bytes(w.storage, w.k);
  const auto* scales = reinterpret_cast<const float*>(w.packed + scales_at(w.storage, w.n, w.k)) +
                       row * scales_of_row(w.storage, w.k);
  if (w.storage != Storage::kInt4)
    return load_row(w.storage, from, w.k, scales_of_row(w.storage, w.k) ? *scales : 1, out);
  for (std::int64_t j = 0; j < w.k; ++j) {
    const int v = static_cast<int>(from[j / 2]) >> (j % 2 ? 4 : 0) & 15;
    out[j] = scales[j / kInt4Group] * static_cast<float>(v - 8);
  }
}

void ReferenceKernels::gemm(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t m,
                            const float* bias, bool accumulate, float* y, std::int64_t y_stride, std::byte*,
                            Threads&) const {
  std::vector<float> row(static_cast<std::size_t>(w.k));
  for (std::int64_t n = 0; n < w.n; ++n) {
    unpack_row(w, n, row.data());
    for (std::int64_t i = 0; i < m; ++i) {
      double sum = bias ? bias[n] : 0;
      for (std::int64_t k = 0; k < w.k; ++k)
        sum += static_cast<double>(x[i * x_stride + k]) * row[static_cast<std::size_t>(k)];
      float& to = y[i * y_stride + n];
      to = static_cast<float>(accumulate ? sum + to : sum);
    }
  }
}

void ReferenceKernels::norm(const NormArgs& a, const float* x, std::int64_t x_stride, std::int64_t rows,
                            std::int64_t width, float* y, std::int64_t y_stride) const {
  const auto n = static_cast<double>(width);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    float* to = y + r * y_stride;
    double mean = 0, squares = 0;
    if (a.kind == NormKind::kLayer) {
      for (std::int64_t i = 0; i < width; ++i) mean += from[i];
      mean /= n;
    }
    for (std::int64_t i = 0; i < width; ++i) squares += (from[i] - mean) * (from[i] - mean);
    const double scale = 1 / std::sqrt(squares / n + a.epsilon);
    for (std::int64_t i = 0; i < width; ++i) {
      const double weight = a.weight ? static_cast<double>(a.weight[i]) + a.offset : 1.0;
      to[i] = static_cast<float>((from[i] - mean) * scale * weight + (a.bias ? a.bias[i] : 0.0f));
    }
  }
}

void ReferenceKernels::add(const float* x, std::int64_t values, float* y) const {
  for (std::int64_t i = 0; i < values; ++i) y[i] += x[i];
}

void ReferenceKernels::activation(const ActivationArgs& a, const float* x, std::int64_t rows,
                                  std::int64_t width, float* y) const {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i) {
      const float* from = x + r * width * (a.gated ? 2 : 1);
      double gate = from[i], up = a.gated ? from[width + i] : 1.0;
      if (a.kind == Activation::kClampedSwiglu) {
        gate = std::min<double>(gate, a.limit);
        up = std::clamp<double>(up, -a.limit, a.limit) + 1;
      }
      y[r * width + i] = static_cast<float>(activated(a, gate) * up);
    }
}

void ReferenceKernels::sigmoid_gate(const float* gate, std::int64_t gate_width, std::int64_t rows,
                                    std::int64_t width, float* y) const {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i)
      y[r * width + i] =
          static_cast<float>(y[r * width + i] * sigmoid(gate[r * gate_width + (gate_width == 1 ? 0 : i)]));
}

void ReferenceKernels::rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
                            std::span<const std::int32_t> positions, float* x, std::int64_t x_stride,
                            std::int64_t heads, std::int64_t head_dim, std::int64_t first) const {
  for (std::size_t r = 0; r < positions.size(); ++r) {
    const float *c = cosines + positions[r] * pairs, *s = sines + positions[r] * pairs;
    for (std::int64_t h = 0; h < heads; ++h) {
      float* at = x + static_cast<std::int64_t>(r) * x_stride + h * head_dim + first;
      for (std::int64_t i = 0; i < pairs; ++i) {
        float &a = at[interleaved ? 2 * i : i], &b = at[interleaved ? 2 * i + 1 : i + pairs];
        const float turned = a * c[i] - b * s[i];
        b = b * c[i] + a * s[i];
        a = turned;
      }
    }
  }
}

void ReferenceKernels::cache_write(const CacheLayer& cache, std::span<const SequenceRows> sequences,
                                   const float* keys, std::int64_t key_stride, const float* values,
                                   std::int64_t value_stride) const {
  for (const SequenceRows& s : sequences)
    for (std::int64_t t = 0; t < s.new_tokens; ++t)
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        const std::int64_t row = s.first_row + t;
        const CacheEntry k = cache_entry(cache, false, s.blocks, s.cached + t, h);
        store_row(cache.storage, keys + row * key_stride + h * cache.k_dim, cache.k_dim, k.at, k.scale);
        if (cache.v_dim == 0) continue;
        const CacheEntry v = cache_entry(cache, true, s.blocks, s.cached + t, h);
        store_row(cache.storage, values + row * value_stride + h * cache.v_dim, cache.v_dim, v.at, v.scale);
      }
}

void ReferenceKernels::cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens,
                                  float* keys, float* values) const {
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < cache.heads; ++h) {
      const CacheEntry k = cache_entry(cache, false, blocks, t, h);
      load_row(cache.storage, k.at, cache.k_dim, k.scale ? *k.scale : 1,
               keys + (t * cache.heads + h) * cache.k_dim);
      if (cache.v_dim == 0 || !values) continue;
      const CacheEntry v = cache_entry(cache, true, blocks, t, h);
      load_row(cache.storage, v.at, cache.v_dim, v.scale ? *v.scale : 1,
               values + (t * cache.heads + h) * cache.v_dim);
    }
}

std::size_t ReferenceKernels::attention_scratch(const AttentionArgs& args, const CacheLayer& cache,
                                                std::int64_t, std::int64_t longest, int) const {
  return static_cast<std::size_t>(longest) * sizeof(double) +
         static_cast<std::size_t>(std::max(cache.k_dim, args.v_dim)) * (sizeof(float) + sizeof(double)) + 64;
}

void ReferenceKernels::attention(const AttentionArgs& a, const CacheLayer& cache,
                                 std::span<const SequenceRows> sequences, const float* q,
                                 std::int64_t q_stride, float* out, std::int64_t out_stride,
                                 std::byte* scratch, Threads&) const {
  const std::int64_t group = a.heads / cache.heads, dims = std::max(cache.k_dim, a.v_dim);
  for (const SequenceRows& s : sequences) {
    auto* sum = reinterpret_cast<double*>(scratch);
    auto* scores = sum + dims;
    for (std::int64_t t = 0; t < s.new_tokens; ++t) {
      const std::int64_t position = s.cached + t, first = first_attended(a, position);
      auto* entry = reinterpret_cast<float*>(scores + position + 1);
      for (std::int64_t h = 0; h < a.heads; ++h) {
        const float* query = q + (s.first_row + t) * q_stride + h * a.qk_dim;
        double largest = a.sinks ? a.sinks[h] : -std::numeric_limits<double>::infinity();
        for (std::int64_t p = first; p <= position; ++p) {
          const CacheEntry k = cache_entry(cache, false, s.blocks, p, h / group);
          load_row(cache.storage, k.at, cache.k_dim, k.scale ? *k.scale : 1, entry);
          double score = 0;
          for (std::int64_t i = 0; i < a.qk_dim; ++i) score += static_cast<double>(query[i]) * entry[i];
          score *= a.scale;
          if (a.softcap > 0) score = a.softcap * std::tanh(score / a.softcap);
          scores[p] = score;
          largest = std::max(largest, score);
        }
        double total = a.sinks ? std::exp(a.sinks[h] - largest) : 0;
        std::fill_n(sum, a.v_dim, 0.0);
        for (std::int64_t p = first; p <= position; ++p) {
          const CacheEntry v = cache_entry(cache, cache.v_dim > 0, s.blocks, p, h / group);
          load_row(cache.storage, v.at, a.v_dim, v.scale ? *v.scale : 1, entry);
          const double weight = std::exp(scores[p] - largest);
          total += weight;
          for (std::int64_t i = 0; i < a.v_dim; ++i) sum[i] += weight * entry[i];
        }
        float* to = out + (s.first_row + t) * out_stride + h * a.v_dim;
        for (std::int64_t i = 0; i < a.v_dim; ++i) to[i] = static_cast<float>(sum[i] / total);
      }
    }
  }
}

void ReferenceKernels::route(const RoutingArgs& a, const float* logits, std::int64_t rows,
                             std::int32_t* chosen, float* weights) const {
  const auto experts = static_cast<std::size_t>(a.experts);
  std::vector<double> score(experts), choice(experts);
  std::vector<std::int32_t> order(experts), groups(static_cast<std::size_t>(a.groups));
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* l = logits + r * a.experts;
    const double largest = *std::max_element(l, l + a.experts);
    double total = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      score[e] = a.sigmoid ? sigmoid(l[e]) : a.softmax_over_selected ? l[e] : std::exp(l[e] - largest);
      total += score[e];
    }
    for (std::size_t e = 0; e < experts; ++e) {
      if (!a.sigmoid && !a.softmax_over_selected) score[e] /= total;
      choice[e] = score[e] + (a.correction ? a.correction[e] : 0.0f);
      order[e] = static_cast<std::int32_t>(e);
    }
    if (a.groups > 1) {
      const std::size_t each = experts / static_cast<std::size_t>(a.groups);
      std::vector<double> group(groups.size());
      for (std::size_t g = 0; g < groups.size(); ++g) {
        groups[g] = static_cast<std::int32_t>(g);
        std::vector<double> own(choice.begin() + static_cast<std::ptrdiff_t>(g * each),
                                choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * each));
        std::sort(own.rbegin(), own.rend());
        group[g] = own[0] + (a.group_by_top_two && each > 1 ? own[1] : 0);
      }
      std::stable_sort(groups.begin(), groups.end(), [&](std::int32_t x, std::int32_t y) {
        return group[static_cast<std::size_t>(x)] > group[static_cast<std::size_t>(y)];
      });
      for (auto g = static_cast<std::size_t>(a.top_groups); g < groups.size(); ++g)
        for (std::size_t e = 0; e < each; ++e)
          choice[static_cast<std::size_t>(groups[g]) * each + e] = -std::numeric_limits<double>::infinity();
    }
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t x, std::int32_t y) {
      return choice[static_cast<std::size_t>(x)] > choice[static_cast<std::size_t>(y)];
    });
    double sum = 0;
    const double top = score[static_cast<std::size_t>(order[0])];
    const auto weight = [&](std::int64_t j) {
      const double v = score[static_cast<std::size_t>(order[static_cast<std::size_t>(j)])];
      return a.softmax_over_selected ? std::exp(v - top) : v;
    };
    for (std::int64_t j = 0; j < a.top_k; ++j) sum += weight(j);
    for (std::int64_t j = 0; j < a.top_k; ++j) {
      const double normal = a.normalise || a.softmax_over_selected ? weight(j) / sum : weight(j);
      chosen[r * a.top_k + j] = order[static_cast<std::size_t>(j)];
      weights[r * a.top_k + j] = static_cast<float>(normal * a.scale);
    }
  }
}

void ReferenceKernels::gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                                   float* out) const {
  for (std::size_t i = 0; i < rows_of.size(); ++i)
    std::memcpy(out + static_cast<std::int64_t>(i) * width, x + rows_of[i] * width,
                static_cast<std::size_t>(width) * sizeof(float));
}

void ReferenceKernels::combine_rows(const float* x, std::int64_t width, const std::int32_t* place,
                                    const float* weights, std::int64_t rows, std::int64_t top_k,
                                    bool accumulate, float* out) const {
  for (std::int64_t r = 0; r < rows; ++r) {
    float* to = out + r * width;
    if (!accumulate) std::fill_n(to, width, 0.0f);
    for (std::int64_t j = 0; j < top_k; ++j) {
      const std::int32_t at = place[r * top_k + j];
      if (at < 0) continue;
      const float weight = weights[r * top_k + j];
      const float* from = x + at * width;
      for (std::int64_t i = 0; i < width; ++i) to[i] += weight * from[i];
    }
  }
}

void ReferenceKernels::causal_conv(std::span<const SequenceRows> sequences, std::span<float* const> states,
                                   const float* x, std::int64_t x_stride, std::int64_t channels,
                                   std::int64_t taps, const float* weight, const float* bias, bool silu,
                                   float* y, std::int64_t y_stride) const {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& s = sequences[i];
    float* state = states[i];  // [taps - 1][channels], oldest first
    for (std::int64_t t = 0; t < s.new_tokens; ++t) {
      const float* now = x + (s.first_row + t) * x_stride;
      float* to = y + (s.first_row + t) * y_stride;
      for (std::int64_t c = 0; c < channels; ++c) {
        double sum = bias ? bias[c] : 0;
        for (std::int64_t k = 0; k < taps - 1; ++k)
          sum += static_cast<double>(weight[c * taps + k]) * state[k * channels + c];
        sum += static_cast<double>(weight[c * taps + taps - 1]) * now[c];
        to[c] = static_cast<float>(silu ? sum * sigmoid(sum) : sum);
      }
      if (taps < 2) continue;
      std::memmove(state, state + channels, static_cast<std::size_t>((taps - 2) * channels) * sizeof(float));
      std::memcpy(state + (taps - 2) * channels, now, static_cast<std::size_t>(channels) * sizeof(float));
    }
  }
}

void ReferenceKernels::recurrence(const RecurrenceArgs& a, std::span<const SequenceRows> sequences,
                                  std::span<float* const> states, const float* q, const float* k,
                                  const float* v, const float* decay, const float* beta, float* out,
                                  Threads&) const {
  std::vector<double> old(static_cast<std::size_t>(a.v_dim));
  for (std::size_t i = 0; i < sequences.size(); ++i)
    for (std::int64_t t = 0; t < sequences[i].new_tokens; ++t)
      for (std::int64_t h = 0; h < a.heads; ++h) {
        const std::int64_t row = (sequences[i].first_row + t) * a.heads + h;
        float* state = states[i] + h * a.k_dim * a.v_dim;
        const float *qr = q + row * a.k_dim, *kr = k + row * a.k_dim, *vr = v + row * a.v_dim;
        const double keep = std::exp(static_cast<double>(decay[row])), b = beta ? beta[row] : 1.0;
        std::fill(old.begin(), old.end(), 0.0);
        for (std::int64_t x = 0; x < a.k_dim; ++x)
          for (std::int64_t y = 0; y < a.v_dim; ++y)
            old[static_cast<std::size_t>(y)] += kr[x] * keep * state[x * a.v_dim + y];
        float* to = out + row * a.v_dim;
        std::fill_n(to, a.v_dim, 0.0f);
        for (std::int64_t x = 0; x < a.k_dim; ++x)
          for (std::int64_t y = 0; y < a.v_dim; ++y) {
            float& s = state[x * a.v_dim + y];
            const double write = b * (vr[y] - (a.delta_rule ? old[static_cast<std::size_t>(y)] : 0.0));
            s = static_cast<float>(keep * s + kr[x] * write);
            to[y] += qr[x] * s;
          }
      }
}

std::int32_t ReferenceKernels::sample(const SamplingArgs& a, const float* logits, std::int64_t vocab,
                                      double uniform, float* scratch) const {
  const auto best = static_cast<std::int32_t>(std::max_element(logits, logits + vocab) - logits);
  if (a.temperature <= 0) return best;
  // By falling logit, ties by index; cut at top_k, then where the weights of those before reach top_p.
  auto* order = reinterpret_cast<std::int32_t*>(scratch);
  for (std::int64_t i = 0; i < vocab; ++i) order[i] = static_cast<std::int32_t>(i);
  std::stable_sort(order, order + vocab,
                   [&](std::int32_t x, std::int32_t y) { return logits[x] > logits[y]; });
  const std::int64_t kept = a.top_k > 0 ? std::min(a.top_k, vocab) : vocab;
  const auto weight = [&](std::int64_t i) {
    return std::exp((static_cast<double>(logits[order[i]]) - logits[best]) / a.temperature);
  };
  double total = 0;
  for (std::int64_t i = 0; i < kept; ++i) total += weight(i);
  std::int64_t end = 0;
  double inside = 0;
  while (end < kept && (end == 0 || inside < a.top_p * total)) inside += weight(end++);
  double left = uniform * inside;
  for (std::int64_t i = 0; i < end; ++i)
    if ((left -= weight(i)) < 0) return order[i];
  return order[end - 1];
}

const Kernels& reference_kernels() {
  static const ReferenceKernels kernels;
  return kernels;
}

}  // namespace foretoken
