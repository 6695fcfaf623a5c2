#include "cli/data_paths.h"

#include <cstdlib>

#include "base/error.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path user_database(const Invocation& invocation) {
  if (const auto given = invocation.value("db")) {
    std::error_code ignored;
    if (invocation.verb != "hw import" && invocation.verb != "calibrate" && !fs::exists(*given, ignored))
      throw Error("--db", "there is no database " + *given + "; check the path, or make it with `foretoken " +
                              "hw import FILE --db " + *given + "`");
    return *given;
  }
  if (const std::string xdg = environment("XDG_DATA_HOME"); !xdg.empty())
    return fs::path(xdg) / "foretoken" / "hw.sqlite";
  if (const std::string home = environment("HOME"); !home.empty())
    return fs::path(home) / ".local" / "share" / "foretoken" / "hw.sqlite";
  return {};
}

bool is_data_folder(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / "foretoken.sqlite", ignored) && fs::exists(folder / "presets", ignored);
}

}  // namespace

DataPaths find_data_paths(const Invocation& invocation) {
  std::vector<fs::path> candidates;
  if (const std::string data = environment("FORETOKEN_DATA"); !data.empty()) {
    candidates.emplace_back(data);
  } else {
    std::error_code ignored;
    const fs::path program = fs::canonical("/proc/self/exe", ignored);
    const fs::path folder = program.parent_path();
    candidates = {folder / "share" / "foretoken", folder.parent_path() / "share" / "foretoken",
                  FORETOKEN_INSTALL_DATA};
  }
  std::string tried;
  for (const fs::path& folder : candidates) {
    if (is_data_folder(folder))
      return {folder / "foretoken.sqlite", folder / "presets", user_database(invocation),
              folder / "validation"};
    tried += (tried.empty() ? "" : ", ") + folder.string();
  }
  throw Error(environment("FORETOKEN_DATA").empty() ? "" : "FORETOKEN_DATA",
              "no foretoken.sqlite and presets in " + tried +
                  "; build the whole project, or set FORETOKEN_DATA to the folder that holds them");
}

}  // namespace foretoken
