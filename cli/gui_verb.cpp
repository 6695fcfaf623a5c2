// gui: starts the window, a program of its own beside this one.
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "cli/verbs.h"

namespace foretoken {

int run_gui(const Invocation& invocation) {
  std::vector<std::string> words{"foretoken-gui"};
  for (const char* option : {"screenshot", "view", "size", "theme"})
    if (const auto value = invocation.value(option))
      words.push_back("--" + std::string(option) + "=" + *value);
  for (const std::string& file : invocation.arguments) words.push_back(file);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::error_code ignored;
  const std::filesystem::path beside =
      std::filesystem::canonical("/proc/self/exe", ignored).parent_path() / "foretoken-gui";
  execv(beside.c_str(), argv.data());
  execvp("foretoken-gui", argv.data());
  throw Error("gui",
              std::string("foretoken-gui can't be started (") + std::strerror(errno) +
                  "); it is built where qt6-base-dev, qt6-svg-dev and libqcustomplot-dev are installed");
}

}  // namespace foretoken
