#include "executor/cuda/communicator.h"

#include <dlfcn.h>

#include <cstring>
#include <string>
#include <vector>

#if __has_include(<nccl.h>) && !defined(FORETOKEN_EMULATED)
#include <nccl.h>
#define FORETOKEN_NCCL
#endif

namespace foretoken::cuda {

#ifdef FORETOKEN_NCCL
namespace {

// The functions of libnccl.so.2 that are used.
struct Nccl {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) init_rank = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;

  bool open() {
    void* library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);  // never closed: it has threads
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    return library != nullptr && find(get_unique_id, "ncclGetUniqueId") &&
           find(init_rank, "ncclCommInitRank") && find(destroy, "ncclCommDestroy") &&
           find(all_gather, "ncclAllGather") && find(error_string, "ncclGetErrorString");
  }
  void check(ncclResult_t result, const char* call) const {
    if (result != ncclSuccess) throw CudaError(call, error_string(result), static_cast<int>(result));
  }
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const Nccl& nccl, Processes& processes) : nccl_(nccl) {
    // The first one's id, as floats, which are moved as they are.
    constexpr std::size_t kFloats = sizeof(ncclUniqueId) / sizeof(float);
    ncclUniqueId id{};
    if (processes.rank() == 0) nccl_.check(nccl_.get_unique_id(&id), "ncclGetUniqueId");
    std::vector<float> mine(kFloats), all(kFloats * static_cast<std::size_t>(processes.size()));
    std::memcpy(mine.data(), &id, sizeof id);
    processes.all_gather(mine, all.data());
    std::memcpy(&id, all.data(), sizeof id);
    nccl_.check(nccl_.init_rank(&communicator_, processes.size(), id, processes.rank()), "ncclCommInitRank");
  }
  ~NcclCommunicator() override { nccl_.destroy(communicator_); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void all_gather(std::span<const float> mine, float* all, Stream& stream) override {
    nccl_.check(nccl_.all_gather(mine.data(), all, mine.size(), ncclFloat, communicator_,
                                 static_cast<cudaStream_t>(stream.native())),
                "ncclAllGather");
  }

 private:
  Nccl nccl_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator(Processes& processes) {
  Nccl nccl;
  // All must decide alike: what one of them can't do none does.
  double can[] = {processes.size() <= device_count() && nccl.open() ? -1.0 : 0.0};
  processes.maximum(can);
  if (can[0] == 0) return nullptr;
  return std::make_unique<NcclCommunicator>(nccl, processes);
}

#else

std::unique_ptr<Communicator> make_communicator(Processes&) { return nullptr; }

#endif

}  // namespace foretoken::cuda
