#include "hwdb/device.h"

namespace foretoken {

FlopsPerSecond Device::peak(DType t) const {
  const auto first = [](FlopsPerSecond a, FlopsPerSecond b) { return a.value > 0 ? a : b; };
  const FlopsPerSecond sixteen = first(fp16_peak, fp32_peak);
  switch (t) {
    // Full 32-bit products: TF32 rounds its inputs, so it counts only where the vector rate is not known.
    case DType::kF32:
      return first(fp32_peak, first(tf32_peak, fp16_peak));
    case DType::kF16:
    case DType::kBf16:
      return sixteen;
    case DType::kFp8:
      return first(fp8_peak, sixteen);
    case DType::kInt8:
      return first(int8_peak, sixteen);
    case DType::kFp4:
      return first(fp4_peak, first(fp8_peak, sixteen));
  }
  return sixteen;
}

}  // namespace foretoken
