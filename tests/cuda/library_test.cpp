// Opening libforetoken_cuda.so: found or not, of this version or not, with a device or not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

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
