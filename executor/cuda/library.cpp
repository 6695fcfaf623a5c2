// The entry of libforetoken_cuda.so (executor/cuda_library.h).
#include "executor/cuda/cublas.h"
#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda_library.h"

namespace foretoken::cuda {
namespace {

class Library : public CudaLibrary {
 public:
  int device_count() const override { return cuda::device_count(); }
  std::string no_device_reason() const override { return cuda::no_device_reason(); }
  DeviceProperties properties(int device) const override { return device_properties(device); }
  void keep_choices(const std::string& file) const override { keep_cublas_choices(file); }
  const Kernels& kernels(int rank) const override {
    static const CudaKernels& kernels = [rank]() -> const CudaKernels& {
      use_device(rank % cuda::device_count());
      // Never destroyed: the driver may be gone by then.
      return *new const CudaKernels;
    }();
    return kernels;
  }
};

}  // namespace
}  // namespace foretoken::cuda

extern "C" __attribute__((visibility("default"))) const foretoken::CudaLibrary* foretoken_cuda_library(
    int version) {
  static const foretoken::cuda::Library library;
  return version == foretoken::kCudaLibraryVersion ? &library : nullptr;
}
