// Files: whole reads (plain or gzip), and output that is either complete or absent.
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace foretoken {

// Reads a whole file; gzip is recognised by its content. Throws Error{path}.
std::string read_file(const std::filesystem::path& path);

// Streams lines of a plain or gzip file. A truncated gzip stream is an Error, not an end of file.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;

  bool next(std::string& line);  // false at the end; strips "\n" and "\r\n"
  long line_number() const { return line_number_; }
  std::string rest();         // everything not yet read, zero bytes included
  std::string where() const;  // "path:line"

 private:
  struct Stream;
  std::unique_ptr<Stream> stream_;
  long line_number_ = 0;
};

// Opened (and so checked) at construction, replaced atomically at commit(); an uncommitted file leaves no
// trace, of a killed process neither where the file system has unnamed files (O_TMPFILE).
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  void write(std::string_view text);  // throws Error{path} on a full disk
  void commit();                      // flush, fsync, rename

 private:
  std::filesystem::path path_, temporary_;
  std::FILE* file_ = nullptr;
  bool unnamed_ = false;  // temporary_ is the name that it gets at commit()
};

}  // namespace foretoken
