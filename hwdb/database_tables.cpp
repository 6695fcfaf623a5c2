// Tables of the hardware database for people: `hw list` and `hw show`.
#include <fmt/format.h>

#include <map>
#include <set>

#include "hwdb/database.h"
#include "hwdb/database_layers.h"

namespace foretoken {
namespace {

Cell known(double value) { return value > 0 ? Cell(value) : Cell(); }

struct Facts {
  Table& table;
  void add(const std::string& fact, const std::string& value, const std::string& source = "") {
    table.add({fact, value, source});
  }
  template <int B, int S, int F>
  void quantity(const std::string& fact, Quantity<B, S, F> q, const std::string& source = "") {
    if (q.value > 0) add(fact, to_text(q), source);
  }
};

}  // namespace

Table Database::list_devices() const {
  Table t;
  t.title = "Devices";
  t.columns = {{"name", "Device"},
               {"memory_gib", "Memory (GiB)", 4},
               {"memory_bandwidth_tbs", "Memory (TB/s)", 3},
               {"fp16_tflops", "BF16 (TFLOP/s)", 4},
               {"fp8_tflops", "FP8 (TFLOP/s)", 4},
               {"scaleup_gbs", "Link (GB/s)", 4},
               {"scaleup_domain", "Domain", 4},
               {"usd_per_hour", "$/h", 3},
               {"measured_rows", "Measured rows", 7}};
  std::map<std::string, std::int64_t> rows;
  const ReplacedPoints replaced = impl_->replaced("");
  for (const auto& s : impl_->series("")) rows[s.series.device] += impl_->count_points(s, replaced);
  for (const auto& [name, d] : impl_->by_name) {
    const auto measured = rows.find(name);
    t.add({name, known(d.memory.value / kGiB), known(d.memory_bandwidth.value / 1e12),
           known(d.fp16_peak.value / 1e12), known(d.fp8_peak.value / 1e12),
           known(d.scaleup_bandwidth.value / 1e9), static_cast<std::int64_t>(d.scaleup_domain),
           d.usd_per_hour ? Cell(*d.usd_per_hour) : Cell(),
           measured == rows.end() ? Cell() : Cell(measured->second)});
  }
  t.notes = {"Peaks are dense, with 32-bit accumulation; link bandwidth is one direction of one device.",
             "`foretoken hw show DEVICE` gives the sources."};
  return t;
}

Table Database::describe(const Device& d) const {
  Table t;
  t.title = d.name;
  t.columns = {{"fact", "Fact"}, {"value", "Value", 4, true}, {"source", "Source", 4, true}};
  Facts f{t};
  f.add("vendor, architecture", fmt::format("{} {} {}", d.vendor, d.architecture, d.generation), d.source);
  std::string aliases;
  for (const auto& [alias, device] : impl_->aliases)
    if (device == d.name) aliases += (aliases.empty() ? "" : ", ") + alias;
  if (!aliases.empty()) f.add("also called", aliases);
  if (d.sm_count > 0) f.add("multiprocessors, boost", fmt::format("{}, {} MHz", d.sm_count, d.boost_mhz));
  f.quantity("FP32 vector peak", d.fp32_peak);
  f.quantity("TF32 peak", d.tf32_peak);
  f.quantity("FP16 and BF16 peak", d.fp16_peak);
  f.quantity("FP8 peak", d.fp8_peak);
  if (d.int8_peak.value > 0) f.add("INT8 peak", fmt::format("{:.4g} TOP/s", d.int8_peak.value / 1e12));
  if (d.int4_peak.value > 0) f.add("INT4 peak", fmt::format("{:.4g} TOP/s", d.int4_peak.value / 1e12));
  f.quantity("FP4 peak", d.fp4_peak);
  if (d.memory.value > 0)
    f.quantity("memory", d.memory, d.memory_reported ? "reported by the driver" : "marketing figure");
  else
    f.add("memory", "depends on the machine");
  f.quantity("memory bandwidth", d.memory_bandwidth);
  f.quantity("last-level cache", d.last_level_cache);
  const Topology topology = this->topology(d, d.scaleup_domain);
  if (d.scaleup_domain > 1)
    f.add("scale-up link",
          fmt::format("{}, {} one way, {} devices", topology.intra_node.name,
                      to_text(topology.intra_node.bandwidth), d.scaleup_domain),
          topology.intra_node.source);
  if (d.pcie_bandwidth.value > 0)
    f.add("host link", fmt::format("{}, {}", d.host_link, to_text(d.pcie_bandwidth)));
  f.add("network (default)",
        fmt::format("{}, {}", topology.inter_node.name, to_text(topology.inter_node.bandwidth)),
        topology.inter_node.source);
  if (d.tdp_watts > 0) f.add("power", fmt::format("{:.4g} W", d.tdp_watts));
  if (d.system_kw > 0) f.add("system power a device", fmt::format("{:.3g} kW", d.system_kw));
  f.add("price an hour", d.usd_per_hour ? fmt::format("${:.3g}", *d.usd_per_hour) : "unknown",
        d.price_source);
  f.add("confidence", d.confidence);
  if (!d.notes.empty()) t.notes.push_back(d.notes);
  return t;
}

Table Database::list_measurements(const Device& device) const {
  Table t;
  t.title = "Measured operators of " + device.name;
  t.columns = {{"operator", "Operator", 4, true},
               {"engine", "Engine", 4, true},
               {"dtype", "Type", 4, true},
               {"rows", "Rows", 7},
               {"date", "Date"},
               {"source", "Source", 4, true}};
  std::map<std::tuple<std::string, std::string, std::string, std::string, std::string>, std::int64_t> groups;
  const ReplacedPoints replaced = impl_->replaced(device.name);
  for (const auto& layer : impl_->series(device.name)) {
    const MeasurementSeries& s = layer.series;
    const std::int64_t n = impl_->count_points(layer, replaced);
    if (n == 0) continue;
    std::string type = s.dtype;
    if (!s.kv_dtype.empty()) type += ", KV " + s.kv_dtype;
    groups[{std::string(name_of(s.kind)), s.engine, type, s.date, s.source}] += n;
  }
  for (const auto& [key, rows] : groups) {
    const auto& [kind, engine, type, date, source] = key;
    t.add({kind, engine, type, rows, date.empty() ? Cell() : Cell(date), source});
  }
  if (groups.empty())
    t.notes.push_back(
        "Nothing was measured on this device: its times come from other devices or the roofline.");
  return t;
}

}  // namespace foretoken
