// Rows that are copied, gathered and summed up, and the cache's entries. All are limited by memory: the
// ceiling aimed at is the device's bandwidth on what each must read and write once. Accesses are of 16 bytes
// where addresses allow it (of four entries of a narrow cache), and an entry's values stay in registers
// between finding its scale and storing it. One launch each (cache_read: one of keys, one of values).
#include "executor/cuda/rows.cuh"

namespace foretoken::cuda {
namespace {

// ---- Rows that move -------------------------------------------------------------------------------------

// From row from_rows[row] (null: row) to row `row`; rows of -1 stay.
template <bool kAccumulate>
struct Take {
  const float* from;
  std::int64_t from_stride;
  const std::int32_t* from_rows;
  float* to;
  std::int64_t to_stride;
  template <int W>
  struct Loaded {
    Values<W> x, y;
    bool moves;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    const std::int64_t source = from_rows != nullptr ? from_rows[row] : row;
    Loaded<W> in;
    in.moves = source >= 0;
    in.x = in.moves ? load_values<W>(from + source * from_stride + column) : same_values<W>(0);
    if constexpr (kAccumulate) in.y = load_values<W>(to + row * to_stride + column);
    return in;
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Loaded<W>& in) const {
    if (!in.moves) return;
    Values<W> out = in.x;
    if constexpr (kAccumulate)
#pragma unroll
      for (int i = 0; i < W; ++i) out.v[i] = in.y.v[i] + in.x.v[i];
    store_values(to + row * to_stride + column, out);
  }
};

// Adds row `row` to row rows_of[row].
struct AddTo {
  const float* x;
  std::int64_t width;
  const std::int32_t* rows_of;
  float* y;
  std::int64_t y_stride;
  template <int W>
  struct Loaded {
    Values<W> x, y;
    std::int64_t to;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    const std::int64_t to = rows_of[row] * y_stride + column;
    return {load_values<W>(x + row * width + column), load_values<W>(y + to), to};
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t, std::int64_t, const Loaded<W>& in) const {
    Values<W> sum;
#pragma unroll
    for (int i = 0; i < W; ++i) sum.v[i] = in.y.v[i] + in.x.v[i];
    store_values(y + in.to, sum);
  }
};

struct Combine {
  const float* x;
  std::int64_t width;
  const std::int32_t* place;
  const float* weights;
  int top_k;
  bool accumulate;
  float* out;
  template <int W>
  using Loaded = Values<W>;
  template <int W>
  FORETOKEN_DEVICE Values<W> load(std::int64_t, std::int64_t row, std::int64_t column) const {
    constexpr int kAtOnce = 4;
    Values<W> sum = accumulate ? load_values<W>(out + row * width + column) : same_values<W>(0);
    const std::int32_t* places = place + row * top_k;
    const float* factors = weights + row * top_k;
    for (int j = 0; j < top_k; j += kAtOnce) {
      Values<W> from[kAtOnce];
      float factor[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const std::int64_t at = j + i < top_k ? places[j + i] : -1;
        from[i] = at >= 0 ? load_values<W>(x + at * width + column) : same_values<W>(0);
        factor[i] = at >= 0 ? factors[j + i] : 0;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
        for (int w = 0; w < W; ++w) sum.v[w] = fmaf(factor[i], from[i].v[w], sum.v[w]);
    }
    return sum;
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t, std::int64_t row, std::int64_t column,
                              const Values<W>& sum) const {
    store_values(out + row * width + column, sum);
  }
};

// Planes are tokens, rows heads; columns a head's key and, behind it, its value.
template <class Element>
struct ExpandLatents {
  LatentArgs a;
  const float *up, *latent;
  std::int64_t length;
  Element *keys, *values;
  template <int W>
  using Loaded = Values<W>;
  template <int W>
  FORETOKEN_DEVICE Values<W> load(std::int64_t token, std::int64_t head, std::int64_t column) const {
    const float* from = up + (token * a.heads + head) * (a.nope + a.v);
    if (column < a.nope) return load_values<W>(from + column);
    if (column < a.nope + a.rope)
      return load_values<W>(latent + token * (a.rank + a.rope) + a.rank + column - a.nope);
    return load_values<W>(from + column - a.rope);
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t token, std::int64_t head, std::int64_t column,
                              const Values<W>& in) const {
    const std::int64_t qk = a.nope + a.rope, at = head * length + token;
    Element* const to = column < qk ? keys + at * qk + column : values + at * a.v + column - qk;
    if constexpr (std::is_same_v<Element, float>)
      store_values(to, in);
    else if constexpr (W == 1)
      *to = from_float<bf16>(in.v[0]);
    else
      store8(to, make_uint2(pack_bf16x2(in.v[0], in.v[1]), pack_bf16x2(in.v[2], in.v[3])));
  }
};

// ---- The cache ------------------------------------------------------------------------------------------

FORETOKEN_DEVICE std::int64_t slot_of(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t token,
                                      std::int64_t head) {
  const auto size = static_cast<unsigned>(cache.block_size), position = static_cast<unsigned>(token);
  return (blocks[position / size] * cache.heads + head) * cache.block_size + position % size;
}

FORETOKEN_DEVICE bool has_scales(Storage storage) {
  return storage == Storage::kInt8 || storage == Storage::kFp8;
}

template <class T>
FORETOKEN_DEVICE T* element_at(std::byte* data, std::int64_t index) {
  return reinterpret_cast<T*>(data) + index;
}

template <int W>
FORETOKEN_DEVICE void store_cached(Storage storage, std::byte* data, std::int64_t index, const Values<W>& in,
                                   float scale) {
  // Divided, as the scale's format is defined: a product with the reciprocal rounds differently.
  const auto divided = [&](int i) { return in.v[i] / scale; };
  if constexpr (W == 1) {
    switch (storage) {
      case Storage::kF32:
        *element_at<float>(data, index) = in.v[0];
        break;
      case Storage::kBf16:
        *element_at<bf16>(data, index) = from_float<bf16>(in.v[0]);
        break;
      case Storage::kF16:
        *element_at<f16>(data, index) = from_float<f16>(in.v[0]);
        break;
      case Storage::kFp8:
        *element_at<e4m3>(data, index) = from_float<e4m3>(divided(0));
        break;
      default:
        *element_at<std::int8_t>(data, index) = from_float<std::int8_t>(divided(0));
    }
  } else {
    switch (storage) {
      case Storage::kF32:
        store_values(element_at<float>(data, index), in);
        break;
      case Storage::kBf16:
        store8(data + 2 * index, make_uint2(pack_bf16x2(in.v[0], in.v[1]), pack_bf16x2(in.v[2], in.v[3])));
        break;
      case Storage::kF16:
        store8(data + 2 * index, make_uint2(pack_f16x2(in.v[0], in.v[1]), pack_f16x2(in.v[2], in.v[3])));
        break;
      case Storage::kFp8:
        *element_at<std::uint32_t>(data + index, 0) =
            pack_e4m3x4(make_float4(divided(0), divided(1), divided(2), divided(3)));
        break;
      default:
        *element_at<std::uint32_t>(data + index, 0) =
            pack_int8x4(make_float4(divided(0), divided(1), divided(2), divided(3)));
    }
  }
}

template <int W>
FORETOKEN_DEVICE Values<W> load_cached(Storage storage, std::byte* data, std::int64_t index) {
  if constexpr (W == 1) {
    switch (storage) {
      case Storage::kF32:
        return {*element_at<float>(data, index)};
      case Storage::kBf16:
        return {to_float(*element_at<bf16>(data, index))};
      case Storage::kF16:
        return {to_float(*element_at<f16>(data, index))};
      case Storage::kFp8:
        return {to_float(*element_at<e4m3>(data, index))};
      default:
        return {to_float(*element_at<std::int8_t>(data, index))};
    }
  } else {
    const auto four = [](float4 v) { return Values<W>{v.x, v.y, v.z, v.w}; };
    const auto pairs = [](float2 low, float2 high) { return Values<W>{low.x, low.y, high.x, high.y}; };
    switch (storage) {
      case Storage::kF32:
        return load_values<W>(element_at<float>(data, index));
      case Storage::kBf16: {
        const uint2 bits = load8(data + 2 * index);
        return pairs(unpack_bf16x2(bits.x), unpack_bf16x2(bits.y));
      }
      case Storage::kF16: {
        const uint2 bits = load8(data + 2 * index);
        return pairs(unpack_f16x2(bits.x), unpack_f16x2(bits.y));
      }
      case Storage::kFp8:
        return four(unpack_e4m3x4(*element_at<std::uint32_t>(data + index, 0)));
      default:
        return four(unpack_int8x4(*element_at<std::uint32_t>(data + index, 0)));
    }
  }
}

// The sequence of a row; -1: none has it. first_row ascends; in a decode step of one row a sequence the first
// guess is right.
FORETOKEN_DEVICE int sequence_of(const SequenceRows* own, int count, std::int64_t row) {
  const std::int64_t guess = row - own[0].first_row;
  int low = static_cast<int>(guess < count - 1 ? guess : count - 1);
  if (own[low].first_row > row || own[low].first_row + own[low].new_tokens <= row) {
    low = 0;
    for (int high = count; high - low > 1;) {  // own[low].first_row <= row < own[high].first_row
      const int middle = (low + high) / 2;
      (own[middle].first_row <= row ? low : high) = middle;
    }
  }
  return row < own[low].first_row + own[low].new_tokens ? low : -1;
}

struct CacheRows {
  const SequenceRows* own;
  int count;
  std::int64_t rows;  // from own[0].first_row on
  const float *keys, *values;
  std::int64_t key_stride, value_stride;
};

// A warp a vector of the cache: threads (lane, head's key or value, row). P: vectors of W a lane, which stay
// in registers between finding the largest and storing; 0: any number.
template <int W, int P>
__global__ void __launch_bounds__(256) cache_write_rows(CacheLayer cache, CacheRows in) {
  begin_kernel();
  const std::int64_t part = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (part >= cache.heads * (cache.v_dim > 0 ? 2 : 1)) return;  // a whole warp
  const bool value = part >= cache.heads;
  const std::int64_t head = value ? part - cache.heads : part;
  const int dims = static_cast<int>(value ? cache.v_dim : cache.k_dim);
  const int first = static_cast<int>(lane()) * W;
  constexpr int kStep = static_cast<int>(kWarp) * W;
  std::byte* const data = value ? cache.values : cache.keys;
  const std::int64_t start = in.own[0].first_row;
  for (std::int64_t r = std::int64_t{blockIdx.y} * blockDim.z + threadIdx.z; r < in.rows;
       r += std::int64_t{gridDim.y} * blockDim.z) {
    const std::int64_t row = start + r;
    const float* from =
        (value ? in.values + row * in.value_stride : in.keys + row * in.key_stride) + head * dims;
    Values<W> held[P > 0 ? P : 1];
    if constexpr (P > 0) {  // before the table is searched: both take a while
#pragma unroll
      for (int i = 0; i < P; ++i)
        held[i] = first + i * kStep < dims ? load_values<W>(from + first + i * kStep) : same_values<W>(0);
    }
    const int sequence = sequence_of(in.own, in.count, row);
    if (sequence < 0) continue;  // of all lanes
    const SequenceRows& s = in.own[sequence];
    const std::int64_t slot = slot_of(cache, s.blocks, s.cached + row - s.first_row, head);
    float scale = 1;
    if (has_scales(cache.storage)) {
      float largest = 0;
      const auto look = [&](const Values<W>& values) {
#pragma unroll
        for (int j = 0; j < W; ++j) largest = fmaxf(largest, fabsf(values.v[j]));
      };
      if constexpr (P > 0) {
#pragma unroll
        for (int i = 0; i < P; ++i) look(held[i]);
      } else {
        for (int c = first; c < dims; c += kStep) look(load_values<W>(from + c));
      }
      largest = warp_max(largest);
      if (largest > 0) scale = largest / (cache.storage == Storage::kFp8 ? 448.0f : 127.0f);
      if (lane() == 0) (value ? cache.value_scales : cache.key_scales)[slot] = scale;
    }
    if constexpr (P > 0) {
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (const int c = first + i * kStep; c < dims)
          store_cached(cache.storage, data, slot * dims + c, held[i], scale);
    } else {
      for (int c = first; c < dims; c += kStep)
        store_cached(cache.storage, data, slot * dims + c, load_values<W>(from + c), scale);
    }
  }
}

struct TurnRows {
  RopeArgs rope;
  const std::int32_t* positions;
  std::int64_t rows;
  float* q;
  std::int64_t heads;
  float* keys;
  const float* values;
  std::int64_t stride;
};

// A warp a query, key or value: turned, put back, and written to the cache where it belongs there.
template <int P>
__global__ void __launch_bounds__(256)
    turn_and_write(CacheLayer cache, TurnRows in, const SequenceRows* own, int count) {
  begin_kernel();
  const std::int64_t part = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const std::int64_t keys_end = in.heads + cache.heads;
  if (part >= keys_end + (cache.v_dim > 0 ? cache.heads : 0)) return;  // a whole warp
  const bool value = part >= keys_end;
  const std::int64_t head = value ? part - keys_end : part < in.heads ? part : part - in.heads;
  const int dims = static_cast<int>(value ? cache.v_dim : cache.k_dim);
  const int pairs = static_cast<int>(in.rope.pairs);
  for (std::int64_t row = blockIdx.y; row < in.rows; row += gridDim.y) {
    float* const turned = (part < in.heads ? in.q : in.keys) + row * in.stride + head * dims;
    const float* const from = value ? in.values + row * in.stride + head * dims : turned;
    const std::int64_t angle = std::int64_t{in.positions[row]} * pairs;
    Values<1> held[P];
#pragma unroll
    for (int i = 0; i < P; ++i) {
      const int c = static_cast<int>(lane()) + i * static_cast<int>(kWarp);
      held[i].v[0] = c < dims ? from[c] : 0;
      if (value || c >= 2 * pairs) continue;
      const bool first = in.rope.interleaved ? c % 2 == 0 : c < pairs;
      const int pair = in.rope.interleaved ? c / 2 : first ? c : c - pairs;
      const float other = from[in.rope.interleaved ? c ^ 1 : first ? c + pairs : c - pairs];
      const float cosine = in.rope.cosines[angle + pair], sine = in.rope.sines[angle + pair];
      held[i].v[0] = first ? held[i].v[0] * cosine - other * sine : held[i].v[0] * cosine + other * sine;
    }
    sync_warp();  // all have read
    if (!value) {
#pragma unroll
      for (int i = 0; i < P; ++i)
        if (const int c = static_cast<int>(lane()) + i * static_cast<int>(kWarp); c < 2 * pairs)
          turned[c] = held[i].v[0];
    }
    if (part < in.heads || row < own[0].first_row) continue;
    const int sequence = sequence_of(own, count, row);
    if (sequence < 0) continue;  // of all lanes
    const SequenceRows& s = own[sequence];
    const std::int64_t slot = slot_of(cache, s.blocks, s.cached + row - s.first_row, head);
    float scale = 1;
    if (has_scales(cache.storage)) {
      float largest = 0;
#pragma unroll
      for (int i = 0; i < P; ++i) largest = fmaxf(largest, fabsf(held[i].v[0]));
      largest = warp_max(largest);
      if (largest > 0) scale = largest / (cache.storage == Storage::kFp8 ? 448.0f : 127.0f);
      if (lane() == 0) (value ? cache.value_scales : cache.key_scales)[slot] = scale;
    }
#pragma unroll
    for (int i = 0; i < P; ++i)
      if (const int c = static_cast<int>(lane()) + i * static_cast<int>(kWarp); c < dims)
        store_cached(cache.storage, value ? cache.values : cache.keys, slot * dims + c, held[i], scale);
  }
}

// Planes are tokens, rows heads.
struct CacheRead {
  CacheLayer cache;
  const std::int32_t* blocks;
  std::byte* data;
  const float* scales;  // null: none
  std::int64_t dims;
  float* to;
  template <int W>
  struct Loaded {
    Values<W> values;
    float scale;
  };
  template <int W>
  FORETOKEN_DEVICE Loaded<W> load(std::int64_t token, std::int64_t head, std::int64_t column) const {
    const std::int64_t slot = slot_of(cache, blocks, token, head);
    return {load_cached<W>(cache.storage, data, slot * dims + column), scales != nullptr ? scales[slot] : 1};
  }
  template <int W>
  FORETOKEN_DEVICE void store(std::int64_t token, std::int64_t head, std::int64_t column,
                              const Loaded<W>& in) const {
    Values<W> out;
#pragma unroll
    for (int i = 0; i < W; ++i) out.v[i] = in.values.v[i] * in.scale;
    store_values(to + (token * cache.heads + head) * dims + column, out);
  }
};

// A warp a head's key or value and a chain of tokens: every chains-th one, ascending. Where tokens move by
// fewer places than there are tokens, chains are as many as those places, so that who is written over comes
// earlier in the same chain, and each of its numbers has been read by the lane that writes there: the first
// and second dim of a pair, or a dim that isn't turned, are one lane's.
__global__ void __launch_bounds__(256) shift_rows(CacheLayer cache, CacheShift in, std::int64_t chains) {
  begin_kernel();
  const std::int64_t part = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const bool value = part >= cache.heads, moves = in.from != in.to;
  if (part >= cache.heads * (moves && cache.v_dim > 0 ? 2 : 1)) return;  // a whole warp
  const std::int64_t head = value ? part - cache.heads : part;
  const int dims = static_cast<int>(value ? cache.v_dim : cache.k_dim);
  const int pairs = value ? 0 : static_cast<int>(in.turn.pairs), begin = static_cast<int>(in.first);
  std::byte* const data = value ? cache.values : cache.keys;
  float* const scales = value ? cache.value_scales : cache.key_scales;
  const bool scaled = has_scales(cache.storage), rescales = scaled && pairs > 0;
  for (std::int64_t chain = std::int64_t{blockIdx.y} * blockDim.z + threadIdx.z; chain < chains;
       chain += std::int64_t{gridDim.y} * blockDim.z)
    for (std::int64_t token = chain; token < in.tokens; token += chains) {
      const std::int64_t from = slot_of(cache, in.blocks, in.from + token, head),
                         to = slot_of(cache, in.blocks, in.to + token, head);
      const float scale = scaled ? scales[from] : 1;
      const auto load = [&](int c) {
        return load_cached<1>(cache.storage, data, from * dims + c).v[0] * (rescales ? scale : 1);
      };
      // Those of item i: of a pair both, else the second is none.
      const auto each = [&](auto&& take) {
        for (int i = static_cast<int>(lane()); i < dims - pairs; i += static_cast<int>(kWarp)) {
          if (i >= pairs) {
            const int c = i - pairs < begin ? i - pairs : i + pairs;
            take(c, load(c), -1, 0.0f);
            continue;
          }
          const int a = begin + (in.turn.interleaved ? 2 * i : i),
                    b = in.turn.interleaved ? a + 1 : a + pairs;
          const float cosine = in.turn.cosines[i], sine = in.turn.sines[i], x = load(a), y = load(b);
          take(a, x * cosine - y * sine, b, y * cosine + x * sine);
        }
      };
      float rounded = 1;
      if (rescales) {
        float largest = 0;
        each([&](int, float x, int, float y) { largest = fmaxf(largest, fmaxf(fabsf(x), fabsf(y))); });
        largest = warp_max(largest);
        if (largest > 0) rounded = largest / (cache.storage == Storage::kFp8 ? 448.0f : 127.0f);
      }
      each([&](int a, float x, int b, float y) {
        store_cached<1>(cache.storage, data, to * dims + a, {x}, rounded);
        if (b >= 0) store_cached<1>(cache.storage, data, to * dims + b, {y}, rounded);
      });
      if (scaled) {
        sync_warp();  // all have read the scale
        if (lane() == 0) scales[to] = rescales ? rounded : scale;
      }
    }
}

std::int64_t length_of(std::span<const std::int32_t> rows) { return static_cast<std::int64_t>(rows.size()); }

}  // namespace

void CudaKernels::copy_rows(const float* from, std::int64_t from_stride, std::int64_t rows,
                            std::int64_t width, float* to, std::int64_t to_stride) const {
  launch_rows(*this, "copy_rows", in_vectors({from, to}, {from_stride, width, to_stride}),
              Take<false>{from, from_stride, nullptr, to, to_stride}, 1, rows, width);
}

void CudaKernels::expand_latents(const LatentArgs& args, const float* up, const float* latent,
                                 std::int64_t tokens, const CacheLayer& to) const {
  const bool vectors =
      in_vectors({up, latent, to.keys, to.values}, {args.nope, args.rope, args.v, args.rank});
  const auto with = [&](auto* keys, auto* values) {
    launch_rows(
        *this, "expand_latents", vectors,
        ExpandLatents<std::remove_pointer_t<decltype(keys)>>{args, up, latent, to.block_size, keys, values},
        tokens, args.heads, args.nope + args.rope + args.v);
  };
  if (to.storage == Storage::kBf16)
    with(reinterpret_cast<bf16*>(to.keys), reinterpret_cast<bf16*>(to.values));
  else
    with(reinterpret_cast<float*>(to.keys), reinterpret_cast<float*>(to.values));
}

void CudaKernels::combine_rows(const float* x, std::int64_t width, const std::int32_t* place,
                               const float* weights, std::int64_t rows, std::int64_t top_k, bool accumulate,
                               float* out) const {
  launch_rows(*this, "combine_rows", in_vectors({x, out}, {width}),
              Combine{x, width, place, weights, static_cast<int>(top_k), accumulate, out}, 1, rows, width);
}

void CudaKernels::place_rows(const float* x, std::int64_t width, const std::int32_t* place,
                             std::int64_t pairs, bool accumulate, float* out) const {
  const bool vectors = in_vectors({x, out}, {width});
  if (accumulate)
    launch_rows(*this, "place_rows", vectors, Take<true>{x, width, place, out, width}, 1, pairs, width);
  else
    launch_rows(*this, "place_rows", vectors, Take<false>{x, width, place, out, width}, 1, pairs, width);
}

void CudaKernels::gather_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                              float* out) const {
  launch_rows(*this, "gather_rows", in_vectors({x, out}, {width}),
              Take<false>{x, width, rows_of.data(), out, width}, 1, length_of(rows_of), width);
}

void CudaKernels::add_rows(const float* x, std::int64_t width, std::span<const std::int32_t> rows_of,
                           float* y, std::int64_t y_stride) const {
  launch_rows(*this, "add_rows", in_vectors({x, y}, {width, y_stride}),
              AddTo{x, width, rows_of.data(), y, y_stride}, 1, length_of(rows_of), width);
}

void CudaKernels::cache_write(const CacheLayer& cache, const Sequences& sequences, const float* keys,
                              std::int64_t key_stride, const float* values, std::int64_t value_stride) const {
  if (sequences.empty() || cache.heads <= 0) return;
  const SequenceRows& last = sequences.host.back();
  const CacheRows in{sequences.own,
                     static_cast<int>(sequences.size()),
                     last.first_row + last.new_tokens - sequences.host.front().first_row,
                     keys,
                     values,
                     key_stride,
                     value_stride};
  if (in.rows <= 0) return;
  const bool vectors = in_vectors({keys, values, cache.keys, cache.values},
                                  {key_stride, value_stride, cache.k_dim, cache.v_dim});
  const std::int64_t parts = cache.heads * (cache.v_dim > 0 ? 2 : 1), y = std::min<std::int64_t>(parts, 8),
                     z = std::min(8 / y, in.rows), dims = std::max(cache.k_dim, cache.v_dim);
  auto* const kernel = !vectors || dims > 640 ? cache_write_rows<1, 0>
                       : dims <= 128          ? cache_write_rows<4, 1>
                       : dims <= 256          ? cache_write_rows<4, 2>
                                              : cache_write_rows<4, 5>;
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>((parts + y - 1) / y), grid_of(in.rows, z)),
          .block = dim3(kWarp, static_cast<unsigned>(y), static_cast<unsigned>(z)),
          .name = "cache_write"},
         stream(), cache, in);
}

void CudaKernels::rope_and_write(const RopeArgs& args, std::span<const std::int32_t> positions, float* q,
                                 std::int64_t heads, float* keys, const float* values, std::int64_t stride,
                                 const CacheLayer& cache, const Sequences& sequences) const {
  const std::int64_t dims = std::max(cache.k_dim, cache.v_dim);
  if (dims > 256 || sequences.empty())
    return Kernels::rope_and_write(args, positions, q, heads, keys, values, stride, cache, sequences);
  const TurnRows in{
      args, positions.data(), static_cast<std::int64_t>(positions.size()), q, heads, keys, values, stride};
  const std::int64_t parts = heads + cache.heads * (cache.v_dim > 0 ? 2 : 1);
  launch(dims <= 64    ? turn_and_write<2>
         : dims <= 128 ? turn_and_write<4>
                       : turn_and_write<8>,
         {.grid = dim3(static_cast<unsigned>((parts + 7) / 8), grid_of(in.rows, 1)),
          .block = dim3(kWarp, 8),
          .name = "rope_and_write"},
         stream(), cache, in, sequences.own, static_cast<int>(sequences.size()));
}

void CudaKernels::shift_cached(const CacheLayer& cache, const CacheShift& shift, Threads&) const {
  const bool moves = shift.from != shift.to;
  if (shift.tokens <= 0 || cache.heads <= 0 || (!moves && shift.turn.pairs == 0)) return;
  const std::int64_t chains = moves ? std::min(shift.tokens, shift.from - shift.to) : shift.tokens;
  const std::int64_t parts = cache.heads * (moves && cache.v_dim > 0 ? 2 : 1),
                     y = std::min<std::int64_t>(parts, 8), z = std::min(8 / y, chains);
  launch(shift_rows,
         {.grid = dim3(static_cast<unsigned>((parts + y - 1) / y), grid_of(chains, z)),
          .block = dim3(kWarp, static_cast<unsigned>(y), static_cast<unsigned>(z)),
          .name = "shift_cached"},
         stream(), cache, shift, chains);
}

void CudaKernels::cache_read(const CacheLayer& cache, const std::int32_t* blocks, std::int64_t tokens,
                             float* keys, float* values) const {
  const bool scaled = cache.storage == Storage::kInt8 || cache.storage == Storage::kFp8;
  const auto read = [&](const char* name, std::byte* data, const float* scales, std::int64_t dims,
                        float* to) {
    if (to == nullptr) return;
    launch_rows(*this, name, in_vectors({data, to}, {dims}),
                CacheRead{cache, blocks, data, scaled ? scales : nullptr, dims, to}, tokens, cache.heads,
                dims);
  };
  read("cache_read keys", cache.keys, cache.key_scales, cache.k_dim, keys);
  read("cache_read values", cache.values, cache.value_scales, cache.v_dim, values);
}

}  // namespace foretoken::cuda
