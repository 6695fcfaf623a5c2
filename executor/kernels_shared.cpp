// Routing, sampling, rotation, the cache's entries, convolutions and recurrences in plain loops.
#include "executor/kernels_shared.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "executor/storage.h"

namespace foretoken {

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void write_cached(const CacheLayer& cache, bool value, std::int64_t slot, const float* from) {
  const std::int64_t dims = value ? cache.v_dim : cache.k_dim;
  std::byte* to = (value ? cache.values : cache.keys) + slot * dims * cache_width(cache.storage);
  float scale = 1;
  if (cache.storage == Storage::kInt8 || cache.storage == Storage::kFp8) {
    scale = scale_of(cache.storage, from, dims);
    (value ? cache.value_scales : cache.key_scales)[slot] = scale;
  }
  for (std::int64_t i = 0; i < dims; ++i) {
    const auto put = [&](auto element) {
      std::memcpy(to + i * static_cast<std::int64_t>(sizeof element), &element, sizeof element);
    };
    switch (cache.storage) {
      case Storage::kF32:
        put(from[i]);
        break;
      case Storage::kBf16:
        put(float_to_bf16(from[i]));
        break;
      case Storage::kF16:
        put(float_to_f16(from[i]));
        break;
      case Storage::kFp8:
        put(float_to_fp8(from[i] / scale));
        break;
      default:
        put(to_integer(from[i] / scale, 127));
    }
  }
}

}  // namespace

float scale_of(Storage storage, const float* values, std::int64_t count) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float top = storage == Storage::kFp8 ? kFp8Largest : storage == Storage::kInt8 ? 127.0f : 7.0f;
  return largest > 0 ? largest / top : 1.0f;
}

std::int8_t to_integer(float scaled, int largest) {
  const float limit = static_cast<float>(largest);
  return static_cast<std::int8_t>(std::clamp(std::nearbyint(scaled), -limit, limit));
}

float stored_value(Storage storage, const std::byte* at) {
  const auto get = [&](auto element) {
    std::memcpy(&element, at, sizeof element);
    return element;
  };
  switch (storage) {
    case Storage::kF32:
      return get(0.0f);
    case Storage::kBf16:
      return bf16_to_float(get(std::uint16_t{}));
    case Storage::kF16:
      return f16_to_float(get(std::uint16_t{}));
    case Storage::kFp8:
      return fp8_to_float(get(std::uint8_t{}));
    default:
      return static_cast<float>(get(std::int8_t{}));
  }
}

void read_cached(const CacheLayer& cache, bool value, std::int64_t slot, float* out) {
  const std::int64_t dims = value ? cache.v_dim : cache.k_dim, width = cache_width(cache.storage);
  const std::byte* from = (value ? cache.values : cache.keys) + slot * dims * width;
  const float* scales = value ? cache.value_scales : cache.key_scales;
  const bool scaled = cache.storage == Storage::kFp8 || cache.storage == Storage::kInt8;
  const float scale = scaled ? scales[slot] : 1.0f;
  for (std::int64_t i = 0; i < dims; ++i) out[i] = stored_value(cache.storage, from + i * width) * scale;
}

void SharedKernels::add(const float* x, std::int64_t values, float* y) const {
  for (std::int64_t i = 0; i < values; ++i) y[i] += x[i];
}

void SharedKernels::sigmoid_gate(const float* gate, std::int64_t gate_width, std::int64_t rows,
                                 std::int64_t width, float* y) const {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i)
      y[r * width + i] *= static_cast<float>(sigmoid(gate[r * gate_width + (gate_width == 1 ? 0 : i)]));
}

void SharedKernels::rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
                         std::span<const std::int32_t> positions, float* x, std::int64_t x_stride,
                         std::int64_t heads, std::int64_t head_dim, std::int64_t first) const {
  for (std::size_t r = 0; r < positions.size(); ++r)
    for (std::int64_t h = 0; h < heads; ++h) {
      float* head = x + static_cast<std::int64_t>(r) * x_stride + h * head_dim + first;
      for (std::int64_t i = 0; i < pairs; ++i) {
        const float c = cosines[positions[r] * pairs + i], s = sines[positions[r] * pairs + i];
        float &a = head[interleaved ? 2 * i : i], &b = head[interleaved ? 2 * i + 1 : i + pairs];
        const float turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
      }
    }
}

void SharedKernels::cache_write(const CacheLayer& cache, std::span<const SequenceRows> sequences,
                                const float* keys, std::int64_t key_stride, const float* values,
                                std::int64_t value_stride) const {
  for (const auto& s : sequences)
    for (std::int64_t i = 0; i < s.new_tokens; ++i)
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        const std::int64_t slot = cache_slot(cache, s.blocks, s.cached + i, h), row = s.first_row + i;
        write_cached(cache, false, slot, keys + row * key_stride + h * cache.k_dim);
        if (cache.v_dim) write_cached(cache, true, slot, values + row * value_stride + h * cache.v_dim);
      }
}

void SharedKernels::cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens,
                               float* keys, float* values) const {
  for (std::int64_t i = 0; i < tokens; ++i)
    for (std::int64_t h = 0; h < cache.heads; ++h) {
      const std::int64_t slot = cache_slot(cache, blocks, i, h);
      if (keys) read_cached(cache, false, slot, keys + (i * cache.heads + h) * cache.k_dim);
      if (values && cache.v_dim) read_cached(cache, true, slot, values + (i * cache.heads + h) * cache.v_dim);
    }
}

void SharedKernels::route(const RoutingArgs& args, const float* logits, std::int64_t rows,
                          std::int32_t* chosen, float* weights) const {
  const std::int64_t n = args.experts, size = n / args.groups;
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  for (std::int64_t r = 0; r < rows; ++r, logits += n, chosen += args.top_k, weights += args.top_k) {
    const double top = *std::max_element(logits, logits + n);
    double all = 0;
    for (std::int64_t e = 0; e < n; ++e) all += std::exp(logits[e] - top);
    const auto score = [&](std::int64_t e) {
      if (args.sigmoid) return sigmoid(logits[e]);
      return args.softmax_over_selected ? double{logits[e]} : std::exp(logits[e] - top) / all;
    };
    const auto rank = [&](std::int64_t e) {
      return args.correction ? score(e) + args.correction[e] : score(e);
    };
    const auto group_rank = [&](std::int64_t g) {
      double best = kNever, second = kNever;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
        const double s = rank(e);
        second = std::max(second, std::min(best, s));
        best = std::max(best, s);
      }
      return args.group_by_top_two && size > 1 ? best + second : best;
    };
    const auto allowed = [&](std::int64_t g) {  // fewer than top_groups groups are better
      if (args.top_groups >= args.groups) return true;
      const double mine = group_rank(g);
      std::int64_t better = 0;
      for (std::int64_t o = 0; o < args.groups; ++o) {
        const double other = group_rank(o);
        better += other > mine || (other == mine && o < g);
      }
      return better < args.top_groups;
    };
    for (std::int64_t j = 0; j < args.top_k; ++j) chosen[j] = -1;
    for (std::int64_t g = 0; g < args.groups; ++g) {
      if (!allowed(g)) continue;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {  // insertion: best first, then lower index
        const double mine = rank(e);
        std::int64_t j = args.top_k;
        while (j > 0 && (chosen[j - 1] < 0 || rank(chosen[j - 1]) < mine)) --j;
        if (j == args.top_k) continue;
        std::move_backward(chosen + j, chosen + args.top_k - 1, chosen + args.top_k);
        chosen[j] = static_cast<std::int32_t>(e);
      }
    }
    double sum = 0, best = kNever;
    for (std::int64_t j = 0; j < args.top_k; ++j) best = std::max(best, score(chosen[j]));
    const auto value = [&](std::int64_t j) {
      return args.softmax_over_selected ? std::exp(score(chosen[j]) - best) : score(chosen[j]);
    };
    for (std::int64_t j = 0; j < args.top_k; ++j) sum += value(j);
    const double divisor = args.normalise || args.softmax_over_selected ? sum : 1;
    for (std::int64_t j = 0; j < args.top_k; ++j)
      weights[j] = static_cast<float>(value(j) / divisor * args.scale);
  }
}

void SharedKernels::gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                                float* out) const {
  for (const auto row : rows_of) {
    std::copy_n(x + row * width, width, out);
    out += width;
  }
}

void SharedKernels::combine_rows(const float* x, std::int64_t width, const std::int32_t* place,
                                 const float* weights, std::int64_t rows, std::int64_t top_k, bool accumulate,
                                 float* out) const {
  for (std::int64_t r = 0; r < rows; ++r, out += width) {
    if (!accumulate) std::fill_n(out, width, 0.0f);
    for (std::int64_t j = r * top_k; j < (r + 1) * top_k; ++j) {
      if (place[j] < 0) continue;
      const float* from = x + place[j] * width;
      for (std::int64_t i = 0; i < width; ++i) out[i] += weights[j] * from[i];
    }
  }
}

void SharedKernels::causal_conv(std::span<const SequenceRows> sequences, std::span<float* const> states,
                                const float* x, std::int64_t x_stride, std::int64_t channels,
                                std::int64_t taps, const float* weight, const float* bias, bool silu,
                                float* y, std::int64_t y_stride) const {
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const auto& s = sequences[n];
    float* state = states[n];
    for (std::int64_t r = 0; r < s.new_tokens; ++r) {
      const float* now = x + (s.first_row + r) * x_stride;
      float* out = y + (s.first_row + r) * y_stride;
      for (std::int64_t c = 0; c < channels; ++c) {
        double sum = bias ? bias[c] : 0;
        for (std::int64_t t = 0; t + 1 < taps; ++t)
          sum += double{weight[c * taps + t]} * state[t * channels + c];
        const float current = now[c];
        sum += double{weight[c * taps + taps - 1]} * current;
        for (std::int64_t t = 0; t + 2 < taps; ++t) state[t * channels + c] = state[(t + 1) * channels + c];
        if (taps > 1) state[(taps - 2) * channels + c] = current;
        out[c] = static_cast<float>(silu ? sum * sigmoid(sum) : sum);
      }
    }
  }
}

void SharedKernels::recurrence(const RecurrenceArgs& args, std::span<const SequenceRows> sequences,
                               std::span<float* const> states, const float* q, const float* k, const float* v,
                               const float* decay, const float* beta, float* out, Threads& threads) const {
  const auto count = static_cast<std::int64_t>(sequences.size());
  threads.run(count * args.heads, [&](std::int64_t task) {
    const auto& s = sequences[static_cast<std::size_t>(task / args.heads)];
    const std::int64_t h = task % args.heads, dk = args.k_dim, dv = args.v_dim;
    float* state = states[static_cast<std::size_t>(task / args.heads)] + h * dk * dv;
    for (std::int64_t row = s.first_row; row < s.first_row + s.new_tokens; ++row) {
      const std::int64_t at = row * args.heads + h;
      const float keep = std::exp(decay[at]), rate = beta[at];
      const float *qr = q + at * dk, *kr = k + at * dk, *vr = v + at * dv;
      float* to = out + at * dv;
      for (std::int64_t i = 0; i < dk * dv; ++i) state[i] *= keep;
      // out first holds what is written: beta (v - k S).
      std::copy_n(vr, dv, to);
      for (std::int64_t i = 0; args.delta_rule && i < dk; ++i)
        for (std::int64_t j = 0; j < dv; ++j) to[j] -= kr[i] * state[i * dv + j];
      for (std::int64_t j = 0; j < dv; ++j) to[j] *= rate;
      for (std::int64_t i = 0; i < dk; ++i)
        for (std::int64_t j = 0; j < dv; ++j) state[i * dv + j] += kr[i] * to[j];
      std::fill_n(to, dv, 0.0f);
      for (std::int64_t i = 0; i < dk; ++i)
        for (std::int64_t j = 0; j < dv; ++j) to[j] += qr[i] * state[i * dv + j];
    }
  });
}

std::int32_t SharedKernels::sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                                   double uniform, float* scratch) const {
  const auto greedy = static_cast<std::int32_t>(std::max_element(logits, logits + vocab) - logits);
  if (args.temperature <= 0) return greedy;
  // Indices in the second half, best first.
  auto* order = reinterpret_cast<std::int32_t*>(scratch + vocab);
  for (std::int64_t i = 0; i < vocab; ++i) order[i] = static_cast<std::int32_t>(i);
  const auto better = [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::int64_t kept = args.top_k > 0 ? std::min(args.top_k, vocab) : vocab;
  std::partial_sort(order, order + kept, order + vocab, better);
  double all = 0;
  for (std::int64_t i = 0; i < kept; ++i) {
    scratch[i] = std::exp((logits[order[i]] - logits[greedy]) / args.temperature);
    all += scratch[i];
  }
  if (args.top_p < 1) {  // the fewest whose probability reaches top_p
    double sum = 0;
    std::int64_t i = 0;
    while (i < kept && sum < args.top_p * all) sum += scratch[i++];
    kept = std::max<std::int64_t>(i, 1);
    all = i > 0 ? sum : scratch[0];
  }
  double left = uniform * all;
  for (std::int64_t i = 0; i < kept; ++i)
    if ((left -= scratch[i]) < 0) return order[i];
  return order[kept - 1];
}

void Kernels::select_beams(const float* logits, std::int64_t vocab, std::span<const double> log_probabilities,
                           std::span<Continuation> best) const {
  std::size_t kept = 0;
  for (std::size_t row = 0; row < log_probabilities.size(); ++row, logits += vocab) {
    const double all = log_sum_exp(logits, vocab);
    const double base = std::isinf(all) ? -INFINITY : log_probabilities[row] - all;
    for (std::int64_t token = 0; token < vocab; ++token) {
      const double value = base + logits[token];
      if (kept == best.size() && !(value > best[kept - 1].log_probability)) continue;
      // Behind its equals, which have a lower row or token.
      std::size_t at = kept < best.size() ? kept++ : kept - 1;
      for (; at > 0 && value > best[at - 1].log_probability; --at) best[at] = best[at - 1];
      best[at] = {static_cast<std::int32_t>(row), static_cast<std::int32_t>(token), value};
    }
  }
}

void plain_norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
                std::int64_t width, float* y, std::int64_t y_stride) {
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    double mean = 0, squares = 0;
    for (std::int64_t i = 0; args.kind == NormKind::kLayer && i < width; ++i)
      mean += x[i] / static_cast<double>(width);
    for (std::int64_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + args.epsilon);
    for (std::int64_t i = 0; i < width; ++i) {
      double value = (x[i] - mean) * inverse;
      if (args.weight) value *= double{args.weight[i]} + args.offset;
      if (args.bias) value += args.bias[i];
      y[i] = static_cast<float>(value);
    }
  }
}

void plain_activation(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                      float* y) {
  const bool gated = args.gated || args.kind == Activation::kClampedSwiglu;
  for (std::int64_t r = 0; r < rows; ++r, x += gated ? 2 * width : width, y += width)
    for (std::int64_t i = 0; i < width; ++i) {
      double gate = x[i], up = gated ? double{x[width + i]} : 1.0;
      switch (args.kind) {
        case Activation::kSilu:
          gate *= sigmoid(gate);
          break;
        case Activation::kGelu:
          gate *= 0.5 * (1 + std::erf(gate * 0.70710678118654752440));
          break;
        case Activation::kGeluTanh:
          gate *= 0.5 * (1 + std::tanh(0.79788456080286535588 * (gate + 0.044715 * gate * gate * gate)));
          break;
        case Activation::kRelu:
          gate = std::max(gate, 0.0);
          break;
        case Activation::kReluSquared:
          gate = std::max(gate, 0.0) * std::max(gate, 0.0);
          break;
        case Activation::kClampedSwiglu: {
          const double limit = args.limit;
          gate = std::min(gate, limit);
          gate *= sigmoid(args.alpha * gate);
          up = std::clamp(up, -limit, limit) + 1;
        }
      }
      y[i] = static_cast<float>(gate * up);
    }
}

}  // namespace foretoken
