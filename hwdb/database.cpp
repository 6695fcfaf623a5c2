#include "hwdb/database.h"

#include <fmt/format.h>

#include <algorithm>
#include <execution>
#include <future>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "hwdb/database_layers.h"
#include "hwdb/device_columns.h"
#include "hwdb/device_file.h"
#include "hwdb/filter.h"
#include "hwdb/kernel_index.h"

namespace foretoken {
namespace {

constexpr std::int64_t kRowsOfWholeDevice = 5000;  // fewer: only a few kinds of operator were measured
constexpr double kFarthestLender = 1.1;            // factor of three in memory bandwidth

std::string join_some(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + ", ..." : text;
}

// A series without the circumstances: two rows that agree in the rest are the same point.
MeasurementSeries what_was_measured(MeasurementSeries s) {
  s.driver.clear(), s.date.clear(), s.source.clear();
  s.clock_mhz = 0;
  return s;
}

// Removes a database that a failed import began.
void remove_database(const std::filesystem::path& path) {
  std::error_code ignored;
  for (const char* ending : {"", "-wal", "-shm", "-journal"})
    std::filesystem::remove(path.string() + ending, ignored);
}

}  // namespace

Database::Database(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Database::~Database() = default;
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&&) noexcept = default;

Database Database::open(const std::filesystem::path& builtin, const std::filesystem::path& user) {
  auto impl = std::make_unique<Impl>();
  impl->builtin.emplace(builtin, Store::Mode::kBuiltin);
  impl->user_path = user;
  std::error_code ignored;
  if (!user.empty() && std::filesystem::exists(user, ignored) &&
      std::filesystem::file_size(user, ignored) > 0)
    impl->user.emplace(user, Store::Mode::kRead);  // a folder has no size and is refused there
  impl->load();
  return Database(std::move(impl));
}

Database Database::with_rows(const std::filesystem::path& builtin,
                             std::span<const std::filesystem::path> files) {
  std::string path = (std::filesystem::temp_directory_path() / "foretoken-rows-XXXXXX").string();
  const int made = mkstemp(path.data());
  if (made < 0) throw Error(path, std::string("cannot be created: ") + std::strerror(errno));
  close(made);
  // Open files outlive their names.
  const struct Remove {
    const std::string& path;
    ~Remove() {
      for (const char* of_sqlite : {"", "-wal", "-shm"}) std::remove((path + of_sqlite).c_str());
    }
  } remove{path};
  Database database = open(builtin, path);
  database.import_files(files);
  return database;
}

void DatabaseLayers::load() {
  by_name.clear();
  aliases.clear();
  links.clear();
  const auto take = [&](const Store& store) {
    for (Device& d : store.devices()) by_name[d.name] = std::move(d);
    for (Alias& a : store.aliases()) aliases[device_key(a.alias)] = a.device;
    for (Link& l : store.links()) links[l.name] = std::move(l);
  };
  take(*builtin);
  if (user) take(*user);  // later rows win
  engine_terms = user ? user->engine_terms() : std::vector<EngineTerm>();
}

std::string DatabaseLayers::resolve(const std::string& name, std::vector<std::string>* candidates) const {
  const std::string key = device_key(name);
  if (key.empty()) return "";
  for (const auto& [full, device] : by_name)
    if (device_key(full) == key) return full;
  if (const auto alias = aliases.find(key); alias != aliases.end() && by_name.contains(alias->second))
    return alias->second;
  std::vector<std::string> found;
  for (const auto& [full, device] : by_name)
    if (device_key(full).starts_with(key)) found.push_back(full);
  if (found.size() == 1) return found.front();
  if (candidates) *candidates = found;
  return "";
}

std::vector<Device> Database::devices() const {
  std::vector<Device> all;
  for (const auto& [name, device] : impl_->by_name) all.push_back(device);
  return all;
}

Device Database::device(const std::string& name, const std::string& where) const {
  std::vector<std::string> candidates;
  if (const std::string full = impl_->resolve(name, &candidates); !full.empty())
    return impl_->by_name.at(full);
  if (candidates.size() > 1)
    throw Error(where, fmt::format("\"{}\" is ambiguous: {}", name, join_some(candidates)));
  std::vector<std::string> known;
  for (const auto& [full, device] : impl_->by_name) known.push_back(device_key(full));
  for (const auto& [alias, device] : impl_->aliases) known.push_back(alias);
  throw Error(where, fmt::format("no device \"{}\" in the hardware database{}; `foretoken hw list` shows all",
                                 name, did_you_mean(device_key(name), known)));
}

Topology Database::topology(const Device& device, int devices_per_node) const {
  Topology t;
  t.devices_per_node = devices_per_node > 0 ? devices_per_node : std::clamp(device.scaleup_domain, 1, 8);
  const auto link = [&](const std::string& name) {
    const auto found = impl_->links.find(name);
    if (found == impl_->links.end())
      throw Error("device " + device.name, fmt::format("link \"{}\" is not in the table of links", name));
    return found->second;
  };
  // A bridge or a small domain does not reach all devices of the node: the slowest path is the host's.
  const bool whole = device.scaleup_domain > 1 && t.devices_per_node <= device.scaleup_domain;
  t.intra_node = link(whole ? device.scaleup_link : device.host_link);
  if (whole && device.scaleup_bandwidth.value > 0) t.intra_node.bandwidth = device.scaleup_bandwidth;
  if (!whole && device.pcie_bandwidth.value > 0) t.intra_node.bandwidth = device.pcie_bandwidth;
  t.inter_node = link(device.network_link);
  return t;
}

Link Database::link(const std::string& name, const std::string& where) const {
  std::vector<const Link*> near;
  std::vector<std::string> all;
  for (const auto& [full, link] : impl_->links) {
    if (lower(full) == lower(name)) return link;
    if (!name.empty() && lower(full).find(lower(name)) != std::string::npos) near.push_back(&link);
    all.push_back(full);
  }
  if (near.size() == 1) return *near.front();
  throw Error(where, fmt::format("\"{}\" is {}; the database has {}", name,
                                 near.empty() ? "no link" : "more than one link", join(all, ", ")));
}

ReplacedPoints::ReplacedPoints(const Store& user, const std::string& device) {
  for (const auto& [id, series] : user.series(device)) {
    auto& shapes = shapes_[what_was_measured(series)];
    user.for_each_point(id, series.kind, [&](const MeasuredPoint& p) { shapes.push_back(p.shape); });
  }
  for (auto& [series, shapes] : shapes_) std::sort(shapes.begin(), shapes.end());
}

const std::vector<ReplacedPoints::Shape>* ReplacedPoints::of(const MeasurementSeries& series) const {
  if (shapes_.empty()) return nullptr;
  const auto found = shapes_.find(what_was_measured(series));
  return found == shapes_.end() ? nullptr : &found->second;
}

std::vector<DatabaseLayers::LayerSeries> DatabaseLayers::series(const std::string& device) const {
  std::vector<LayerSeries> all;
  const auto collect = [&](const Store& store) {
    for (auto& [id, s] : store.series(device)) all.push_back({&store, id, std::move(s)});
  };
  collect(*builtin);
  if (user) collect(*user);
  return all;
}

ReplacedPoints DatabaseLayers::replaced(const std::string& device) const {
  return user ? ReplacedPoints(*user, device) : ReplacedPoints();
}

void DatabaseLayers::for_each_point(const Store& store, std::int64_t id, const MeasurementSeries& series,
                                    const ReplacedPoints& replaced,
                                    const std::function<void(const MeasuredPoint&)>& visit) const {
  const auto* hidden = &store == &*builtin ? replaced.of(series) : nullptr;
  if (hidden == nullptr) return store.for_each_point(id, series.kind, visit);
  store.for_each_point(id, series.kind, [&](const MeasuredPoint& p) {
    if (!std::binary_search(hidden->begin(), hidden->end(), p.shape)) visit(p);
  });
}

std::int64_t DatabaseLayers::count_points(const LayerSeries& s, const ReplacedPoints& replaced) const {
  if (s.store != &*builtin || replaced.of(s.series) == nullptr)
    return s.store->count_points(s.id, s.series.kind);
  std::int64_t n = 0;
  for_each_point(*s.store, s.id, s.series, replaced, [&](const MeasuredPoint&) { ++n; });
  return n;
}

namespace {

struct Entry {
  EngineRank rank;
  std::int64_t id;
  const Store* store;
  bool of_user;
  MeasurementSeries series;
};

std::string family_of(const std::string& engine) { return engine.substr(0, engine.find(' ')); }

// Kinds whose engines have several kernels, of which they run the fastest.
bool has_kernels(MeasuredKind kind) {
  return kind == MeasuredKind::kMoe || kind == MeasuredKind::kExpertExchange;
}

// Of each kind and type, in order of rank: the first engine, and of GEMM one more (of MoE its experts without
// a gate), whose rows stand in for shapes that the first lacks. TensorRT-LLM's tables have the most shapes.
void leave_out_unused(std::vector<Entry>& entries) {
  using Type = std::tuple<MeasuredKind, std::string, std::string>;
  const auto type_of = [](const Entry& e) { return Type(e.series.kind, e.series.dtype, e.series.kv_dtype); };
  std::map<Type, std::string> first, second;
  for (const Entry& e : entries)
    if (!e.of_user) first.try_emplace(type_of(e), family_of(e.series.engine));
  for (const char* family : {"trtllm", "sglang", "vllm"})
    for (const Entry& e : entries)
      if (!e.of_user && family_of(e.series.engine) == family && first.at(type_of(e)) != family)
        second.try_emplace(type_of(e), family);
  std::erase_if(entries, [&](const Entry& e) {
    const MeasuredKind kind = e.series.kind;
    // Libraries' collectives, and tables of few rows that one engine or another has.
    if (e.of_user || kind >= MeasuredKind::kAllReduce) return false;
    const std::string family = family_of(e.series.engine);
    if (family == first.at(type_of(e))) return false;
    const auto other = second.find(type_of(e));
    if (other == second.end() || other->second != family) return true;
    return kind != MeasuredKind::kGemm &&
           (kind != MeasuredKind::kMoe || e.series.kernel.find("nongated") == std::string::npos);
  });
}

}  // namespace

std::unique_ptr<KernelTable::Index> DatabaseLayers::index(const Device& device, const Topology& topology,
                                                          const std::string& engine,
                                                          const std::set<MeasuredKind>& kinds,
                                                          bool only_needed,
                                                          const std::string& moe_kernel) const {
  std::vector<Entry> entries;
  const auto collect = [&](const Store& store, bool of_user) {
    for (auto& [id, series] : store.series(device.name))
      if (kinds.empty() || kinds.contains(series.kind))
        entries.push_back(
            {engine_rank(series.engine, engine, of_user), id, &store, of_user, std::move(series)});
  };
  if (user) collect(*user, true);
  collect(*builtin, false);
  // Where the kernel asked for was timed with an engine, that engine's others are left out.
  std::set<std::string> with_kernel;
  for (const Entry& e : entries)
    if (has_kernels(e.series.kind) && !moe_kernel.empty() && e.series.kernel == moe_kernel)
      with_kernel.insert(e.series.engine);
  std::erase_if(entries, [&](const Entry& e) {
    return has_kernels(e.series.kind) && e.series.kernel != moe_kernel &&
           with_kernel.contains(e.series.engine);
  });
  const ReplacedPoints hidden = replaced(device.name);
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.rank < b.rank; });
  if (only_needed) leave_out_unused(entries);
  auto index = std::make_unique<KernelTable::Index>();
  index->device = device;
  index->topology = topology;
  index->requested = lower(engine);
  index->fitted = [this](const std::string& key) { return builtin->meta(key); };
  for (const Entry& e : entries) {
    const bool of_user = e.of_user;
    const bool collective =
        (e.series.kind >= MeasuredKind::kAllReduce && e.series.kind <= MeasuredKind::kSendRecv) ||
        e.series.kind == MeasuredKind::kExpertExchange;
    const bool preferred = engine.empty() || of_user || collective || e.rank.family <= 1;
    index->add(e.series, preferred, of_user, [&](const KernelTable::Index::PointVisitor& visit) {
      for_each_point(*e.store, e.id, e.series, hidden, visit);
    });
  }
  index->finish();
  index->fitted = nullptr;
  return index;
}

KernelTable Database::kernels(const Device& device, const std::string& engine,
                              const std::string& moe_kernel) const {
  auto index = impl_->index(device, topology(device, device.scaleup_domain), engine, {}, true, moe_kernel);
  if (index->gemm[static_cast<std::size_t>(TypeClass::k16)].empty() && device.sm_count > 0) {
    // Devices of its own architecture where there are any, else all that were measured.
    std::vector<const Device*> own, all;
    for (const auto& [name, d] : impl_->by_name) {
      const auto series = impl_->builtin->series(name);
      const bool measured = std::any_of(series.begin(), series.end(), [](const auto& s) {
        return s.second.kind == MeasuredKind::kGemm && s.second.dtype == "bfloat16";
      });
      if (!measured || d.vendor != device.vendor) continue;
      all.push_back(&d);
      if (d.architecture == device.architecture) own.push_back(&d);
    }
    for (const Residual& r : impl_->builtin->residuals(""))  // of transfers, over all devices
      if (r.method == (own.empty() ? "transfer_far" : "transfer")) index->transfer_error = r.p90;
    for (const Device* d : own.empty() ? all : own)
      index->borrow(*impl_->index(*d, topology(*d, d->scaleup_domain), engine, {MeasuredKind::kGemm}, true));
  }
  index->learn(impl_->builtin->residuals(device.name));
  if (impl_->user) index->learn(impl_->user->residuals(device.name));
  const bool borrowed = !index->gemm_donors[static_cast<std::size_t>(TypeClass::k16)].empty();
  const bool whole = index->rows > kRowsOfWholeDevice;
  KernelTable table = index->rows > 0 || borrowed ? KernelTable(std::move(index)) : KernelTable();
  if (whole) return table;
  // The measured device of the same generation whose memory is nearest in speed.
  const Device* best = nullptr;
  double best_distance = kFarthestLender;
  for (const auto& [name, d] : impl_->by_name) {
    const auto major = [](const Device& x) { return x.generation.substr(0, x.generation.find('.')); };
    if (d.name == device.name || d.vendor != device.vendor || device.generation.empty() ||
        major(d) != major(device))
      continue;
    std::int64_t rows = 0;
    for (const auto& [id, series] : impl_->builtin->series(d.name))
      rows += impl_->builtin->count_points(id, series.kind);
    if (rows <= kRowsOfWholeDevice) continue;
    const double distance = std::abs(std::log(d.memory_bandwidth / device.memory_bandwidth));
    if (distance < best_distance) best_distance = distance, best = &d;
  }
  if (best)
    table.borrow(device, topology(device, device.scaleup_domain), *best,
                 topology(*best, best->scaleup_domain), kernels(*best, engine));
  return table;
}

std::string Database::digest() const {
  std::string text = impl_->builtin->meta("digest");
  if (impl_->user) text += fmt::format("+{:016x}", digest_of(*impl_->user));
  return text;
}

std::uint64_t digest_of(const Store& store) {
  std::uint64_t hash = 0;
  const auto add = [&](std::string_view text) { hash = hash_bytes(text, hash); };
  for (const Device& d : store.devices()) add(device_text(d));
  for (const Alias& a : store.aliases()) add(a.alias + "=" + a.device);
  for (const Link& l : store.links())
    add(fmt::format("{} {} {}", l.name, l.bandwidth.value, l.latency.value));
  for (const auto& [id, series] : store.series("")) {
    add(measurement_csv_row({series, {}}, {}));
    store.for_each_point(id, series.kind, [&](const MeasuredPoint& p) {
      add(std::string_view(reinterpret_cast<const char*>(&p), sizeof p));
    });
  }
  for (const EngineTerm& t : store.engine_terms())
    add(fmt::format("{} {} {} {}", t.device, t.engine, t.term, t.value));
  return hash;
}

// Writes and closes the user's database, so that no log stays beside it, and reads it again. A file that the
// failed write has made is removed.
void DatabaseLayers::write_user(const std::function<void(Store&)>& write) {
  std::error_code ignored;
  const bool existed = std::filesystem::exists(user_path, ignored);
  try {
    Store store(user_path, Store::Mode::kWrite);
    write(store);
    user.reset();  // the last other connection of this process, which would keep the log
    store.finish_write();
  } catch (...) {
    if (!existed) remove_database(user_path);
    throw;
  }
  user.emplace(user_path, Store::Mode::kRead);
  load();
}

namespace {

// What one file of measurements holds, read before any of it is written.
struct ImportedFile {
  std::vector<Measurement> rows;
  ImportReport report;
};

ImportedFile read_import(const std::filesystem::path& file, const std::string& kind,
                         const DatabaseLayers& layers, const Database& database) {
  ImportedFile result;
  std::map<std::string, std::pair<Device, Topology>> seen;
  MeasurementReader reader;
  reader.device_name = [&](const std::string& name) {
    const std::string full = layers.resolve(name, nullptr);
    if (!full.empty() && !seen.contains(full)) {
      const Device& d = layers.by_name.at(full);
      seen[full] = {d, database.topology(d, d.scaleup_domain)};
    }
    return full;
  };
  reader.row = [&](const Measurement& row) {
    const auto& [device, links] = seen.at(row.series.device);
    if (const std::string_view reason = implausible(row, device, links); !reason.empty())
      return result.report.drop(reason);
    result.rows.push_back(row);
  };
  read_measurements(file, kind, reader, result.report);
  if (result.report.read == 0)
    throw Error(file.string(), "holds no measurements, only a header; export or measure again");
  std::map<MeasurementSeries, std::vector<MeasuredPoint>> series;
  for (const Measurement& row : result.rows) series[row.series].push_back(row.point);
  for (const auto& [of, points] : series) {
    const auto& [device, links] = seen.at(of.device);
    const std::string_view reason = host_bound(of, points, device, links);
    if (reason.empty()) continue;
    result.report.drop(reason, static_cast<std::int64_t>(points.size()));
    std::erase_if(result.rows, [&s = of](const Measurement& row) { return row.series == s; });
  }
  return result;
}

}  // namespace

ImportReport Database::import_file(const std::filesystem::path& file, const std::string& kind) {
  return import_files({&file, 1}, kind).front();
}

std::vector<ImportReport> Database::import_files(std::span<const std::filesystem::path> files,
                                                 const std::string& kind) {
  if (files.empty()) return {};
  if (impl_->user_path.empty())
    throw Error(files.front().string(), "an import goes into the user's database: name one with --db FILE");
  std::vector<ImportReport> reports(files.size());
  std::vector<std::size_t> measured;  // files of measurements
  std::vector<Device> devices;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!is_device_file(files[i])) {
      measured.push_back(i);
      continue;
    }
    const std::vector<Device> of_file = read_device_file(files[i]);
    if (of_file.empty()) throw Error(files[i].string(), "holds no devices, only a header");
    std::vector<std::string> links;
    for (const auto& [link, facts] : impl_->links) links.push_back(link);
    for (const Device& d : of_file)
      for (const auto& c : kDeviceLinkColumns)
        if (!impl_->links.contains(d.*c.member))
          throw Error(files[i].string(),
                      fmt::format("{} of device {}: \"{}\" is no known link; there are: {}", c.name, d.name,
                                  d.*c.member, join(links, ", ")));
    reports[i].read = reports[i].times = reports[i].imported = static_cast<std::int64_t>(of_file.size());
    devices.insert(devices.end(), of_file.begin(), of_file.end());
  }
  // Devices first: the other files may hold their measurements.
  if (!devices.empty())
    impl_->write_user([&](Store& store) {
      store.transaction([&] {
        for (const Device& d : devices) store.put(d);
      });
    });
  if (measured.empty()) return reports;

  const auto read = [&](std::size_t i) { return read_import(files[measured[i]], kind, *impl_, *this); };
  std::map<std::string, std::set<MeasuredKind>> kinds;
  ImportedFile current = read(0);  // before anything is opened; each next one while this one is written
  if (measured.size() == 1 && current.rows.empty()) {
    reports[measured[0]] = std::move(current.report);
    return reports;
  }
  impl_->write_user([&](Store& store) {
    store.transaction([&] {
      for (std::size_t i = 0; i < measured.size(); ++i) {
        std::future<ImportedFile> next;
        if (i + 1 < measured.size()) next = std::async(std::launch::async, read, i + 1);
        std::int64_t repeated = 0;
        for (const Measurement& row : current.rows) {
          if (!store.put(row)) ++repeated;
          kinds[row.series.device].insert(row.series.kind);
        }
        current.report.imported = static_cast<std::int64_t>(current.rows.size()) - repeated;
        if (repeated > 0) current.report.drop("replaced an earlier row at the same point", repeated);
        reports[measured[i]] = std::move(current.report);
        if (next.valid()) current = next.get();
      }
    });
  });
  if (kinds.empty()) return reports;
  // The new rows change what held-out rows say.
  std::vector<std::unique_ptr<KernelTable::Index>> indices;
  for (const auto& [name, imported] : kinds) {
    const Device& device = impl_->by_name.at(name);
    indices.push_back(impl_->index(device, topology(device, device.scaleup_domain), "", imported));
  }
  std::vector<std::vector<Residual>> residuals(indices.size());
  std::transform(std::execution::par, indices.begin(), indices.end(), residuals.begin(),
                 [](const auto& index) { return index->residuals(true); });
  impl_->write_user([&](Store& store) {
    store.transaction([&] {
      for (const auto& of_device : residuals)
        for (const Residual& r : of_device) store.put(r);
    });
  });
  return reports;
}

void Database::export_device(const Device& device, const std::function<void(std::string_view)>& write) const {
  // One file holds kinds with different columns: the union of them, empty where a kind has none.
  std::vector<std::string_view> columns;
  const auto all = impl_->series(device.name);
  const ReplacedPoints replaced = impl_->replaced(device.name);
  for (const auto& s : all)
    for (const auto c : shape_columns(s.series.kind))
      if (std::find(columns.begin(), columns.end(), c) == columns.end()) columns.push_back(c);
  write(measurement_csv_header(columns));
  for (const auto& s : all)
    impl_->for_each_point(*s.store, s.id, s.series, replaced, [&](const MeasuredPoint& p) {
      write(measurement_csv_row({s.series, p}, columns));
    });
}

void Database::export_device(const Device& device, const std::filesystem::path& csv) const {
  OutputFile out(csv);
  export_device(device, [&](std::string_view text) { out.write(text); });
  out.commit();
}

}  // namespace foretoken
