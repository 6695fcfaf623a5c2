#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/emulation.h"
#include "tests/executor/model_support.h"

namespace foretoken::test {

// As on a device, whose memory the host can't read, and which may be late with everything.
const Kernels& tested_kernels() {
  static const Kernels& kernels = []() -> const Kernels& {
    cuda::emulation::settings().guard_memory = cuda::emulation::settings().late_work = true;
    static const cuda::CudaKernels made;
    return made;
  }();
  return kernels;
}

}  // namespace foretoken::test
