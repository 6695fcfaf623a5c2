// Opening libforetoken_cuda.so: found or not, of this version or not, with a device or not.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "executor/cuda/clocks.h"
#include "executor/cuda_library.h"

namespace foretoken {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

TEST(CudaLibrary, IsLookedForWhereItShouldBe) {
  const CudaSearch search = open_cuda_library("/nowhere/libforetoken_cuda.so");
  EXPECT_EQ(search.library, nullptr);
  EXPECT_EQ(search.why_not, "libforetoken_cuda.so was not found (looked in /nowhere/libforetoken_cuda.so)");
}

TEST(CudaLibrary, OtherFilesAreNamed) {
  const std::string path = testing::TempDir() + "not_a_library.so";
  std::ofstream(path) << "text";
  const CudaSearch search = open_cuda_library(path);
  EXPECT_EQ(search.library, nullptr);
  EXPECT_THAT(search.why_not, StartsWith(path + " can't be opened: "));
  EXPECT_THAT(open_cuda_library("/lib/x86_64-linux-gnu/libz.so.1").why_not,
              testing::AnyOf(HasSubstr("was made by another version"), HasSubstr("not found")));
}

#ifdef FORETOKEN_CUDA_LIBRARY
TEST(CudaLibrary, OpensAndSaysWhetherThereIsADevice) {
  const CudaSearch search = open_cuda_library(FORETOKEN_CUDA_LIBRARY);
  EXPECT_EQ(search.path, FORETOKEN_CUDA_LIBRARY);
  if (search.library == nullptr) {
    EXPECT_THAT(search.why_not, AllOf(StartsWith("no CUDA device: "), HasSubstr("(error ")));
  } else {
    EXPECT_EQ(search.why_not, "");
    EXPECT_GT(search.library->device_count(), 0);
    EXPECT_GE(search.library->properties(0).compute_capability, 50);
  }
}

// Errors of the library are the program's: both have the class, and neither shows it to the other.
TEST(CudaLibrary, ItsErrorsAreCaught) {
  void* handle = ::dlopen(FORETOKEN_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(handle, nullptr) << ::dlerror();
  const auto entry = reinterpret_cast<const CudaLibrary* (*)(int)>(::dlsym(handle, "foretoken_cuda_library"));
  ASSERT_NE(entry, nullptr);
  const CudaLibrary* library = entry(kCudaLibraryVersion);
  ASSERT_NE(library, nullptr);
  try {
    static_cast<void>(library->properties(1 << 20));  // a device that no machine has
    FAIL() << "no error";
  } catch (const cuda::CudaError& error) {
    EXPECT_EQ(error.where(), "cudaGetDeviceProperties");
    EXPECT_NE(error.code(), 0);
  }
  EXPECT_THROW(static_cast<void>(library->properties(1 << 20)), Error);
  EXPECT_THROW(static_cast<void>(library->properties(1 << 20)), std::runtime_error);
  EXPECT_EQ(library->device_count() == 0, library->no_device_reason() != "");
}

TEST(CudaLibrary, OfAnotherVersionIsRefused) {
  const CudaSearch search = open_cuda_library(FORETOKEN_CUDA_LIBRARY, kCudaLibraryVersion + 1);
  EXPECT_EQ(search.library, nullptr);
  EXPECT_THAT(search.why_not, HasSubstr("was made by another version of foretoken"));
}
#else
TEST(CudaLibrary, IsAbsentFromThisBuild) {
  const CudaSearch search = open_cuda_library();
  if (search.library == nullptr) {
    EXPECT_NE(search.why_not, "");
  }
}
#endif

}  // namespace
}  // namespace foretoken
