// Text tools: see text.h.
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/random.h"

namespace foretoken {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
char lower_char(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string_view without_plus(std::string_view s) {
  // std::from_chars refuses a leading '+', people and spreadsheets write it.
  if (s.size() > 1 && s[0] == '+' && s[1] != '-' && s[1] != '+') s.remove_prefix(1);
  return s;
}

}  // namespace

std::string_view trim(std::string_view s) {
  while (!s.empty() && is_space(s.front())) s.remove_prefix(1);
  while (!s.empty() && is_space(s.back())) s.remove_suffix(1);
  return s;
}

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) c = lower_char(c);
  return out;
}

std::vector<std::string> split(std::string_view s, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const auto at = s.find(separator);
    parts.emplace_back(s.substr(0, at));
    if (at == std::string_view::npos) return parts;
    s.remove_prefix(at + 1);
  }
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

bool iequals(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower_char(x) == lower_char(y); });
}

int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the optimal-alignment matrix: a transposition looks two rows back.
  const std::size_t n = b.size();
  std::vector<int> before(n + 1), last(n + 1), row(n + 1);
  for (std::size_t j = 0; j <= n; ++j) last[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= n; ++j) {
      const int substitution = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({substitution, last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[n];
}

std::string nearest(std::string_view name, std::span<const std::string> candidates) {
  constexpr std::size_t kLongestName = 200;  // longer input is no misspelt name, and the cost is quadratic
  constexpr std::size_t kShortestBeginning = 4;
  if (name.size() > kLongestName) return "";
  const std::string wanted = lower(name);
  const int allowed = std::max(2, static_cast<int>(name.size()) / 3);
  std::string best;
  int best_distance = allowed + 1;
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(wanted, lower(candidate));
    // Replacing every letter of a short name is no resemblance.
    if (distance >= best_distance || distance >= static_cast<int>(std::max<std::size_t>(name.size(), 1)))
      continue;
    best_distance = distance;
    best = candidate;
  }
  if (!best.empty() || wanted.size() < kShortestBeginning) return best;
  // The beginning of a longer name ("goodput"), where there is one such, is taken for it, too.
  for (const std::string& candidate : candidates) {
    if (!lower(candidate).starts_with(wanted)) continue;
    if (!best.empty()) return "";
    best = candidate;
  }
  return best;
}

std::string did_you_mean(std::string_view name, std::span<const std::string> candidates) {
  const std::string best = nearest(name, candidates);
  return best.empty() ? "" : fmt::format("; did you mean \"{}\"?", best);
}

std::optional<double> parse_double(std::string_view s) {
  s = without_plus(s);
  double v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc{} || end != s.data() + s.size() || !std::isfinite(v)) return std::nullopt;
  return v;
}

std::optional<std::int64_t> parse_int(std::string_view s) {
  s = without_plus(s);
  std::int64_t v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc{} || end != s.data() + s.size()) return std::nullopt;
  return v;
}

std::string with_commas(std::int64_t n) {
  std::string digits = fmt::format("{}", n);
  const std::size_t first = n < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string significant(double v, int digits) {
  if (!std::isfinite(v)) return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
  if (v == 0) return "0";
  // The exponent after rounding: 9.996 with three digits is 10.0.
  const std::string scientific = fmt::format("{:.{}e}", v, std::max(digits, 1) - 1);
  const int exponent = static_cast<int>(*parse_int(scientific.substr(scientific.find('e') + 1)));
  if (exponent < -5 || exponent >= 15) return fmt::format("{:.{}g}", v, std::max(digits, 1));
  std::string out = fmt::format("{:.{}f}", v, std::max(0, digits - 1 - exponent));
  if (out.find('.') != std::string::npos) {
    while (out.back() == '0') out.pop_back();
    if (out.back() == '.') out.pop_back();
  }
  return out;
}

std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t seed) {
  std::uint64_t hash = mix64(seed + 0x9e3779b97f4a7c15u);
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    std::uint64_t word = 0;  // little-endian whatever the machine
    for (std::size_t k = 0; k < 8 && i + k < bytes.size(); ++k)
      word |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i + k])) << (8 * k);
    hash = mix64(hash * 0x9e3779b97f4a7c15u + word);
  }
  return mix64(hash ^ bytes.size());
}

}  // namespace foretoken
