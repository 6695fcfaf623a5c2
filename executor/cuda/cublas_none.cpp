// Where a toolkit has no cuBLASLt.
#include "executor/cuda/cublas.h"
#include "executor/cuda/remarks.h"

namespace foretoken::cuda {

void keep_cublas_choices(const std::string&) {}
void prepare_cublas() {}
std::size_t cublas_bytes() { return 0; }
bool cublas_product(std::span<const CublasOffer> offers, Stream&,
                    const std::function<void(float*, std::int64_t)>&) {
  if (!offers.empty() && offers.front().form != CublasForm::kBf16)
    remark("built without cuBLASLt", "products of fp8 and int8 are the executor's own");
  return false;
}

}  // namespace foretoken::cuda
