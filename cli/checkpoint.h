// What long work has done, a line a part, so that a process that was stopped or killed goes on where it was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

namespace foretoken {

class Checkpoint {
 public:
  // Opens or makes the file, for one process at a time. key: what the work is. Throws Error{path} where the
  // file is of other work, is no such file, or another process has it. A last line that was not written whole
  // is dropped.
  Checkpoint(std::filesystem::path path, const std::string& key);
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  const std::map<std::int64_t, std::string>& done() const { return done_; }  // when it was opened
  // From any thread; text: one line. In the file when it returns; a full disk leaves what was there, and
  // throws Error.
  void add(std::int64_t part, const std::string& text);

 private:
  void write(const std::string& line);

  std::filesystem::path path_;
  std::map<std::int64_t, std::string> done_;
  std::mutex mutex_;
  int file_ = -1;
  std::int64_t size_ = 0;  // bytes of whole lines
};

}  // namespace foretoken
