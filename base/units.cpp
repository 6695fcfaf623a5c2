// Parsing and printing of quantities with units.
#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace foretoken {
namespace {

enum class Dimension { kBytes, kBandwidth, kFlopsRate, kDuration };

struct DimensionText {
  Dimension dimension;
  const char* name;
  const char* example;
};
constexpr std::array kDimensions{
    DimensionText{Dimension::kBytes, "a size", "80 GiB"},
    DimensionText{Dimension::kBandwidth, "a bandwidth", "600 GB/s"},
    DimensionText{Dimension::kFlopsRate, "an arithmetic rate", "989.4 TFLOP/s"},
    DimensionText{Dimension::kDuration, "a duration", "2.5 us"},
};
const DimensionText& text_of(Dimension d) { return kDimensions[static_cast<std::size_t>(d)]; }

struct Unit {
  std::string name;
  Dimension dimension;
  int exponent;   // power of ten, joined to the number's text so that "4.8 TB/s" is exactly 4.8e12
  double factor;  // what is no power of ten: powers of 1024, 60, 1/8
};

std::vector<Unit> all_units() {
  struct Prefix {
    const char* name;
    int exponent;
  };
  constexpr std::array kPrefixes{Prefix{"", 0},  Prefix{"k", 3},  Prefix{"K", 3},  Prefix{"M", 6},
                                 Prefix{"G", 9}, Prefix{"T", 12}, Prefix{"P", 15}, Prefix{"E", 18}};
  std::vector<Unit> units;
  for (const auto& p : kPrefixes) {
    const std::string prefix = p.name;
    units.push_back({prefix + "B", Dimension::kBytes, p.exponent, 1});
    units.push_back({prefix + "B/s", Dimension::kBandwidth, p.exponent, 1});
    units.push_back({prefix + "bit/s", Dimension::kBandwidth, p.exponent, 0.125});
    for (const char* rate : {"FLOP/s", "FLOPS", "OP/s", "OPS"})
      units.push_back({prefix + rate, Dimension::kFlopsRate, p.exponent, 1});
  }
  double factor = 1;
  for (const char* prefix : {"Ki", "Mi", "Gi", "Ti", "Pi"}) {
    factor *= 1024;
    units.push_back({std::string(prefix) + "B", Dimension::kBytes, 0, factor});
    units.push_back({std::string(prefix) + "B/s", Dimension::kBandwidth, 0, factor});
  }
  const Unit durations[] = {
      {"s", Dimension::kDuration, 0, 1},        {"ms", Dimension::kDuration, -3, 1},
      {"us", Dimension::kDuration, -6, 1},      {"\u00b5s", Dimension::kDuration, -6, 1},
      {"\u03bcs", Dimension::kDuration, -6, 1}, {"ns", Dimension::kDuration, -9, 1},
      {"ps", Dimension::kDuration, -12, 1},     {"min", Dimension::kDuration, 0, 60},
      {"h", Dimension::kDuration, 0, 3600},
  };
  units.insert(units.end(), std::begin(durations), std::end(durations));
  return units;
}

std::string such_as(Dimension d) {
  return fmt::format("write {} such as \"{}\"", text_of(d).name, text_of(d).example);
}

// "4.8" and 12 -> 4.8e12, correctly rounded; an exponent in the text is added to.
std::optional<double> scaled(std::string_view number, int exponent) {
  std::int64_t own = 0;
  std::string_view mantissa = number;
  if (const auto e = number.find_first_of("eE"); e != std::string_view::npos) {
    const auto parsed = parse_int(number.substr(e + 1));
    if (!parsed || *parsed > 100'000 || *parsed < -100'000) return std::nullopt;
    own = *parsed;
    mantissa = number.substr(0, e);
  }
  return parse_double(fmt::format("{}e{}", mantissa, own + exponent));
}

[[noreturn]] void fail_unit(std::string_view unit, Dimension wanted, const std::vector<Unit>& units,
                            const std::string& where) {
  std::vector<std::string> names;
  for (const Unit& u : units) {
    if (u.name == unit)
      throw Error(where, fmt::format("\"{}\" is the unit of {}; {}", unit, text_of(u.dimension).name,
                                     such_as(wanted)));
    if (u.dimension == wanted) names.push_back(u.name);
  }
  throw Error(where,
              fmt::format("unknown unit \"{}\"{}; {}", unit, did_you_mean(unit, names), such_as(wanted)));
}

double parse(std::string_view text, Dimension wanted, const std::string& where) {
  const std::string_view all = trim(text);
  std::string_view s = all;
  if (!s.empty() && s[0] == '+') s.remove_prefix(1);
  double v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error == std::errc::invalid_argument)
    throw Error(where, fmt::format("\"{}\" does not begin with a number; {}", all, such_as(wanted)));
  const std::string_view number = s.substr(0, static_cast<std::size_t>(end - s.data()));
  const std::string_view unit = trim(s.substr(number.size()));
  if (std::isnan(v) || std::isinf(v))
    throw Error(where, fmt::format("\"{}\" is not a finite number; {}", all, such_as(wanted)));
  if (number[0] == '-') throw Error(where, fmt::format("\"{}\" is negative; {}", all, such_as(wanted)));
  if (unit.empty()) throw Error(where, fmt::format("\"{}\" has no unit; {}", all, such_as(wanted)));

  const std::vector<Unit> units = all_units();
  for (const Unit& u : units) {
    if (u.dimension != wanted || u.name != unit) continue;
    const auto value = scaled(number, u.exponent);
    if (!value || !std::isfinite(*value * u.factor))
      throw Error(where, fmt::format("\"{}\" is out of range; {}", all, such_as(wanted)));
    return *value * u.factor;
  }
  fail_unit(unit, wanted, units, where);
}

struct Step {
  double scale;
  const char* unit;
};

// The largest step not above the value after rounding to `digits`: 999.96e9 is "1 T", not "1000 G".
std::string with_prefix(double v, std::span<const Step> steps, int digits, double base) {
  if (v == 0 || !std::isfinite(v)) return fmt::format("{}{}", significant(v, digits), steps.back().unit);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double scaled_value = v / steps[i].scale;
    if (std::abs(scaled_value) < 1 && i + 1 < steps.size()) continue;
    const std::string text = significant(scaled_value, digits);
    if (i > 0 && parse_double(text).value_or(0) >= base)
      return fmt::format("{}{}", significant(v / steps[i - 1].scale, digits), steps[i - 1].unit);
    return text + steps[i].unit;
  }
  return significant(v, digits);
}

}  // namespace

Picoseconds to_picoseconds(Seconds s) {
  const double picos = s.value * kPicosPerSecond;
  constexpr double kLimit = 9223372036854775808.0;  // 2^63
  if (!(picos < kLimit)) return std::numeric_limits<Picoseconds>::max();
  if (picos <= -kLimit) return std::numeric_limits<Picoseconds>::min();
  return std::llround(picos);
}

Bytes parse_bytes(std::string_view text, const std::string& where) {
  return Bytes(parse(text, Dimension::kBytes, where));
}
BytesPerSecond parse_bandwidth(std::string_view text, const std::string& where) {
  return BytesPerSecond(parse(text, Dimension::kBandwidth, where));
}
FlopsPerSecond parse_flops_rate(std::string_view text, const std::string& where) {
  return FlopsPerSecond(parse(text, Dimension::kFlopsRate, where));
}
Seconds parse_duration(std::string_view text, const std::string& where) {
  return Seconds(parse(text, Dimension::kDuration, where));
}

std::string to_text(Bytes b) {
  constexpr std::array kSteps{Step{1024 * kTiB, " PiB"}, Step{kTiB, " TiB"}, Step{kGiB, " GiB"},
                              Step{kMiB, " MiB"},        Step{kKiB, " KiB"}, Step{1, " B"}};
  return with_prefix(b.value, kSteps, 4, 1024);
}
std::string to_text(BytesPerSecond b) {
  constexpr std::array kSteps{Step{1e15, " PB/s"}, Step{1e12, " TB/s"}, Step{1e9, " GB/s"},
                              Step{1e6, " MB/s"},  Step{1e3, " kB/s"},  Step{1, " B/s"}};
  return with_prefix(b.value, kSteps, 3, 1000);
}
std::string to_text(FlopsPerSecond f) {
  constexpr std::array kSteps{Step{1e18, " EFLOP/s"}, Step{1e15, " PFLOP/s"}, Step{1e12, " TFLOP/s"},
                              Step{1e9, " GFLOP/s"},  Step{1e6, " MFLOP/s"},  Step{1, " FLOP/s"}};
  return with_prefix(f.value, kSteps, 3, 1000);
}
std::string to_text(Seconds s) {
  if (s.value == 0) return "0 s";
  constexpr std::array kSteps{Step{1, " s"}, Step{1e-3, " ms"}, Step{1e-6, " us"}, Step{1e-9, " ns"},
                              Step{1e-12, " ps"}};
  return with_prefix(s.value, kSteps, 3, 1000);
}
std::string count_text(double n) {
  constexpr std::array kSteps{Step{1e12, " T"}, Step{1e9, " B"}, Step{1e6, " M"}, Step{1e3, " k"},
                              Step{1, ""}};
  return with_prefix(n, kSteps, 3, 1000);
}

}  // namespace foretoken
