// File reading through zlib (plain files pass unchanged) and atomic output files.
#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace foretoken {
namespace {

std::string reason(int code) {
  if (code == ENOSPC) return "no space left on the device; free some and run again";
  if (code == EDQUOT) return "the disk quota is used up; free some space and run again";
  return std::strerror(code);
}

}  // namespace

struct LineReader::Stream {
  explicit Stream(const std::filesystem::path& p) : path(p), buffer(1u << 16) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored))
      throw Error(path.string(), "is a folder; name a file in it");
    errno = 0;
    file = gzopen(path.c_str(), "rb");
    if (file == nullptr) {
      const int code = errno != 0 ? errno : ENOMEM;
      throw Error(path.string(),
                  code == ENOENT ? "no such file; check the path" : "cannot open: " + reason(code));
    }
    gzbuffer(file, 1u << 17);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { gzclose_r(file); }

  // Fills the buffer; false at the end of intact input.
  bool fill(const std::string& where) {
    errno = 0;
    const int got = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()));
    const int read_errno = errno;
    if (got <= 0) {
      int code = Z_OK;
      const char* text = gzerror(file, &code);
      if (code == Z_BUF_ERROR)
        throw Error(where, "the gzip data end early (an interrupted copy or download?); get the file again");
      if (code == Z_DATA_ERROR)
        throw Error(where, fmt::format("the gzip data are damaged ({}); get the file again", text));
      if (code == Z_ERRNO) throw Error(where, "cannot read: " + reason(read_errno));
      if (got < 0) throw Error(where, fmt::format("cannot read: {}", text));
      return false;
    }
    begin = 0;
    end = static_cast<std::size_t>(got);
    return true;
  }

  std::filesystem::path path;
  gzFile file = nullptr;
  std::vector<char> buffer;
  std::size_t begin = 0, end = 0;
};

std::string read_file(const std::filesystem::path& path) {
  LineReader reader(path);
  return reader.rest();
}

LineReader::LineReader(const std::filesystem::path& path) : stream_(std::make_unique<Stream>(path)) {}
LineReader::~LineReader() = default;
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  for (;;) {
    Stream& s = *stream_;
    if (s.begin == s.end && !s.fill(where())) break;
    if (!any) ++line_number_;
    any = true;
    const char* from = s.buffer.data() + s.begin;
    const std::size_t left = s.end - s.begin;
    const void* newline = std::memchr(from, '\n', left);
    const std::size_t length =
        newline != nullptr ? static_cast<std::size_t>(static_cast<const char*>(newline) - from) : left;
    line.append(from, length);
    s.begin += length + (newline != nullptr ? 1 : 0);
    if (newline != nullptr) break;
  }
  if (!any) return false;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (line.find('\0') != std::string::npos)
    throw Error(where(), "a zero byte in the line: this is a binary file, a text file is expected");
  return true;
}

std::string LineReader::rest() {
  std::string text;
  Stream& s = *stream_;
  do {
    text.append(s.buffer.data() + s.begin, s.end - s.begin);
    s.begin = s.end;
  } while (s.fill(s.path.string()));
  return text;
}

std::string LineReader::where() const {
  return line_number_ == 0 ? stream_->path.string()
                           : fmt::format("{}:{}", stream_->path.string(), line_number_);
}

namespace {

// A file in the folder of `path` that has no name yet, so that not even a killed process leaves it behind;
// null where the file system has none.
std::FILE* open_unnamed(const std::filesystem::path& path) {
#ifdef O_TMPFILE
  if (::access("/proc/self/fd", X_OK) != 0) return nullptr;  // it would never get a name
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const int file = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (file < 0) return nullptr;
  std::FILE* const stream = ::fdopen(file, "wb");
  if (stream == nullptr) ::close(file);
  return stream;
#else
  static_cast<void>(path);
  return nullptr;
#endif
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
  namespace fs = std::filesystem;
  if (path_.empty()) throw Error("", "the name of the output file is empty");
  std::error_code code;
  const fs::file_status status = fs::status(path_, code);
  if (fs::is_directory(status)) throw Error(path_.string(), "is a folder; name a file in it");
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    file_ = std::fopen(path_.c_str(), "wb");  // a device or pipe: renaming onto it would replace it
  } else {
    // Through a symbolic link, so that the link stays and its target is replaced.
    const fs::path target = fs::exists(status) ? fs::canonical(path_, code) : path_;
    if (!code || !fs::exists(status)) path_ = target;
    temporary_ = path_;
    temporary_ += fmt::format(".partial-{}", ::getpid());
    file_ = open_unnamed(path_);
    unnamed_ = file_ != nullptr;
    if (!unnamed_) file_ = std::fopen(temporary_.c_str(), "wbx");
  }
  if (file_ == nullptr) {
    const int error = errno;
    const std::string partial = temporary_.string();
    temporary_.clear();
    std::error_code ignored;
    const fs::path folder = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
    if (error == ENOENT && !fs::exists(folder, ignored))  // /proc says ENOENT too, of its own files
      throw Error(path_.string(), "cannot create: the folder does not exist; create it first");
    if (error == EEXIST)
      throw Error(path_.string(), fmt::format("{} is in the way; remove it and run again", partial));
    throw Error(path_.string(), "cannot create: " + reason(error));
  }
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::exchange(other.file_, nullptr)),
      unnamed_(other.unnamed_) {}

OutputFile::~OutputFile() {
  if (file_ != nullptr) std::fclose(file_);
  if (!temporary_.empty() && !unnamed_) ::unlink(temporary_.c_str());
}

void OutputFile::write(std::string_view text) {
  if (file_ == nullptr) throw std::logic_error("write to a committed file");
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size())
    throw Error(path_.string(), "cannot write: " + reason(errno));
}

void OutputFile::commit() {
  if (file_ == nullptr) throw std::logic_error("commit of a committed file");
  bool failed = std::fflush(file_) != 0;
  int error = errno;
  // Pipes and devices cannot be synchronised.
  if (!failed && !temporary_.empty() && ::fsync(::fileno(file_)) != 0) {
    failed = true;
    error = errno;
  }
  if (!failed && unnamed_) {
    // A name that nothing has, then the file's own: no call gives an unnamed file the name of another.
    const std::string link = fmt::format("/proc/self/fd/{}", ::fileno(file_));
    const std::string first = temporary_.string();
    const auto name = [&] {
      return ::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW);
    };
    failed = name() != 0;
    for (int i = 1; failed && errno == EEXIST && i < 100; ++i) {
      temporary_ = fmt::format("{}-{}", first, i);
      failed = name() != 0;
    }
    error = errno;
    unnamed_ = failed;
  }
  if (std::fclose(std::exchange(file_, nullptr)) != 0 && !failed) {
    failed = true;
    error = errno;
  }
  if (!failed && !temporary_.empty() && std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    failed = true;
    error = errno;
  }
  if (failed) throw Error(path_.string(), "cannot write: " + reason(error));
  temporary_.clear();
}

}  // namespace foretoken
