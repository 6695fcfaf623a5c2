// Messages of the strict field reader: see fields_json.h.
#include "base/fields_json.h"

#include <fmt/format.h>

namespace foretoken {
namespace {

const char* type_name(const Json& j) {
  if (j.is_null()) return "null";
  if (j.is_boolean()) return "the value";
  if (j.is_number()) return "the number";
  if (j.is_string()) return "the string";
  return j.is_array() ? "the array" : "the object";
}

}  // namespace

std::string describe_number(double v) { return fmt::format("{}", v); }

Json limit_json(double v) {
  if (v == std::floor(v) && std::abs(v) < 1e15) return Json(static_cast<std::int64_t>(v));
  return Json(v);
}

void fail_type(const Json& j, const std::string& where, std::string_view expected) {
  if (j.is_null()) throw Error(where, fmt::format("{} is expected, not null", expected));
  constexpr std::size_t kShown = 40;
  std::string text =
      j.dump(-1, ' ', true, Json::error_handler_t::replace);  // ASCII, so that it can be cut anywhere
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  throw Error(where, fmt::format("{} is expected, not {} {}", expected, type_name(j), text));
}

void fail_unknown_key(const std::string& key, const std::string& where,
                      const std::vector<std::string>& known) {
  const std::string near = did_you_mean(key, known);
  throw Error(where, "unknown key" + (near.empty() ? "; known keys: " + join(known, ", ") : near));
}

void check_limits(double v, const Limits& limits, const std::string& where) {
  const bool low_enough = v <= limits.max;
  const bool high_enough = limits.exclusive_min ? v > limits.min : v >= limits.min;
  if (low_enough && high_enough) return;
  const std::string shown = describe_number(v), min = describe_number(limits.min),
                    max = describe_number(limits.max);
  if (std::isfinite(limits.min) && std::isfinite(limits.max))
    throw Error(where,
                fmt::format("{} is outside {}{}, {}]", shown, limits.exclusive_min ? '(' : '[', min, max));
  if (std::isfinite(limits.max))
    throw Error(where, fmt::format("{} is too large; at most {} is accepted", shown, max));
  throw Error(where, fmt::format("{} is too small; {} {} is accepted", shown,
                                 limits.exclusive_min ? "a value above" : "at least", min));
}

void check_limits(const std::string& v, const Limits& limits, const std::string& where) {
  if (limits.one_of.empty()) return;
  std::vector<std::string> names;
  for (const std::string_view name : limits.one_of) {
    if (name == v) return;
    names.emplace_back(name);
  }
  throw Error(where, fmt::format("\"{}\" is not one of {}{}", v, join(names, ", "), did_you_mean(v, names)));
}

}  // namespace foretoken
