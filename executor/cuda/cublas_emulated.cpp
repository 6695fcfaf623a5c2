// cuBLASLt where kernels are emulated: it has nothing, or what Settings::cublas_offer says, as plain loops
// that the stream runs in its turn.
#include <cstring>

#include "executor/cuda/cublas.h"
#include "executor/cuda/emulation.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/remarks.h"
#include "executor/kernels.h"
#include "executor/storage.h"

namespace foretoken::cuda {
namespace {

float element(const CublasOffer& p, const void* of, std::int64_t at) {
  const auto* const bytes = static_cast<const std::byte*>(of);
  if (p.form == CublasForm::kBf16) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes + 2 * at, sizeof bits);
    return bf16_to_float(bits);
  }
  const auto bits = static_cast<std::uint8_t>(bytes[at]);
  return p.form == CublasForm::kInt8 ? static_cast<float>(static_cast<std::int8_t>(bits))
                                     : fp8_to_float(bits);
}

void multiply(const CublasOffer& p) {
  for (std::int64_t row = 0; row < p.m; ++row)
    for (std::int64_t column = 0; column < p.n; ++column) {
      double sum = 0;
      const std::int64_t groups = (p.k + kScaleGroup - 1) / kScaleGroup, stride = (groups + 3) / 4 * 4;
      for (std::int64_t i = 0; i < p.k; ++i) {
        double by = element(p, p.x, row * p.x_stride + i);
        if (p.form == CublasForm::kFp8Blocks)
          by *= double{p.w_scales[column / kScaleGroup * stride + i / kScaleGroup]} *
                p.x_scales[i / kScaleGroup * p.m + row];
        sum += by * element(p, p.w, column * p.w_stride + i);
      }
      float* const to = p.y + row * p.y_stride + column;
      if (p.form == CublasForm::kInt8) {
        const auto whole = static_cast<std::int32_t>(sum);
        std::memcpy(to, &whole, sizeof whole);
        continue;
      }
      if (p.form == CublasForm::kFp8Scaled) sum *= double{p.w_scales[column]} * p.x_scales[row];
      if (p.form == CublasForm::kFp8Tensors) sum *= double{p.w_scales[0]} * p.x_scales[0];
      if (p.bias != nullptr) sum += p.bias[column];
      *to = static_cast<float>(p.accumulate ? *to + sum : sum);
    }
}

}  // namespace

void keep_cublas_choices(const std::string&) {}  // nothing is measured
void prepare_cublas() {}
std::size_t cublas_bytes() { return 0; }

bool cublas_product(std::span<const CublasOffer> offers, Stream& stream,
                    const std::function<void(float*, std::int64_t)>&) {
  const int wanted = emulation::settings().cublas_offer;
  if (wanted < 0 || static_cast<std::size_t>(wanted) >= offers.size()) {
    if (wanted < 0 && !offers.empty() && offers.front().form != CublasForm::kBf16)
      remark("the emulated device has no cuBLASLt", "products of fp8 and int8 multiply in bfloat16");
    return false;
  }
  const CublasOffer& offer = offers[static_cast<std::size_t>(wanted)];
  if (offer.before) offer.before();
  launch_emulated({.grid = 1, .block = 1, .overlaps = false, .name = "cublas"}, stream,
                  [plain = offer] { multiply(plain); });
  if (offer.after) offer.after(offer.y, offer.y_stride);
  return true;
}

}  // namespace foretoken::cuda
