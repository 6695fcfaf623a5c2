#include "executor/cuda/clocks.h"

#include <dlfcn.h>

namespace foretoken::cuda {

// NVML's functions by their C signatures: its header isn't part of every toolkit. All return 0 on success.
struct ClockReader::Library {
  using Device = struct NvmlDevice*;
  void* handle = nullptr;
  Device device = nullptr;
  int (*shutdown)() = nullptr;
  int (*clock)(Device, int kind, unsigned* mhz) = nullptr;
  int (*power)(Device, unsigned* milliwatts) = nullptr;
  int (*temperature)(Device, int sensor, unsigned* degrees) = nullptr;
  int (*reasons)(Device, unsigned long long* bits) = nullptr;

  template <class Function>
  bool find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    return function != nullptr;
  }

  ~Library() {
    if (shutdown != nullptr) shutdown();
    if (handle != nullptr) ::dlclose(handle);
  }
};

ClockReader::ClockReader(const std::string& pci_bus_id) {
  auto library = std::make_unique<Library>();
  library->handle = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library->handle == nullptr) return;
  int (*init)() = nullptr;
  int (*by_bus)(const char*, Library::Device*) = nullptr;
  if (!library->find(init, "nvmlInit_v2") || !library->find(by_bus, "nvmlDeviceGetHandleByPciBusId_v2") ||
      init() != 0)
    return;
  library->find(library->shutdown, "nvmlShutdown");
  library->find(library->clock, "nvmlDeviceGetClockInfo");
  library->find(library->power, "nvmlDeviceGetPowerUsage");
  library->find(library->temperature, "nvmlDeviceGetTemperature");
  library->find(library->reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
  if (by_bus(pci_bus_id.c_str(), &library->device) == 0) library_ = std::move(library);
}

ClockReader::~ClockReader() = default;
bool ClockReader::available() const { return library_ != nullptr; }

Clocks ClockReader::read() const {
  Clocks clocks;
  if (library_ == nullptr) return clocks;
  const Library& nvml = *library_;
  constexpr int kSm = 1, kMemory = 2, kDie = 0;
  unsigned value = 0;
  if (nvml.clock != nullptr && nvml.clock(nvml.device, kSm, &value) == 0)
    clocks.sm_mhz = static_cast<int>(value);
  if (nvml.clock != nullptr && nvml.clock(nvml.device, kMemory, &value) == 0)
    clocks.memory_mhz = static_cast<int>(value);
  if (nvml.power != nullptr && nvml.power(nvml.device, &value) == 0) clocks.power_w = value / 1000.0;
  if (nvml.temperature != nullptr && nvml.temperature(nvml.device, kDie, &value) == 0)
    clocks.temperature_c = static_cast<int>(value);
  unsigned long long bits = 0;
  if (nvml.reasons != nullptr && nvml.reasons(nvml.device, &bits) == 0) clocks.throttle_reasons = bits;
  return clocks;
}

std::string throttle_text(std::uint64_t reasons) {
  // nvml.h, nvmlClocksThrottleReason*.
  static constexpr struct {
    std::uint64_t bit;
    const char* name;
  } kReasons[] = {{0x1, "idle"},
                  {0x2, "application clocks"},
                  {0x4, "power cap"},
                  {0x8, "hardware slowdown"},
                  {0x10, "sync boost"},
                  {0x20, "thermal slowdown"},
                  {0x40, "hardware thermal slowdown"},
                  {0x80, "power brake"},
                  {0x100, "display clocks"}};
  std::string text;
  for (const auto& reason : kReasons)
    if ((reasons & reason.bit) != 0) text += (text.empty() ? "" : ", ") + std::string(reason.name);
  return text;
}

}  // namespace foretoken::cuda
