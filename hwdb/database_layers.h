// The two layers of a Database and what is read from them once.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hwdb/database.h"
#include "hwdb/kernel_index.h"
#include "hwdb/store.h"

namespace foretoken {

// What a layer below may not show: the points that the user has measured too.
class ReplacedPoints {
 public:
  using Shape = std::array<std::int64_t, kMaxShapeColumns>;
  ReplacedPoints() = default;
  ReplacedPoints(const Store& user, const std::string& device);  // "": all devices
  // Sorted; null where the user has none of this series.
  const std::vector<Shape>* of(const MeasurementSeries& series) const;

 private:
  std::map<MeasurementSeries, std::vector<Shape>> shapes_;
};

struct DatabaseLayers {
  std::optional<Store> builtin, user;
  std::filesystem::path user_path;
  std::map<std::string, Device> by_name;
  std::map<std::string, std::string> aliases;  // key -> canonical name
  std::map<std::string, Link> links;
  std::vector<EngineTerm> engine_terms;  // the user's

  void load();
  void write_user(const std::function<void(Store&)>& write);
  // Canonical name, or "" (candidates: those that begin with it).
  std::string resolve(const std::string& name, std::vector<std::string>* candidates) const;
  std::unique_ptr<KernelTable::Index> index(const Device& device, const Topology& topology,
                                            const std::string& engine,
                                            const std::set<MeasuredKind>& kinds = {},  // empty: all
                                            bool only_needed = false,  // not every engine's rows
                                            const std::string& moe_kernel = "") const;
  // The series of a device ("": all), the built-in ones first, with the store that holds each.
  struct LayerSeries {
    const Store* store;
    std::int64_t id;
    MeasurementSeries series;
  };
  std::vector<LayerSeries> series(const std::string& device) const;
  ReplacedPoints replaced(const std::string& device) const;
  // The points of a series, without those of the built-in layer that the user's replace.
  void for_each_point(const Store& store, std::int64_t id, const MeasurementSeries& series,
                      const ReplacedPoints& replaced,
                      const std::function<void(const MeasuredPoint&)>& visit) const;
  std::int64_t count_points(const LayerSeries& s, const ReplacedPoints& replaced) const;
};

struct Database::Impl : DatabaseLayers {};

std::uint64_t digest_of(const Store& store);

}  // namespace foretoken
