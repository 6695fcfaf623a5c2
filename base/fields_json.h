// Strict reading, writing and JSON Schema of structs with a field table. For .cpp files only.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/fields.h"
#include "base/json_full.h"
#include "base/text.h"

namespace foretoken {

std::string describe_number(double v);
Json limit_json(double v);  // 1, not 1.0, for whole limits
[[noreturn]] void fail_type(const Json& j, const std::string& where, std::string_view expected);
[[noreturn]] void fail_unknown_key(const std::string& key, const std::string& where,
                                   const std::vector<std::string>& known);
void check_limits(double v, const Limits& limits, const std::string& where);
void check_limits(const std::string& v, const Limits& limits, const std::string& where);

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
void read_value(const Json& j, T& out, const Limits& limits, const std::string& where);

// Reads an object over the values that `out` already has; unknown keys are errors with the nearest known one.
// A number stands for the key that shorthand_of names, and leaves nothing of what was there.
template <HasFields T>
void read_fields(const Json& j, T& out, const std::string& where) {
  if (!shorthand_of<T>.empty() && j.is_number()) {
    out = T();
    return read_fields(Json{{std::string(shorthand_of<T>), j}}, out, where);
  }
  if (!j.is_object()) fail_type(j, where, shorthand_of<T>.empty() ? "an object" : "a number or an object");
  for (const auto& item : j.items()) {
    const std::string& key = item.key();
    bool known = false;
    for_each_field<T>([&](const auto& f) {
      if (known || f.name != key) return;
      known = true;
      read_value(item.value(), out.*(f.member), f.limits, where + "/" + key);
    });
    if (!known) fail_unknown_key(key, where + "/" + key, field_names<T>());
  }
}

template <class T>
void read_value(const Json& j, T& out, const Limits& limits, const std::string& where) {
  if constexpr (IsOptional<T>::value) {
    if (j.is_null()) {
      out.reset();
    } else {
      if (!out) out.emplace();
      read_value(j, *out, limits, where);
    }
  } else if constexpr (IsVector<T>::value) {
    if (!j.is_array()) fail_type(j, where, "an array");
    out.clear();
    for (std::size_t i = 0; i < j.size(); ++i) {
      out.emplace_back();
      read_value(j[i], out.back(), limits, where + "/" + std::to_string(i));
    }
  } else if constexpr (std::is_same_v<T, RawJson>) {
    out.text = j.is_null() ? std::string() : j.dump();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!j.is_boolean()) fail_type(j, where, "true or false");
    out = j.get<bool>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!j.is_string()) fail_type(j, where, "a string");
    out = j.get<std::string>();
    check_limits(out, limits, where);
  } else if constexpr (std::is_integral_v<T>) {
    double v = 0;
    if (j.is_number_integer() && !j.is_number_unsigned())
      v = static_cast<double>(j.get<std::int64_t>());
    else if (j.is_number())
      v = j.get<double>();
    else
      fail_type(j, where, "a whole number");
    if (v != std::floor(v)) fail_type(j, where, "a whole number");
    check_limits(v, limits, where);
    // Beyond 2^53 a double no longer tells neighbours apart.
    constexpr double kExact = 9007199254740992.0;
    if (v < std::max(-kExact, static_cast<double>(std::numeric_limits<T>::min())))
      throw Error(where, describe_number(v) + " is too small");
    if (v > std::min(kExact, static_cast<double>(std::numeric_limits<T>::max())))
      throw Error(where, describe_number(v) + " is too large");
    out = static_cast<T>(v);
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!j.is_number()) fail_type(j, where, "a number");
    const double v = j.get<double>();
    if (std::abs(v) > static_cast<double>(std::numeric_limits<T>::max()))
      throw Error(where, describe_number(v) + " is too large");
    check_limits(v, limits, where);
    out = static_cast<T>(v);
  } else {
    static_assert(HasFields<T>, "member type has no reader and no field table");
    read_fields(j, out, where);
  }
}

template <class T>
Json write_value(const T& v) {
  if constexpr (IsOptional<T>::value) {
    return v ? write_value(*v) : Json(nullptr);
  } else if constexpr (IsVector<T>::value) {
    Json out = Json::array();
    for (const auto& e : v) out.push_back(write_value(e));
    return out;
  } else if constexpr (std::is_same_v<T, RawJson>) {
    return v.text.empty() ? Json(nullptr) : Json::parse(v.text);
  } else if constexpr (HasFields<T>) {
    Json out = Json::object();
    for_each_field<T>([&](const auto& f) { out[std::string(f.name)] = write_value(v.*(f.member)); });
    return out;
  } else {
    return Json(v);
  }
}

// JSON Schema (draft 2020-12) of a type with its limits.
template <class T>
Json schema_of(const Limits& limits = {}) {
  Json s = Json::object();
  if constexpr (IsOptional<T>::value) {
    s["anyOf"] = Json::array({schema_of<typename T::value_type>(limits), Json{{"type", "null"}}});
    return s;
  } else if constexpr (IsVector<T>::value) {
    s["type"] = "array";
    s["items"] = schema_of<typename T::value_type>(limits);
  } else if constexpr (std::is_same_v<T, RawJson>) {
    return s;
  } else if constexpr (std::is_same_v<T, bool>) {
    s["type"] = "boolean";
  } else if constexpr (std::is_same_v<T, std::string>) {
    s["type"] = "string";
    if (!limits.one_of.empty()) {
      s["enum"] = Json::array();
      for (auto name : limits.one_of) s["enum"].push_back(std::string(name));
    }
  } else if constexpr (std::is_arithmetic_v<T>) {
    s["type"] = std::is_integral_v<T> ? "integer" : "number";
    if (std::isfinite(limits.min))
      s[limits.exclusive_min ? "exclusiveMinimum" : "minimum"] = limit_json(limits.min);
    if (std::isfinite(limits.max)) s["maximum"] = limit_json(limits.max);
  } else {
    s["type"] = "object";
    s["additionalProperties"] = false;
    s["properties"] = Json::object();
    for_each_field<T>([&](const auto& f) {
      using M = std::remove_cvref_t<decltype(std::declval<T>().*(f.member))>;
      Json p = schema_of<M>(f.limits);
      p["description"] = std::string(f.help);
      s["properties"][std::string(f.name)] = std::move(p);
    });
    if (!shorthand_of<T>.empty()) {
      Json number = s["properties"][std::string(shorthand_of<T>)];
      return Json{{"anyOf", Json::array({std::move(number), std::move(s)})}};
    }
  }
  return s;
}

}  // namespace foretoken
