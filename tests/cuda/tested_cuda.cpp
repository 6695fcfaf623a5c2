#include "executor/cuda/cuda_kernels.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif
#include "tests/executor/model_support.h"

namespace foretoken::test {

// The emulated device is one whose memory the host can't read, and which may be late with everything.
const Kernels& tested_kernels() {
  static const Kernels& kernels = []() -> const Kernels& {
#ifdef FORETOKEN_EMULATED
    cuda::emulation::settings().guard_memory = cuda::emulation::settings().late_work = true;
#endif
    static const cuda::CudaKernels made;
    return made;
  }();
  return kernels;
}

}  // namespace foretoken::test
