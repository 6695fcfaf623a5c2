// Norms, activations, gates and rotation. All are limited by memory: the ceiling aimed at is the device's
// bandwidth on what each must read and write once, and at a decode step's sizes the time of a launch. So
// every access is of 16 bytes where addresses allow it, a row's values stay in registers between the passes
// of a norm, and each operator is one launch.
#include "executor/cuda/quantised_rows.cuh"

namespace foretoken::cuda {
namespace {

// ---- Norms ----------------------------------------------------------------------------------------------

// `inner` rows lie inner_stride apart, `outer` times. added: joins x before, rows like its own; null: none.
struct NormRows {
  float* x;
  const float* added;
  float* y;
  std::int64_t outer, inner, width;
  std::int64_t x_outer, x_inner, y_outer, y_inner;  // strides
  QuantisedRows quantised = {};                     // instead of y; of one outer row
};

template <bool kBlock>
FORETOKEN_DEVICE float sum_of_row(float value) {
  if constexpr (kBlock)
    return block_sum(value);
  else
    return warp_sum(value);
}

template <int W>
FORETOKEN_DEVICE Values<W> scaled_row(const NormArgs& args, const Values<W>& x, float mean, float inverse,
                                      const Values<W>& weight, const Values<W>& bias) {
  Values<W> y;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    const float value = (x.v[i] - mean) * inverse;
    y.v[i] = fmaf(value, args.weight != nullptr ? weight.v[i] + args.offset : 1.0f, bias.v[i]);
  }
  return y;
}

constexpr int kHeldWidth = 4 * 4 * 1024;  // of the longest row that threads hold

// A block a row, or a warp (threads (lane, inner row, outer row)). P: vectors a thread, which stay in
// registers; 0: any number, read again in each pass. Two passes of a layer norm: first the mean, then squares
// of what is left. Weights are fetched while the kernels before this one are still running.
template <int W, int P, bool kBlock, bool kQuantised = false>
__global__ void __launch_bounds__(kBlock ? kQuantised&& P == 4 ? 512 : 1024 : 256)
    norm_rows(NormArgs args, NormRows rows) {
  const int first = static_cast<int>(kBlock ? thread() : lane()) * W,
            step = static_cast<int>(kBlock ? threads() : kWarp) * W, width = static_cast<int>(rows.width);
  const auto weight_at = [&](int c) {
    return args.weight != nullptr ? load_values<W>(args.weight + c) : same_values<W>(1);
  };
  const auto bias_at = [&](int c) {
    return args.bias != nullptr ? load_values<W>(args.bias + c) : same_values<W>(0);
  };
  Values<W> weight[P > 0 ? P : 1];
  if constexpr (P > 0) {
#pragma unroll
    for (int i = 0; i < P; ++i)
      weight[i] = first + i * step < width ? weight_at(first + i * step) : same_values<W>(0);
  }
  begin_kernel();
  const std::int64_t inner = kBlock ? blockIdx.x : std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (inner >= rows.inner) return;  // a whole warp
  const bool centred = args.kind == NormKind::kLayer;
  const float per_value = 1.0f / static_cast<float>(width);
  const std::int64_t outer_step = std::int64_t{gridDim.y} * (kBlock ? 1 : blockDim.z);
  for (std::int64_t outer = kBlock ? blockIdx.y : std::int64_t{blockIdx.y} * blockDim.z + threadIdx.z;
       outer < rows.outer; outer += outer_step) {
    float* const x = rows.x + outer * rows.x_outer + inner * rows.x_inner;
    const float* const added =
        rows.added != nullptr ? rows.added + outer * rows.x_outer + inner * rows.x_inner : nullptr;
    // A thread's own values alone, so that nobody else waits for them.
    const auto join = [&](int c) {
      Values<W> sum = load_values<W>(x + c);
      if (added == nullptr) return sum;
      const Values<W> other = load_values<W>(added + c);
#pragma unroll
      for (int j = 0; j < W; ++j) sum.v[j] += other.v[j];
      store_values(x + c, sum);
      return sum;
    };
    float* y = rows.y + outer * rows.y_outer + inner * rows.y_inner;
    float mean = 0, squares = 0;
    if constexpr (P > 0) {
      Values<W> held[P];
#pragma unroll
      for (int i = 0; i < P; ++i) {
        const int c = first + i * step;
        held[i] = c < width ? join(c) : same_values<W>(0);
      }
      if (centred) {
#pragma unroll
        for (int i = 0; i < P; ++i)
#pragma unroll
          for (int j = 0; j < W; ++j) mean += held[i].v[j];
        mean = sum_of_row<kBlock>(mean) * per_value;
      }
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (first + i * step < width)
#pragma unroll
          for (int j = 0; j < W; ++j) squares = fmaf(held[i].v[j] - mean, held[i].v[j] - mean, squares);
      const float inverse = fast_rsqrt(sum_of_row<kBlock>(squares) * per_value + args.epsilon);
#pragma unroll
      for (int i = 0; i < P; ++i)
        held[i] = scaled_row(args, held[i], mean, inverse, weight[i], same_values<W>(0));
      if (args.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < P; ++i) {
          const int c = first + i * step;
          const Values<W> bias = bias_at(c < width ? c : 0);
#pragma unroll
          for (int j = 0; j < W; ++j) held[i].v[j] += bias.v[j];
        }
      }
      if constexpr (kQuantised) {
#pragma unroll
        for (int i = 0; i < P; ++i)
          if (first + i * step >= width) held[i] = same_values<W>(0);
        put_row<P, kBlock>(rows.quantised, inner, held, first, step);
      } else {
#pragma unroll
        for (int i = 0; i < P; ++i)
          if (const int c = first + i * step; c < width) store_values(y + c, held[i]);
      }
    } else {
      if (added != nullptr)
        for (int c = first; c < width; c += step) join(c);
      if (centred) {
        for (int c = first; c < width; c += step) {
          const Values<W> values = load_values<W>(x + c);
          for (int j = 0; j < W; ++j) mean += values.v[j];
        }
        mean = sum_of_row<kBlock>(mean) * per_value;
      }
      for (int c = first; c < width; c += step) {
        const Values<W> values = load_values<W>(x + c);
        for (int j = 0; j < W; ++j) squares = fmaf(values.v[j] - mean, values.v[j] - mean, squares);
      }
      const float inverse = fast_rsqrt(sum_of_row<kBlock>(squares) * per_value + args.epsilon);
      if constexpr (kQuantised) {
        // As rows that threads hold have the bias, or as those that they don't.
        const bool late = width <= kHeldWidth;
        const auto made_of = [&](int c) {
          if (c >= width) return same_values<W>(0);
          Values<W> made = scaled_row(args, load_values<W>(x + c), mean, inverse, weight_at(c),
                                      late ? same_values<W>(0) : bias_at(c));
          if (late && args.bias != nullptr) {
            const Values<W> bias = bias_at(c);
            for (int j = 0; j < W; ++j) made.v[j] += bias.v[j];
          }
          return made;
        };
        float largest = 0;
        for (int c = first; c < width; c += step) largest = fmaxf(largest, largest_of(made_of(c)));
        const float scale = scale_of_row<kBlock>(rows.quantised, inner, largest, first);
        for (int c = first; c < (width + 127) / 128 * 128; c += step)  // a warp's together
          put_values(rows.quantised, inner, c, made_of(c), scale);
      } else {
        for (int c = first; c < width; c += step)
          store_values(y + c,
                       scaled_row(args, load_values<W>(x + c), mean, inverse, weight_at(c), bias_at(c)));
      }
    }
  }
}

// Rows up to this many floats are a warp's each.
constexpr std::int64_t kNarrow = 1024;

// Sums of a quantised row are of the threads that they are of where it is not.
void launch_norm(const CudaKernels& set, const char* name, const NormArgs& args, const NormRows& rows) {
  const bool quantised = rows.quantised.to != nullptr;
  if (rows.outer <= 0 || rows.inner <= 0 || rows.width <= 0) return;
  const bool vectors =
      quantised || in_vectors({rows.x, rows.added, rows.y, args.weight, args.bias},
                              {rows.width, rows.x_outer, rows.x_inner, rows.y_outer, rows.y_inner});
  const std::int64_t pieces = vectors ? rows.width / 4 : rows.width;
  if (rows.width <= kNarrow) {
    const std::int64_t y = std::min<std::int64_t>(rows.inner, 8), z = std::min(8 / y, rows.outer);
    auto* kernel = !vectors       ? norm_rows<1, 0, false>
                   : pieces <= 32 ? norm_rows<4, 1, false>
                   : pieces <= 64 ? norm_rows<4, 2, false>
                                  : norm_rows<4, 8, false>;
    if (quantised)
      kernel = pieces <= 32   ? norm_rows<4, 1, false, true>
               : pieces <= 64 ? norm_rows<4, 2, false, true>
                              : norm_rows<4, 8, false, true>;
    return launch(kernel,
                  {.grid = dim3(static_cast<unsigned>((rows.inner + y - 1) / y), grid_of(rows.outer, z)),
                   .block = dim3(kWarp, static_cast<unsigned>(y), static_cast<unsigned>(z)),
                   .name = name},
                  set.stream(), args, rows);
  }
  // Few rows: all threads that a row has work for, so that its time is one load's. Many: fewer, since several
  // blocks of a multiprocessor hide each other's loads and sums.
  const bool few = rows.inner * rows.outer <= 2 * set.device().multiprocessors;
  std::int64_t each = few ? 1 : 4;
  while (each < 4 && pieces > 1024 * each) each *= 2;
  const std::int64_t threads = std::min<std::int64_t>(((pieces + each - 1) / each + 31) / 32 * 32, 1024);
  auto* kernel = !vectors               ? norm_rows<1, 0, true>
                 : pieces > 1024 * each ? norm_rows<4, 0, true>
                 : each == 1            ? norm_rows<4, 1, true>
                 : each == 2            ? norm_rows<4, 2, true>
                                        : norm_rows<4, 4, true>;
  if (quantised)
    kernel = each == 4 && threads > 512 ? norm_rows<4, 0, true, true>
             : each == 1                ? norm_rows<4, 1, true, true>
             : each == 2                ? norm_rows<4, 2, true, true>
                                        : norm_rows<4, 4, true, true>;
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(rows.inner), grid_of(rows.outer, 1)),
          .block = dim3(static_cast<unsigned>(threads)),
          .name = name},
         set.stream(), args, rows);
}

// ---- Elements -------------------------------------------------------------------------------------------

FORETOKEN_DEVICE float sigmoid(float x) { return fast_reciprocal(1 + fast_exp(-x)); }

struct Add {
  const float* x;
  float* y;
  std::int64_t stride;
  template <int W>
  struct Loaded {
    Values<W> x, y;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    return {load_values<W>(x + row * stride + column), load_values<W>(y + row * stride + column)};
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Loaded<W>& in) const {
    Values<W> sum;
#pragma unroll
    for (int i = 0; i < W; ++i) sum.v[i] = in.y.v[i] + in.x.v[i];
    store_values(y + row * stride + column, sum);
  }
};

struct Softcap {
  float cap;
  float* y;
  std::int64_t stride;
  template <int W>
  using Loaded = Values<W>;
  template <int W>
  FORETOKEN_DEVICE Values<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    return load_values<W>(y + row * stride + column);
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Values<W>& in) const {
    Values<W> capped;
#pragma unroll
    for (int i = 0; i < W; ++i) capped.v[i] = cap * tanhf(in.v[i] / cap);
    store_values(y + row * stride + column, capped);
  }
};

// The width of the rows that a flat array is taken as: the largest power of two that divides it, up to 1024.
std::int64_t flat_width(std::int64_t values) { return std::min<std::int64_t>(values & -values, 1024); }

struct Activate {
  ActivationArgs args;
  bool gated;
  const float* x;
  float* y;
  std::int64_t width;
  template <int W>
  struct Loaded {
    Values<W> gate, up;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    const float* from = x + (gated ? 2 * row : row) * width + column;
    return {load_values<W>(from), gated ? load_values<W>(from + width) : same_values<W>(1)};
  }
  template <int W>
  FORETOKEN_DEVICE Values<W> made_of(const Loaded<W>& in) const {
    Values<W> out = in.gate;
    const auto each = [&](auto f) {
#pragma unroll
      for (int i = 0; i < W; ++i) out.v[i] = f(in.gate.v[i]) * in.up.v[i];
    };
    switch (args.kind) {
      case Activation::kSilu:
        each([](float g) { return g * sigmoid(g); });
        break;
      case Activation::kGelu:
        each([](float g) { return 0.5f * g * (1 + erff(g * 0.707106781186547524f)); });
        break;
      case Activation::kGeluTanh:  // (1 + tanh x) / 2 = sigmoid(2x), without cancellation
        each([](float g) { return g * sigmoid(1.59576912160573071f * fmaf(0.044715f * g, g * g, g)); });
        break;
      case Activation::kRelu:
        each([](float g) { return fmaxf(g, 0); });
        break;
      case Activation::kReluSquared:
        each([](float g) { return fmaxf(g, 0) * fmaxf(g, 0); });
        break;
      case Activation::kClampedSwiglu:
#pragma unroll
        for (int i = 0; i < W; ++i) {
          const float g = fminf(in.gate.v[i], args.limit),
                      up = fminf(fmaxf(in.up.v[i], -args.limit), args.limit);
          out.v[i] = g * sigmoid(args.alpha * g) * (up + 1);
        }
    }
    return out;
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Loaded<W>& in) const {
    store_values(y + row * width + column, made_of(in));
  }
};

// A block a row, P vectors a thread.
template <int P>
__global__ void __launch_bounds__(1024) activate_quantised(Activate f, QuantisedRows q) {
  begin_kernel();
  const int first = static_cast<int>(thread()) * 4, step = static_cast<int>(threads()) * 4;
  Values<4> held[P];
#pragma unroll
  for (int i = 0; i < P; ++i) {
    const int c = first + i * step;
    held[i] = c < f.width ? f.made_of(f.load<4>(0, blockIdx.x, c)) : same_values<4>(0);
  }
  put_row<P, true>(q, blockIdx.x, held, first, step);
}

struct Gate {
  const float* gate;
  std::int64_t gate_stride;
  bool one, silu;  // one gate a row
  float* y;
  std::int64_t width;
  template <int W>
  struct Loaded {
    Values<W> gate, y;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    const float* from = gate + row * gate_stride;
    return {one ? same_values<W>(*from) : load_values<W>(from + column),
            load_values<W>(y + row * width + column)};
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Loaded<W>& in) const {
    Values<W> out;
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const float g = in.gate.v[i];
      out.v[i] = in.y.v[i] * ((silu ? g : 1) * sigmoid(g));
    }
    store_values(y + row * width + column, out);
  }
};

// Planes are rows of x, rows its heads, columns the pairs of a head.
struct Rope {
  const float *cosines, *sines;
  std::int64_t pairs;
  bool interleaved;
  const std::int32_t* positions;
  float* x;  // where the turned dims start in the first head
  std::int64_t x_stride, head_dim;
  template <int W>
  struct Loaded {
    Values<W> a, b, cosine, sine;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t plane, std::int64_t row, std::int64_t column) const {
    const float* head = x + plane * x_stride + row * head_dim;
    const std::int64_t angle = positions[plane] * pairs + column;
    Loaded<W> in;
    in.cosine = load_values<W>(cosines + angle);
    in.sine = load_values<W>(sines + angle);
    if (interleaved) {
      Values<W> both[2];
      both[0] = load_values<W>(head + 2 * column);
      both[1] = load_values<W>(head + 2 * column + W);
#pragma unroll
      for (int i = 0; i < W; ++i) {
        in.a.v[i] = both[2 * i / W].v[2 * i % W];
        in.b.v[i] = both[(2 * i + 1) / W].v[(2 * i + 1) % W];
      }
    } else {
      in.a = load_values<W>(head + column);
      in.b = load_values<W>(head + column + pairs);
    }
    return in;
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t plane, std::int64_t row, std::int64_t column,
                              const Loaded<W>& in) const {
    float* head = x + plane * x_stride + row * head_dim;
    Values<W> a, b;
#pragma unroll
    for (int i = 0; i < W; ++i) {
      a.v[i] = in.a.v[i] * in.cosine.v[i] - in.b.v[i] * in.sine.v[i];
      b.v[i] = in.b.v[i] * in.cosine.v[i] + in.a.v[i] * in.sine.v[i];
    }
    if (interleaved) {
      Values<W> both[2];
#pragma unroll
      for (int i = 0; i < W; ++i) {
        both[2 * i / W].v[2 * i % W] = a.v[i];
        both[(2 * i + 1) / W].v[(2 * i + 1) % W] = b.v[i];
      }
      store_values(head + 2 * column, both[0]);
      store_values(head + 2 * column + W, both[1]);
    } else {
      store_values(head + column, a);
      store_values(head + column + pairs, b);
    }
  }
};

}  // namespace

void CudaKernels::norm(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
                       std::int64_t width, float* y, std::int64_t y_stride) const {
  launch_norm(*this, "norm", args,
              {const_cast<float*>(x), nullptr, y, 1, rows, width, 0, x_stride, 0, y_stride});
}

void CudaKernels::add_norm(const NormArgs& args, const float* added, std::int64_t rows, std::int64_t width,
                           float* stream, float* y) const {
  launch_norm(*this, "add_norm", args, {stream, added, y, 1, rows, width, 0, width, 0, width});
}

void CudaKernels::norm_heads(const NormArgs& args, float* x, std::int64_t x_stride, std::int64_t rows,
                             std::int64_t heads, std::int64_t head_dim) const {
  launch_norm(*this, "norm_heads", args,
              {x, nullptr, x, rows, heads, head_dim, x_stride, head_dim, x_stride, head_dim});
}

void CudaKernels::add(const float* x, std::int64_t values, float* y) const {
  if (values <= 0) return;
  const std::int64_t width = flat_width(values);
  launch_rows(*this, "add", in_vectors({x, y}, {width}), Add{x, y, width}, 1, values / width, width);
}

void CudaKernels::softcap(float cap, std::int64_t values, float* y) const {
  if (values <= 0) return;
  const std::int64_t width = flat_width(values);
  launch_rows(*this, "softcap", in_vectors({y}, {width}), Softcap{cap, y, width}, 1, values / width, width);
}

void CudaKernels::activation(const ActivationArgs& args, const float* x, std::int64_t rows,
                             std::int64_t width, float* y) const {
  const bool gated = args.gated || args.kind == Activation::kClampedSwiglu;
  launch_rows(*this, "activation", in_vectors({x, y}, {width}), Activate{args, gated, x, y, width}, 1, rows,
              width);
}

void CudaKernels::norm_quantised(const NormArgs& args, const float* added, std::int64_t rows,
                                 std::int64_t width, float* stream, Storage format, std::byte* to,
                                 float x_scale) const {
  const QuantisedForm form(format, rows, width);
  if (form.floats) return Kernels::norm_quantised(args, added, rows, width, stream, format, to);
  launch_norm(*this, "norm_quantised", args,
              {stream, added, nullptr, 1, rows, width, 0, width, 0, width,
               quantised_rows(form, format, rows, width, to, x_scale)});
}

void CudaKernels::activation_quantised(const ActivationArgs& args, const float* x, std::int64_t rows,
                                       std::int64_t width, Storage format, std::byte* to,
                                       float x_scale) const {
  const QuantisedForm form(format, rows, width);
  if (form.floats) return Kernels::activation_quantised(args, x, rows, width, format, to);
  if (rows <= 0 || width <= 0) return;
  const bool gated = args.gated || args.kind == Activation::kClampedSwiglu;
  // As in launch_norm().
  const std::int64_t pieces = width / 4;
  std::int64_t each = rows <= 2 * device().multiprocessors ? 1 : 4;
  while (pieces > 1024 * each) each *= 2;
  auto* const kernel = each == 1   ? activate_quantised<1>
                       : each == 2 ? activate_quantised<2>
                       : each == 4 ? activate_quantised<4>
                                   : activate_quantised<8>;
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(rows)),
          .block = dim3(static_cast<unsigned>(((pieces + each - 1) / each + 31) / 32 * 32)),
          .name = "activation_quantised"},
         stream(), Activate{args, gated, x, nullptr, width},
         quantised_rows(form, format, rows, width, to, x_scale));
}

void CudaKernels::sigmoid_gate(const float* gate, std::int64_t gate_stride, std::int64_t gate_width,
                               std::int64_t rows, std::int64_t width, bool silu, float* y) const {
  const bool one = gate_width == 1;
  launch_rows(*this, "sigmoid_gate", in_vectors({y}, {width}) && (one || in_vectors({gate}, {gate_stride})),
              Gate{gate, gate_stride, one, silu, y, width}, 1, rows, width);
}

void CudaKernels::rope(const float* cosines, const float* sines, std::int64_t pairs, bool interleaved,
                       std::span<const std::int32_t> positions, float* x, std::int64_t x_stride,
                       std::int64_t heads, std::int64_t head_dim, std::int64_t first) const {
  float* const from = x + first;
  launch_rows(*this, "rope", in_vectors({cosines, sines, from}, {pairs, x_stride, head_dim}),
              Rope{cosines, sines, pairs, interleaved, positions.data(), from, x_stride, head_dim},
              static_cast<std::int64_t>(positions.size()), heads, pairs);
}

}  // namespace foretoken::cuda
