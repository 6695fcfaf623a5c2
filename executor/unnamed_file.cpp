#include "executor/unnamed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace foretoken {

UnnamedFile::UnnamedFile(const std::string& folder, const std::string& holds)
    : folder_(folder), holds_(holds) {
  std::string path = folder + "/foretoken-XXXXXX";
  descriptor_ = mkostemp(path.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("make a file for", std::strerror(errno));
  unlink(path.c_str());
}

UnnamedFile::~UnnamedFile() { close(descriptor_); }

void UnnamedFile::write(const std::byte* from, std::size_t count, std::size_t offset) const {
  while (count > 0) {
    const ssize_t n = pwrite(descriptor_, from, count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("write", n < 0 ? std::strerror(errno) : "nothing was written");
    from += n, offset += static_cast<std::size_t>(n), count -= static_cast<std::size_t>(n);
  }
}

void UnnamedFile::read(std::byte* to, std::size_t count, std::size_t offset) const {
  while (count > 0) {
    const ssize_t n = pread(descriptor_, to, count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("read back", n < 0 ? std::strerror(errno) : "the file ends early");
    to += n, offset += static_cast<std::size_t>(n), count -= static_cast<std::size_t>(n);
  }
}

void UnnamedFile::fail(const char* what, const char* why) const {
  throw Error(folder_,
              fmt::format("can't {} {}: {}; make room or set TMPDIR to another folder", what, holds_, why));
}

}  // namespace foretoken
