// Sums over the threads before each thread of a block: CUB's (the CUDA Toolkit's), and plain ones where
// kernels are emulated. Of whole numbers, so that no order of additions changes them.
#pragma once

#include "executor/cuda/device.cuh"
#ifndef FORETOKEN_EMULATED
#include <cub/block/block_scan.cuh>
#endif

namespace foretoken::cuda {

// Sum of the values of threads before this one, and of all.
template <class T>
struct Before {
  T sum, total;
};

// A block function, of blocks of kThreads threads in one dimension. Two barriers.
template <unsigned kThreads, class T>
FORETOKEN_DEVICE Before<T> block_before(T value) {
  Before<T> before;
#ifdef FORETOKEN_EMULATED
  __shared__ T values[kThreads], total;
  sync_threads();  // the last call's may still be read
  values[thread()] = value;
  sync_threads();
  if (thread() == 0) {
    total = 0;
    for (T& v : values) {
      const T own = v;
      v = total;
      total += own;
    }
  }
  sync_threads();
  before = {values[thread()], total};
#else
  // Warps scan by shuffles, then every thread adds up the warps' sums before it: half the shuffles, one after
  // another, of a scan of scans.
  using Scan = cub::BlockScan<T, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ typename Scan::TempStorage storage;
  sync_threads();
  Scan(storage).ExclusiveSum(value, before.sum, before.total);
#endif
  return before;
}

}  // namespace foretoken::cuda
