// The formats in which whole models are measured.
#pragma once

#include <algorithm>
#include <iterator>
#include <string>

#include "executor/kernels.h"
#include "model/operators.h"

namespace foretoken {

struct Format {
  const char* name;
  Storage weights, plain;
  DType activation;
  WeightFormat listed;
};
inline constexpr Format kFormats[] = {
    {"float32", Storage::kF32, Storage::kF32, DType::kF32, WeightFormat::kPlain},
    {"bfloat16", Storage::kBf16, Storage::kBf16, DType::kBf16, WeightFormat::kPlain},
    {"float16", Storage::kF16, Storage::kF16, DType::kF16, WeightFormat::kPlain},
    {"int8", Storage::kInt8, Storage::kBf16, DType::kBf16, WeightFormat::kInt8},
    {"int4_wo", Storage::kInt4, Storage::kBf16, DType::kBf16, WeightFormat::kInt4Wo},
    {"fp8", Storage::kFp8, Storage::kBf16, DType::kBf16, WeightFormat::kFp8}};

inline const Format* format_of(const std::string& name) {
  const auto at =
      std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& f) { return f.name == name; });
  return at == std::end(kFormats) ? nullptr : &*at;
}

}  // namespace foretoken
