// Launches kernels, on the device or emulated: launch(kernel, {.grid = ..., .block = ...}, stream, args...).
// Arguments are converted to the kernel's parameters. A stream that is being captured records the launch.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

struct Launch {
  dim3 grid, block;
  std::size_t shared = 0;  // bytes of dynamic shared memory
  // Blocks may start before the kernels before this one are done (compute capability 9.0 and above): the
  // kernel calls grid_dependency_wait() in every thread before it touches what those write or read.
  bool overlaps = true;
  const char* name = "";  // for errors; a literal
};

#ifdef FORETOKEN_EMULATED

void launch_emulated(const Launch& launch, Stream& stream, std::function<void()> body);

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& launch, Stream& stream,
            std::type_identity_t<Parameters>... args) {
  launch_emulated(launch, stream, [kernel, values = std::tuple<std::remove_cv_t<Parameters>...>(args...)] {
    std::apply(kernel, values);
  });
}

#else

void launch_kernel(const void* kernel, const Launch& launch, Stream& stream, void** args);

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& launch, Stream& stream,
            std::type_identity_t<Parameters>... args) {
  // One more, so that a kernel without parameters has an array too.
  void* addresses[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
  launch_kernel(reinterpret_cast<const void*>(kernel), launch, stream, addresses);
}

#endif

}  // namespace foretoken::cuda
