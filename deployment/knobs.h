// Checks of keys that only some systems know, and of those that are another key under a system's own name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "deployment/behavior.h"

namespace foretoken {

class Knobs {
 public:
  Knobs(const Behavior& behavior, const std::string& where) : behavior_(behavior), at_(where + "/engine/") {}

  // families: whose knob it is, with spaces in between.
  template <class T>
  void only(const std::optional<T>& own, std::string_view key, std::string_view families) const {
    if (own) check_family(key, families);
  }
  // own: the same as `common` under another name.
  template <class T>
  void alias(const std::optional<T>& own, std::string_view key, std::string_view families,
             std::optional<T>& common, std::string_view common_key) const {
    only(own, key, families);
    if (!own) return;
    if (common && *common != *own) fail_differs(key, text(*own), common_key, text(*common));
    common = *own;
  }
  void negated(const std::optional<bool>& own, std::string_view key, std::optional<bool>& common,
               std::string_view common_key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;

 private:
  void check_family(std::string_view key, std::string_view families) const;
  [[noreturn]] void fail_differs(std::string_view key, const std::string& own, std::string_view common_key,
                                 const std::string& common) const;
  static std::string text(std::int64_t value);
  static std::string text(double value);
  static std::string text(bool value);

  const Behavior& behavior_;
  std::string at_;
};

}  // namespace foretoken
