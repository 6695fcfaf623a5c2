#include "hwdb/measurement_tables.h"

#include <fmt/format.h>

#include "base/error.h"

namespace foretoken {

std::string Cells::text_or_empty(std::string_view column) const {
  const auto c = csv_->find_column(column);
  return c ? csv_->text(*c) : std::string();
}

double Cells::number_or(std::string_view column, double otherwise) const {
  const auto c = csv_->find_column(column);
  return c ? csv_->number_or(*c, otherwise) : otherwise;
}

std::int64_t Cells::size(std::string_view column, std::int64_t least) const {
  const std::int64_t v = csv_->integer(csv_->column(column));
  if (v < least)
    throw Error(csv_->where(), fmt::format("{} is {}; it must be at least {}", column, v, least));
  return v;
}

double Cells::time(std::string_view column, double unit) const {
  const double v = number_or(column, 0);
  if (v < 0)
    throw Error(csv_->where(), fmt::format("{} is {}; a measured time can't be negative", column, v));
  return v * unit;
}

std::unique_ptr<SourceTable> source_table(const CsvReader& csv, const std::filesystem::path& path) {
  const Cells columns(csv);
  const std::string file = path.filename().string();
  if (auto table = aiconfigurator_table(columns, file)) return table;
  if (auto table = vidur_table(columns, path)) return table;
  if (auto table = simulator_table(columns, file)) return table;
  return paper_table(columns, file);
}

}  // namespace foretoken
