// Makes hwdb/data/measured from published tables: reads them as `hw import` does, keeps the engines asked
// for, drops what can't be true, thins what interpolation gives back, and writes our own form. See
// docs/hardware-data.md.
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "hwdb/database.h"
#include "hwdb/device_file.h"
#include "hwdb/filter.h"

namespace {

using namespace foretoken;

struct Options {
  std::filesystem::path database, output;
  std::vector<std::string> engines;  // in order: a later one only where no earlier one has the type
  std::string source;
  std::string distributions;
  double tolerance = 0;
  bool all_engines = false;  // every engine listed, not only the first that has the type
  std::vector<std::filesystem::path> files;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw Error(a, "needs a value");
      return argv[++i];
    };
    if (a == "--db")
      o.database = value();
    else if (a == "--out")
      o.output = value();
    else if (a == "--engines")
      o.engines = split(value(), ',');
    else if (a == "--source")
      o.source = value();
    else if (a == "--distributions")
      o.distributions = value();
    else if (a == "--tolerance")
      o.tolerance = std::atof(value().c_str());
    else if (a == "--all-engines")
      o.all_engines = true;
    else
      o.files.emplace_back(a);
  }
  return o;
}

std::string family_of(const std::string& engine) { return engine.substr(0, engine.find(' ')); }

void write_gzip(const std::filesystem::path& path, const std::string& text) {
  gzFile file =
      gzopen(path.c_str(), "wb9");  // no name and no time in the header: the same rows give the same bytes
  if (!file) throw Error(path.string(), "can't be written");
  const bool ok =
      gzwrite(file, text.data(), static_cast<unsigned>(text.size())) == static_cast<int>(text.size());
  if (gzclose(file) != Z_OK || !ok) throw Error(path.string(), "writing failed");
}

void run(const Options& o) {
  const Database db = Database::open(o.database);
  std::map<std::string, Device> devices;
  std::map<std::string, Topology> topologies;
  std::map<MeasurementSeries, std::vector<MeasuredPoint>> series;
  ImportReport report;
  MeasurementReader reader;
  reader.device_name = [&](const std::string& name) -> std::string {
    const Device d = db.device(name);
    devices[d.name] = d;
    topologies[d.name] = db.topology(d, d.scaleup_domain);
    return d.name;
  };
  reader.row = [&](const Measurement& row) {
    const std::string family = family_of(row.series.engine);
    const bool library = family == "nccl";
    if (!library && std::find(o.engines.begin(), o.engines.end(), family) == o.engines.end())
      return report.drop("engine not asked for");
    if (!op_of(row.series, row.point)) return report.drop("no such operator");
    if (untuned(row)) return report.drop("untuned kernel");
    const auto wanted = split(o.distributions, ',');
    if (!row.series.distribution.empty() &&
        std::find(wanted.begin(), wanted.end(), row.series.distribution) == wanted.end())
      return report.drop("load distribution not asked for");
    if (const auto reason = implausible(row, devices.at(row.series.device), topologies.at(row.series.device));
        !reason.empty())
      return report.drop(reason);
    MeasurementSeries s = row.series;
    if (!o.source.empty()) s.source = o.source;
    series[s].push_back(row.point);
  };
  for (const auto& file : o.files) read_measurements(file, "", reader, report);

  // Newest version of an engine for each type; of the engines the first that has the type.
  const auto type_of = [](const MeasurementSeries& s) {
    return std::tuple(s.device, s.kind, s.dtype, s.kv_dtype, s.distribution);
  };
  using Type = decltype(type_of(MeasurementSeries()));
  const auto preference = [&](const MeasurementSeries& s) {
    const auto at = std::find(o.engines.begin(), o.engines.end(), family_of(s.engine)) - o.engines.begin();
    return static_cast<int>(at);
  };
  std::map<std::pair<Type, std::string>, std::string> newest;
  std::map<Type, int> first;
  const auto newer = [](const std::string& a, const std::string& b) {
    // "1.3.0rc20" -> 1 3 0 20: every run of digits is a part.
    const auto parts = [](const std::string& v) {
      std::vector<long> n;
      bool inside = false;
      for (const char c : v.substr(v.find(' ') + 1)) {
        const bool digit = c >= '0' && c <= '9';
        if (digit && !inside) n.push_back(0);
        if (digit) n.back() = n.back() * 10 + (c - '0');
        inside = digit;
      }
      return n;
    };
    return parts(a) > parts(b);
  };
  for (const auto& [s, points] : series) {
    auto& best = newest[{type_of(s), family_of(s.engine)}];
    if (best.empty() || newer(s.engine, best)) best = s.engine;
    if (family_of(s.engine) == "nccl") continue;
    const auto [at, added] = first.try_emplace(type_of(s), preference(s));
    if (!added) at->second = std::min(at->second, preference(s));
  }
  std::map<std::pair<std::string, std::string>, std::string> texts;  // device, kind -> file
  std::int64_t kept = 0, thinned = 0;
  for (auto& [s, points] : series) {
    const std::string family = family_of(s.engine);
    const auto rows = static_cast<std::int64_t>(points.size());
    if (newest.at({type_of(s), family}) != s.engine) {
      report.drop("older version of the engine", rows);
      continue;
    }
    if (!o.all_engines && family != "nccl" && preference(s) != first.at(type_of(s))) {
      report.drop("another engine comes first", rows);
      continue;
    }
    thin(s, points, devices.at(s.device), topologies.at(s.device), o.tolerance);
    const auto columns = shape_columns(s.kind);
    const bool collective = s.kind >= MeasuredKind::kAllReduce && s.kind <= MeasuredKind::kSendRecv;
    auto& text = texts[{s.device, collective ? "collective" : std::string(name_of(s.kind))}];
    if (text.empty()) text = measurement_csv_header(columns);
    for (const MeasuredPoint& p : points) text += measurement_csv_row({s, p}, columns);
    kept += static_cast<std::int64_t>(points.size());
    thinned += rows - static_cast<std::int64_t>(points.size());
  }
  for (const auto& [key, text] : texts)
    write_gzip(o.output / (device_key(key.first) + "." + key.second + ".csv.gz"), text);
  std::printf("read %lld, kept %lld, thinned %lld\n", static_cast<long long>(report.read),
              static_cast<long long>(kept), static_cast<long long>(thinned));
  for (const auto& [reason, n] : report.dropped)
    std::printf("  dropped %lld: %s\n", static_cast<long long>(n), reason.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return 0;
}
