// CSV reading: see csv.h.
#include "base/csv.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace foretoken {

CsvReader::CsvReader(const std::filesystem::path& path, char separator)
    : lines_(path), separator_(separator) {
  do {
    if (!lines_.next(line_))
      throw Error(path.string(), "the file is empty; its first line must name the columns");
    if (lines_.line_number() == 1 && line_.starts_with("\xef\xbb\xbf")) line_.erase(0, 3);
  } while (trim(line_).empty());
  split_line();
  header_ = cells_;
  for (std::string& name : header_) name = std::string(trim(name));
  for (std::size_t i = 0; i < header_.size(); ++i)
    if (!header_[i].empty() && *find_column(header_[i]) != i)
      throw Error(where(), fmt::format("two columns are named \"{}\"; rename one", header_[i]));
}

std::optional<std::size_t> CsvReader::find_column(std::string_view name) const {
  for (std::size_t i = 0; i < header_.size(); ++i)
    if (header_[i] == name) return i;
  return std::nullopt;
}

std::size_t CsvReader::column(std::string_view name) const {
  if (const auto found = find_column(name)) return *found;
  const std::string near = did_you_mean(name, header_);
  throw Error(where(), fmt::format("no column \"{}\"{}", name,
                                   near.empty() ? "; the columns are " + join(header_, ", ") : near));
}

bool CsvReader::next() {
  do {
    if (!lines_.next(line_)) return false;
  } while (trim(line_).empty());
  split_line();
  if (cells_.size() != header_.size())
    throw Error(where(),
                fmt::format("{} cells where the header names {} columns (quote cells that contain '{}')",
                            cells_.size(), header_.size(), separator_));
  return true;
}

void CsvReader::split_line() {
  std::size_t count = 0;
  const auto name = [&] {
    return count < header_.size() ? fmt::format("column \"{}\"", header_[count])
                                  : fmt::format("cell {}", count + 1);
  };
  for (std::size_t at = 0;; ++at) {
    if (count == cells_.size()) cells_.emplace_back();
    std::string& cell = cells_[count];  // kept between lines for its memory
    cell.clear();
    if (at < line_.size() && line_[at] == '"') {
      for (++at;; ++at) {
        if (at == line_.size())
          throw Error(where(),
                      name() + ": the quote is not closed (line breaks inside cells are not accepted)");
        if (line_[at] != '"') {
          cell += line_[at];
        } else if (at + 1 < line_.size() && line_[at + 1] == '"') {
          cell += line_[++at];
        } else {
          break;
        }
      }
      ++at;
      if (at < line_.size() && line_[at] != separator_)
        throw Error(where(), name() + ": text after the closing quote (write a quote inside a cell twice)");
    } else {
      std::size_t end = line_.find(separator_, at);
      if (end == std::string::npos) end = line_.size();
      cell.assign(line_, at, end - at);
      at = end;
    }
    ++count;
    if (at >= line_.size()) break;
  }
  cells_.resize(count);
}

double CsvReader::number(std::size_t column) const {
  const std::string_view cell = trim(cells_.at(column));
  if (cell.empty())
    throw Error(where(), fmt::format("column \"{}\" is empty; a number is expected", header_[column]));
  if (const auto v = parse_double(cell)) return *v;
  throw Error(where(), fmt::format("column \"{}\": \"{}\" is not a finite number", header_[column], cell));
}

std::int64_t CsvReader::integer(std::size_t column) const {
  const std::string_view cell = trim(cells_.at(column));
  if (const auto v = parse_int(cell)) return *v;
  const double v = number(column);
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (v != std::floor(v) || std::abs(v) > kExact)
    throw Error(where(), fmt::format("column \"{}\": \"{}\" is not a whole number", header_[column], cell));
  return static_cast<std::int64_t>(v);
}

double CsvReader::number_or(std::size_t column, double otherwise) const {
  return trim(cells_.at(column)).empty() ? otherwise : number(column);
}

std::string csv_cell(std::string_view text) {
  if (text.find_first_of(",\"\r\n;\t") == std::string_view::npos && trim(text).size() == text.size())
    return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    // Our reader takes one line per row, so that a damaged quote cannot swallow the file.
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace foretoken
