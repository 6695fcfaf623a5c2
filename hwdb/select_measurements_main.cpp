// Makes hwdb/data/measured from published tables: reads them as `hw import` does, drops what can't be true,
// averages repeats, sets shapes for validation aside, thins what interpolation gives back, and writes our own
// form. See docs/hardware-data.md.
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
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
  std::filesystem::path database, output, aside;  // aside: a folder for the rows that are held out
  std::string source, name;                       // of the files; "": the kind
  double tolerance = 0;
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
    else if (a == "--aside")
      o.aside = value();
    else if (a == "--name")
      o.name = value();
    else if (a == "--source")
      o.source = value();
    else if (a == "--tolerance")
      o.tolerance = std::atof(value().c_str());
    else
      o.files.emplace_back(a);
  }
  return o;
}

// One shape in so many is left out of the database, with all its rows of all engines, types and devices, so
// that the program can be validated with what it was never shown.
constexpr std::uint64_t kOneIn = 40;

bool held_out(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto& v = p.shape;
  std::vector<std::int64_t> key;
  switch (s.kind) {
    case MeasuredKind::kGemm:
      key = {v[0], v[1]};
      break;
    case MeasuredKind::kPrefillAttention:
    case MeasuredKind::kDecodeAttention:
      key = {v[0], v[1], v[2]};
      break;
    case MeasuredKind::kMlaPrefill:
    case MeasuredKind::kMlaDecode:  // there are only eight head counts
      key = {v[0], v[2]};
      break;
    case MeasuredKind::kMoe:  // a shard; there are few layers
      key = {v[0], v[1], v[2], v[3], v[4]};
      break;
    default:
      key = {v[0], v[2]};
  }
  std::string text =
      "aside at " + std::string(name_of(s.kind));  // a word that leaves the most usual shapes in
  for (const std::int64_t k : key) text += "/" + std::to_string(k);
  return hash_bytes(text) % kOneIn == 0;
}

// Rows of one series at one point are repeats: their geometric mean, and how far they spread.
void merge_repeats(std::vector<MeasuredPoint>& points, ImportReport& report) {
  std::stable_sort(points.begin(), points.end(),
                   [](const auto& a, const auto& b) { return a.shape < b.shape; });
  std::vector<MeasuredPoint> merged;
  for (std::size_t i = 0; i < points.size();) {
    std::size_t end = i;
    double sum = 0, squares = 0;
    for (; end < points.size() && points[end].shape == points[i].shape; ++end) {
      const double log_time = std::log(points[end].seconds);
      sum += log_time, squares += log_time * log_time;
    }
    MeasuredPoint p = points[i];
    if (const auto n = static_cast<double>(end - i); n > 1) {
      report.drop("repeat of another row, averaged", static_cast<std::int64_t>(end - i) - 1);
      p.seconds = std::exp(sum / n);
      p.spread = std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
      // Four digits are more than two repeats tell.
      p.seconds = std::stod(fmt::format("{:.5g}", p.seconds)),
      p.spread = std::stod(fmt::format("{:.2g}", p.spread));
    }
    merged.push_back(p);
    i = end;
  }
  points = std::move(merged);
}

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
    if (!op_of(row.series, row.point)) return report.drop("no such operator");
    if (const auto reason = implausible(row, devices.at(row.series.device), topologies.at(row.series.device));
        !reason.empty())
      return report.drop(reason);
    MeasurementSeries s = row.series;
    if (!o.source.empty()) s.source = o.source;
    series[s].push_back(row.point);
  };
  for (const auto& file : o.files) read_measurements(file, "", reader, report);

  std::map<std::pair<std::string, std::string>, std::string> texts, aside;  // device, kind -> file
  std::int64_t kept = 0, thinned = 0;
  for (auto& [s, points] : series) {
    if (const auto reason = host_bound(s, points, devices.at(s.device), topologies.at(s.device));
        !reason.empty()) {
      report.drop(reason, static_cast<std::int64_t>(points.size()));
      continue;
    }
    merge_repeats(points, report);
    const auto columns = shape_columns(s.kind);
    const bool collective = s.kind >= MeasuredKind::kAllReduce && s.kind <= MeasuredKind::kSendRecv;
    const std::pair key{s.device, !o.name.empty() ? o.name
                                  : collective    ? "collective"
                                                  : std::string(name_of(s.kind))};
    const auto write = [&](auto& files, const MeasuredPoint& p) {
      auto& text = files[key];
      if (text.empty()) text = measurement_csv_header(columns);
      text += measurement_csv_row({s, p}, columns);
    };
    const auto kept_end = std::stable_partition(points.begin(), points.end(),
                                                [&](const MeasuredPoint& p) { return !held_out(s, p); });
    for (auto p = kept_end; p != points.end(); ++p) write(aside, *p);
    report.drop("held out for validation", points.end() - kept_end);
    points.erase(kept_end, points.end());
    const auto rows = static_cast<std::int64_t>(points.size());
    if (points.empty()) continue;
    thin(s, points, devices.at(s.device), topologies.at(s.device), o.tolerance);
    for (const MeasuredPoint& p : points) write(texts, p);
    kept += static_cast<std::int64_t>(points.size());
    thinned += rows - static_cast<std::int64_t>(points.size());
  }
  for (const auto& [key, text] : texts)
    write_gzip(o.output / (device_key(key.first) + "." + key.second + ".csv.gz"), text);
  if (!o.aside.empty())
    for (const auto& [key, text] : aside)
      write_gzip(o.aside / (device_key(key.first) + "." + key.second + ".csv.gz"), text);
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
