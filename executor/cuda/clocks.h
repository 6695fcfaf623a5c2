// What a device's management library (NVML) tells of clocks, power and heat, so that measured times can be
// stated with them. The library is opened when it is asked for; where it or a value is absent, fields are
// empty.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace foretoken::cuda {

struct Clocks {
  std::optional<int> sm_mhz, memory_mhz, temperature_c;
  std::optional<double> power_w;
  std::optional<std::uint64_t> throttle_reasons;  // NVML's bits; 0: none, 1: idle
};

class ClockReader {
 public:
  explicit ClockReader(const std::string& pci_bus_id);  // DeviceProperties::pci_bus_id
  ~ClockReader();
  ClockReader(const ClockReader&) = delete;
  ClockReader& operator=(const ClockReader&) = delete;
  Clocks read() const;
  bool available() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;  // null where there is none
};

std::string throttle_text(std::uint64_t reasons);  // "power cap, thermal slowdown"; empty for none

}  // namespace foretoken::cuda
