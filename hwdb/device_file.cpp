#include "hwdb/device_file.h"

#include <fmt/format.h>

#include "base/csv.h"
#include "base/error.h"
#include "base/text.h"
#include "hwdb/device_columns.h"

namespace foretoken {

std::string device_key(std::string_view name) {
  std::string key;
  for (const char c : lower(trim(name))) {
    const char d = c == ' ' || c == '-' ? '_' : c;
    if (d != '_' || (!key.empty() && key.back() != '_')) key += d;
  }
  return key;
}

bool is_device_file(const std::filesystem::path& file) {
  const CsvReader csv(file);
  return csv.find_column("memory_bandwidth_gbs") && csv.find_column("name");
}

std::vector<Device> read_device_file(const std::filesystem::path& file,
                                     const std::filesystem::path& topologies) {
  std::map<std::string, std::array<std::string, 3>> links;
  if (!topologies.empty()) {
    CsvReader csv(topologies);
    const std::size_t device = csv.column("device");
    while (csv.next())
      for (std::size_t i = 0; i < 3; ++i)
        links[csv.text(device)][i] = csv.text(csv.column(kDeviceLinkColumns[i].name));
  }
  std::vector<Device> devices;
  CsvReader csv(file);
  const std::size_t name = csv.column("name");
  const auto price = csv.find_column("usd_per_hour");
  // Without these a roofline has no roof.
  for (const char* needed : {"fp16_tflops", "memory_bytes", "memory_bandwidth_gbs"}) csv.column(needed);
  while (csv.next()) {
    Device d;
    d.name = csv.text(name);
    if (trim(d.name).empty()) throw Error(csv.where(), "the device has no name");
    for (const auto& c : kDeviceTextColumns)
      if (const auto column = csv.find_column(c.name)) d.*c.member = csv.text(*column);
    for (const auto& c : kDeviceNumberColumns) {
      const auto column = csv.find_column(c.text_name);
      if (!column) continue;  // unknown
      const double v = csv.number(*column);
      if (v < 0) throw Error(csv.where(), fmt::format("{} is {}; it can't be negative", c.text_name, v));
      c.set(d, v * c.unit);
    }
    if (!(d.fp16_peak.value > 0)) throw Error(csv.where(), "fp16_tflops must be above 0");
    if (!(d.memory_bandwidth.value > 0)) throw Error(csv.where(), "memory_bandwidth_gbs must be above 0");
    if (price && !csv.text(*price).empty()) d.usd_per_hour = csv.number(*price);
    const auto joined = links.find(d.name);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& c = kDeviceLinkColumns[i];
      if (const auto column = csv.find_column(c.name))
        d.*c.member = csv.text(*column);
      else if (joined != links.end())
        d.*c.member = joined->second[i];
      else
        throw Error(csv.where(),
                    fmt::format("device {} has no {}; add that column, which names a link, such as "
                                "NVLink4, PCIe5 x16, InfiniBand NDR or none",
                                d.name, c.name));
    }
    devices.push_back(std::move(d));
  }
  return devices;
}

std::vector<Link> read_link_file(const std::filesystem::path& file) {
  std::vector<Link> links;
  CsvReader csv(file);
  const std::size_t kind = csv.column("kind");
  while (csv.next()) {
    Link l;
    l.name = csv.text(csv.column("name"));
    if (csv.text(kind) == "scaleup")
      l.kind = Link::Kind::kScaleUp;
    else if (csv.text(kind) == "pcie")
      l.kind = Link::Kind::kPcie;
    else if (csv.text(kind) == "network")
      l.kind = Link::Kind::kNetwork;
    else
      throw Error(csv.where(),
                  fmt::format("unknown kind of link \"{}\"; use scaleup, pcie or network", csv.text(kind)));
    l.bandwidth.value = csv.number(csv.column("bandwidth_gbs")) * 1e9;
    l.latency.value = csv.number(csv.column("latency_us")) * 1e-6;
    l.reduces_in_network = csv.integer(csv.column("reduces_in_network")) != 0;
    l.source = csv.text(csv.column("source"));
    links.push_back(std::move(l));
  }
  return links;
}

std::vector<Alias> read_alias_file(const std::filesystem::path& file) {
  std::vector<Alias> aliases;
  CsvReader csv(file);
  const std::size_t alias = csv.column("alias"), device = csv.column("device"), source = csv.column("source");
  while (csv.next()) aliases.push_back({csv.text(alias), csv.text(device), csv.text(source)});
  return aliases;
}

std::string device_text(const Device& d) {
  std::string text = d.name;
  for (const auto& c : kDeviceTextColumns) text += "|" + d.*c.member;
  for (const auto& c : kDeviceLinkColumns) text += "|" + d.*c.member;
  for (const auto& c : kDeviceNumberColumns) text += fmt::format("|{}", c.get(d));
  return text + fmt::format("|{}", d.usd_per_hour.value_or(-1));
}

}  // namespace foretoken
