#include "hwdb/store.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fmt/format.h>
#include <sqlite3.h>

#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "hwdb/device_columns.h"

namespace foretoken {
namespace {

constexpr int kApplicationId = 0x46546b6e;  // "FTkn", says whose file it is
constexpr int kBusyMilliseconds = 2000;

// SQLite's URI form; only these characters mean something in it.
std::string immutable_uri(const std::filesystem::path& path) {
  std::string uri = "file:";
  for (const char c : std::filesystem::absolute(path).string()) {
    if (c == '?' || c == '#' || c == '%')
      uri += fmt::format("%{:02X}", static_cast<int>(c));
    else
      uri += c;
  }
  return uri + "?immutable=1";
}

std::string remedy(int code) {
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
      return "the file is corrupt; restore a copy, or delete it and import its measurements again (the "
             "built-in "
             "database is made again by a build)";
    case SQLITE_NOTADB:
      return "not a database; name a hardware database made by `foretoken hw import`";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return "the database is locked: another process has been writing to it for more than 2 s; try again "
             "when it is "
             "done";
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return "the database can't be written: its file or folder is read-only; name another with --db or "
             "change the "
             "permission";
    case SQLITE_FULL:
      return "the disk is full; nothing was changed: free some space or name a file elsewhere with --db";
    case SQLITE_CANTOPEN:
      return "the database can't be opened; check that its folder exists and may be written";
    case SQLITE_IOERR:
      return "reading or writing the database failed; check the disk";
    default:
      return "";
  }
}

std::string table_of(MeasuredKind kind) {
  if (kind >= MeasuredKind::kAllReduce && kind <= MeasuredKind::kSendRecv) return "collective";
  switch (kind) {
    case MeasuredKind::kRecurrencePrefill:
    case MeasuredKind::kRecurrenceDecode:
      return "recurrence";
    case MeasuredKind::kConvolutionPrefill:
    case MeasuredKind::kConvolutionDecode:
      return "convolution";
    case MeasuredKind::kSparsePrefill:
    case MeasuredKind::kSparseDecode:
      return "sparse_attention";
    case MeasuredKind::kIndexerPrefill:
    case MeasuredKind::kIndexerDecode:
      return "indexer";
    default:
      return std::string(name_of(kind));
  }
}

std::string device_column_names() {
  std::string names = "name";
  for (const auto& c : kDeviceTextColumns) names += fmt::format(",{}", c.name);
  for (const auto& c : kDeviceLinkColumns) names += fmt::format(",{}", c.name);
  for (const auto& c : kDeviceNumberColumns) names += fmt::format(",{}", c.name);
  return names + ",usd_per_hour";
}

std::string placeholders(std::size_t n) {
  std::string marks;
  for (std::size_t i = 0; i < n; ++i) marks += i ? ",?" : "?";
  return marks;
}

constexpr const char* kSeriesColumns =
    "device,engine,kind,dtype,kv_dtype,kernel,distribution,driver,date,source,clock_mhz";

}  // namespace

struct Store::Impl {
  std::filesystem::path path;
  // Of the connection, which SQLite leaves to us (OPEN_NOMUTEX): its own mutex is taken for every column that
  // is read. Recursive, as what a transaction writes comes back here.
  std::recursive_mutex mutex;
  std::optional<SQLite::Database> db;
  std::map<MeasurementSeries, std::int64_t> series_ids;
  bool series_loaded = false;
  struct PointStatements {
    std::optional<SQLite::Statement> insert, update;
  };
  std::array<PointStatements, kMeasuredKinds> points;

  template <class F>
  auto guarded(F&& f) {
    const std::lock_guard lock(mutex);
    try {
      return f();
    } catch (const SQLite::Exception& e) {
      const std::string text = remedy(e.getErrorCode());
      throw Error(path.string(), text.empty() ? e.what() : fmt::format("{} (SQLite: {})", text, e.what()));
    }
  }

  void open(const std::string& name, int flags) {
    db.emplace(name, flags | SQLite::OPEN_NOMUTEX, kBusyMilliseconds);
    db->exec("PRAGMA foreign_keys = ON");
    db->execAndGet(
        "SELECT count(*) FROM sqlite_master");  // the first read finds out whether it is a database
  }

  int version() { return db->execAndGet("PRAGMA user_version").getInt(); }

  void check_owner() {
    const bool empty = db->execAndGet("SELECT count(*) FROM sqlite_master").getInt() == 0;
    const int owner = db->execAndGet("PRAGMA application_id").getInt();
    if (!empty && owner != kApplicationId)
      throw Error(path.string(),
                  "a database of another program, not one of hardware; name another file with --db");
    if (version() > kSchemaVersion)
      throw Error(
          path.string(),
          fmt::format("schema version {}, but this program reads up to {}: use a newer foretoken, or name "
                      "another file with --db",
                      version(), kSchemaVersion));
  }

  void migrate() {
    const int from = version();
    if (from >= kSchemaVersion) return;
    SQLite::Transaction transaction(*db, SQLite::TransactionBehavior::IMMEDIATE);
    const auto& scripts = schema_scripts();
    for (std::size_t v = static_cast<std::size_t>(from); v < scripts.size(); ++v) db->exec(scripts[v]);
    db->exec(fmt::format("PRAGMA user_version = {}", kSchemaVersion));
    db->exec(fmt::format("PRAGMA application_id = {}", kApplicationId));
    transaction.commit();
  }

  void open_for_reading() {
    try {
      open(path.string(), SQLite::OPEN_READONLY);
    } catch (const SQLite::Exception& e) {
      // A write-ahead log can't be opened in a folder that is read-only; nobody writes there, so it is
      // immutable.
      const int code = e.getErrorCode() & 0xff;
      if (code != SQLITE_CANTOPEN && code != SQLITE_READONLY) throw;
      open(immutable_uri(path), SQLite::OPEN_READONLY | SQLite::OPEN_URI);
    }
    check_owner();
    if (version() < kSchemaVersion) {
      db.reset();
      open(path.string(), SQLite::OPEN_READWRITE);
      migrate();
    }
  }

  std::int64_t series_id(const MeasurementSeries& s) {
    if (!series_loaded) {
      SQLite::Statement q(*db, fmt::format("SELECT id,{} FROM series", kSeriesColumns));
      while (q.executeStep()) series_ids[read_series(q)] = q.getColumn(0).getInt64();
      series_loaded = true;
    }
    const auto found = series_ids.find(s);
    if (found != series_ids.end()) return found->second;
    SQLite::Statement q(*db,
                        fmt::format("INSERT INTO series ({}) VALUES ({})", kSeriesColumns, placeholders(11)));
    q.bind(1, s.device), q.bind(2, s.engine), q.bind(3, std::string(name_of(s.kind))), q.bind(4, s.dtype);
    q.bind(5, s.kv_dtype), q.bind(6, s.kernel), q.bind(7, s.distribution), q.bind(8, s.driver);
    q.bind(9, s.date), q.bind(10, s.source), q.bind(11, s.clock_mhz);
    q.exec();
    const std::int64_t id = db->getLastInsertRowid();
    series_ids[s] = id;
    return id;
  }

  MeasurementSeries read_series(SQLite::Statement& q) const {
    MeasurementSeries s;
    s.device = q.getColumn(1).getString();
    s.engine = q.getColumn(2).getString();
    const std::string kind = q.getColumn(3).getString();
    const auto known = measured_kind_from_name(kind);
    if (!known) throw Error(path.string(), fmt::format("table series holds the unknown kind \"{}\"", kind));
    s.kind = *known;
    s.dtype = q.getColumn(4).getString();
    s.kv_dtype = q.getColumn(5).getString();
    s.kernel = q.getColumn(6).getString();
    s.distribution = q.getColumn(7).getString();
    s.driver = q.getColumn(8).getString();
    s.date = q.getColumn(9).getString();
    s.source = q.getColumn(10).getString();
    s.clock_mhz = q.getColumn(11).getDouble();
    return s;
  }

  PointStatements& statements(MeasuredKind kind) {
    PointStatements& p = points[static_cast<std::size_t>(kind)];
    if (!p.insert) {
      const auto columns = shape_columns(kind);
      std::string names = "series", match = "series=?1";
      int at = 1;
      for (const auto c : columns) {
        names += fmt::format(",{}", c);
        match += fmt::format(" AND {}=?{}", c, ++at);
      }
      const std::string table = table_of(kind);
      p.insert.emplace(
          *db, fmt::format("INSERT INTO {} ({},seconds,spread) VALUES ({}) ON CONFLICT DO NOTHING", table,
                           names, placeholders(columns.size() + 3)));
      p.update.emplace(
          *db, fmt::format("UPDATE {} SET seconds=?{}, spread=?{} WHERE {}", table, at + 1, at + 2, match));
    }
    return p;
  }
};

Store::Store(const std::filesystem::path& path, Mode mode) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  if (mode == Mode::kBuiltin && !std::filesystem::exists(path))
    throw Error(path.string(),
                "the built-in hardware database is missing; build the target foretoken_database, or "
                "point FORETOKEN_DATA at the installed share/foretoken");
  // SQLite says "disk I/O error" of these.
  std::error_code ignored;
  if (const auto status = std::filesystem::status(path, ignored); std::filesystem::is_directory(status))
    throw Error(path.string(), "is a folder; name a file in it");
  else if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw Error(path.string(), "is not a database; name a file made by `foretoken hw import`");
  impl_->guarded([&] {
    switch (mode) {
      case Mode::kBuiltin:
        impl_->open(immutable_uri(path), SQLite::OPEN_READONLY | SQLite::OPEN_URI);
        impl_->check_owner();
        if (impl_->version() < kSchemaVersion)
          throw Error(path.string(),
                      fmt::format("schema version {}, this program needs {}: build the database again",
                                  impl_->version(), kSchemaVersion));
        break;
      case Mode::kRead:
        impl_->open_for_reading();
        break;
      case Mode::kWrite:
        impl_->open(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
        impl_->check_owner();
        impl_->db->exec("PRAGMA journal_mode = WAL");
        impl_->migrate();
        break;
      case Mode::kBuild:
        std::filesystem::remove(path);
        impl_->open(path.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
        impl_->db->exec("PRAGMA journal_mode = OFF");
        impl_->db->exec("PRAGMA synchronous = OFF");
        impl_->migrate();
        break;
    }
  });
}
Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

std::vector<Device> Store::devices() const {
  return impl_->guarded([&] {
    std::vector<Device> devices;
    SQLite::Statement q(*impl_->db,
                        fmt::format("SELECT {} FROM device ORDER BY name", device_column_names()));
    while (q.executeStep()) {
      Device d;
      int at = 0;
      d.name = q.getColumn(at++).getString();
      for (const auto& c : kDeviceTextColumns) d.*c.member = q.getColumn(at++).getString();
      for (const auto& c : kDeviceLinkColumns) d.*c.member = q.getColumn(at++).getString();
      for (const auto& c : kDeviceNumberColumns) c.set(d, q.getColumn(at++).getDouble());
      if (const auto price = q.getColumn(at); !price.isNull()) d.usd_per_hour = price.getDouble();
      devices.push_back(std::move(d));
    }
    return devices;
  });
}

void Store::put(const Device& d) {
  impl_->guarded([&] {
    const int columns = 2 + static_cast<int>(std::size(kDeviceTextColumns) + std::size(kDeviceLinkColumns) +
                                             kDeviceNumberColumns.size());
    SQLite::Statement q(*impl_->db,
                        fmt::format("INSERT OR REPLACE INTO device ({}) VALUES ({})", device_column_names(),
                                    placeholders(static_cast<std::size_t>(columns))));
    int at = 1;
    q.bind(at++, d.name);
    for (const auto& c : kDeviceTextColumns) q.bind(at++, d.*c.member);
    for (const auto& c : kDeviceLinkColumns) q.bind(at++, d.*c.member);
    for (const auto& c : kDeviceNumberColumns) q.bind(at++, c.get(d));
    if (d.usd_per_hour) q.bind(at, *d.usd_per_hour);
    q.exec();
  });
}

std::vector<Alias> Store::aliases() const {
  return impl_->guarded([&] {
    std::vector<Alias> all;
    SQLite::Statement q(*impl_->db, "SELECT alias,device,source FROM alias ORDER BY alias");
    while (q.executeStep())
      all.push_back({q.getColumn(0).getString(), q.getColumn(1).getString(), q.getColumn(2).getString()});
    return all;
  });
}

void Store::put(const Alias& a) {
  impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, "INSERT OR REPLACE INTO alias VALUES (?,?,?)");
    q.bind(1, a.alias), q.bind(2, a.device), q.bind(3, a.source);
    q.exec();
  });
}

std::vector<Link> Store::links() const {
  return impl_->guarded([&] {
    std::vector<Link> all;
    SQLite::Statement q(
        *impl_->db, "SELECT name,kind,bandwidth,latency,reduces_in_network,source FROM link ORDER BY name");
    while (q.executeStep()) {
      Link l;
      l.name = q.getColumn(0).getString();
      const std::string kind = q.getColumn(1).getString();
      l.kind = kind == "scaleup" ? Link::Kind::kScaleUp
               : kind == "pcie"  ? Link::Kind::kPcie
                                 : Link::Kind::kNetwork;
      l.bandwidth.value = q.getColumn(2).getDouble();
      l.latency.value = q.getColumn(3).getDouble();
      l.reduces_in_network = q.getColumn(4).getInt() != 0;
      l.source = q.getColumn(5).getString();
      all.push_back(std::move(l));
    }
    return all;
  });
}

void Store::put(const Link& l) {
  impl_->guarded([&] {
    SQLite::Statement q(*impl_->db,
                        "INSERT OR REPLACE INTO link (name,kind,bandwidth,latency,reduces_in_network,source) "
                        "VALUES (?,?,?,?,?,?)");
    q.bind(1, l.name);
    q.bind(2, l.kind == Link::Kind::kScaleUp ? "scaleup" : l.kind == Link::Kind::kPcie ? "pcie" : "network");
    q.bind(3, l.bandwidth.value), q.bind(4, l.latency.value), q.bind(5, l.reduces_in_network ? 1 : 0);
    q.bind(6, l.source);
    q.exec();
  });
}

std::vector<Residual> Store::residuals(const std::string& device) const {
  return impl_->guarded([&] {
    std::vector<Residual> all;
    SQLite::Statement q(
        *impl_->db,
        "SELECT kind,engine,kernel,dtype,kv_dtype,method,samples,median,p90 FROM residual WHERE device=? "
        "ORDER BY 1,2,3,4,5,6");
    q.bind(1, device);
    while (q.executeStep())
      all.push_back({device, q.getColumn(0).getString(), q.getColumn(1).getString(),
                     q.getColumn(2).getString(), q.getColumn(3).getString(), q.getColumn(4).getString(),
                     q.getColumn(5).getString(), q.getColumn(6).getInt64(), q.getColumn(7).getDouble(),
                     q.getColumn(8).getDouble()});
    return all;
  });
}

void Store::put(const Residual& r) {
  impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, "INSERT OR REPLACE INTO residual VALUES (?,?,?,?,?,?,?,?,?,?)");
    q.bind(1, r.device), q.bind(2, r.kind), q.bind(3, r.engine), q.bind(4, r.kernel), q.bind(5, r.dtype);
    q.bind(6, r.kv_dtype), q.bind(7, r.method), q.bind(8, r.samples), q.bind(9, r.median), q.bind(10, r.p90);
    q.exec();
  });
}

namespace {
constexpr const char* kTermColumns =
    "device,engine,term,value,model,tensor_parallel,runs,error_before,error_after,error_left_out,date,source";
}

std::vector<EngineTerm> Store::engine_terms() const {
  return impl_->guarded([&] {
    std::vector<EngineTerm> all;
    SQLite::Statement q(*impl_->db, fmt::format("SELECT {} FROM engine_term ORDER BY 1,2,3", kTermColumns));
    while (q.executeStep())
      all.push_back({q.getColumn(0).getString(), q.getColumn(1).getString(), q.getColumn(2).getString(),
                     q.getColumn(3).getDouble(), q.getColumn(4).getString(), q.getColumn(5).getInt64(),
                     q.getColumn(6).getInt64(), q.getColumn(7).getDouble(), q.getColumn(8).getDouble(),
                     q.getColumn(9).getDouble(), q.getColumn(10).getString(), q.getColumn(11).getString()});
    return all;
  });
}

void Store::put(const EngineTerm& t) {
  impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, fmt::format("INSERT OR REPLACE INTO engine_term ({}) VALUES ({})",
                                                kTermColumns, placeholders(12)));
    q.bind(1, t.device), q.bind(2, t.engine), q.bind(3, t.term), q.bind(4, t.value), q.bind(5, t.model);
    q.bind(6, t.tensor_parallel), q.bind(7, t.runs), q.bind(8, t.error_before), q.bind(9, t.error_after);
    q.bind(10, t.error_left_out), q.bind(11, t.date), q.bind(12, t.source);
    q.exec();
  });
}

std::int64_t Store::remove_engine_terms(const std::string& device, const std::string& engine) {
  return impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, "DELETE FROM engine_term WHERE device=?1 AND (?2='' OR engine=?2)");
    q.bind(1, device), q.bind(2, engine);
    return static_cast<std::int64_t>(q.exec());
  });
}

std::vector<std::pair<std::int64_t, MeasurementSeries>> Store::series(const std::string& device) const {
  return impl_->guarded([&] {
    std::vector<std::pair<std::int64_t, MeasurementSeries>> all;
    SQLite::Statement q(
        *impl_->db,
        fmt::format("SELECT id,{} FROM series WHERE ?1='' OR device=?1 ORDER BY id", kSeriesColumns));
    q.bind(1, device);
    while (q.executeStep()) all.emplace_back(q.getColumn(0).getInt64(), impl_->read_series(q));
    return all;
  });
}

void Store::for_each_point(std::int64_t series, MeasuredKind kind,
                           const std::function<void(const MeasuredPoint&)>& visit) const {
  // Read first and handed out after, so that others can read while the caller works.
  std::vector<MeasuredPoint> points;
  impl_->guarded([&] {
    std::string names;
    const auto columns = shape_columns(kind);
    for (const auto c : columns) names += fmt::format("{},", c);
    // SQLite's own interface: the wrapper's column objects cost more than the rows, 100,000 of them at a
    // start.
    const std::string sql =
        fmt::format("SELECT {}seconds,spread FROM {} WHERE series={}", names, table_of(kind), series);
    sqlite3_stmt* raw = nullptr;
    const int prepared = sqlite3_prepare_v2(impl_->db->getHandle(), sql.c_str(), -1, &raw, nullptr);
    const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement(raw, sqlite3_finalize);
    if (prepared != SQLITE_OK) throw SQLite::Exception(impl_->db->getHandle(), prepared);
    const int n = static_cast<int>(columns.size());
    MeasuredPoint p;
    int step;
    while ((step = sqlite3_step(raw)) == SQLITE_ROW) {
      for (int i = 0; i < n; ++i) p.shape[static_cast<std::size_t>(i)] = sqlite3_column_int64(raw, i);
      p.seconds = sqlite3_column_double(raw, n);
      p.spread = sqlite3_column_double(raw, n + 1);
      points.push_back(p);
    }
    if (step != SQLITE_DONE) throw SQLite::Exception(impl_->db->getHandle(), step);
  });
  for (const MeasuredPoint& p : points) visit(p);
}

std::int64_t Store::count_points(std::int64_t series, MeasuredKind kind) const {
  return impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, fmt::format("SELECT count(*) FROM {} WHERE series=?", table_of(kind)));
    q.bind(1, series);
    q.executeStep();
    return static_cast<std::int64_t>(q.getColumn(0).getInt64());
  });
}

std::string Store::meta(const std::string& key) const {
  return impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, "SELECT value FROM meta WHERE key=?");
    q.bind(1, key);
    return q.executeStep() ? q.getColumn(0).getString() : std::string();
  });
}

void Store::put_meta(const std::string& key, const std::string& value) {
  impl_->guarded([&] {
    SQLite::Statement q(*impl_->db, "INSERT OR REPLACE INTO meta VALUES (?,?)");
    q.bind(1, key), q.bind(2, value);
    q.exec();
  });
}

void Store::transaction(const std::function<void()>& write) {
  impl_->guarded([&] {
    SQLite::Transaction transaction(*impl_->db, SQLite::TransactionBehavior::IMMEDIATE);
    try {
      write();
    } catch (...) {
      impl_->series_loaded = false;  // ids made here are rolled back with the rows
      impl_->series_ids.clear();
      for (auto& p : impl_->points)
        p.insert.reset(), p.update.reset();  // a failed statement can't be used again
      throw;
    }
    transaction.commit();
  });
}

bool Store::put(const Measurement& row) {
  return impl_->guarded([&] {
    const std::int64_t series = impl_->series_id(row.series);
    auto& [insert, update] = impl_->statements(row.series.kind);
    const std::size_t n = shape_columns(row.series.kind).size();
    const auto run = [&](SQLite::Statement& q) {
      int at = 1;
      q.bind(at++, series);
      for (std::size_t i = 0; i < n; ++i) q.bind(at++, row.point.shape[i]);
      q.bind(at++, row.point.seconds), q.bind(at, row.point.spread);
      const int changed = q.exec();
      q.reset();
      return changed > 0;
    };
    if (run(*insert)) return true;
    run(*update);
    return false;
  });
}

void Store::finish_write() {
  impl_->guarded([&] {
    for (auto& p : impl_->points) p.insert.reset(), p.update.reset();
    impl_->db->exec("PRAGMA wal_checkpoint(TRUNCATE)");
    try {
      impl_->db->exec("PRAGMA journal_mode = DELETE");
    } catch (const SQLite::Exception& e) {
      if ((e.getErrorCode() & 0xff) != SQLITE_BUSY) throw;  // another process reads: the log stays for it
    }
  });
}

void Store::finish_build() {
  impl_->guarded([&] {
    for (auto& p : impl_->points) p.insert.reset(), p.update.reset();
    impl_->db->exec("ANALYZE");
    impl_->db->exec("VACUUM");
  });
}

}  // namespace foretoken
