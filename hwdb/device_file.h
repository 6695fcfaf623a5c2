// Devices, links and aliases as text files, and names as people write them.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hwdb/device.h"
#include "hwdb/store.h"

namespace foretoken {

// Lower case, one "_" for blanks and dashes: "NVIDIA H200" and "nvidia-h200" are one key.
std::string device_key(std::string_view name);

bool is_device_file(const std::filesystem::path& file);  // has the columns of devices.csv
// Links come from a table of topologies, or from columns scaleup_link, host_link, network_link of the same
// file.
std::vector<Device> read_device_file(const std::filesystem::path& file,
                                     const std::filesystem::path& topologies = {});
std::vector<Link> read_link_file(const std::filesystem::path& file);
std::vector<Alias> read_alias_file(const std::filesystem::path& file);
std::string device_text(const Device& device);  // every column, for digests

}  // namespace foretoken
