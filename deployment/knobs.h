// Checks of keys that only some systems know, and of those that are another key under a system's own name.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "deployment/block_systems.h"

namespace foretoken {

class Knobs {
 public:
  Knobs(const Behavior& behavior, const std::string& where) : behavior_(behavior), at_(where + "/engine/") {}

  // families: whose knob it is, with spaces in between.
  template <class T>
  void only(const std::optional<T>& own, std::string_view key, std::string_view families) const {
    if (!own) return;
    const std::vector<std::string> known = split(std::string(families), ' ');
    if (std::find(known.begin(), known.end(), behavior_.family) != known.end()) return;
    std::vector<std::string> titles;
    for (const std::string& family : known) titles.push_back(title(family));
    fail(key, fmt::format("is a knob of {}, and the behaviour is {}; leave it out", join(titles, ", "),
                          behavior_.name));
  }
  // own: the same as `common` under another name.
  template <class T>
  void alias(const std::optional<T>& own, std::string_view key, std::string_view families,
             std::optional<T>& common, std::string_view common_key) const {
    only(own, key, families);
    if (!own) return;
    if (common && *common != *own)
      fail(key, fmt::format("is {}, and {} is {}: they mean the same; give one", *own, common_key, *common));
    common = *own;
  }
  void negated(const std::optional<bool>& own, std::string_view key, std::optional<bool>& common,
               std::string_view common_key) const {
    only(own, key, "sglang");
    if (!own) return;
    if (common && *common == *own)
      fail(key,
           fmt::format("is {}, and {} is {} too: they contradict each other", *own, common_key, *common));
    common = !*own;
  }
  [[noreturn]] void fail(std::string_view key, const std::string& message) const {
    throw Error(at_ + std::string(key), message);
  }

 private:
  static std::string title(const std::string& family) {
    if (const auto block = block_system_title(family); !block.empty()) return std::string(block);
    return family == "sglang" ? "SGLang" : family == "trtllm" ? "TensorRT-LLM" : "vLLM";
  }

  const Behavior& behavior_;
  std::string at_;
};

}  // namespace foretoken
