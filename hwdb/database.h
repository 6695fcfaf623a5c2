// The hardware database: SQLite with devices, links, prices and measured operators, each row with its source.
// A user's database is layered over the built-in one, which is never written.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/table.h"
#include "hwdb/device.h"
#include "hwdb/kernel_table.h"
#include "hwdb/measurement.h"

namespace foretoken {

class Database {
 public:
  // builtin is opened read-only (by many processes at once); user may not exist yet. Throws Error for a file
  // that is corrupt, locked, of a newer schema version or not a database.
  static Database open(const std::filesystem::path& builtin, const std::filesystem::path& user = {});
  // The built-in one under the rows of files that belong to nobody's database; gone with this object.
  static Database with_rows(const std::filesystem::path& builtin,
                            std::span<const std::filesystem::path> files);
  ~Database();
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;

  std::vector<Device> devices() const;  // by name
  // Name or alias ("h200", "h200_sxm", "NVIDIA H200"); unknown and ambiguous names are Errors with
  // candidates.
  Device device(const std::string& name, const std::string& where = "--device") const;
  Topology topology(const Device& device, int devices_per_node) const;
  // By name or a unique part of it ("infiniband ndr", "ndr"); others are Errors that list the names.
  Link link(const std::string& name, const std::string& where = "link") const;
  // Rows of the device measured with this engine ("vllm 0.19", "" = best available); empty table when none.
  // moe_kernel: only this one of the engine's fused MoE kernels ("": the fastest of them).
  KernelTable kernels(const Device& device, const std::string& engine = "",
                      const std::string& moe_kernel = "") const;
  std::string digest() const;  // changes when any row changes

  Table list_devices() const;
  Table describe(const Device& device) const;           // facts and sources
  Table list_measurements(const Device& device) const;  // rows by operator, engine, dtype, source
  // Into the user's database: all files or, where one is refused, none. One report a file.
  std::vector<ImportReport> import_files(std::span<const std::filesystem::path> files,
                                         const std::string& kind = "");
  ImportReport import_file(const std::filesystem::path& file, const std::string& kind = "");
  // Rows as CSV; the user's row stands for the built-in one at the same point.
  void export_device(const Device& device, const std::function<void(std::string_view)>& write) const;
  void export_device(const Device& device, const std::filesystem::path& csv) const;

 private:
  struct Impl;
  explicit Database(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Builds the built-in database from the text files in hwdb/data; called by the build.
void build_database(const std::filesystem::path& data_folder, const std::filesystem::path& output);

}  // namespace foretoken
