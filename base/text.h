// Small text tools shared by readers and writers: splitting, nearest name, number formatting.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken {

std::string_view trim(std::string_view s);
std::string lower(std::string_view s);
std::vector<std::string> split(std::string_view s, char separator);
std::string join(std::span<const std::string> parts, std::string_view separator);
bool iequals(std::string_view a, std::string_view b);

// Levenshtein distance with transpositions; nearest() returns "" when nothing is close enough to suggest.
int edit_distance(std::string_view a, std::string_view b);
std::string nearest(std::string_view name, std::span<const std::string> candidates);
// "; did you mean \"x\"?" or "".
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

// Whole-string parses; nullopt on anything else (empty, trailing text, NaN, infinity, overflow).
std::optional<double> parse_double(std::string_view s);
std::optional<std::int64_t> parse_int(std::string_view s);

// 1234567 -> "1,234,567". significant(0.0123456, 3) -> "0.0123".
std::string with_commas(std::int64_t n);
std::string significant(double v, int digits);

// 64-bit mixing of bytes (not cryptographic), the same on every machine; for digests and seeds.
std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t seed = 0);

}  // namespace foretoken
