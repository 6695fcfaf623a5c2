// CSV reader for measurement and trace files: header by name, quoted cells, plain or gzip, errors with
// file:line.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace foretoken {

class CsvReader {
 public:
  // Reads the header line. Throws Error when the file is empty.
  explicit CsvReader(const std::filesystem::path& path, char separator = ',');

  const std::vector<std::string>& header() const { return header_; }
  std::optional<std::size_t> find_column(std::string_view name) const;
  // Throws Error naming the nearest column.
  std::size_t column(std::string_view name) const;

  // Next row; throws Error when the number of cells differs from the header. Blank lines are skipped.
  bool next();
  std::size_t cells() const { return cells_.size(); }
  const std::string& text(std::size_t column) const { return cells_[column]; }
  double number(std::size_t column) const;                       // Error on empty, NaN, infinity, text
  std::int64_t integer(std::size_t column) const;                // Error likewise; "3.0" is accepted
  double number_or(std::size_t column, double otherwise) const;  // empty cell -> otherwise
  std::string where() const { return lines_.where(); }
  long line_number() const { return lines_.line_number(); }

 private:
  void split_line();
  LineReader lines_;
  char separator_;
  std::string line_;
  std::vector<std::string> header_, cells_;
};

// One CSV cell, quoted where it must be.
std::string csv_cell(std::string_view text);

}  // namespace foretoken
