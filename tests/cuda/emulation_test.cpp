// The emulation finds what is wrong in a kernel. The kernels here are.
#include "executor/cuda/emulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "executor/cuda/tensor_copies.cuh"

namespace foretoken::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Emulation : public testing::Test {
 protected:
  void SetUp() override { emulation::settings() = {}; }
  void TearDown() override { emulation::settings() = {}; }

  template <class... Parameters>
  std::string error_of(void (*kernel)(Parameters...), const Launch& how,
                       std::type_identity_t<Parameters>... args) {
    try {
      launch(kernel, how, stream, args...);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  void set_order(emulation::Order order) {
    emulation::settings().threads = order;
    emulation::settings().blocks = order;
  }
  Stream stream;
};

constexpr emulation::Order kOrders[] = {emulation::Order::kForward, emulation::Order::kReverse,
                                        emulation::Order::kShuffled};

__global__ void reverse(const float* x, float* y, bool with_barrier) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  tile[thread()] = x[thread()];
  if (with_barrier) sync_threads();
  y[thread()] = tile[threads() - 1 - thread()];
}

__global__ void left_neighbour(const float* x, float* y, bool with_barrier) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  tile[thread()] = x[thread()];
  if (with_barrier) sync_threads();
  y[thread()] = tile[thread() == 0 ? 0 : thread() - 1];
}

// The second write to the tile comes before others have read the first one.
__global__ void rewrite(const float* x, float* y, bool with_barrier) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[thread()] = x[thread()] + static_cast<float>(round);
    sync_threads();
    sum += tile[threads() - 1 - thread()];
    if (with_barrier) sync_threads();
  }
  y[thread()] = sum;
}

TEST_F(Emulation, AMissingBarrierShowsInSomeOrder) {
  constexpr unsigned kThreads = 128;
  std::vector<float> x(kThreads), y(kThreads), right(kThreads);
  std::iota(x.begin(), x.end(), 1.0f);
  const Launch how{.grid = 1, .block = kThreads, .shared = kThreads * sizeof(float)};
  for (auto* kernel : {&reverse, &left_neighbour, &rewrite}) {
    set_order(emulation::Order::kForward);
    launch(kernel, how, stream, x.data(), right.data(), true);
    int wrong = 0;
    for (const auto order : kOrders) {
      set_order(order);
      launch(kernel, how, stream, x.data(), y.data(), true);
      EXPECT_EQ(y, right);
      launch(kernel, how, stream, x.data(), y.data(), false);
      wrong += y != right ? 1 : 0;
    }
    EXPECT_GT(wrong, 0);
  }
  // Forward order alone would have passed this one.
  set_order(emulation::Order::kForward);
  launch(left_neighbour, how, stream, x.data(), right.data(), true);
  launch(left_neighbour, how, stream, x.data(), y.data(), false);
  EXPECT_EQ(y, right);
}

__global__ void neighbour_in_warp(const float* x, float* y, bool with_sync) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  tile[lane()] = x[lane()];
  if (with_sync) sync_warp();
  y[lane()] = tile[lane() ^ 1];
}

TEST_F(Emulation, AMissingWarpBarrierShows) {
  std::vector<float> x(32), y(32);
  std::iota(x.begin(), x.end(), 1.0f);
  const Launch how{.grid = 1, .block = 32, .shared = 128};
  for (const auto order : kOrders) {
    set_order(order);
    launch(neighbour_in_warp, how, stream, x.data(), y.data(), true);
    for (std::size_t l = 0; l < 32; ++l) EXPECT_EQ(y[l], x[l ^ 1]);
    launch(neighbour_in_warp, how, stream, x.data(), y.data(), false);
    EXPECT_TRUE(std::any_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }));
  }
}

enum class Copying { kRight, kNoWait, kNoCommit, kNoBarrier };

__global__ void copy_in(const float* x, float* y, Copying how) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  copy_async16(tile + 4 * thread(), x + 4 * thread());
  if (how != Copying::kNoCommit) copy_async_commit();
  if (how != Copying::kNoWait) copy_async_wait<0>();
  if (how != Copying::kNoBarrier) sync_threads();
  const unsigned from = threads() - 1 - thread();
  for (unsigned i = 0; i < 4; ++i) y[4 * thread() + i] = tile[4 * from + i];
}

__global__ void copy_in_too_late(const float* x, float* y) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  for (unsigned i = 0; i < 4; ++i) tile[4 * thread() + i] = 0;  // what the copy replaces
  copy_async16(tile + 4 * thread(), x + 4 * thread());
  copy_async_commit();
  copy_async_wait<1>();  // one group may still be under way: this one
  sync_threads();
  for (unsigned i = 0; i < 4; ++i) y[4 * thread() + i] = tile[4 * thread() + i];
  copy_async_wait<0>();
}

TEST_F(Emulation, AMissingWaitShows) {
  std::vector<float> x(256), y(256);
  std::iota(x.begin(), x.end(), 1.0f);
  const Launch how{.grid = 1, .block = 64, .shared = 1024};
  const auto right = [&] {
    for (std::size_t i = 0; i < x.size(); ++i)
      if (y[i] != x[(63 - i / 4) * 4 + i % 4]) return false;
    return true;
  };
  for (const auto order : kOrders) {
    set_order(order);
    launch(copy_in, how, stream, x.data(), y.data(), Copying::kRight);
    EXPECT_TRUE(right());
    for (const Copying wrong : {Copying::kNoWait, Copying::kNoCommit, Copying::kNoBarrier}) {
      launch(copy_in, how, stream, x.data(), y.data(), wrong);
      EXPECT_FALSE(right()) << static_cast<int>(wrong);
    }
    launch(copy_in_too_late, how, stream, x.data(), y.data());
    for (const float v : y) EXPECT_TRUE(std::isnan(v));
  }
}

enum class Multiplying { kRight, kNoWait, kNoCommit, kOtherPlaces, kWrittenTooEarly, kNewestGroupAlone };

// y[64, 32] = x[64, 64] x[32, 64]^T of the first rows; x: small whole numbers.
__global__ void multiply_by_groups(const float* x, float* y, Multiplying how) {
  grid_dependency_wait();
  std::byte* panel = aligned_panels(dynamic_shared());
  for (unsigned i = thread(); i < 64 * 64; i += threads()) {
    const int row = static_cast<int>(i / 64), piece = static_cast<int>(i % 64 / 8);
    const int at = how == Multiplying::kOtherPlaces ? row * kPanelRow + piece * 16 : swizzled(row, piece);
    *reinterpret_cast<bf16*>(panel + at + i % 8 * 2) = from_float<bf16>(x[i]);
  }
  show_to_products();
  sync_threads();
  float d[16] = {};
  products_begin();
  for (int k = 0; k < 4; ++k)
    product_bf16<32>(d, rows_operand(panel).advanced(k * 32), rows_operand(panel).advanced(k * 32), k > 0);
  if (how != Multiplying::kNoCommit) products_commit();
  if (how == Multiplying::kWrittenTooEarly) panel[thread() * 2 + 1] = std::byte{0x7f};
  if (how == Multiplying::kNewestGroupAlone)
    products_wait<1>();
  else if (how != Multiplying::kNoWait)
    products_wait<0>();
  for (unsigned i = 0; i < 16; ++i)
    y[(warp() * 16 + lane() / 4 + 8 * (i / 2 % 2)) * 32 + i / 4 * 8 + lane() % 4 * 2 + i % 2] = d[i];
  products_wait<0>();
}

TEST_F(Emulation, ProductsOfWarpgroupsHappenAtTheWait) {
  std::vector<float> x(64 * 64), y(64 * 32);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7 % 11) - 5;
  const Launch how{.grid = 1, .block = 128, .shared = 64 * 128 + 1024};
  const auto right = [&] {
    for (std::size_t row = 0; row < 64; ++row)
      for (std::size_t column = 0; column < 32; ++column) {
        float sum = 0;
        for (std::size_t k = 0; k < 64; ++k) sum += x[row * 64 + k] * x[column * 64 + k];
        if (y[row * 32 + column] != sum) return false;
      }
    return true;
  };
  for (const auto order : kOrders) {
    set_order(order);
    launch(multiply_by_groups, how, stream, x.data(), y.data(), Multiplying::kRight);
    EXPECT_TRUE(right());
    for (const Multiplying wrong : {Multiplying::kNoWait, Multiplying::kNoCommit, Multiplying::kOtherPlaces,
                                    Multiplying::kWrittenTooEarly, Multiplying::kNewestGroupAlone}) {
      launch(multiply_by_groups, how, stream, x.data(), y.data(), wrong);
      EXPECT_FALSE(right()) << static_cast<int>(wrong);
    }
  }
}

enum class Boxes {
  kRight,
  kNoWait,
  kOtherPhase,
  kTooManyBytes,
  kTooFewBytes,
  kNobodyArrives,
  kTooManyArrive,
  kNoInit,
  kNobodyWaits,
  kUnaligned,
  kBounded
};

// y[8, 64] = rows 4 to 11 and columns from 8 on of a matrix of 10 x 40: by a box, twice.
__global__ void copy_boxes(const __grid_constant__ TensorMap map, float* y, Boxes how) {
  grid_dependency_wait();
  std::byte* panel = aligned_panels(dynamic_shared());
  auto* full = reinterpret_cast<Barrier*>(panel + 8 * kPanelRow);
  if (thread() == 0 && how != Boxes::kNoInit) barrier_init(full, 1), show_barriers();
  sync_threads();
  for (unsigned time = 0; time < 2; ++time) {
    if (thread() == 0) {
      const unsigned bytes = how == Boxes::kTooFewBytes ? 1008 : how == Boxes::kTooManyBytes ? 1040 : 1024;
      if (how != Boxes::kNobodyArrives) barrier_arrive_expecting(full, how == Boxes::kBounded ? 2048 : bytes);
      if (how == Boxes::kTooManyArrive) barrier_arrive(full);
      copy_box(panel + (how == Boxes::kUnaligned ? 128 : 0), map, 4, 8, full);
    }
    if (how == Boxes::kBounded) {
      y[thread()] = barrier_wait_bounded(full, 0, 10) ? 1.0f : 0.0f;
      return;
    }
    if (how == Boxes::kNobodyWaits) return;
    if (how != Boxes::kNoWait) barrier_wait(full, how == Boxes::kOtherPhase ? 1 - time : time);
    for (unsigned i = thread(); i < 8 * 64; i += threads())
      y[i] = to_float(*reinterpret_cast<const bf16*>(
          panel + swizzled(static_cast<int>(i / 64), static_cast<int>(i % 64 / 8)) + i % 8 * 2));
    if (how == Boxes::kNoWait) barrier_wait(full, time);
    sync_threads();
  }
}

TEST_F(Emulation, BoxesComeWhenTheirBarrierIsWaitedFor) {
  std::vector<bf16> matrix(10 * 40);
  for (std::size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<float>(i % 251);
  std::vector<float> y(8 * 64);
  const auto map = make_tensor_map(matrix.data(), 40, 10, 8);
  ASSERT_TRUE(map);
  const Launch how{.grid = 1, .block = 64, .shared = 8 * 128 + 8 + 1024, .name = "boxes"};
  for (const auto order : kOrders) {
    set_order(order);
    EXPECT_EQ(error_of(copy_boxes, how, *map, y.data(), Boxes::kRight), "");
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t row = 4 + i / 64, column = 8 + i % 64;
      ASSERT_EQ(y[i], row < 10 && column < 40 ? static_cast<float>((row * 40 + column) % 251) : 0) << i;
    }
    EXPECT_EQ(error_of(copy_boxes, how, *map, y.data(), Boxes::kNoWait), "");
    EXPECT_TRUE(std::any_of(y.begin(), y.end(), [](float x) { return std::isnan(x); }));
    EXPECT_EQ(error_of(copy_boxes, how, *map, y.data(), Boxes::kBounded), "");
    EXPECT_THAT(std::vector<float>(y.begin(), y.begin() + 64), testing::Each(0.0f));
    for (const auto& [wrong, message] :
         {std::pair{Boxes::kTooManyBytes, "wait for a barrier whose phase 0 lacks 0 arrivals and 16 bytes"},
          {Boxes::kTooFewBytes, "16 bytes more came than a barrier's phase expects"},
          {Boxes::kNobodyArrives, "64 wait for a barrier whose phase 0 lacks 1 arrivals and 0 bytes"},
          {Boxes::kTooManyArrive, "more threads arrive at a barrier than its phase counts"},
          {Boxes::kNoInit, "without barrier_init()"},
          {Boxes::kNobodyWaits, "the block ended while copies were under way"},
          {Boxes::kUnaligned, "copy_box of an address that is not a multiple of 1024"}})
      EXPECT_THAT(error_of(copy_boxes, how, *map, y.data(), wrong), HasSubstr(message));
  }
  EXPECT_FALSE(make_tensor_map(matrix.data() + 1, 40, 10, 8)) << "rows begin at multiples of 16 bytes";
  EXPECT_FALSE(make_tensor_map(matrix.data(), 36, 10, 8));
  EXPECT_FALSE(make_tensor_map(matrix.data(), 40, 10, 257));
}

__global__ void half_at_barrier() {
  grid_dependency_wait();
  if (thread() < threads() / 2) sync_threads();
}
__global__ void half_in_shuffle(float* y) {
  grid_dependency_wait();
  if (lane() < 16) y[lane()] = shuffle_xor(y[lane()], 1);
}
__global__ void shuffle_and_barrier(float* y) {
  grid_dependency_wait();
  if (thread() < 40)
    sync_threads();
  else
    y[thread()] = shuffle_xor(y[thread()], 1);
}
__global__ void two_functions(float* y) {
  grid_dependency_wait();
  if (lane() % 2 == 0)
    y[lane()] = shuffle_xor(1.0f, 2);
  else
    y[lane()] = static_cast<float>(ballot(true));
}
__global__ void fine(float* y) {
  grid_dependency_wait();
  y[thread()] = block_sum(1.0f);
}

TEST_F(Emulation, WhatCannotGoOnIsAnError) {
  std::vector<float> y(64);
  const Launch how{.grid = {2, 2}, .block = 64, .name = "faulty"};
  for (const auto order : kOrders) {
    set_order(order);
    const std::string first_block = order == emulation::Order::kForward ? "block (0,0,0)" : "block (";
    EXPECT_THAT(error_of(half_at_barrier, how), AllOf(HasSubstr("kernel faulty, " + first_block),
                                                      HasSubstr("32 wait in sync_threads, 32 have ended")));
    EXPECT_THAT(error_of(half_in_shuffle, how, y.data()),
                HasSubstr("32 of its 64 threads wait in shuffle for lanes that don't come, 0 wait in "
                          "sync_threads, 32 have ended"));
    EXPECT_THAT(error_of(shuffle_and_barrier, how, y.data()),
                HasSubstr("24 of its 64 threads wait in shuffle for lanes that don't come, 40 wait"));
    EXPECT_THAT(error_of(two_functions, how, y.data()), HasSubstr(" while other lanes of the warp are in "));
    // And the next grid is none the worse for it.
    EXPECT_EQ(error_of(fine, how, y.data()), "");
    EXPECT_THAT(y, testing::Each(64.0f));
  }
}

__global__ void no_wait_in_some(float* y) {
  if (thread() == 5) return;
  grid_dependency_wait();
  y[thread()] = 1;
}
__global__ void misaligned(const float* x, float* y) {
  grid_dependency_wait();
  store16(y, load16(x + 1));
}
__global__ void misaligned_copy(const float* x) {
  grid_dependency_wait();
  copy_async16(dynamic_shared() + 8, x);
}

TEST_F(Emulation, RulesAreKept) {
  alignas(16) float x[64] = {}, y[64] = {};
  EXPECT_THAT(error_of(no_wait_in_some, {.grid = 1, .block = 32, .name = "hasty"}, y),
              AllOf(HasSubstr("kernel hasty, block (0,0,0), thread (5,0,0)"),
                    HasSubstr("ended without grid_dependency_wait()")));
  EXPECT_EQ(error_of(no_wait_in_some, {.grid = 1, .block = 32, .overlaps = false}, y), "");
  EXPECT_THAT(error_of(misaligned, {.grid = 1, .block = 1}, x, y), HasSubstr("load16 of an address"));
  EXPECT_THAT(error_of(misaligned_copy, {.grid = 1, .block = 1, .shared = 64}, x),
              HasSubstr("copy_async16 of an address that is not a multiple of 16"));
  EXPECT_THAT(error_of(fine, {.grid = 1, .block = 40}, y), HasSubstr("40 threads, not a multiple of 32"));
  EXPECT_NE(error_of(fine, {.grid = 0, .block = 32}, y), "");
  EXPECT_NE(error_of(fine, {.grid = {1, 70000}, .block = 32}, y), "");
  EXPECT_NE(error_of(fine, {.grid = 1, .block = 2048}, y), "");
}

__global__ void take_ticket(int* next, int* order) {
  grid_dependency_wait();
  order[atomic_add(next, 1)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

TEST_F(Emulation, OrdersOfThreadsAndBlocks) {
  const auto run = [&] {
    int next = 0;
    std::vector<int> order(4 * 64);
    launch(take_ticket, {.grid = 4, .block = 64}, stream, &next, order.data());
    return order;
  };
  std::vector<int> expected(4 * 64);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(run(), expected);
  set_order(emulation::Order::kReverse);
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(run(), expected);
  set_order(emulation::Order::kShuffled);
  const auto first = run();
  EXPECT_EQ(run(), first) << "the same seed, the same order";
  EXPECT_THAT(first, testing::UnorderedElementsAreArray(expected));
  EXPECT_NE(first, expected);
  emulation::settings().seed = 2;
  EXPECT_NE(run(), first);
}

TEST_F(Emulation, WhatACaptureForbids) {
  Graph graph;
  EXPECT_THROW(graph.capture(stream, [] { DeviceMemory memory(16); }), CudaError);
  EXPECT_THROW(graph.capture(stream, [this] { stream.synchronize(); }), CudaError);
  EXPECT_TRUE(graph.empty());
  EXPECT_NO_THROW(DeviceMemory(16));
}

TEST_F(Emulation, MemoryStartsPoisoned) {
  const DeviceMemory memory(64);
  float value = 0;
  copy(stream, &value, memory.data(), sizeof value);
  EXPECT_TRUE(std::isnan(value));
}

TEST_F(Emulation, GuardedMemoryIsTheDevicesAlone) {
  emulation::settings().guard_memory = true;
  DeviceMemory memory(64 * sizeof(float));
  std::vector<float> y(64);
  launch(fine, {.grid = 1, .block = 64}, stream, memory.as<float>());
  copy(stream, y.data(), memory.data(), memory.bytes());
  EXPECT_THAT(y, testing::Each(64.0f));
  DeviceMemory moved = std::move(memory);
  launch(fine, {.grid = 1, .block = 64}, stream, moved.as<float>());
  EXPECT_DEATH(*moved.as<volatile float>() = 1, "");
}

TEST_F(Emulation, LateWorkRunsWhenItIsWaitedFor) {
  emulation::settings().late_work = true;
  DeviceMemory memory(64 * sizeof(float));
  std::vector<float> y(64, 0.0f), more(1, 5.0f);
  launch(fine, {.grid = 1, .block = 64}, stream, memory.as<float>());
  copy(stream, y.data(), memory.data(), memory.bytes());
  EXPECT_THAT(y, testing::Each(0.0f));
  Event copied;
  copied.record(stream);
  copy(stream, memory.data(), more.data(), sizeof(float));
  more[0] = 7;  // too early
  copied.synchronize();
  EXPECT_THAT(y, testing::Each(64.0f));
  copy(stream, y.data(), memory.data(), sizeof(float));
  EXPECT_EQ(y[0], 64);
  stream.synchronize();
  EXPECT_EQ(y[0], 7);
}

TEST_F(Emulation, LateWorkOfAnotherStreamIsDoneFirst) {
  emulation::settings().late_work = true;
  Stream other;
  DeviceMemory memory(sizeof(float));
  const float one = 1, two = 2;
  float got = 0;
  Event first;
  copy(stream, memory.data(), &one, sizeof one);
  first.record(stream);
  copy(stream, memory.data(), &two, sizeof two);
  other.wait(first);
  copy(other, &got, memory.data(), sizeof got);
  other.synchronize();
  EXPECT_EQ(got, 1) << "the other stream waits for no more than the event";
  copy(other, &got, memory.data(), sizeof got);
  synchronize();
  EXPECT_EQ(got, 2);
}

TEST_F(Emulation, LateGraphsAndTheirTimes) {
  emulation::settings().late_work = true;
  DeviceMemory memory(64 * sizeof(float));
  std::vector<float> y(64, 0.0f);
  Event start, end;
  Graph graph;
  graph.capture(stream, [&] {
    start.record_time(stream);
    launch(fine, {.grid = 1, .block = 64}, stream, memory.as<float>());
    copy(stream, y.data(), memory.data(), memory.bytes());
    end.record_time(stream);
  });
  graph.launch(stream);
  EXPECT_THAT(y, testing::Each(0.0f));
  EXPECT_THROW(end.milliseconds_since(start), CudaError);
  stream.synchronize();
  EXPECT_THAT(y, testing::Each(64.0f));
  EXPECT_GE(end.milliseconds_since(start), 0);
}

#if defined(__SANITIZE_ADDRESS__)
__global__ void beyond(float* y, unsigned shift) {
  grid_dependency_wait();
  auto* tile = reinterpret_cast<float*>(dynamic_shared());
  sync_threads();
  tile[thread()] = 1;
  sync_threads();
  y[thread() + shift] = tile[thread()];
}

TEST_F(Emulation, AccessesBeyondABufferAreFound) {
  const DeviceMemory y(64 * sizeof(float));
  const Launch how{.grid = 1, .block = 64, .shared = 64 * sizeof(float)};
  launch(beyond, how, stream, y.as<float>(), 0);
  EXPECT_DEATH(launch(beyond, how, stream, y.as<float>(), 1), "heap-buffer-overflow");
  EXPECT_DEATH(launch(beyond, {.grid = 1, .block = 64, .shared = 252}, stream, y.as<float>(), 0),
               "heap-buffer-overflow");
}
#endif

}  // namespace
}  // namespace foretoken::cuda
