#include "executor/cuda/cuda_kernels.h"
#include "tests/executor/model_support.h"

namespace foretoken::test {

const Kernels& tested_kernels() {
  static const cuda::CudaKernels kernels;
  return kernels;
}

}  // namespace foretoken::test
