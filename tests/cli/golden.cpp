// Runs the commands of a .test file and compares output and exit code, exactly. Lines of such a file:
//   # comment
//   $ command, run by sh in a fresh folder; foretoken is on the PATH, $DATA is the folder of the .test files
//   > a line of stdout
//   ! a line of stderr
//   ? exit code, where it isn't 0
// golden FILE --bin FOLDER [--update]: --update writes what the program says now into the file.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Case {
  std::vector<std::string> comments;
  std::string command, out, err;
  int code = 0;
};

std::vector<Case> read_cases(const fs::path& file, std::vector<std::string>& tail) {
  std::ifstream in(file);
  std::vector<Case> cases;
  std::vector<std::string> comments;
  std::string line;
  auto rest = [&] { return line.size() > 2 ? line.substr(2) : std::string(); };
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') {
      comments.push_back(line);
    } else if (line[0] == '$') {
      cases.push_back({std::move(comments), rest(), "", "", 0});
      comments.clear();
    } else if (cases.empty()) {
      std::fprintf(stderr, "%s: a line before the first command: %s\n", file.c_str(), line.c_str());
      std::exit(2);
    } else if (line[0] == '>') {
      cases.back().out += rest() + "\n";
    } else if (line[0] == '!') {
      cases.back().err += rest() + "\n";
    } else if (line[0] == '?') {
      cases.back().code = std::atoi(rest().c_str());
    } else {
      std::fprintf(stderr, "%s: a line starts with none of # $ > ! ?: %s\n", file.c_str(), line.c_str());
      std::exit(2);
    }
  }
  tail = comments;
  return cases;
}

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

Case run(const Case& asked, const fs::path& folder, const fs::path& streams) {
  const fs::path out = streams / "stdout", err = streams / "stderr";
  const pid_t child = ::fork();
  if (child == 0) {
    const int o = ::open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0644);
    const int e = ::open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0644);
    const int n = ::open("/dev/null", O_RDONLY);
    ::dup2(n, 0);
    ::dup2(o, 1);
    ::dup2(e, 2);
    if (::chdir(folder.c_str()) != 0) std::_Exit(126);
    ::execl("/bin/sh", "sh", "-c", asked.command.c_str(), static_cast<char*>(nullptr));
    std::_Exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {asked.comments, asked.command, content(out), content(err),
          WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
}

void print_lines(std::ostream& out, char mark, const std::string& text) {
  std::istringstream in(text);
  std::string line;
  while (std::getline(in, line)) out << mark << (line.empty() ? "" : " ") << line << "\n";
}

void print_case(std::ostream& out, const Case& c) {
  for (const std::string& comment : c.comments) out << comment << "\n";
  out << "$ " << c.command << "\n";
  print_lines(out, '>', c.out);
  print_lines(out, '!', c.err);
  if (c.code != 0) out << "? " << c.code << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  fs::path file, bin;
  bool update = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--update")
      update = true;
    else if (word == "--bin" && i + 1 < argc)
      bin = argv[++i];
    else
      file = word;
  }
  if (file.empty() || bin.empty()) {
    std::fprintf(stderr, "usage: golden FILE.test --bin FOLDER [--update]\n");
    return 2;
  }
  file = fs::absolute(file);
  char pattern[] = "/tmp/foretoken-golden-XXXXXX";
  if (::mkdtemp(pattern) == nullptr) return 2;
  const fs::path root = pattern, folder = root / "work", streams = root / "streams";
  fs::create_directories(folder);
  fs::create_directories(streams);
  ::setenv("PATH", (fs::absolute(bin).string() + ":" + std::getenv("PATH")).c_str(), 1);
  ::setenv("DATA", file.parent_path().c_str(), 1);
  ::setenv("XDG_DATA_HOME", (root / "home").c_str(), 1);
  ::setenv("LC_ALL", "C", 1);
  ::unsetenv("FORETOKEN_DATA");

  std::vector<std::string> tail;
  int failed = 0;
  std::ostringstream now;
  const std::vector<Case> cases = read_cases(file, tail);
  for (const Case& asked : cases) {
    const Case got = run(asked, folder, streams);
    print_case(now, got);
    if (got.out == asked.out && got.err == asked.err && got.code == asked.code) continue;
    ++failed;
    if (update) continue;
    std::ostringstream expected, actual;
    print_case(expected, asked);
    print_case(actual, got);
    std::printf("--- expected\n%s--- got\n%s\n", expected.str().c_str(), actual.str().c_str());
  }
  for (const std::string& line : tail) now << line << "\n";
  fs::remove_all(root);
  if (update) {
    std::ofstream(file, std::ios::binary) << now.str();
    std::printf("%s: %d of %zu updated\n", file.c_str(), failed, cases.size());
    return 0;
  }
  if (cases.empty()) {
    std::printf("%s: no commands\n", file.c_str());
    return 1;
  }
  return failed == 0 ? 0 : 1;
}
