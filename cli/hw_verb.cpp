// hw list, show, import, export.
#include <fmt/format.h>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/data_paths.h"
#include "cli/output.h"
#include "cli/verbs.h"
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

Table import_table(const ImportReport& r, const std::string& file) {
  Table t;
  t.title = "Imported " + file;
  t.columns = {{"what", "what"}, {"rows", "rows"}};
  t.add({std::string("read"), r.read});
  t.add({std::string("imported"), r.imported});
  for (const auto& [reason, n] : r.dropped) t.add({"dropped: " + reason, n});
  return t;
}

}  // namespace

int run_hw(const Invocation& invocation) {
  if (invocation.verb == "hw export") {
    // The database writes the CSV itself, atomically.
    const auto file = invocation.value("save");
    if (!file) throw Error("--save", "is missing: `foretoken hw export DEVICE --save FILE.csv`");
    const DataPaths paths = find_data_paths(invocation);
    const Database database = Database::open(paths.builtin, paths.user);
    database.export_device(database.device(invocation.arguments[0], "hw export"), *file);
    return kDone;
  }
  Output out(invocation);
  const DataPaths paths = find_data_paths(invocation);
  Database database = Database::open(paths.builtin, paths.user);
  if (invocation.verb == "hw list") {
    write_tables(out, "Devices", {{"devices", database.list_devices()}});
  } else if (invocation.verb == "hw show") {
    const Device device = database.device(invocation.arguments[0], "hw show");
    write_tables(
        out, device.name,
        {{"facts", database.describe(device)}, {"measurements", database.list_measurements(device)}});
  } else {
    if (paths.user.empty()) throw Error("--db", "is needed where neither XDG_DATA_HOME nor HOME is set");
    const std::string file = invocation.arguments[0];
    const ImportReport r = database.import_file(file, invocation.value("kind").value_or(""));
    write_tables(out, "Import", {{"import", import_table(r, file)}});
    return r.imported > 0 ? kDone : kNegative;
  }
  return kDone;
}

}  // namespace foretoken
