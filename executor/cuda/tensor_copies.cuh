// Copies of boxes of matrices into panels of shared memory, one instruction each, which a barrier in shared
// memory counts (compute capability 9.0: cp.async.bulk.tensor and mbarrier of the PTX ISA); and registers
// that warpgroups give to one another. Beside warpgroup.cuh, with its rules.
//
// A barrier has phases, numbered from 0; parity: that of a phase's number. A phase is complete when as many
// threads have arrived as barrier_init() said and all bytes that these expect have come; then the next one
// begins. Who waits for a phase never lags behind by more than one, so that a parity tells them apart:
// barrier_wait(b, 1) of a new barrier returns at once. What a thread wrote before it arrived is seen by who
// has waited; so is what copies wrote, by products too.
//
// A box of `box_rows` rows (a multiple of 8) and 64 columns comes to a panel's rows from a multiple of 8 on,
// which is a multiple of 1,024 bytes; always all of its bytes, zeros beyond the matrix, so a box counts
// box_rows x 128 bytes whatever lies in it. Threads that have written by themselves where a copy is to come
// call show_to_products() before they say that it may.
//
// Emulated, boxes come when their barrier is waited for, and are NaN until then; a wait that can't end, bytes
// beyond those expected, and blocks that end before their copies are errors.
#pragma once

#include "executor/cuda/tensor_map.h"
#include "executor/cuda/warpgroup.cuh"

namespace foretoken::cuda {

using Barrier = std::uint64_t;  // in shared memory

constexpr unsigned box_bytes(int rows) { return static_cast<unsigned>(rows) * kPanelRow; }

// By one thread; show_barriers() by the same one after the last, and then a barrier of the block.
FORETOKEN_DEVICE void barrier_init(Barrier* barrier, unsigned arrivals);
FORETOKEN_DEVICE void show_barriers();

FORETOKEN_DEVICE void barrier_arrive(Barrier* barrier);
// The same, and bytes of boxes are to come besides.
FORETOKEN_DEVICE void barrier_arrive_expecting(Barrier* barrier, unsigned bytes);
// A wait of seconds is a fault of the kernel or the device: it ends as an error of the launch, no hang.
FORETOKEN_DEVICE void barrier_wait(Barrier* barrier, unsigned parity);
// False after so many looks, of some tens of clocks each; emulated, where the wait can't end.
FORETOKEN_DEVICE bool barrier_wait_bounded(Barrier* barrier, unsigned parity, int looks);

// By one thread: the box of `map` whose first number is at (row, column) to `panel_row`.
FORETOKEN_DEVICE void copy_box(std::byte* panel_row, const TensorMap& map, int row, int column,
                               Barrier* barrier);
// Memory that earlier kernels wrote is seen by copies of this thread after grid_dependency_wait() and this.
FORETOKEN_DEVICE void show_memory_to_copies();

// By all threads of a warpgroup: how many registers a thread has from now on, multiples of 8 from 24 to 240,
// of those that the block's launch gave to all.
template <int Count>
FORETOKEN_DEVICE void keep_registers();  // fewer than before
template <int Count>
FORETOKEN_DEVICE void take_registers();  // more

// In registers as they are here: keeps the compiler from reading what a group of products has written before
// the wait, and from computing what the next ones read after products_begin().
template <int N>
FORETOKEN_DEVICE void settled(float (&d)[N]);
template <int N>
FORETOKEN_DEVICE void settled(std::uint32_t (&a)[N][4]);

// A warp function: lane 0 arrives for all lanes, once each of them is here.
FORETOKEN_DEVICE void warp_arrive(Barrier* barrier) {
  sync_warp();
  if (lane() == 0) barrier_arrive(barrier);
}

}  // namespace foretoken::cuda

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/device_tensor_emulated.h"
#else
#include "executor/cuda/device_tensor_cuda.cuh"
#endif
