// Names and sizes of element types and weight formats.
#include "model/dtype.h"

#include <array>
#include <utility>

#include "base/text.h"

namespace foretoken {
namespace {

constexpr std::array<std::pair<std::string_view, DType>, 14> kDTypeNames{{{"float32", DType::kF32},
                                                                          {"fp32", DType::kF32},
                                                                          {"float", DType::kF32},
                                                                          {"float16", DType::kF16},
                                                                          {"half", DType::kF16},
                                                                          {"fp16", DType::kF16},
                                                                          {"bfloat16", DType::kBf16},
                                                                          {"bf16", DType::kBf16},
                                                                          {"fp8", DType::kFp8},
                                                                          {"fp8_e4m3", DType::kFp8},
                                                                          {"fp8_e5m2", DType::kFp8},
                                                                          {"float8_e4m3fn", DType::kFp8},
                                                                          {"int8", DType::kInt8},
                                                                          {"fp4", DType::kFp4}}};

constexpr std::array<std::pair<std::string_view, WeightFormat>, 11> kFormatNames{
    {{"none", WeightFormat::kPlain},
     {"fp8", WeightFormat::kFp8},
     {"fp8_block", WeightFormat::kFp8Block},
     {"int8", WeightFormat::kInt8},
     {"int4_wo", WeightFormat::kInt4Wo},
     {"nvfp4", WeightFormat::kNvfp4},
     {"mxfp4", WeightFormat::kMxfp4},
     {"awq", WeightFormat::kInt4Wo},
     {"gptq", WeightFormat::kInt4Wo},
     {"int4", WeightFormat::kInt4Wo},
     {"w8a8", WeightFormat::kInt8}}};

}  // namespace

double bytes_of(DType t) {
  switch (t) {
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kFp8:
    case DType::kInt8:
      return 1;
    case DType::kFp4:
      return 0.5;
  }
  return 2;
}

std::string_view name_of(DType t) {
  switch (t) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBf16:
      return "bfloat16";
    case DType::kFp8:
      return "fp8";
    case DType::kInt8:
      return "int8";
    case DType::kFp4:
      return "fp4";
  }
  return "bfloat16";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  const std::string key = lower(name);
  std::string_view bare = key;
  if (bare.starts_with("torch.")) bare.remove_prefix(6);
  for (const auto& [text, type] : kDTypeNames)
    if (text == bare) return type;
  return std::nullopt;
}

std::string_view name_of(WeightFormat f) {
  for (const auto& [text, format] : kFormatNames)
    if (format == f) return text;
  return "none";
}

std::optional<WeightFormat> weight_format_from_name(std::string_view name) {
  const std::string key = lower(name);
  for (const auto& [text, format] : kFormatNames)
    if (text == key) return format;
  return std::nullopt;
}

double bytes_per_weight(WeightFormat f, DType plain) {
  switch (f) {
    case WeightFormat::kPlain:
      return bytes_of(plain);
    case WeightFormat::kFp8:
    case WeightFormat::kInt8:
      return 1;  // one scale a tensor or a channel: below 0.1 %
    case WeightFormat::kFp8Block:
      return 1 + 4.0 / (128 * 128);
    case WeightFormat::kInt4Wo:
      return 0.5 + 2.0 / 128;
    case WeightFormat::kNvfp4:
      return 0.5 + 1.0 / 16;
    case WeightFormat::kMxfp4:
      return 0.5 + 1.0 / 32;
  }
  return bytes_of(plain);
}

DType compute_type(WeightFormat f, DType activation, bool device_has_fp4) {
  switch (f) {
    case WeightFormat::kFp8:
    case WeightFormat::kFp8Block:
      return DType::kFp8;
    case WeightFormat::kInt8:
      return DType::kInt8;
    case WeightFormat::kNvfp4:
    case WeightFormat::kMxfp4:
      return device_has_fp4 ? DType::kFp4 : activation;
    case WeightFormat::kPlain:
    case WeightFormat::kInt4Wo:
      return activation;
  }
  return activation;
}

}  // namespace foretoken
