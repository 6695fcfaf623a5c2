// The columns of a device, once, for the text file and for SQL: name in SQL, name and unit in the text file,
// member.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "hwdb/device.h"

namespace foretoken {

struct DeviceTextColumn {
  std::string_view name;  // the same in both
  std::string Device::*member;
};
struct DeviceNumberColumn {
  std::string_view name, text_name;
  double unit;  // of the text file, in base units
  double (*get)(const Device&);
  void (*set)(Device&, double);
};

inline constexpr DeviceTextColumn kDeviceTextColumns[] = {{"vendor", &Device::vendor},
                                                          {"architecture", &Device::architecture},
                                                          {"generation", &Device::generation},
                                                          {"confidence", &Device::confidence},
                                                          {"source", &Device::source},
                                                          {"notes", &Device::notes},
                                                          {"price_source", &Device::price_source}};

// Joined from topologies.csv.
inline constexpr DeviceTextColumn kDeviceLinkColumns[] = {{"scaleup_link", &Device::scaleup_link},
                                                          {"host_link", &Device::host_link},
                                                          {"network_link", &Device::network_link}};

template <auto Member>
constexpr DeviceNumberColumn quantity_column(std::string_view name, std::string_view text_name, double unit) {
  return {name, text_name, unit, [](const Device& d) { return (d.*Member).value; },
          [](Device& d, double v) { (d.*Member).value = v; }};
}
template <auto Member>
constexpr DeviceNumberColumn number_column(std::string_view name) {
  return {
      name, name, 1, [](const Device& d) { return static_cast<double>(d.*Member); },
      [](Device& d, double v) { d.*Member = static_cast<std::remove_reference_t<decltype(d.*Member)>>(v); }};
}

inline constexpr std::array kDeviceNumberColumns = {
    number_column<&Device::sm_count>("sm_count"),
    number_column<&Device::boost_mhz>("boost_mhz"),
    quantity_column<&Device::fp32_peak>("fp32_peak", "fp32_tflops", 1e12),
    quantity_column<&Device::tf32_peak>("tf32_peak", "tf32_tflops", 1e12),
    quantity_column<&Device::fp16_peak>("fp16_peak", "fp16_tflops", 1e12),
    quantity_column<&Device::fp8_peak>("fp8_peak", "fp8_tflops", 1e12),
    quantity_column<&Device::int8_peak>("int8_peak", "int8_tops", 1e12),
    quantity_column<&Device::int4_peak>("int4_peak", "int4_tops", 1e12),
    quantity_column<&Device::fp4_peak>("fp4_peak", "fp4_tflops", 1e12),
    quantity_column<&Device::memory>("memory", "memory_bytes", 1),
    number_column<&Device::memory_reported>("memory_reported"),
    quantity_column<&Device::memory_bandwidth>("memory_bandwidth", "memory_bandwidth_gbs", 1e9),
    quantity_column<&Device::last_level_cache>("last_level_cache", "last_level_cache_mb", 1024.0 * 1024.0),
    quantity_column<&Device::scaleup_bandwidth>("scaleup_bandwidth", "scaleup_bandwidth_gbs", 1e9),
    number_column<&Device::scaleup_domain>("scaleup_domain"),
    quantity_column<&Device::pcie_bandwidth>("pcie_bandwidth", "pcie_bandwidth_gbs", 1e9),
    number_column<&Device::tdp_watts>("tdp_watts"),
    number_column<&Device::system_kw>("system_kw")};

}  // namespace foretoken
