// Typed, checked access to a Hugging Face config: sizes, flags, lists, with the key's path in every error,
// and a record of the keys that were read, so that keys which change the cost can't pass unread. Internal.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace foretoken {

// Largest sizes that are believed: every product of them that a count needs stays below 2^63.
inline constexpr std::int64_t kMaxWidth = 1 << 22;  // hidden and intermediate sizes, ranks
inline constexpr std::int64_t kMaxHeads = 1 << 14;
inline constexpr std::int64_t kMaxHeadDim = 1 << 14;
inline constexpr std::int64_t kMaxExperts = 1 << 14;
inline constexpr std::int64_t kMaxLayers = 4096;
inline constexpr std::int64_t kMaxVocab = 1 << 24;
inline constexpr std::int64_t kMaxPositions = std::int64_t{1} << 40;

using KeyList = std::initializer_list<std::string_view>;

class ConfigReader {
 public:
  ConfigReader(const Json& config, std::string where);

  bool has(std::string_view key) const;          // present and not null
  const Json* find(std::string_view key) const;  // marks the key as read; null counts as absent
  std::string_view present(KeyList keys) const;  // first of the keys that is there, else the first
  std::string path(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;

  // Positive whole numbers of at most `max`.
  std::int64_t size(KeyList keys, std::int64_t max = kMaxWidth) const;
  std::int64_t size_or(KeyList keys, std::int64_t otherwise, std::int64_t max = kMaxWidth) const;
  // Whole numbers from 0.
  std::int64_t count_or(KeyList keys, std::int64_t otherwise, std::int64_t max = kMaxWidth) const;
  bool flag_or(KeyList keys, bool otherwise) const;
  double number(std::string_view key) const;  // finite and above 0
  std::string text_or(std::string_view key, const std::string& otherwise) const;
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<std::string>> names(std::string_view key) const;
  std::optional<ConfigReader> object(std::string_view key) const;
  void ignore(KeyList keys) const;

  // Throws for a key that was not read, changes the cost of a layer and is switched on.
  void refuse_unread() const;
  const Json& json() const { return *config_; }
  const std::string& where() const { return where_; }

 private:
  std::int64_t integer(const Json& value, std::string_view key, std::int64_t min, std::int64_t max) const;
  const Json* config_;
  std::string where_;
  mutable std::set<std::string, std::less<>> read_;
};

}  // namespace foretoken
