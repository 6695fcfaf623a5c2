// The two layers of a Database and what is read from them once.
#pragma once

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

struct DatabaseLayers {
  std::optional<Store> builtin, user;
  std::filesystem::path user_path;
  std::map<std::string, Device> by_name;
  std::map<std::string, std::string> aliases;  // key -> canonical name
  std::map<std::string, Link> links;

  void load();
  // Canonical name, or "" (candidates: those that begin with it).
  std::string resolve(const std::string& name, std::vector<std::string>* candidates) const;
  std::unique_ptr<KernelTable::Index> index(const Device& device, const Topology& topology,
                                            const std::string& engine,
                                            const std::set<MeasuredKind>& kinds = {}) const;  // empty: all
};

struct Database::Impl : DatabaseLayers {};

std::uint64_t digest_of(const Store& store);

}  // namespace foretoken
