// A file without a name, so that nothing is left behind whatever happens to the process.
#pragma once

#include <cstddef>
#include <string>

namespace foretoken {

class UnnamedFile {
 public:
  // holds: what is kept there, for messages. Throws Error for a file that can't be made.
  UnnamedFile(const std::string& folder, const std::string& holds);
  ~UnnamedFile();
  UnnamedFile(const UnnamedFile&) = delete;
  UnnamedFile& operator=(const UnnamedFile&) = delete;

  // The file grows as it is written. Throws Error where there is no room.
  void write(const std::byte* from, std::size_t count, std::size_t offset) const;
  // Throws Error where the file ends early or can't be read.
  void read(std::byte* to, std::size_t count, std::size_t offset) const;

 private:
  [[noreturn]] void fail(const char* what, const char* why) const;
  std::string folder_, holds_;
  int descriptor_ = -1;
};

}  // namespace foretoken
