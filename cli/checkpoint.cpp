#include "cli/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr std::string_view kTitle = "foretoken checkpoint 1 ";

}  // namespace

Checkpoint::Checkpoint(std::filesystem::path path, const std::string& key) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) throw Error(path_.string(), std::string("can't be opened: ") + std::strerror(errno));
  try {
    if (!std::filesystem::is_regular_file(path_)) throw Error(path_.string(), "is no file; name another");
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0)
      throw Error(path_.string(), "is in use by another process; wait for it, or name another file");
    std::string text = read_file(path_);
    const std::string title = std::string(kTitle) + key;
    // Of a title, too, less than all may have been written.
    if (!text.empty() && text.find('\n') == std::string::npos && (title + "\n").starts_with(text))
      text.clear();
    const std::size_t whole = text.rfind('\n') + 1;  // 0: none
    if (!text.empty() && (whole == 0 || !text.starts_with(kTitle)))
      throw Error(path_.string(), "is no checkpoint; name another file");
    text.resize(whole);
    std::size_t number = 0;
    for (std::size_t at = 0; at < text.size(); ++number) {
      const std::size_t end = text.find('\n', at);
      const std::string_view line = std::string_view(text).substr(at, end - at);
      at = end + 1;
      if (number == 0) {
        if (line != title)
          throw Error(
              path_.string(),
              "is of other work: the scenario, a file that it names, the flags, the hardware database or the "
              "program were others; name another file, or remove it to begin anew");
        continue;
      }
      const std::size_t space = line.find(' ');
      const auto part = parse_int(line.substr(0, space));
      if (space == std::string_view::npos || !part)
        throw Error(fmt::format("{}:{}", path_.string(), number + 1),
                    "is damaged; remove this line and those behind it");
      done_[*part] = line.substr(space + 1);
    }
    size_ = static_cast<std::int64_t>(whole);
    if (::ftruncate(file_, size_) != 0 || ::lseek(file_, size_, SEEK_SET) < 0)
      throw Error(path_.string(), std::string("can't be written: ") + std::strerror(errno));
    if (whole == 0) write(title + "\n");
  } catch (...) {
    ::close(file_);
    throw;
  }
}

Checkpoint::~Checkpoint() { ::close(file_); }

void Checkpoint::write(const std::string& line) {
  for (std::size_t at = 0; at < line.size();) {
    const auto n = ::write(file_, line.data() + at, line.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : ENOSPC;
      const bool cut = ::ftruncate(file_, size_) == 0 && ::lseek(file_, size_, SEEK_SET) >= 0;
      throw Error(path_.string(), fmt::format("can't be written: {}; what was done before is kept{}",
                                              std::strerror(error), cut ? "" : ", but for its last line"));
    }
    at += static_cast<std::size_t>(n);
  }
  size_ += std::ssize(line);
}

void Checkpoint::add(std::int64_t part, const std::string& text) {
  const std::lock_guard lock(mutex_);
  write(fmt::format("{} {}\n", part, text));
}

}  // namespace foretoken
