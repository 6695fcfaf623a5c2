// Element types and weight format of a deployment, and whether the device can compute with them.
#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

template <class Names>
[[noreturn]] void unknown_name(const std::string& name, const Names& names, const std::string& where) {
  std::vector<std::string> known(std::begin(names), std::end(names));
  throw Error(where,
              fmt::format("\"{}\" is not one of {}{}", name, join(known, ", "), did_you_mean(name, known)));
}

bool lacks_bfloat16(const Device& device) {
  const auto generation = parse_double(device.generation);
  return device.vendor == "NVIDIA" && generation && *generation < 8.0;
}

std::optional<Infeasible> lacking(WeightFormat format, const Device& device) {
  const auto verdict = [&](std::string_view type) {
    return Infeasible{fmt::format("device lacks {}", type),
                      fmt::format("{} weights need matrix units for {}, which {} lacks", name_of(format),
                                  type, device.name),
                      {}};
  };
  // Formats of four bits are weight-only where the device lacks fp4: the kernels widen them.
  const bool fp8 = format == WeightFormat::kFp8 || format == WeightFormat::kFp8Block;
  if (fp8 && device.fp8_peak.value <= 0) return verdict("fp8");
  if (format == WeightFormat::kInt8 && device.int8_peak.value <= 0) return verdict("int8");
  return std::nullopt;
}

}  // namespace

std::variant<Precision, Infeasible> choose_precision(EngineSection& engine, const ModelConfig& model,
                                                     const Device& device, const Behavior& behavior,
                                                     const std::string& where,
                                                     std::vector<std::string>& warnings) {
  Precision p;
  p.activation = model.dtype;
  if (engine.dtype == "auto") {
    if (p.activation == DType::kBf16 && lacks_bfloat16(device)) {
      p.activation = DType::kF16;
      warnings.push_back(fmt::format("{} lacks bfloat16: float16 is used", device.name));
    }
  } else {
    const auto type = dtype_from_name(engine.dtype);
    if (!type || bytes_of(*type) < 2) unknown_name(engine.dtype, kDtypeNames, where + "/engine/dtype");
    p.activation = *type;
    if (p.activation == DType::kBf16 && lacks_bfloat16(device))
      return Infeasible{
          "device lacks bfloat16", fmt::format("{} lacks bfloat16: choose dtype float16", device.name), {}};
  }

  p.weights = model.quantization.format;
  if (engine.quantization) {
    const auto format = weight_format_from_name(*engine.quantization);
    if (!format) unknown_name(*engine.quantization, kQuantizationNames, where + "/engine/quantization");
    p.weights = *format;
  }
  if (auto verdict = lacking(p.weights, device)) return *verdict;

  p.kv = p.activation;
  if (engine.kv_cache_dtype == "auto" && model.quantization.kv_fp8 && behavior.fp8_cache_of_checkpoint) {
    p.kv = DType::kFp8;
    warnings.push_back(
        fmt::format("the checkpoint of {} asks for an fp8 KV cache; kv_cache_dtype {} overrides it",
                    model.name, name_of(p.activation)));
  }
  // Conversions to nvfp4, and TensorRT-LLM's to fp8, are made by NVIDIA's ModelOpt, whose published
  // checkpoints ask for it too (kv_cache_quant_algo in hf_quant_config.json).
  const bool converted = p.weights != model.quantization.format &&
                         (p.weights == WeightFormat::kNvfp4 ||
                          (p.weights == WeightFormat::kFp8 && behavior.policy == SchedulerPolicy::kTrtllm));
  if (engine.kv_cache_dtype == "auto" && converted && behavior.fp8_cache_of_checkpoint &&
      p.kv != DType::kFp8) {
    p.kv = DType::kFp8;
    warnings.push_back(
        fmt::format("checkpoints in {} from NVIDIA ask for an fp8 KV cache; kv_cache_dtype {} "
                    "overrides it",
                    name_of(p.weights), name_of(p.activation)));
  }
  if (engine.kv_cache_dtype != "auto") {
    const auto type = dtype_from_name(engine.kv_cache_dtype);
    if (!type) unknown_name(engine.kv_cache_dtype, kKvDtypeNames, where + "/engine/kv_cache_dtype");
    p.kv = *type;
  }
  engine.dtype = name_of(p.activation);
  engine.quantization = std::string(name_of(p.weights));
  if (engine.kv_cache_dtype == "auto" && p.kv != DType::kF32) engine.kv_cache_dtype = name_of(p.kv);
  return p;
}

}  // namespace foretoken
