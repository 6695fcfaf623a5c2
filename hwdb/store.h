// One SQLite file of the hardware database: opening with clear errors, migration, and rows in and out.
// Database layers two of these.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hwdb/device.h"
#include "hwdb/engine_term.h"
#include "hwdb/measurement.h"

namespace foretoken {

inline constexpr int kSchemaVersion = 5;

struct Alias {
  std::string alias, device, source;
};

struct Residual {
  std::string device, kind, engine, kernel, dtype, kv_dtype, method;  // engine "": over all of them
  std::int64_t samples = 0;
  double median = 0, p90 = 0;
};

// Any number of threads may read.
class Store {
 public:
  // kBuiltin: read-only and immutable, works from a read-only file system and for many processes at once.
  // kRead: a user's file; one of an older schema is migrated. kWrite: created when absent. kBuild: new file.
  enum class Mode { kBuiltin, kRead, kWrite, kBuild };
  Store(const std::filesystem::path& path, Mode mode);
  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  std::vector<Device> devices() const;
  std::vector<Alias> aliases() const;
  std::vector<Link> links() const;
  std::vector<Residual> residuals(const std::string& device) const;
  std::vector<EngineTerm> engine_terms() const;  // by device, engine and term
  std::vector<std::pair<std::int64_t, MeasurementSeries>> series(const std::string& device) const;  // "": all
  void for_each_point(std::int64_t series, MeasuredKind kind,
                      const std::function<void(const MeasuredPoint&)>& visit) const;
  std::int64_t count_points(std::int64_t series, MeasuredKind kind) const;
  std::string meta(const std::string& key) const;  // "" when absent

  // All that `write` does, or nothing.
  void transaction(const std::function<void()>& write);
  void put(const Device& device);
  void put(const Link& link);
  void put(const Alias& alias);
  void put(const Residual& residual);
  void put(const EngineTerm& term);
  // Of a device and, unless it is empty, one engine; how many there were.
  std::int64_t remove_engine_terms(const std::string& device, const std::string& engine);
  void put_meta(const std::string& key, const std::string& value);
  // False where the series had a row at this point, which the new one replaces.
  bool put(const Measurement& row);
  // Empties the write-ahead log and gives it up, so that the file is whole by itself.
  void finish_write();
  void finish_build();  // statistics, vacuum, journal off

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// SQL of each schema version, in order: version n is made by the first n scripts.
const std::vector<std::string>& schema_scripts();

}  // namespace foretoken
