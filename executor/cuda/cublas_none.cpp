// Where there is no cuBLASLt: emulated kernels, toolkits without it.
#include "executor/cuda/cublas.h"

namespace foretoken::cuda {

void prepare_cublas() {}
std::size_t cublas_bytes() { return 0; }
bool cublas_product(const CublasProduct&, Stream&, const std::function<void(float*, std::int64_t)>&,
                    const CublasSteps&) {
  return false;
}

}  // namespace foretoken::cuda
