// The CUDA execution model on the processor: grids whose kernels are plain C++ compiled by g++. Blocks run
// one after another; the threads of a block are fibers that change at barriers and warp functions, in an
// order that is a setting, so that tests find what only works in one order. One grid at a time in the
// process.
//
// What is wrong in a kernel ends the grid with an Error that names kernel, block and thread: threads that
// wait for a barrier or a warp function which others never reach, misaligned vectors, a thread that ends
// without grid_dependency_wait() although its launch overlaps. Accesses beyond a buffer are
// AddressSanitizer's.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>

namespace foretoken::cuda {

struct TensorMap;

// By their CUDA names, of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulation {

// In which order threads run between barriers, and blocks. kShuffled: drawn from the seed, warps interleaved.
enum class Order : std::uint8_t { kForward, kReverse, kShuffled };

// What tensor maps (tensor_map.h) are: as they should be; none at all; with pieces in the order of memory; or
// boxes that count for fewer bytes than they have.
enum class TensorMaps : std::uint8_t { kRight, kNone, kOtherPlaces, kFewerBytes };

struct Settings {
  Order threads = Order::kForward, blocks = Order::kForward;
  std::uint64_t seed = 1;
  // The device that runtime.h describes.
  int compute_capability = 90;  // ten times
  int multiprocessors = 4;
  TensorMaps tensor_maps = TensorMaps::kRight;
  int cublas_offer = -1;  // which of a product's offers (cublas.h) the library takes; -1: none
  std::size_t memory_bytes = std::size_t{4} << 30;
  std::size_t shared_bytes = 227 * 1024;  // a block's most
  // DeviceMemory allocated meanwhile is closed to the host: it may be touched by kernels and copies alone.
  bool guard_memory = false;
  // Kernels and copies run when somebody waits for them, and not before: what changes or reads memory of the
  // host too early is found.
  bool late_work = false;
};
Settings& settings();  // read by the next grid

// Runs `body` in every thread of the grid. shared: bytes of dynamic shared memory, 0xFF before each block.
void run_grid(const char* kernel, dim3 grid, dim3 block, std::size_t shared, bool overlaps,
              const std::function<void()>& body);

// ---- For device_emulated.h ------------------------------------------------------------------------------

inline constexpr std::size_t kLaneBytes = 32;  // what a lane gives to an exchange, and gets

void barrier();
// Gives `bytes` at `in` to the warp function `name` and waits until all lanes have come to it; the last one
// to come calls complete(in, out, context), which sees what each lane l gave at in + l * kLaneBytes and
// writes what each gets to out likewise. Returns where this lane's result lies until its next exchange.
using Complete = void (*)(const std::byte* in, std::byte* out, const void* context);
const std::byte* exchange(const char* name, const void* in, std::size_t bytes, Complete complete,
                          const void* context);
std::byte* dynamic_shared();
void copy_async(void* shared, const void* global, unsigned bytes, bool valid);
void copy_async_commit();
void copy_async_wait(unsigned newest);
// A product that happens at the wait (warpgroup.cuh). Those of one d share what make() gives the first of
// them; last: no other of this d is under way.
void product(const void* d, const std::function<std::shared_ptr<void>()>& make,
             std::function<void(void* shared, bool last)> run);
void products_commit();
void products_wait(unsigned newest);
// Barriers of tensor_copies.cuh. A wait that can't end is an error; bounded: false instead.
void init_barrier(const void* at, unsigned arrivals);
void arrive(const void* at, long long bytes);
bool wait_for_phase(const void* at, unsigned parity, bool bounded);
void copy_box(std::byte* to, const TensorMap& map, int row, int column, const void* at);
void grid_dependency_wait();
[[noreturn]] void fail(const std::string& what);

}  // namespace emulation
}  // namespace foretoken::cuda
