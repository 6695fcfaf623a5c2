// Routing, sampling, rotation, convolutions and recurrences in plain loops.
#include "executor/kernels_shared.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"

namespace foretoken {

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
float single_sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

// x / |x| x scale. Epsilon: of the squared length, as in the kernels that the models were trained with.
void normalise(const float* x, std::int64_t n, float scale, float* out) {
  constexpr float kLengthEpsilon = 1e-6f;
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float by = scale / std::sqrt(sum + kLengthEpsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = by * x[i];
}

}  // namespace

void Kernels::add_norm(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                       float* stream, float* y) const {
  add(added, rows * width, stream);
  norm(args, stream, width, rows, width, y, width);
}

std::size_t Kernels::quantised_bytes(Storage, std::int64_t rows, std::int64_t width) const {
  return static_cast<std::size_t>(rows * width) * sizeof(float);
}

void Kernels::norm_quantised(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                             float* stream, Storage, std::byte* to, float) const {
  auto* const y = reinterpret_cast<float*>(to);
  if (added != nullptr) return add_norm(args, added, rows, width, stream, y);
  norm(args, stream, width, rows, width, y, width);
}

void Kernels::activation_quantised(const ActivationArgs& args, const float* x, std::int64_t rows,
                                   std::int64_t width, Storage, std::byte* to, float) const {
  activation(args, x, rows, width, reinterpret_cast<float*>(to));
}

void Kernels::gemm_quantised(const Matrix& w, const std::byte* x, std::int64_t m, const float* bias,
                             bool accumulate, float* y, std::int64_t y_stride, std::byte* scratch,
                             Threads& threads) const {
  gemm(w, reinterpret_cast<const float*>(x), w.k, m, bias, accumulate, y, y_stride, scratch, threads);
}

void Kernels::rope_and_write(const RopeArgs& a, std::span<const std::int32_t> positions, float* q,
                             std::int64_t heads, float* keys, const float* values, std::int64_t stride,
                             const CacheLayer& cache, const Sequences& sequences) const {
  rope(a.cosines, a.sines, a.pairs, a.interleaved, positions, q, stride, heads, cache.k_dim, 0);
  rope(a.cosines, a.sines, a.pairs, a.interleaved, positions, keys, stride, cache.heads, cache.k_dim, 0);
  cache_write(cache, sequences, keys, stride, values, stride);
}

void Kernels::sample_and_verify(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                                std::span<const double> uniforms, const DraftedRows& drafts,
                                std::int32_t* tokens, std::int32_t* accepted, std::int32_t* path,
                                std::byte* scratch) const {
  sample(args, logits, vocab, uniforms, tokens, scratch);
  for (std::size_t s = 0; s + 1 < drafts.starts.size(); ++s) {
    const std::int32_t begin = drafts.starts[s], nodes = drafts.starts[s + 1] - begin;
    std::int32_t found = 0, node = 0;
    for (std::int32_t next = 1; next < nodes; ++next) {
      const std::int32_t above =
          drafts.parents.empty() ? next - 1 : drafts.parents[static_cast<std::size_t>(next)];
      if (above != node || drafts.tokens[static_cast<std::size_t>(begin + next)] != tokens[begin + node])
        continue;
      path[begin + found++] = node = next;
    }
    accepted[s] = found;
  }
}

void SharedKernels::embed(const Matrix& w, std::span<const std::int32_t> ids, std::int64_t offset,
                          float scale, bool accumulate, float* out, std::byte* scratch) const {
  auto* row = reinterpret_cast<float*>(scratch);
  for (const std::int32_t id : ids) {
    float* to = accumulate ? row : out;
    unpack_row(w, id + offset, to);
    if (scale != 1)
      for (std::int64_t i = 0; i < w.k; ++i) to[i] *= scale;
    if (accumulate) add(row, w.k, out);
    out += w.k;
  }
}

void SharedKernels::norm_heads(const NormArgs& args, float* x, std::int64_t x_stride, std::int64_t rows,
                               std::int64_t heads, std::int64_t head_dim) const {
  for (std::int64_t row = 0; row < rows; ++row, x += x_stride)
    norm(args, x, head_dim, heads, head_dim, x, head_dim);
}

void SharedKernels::softcap(float cap, std::int64_t values, float* y) const {
  for (std::int64_t i = 0; i < values; ++i) y[i] = cap * std::tanh(y[i] / cap);
}

void SharedKernels::copy_rows(const float* from, std::int64_t from_stride, std::int64_t rows,
                              std::int64_t width, float* to, std::int64_t to_stride) const {
  for (std::int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride)
    std::memcpy(to, from, static_cast<std::size_t>(width) * sizeof(float));
}

void SharedKernels::add(const float* x, std::int64_t values, float* y) const {
  for (std::int64_t i = 0; i < values; ++i) y[i] += x[i];
}

void SharedKernels::sigmoid_gate(const float* gate, std::int64_t gate_stride, std::int64_t gate_width,
                                 std::int64_t rows, std::int64_t width, bool silu, float* y) const {
  for (std::int64_t r = 0; r < rows; ++r, gate += gate_stride, y += width)
    for (std::int64_t i = 0; i < width; ++i) {
      const float g = gate[gate_width == 1 ? 0 : i];
      y[i] *= silu ? g * single_sigmoid(g) : static_cast<float>(sigmoid(g));
    }
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

void SharedKernels::expand_latents(const LatentArgs& a, const float* up, const float* latent,
                                   std::int64_t tokens, const CacheLayer& to) const {
  const std::int64_t each = a.nope + a.v, qk = a.nope + a.rope, row = a.rank + a.rope,
                     width = cache_width(to.storage);
  for (std::int64_t h = 0; h < a.heads; ++h)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* from = up + (t * a.heads + h) * each;
      const std::int64_t slot = h * to.block_size + t;
      std::byte* key = to.keys + slot * qk * width;
      encode_row(to.storage, from, a.nope, key, nullptr);
      encode_row(to.storage, latent + t * row + a.rank, a.rope, key + a.nope * width, nullptr);
      encode_row(to.storage, from + a.nope, a.v, to.values + slot * a.v * width, nullptr);
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

std::size_t SharedKernels::expert_scratch(const Experts& experts, std::int64_t pairs) const {
  return std::max(gemm_scratch(experts.gate_up, pairs), gemm_scratch(experts.down, pairs));
}

// Rows are gathered expert after expert.
void SharedKernels::run_experts(const Experts& experts, const ActivationArgs& args, const float* x,
                                const std::int32_t* chosen, std::int64_t rows, std::int64_t top_k,
                                const ExpertRows& to, std::byte* scratch, Threads& threads) const {
  const std::int64_t pairs = rows * top_k, count = experts.count;
  std::int32_t* const begin = to.begin;
  std::fill_n(begin, count + 1, 0);
  const auto own = [&](std::int64_t p) {
    const std::int64_t e = chosen[p] - experts.first;
    return e >= 0 && e < count ? e : -1;
  };
  for (std::int64_t p = 0; p < pairs; ++p)
    if (const std::int64_t e = own(p); e >= 0) ++begin[e + 1];
  for (std::int64_t e = 0; e < count; ++e) begin[e + 1] += begin[e];
  for (std::int64_t p = 0; p < pairs; ++p) {
    const std::int64_t e = own(p);
    to.place[p] = e < 0 ? -1 : begin[e]++;
    if (e >= 0) to.order[to.place[p]] = static_cast<std::int32_t>(p / top_k);
  }
  for (std::int64_t e = count; e > 0; --e) begin[e] = begin[e - 1];
  begin[0] = 0;
  const std::int64_t hidden = experts.gate_up.k;
  gather_rows(x, hidden, {to.order, static_cast<std::size_t>(begin[count])}, to.in);
  for (std::int64_t e = 0; e < count; ++e) {
    const std::int64_t first = begin[e], m = begin[e + 1] - first;
    if (m == 0) continue;
    const std::size_t at = experts.stride * static_cast<std::size_t>(e);
    Matrix gate_up = experts.gate_up, down = experts.down;
    gate_up.packed += at, down.packed += at;
    const auto bias = [&](const float* of_first) {
      return of_first ? of_first + at / sizeof(float) : nullptr;
    };
    gemm(gate_up, to.in + first * hidden, hidden, m, bias(experts.gate_up_bias), false, to.mid, gate_up.n,
         scratch, threads);
    activation(args, to.mid, m, down.k, to.act);
    gemm(down, to.act, down.k, m, bias(experts.down_bias), false, to.out + first * hidden, hidden, scratch,
         threads);
  }
}

void SharedKernels::merge_attention(const AttentionArgs& args, const Sequences& of, const float* part,
                                    std::int64_t part_stride, const float* part_lse, float* out,
                                    std::int64_t out_stride) const {
  for (const SequenceRows& s : of.host)
    for (std::int64_t row = s.first_row; row < s.first_row + s.new_tokens; ++row)
      for (std::int64_t h = 0; h < args.heads; ++h) {
        float& own = args.lse[row * args.heads + h];
        const double a = own, b = part_lse[row * args.heads + h], top = std::max(a, b);
        if (std::isinf(b) && b < 0) continue;
        const double of_own = std::exp(a - top), of_part = std::exp(b - top), all = of_own + of_part;
        const auto x = static_cast<float>(of_own / all), y = static_cast<float>(of_part / all);
        float* const to = out + row * out_stride + h * args.v_dim;
        const float* const from = part + row * part_stride + h * args.v_dim;
        for (std::int64_t i = 0; i < args.v_dim; ++i) to[i] = (x > 0 ? x * to[i] : 0) + y * from[i];
        own = static_cast<float>(top + std::log(all));
      }
}

void SharedKernels::place_rows(const float* x, std::int64_t width, const std::int32_t* place,
                               std::int64_t pairs, bool accumulate, float* out) const {
  for (std::int64_t p = 0; p < pairs; ++p, out += width) {
    if (place[p] < 0) continue;
    const float* from = x + place[p] * width;
    if (accumulate)
      add(from, width, out);
    else
      std::copy_n(from, width, out);
  }
}

void SharedKernels::add_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                             float* y, std::int64_t y_stride) const {
  for (const std::int32_t row : rows_of) {
    add(x, width, y + row * y_stride);
    x += width;
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

namespace {

float* state_of(const States& states, const Sequences& sequences, std::size_t i, std::int64_t part,
                std::int64_t values) {
  float* state = states.first + states.values * states.slots[i] + part * values;
  if (sequences.host[i].cached == 0) std::fill_n(state, values, 0.0f);
  return state;
}

}  // namespace

void SharedKernels::causal_conv(const Sequences& sequences, const States& states, const float* x,
                                std::int64_t x_stride, std::int64_t channels, std::int64_t taps,
                                const float* weight, const float* bias, bool silu, float* y,
                                std::int64_t y_stride) const {
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const auto& s = sequences.host[n];
    float* state = state_of(states, sequences, n, 0, states.values);
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

void SharedKernels::delta_inputs(const DeltaArgs& a, const float* x, const float* gates, std::int64_t first,
                                 std::int64_t rows, float* q, float* k, float* v, float* decay,
                                 float* beta) const {
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.k_dim)));
  const std::int64_t each = a.heads / a.groups, channels = 2 * a.groups * a.k_dim + a.heads * a.v_dim;
  for (std::int64_t row = first; row < first + rows; ++row) {
    const float *queries = x + row * channels, *keys = queries + a.groups * a.k_dim;
    const float* gate = gates + row * 2 * a.heads;
    for (std::int64_t h = 0; h < a.heads; ++h) {
      const std::int64_t at = row * a.heads + h;
      normalise(queries + h / each * a.k_dim, a.k_dim, scale, q + at * a.k_dim);
      normalise(keys + h / each * a.k_dim, a.k_dim, 1, k + at * a.k_dim);
      beta[at] = single_sigmoid(gate[h]);
      decay[at] = -std::exp(a.decay[h]) * softplus(gate[a.heads + h] + a.step[h]);
    }
    std::copy_n(keys + a.groups * a.k_dim, a.heads * a.v_dim, v + row * a.heads * a.v_dim);
  }
}

void SharedKernels::recurrence(const RecurrenceArgs& args, const Sequences& sequences, const States& states,
                               const float* q, const float* k, const float* v, const float* decay,
                               const float* beta, float* out, Threads& threads) const {
  const auto count = static_cast<std::int64_t>(sequences.size());
  threads.run(count * args.heads, [&](std::int64_t task) {
    const auto sequence = static_cast<std::size_t>(task / args.heads);
    const auto& s = sequences.host[sequence];
    const std::int64_t h = task % args.heads, dk = args.k_dim, dv = args.v_dim;
    float* state = state_of(states, sequences, sequence, h, dk * dv);
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

namespace {

// scratch: 2 x vocab floats.
std::int32_t sample_row(const SamplingArgs& args, const float* logits, std::int64_t vocab, double uniform,
                        float* scratch) {
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

}  // namespace

std::size_t SharedKernels::sampling_scratch(std::int64_t, std::int64_t vocab) const {
  return static_cast<std::size_t>(2 * vocab) * sizeof(float);
}

void SharedKernels::sample(const SamplingArgs& args, const float* logits, std::int64_t vocab,
                           std::span<const double> uniforms, std::int32_t* tokens, std::byte* scratch) const {
  for (const double uniform : uniforms) {
    *tokens++ = sample_row(args, logits, vocab, uniform, reinterpret_cast<float*>(scratch));
    logits += vocab;
  }
}

void SharedKernels::best_tokens(const float* logits, std::int64_t rows, std::int64_t vocab, int count,
                                std::int32_t* tokens, std::byte*) const {
  for (std::int64_t row = 0; row < rows; ++row, logits += vocab, tokens += count) {
    std::fill_n(tokens, count, -1);
    for (std::int64_t t = 0; t < vocab; ++t) {
      int at = count;
      while (at > 0 && (tokens[at - 1] < 0 || logits[tokens[at - 1]] < logits[t])) --at;
      if (at == count) continue;
      std::move_backward(tokens + at, tokens + count - 1, tokens + count);
      tokens[at] = static_cast<std::int32_t>(t);
    }
  }
}

void SharedKernels::select_beams(const float* logits, std::int64_t vocab,
                                 std::span<const double> log_probabilities, std::span<Continuation> best,
                                 std::byte*) const {
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

namespace {

class HostStopwatch final : public KernelStopwatch {
 public:
  void restart() override { places_.clear(); }
  int mark() override {
    places_.push_back(std::chrono::steady_clock::now());
    return static_cast<int>(places_.size()) - 1;
  }
  double seconds(int from, int to) override {
    const auto at = [&](int i) { return places_[static_cast<std::size_t>(i)]; };
    return std::chrono::duration<double>(at(to) - at(from)).count();
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> places_;
};

}  // namespace

std::unique_ptr<KernelStopwatch> Kernels::stopwatch(OperatorTimes how) const {
  if (how == OperatorTimes::kActivities)
    throw Error("--operator-times", "cupti times the kernels of a CUDA device; use on, or --backend cuda");
  return std::make_unique<HostStopwatch>();
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
