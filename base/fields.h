// Field tables: one constexpr tuple per configuration struct says each member's name, meaning and limits. The
// strict JSON reader, the writer, the JSON Schema (fields_json.h), the command-line flags and the reference
// page are derived from it.
//
//   struct EngineConfig { int tensor_parallel_size = 1; };
//   template <> inline constexpr auto fields_of<EngineConfig> = std::tuple{
//       field("tensor_parallel_size", &EngineConfig::tensor_parallel_size, "devices that split every layer",
//             at_least(1))};
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

namespace foretoken {

struct Limits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool exclusive_min = false;
  std::span<const std::string_view> one_of = {};
};
constexpr Limits no_limits() { return {}; }
constexpr Limits at_least(double v) { return {.min = v}; }
constexpr Limits above(double v) { return {.min = v, .exclusive_min = true}; }
constexpr Limits between(double low, double high) { return {.min = low, .max = high}; }
constexpr Limits above_up_to(double low, double high) {
  return {.min = low, .max = high, .exclusive_min = true};
}
constexpr Limits one_of(std::span<const std::string_view> names) { return {.one_of = names}; }

template <class T, class M>
struct Field {
  std::string_view name;
  M T::*member;
  std::string_view help;
  Limits limits;
};
template <class T, class M>
constexpr Field<T, M> field(std::string_view name, M T::*member, std::string_view help, Limits limits = {}) {
  return {name, member, help, limits};
}

template <class T>
inline constexpr std::tuple<> fields_of{};

// The key that a plain number in the object's place stands for; empty where it has to be an object.
template <class T>
inline constexpr std::string_view shorthand_of{};

template <class T>
concept HasFields = std::tuple_size_v<std::remove_cvref_t<decltype(fields_of<T>)>> >
0;

// A JSON value kept as text, for members whose shape is not fixed (an inline model config, a search space).
struct RawJson {
  std::string text;  // empty: absent
  bool operator==(const RawJson&) const = default;
};

template <class T, class Visitor>
constexpr void for_each_field(Visitor&& visit) {
  std::apply([&](const auto&... f) { (visit(f), ...); }, fields_of<T>);
}

template <class T>
std::vector<std::string> field_names() {
  std::vector<std::string> names;
  for_each_field<T>([&](const auto& f) { names.emplace_back(f.name); });
  return names;
}

}  // namespace foretoken
