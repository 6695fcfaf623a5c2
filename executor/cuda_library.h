// libforetoken_cuda.so, opened when it is asked for, so that the program runs without CUDA and its libraries
// (hundreds of megabytes) are mapped by those alone who use a device.
#pragma once

#include <string>

#include "executor/cuda/runtime.h"
#include "executor/kernels.h"

namespace foretoken {

// Raised with every change of CudaLibrary or of a class that it hands out (Kernels): program and library must
// agree.
inline constexpr int kCudaLibraryVersion = 4;

class CudaLibrary {
 public:
  virtual ~CudaLibrary() = default;
  virtual int device_count() const = 0;
  virtual std::string no_device_reason() const = 0;  // empty where there is one
  virtual cuda::DeviceProperties properties(int device) const = 0;
  // The file in which the fastest way of each product is kept from process to process, which is made where
  // there is none; before kernels(). Empty, or not called: every process measures for itself.
  virtual void keep_choices(const std::string& file) const = 0;
  // Of device `rank` modulo their number; made by the first call, whose device stays.
  virtual const Kernels& kernels(int rank) const = 0;
};

struct CudaSearch {
  const CudaLibrary* library = nullptr;  // lives until the process ends; null where no device can be used
  std::string path;                      // of the file that was opened
  // "no CUDA device: the driver is missing (error 35)", "libforetoken_cuda.so was not found (looked in ...)",
  // "... was made by another version of foretoken", "... can't be opened: ..."; empty with a library.
  std::string why_not;
};

// given: the file, and no other (the program passes FORETOKEN_CUDA_LIBRARY); empty: beside the program, in
// lib there and in ../lib, then where the system looks for libraries. version: for tests.
CudaSearch open_cuda_library(const std::string& given = "", int version = kCudaLibraryVersion);

}  // namespace foretoken
