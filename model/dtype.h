// Element types and weight formats, with the bytes that each really takes (scales included).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace foretoken {

// Type of activations, KV cache entries and matrix-unit inputs.
enum class DType : std::uint8_t { kF32, kF16, kBf16, kFp8, kInt8, kFp4 };
double bytes_of(DType t);  // per element
std::string_view name_of(DType t);
// "float32", "float16"/"half", "bfloat16", "fp8"/"fp8_e4m3"/"fp8_e5m2", "int8"; nullopt when unknown.
std::optional<DType> dtype_from_name(std::string_view name);

// How a weight matrix is stored. kPlain keeps the model's own dtype.
enum class WeightFormat : std::uint8_t { kPlain, kFp8, kFp8Block, kInt8, kInt4Wo, kNvfp4, kMxfp4 };
std::string_view name_of(WeightFormat f);  // none fp8 fp8_block int8 int4_wo nvfp4 mxfp4
std::optional<WeightFormat> weight_format_from_name(std::string_view name);  // also awq, gptq
// Bytes per weight with group scales: fp8_block 1 + 4/128^2, int4_wo (g128, fp16 scale) 0.515625,
// nvfp4 (g16, fp8 scale) 0.5625, mxfp4 (g32, e8m0) 0.53125. `plain` is the dtype of an unquantised weight.
double bytes_per_weight(WeightFormat f, DType plain);
// Type in which the matrix units multiply: fp8 for fp8 formats, int8, fp4 where the device has it, otherwise
// the activation type (weight-only formats).
DType compute_type(WeightFormat f, DType activation, bool device_has_fp4);

}  // namespace foretoken
