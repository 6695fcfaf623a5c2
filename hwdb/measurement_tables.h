// Tables of published measurements beside those that measurement_reader.cpp reads row by row into one
// operator: tables with several times in a row, and those of other projects. Told by their columns (and,
// where the columns don't say the device, by the file's name).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/csv.h"
#include "hwdb/measurement.h"

namespace foretoken {

// Cells of the current row by column name; bad cells are Errors with file:line.
class Cells {
 public:
  explicit Cells(const CsvReader& csv) : csv_(&csv) {}
  bool has(std::string_view column) const { return csv_->find_column(column).has_value(); }
  const std::string& text(std::string_view column) const { return csv_->text(csv_->column(column)); }
  std::string text_or_empty(std::string_view column) const;
  double number_or(std::string_view column, double otherwise) const;
  std::int64_t size(std::string_view column, std::int64_t least = 1) const;
  // The time in seconds; negative values are Errors. 0 where the cell is zero or empty or the column absent.
  double time(std::string_view column, double unit) const;

 private:
  const CsvReader* csv_;
};

class SourceTable {
 public:
  // One measured time of the current row, and why it can't be used ("": it can).
  using Emit = std::function<void(const Measurement&, std::string_view reason)>;
  virtual ~SourceTable() = default;
  virtual void read(const Cells& row, const Emit& emit) const = 0;
};

// Null where the columns are not those of any.
std::unique_ptr<SourceTable> source_table(const CsvReader& csv, const std::filesystem::path& file);
// Those of one origin each.
std::unique_ptr<SourceTable> aiconfigurator_table(const Cells& columns, const std::string& file);
std::unique_ptr<SourceTable> vidur_table(const Cells& columns, const std::filesystem::path& file);
std::unique_ptr<SourceTable> simulator_table(const Cells& columns, const std::string& file);
std::unique_ptr<SourceTable> paper_table(const Cells& columns, const std::string& file);

}  // namespace foretoken
