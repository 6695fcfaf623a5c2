// Builds the built-in database from the text in hwdb/data. The same text gives the same bytes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/quantiles.h"
#include "base/text.h"
#include "hwdb/database.h"
#include "hwdb/database_layers.h"
#include "hwdb/device_file.h"
#include "hwdb/filter.h"

namespace foretoken {
namespace {

std::vector<std::filesystem::path> measured_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::exists(folder)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".csv") || name.ends_with(".csv.gz")) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

void check_names(const std::vector<Device>& devices, const std::vector<Link>& links,
                 const std::vector<Alias>& aliases) {
  const auto is_link = [&](const std::string& name) {
    return std::any_of(links.begin(), links.end(), [&](const Link& l) { return l.name == name; });
  };
  for (const Device& d : devices)
    for (const std::string& name : {d.scaleup_link, d.host_link, d.network_link})
      if (!is_link(name))
        throw Error("topologies.csv", fmt::format("{}: link \"{}\" is not in links.csv", d.name, name));
  for (const Alias& a : aliases) {
    const auto is_device = [&](const Device& d) { return d.name == a.device; };
    if (std::none_of(devices.begin(), devices.end(), is_device))
      throw Error("aliases.csv", fmt::format("{}: device \"{}\" is not in devices.csv", a.alias, a.device));
    if (a.alias != device_key(a.alias))
      throw Error("aliases.csv",
                  fmt::format("\"{}\" must be lower case with _ for blanks and dashes", a.alias));
  }
}

// Same digest for the same text: of contents, so that a rebuild elsewhere agrees.
// Of the last schema that changed what the built-in rows say: a table of the user's alone doesn't.
constexpr std::uint64_t kBuiltinSchema = 4;

std::string digest_of_files(const std::vector<std::filesystem::path>& files) {
  std::uint64_t hash = kBuiltinSchema;
  for (const auto& file : files)
    hash = hash_bytes(read_file(file), hash_bytes(file.filename().string(), hash));
  return fmt::format("{:016x}", hash);
}

// How far each measured device's bfloat16 GEMMs lie from what the others say of it: those of its architecture
// ("transfer"), and those of others ("transfer_far").
std::vector<Residual> transfer_residuals(const DatabaseLayers& layers, const std::vector<Device>& devices,
                                         const std::function<Topology(const Device&)>& topology_of) {
  std::array<std::vector<double>, 2> errors;
  for (const std::string engine : {"vllm", "trtllm", "sglang"}) {  // each engine's from its own elsewhere
    std::vector<std::pair<const Device*, std::unique_ptr<KernelTable::Index>>> measured;
    for (const Device& d : devices) {
      auto index = layers.index(d, topology_of(d), engine, {MeasuredKind::kGemm});
      const auto& tiers = index->gemm[static_cast<std::size_t>(TypeClass::k16)];
      if (!tiers.empty() && tiers.front().engine.starts_with(engine))
        measured.emplace_back(&d, std::move(index));
    }
    for (const auto& [device, index] : measured)
      for (const bool same : {true, false}) {
        KernelTable::Index blank;
        blank.device = *device, blank.topology = topology_of(*device);
        for (const auto& [from, donor] : measured)
          if (from != device && from->vendor == device->vendor &&
              (from->architecture == device->architecture) == same)
            blank.borrow(*donor);
        const auto own = blank.transfer_residuals(*index);
        errors[same].insert(errors[same].end(), own.begin(), own.end());
      }
  }
  std::vector<Residual> out;
  for (const bool same : {true, false}) {
    auto& all = errors[same];
    if (all.size() < 20) continue;
    std::sort(all.begin(), all.end());
    Residual r;
    r.kind = name_of(MeasuredKind::kGemm), r.dtype = name_of(TypeClass::k16);
    r.method = same ? "transfer" : "transfer_far", r.samples = static_cast<std::int64_t>(all.size());
    r.median = linear_quantile(all, 0.5), r.p90 = linear_quantile(all, 0.9);
    out.push_back(std::move(r));
  }
  return out;
}

}  // namespace

void build_database(const std::filesystem::path& data_folder, const std::filesystem::path& output) {
  const auto devices = read_device_file(data_folder / "devices.csv", data_folder / "topologies.csv");
  const auto links = read_link_file(data_folder / "links.csv");
  const auto aliases = read_alias_file(data_folder / "aliases.csv");
  check_names(devices, links, aliases);
  std::vector<std::filesystem::path> files = measured_files(data_folder / "measured");

  auto temporary = output;
  temporary += ".new";
  if (output.has_parent_path()) std::filesystem::create_directories(output.parent_path());
  {
    DatabaseLayers impl;
    impl.builtin.emplace(temporary, Store::Mode::kBuild);
    Store& store = *impl.builtin;
    store.transaction([&] {
      for (const Link& l : links) store.put(l);
      for (const Device& d : devices) store.put(d);
      for (const Alias& a : aliases) store.put(a);
      for (const auto& file : files) {
        MeasurementReader reader;
        reader.device_name = [&](const std::string& name) {
          for (const Device& d : devices)
            if (d.name == name) return name;
          throw Error(file.string(), fmt::format("device \"{}\" is not in devices.csv", name));
        };
        reader.row = [&](const Measurement& row) { store.put(row); };
        ImportReport report;
        read_measurements(file, "", reader, report);
        if (!report.dropped.empty())  // these files are made by the program: every row must stand
          throw Error(file.string(), fmt::format("{} rows: {}", report.dropped.front().second,
                                                 report.dropped.front().first));
      }
    });
    impl.load();
    const auto topology_of = [&](const Device& d) {
      Topology topology;
      topology.intra_node = impl.links.at(d.scaleup_domain > 1 ? d.scaleup_link : d.host_link);
      if (d.scaleup_domain > 1 && d.scaleup_bandwidth.value > 0)
        topology.intra_node.bandwidth = d.scaleup_bandwidth;
      topology.inter_node = impl.links.at(d.network_link);
      return topology;
    };
    store.transaction([&] {
      for (const Device& d : devices) {
        const Topology topology = topology_of(d);
        const auto index = impl.index(d, topology, "");
        if (index->rows == 0) continue;
        for (const Residual& r : index->residuals()) store.put(r);
        for (const auto& [key, text] : index->fits()) store.put_meta(key, text);
      }
      for (const Residual& r : transfer_residuals(impl, devices, topology_of)) store.put(r);
      files.push_back(data_folder / "devices.csv");
      files.push_back(data_folder / "topologies.csv");
      files.push_back(data_folder / "links.csv");
      files.push_back(data_folder / "aliases.csv");
      store.put_meta("digest", digest_of_files(files));
    });
    store.finish_build();
  }
  std::filesystem::rename(temporary, output);
}

}  // namespace foretoken
