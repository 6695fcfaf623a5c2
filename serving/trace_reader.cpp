#include "serving/trace_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace foretoken {
namespace trace_detail {
namespace {

// Days since 1970-01-01 of the proleptic Gregorian calendar, counted in eras of 400 years that begin in
// March.
std::int64_t days_from_civil(std::int64_t year, int month, int day) {
  if (month <= 2) --year;
  const std::int64_t era = (year >= 0 ? year : year - 399) / 400;
  const std::int64_t year_of_era = year - era * 400;
  const std::int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

// Reads fixed-width numbers and single characters off the front of a text.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}
  bool number(std::size_t digits, int low, int high, int& value) {
    if (rest_.size() < digits) return false;
    value = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      if (rest_[i] < '0' || rest_[i] > '9') return false;
      value = value * 10 + (rest_[i] - '0');
    }
    rest_.remove_prefix(digits);
    return value >= low && value <= high;
  }
  bool any_of(std::string_view characters) {
    if (rest_.empty() || characters.find(rest_[0]) == std::string_view::npos) return false;
    last_ = rest_[0];
    rest_.remove_prefix(1);
    return true;
  }
  bool at_end() const { return rest_.empty(); }
  char last() const { return last_; }

 private:
  std::string_view rest_;
  char last_ = 0;
};

std::optional<Timestamp> scan_timestamp(std::string_view text) {
  Scanner in(text);
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (!in.number(4, 1970, 9999, year) || !in.any_of("-") || !in.number(2, 1, 12, month) || !in.any_of("-") ||
      !in.number(2, 1, 31, day) || !in.any_of(" T") || !in.number(2, 0, 23, hour) || !in.any_of(":") ||
      !in.number(2, 0, 59, minute) || !in.any_of(":") || !in.number(2, 0, 60, second)) {
    return std::nullopt;
  }
  Timestamp t;
  if (in.any_of(".")) {
    std::int64_t place = 100'000'000'000;  // tenths of a second, in picoseconds
    int digit = 0, digits = 0;
    while (in.number(1, 0, 9, digit)) {
      t.picoseconds += digit * place;
      place /= 10;
      ++digits;
    }
    if (digits == 0) return std::nullopt;
  }
  std::int64_t zone = 0;
  if (in.any_of("+-")) {
    const int sign = in.last() == '-' ? -1 : 1;
    int zone_hour = 0, zone_minute = 0;
    if (!in.number(2, 0, 23, zone_hour)) return std::nullopt;
    if (in.any_of(":") || !in.at_end()) {
      if (!in.number(2, 0, 59, zone_minute)) return std::nullopt;
    }
    zone = sign * (zone_hour * 3600 + zone_minute * 60);
  } else {
    in.any_of("Zz");
  }
  if (!in.at_end()) return std::nullopt;
  t.seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - zone;
  return t;
}

}  // namespace

Timestamp parse_timestamp(std::string_view text, const std::string& where) {
  const auto t = scan_timestamp(trim(text));
  if (!t) {
    throw Error(where, fmt::format("\"{}\" is not a time; write it like 2023-11-16 18:15:46.6805900 or "
                                   "2024-05-10T00:00:00.009930+00:00",
                                   text));
  }
  return *t;
}

Picoseconds clock_time(double value, double unit, std::string_view name, const std::string& where) {
  if (!std::isfinite(value)) throw Error(where, fmt::format("{} is not a number; remove the request", name));
  if (value < 0) {
    throw Error(where,
                fmt::format("{} is negative ({}); arrivals count from 0", name, significant(value, 6)));
  }
  const double t = value * unit;
  if (t > 9.0e18) {
    throw Error(where, fmt::format("{} is {} days after the start; the virtual clock reaches 104 days, "
                                   "so cut the trace or subtract its first arrival",
                                   name, significant(t / 8.64e16, 4)));
  }
  return std::llround(t);
}

std::int32_t checked_priority(std::int64_t value, const std::string& where) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (value < -kMost || value > kMost)
    throw Error(where, fmt::format("priority {} is outside [-{}, {}]", value, kMost, kMost));
  return static_cast<std::int32_t>(value);
}

void check_lengths(const TraceEntry& entry, std::string_view input_name, std::string_view output_name,
                   const std::string& where) {
  const auto check = [&](std::int64_t tokens, std::string_view name) {
    if (tokens < 1) {
      throw Error(
          where, fmt::format("{} is {}; a request has at least 1 token on each side, so remove the row", name,
                             tokens));
    }
  };
  check(entry.input_len, input_name);
  check(entry.output_len, output_name);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (entry.input_len > kMost || entry.output_len > kMost - entry.input_len) {
    throw Error(where, fmt::format("{} {} and {} {} are more than {} tokens together; is the column right?",
                                   input_name, with_commas(entry.input_len), output_name,
                                   with_commas(entry.output_len), with_commas(kMost)));
  }
}

}  // namespace trace_detail

std::unique_ptr<TraceReader> open_trace(const std::filesystem::path& path) {
  std::string line;
  {
    LineReader lines(path);
    do {
      if (!lines.next(line)) {
        throw Error(path.string(), fmt::format("the file is empty; {}", trace_detail::kFormatsRead));
      }
    } while (trim(line).empty());
  }
  const char first = trim(line).front();
  if (first == '{' || first == '[') return trace_detail::open_jsonl_trace(path);
  return trace_detail::open_csv_trace(path);
}

TraceSummary scan_trace(const std::filesystem::path& path, bool in_order, std::int64_t limit) {
  const auto reader = open_trace(path);
  TraceSummary summary;
  summary.format = reader->format();
  summary.has_arrivals = reader->has_arrivals();
  TraceEntry entry;
  while ((limit == 0 || summary.requests < limit) && reader->next(entry)) {
    if (summary.requests == 0) {
      summary.first_arrival = entry.arrival;
    } else if (in_order && entry.arrival < summary.last_arrival) {
      // Both ends of the clock may be met, and lie further apart than a signed count reaches.
      const auto back = Seconds(static_cast<double>(static_cast<std::uint64_t>(summary.last_arrival) -
                                                    static_cast<std::uint64_t>(entry.arrival)) *
                                1e-12);
      throw Error(reader->where(),
                  fmt::format("the request arrives {} before the one above it; sort the file: {}",
                              to_text(back), reader->sort_command()));
    }
    summary.last_arrival = entry.arrival;
    ++summary.requests;
    summary.input_tokens += entry.input_len;
    summary.output_tokens += entry.output_len;
    summary.longest = std::max(summary.longest, entry.input_len + entry.output_len);
  }
  summary.left_out = reader->left_out();
  if (summary.requests == 0) {
    throw Error(path.string(),
                summary.left_out > 0
                    ? fmt::format("all {} requests failed (no token was produced); give another trace",
                                  with_commas(summary.left_out))
                    : "a header but no requests; the file may have been cut short");
  }
  return summary;
}

}  // namespace foretoken
