#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "primitives.h"

namespace foretoken::cuda {
namespace {

__global__ void shuffle_lanes_kernel(const int* __restrict__ in, int* __restrict__ out) {
  grid_dependency_wait();
  const unsigned l = lane();
  const int value = in[l];
  out[0 * kWarp + l] = shuffle(value, (7 * l + 3) % kWarp);
  out[1 * kWarp + l] = shuffle_xor(value, 5);
  out[2 * kWarp + l] = shuffle_up(value, 3);
  out[3 * kWarp + l] = shuffle_down(value, 4);
  out[4 * kWarp + l] = static_cast<int>(ballot((value & 1) != 0));
  out[5 * kWarp + l] = warp_any(value == in[9]) ? 1 : 0;
  out[6 * kWarp + l] = warp_all(value == in[9]) ? 1 : 0;
  // In a loop that all lanes go through, a value handed on and on.
  int walk = value;
  for (int i = 0; i < 40; ++i) walk = shuffle(walk, l + 1);
  out[7 * kWarp + l] = walk;
}

__global__ void shuffle_doubles_kernel(const double* __restrict__ in, double* __restrict__ out) {
  grid_dependency_wait();
  out[lane()] = shuffle_xor(in[lane()], 16);
}

__global__ void __launch_bounds__(1024) reduce_kernel(const float* __restrict__ in, float* __restrict__ out) {
  grid_dependency_wait();
  const float value = in[thread()];
  float* mine = out + kReductions * thread();
  mine[0] = warp_sum(value);
  mine[1] = warp_max(value);
  mine[2] = warp_min(value);
  mine[3] = group_sum<4>(value);
  mine[4] = group_max<8>(value);
  mine[5] = block_sum(value);
  mine[6] = block_sum(value * value);
  mine[7] = block_max(value);
}

__global__ void coordinates_kernel(int* out) {
  grid_dependency_wait();
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned i = block * threads() + thread();
  out[i] = static_cast<int>(block * threads() + threadIdx.x + blockDim.x * threadIdx.y +
                            blockDim.x * blockDim.y * threadIdx.z);
}

__global__ void round_trip_kernel(const float* __restrict__ in, int count, float* __restrict__ out,
                                  float* __restrict__ packed) {
  grid_dependency_wait();
  const int first = 4 * static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (first >= count) return;
  for (int i = first; i < first + 4; ++i) {
    out[i] = to_float(from_float<bf16>(in[i]));
    out[count + i] = to_float(from_float<f16>(in[i]));
    out[2 * count + i] = to_float(from_float<e4m3>(in[i]));
    out[3 * count + i] = to_float(from_float<std::int8_t>(in[i]));
  }
  for (int i = first; i < first + 4; i += 2) {
    const float2 b = unpack_bf16x2(pack_bf16x2(in[i], in[i + 1]));
    packed[i] = b.x, packed[i + 1] = b.y;
    const float2 h = unpack_f16x2(pack_f16x2(in[i], in[i + 1]));
    packed[count + i] = h.x, packed[count + i + 1] = h.y;
  }
  const float4 four = make_float4(in[first], in[first + 1], in[first + 2], in[first + 3]);
  const float4 e = unpack_e4m3x4(pack_e4m3x4(four));
  const float4 n = unpack_int8x4(pack_int8x4(four));
  float* to = packed + 2 * count + first;
  to[0] = e.x, to[1] = e.y, to[2] = e.z, to[3] = e.w;
  to += count;
  to[0] = n.x, to[1] = n.y, to[2] = n.z, to[3] = n.w;
}

__global__ void fast_functions_kernel(const float* __restrict__ in, int count, float* __restrict__ out) {
  grid_dependency_wait();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const float x = in[i];
  out[i] = fast_exp2(x);
  out[count + i] = fast_exp(x);
  out[2 * count + i] = fast_log2(x);
  out[3 * count + i] = fast_reciprocal(x);
  out[4 * count + i] = fast_rsqrt(x);
  out[5 * count + i] = fast_tanh(x);
  out[6 * count + i] = static_cast<float>(count_bits(as_bits(x)));
  out[7 * count + i] = static_cast<float>(lowest_bit(as_bits(x)));
}

template <class T>
__device__ std::uint32_t pair_at(const T* row, unsigned column) {
  std::uint32_t bits = 0;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row + column);
  for (unsigned i = 0; i < 4; ++i) bits |= static_cast<std::uint32_t>(bytes[i]) << (8 * i);
  return bits;
}

template <int Kind, class D>
__device__ void mma(D (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  if constexpr (Kind == 0) mma_bf16_16816(d, a, b);
  if constexpr (Kind == 1) mma_f16_16816(d, a, b);
  if constexpr (Kind == 2) mma_int8_16832(d, a, b);
  if constexpr (Kind == 3) mma_e4m3_16832(d, a, b);
}

template <int Kind, Fragments From, class T, class D>
__global__ void multiply_kernel(const T* __restrict__ a, const T* __restrict__ b, D* __restrict__ d) {
  constexpr unsigned kDepth = 32 / sizeof(T), kPerWord = 4 / sizeof(T), kPer16 = 16 / sizeof(T);
  grid_dependency_wait();
  alignas(16) __shared__ T a_tile[16 * kDepth], b_tile[8 * kDepth];
  for (unsigned i = lane(); i < 16 * kDepth; i += kWarp) a_tile[i] = a[i];
  for (unsigned i = lane(); i < 8 * kDepth; i += kWarp) b_tile[i] = b[i];
  sync_warp();
  const unsigned g = lane() / 4, t = lane() % 4, r = lane() % 8, m = lane() / 8;
  std::uint32_t fa[4], fb[2];
  if constexpr (From == Fragments::kTable) {
    fa[0] = pair_at(a_tile + g * kDepth, kPerWord * t);
    fa[1] = pair_at(a_tile + (g + 8) * kDepth, kPerWord * t);
    fa[2] = pair_at(a_tile + g * kDepth, kPerWord * t + kDepth / 2);
    fa[3] = pair_at(a_tile + (g + 8) * kDepth, kPerWord * t + kDepth / 2);
    fb[0] = pair_at(b_tile + g * kDepth, kPerWord * t);
    fb[1] = pair_at(b_tile + g * kDepth, kPerWord * t + kDepth / 2);
  } else if constexpr (From == Fragments::kMatrices) {
    ldmatrix_x4(fa, a_tile + (r + 8 * (m % 2)) * kDepth + kPer16 * (m / 2));
    ldmatrix_x2(fb, b_tile + r * kDepth + kPer16 * (m % 2));
  } else {
    // a_tile is [k][16]: matrices of k rows and m columns, transposed as they load.
    ldmatrix_x4_trans(fa, a_tile + (r + 8 * (m / 2)) * 16 + 8 * (m % 2));
    ldmatrix_x2_trans(fb, b_tile + (r + 8 * (m % 2)) * 8);
  }
  D sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  mma<Kind>(sums, fa, fb);
  for (unsigned i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}

template <int Kind, class T, class D>
void launch_multiply(Stream& stream, Fragments from, const void* a, const void* b, void* d) {
  const Launch one{.grid = 1, .block = kWarp, .name = "multiply"};
  const auto* ta = static_cast<const T*>(a);
  const auto* tb = static_cast<const T*>(b);
  auto* td = static_cast<D*>(d);
  switch (from) {
    case Fragments::kTable:
      launch(multiply_kernel<Kind, Fragments::kTable, T, D>, one, stream, ta, tb, td);
      break;
    case Fragments::kMatrices:
      launch(multiply_kernel<Kind, Fragments::kMatrices, T, D>, one, stream, ta, tb, td);
      break;
    case Fragments::kTransposed:
      if constexpr (sizeof(T) == 2)
        launch(multiply_kernel<Kind, Fragments::kTransposed, T, D>, one, stream, ta, tb, td);
      break;
  }
}

__global__ void load_matrices_kernel(const std::uint16_t* __restrict__ in, std::uint32_t* __restrict__ out) {
  grid_dependency_wait();
  alignas(16) __shared__ std::uint16_t tile[4 * 64];
  for (unsigned i = lane(); i < 4 * 64; i += kWarp) tile[i] = in[i];
  sync_warp();
  const std::uint16_t* row = tile + 8 * lane();
  // Of _x2 the upper lanes' addresses count for nothing.
  const std::uint16_t* half = lane() < 16 ? row : tile;
  std::uint32_t four[4], two[2];
  ldmatrix_x4(four, row);
  for (unsigned i = 0; i < 4; ++i) out[i * kWarp + lane()] = four[i];
  ldmatrix_x4_trans(four, row);
  for (unsigned i = 0; i < 4; ++i) out[(4 + i) * kWarp + lane()] = four[i];
  ldmatrix_x2(two, half);
  for (unsigned i = 0; i < 2; ++i) out[(8 + i) * kWarp + lane()] = two[i];
  ldmatrix_x2_trans(two, half);
  for (unsigned i = 0; i < 2; ++i) out[(10 + i) * kWarp + lane()] = two[i];
}

constexpr int kTile = 128, kStages = 3;

__global__ void __launch_bounds__(kTile)
    sum_tiles_kernel(const float* __restrict__ x, int count, float* __restrict__ y) {
  grid_dependency_wait();
  auto* ring = reinterpret_cast<float*>(dynamic_shared());
  const int t = static_cast<int>(threadIdx.x), tiles = (count + kTile - 1) / kTile;
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      float* to = ring + tile % kStages * kTile;
      if (count % 4 == 0) {  // rows of 16 bytes
        const int i = tile * kTile + 4 * t;
        if (4 * t < kTile) copy_async16(to + 4 * t, i < count ? x + i : x, i < count);
      } else {
        const int i = tile * kTile + t;
        copy_async4(to + t, i < count ? x + i : x, i < count);
      }
    }
    copy_async_commit();
  };
  for (int tile = 0; tile < kStages - 1; ++tile) fetch(tile);
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<kStages - 2>();
    sync_threads();
    fetch(tile + kStages - 1);
    sum += ring[tile % kStages * kTile + kTile - 1 - t];
  }
  y[t] = sum;
}

__global__ void count_kernel(int* out, float* sum) {
  grid_dependency_wait();
  const int me = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomic_add(out, 1);
  atomic_max(out + 1, me);
  atomic_min(out + 2, me);
  atomic_or(reinterpret_cast<unsigned*>(out + 3), 1u << (me % 31));
  // Each raises the counter by one, however often it has to try.
  int seen = 0;
  for (;;) {
    const int before = atomic_cas(out + 4, seen, seen + 1);
    if (before == seen) break;
    seen = before;
  }
  atomic_add(sum, static_cast<float>(me));
}

__global__ void double_and_add_kernel(float* x, int count, float add) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) x[i] = 2 * x[i] + add;
}

__global__ void fill_shared_kernel(int floats, float* out) {
  grid_dependency_wait();
  auto* memory = reinterpret_cast<float*>(dynamic_shared());
  int poisoned = 0;
  for (int i = static_cast<int>(threadIdx.x); i < 4 * floats; i += static_cast<int>(blockDim.x))
    poisoned += dynamic_shared()[i] == std::byte{0xff} ? 1 : 0;
  poisoned = block_sum(poisoned);
  for (int i = static_cast<int>(threadIdx.x); i < floats; i += static_cast<int>(blockDim.x))
    memory[i] = static_cast<float>(i);
  sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < floats; i += static_cast<int>(blockDim.x))
    out[1 + i] = memory[floats - 1 - i];
  if (thread() == 0) out[0] = static_cast<float>(poisoned);
}

__global__ void load_vectors_kernel(const float* __restrict__ x, int count, float* y) {
  prefetch_l2(x);
  grid_dependency_wait();
  float sum = 0;
  for (int i = 4 * static_cast<int>(lane()); i < count; i += 4 * static_cast<int>(kWarp)) {
    const uint4 v = i % 8 == 0 ? load_streaming16(x + i) : load16(x + i);
    const uint2 w = load8(x + i);
    sum += as_float(w.x) + as_float(w.y) + as_float(v.z) + as_float(v.w);
  }
  sum = warp_sum(sum);
  alignas(16) __shared__ float all[4];
  if (lane() == 0) {
    store8(all, uint2{as_bits(0.0f), as_bits(0.0f)});
    store16(all, uint4{as_bits(sum), 0, 0, 0});
    y[0] = all[0];
  }
}

}  // namespace

void shuffle_lanes(Stream& stream, const int* in, int* out) {
  launch(shuffle_lanes_kernel, {.grid = 1, .block = kWarp, .name = "shuffle_lanes"}, stream, in, out);
}
void shuffle_doubles(Stream& stream, const double* in, double* out) {
  launch(shuffle_doubles_kernel, {.grid = 1, .block = kWarp, .name = "shuffle_doubles"}, stream, in, out);
}
void reduce(Stream& stream, unsigned x, unsigned y, unsigned z, const float* in, float* out) {
  launch(reduce_kernel, {.grid = 1, .block = {x, y, z}, .name = "reduce"}, stream, in, out);
}
void coordinates(Stream& stream, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                 unsigned z, int* out) {
  launch(coordinates_kernel, {.grid = {grid_x, grid_y, grid_z}, .block = {x, y, z}, .name = "coordinates"},
         stream, out);
}
void round_trip(Stream& stream, const float* in, int count, float* out, float* packed) {
  const auto blocks = static_cast<unsigned>((count / 4 + 63) / 64);
  launch(round_trip_kernel, {.grid = blocks, .block = 64, .name = "round_trip"}, stream, in, count, out,
         packed);
}
void fast_functions(Stream& stream, const float* in, int count, float* out) {
  const auto blocks = static_cast<unsigned>((count + 63) / 64);
  launch(fast_functions_kernel, {.grid = blocks, .block = 64, .name = "fast_functions"}, stream, in, count,
         out);
}
void multiply(Stream& stream, int kind, Fragments from, const void* a, const void* b, void* d) {
  if (kind == 0) launch_multiply<0, bf16, float>(stream, from, a, b, d);
  if (kind == 1) launch_multiply<1, f16, float>(stream, from, a, b, d);
  if (kind == 2) launch_multiply<2, std::int8_t, std::int32_t>(stream, from, a, b, d);
  if (kind == 3) launch_multiply<3, e4m3, float>(stream, from, a, b, d);
}
void load_matrices(Stream& stream, const std::uint16_t* in, std::uint32_t* out) {
  launch(load_matrices_kernel, {.grid = 1, .block = kWarp, .name = "load_matrices"}, stream, in, out);
}
void sum_tiles(Stream& stream, const float* x, int count, float* y) {
  launch(sum_tiles_kernel,
         {.grid = 1, .block = kTile, .shared = kStages * kTile * sizeof(float), .name = "sum_tiles"}, stream,
         x, count, y);
}
void count_atomically(Stream& stream, int blocks, int threads, int* out, float* sum) {
  launch(count_kernel,
         {.grid = static_cast<unsigned>(blocks), .block = static_cast<unsigned>(threads), .name = "count"},
         stream, out, sum);
}
void double_and_add(Stream& stream, float* x, int count, float add) {
  const auto blocks = static_cast<unsigned>((count + 127) / 128);
  launch(double_and_add_kernel, {.grid = blocks, .block = 128, .name = "double_and_add"}, stream, x, count,
         add);
}
void fill_shared(Stream& stream, int floats, float* out) {
  launch(fill_shared_kernel,
         {.grid = 1,
          .block = 128,
          .shared = static_cast<std::size_t>(floats) * sizeof(float),
          .name = "fill_shared"},
         stream, floats, out);
}
void load_vectors(Stream& stream, const float* x, int count, float* y) {
  launch(load_vectors_kernel, {.grid = 1, .block = kWarp, .name = "load_vectors"}, stream, x, count, y);
}

}  // namespace foretoken::cuda
