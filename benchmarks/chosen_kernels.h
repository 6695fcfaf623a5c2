// The kernels that a benchmark runs: this processor's, or a CUDA device's through the executor's library.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

#include "executor/cuda/runtime.h"
#include "executor/cuda_library.h"
#include "executor/kernels.h"

namespace foretoken {

struct ChosenKernels {
  const Kernels* kernels = nullptr;  // lives until the process ends; null where there is no device
  std::optional<cuda::DeviceProperties> device;
  std::string why_not;  // "no CUDA device: ..."
};

// "cpu" or "cuda". FORETOKEN_CUDA_LIBRARY names the library's file.
inline ChosenKernels open_backend(const std::string& name) {
  if (name == "cpu") return {cpu_kernels(), std::nullopt, ""};
  if (name != "cuda") return {nullptr, std::nullopt, "\"" + name + "\" is no backend; use cpu or cuda"};
  const char* const given = std::getenv("FORETOKEN_CUDA_LIBRARY");
  const CudaSearch search = open_cuda_library(given ? given : "");
  if (search.library == nullptr) return {nullptr, std::nullopt, search.why_not};
  return {&search.library->kernels(0), search.library->properties(0), ""};
}

// What FORETOKEN_BENCHMARK_BACKEND says.
inline std::string wanted_backend(const char* otherwise) {
  const char* const given = std::getenv("FORETOKEN_BENCHMARK_BACKEND");
  return given != nullptr && *given != '\0' ? given : otherwise;
}

}  // namespace foretoken
