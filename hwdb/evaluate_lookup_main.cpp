// Scores the lookup on shapes that it is not shown: k-fold hold-out of whole shapes over published tables, by
// device, engine and type. See docs/hardware-data.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/quantiles.h"
#include "base/text.h"
#include "hwdb/database.h"
#include "hwdb/filter.h"
#include "hwdb/kernel_index.h"

namespace {

using namespace foretoken;

struct Options {
  std::filesystem::path database;
  std::string engine;  // only this one
  std::string dump;    // every held-out row as CSV
  int folds = 10, run = 10;
  bool transfer = false;
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
    else if (a == "--engine")
      o.engine = value();
    else if (a == "--dump")
      o.dump = value();
    else if (a == "--folds")
      o.folds = std::atoi(value().c_str());
    else if (a == "--run")
      o.run = std::atoi(value().c_str());
    else if (a == "--transfer")
      o.transfer = true;
    else
      o.files.emplace_back(a);
  }
  return o;
}

bool is_collective(MeasuredKind k) { return k >= MeasuredKind::kAllReduce && k <= MeasuredKind::kSendRecv; }

// What is left out together: all rows of a shape, whatever its m, tokens or batch; a cell of a collective.
std::uint64_t unit_of(MeasuredKind kind, const MeasuredPoint& p) {
  const auto& s = p.shape;
  std::vector<std::int64_t> key;
  switch (kind) {
    case MeasuredKind::kGemm:
      key = {s[0], s[1]};
      break;
    case MeasuredKind::kPrefillAttention:
    case MeasuredKind::kDecodeAttention:
      key = {s[0], s[1], s[2]};
      break;
    case MeasuredKind::kMlaPrefill:
    case MeasuredKind::kMlaDecode:
      key = {s[0]};
      break;
    case MeasuredKind::kMoe:  // every shard of a layer with it
      key = {s[0], s[2], s[3]};
      break;
    default:
      key = {s[0], s[2]};
  }
  std::string text = "unit";
  for (const std::int64_t v : key) text += "/" + std::to_string(v);
  std::uint64_t h = hash_bytes(text);
  h ^= h >> 33, h *= 0xff51afd7ed558ccdULL, h ^= h >> 33;
  return h;
}

struct Score {
  std::vector<double> errors;
  std::int64_t inside = 0, missing = 0;

  void add(double truth, const std::optional<OperatorTime>& t) {
    if (!t) {
      ++missing;
      return;
    }
    const double e = t->time.value / truth - 1;
    errors.push_back(std::abs(e));
    inside += std::abs(truth / t->time.value - 1) <= t->relative_error;
  }
  void add(const Score& s) {
    errors.insert(errors.end(), s.errors.begin(), s.errors.end());
    inside += s.inside, missing += s.missing;
  }
  void print(const std::string& name) {
    if (errors.empty()) return;
    std::sort(errors.begin(), errors.end());
    double sum = 0;
    for (const double e : errors) sum += e;
    const auto n = static_cast<double>(errors.size());
    std::printf("%-64s %6.2f %6.2f %7.2f %6.1f %8zu %6lld\n", name.c_str(),
                100 * linear_quantile(errors, 0.5), 100 * linear_quantile(errors, 0.9), 100 * sum / n,
                100 * static_cast<double>(inside) / n, errors.size(), static_cast<long long>(missing));
    std::fflush(stdout);
  }
};

using Group = std::tuple<std::string, std::string, MeasuredKind, std::string, std::string>;
struct Rows {
  std::vector<std::pair<MeasurementSeries, std::vector<MeasuredPoint>>> series;
};

std::unique_ptr<KernelTable::Index> build(const Rows& rows, const Device& device, const Topology& topology,
                                          int left_out, int folds) {
  auto index = std::make_unique<KernelTable::Index>();
  index->device = device, index->topology = topology;
  for (const auto& [s, points] : rows.series)
    index->add(s, true, false, [&, &all = points](const KernelTable::Index::PointVisitor& visit) {
      for (const MeasuredPoint& p : all)
        if (static_cast<int>(unit_of(s.kind, p) % static_cast<unsigned>(folds)) != left_out) visit(p);
    });
  index->finish();
  index->learn(index->residuals());
  return index;
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
    if (!o.engine.empty() && !row.series.engine.starts_with(o.engine)) return;
    if (!op_of(row.series, row.point)) return;
    if (row.series.distribution == "power_law_1.01" || untuned(row)) return;
    if (!implausible(row, devices.at(row.series.device), topologies.at(row.series.device)).empty()) return;
    series[row.series].push_back(row.point);
  };
  for (const auto& file : o.files) read_measurements(file, "", reader, report);
  // An engine runs the fastest of its kernels: of several rows at one point that one is the truth.
  std::map<std::pair<MeasurementSeries, decltype(MeasuredPoint::shape)>, double> fastest;
  const auto point_of = [](MeasurementSeries s, const MeasuredPoint& p) {
    s.kernel.clear();
    return std::pair(std::move(s), p.shape);
  };
  for (const auto& [s, points] : series)
    if (s.kind == MeasuredKind::kMoe)
      for (const MeasuredPoint& p : points) {
        double& least = fastest.try_emplace(point_of(s, p), p.seconds).first->second;
        least = std::min(least, p.seconds);
      }
  for (auto& [s, points] : series)
    if (s.kind == MeasuredKind::kMoe)
      std::erase_if(points, [&](const MeasuredPoint& p) { return p.seconds > fastest.at(point_of(s, p)); });
  std::map<Group, Rows> groups;
  for (auto& [s, points] : series)
    groups[{s.device, s.engine, s.kind, s.dtype, s.kv_dtype}].series.emplace_back(s, std::move(points));
  std::FILE* dump = o.dump.empty() ? nullptr : std::fopen(o.dump.c_str(), "w");
  std::printf("%-64s %6s %6s %7s %6s %8s %6s\n", "held out", "median", "p90", "mean", "inside", "rows",
              "none");
  std::map<std::string, Score> pooled;
  for (const auto& [group, rows] : groups) {
    const auto& [device, engine, kind, dtype, kv] = group;
    Score score;
    if (o.transfer) {
      if (kind != MeasuredKind::kGemm || dtype != "bfloat16") continue;
      KernelTable::Index index;
      index.device = devices.at(device), index.topology = topologies.at(device);
      const std::string family = engine.substr(0, engine.find(' '));
      bool own = false;
      for (const auto& [name, d] : devices)
        own = own || (name != device && d.architecture == index.device.architecture);
      for (const auto& [other, donated] : groups) {
        const auto& [name, other_engine, other_kind, other_dtype, other_kv] = other;
        if (name == device || other_kind != kind || other_dtype != dtype ||
            !other_engine.starts_with(family + " ") || devices.at(name).vendor != index.device.vendor ||
            (own && devices.at(name).architecture != index.device.architecture))
          continue;
        index.borrow(*build(donated, devices.at(name), topologies.at(name), -1, o.folds));
      }
      for (const auto& [s, points] : rows.series)
        for (const MeasuredPoint& p : points) score.add(p.seconds, index.find(*op_of(s, p)));
      score.print("transferred " + device + " " + engine + " " + dtype);
      continue;
    }
    for (int fold = 0; fold < std::min(o.run, o.folds); ++fold) {
      const auto index = build(rows, devices.at(device), topologies.at(device), fold, o.folds);
      for (const auto& [s, points] : rows.series)
        for (const MeasuredPoint& p : points) {
          if (static_cast<int>(unit_of(kind, p) % static_cast<unsigned>(o.folds)) != fold) continue;
          const auto op = op_of(s, p);
          const auto t = index->find(*op);
          score.add(p.seconds, t);
          if (dump) {
            std::fprintf(dump, "%s,%s,%s,%s", device.c_str(), engine.c_str(), dtype.c_str(), kv.c_str());
            for (const std::int64_t v : p.shape) std::fprintf(dump, ",%lld", static_cast<long long>(v));
            std::fprintf(dump, ",%g,%g,%g,%g\n", p.seconds, t ? t->time.value : 0, t ? t->relative_error : 0,
                         speed_of_light(*op, devices.at(device), topologies.at(device)).value);
          }
        }
    }
    pooled[std::string(name_of(kind)) + " " + device].add(score);
    pooled[std::string(name_of(kind)) +
           (is_collective(kind) ? " " + engine.substr(0, engine.find(' ')) : "") + " all devices"]
        .add(score);
    score.print(std::string(name_of(kind)) + " " + device + " " + engine + " " + dtype +
                (kv.empty() ? "" : " kv " + kv));
  }
  for (auto& [name, score] : pooled) score.print("= " + name);
  if (dump) std::fclose(dump);
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
