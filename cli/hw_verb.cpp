// hw list, show, import, export, forget.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/data_paths.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "deployment/behavior.h"
#include "hwdb/database.h"

namespace foretoken {
namespace {

void write_tables(Output& out, const std::string& title,
                  const std::vector<std::pair<std::string, Table>>& named) {
  Json json{{"format", 1}};
  Report report;
  report.title = title;
  for (const auto& [key, table] : named) {
    json[key] = to_json(table);
    report.tables.push_back(table);
  }
  report.json = dump_json(json);
  out.write(report);
}

// Folders of a first import; those that it made go again when it fails.
class NewFolders {
 public:
  NewFolders() = default;
  NewFolders(const NewFolders&) = delete;
  NewFolders& operator=(const NewFolders&) = delete;
  ~NewFolders() {
    std::error_code ignored;
    for (const auto& folder : made_) std::filesystem::remove(folder, ignored);
  }
  void create(const std::filesystem::path& folder) {
    std::error_code code;
    for (auto f = folder; !f.empty() && !std::filesystem::exists(f, code) && f != f.parent_path();
         f = f.parent_path())
      made_.push_back(f);
    std::filesystem::create_directories(folder, code);
    if (code)
      throw Error(folder.string(), "cannot create this folder for your hardware database: " + code.message() +
                                       "; name a file elsewhere with --db");
  }
  void keep() { made_.clear(); }

 private:
  std::vector<std::filesystem::path> made_;  // the deepest first
};

// Of several files one table, with their names.
Table import_table(const std::vector<ImportReport>& reports, const std::vector<std::string>& files) {
  const bool many = files.size() > 1;
  Table t;
  t.title = many ? fmt::format("Imported {} files", files.size()) : "Imported " + files.front();
  if (many) t.columns.push_back({"file", "file"});
  t.columns.push_back({"what", "what"}), t.columns.push_back({"rows", "rows"});
  for (std::size_t i = 0; i < files.size(); ++i) {
    const ImportReport& r = reports[i];
    const auto add = [&](const std::string& what, std::int64_t rows) {
      if (many)
        t.add({files[i], what, rows});
      else
        t.add({what, rows});
    };
    add("read", r.read);
    if (r.times != r.read) add("measured times in them", r.times);
    add("imported", r.imported);
    for (const auto& [reason, n] : r.dropped) add("dropped: " + reason, n);
  }
  return t;
}

}  // namespace

int run_hw(const Invocation& invocation) {
  if (invocation.verb == "hw export") {
    Output out(invocation);
    const DataPaths paths = find_data_paths(invocation);
    const Database database = Database::open(paths.builtin, paths.user);
    std::string csv;
    database.export_device(database.device(invocation.arguments[0], "hw export"),
                           [&](std::string_view text) { csv += text; });
    out.write_text(csv);
    return kDone;
  }
  Output out(invocation);
  const DataPaths paths = find_data_paths(invocation);
  Database database = Database::open(paths.builtin, paths.user);
  if (invocation.verb == "hw list") {
    write_tables(out, "Devices", {{"devices", database.list_devices()}});
  } else if (invocation.verb == "hw show") {
    const Device device = database.device(invocation.arguments[0], "hw show");
    std::vector<std::pair<std::string, Table>> tables = {
        {"facts", database.describe(device)}, {"measurements", database.list_measurements(device)}};
    if (!database.engine_terms(device.name).empty())
      tables.emplace_back("engine_terms", database.list_engine_terms(device.name));
    write_tables(out, device.name, tables);
  } else if (invocation.verb == "hw forget") {
    const Device device = database.device(invocation.arguments[0], "hw forget");
    std::string engine;
    if (const auto asked = invocation.value("engine")) engine = find_behavior(*asked, "--engine").name;
    const std::int64_t removed = database.remove_engine_terms(device.name, engine);
    Table t;
    t.title = "Removed of " + device.name;
    t.columns = {{"what", "what"}, {"terms", "terms"}};
    t.add({"fitted engine terms" + (engine.empty() ? std::string() : " of " + engine), removed});
    write_tables(out, "Forget", {{"removed", t}});
    return removed > 0 ? kDone : kNegative;
  } else {
    if (paths.user.empty()) throw Error("--db", "is needed where neither XDG_DATA_HOME nor HOME is set");
    const std::vector<std::filesystem::path> files(invocation.arguments.begin(), invocation.arguments.end());
    NewFolders folders;
    if (!invocation.has("db")) folders.create(paths.user.parent_path());
    const auto reports = database.import_files(files, invocation.value("kind").value_or(""));
    const bool any =
        std::any_of(reports.begin(), reports.end(), [](const auto& r) { return r.imported > 0; });
    if (any) folders.keep();
    write_tables(out, "Import", {{"import", import_table(reports, invocation.arguments)}});
    return any ? kDone : kNegative;
  }
  return kDone;
}

}  // namespace foretoken
