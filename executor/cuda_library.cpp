#include "executor/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <vector>

namespace foretoken {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "libforetoken_cuda.so";

std::string reason_of_dlopen() {
  const char* reason = ::dlerror();
  return reason == nullptr ? "unknown reason" : reason;
}

}  // namespace

CudaSearch open_cuda_library(const std::string& given, int version) {
  CudaSearch search;
  std::error_code ignored;
  std::vector<fs::path> places;
  if (!given.empty()) {
    places = {given};
  } else {
    const fs::path folder = fs::canonical("/proc/self/exe", ignored).parent_path();
    places = {folder / kFile, folder / "lib" / kFile, folder.parent_path() / "lib" / kFile};
  }
  std::string looked_in;
  for (const fs::path& place : places) {
    if (fs::exists(place, ignored)) {
      search.path = place.string();
      break;
    }
    looked_in += (looked_in.empty() ? "" : ", ") + (given.empty() ? place.parent_path() : place).string();
  }

  // Never closed: the CUDA runtime in it has threads and handlers of its own.
  void* handle = nullptr;
  if (!search.path.empty()) {
    // A path without a slash would be looked up where the system has its libraries.
    handle = ::dlopen(fs::absolute(search.path, ignored).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      search.why_not = search.path + " can't be opened: " + reason_of_dlopen();
      return search;
    }
  } else {
    if (given.empty()) handle = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      search.why_not = std::string(kFile) + " was not found (looked in " + looked_in +
                       (given.empty() ? " and where the system has its libraries)" : ")");
      return search;
    }
    search.path = kFile;
  }

  using Entry = const CudaLibrary* (*)(int);
  const auto entry = reinterpret_cast<Entry>(::dlsym(handle, "foretoken_cuda_library"));
  const CudaLibrary* library = entry == nullptr ? nullptr : entry(version);
  if (library == nullptr) {
    search.why_not =
        search.path + " was made by another version of foretoken; build or install both together";
    return search;
  }
  search.why_not = library->no_device_reason();
  if (search.why_not.empty()) search.library = library;
  return search;
}

}  // namespace foretoken
