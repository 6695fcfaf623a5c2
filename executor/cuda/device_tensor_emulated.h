// The copies and barriers of tensor_copies.cuh on the processor. Included by it alone.
#pragma once

#include "executor/cuda/emulation.h"

namespace foretoken::cuda {

inline void barrier_init(Barrier* barrier, unsigned arrivals) {
  detail::check_aligned(barrier, 8, "barrier_init");
  emulation::init_barrier(barrier, arrivals);
}
inline void show_barriers() {}
inline void barrier_arrive(Barrier* barrier) { emulation::arrive(barrier, 0); }
inline void barrier_arrive_expecting(Barrier* barrier, unsigned bytes) { emulation::arrive(barrier, bytes); }
inline void barrier_wait(Barrier* barrier, unsigned parity) {
  emulation::wait_for_phase(barrier, parity, false);
}
inline bool barrier_wait_bounded(Barrier* barrier, unsigned parity, int) {
  return emulation::wait_for_phase(barrier, parity, true);
}
inline void copy_box(std::byte* panel_row, const TensorMap& map, int row, int column, Barrier* barrier) {
  detail::check_aligned(panel_row, kPanelAlignment, "copy_box");
  detail::check_aligned(&map, 64, "copy_box of a map");
  emulation::copy_box(panel_row, map, row, column, barrier);
}
inline void show_memory_to_copies() {}

template <int Count>
void keep_registers() {
  static_assert(Count % 8 == 0 && Count >= 24 && Count <= 240);
}
template <int Count>
void take_registers() {
  static_assert(Count % 8 == 0 && Count >= 24 && Count <= 240);
}
template <int N>
void settled(float (&)[N]) {}
template <int N>
void settled(std::uint32_t (&)[N][4]) {}

}  // namespace foretoken::cuda
