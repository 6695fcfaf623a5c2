// Linear attention: the short convolution, the inputs of the gated delta rule, and the recurrence.
//
// The convolution and the inputs are limited by memory: 16-byte accesses, each row of a prompt's tile loaded
// once and kept in registers for the taps that read it.
//
// The recurrence of a decode step is limited by memory too: it reads and writes a state once (64 KiB a head
// of 128 x 128), and the ceiling is the device's bandwidth on that. A block has 32 columns of v of one head;
// each thread's share of them stays in registers between reading and writing. Of a prompt the sequence of
// tokens is the limit: each needs the state that the one before left. So the state stays in registers from
// the first token to the last, a warp has 8 columns to itself and needs no other warp's sums, and a block of
// four warps fetches the next tokens' queries, keys and values while it works on these; a token costs about
// 170 instructions of a warp and the time of five shuffles.
//
// Both add up k S and q S of the state before it is changed, in one pass, from which follow what is written,
// u = beta (v - k S), and what is read, q (S + k^T u) = q S + (q k) u.
#include "executor/cuda/rows.cuh"

namespace foretoken::cuda {
namespace {

FORETOKEN_DEVICE float sigmoid(float x) { return 1 / (1 + expf(-x)); }
FORETOKEN_DEVICE float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// ---- The convolution ------------------------------------------------------------------------------------

struct ConvArgs {
  const SequenceRows* own;
  States states;
  const float* x;
  std::int64_t x_stride, channels;
  int taps;
  const float *weight, *bias;
  bool silu;
  float* y;
  std::int64_t y_stride;
  int tile;        // rows a thread
  unsigned parts;  // blocks of a row: blockIdx.x is sequence * parts + part
};

FORETOKEN_DEVICE float convolved(const ConvArgs& a, float sum) {
  return a.silu ? sum * fast_reciprocal(1 + fast_exp(-sum)) : sum;
}

// Four taps (of the models that exist), four channels a thread, R rows. The thread of a sequence's first rows
// is the only one that touches its state.
template <int R>
__global__ void __launch_bounds__(128) causal_conv_four(ConvArgs a) {
  constexpr int kPast = 3;
  const std::int64_t channel = (std::int64_t{blockIdx.x % a.parts} * blockDim.x + threadIdx.x) * 4;
  const bool has_channels = channel < a.channels;
  Values<4> weight[4], bias = same_values<4>(0);  // [channel][tap]
  if (has_channels) {
#pragma unroll
    for (int c = 0; c < 4; ++c) weight[c] = load_values<4>(a.weight + (channel + c) * 4);
    if (a.bias != nullptr) bias = load_values<4>(a.bias + channel);
  }
  begin_kernel();
  if (!has_channels) return;
  const unsigned n = blockIdx.x / a.parts;
  const SequenceRows s = a.own[n];
  float* const state = a.states.first + a.states.values * a.states.slots[n] + channel;
  const float* const x = a.x + s.first_row * a.x_stride + channel;
  float* const y = a.y + s.first_row * a.y_stride + channel;
  const auto before = [&](std::int64_t row) {  // row -3 to -1
    return s.cached > 0 ? load_values<4>(state + (kPast + row) * a.channels) : same_values<4>(0);
  };
  for (std::int64_t first = std::int64_t{blockIdx.y} * R; first < s.new_tokens || first == 0;
       first += std::int64_t{gridDim.y} * R) {
    Values<4> rows[R + kPast];
#pragma unroll
    for (int i = 0; i < R + kPast; ++i) {
      const std::int64_t row = first + i - kPast;
      if (i < kPast && row < 0)
        rows[i] = before(row);
      else
        rows[i] = row < s.new_tokens ? load_values<4>(x + row * a.x_stride) : same_values<4>(0);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (first + r >= s.new_tokens) continue;
      Values<4> out;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float sum = bias.v[c];
#pragma unroll
        for (int t = 0; t < 4; ++t) sum = fmaf(weight[c].v[t], rows[r + t].v[c], sum);
        out.v[c] = convolved(a, sum);
      }
      store_values(y + (first + r) * a.y_stride, out);
    }
    if (first != 0) continue;
    // The last three of what was before and the new rows.
    Values<4> last[kPast];
#pragma unroll
    for (int t = 0; t < kPast; ++t) {
      if (s.new_tokens >= kPast) {
        last[t] = load_values<4>(x + (s.new_tokens - kPast + t) * a.x_stride);
      } else {
        last[t] = rows[t];
        if (s.new_tokens == 1) last[t] = rows[t + 1];
        if (R > 1 && s.new_tokens == 2) last[t] = rows[t + 2 < R + kPast ? t + 2 : 0];
      }
    }
#pragma unroll
    for (int t = 0; t < kPast; ++t) store_values(state + t * a.channels, last[t]);
  }
}

// Any taps, one channel a thread; a tile has at least as many rows as a state.
__global__ void __launch_bounds__(128) causal_conv_any(ConvArgs a) {
  begin_kernel();
  const std::int64_t channel = std::int64_t{blockIdx.x % a.parts} * blockDim.x + threadIdx.x;
  if (channel >= a.channels) return;
  const int past = a.taps - 1;
  const unsigned n = blockIdx.x / a.parts;
  const SequenceRows s = a.own[n];
  float* const state = a.states.first + a.states.values * a.states.slots[n] + channel;
  const auto at = [&](std::int64_t row) {
    if (row >= 0) return a.x[(s.first_row + row) * a.x_stride + channel];
    return s.cached > 0 ? state[(past + row) * a.channels] : 0.0f;
  };
  for (std::int64_t first = std::int64_t{blockIdx.y} * a.tile; first < s.new_tokens || first == 0;
       first += std::int64_t{gridDim.y} * a.tile) {
    const std::int64_t end = first + a.tile < s.new_tokens ? first + a.tile : s.new_tokens;
    for (std::int64_t row = first; row < end; ++row) {
      float sum = a.bias != nullptr ? a.bias[channel] : 0;
      for (int t = 0; t < a.taps; ++t) sum = fmaf(a.weight[channel * a.taps + t], at(row - past + t), sum);
      a.y[(s.first_row + row) * a.y_stride + channel] = convolved(a, sum);
    }
    if (first == 0)  // each place is read before it is written, since no row is later than new_tokens
      for (int t = 0; t < past; ++t) state[t * a.channels] = at(s.new_tokens - past + t);
  }
}

// ---- Inputs of the delta rule ---------------------------------------------------------------------------

struct DeltaRows {
  const float *x, *gates;
  std::int64_t first, rows;
  float *q, *k, *v, *decay, *beta;
};

// A warp a part of a row: a group's query or key, 512 of the values, or the gates of all heads.
constexpr int kValuesOfWarp = 512;

template <int W>
__global__ void __launch_bounds__(256) delta_input_rows(DeltaArgs a, DeltaRows in) {
  begin_kernel();
  const std::int64_t values = a.heads * a.v_dim, channels = 2 * a.groups * a.k_dim + values;
  const std::int64_t part = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y,
                     value_part = part - 2 * a.groups,
                     value_parts = (values + kValuesOfWarp - 1) / kValuesOfWarp;
  const std::int64_t each = a.heads / a.groups;
  const int first = static_cast<int>(lane()) * W;
  constexpr int kStep = static_cast<int>(kWarp) * W;
  const float scale = 1 / sqrtf(static_cast<float>(a.k_dim));
  for (std::int64_t r = blockIdx.y; r < in.rows; r += gridDim.y) {
    const std::int64_t row = in.first + r;
    const float* x = in.x + row * channels;
    if (value_part < 0) {
      const bool key = part >= a.groups;
      const std::int64_t group = key ? part - a.groups : part;
      const float* from = x + part * a.k_dim;
      float sum = 0;
      for (int c = first; c < a.k_dim; c += kStep) {
        const Values<W> values_here = load_values<W>(from + c);
#pragma unroll
        for (int i = 0; i < W; ++i) sum = fmaf(values_here.v[i], values_here.v[i], sum);
      }
      // Epsilon: of the squared length, as in the kernels that the models were trained with.
      const float by = (key ? 1 : scale) * fast_rsqrt(warp_sum(sum) + 1e-6f);
      float* to = (key ? in.k : in.q) + (row * a.heads + group * each) * a.k_dim;
      for (int c = first; c < a.k_dim; c += kStep) {
        Values<W> out = load_values<W>(from + c);
#pragma unroll
        for (int i = 0; i < W; ++i) out.v[i] *= by;
        for (std::int64_t h = 0; h < each; ++h) store_values(to + h * a.k_dim + c, out);
      }
    } else if (value_part < value_parts) {
      const float* from = x + 2 * a.groups * a.k_dim;
      float* to = in.v + row * values;
      const std::int64_t begin = value_part * kValuesOfWarp;
#pragma unroll
      for (int i = 0; i < kValuesOfWarp; i += kStep)
        if (const std::int64_t c = begin + i + first; c < values)
          store_values(to + c, load_values<W>(from + c));
    } else if (value_part == value_parts) {
      const float* gate = in.gates + row * 2 * a.heads;
      for (std::int64_t h = lane(); h < a.heads; h += kWarp) {
        in.beta[row * a.heads + h] = sigmoid(gate[h]);
        in.decay[row * a.heads + h] = -expf(a.decay[h]) * softplus(gate[a.heads + h] + a.step[h]);
      }
    }
  }
}

// ---- The recurrence -------------------------------------------------------------------------------------

struct RecurrenceRows {
  const SequenceRows* own;
  States states;
  const float *q, *k, *v, *decay, *beta;
  float* out;
  unsigned parts;  // blocks of a head: blockIdx.x is sequence * parts + part
};

constexpr int kColumns = 32;  // of v, a block

// One token a sequence. Threads: lane / 8 and the warp choose one of 16 rows of the state, lane % 8 four of
// the columns; K x 16 rows in all. Rows that lie behind one another are read by one warp, 128 bytes of each.
template <int K>
__global__ void __launch_bounds__(128) recurrence_step(RecurrenceArgs a, RecurrenceRows in) {
  constexpr int kGroups = 16, kWarps = 4, kSums = 12;  // k S, q S of four columns, q k; rounded up to vectors
  __shared__ float keys[K * kGroups], queries[K * kGroups];
  __shared__ float sums[kWarps][8][kSums];
  begin_kernel();
  const int depth = static_cast<int>(a.k_dim), quad = static_cast<int>(lane() % 8),
            group = static_cast<int>(lane() / 8 + 4 * warp());
  const std::int64_t head = blockIdx.y, column = std::int64_t{blockIdx.x % in.parts} * kColumns + quad * 4;
  const bool has_columns = column < a.v_dim;
  const unsigned n = blockIdx.x / in.parts;
  const SequenceRows& s = in.own[n];
  const std::int64_t at = s.first_row * a.heads + head;
  float* const state =
      in.states.first + in.states.values * in.states.slots[n] + head * a.k_dim * a.v_dim + column;
  const bool fresh = s.cached == 0;
  Values<4> held[K];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const int row = group + i * kGroups;
    held[i] =
        has_columns && row < depth && !fresh ? load_values<4>(state + row * a.v_dim) : same_values<4>(0);
  }
  const float keep = expf(in.decay[at]), rate = in.beta[at];
  const Values<4> value = has_columns ? load_values<4>(in.v + at * a.v_dim + column) : same_values<4>(0);
  for (int i = static_cast<int>(thread()); i < K * kGroups; i += static_cast<int>(threads())) {
    keys[i] = i < depth ? in.k[at * a.k_dim + i] : 0;
    queries[i] = i < depth ? in.q[at * a.k_dim + i] : 0;
  }
  sync_threads();
  float sum[kSums] = {};
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const float key = keys[group + i * kGroups], query = queries[group + i * kGroups];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      held[i].v[c] *= keep;
      sum[c] = fmaf(key, held[i].v[c], sum[c]);
      sum[4 + c] = fmaf(query, held[i].v[c], sum[4 + c]);
    }
    sum[8] = fmaf(query, key, sum[8]);
  }
#pragma unroll
  for (int j = 0; j < 9; ++j) {
    sum[j] += shuffle_xor(sum[j], 8);
    sum[j] += shuffle_xor(sum[j], 16);
  }
  if (lane() < 8)
#pragma unroll
    for (int j = 0; j < kSums; ++j) sums[warp()][quad][j] = sum[j];
  sync_threads();
#pragma unroll
  for (int j = 0; j < 9; ++j) {
    sum[j] = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum[j] += sums[w][quad][j];
  }
  Values<4> written, out;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    written.v[c] = rate * (a.delta_rule ? value.v[c] - sum[c] : value.v[c]);
    out.v[c] = fmaf(sum[8], written.v[c], sum[4 + c]);
  }
  if (!has_columns) return;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const int row = group + i * kGroups;
    const float key = keys[row];
#pragma unroll
    for (int c = 0; c < 4; ++c) held[i].v[c] = fmaf(key, written.v[c], held[i].v[c]);
    if (row < depth) store_values(state + row * a.v_dim, held[i]);
  }
  if (thread() < 8) store_values(in.out + at * a.v_dim + column, out);
}

// What a block fetches ahead: of so many tokens.
constexpr int kTokens = 8;
template <int K>
struct alignas(16) Fetched {
  float k[kTokens][K], q[kTokens][K], v[kTokens][kColumns], decay[kTokens], beta[kTokens];
};

// Adds eight values up over the 16 lanes of the same lane % 2. Each exchange halves what a lane holds, so
// that at the end it has one: value (lane / 16) * 4 + (lane / 4) % 4 of the first and second four.
FORETOKEN_DEVICE float sum_of_sixteen(const float (&low)[4], const float (&high)[4]) {
  const bool upper = (lane() & 16) != 0, second = (lane() & 8) != 0, odd = (lane() & 4) != 0;
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float other = shuffle_xor(upper ? low[i] : high[i], 16);
    four[i] = (upper ? high[i] : low[i]) + other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float other = shuffle_xor(second ? four[i] : four[i + 2], 8);
    two[i] = (second ? four[i + 2] : four[i]) + other;
  }
  const float other = shuffle_xor(odd ? two[0] : two[1], 4), one = (odd ? two[1] : two[0]) + other;
  return one + shuffle_xor(one, 2);
}

// Prompts. A warp has 8 columns: lane % 2 chooses four of them, lane / 2 every 16th vector of four rows.
template <int M>  // k_dim up to 64 M
__global__ void __launch_bounds__(128) recurrence_prompt(RecurrenceArgs a, RecurrenceRows in) {
  constexpr int kDepth = 64 * M;
  using Tokens = Fetched<kDepth>;
  __shared__ float keep[kTokens], product[kTokens];  // exp(decay), q k
  begin_kernel();
  auto* const fetched = reinterpret_cast<Tokens*>(dynamic_shared());
  const int depth = static_cast<int>(a.k_dim), group = static_cast<int>(lane() / 2);
  const std::int64_t head = blockIdx.y, block_column = std::int64_t{blockIdx.x % in.parts} * kColumns;
  const int own_column = static_cast<int>(warp() * 8 + lane() % 2 * 4);  // of the block's
  const int which = static_cast<int>(lane() / 4 % 4);  // of the lane's four columns has its sum
  const bool has_columns = block_column + own_column < a.v_dim, reads = (lane() & 16) != 0;
  const auto first_row = [&](int m) { return 4 * (group + 16 * m); };

  const unsigned n = blockIdx.x / in.parts;
  const SequenceRows s = in.own[n];
  float* const state = in.states.first + in.states.values * in.states.slots[n] + head * a.k_dim * a.v_dim +
                       block_column + own_column;
  const bool fresh = s.cached == 0;
  const auto at = [&](std::int64_t token) { return (s.first_row + token) * a.heads + head; };
  const auto fetch = [&](std::int64_t token, Tokens& to) {
    for (int i = static_cast<int>(thread()); i < kTokens * kDepth / 4; i += static_cast<int>(threads())) {
      const int t = i / (kDepth / 4), c = i % (kDepth / 4) * 4;
      const bool valid = token + t < s.new_tokens && c < depth;
      const std::int64_t from = valid ? at(token + t) * a.k_dim + c : 0;
      copy_async16(&to.k[t][c], in.k + from, valid);
      copy_async16(&to.q[t][c], in.q + from, valid);
    }
    const int i = static_cast<int>(thread());
    if (i < kTokens * kColumns / 4) {
      const int t = i / (kColumns / 4), c = i % (kColumns / 4) * 4;
      const bool valid = token + t < s.new_tokens && block_column + c < a.v_dim;
      copy_async16(&to.v[t][c], in.v + (valid ? at(token + t) * a.v_dim + block_column + c : 0), valid);
    } else if (const int t = i - kTokens * kColumns / 4; t < 2 * kTokens) {
      const bool valid = token + t % kTokens < s.new_tokens;
      const std::int64_t from = valid ? at(token + t % kTokens) : 0;
      if (t < kTokens)
        copy_async4(&to.decay[t], in.decay + from, valid);
      else
        copy_async4(&to.beta[t - kTokens], in.beta + from, valid);
    }
  };
  fetch(0, fetched[0]);
  copy_async_commit();

  Values<4> held[M][4];  // four rows of four columns
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = first_row(m) + e;
      held[m][e] =
          has_columns && row < depth && !fresh ? load_values<4>(state + row * a.v_dim) : same_values<4>(0);
    }

  int turn = 0;
  for (std::int64_t token = 0; token < s.new_tokens; token += kTokens, turn ^= 1) {
    if (token + kTokens < s.new_tokens) fetch(token + kTokens, fetched[turn ^ 1]);
    copy_async_commit();
    copy_async_wait<1>();
    sync_threads();
    const Tokens& now = fetched[turn];
    for (int t = static_cast<int>(warp()); t < kTokens; t += 4) {
      float sum = 0;
      for (int c = static_cast<int>(lane()); c < kDepth; c += static_cast<int>(kWarp))
        sum = fmaf(now.q[t][c], now.k[t][c], sum);
      sum = warp_sum(sum);
      if (lane() == 0) {
        product[t] = sum;
        keep[t] = expf(now.decay[t]);
      }
    }
    sync_threads();
    const int count =
        static_cast<int>(s.new_tokens - token < kTokens ? s.new_tokens - token : std::int64_t{kTokens});
    for (int t = 0; t < count; ++t) {
      Values<4> key[M];
      float from_key[4] = {}, from_query[4] = {};
#pragma unroll
      for (int m = 0; m < M; ++m) {
        key[m] = load_values<4>(&now.k[t][first_row(m)]);
        const Values<4> query = load_values<4>(&now.q[t][first_row(m)]);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            from_key[c] = fmaf(key[m].v[e], held[m][e].v[c], from_key[c]);
            from_query[c] = fmaf(query.v[e], held[m][e].v[c], from_query[c]);
          }
      }
      const float factor = keep[t], sum = factor * sum_of_sixteen(from_key, from_query);
      // Meanwhile the state decays.
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int c = 0; c < 4; ++c) held[m][e].v[c] *= factor;
      const float value = now.v[t][own_column + which];
      const float mine = now.beta[t] * (a.delta_rule ? value - sum : value);  // of lanes that don't `read`
      float written[4], read = sum;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        written[c] = shuffle(mine, lane() % 2 + 4 * static_cast<unsigned>(c));
        if (c == which) read = fmaf(product[t], written[c], read);
      }
      if (reads && has_columns && (lane() & 2) == 0)
        in.out[at(token + t) * a.v_dim + block_column + own_column + which] = read;
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int c = 0; c < 4; ++c) held[m][e].v[c] = fmaf(key[m].v[e], written[c], held[m][e].v[c]);
    }
    sync_threads();  // before these tokens' place is fetched into
  }
  if (!has_columns) return;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (const int row = first_row(m) + e; row < depth) store_values(state + row * a.v_dim, held[m][e]);
}

// Any sizes: a column a thread, the state where it lies.
__global__ void __launch_bounds__(128) recurrence_any(RecurrenceArgs a, RecurrenceRows in) {
  begin_kernel();
  const std::int64_t column = std::int64_t{blockIdx.x % in.parts} * blockDim.x + threadIdx.x,
                     head = blockIdx.y;
  if (column >= a.v_dim) return;
  const unsigned n = blockIdx.x / in.parts;
  const SequenceRows s = in.own[n];
  float* const state =
      in.states.first + in.states.values * in.states.slots[n] + head * a.k_dim * a.v_dim + column;
  if (s.cached == 0)
    for (std::int64_t i = 0; i < a.k_dim; ++i) state[i * a.v_dim] = 0;
  for (std::int64_t row = s.first_row; row < s.first_row + s.new_tokens; ++row) {
    const std::int64_t at = row * a.heads + head;
    const float keep = expf(in.decay[at]);
    const float *q = in.q + at * a.k_dim, *k = in.k + at * a.k_dim;
    float from_key = 0, read = 0;
    if (a.delta_rule)
      for (std::int64_t i = 0; i < a.k_dim; ++i) from_key = fmaf(k[i], keep * state[i * a.v_dim], from_key);
    const float written = in.beta[at] * (in.v[at * a.v_dim + column] - from_key);
    for (std::int64_t i = 0; i < a.k_dim; ++i) {
      const float next = fmaf(k[i], written, keep * state[i * a.v_dim]);
      state[i * a.v_dim] = next;
      read = fmaf(q[i], next, read);
    }
    in.out[at * a.v_dim + column] = read;
  }
}

unsigned blocks_of(std::int64_t count, std::int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

void CudaKernels::causal_conv(const Sequences& sequences, const States& states, const float* x,
                              std::int64_t x_stride, std::int64_t channels, std::int64_t taps,
                              const float* weight, const float* bias, bool silu, float* y,
                              std::int64_t y_stride) const {
  if (sequences.empty() || channels <= 0) return;
  const bool four = taps == 4 && in_vectors({states.first, x, weight, bias, y},
                                            {states.values, x_stride, channels, y_stride});
  std::int64_t longest = 0, rows = 0;
  for (const SequenceRows& s : sequences.host)
    longest = std::max(longest, s.new_tokens), rows += s.new_tokens;
  const int tile = !four ? static_cast<int>(std::max<std::int64_t>(taps - 1, 8)) : longest <= 1 ? 1 : 8;
  // Tiles enough for twice the mean length: a block takes several of a longer sequence.
  const auto count = static_cast<std::int64_t>(sequences.size());
  const unsigned tiles = std::min(grid_of(longest, tile), 2 * grid_of(rows, count * tile)),
                 parts = blocks_of(channels, four ? 4 * 128 : 128);
  const ConvArgs args{.own = sequences.own,
                      .states = states,
                      .x = x,
                      .x_stride = x_stride,
                      .channels = channels,
                      .taps = static_cast<int>(taps),
                      .weight = weight,
                      .bias = bias,
                      .silu = silu,
                      .y = y,
                      .y_stride = y_stride,
                      .tile = tile,
                      .parts = parts};
  auto* const kernel = !four ? causal_conv_any : tile == 1 ? causal_conv_four<1> : causal_conv_four<8>;
  launch(kernel,
         {.grid = dim3(parts * static_cast<unsigned>(count), std::max(tiles, 1u)),
          .block = dim3(128),
          .name = "causal_conv"},
         stream(), args);
}

void CudaKernels::delta_inputs(const DeltaArgs& args, const float* x, const float* gates, std::int64_t first,
                               std::int64_t rows, float* q, float* k, float* v, float* decay,
                               float* beta) const {
  if (rows <= 0) return;
  const DeltaRows in{x, gates, first, rows, q, k, v, decay, beta};
  const bool vectors = in_vectors({x, q, k, v}, {args.k_dim, args.heads * args.v_dim});
  const std::int64_t parts = 2 * args.groups + blocks_of(args.heads * args.v_dim, kValuesOfWarp) + 1,
                     y = std::min<std::int64_t>(parts, 8);
  launch(vectors ? delta_input_rows<4> : delta_input_rows<1>,
         {.grid = dim3(blocks_of(parts, y), grid_of(rows, 1)),
          .block = dim3(kWarp, static_cast<unsigned>(y)),
          .name = "delta_inputs"},
         stream(), args, in);
}

void CudaKernels::recurrence(const RecurrenceArgs& args, const Sequences& sequences, const States& states,
                             const float* q, const float* k, const float* v, const float* decay,
                             const float* beta, float* out, Threads&) const {
  if (sequences.empty() || args.heads <= 0 || args.v_dim <= 0) return;
  const std::int64_t depth = args.k_dim;
  const auto run = [&](auto* kernel, const char* name, std::int64_t columns, std::size_t shared) {
    const unsigned parts = blocks_of(args.v_dim, columns);
    const RecurrenceRows in{sequences.own, states, q, k, v, decay, beta, out, parts};
    launch(kernel,
           {.grid = dim3(parts * static_cast<unsigned>(sequences.size()), static_cast<unsigned>(args.heads)),
            .block = dim3(128),
            .shared = shared,
            .name = name},
           stream(), args, in);
  };
  if (depth > 256 || !in_vectors({states.first, q, k, v, out}, {states.values, depth, args.v_dim}))
    return run(recurrence_any, "recurrence of any size", 128, 0);
  if (std::all_of(sequences.host.begin(), sequences.host.end(),
                  [](const SequenceRows& s) { return s.new_tokens == 1; })) {
    auto* const kernel = depth <= 64    ? recurrence_step<4>
                         : depth <= 128 ? recurrence_step<8>
                                        : recurrence_step<16>;
    return run(kernel, "recurrence of a step", kColumns, 0);
  }
  if (depth <= 64) return run(recurrence_prompt<1>, "recurrence", kColumns, 2 * sizeof(Fetched<64>));
  if (depth <= 128) return run(recurrence_prompt<2>, "recurrence", kColumns, 2 * sizeof(Fetched<128>));
  run(recurrence_prompt<4>, "recurrence", kColumns, 2 * sizeof(Fetched<256>));
}

}  // namespace foretoken::cuda
