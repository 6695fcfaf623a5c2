// The loops behind SimdOps for vectors of kLanes floats; included once by each file that is compiled for an
// instruction set (FORETOKEN_LANES, FORETOKEN_OPS, and FORETOKEN_BF16_PAIRS where it multiplies pairs).
// Everything is in an unnamed namespace and uses builtins only: see kernels_simd.h.
#include <cstring>

#include "executor/kernels_simd.h"
#include "executor/kernels_simd_attention.h"
#include "executor/kernels_simd_products.h"
#include "executor/kernels_simd_vectors.h"

namespace foretoken {
namespace {

// ---- rows of values ----

template <class F>  // f(offset, valid lanes): whole vectors, then the rest
inline void for_vectors(Index width, F f) {
  Index i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, kLanes);
  if (i < width) f(i, static_cast<int>(width - i));
}
inline V load_some(const float* from, int count) {
  if (count == kLanes) return load<V>(from);
  V v = V{};
  for (int i = 0; i < count; ++i) v[i] = from[i];
  return v;
}
inline void store_some(float* to, V v, int count) {
  if (count == kLanes) return store(to, v);
  for (int i = 0; i < count; ++i) to[i] = v[i];
}

void norm(const NormArgs& args, const float* x, Index x_stride, Index rows, Index width, float* y,
          Index y_stride) {
  for (Index r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    float mean = 0;
    if (args.kind == NormKind::kLayer) {
      V total = V{};
      for_vectors(width, [&](Index i, int n) { total += load_some(x + i, n); });
      mean = sum(total) / static_cast<float>(width);
    }
    V squares = V{};
    for_vectors(width, [&](Index i, int n) {
      V v = load_some(x + i, n) - mean;
      if (n < kLanes)
        for (int j = n; j < kLanes; ++j) v[j] = 0;
      squares += v * v;
    });
    const float inverse = 1 / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + args.epsilon);
    for_vectors(width, [&](Index i, int n) {
      V v = (load_some(x + i, n) - mean) * inverse;
      if (args.weight) v = v * (load_some(args.weight + i, n) + args.offset);
      if (args.bias) v = v + load_some(args.bias + i, n);
      store_some(y + i, v, n);
    });
  }
}

inline V activate(const ActivationArgs& args, V x) {
  switch (args.kind) {
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kGeluTanh:
      return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));  // tanh(u) = 2 sigmoid(2u) - 1
    case Activation::kReluSquared:
      return larger(x, V{}) * larger(x, V{});
    default:
      return larger(x, V{});
  }
}

void activation(const ActivationArgs& args, const float* x, Index rows, Index width, float* y) {
  const bool gated = args.gated || args.kind == Activation::kClampedSwiglu;
  for (Index r = 0; r < rows; ++r, x += gated ? 2 * width : width, y += width)
    for_vectors(width, [&](Index i, int n) {
      V gate = load_some(x + i, n);
      V v;
      if (args.kind == Activation::kClampedSwiglu) {
        gate = smaller(gate, all(args.limit));
        const V up = larger(smaller(load_some(x + width + i, n), all(args.limit)), all(-args.limit));
        v = gate * sigmoid(args.alpha * gate) * (up + 1.0f);
      } else {
        v = activate(args, gate);
        if (gated) v = v * load_some(x + width + i, n);
      }
      store_some(y + i, v, n);
    });
}

void exponentials(const float* x, Index count, float* largest, float* total) {
  const V none = all(-__builtin_inff());
  const auto rest = [&](Index i, int n) {  // lanes beyond the end add nothing
    V v = load_some(x + i, n);
    for (int j = n; j < kLanes; ++j) v[j] = -__builtin_inff();
    return v;
  };
  V top = none;
  for_vectors(count, [&](Index i, int n) { top = larger(top, rest(i, n)); });
  top = largest_everywhere(top);
  *largest = top[0];
  V sums = V{};
  if (*largest > -__builtin_inff())
    for_vectors(count, [&](Index i, int n) { sums += exponential(rest(i, n) - top); });
  *total = sum(sums);
}

}  // namespace

extern const SimdOps FORETOKEN_OPS;
const SimdOps FORETOKEN_OPS = {FORETOKEN_NAME, rounded_stride, round_rows, gemm,
                               attend,         norm,           activation, exponentials};

}  // namespace foretoken
