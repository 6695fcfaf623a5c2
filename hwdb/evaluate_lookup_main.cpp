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
  int folds = 10, first = 0, last = 9;
  bool transfer = false, beside = false;
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
    else if (a == "--only") {  // folds, e.g. 0-4
      const auto parts = split(value(), '-');
      o.first = std::atoi(parts.front().c_str()), o.last = std::atoi(parts.back().c_str());
    } else if (a == "--beside")  // other engines' rows of what is held out stay
      o.beside = true;
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
    case MeasuredKind::kRecurrencePrefill:
    case MeasuredKind::kRecurrenceDecode:
    case MeasuredKind::kConvolutionPrefill:
    case MeasuredKind::kConvolutionDecode:
    case MeasuredKind::kElementwise:
      key = {s[0], s[1]};
      break;
    case MeasuredKind::kExpertExchange:
      key = {s[0], s[2], s[5]};
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

MoeTable::Key moe_key(const MeasurementSeries& s, const MeasuredPoint& p) {
  const auto& v = p.shape;
  const std::int64_t load = s.distribution == "power_law_1.2" ? 2 : s.distribution == "balanced" ? 0 : 1;
  return {v[0], v[1], v[2], v[3], v[4], v[5], load};
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

// device, engine, kind, dtype, KV cache's dtype, kernel (MoE)
using Group = std::tuple<std::string, std::string, MeasuredKind, std::string, std::string, std::string>;
struct Rows {
  std::vector<std::pair<MeasurementSeries, std::vector<MeasuredPoint>>> series;
};
using Groups = std::map<Group, Rows>;

std::unique_ptr<KernelTable::Index> build(const Groups& groups, const Group& of, const Device& device,
                                          const Topology& topology, int left_out, const Options& o) {
  auto index = std::make_unique<KernelTable::Index>();
  index->device = device, index->topology = topology;
  const auto add = [&](const Rows& rows, bool own) {
    for (const auto& [s, points] : rows.series)
      index->add(s, own, false, [&, &all = points](const KernelTable::Index::PointVisitor& visit) {
        for (const MeasuredPoint& p : all)
          if (!own || static_cast<int>(unit_of(s.kind, p) % static_cast<unsigned>(o.folds)) != left_out)
            visit(p);
      });
  };
  add(groups.at(of), true);
  const auto& [name, engine, kind, dtype, kv, kernel] = of;
  if (kind == MeasuredKind::kExpertExchange)
    index->requested = lower(engine);  // answers only whom it is asked for
  if (o.beside)
    for (const auto& [g, rows] : groups)
      if (std::get<0>(g) == name && std::get<1>(g) != engine && std::get<2>(g) == kind &&
          std::get<3>(g) == dtype && std::get<4>(g) == kv)
        add(rows, false);
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
    if (!implausible(row, devices.at(row.series.device), topologies.at(row.series.device)).empty()) return;
    series[row.series].push_back(row.point);
  };
  for (const auto& file : o.files) read_measurements(file, "", reader, report);
  Groups groups;
  for (auto& [s, points] : series)
    groups[{s.device, s.engine, s.kind, s.dtype, s.kv_dtype, is_collective(s.kind) ? "" : s.kernel}]
        .series.emplace_back(s, std::move(points));
  // Shards that nobody tuned a kernel for are no truth to predict.
  std::int64_t dropped = 0;
  for (auto& [group, rows] : groups) {
    if (std::get<2>(group) != MeasuredKind::kMoe) continue;
    MoeTable table;
    for (const auto& [s, points] : rows.series)
      for (const MeasuredPoint& p : points) table.add(moe_key(s, p), p.shape[6], p.seconds, 0, p.seconds);
    table.finish();
    for (auto& [s, points] : rows.series)
      dropped += static_cast<std::int64_t>(std::erase_if(points, [&, &of = s](const MeasuredPoint& p) {
        return table.shapes()[static_cast<std::size_t>(table.find_exact(moe_key(of, p)))].untuned;
      }));
  }
  if (dropped > 0) std::printf("%lld rows of untuned kernels left out\n", static_cast<long long>(dropped));
  std::FILE* dump = o.dump.empty() ? nullptr : std::fopen(o.dump.c_str(), "w");
  std::printf("%-64s %6s %6s %7s %6s %8s %6s\n", "held out", "median", "p90", "mean", "inside", "rows",
              "none");
  std::map<std::string, Score> pooled;
  int large = 0, within = 0;
  for (const auto& [group, rows] : groups) {
    const auto& [device, engine, kind, dtype, kv, kernel] = group;
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
        const auto& [name, other_engine, other_kind, other_dtype, other_kv, other_kernel] = other;
        if (name == device || other_kind != kind || other_dtype != dtype ||
            !other_engine.starts_with(family + " ") || devices.at(name).vendor != index.device.vendor ||
            (own && devices.at(name).architecture != index.device.architecture))
          continue;
        index.borrow(*build(groups, other, devices.at(name), topologies.at(name), -1, o));
      }
      for (const auto& [s, points] : rows.series)
        for (const MeasuredPoint& p : points) score.add(p.seconds, index.find(*op_of(s, p)));
      score.print("transferred " + device + " " + engine + " " + dtype);
      continue;
    }
    for (int fold = o.first; fold <= std::min(o.last, o.folds - 1); ++fold) {
      const auto index = build(groups, group, devices.at(device), topologies.at(device), fold, o);
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
    if (score.errors.size() >= 200) {
      ++large;
      const double inside = static_cast<double>(score.inside) / static_cast<double>(score.errors.size());
      within += inside >= 0.85 && inside <= 0.95;
    }
    score.print(std::string(name_of(kind)) + " " + device + " " + engine + " " + dtype +
                (kv.empty() ? "" : " kv " + kv) + (kernel.empty() ? "" : " " + kernel));
  }
  for (auto& [name, score] : pooled) score.print("= " + name);
  std::printf("%d of %d groups of 200 rows or more hold 85 to 95 %% inside the interval\n", within, large);
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
