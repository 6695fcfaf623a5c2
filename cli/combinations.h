// Lists of values where a scenario has one, and their combinations: each is a question of its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/command.h"
#include "cli/output.h"

namespace foretoken {

// A column of the table of combinations: a number or text of the JSON result.
struct AnswerColumn {
  const char *pointer, *key, *title;
  int digits;
  int narrowest = 8;  // as of Column
  bool wrap = false;
};

class Combinations {
 public:
  // Of flags with several values; in_file: and of keys of the scenario's file that hold a list where one
  // value is meant (a flag for the same key wins). Keys that are lists themselves have theirs whole. Throws
  // Error where there are too many.
  Combinations(const Invocation& invocation, bool in_file);

  bool empty() const { return axes_.empty(); }
  std::int64_t size() const { return size_; }
  Invocation at(std::int64_t i) const;   // one value of each; the last axis varies fastest
  Json values_at(std::int64_t i) const;  // {"--flag": value as text}
  std::string describe() const;          // the same text for the same axes
  // The table without rows, and the row of the i-th answer: its JSON, or {"error": text}.
  Table table(std::span<const AnswerColumn> columns) const;
  std::vector<Cell> row(std::int64_t i, const Json& answer, std::span<const AnswerColumn> columns) const;

 private:
  struct Axis {
    std::string flag, pointer;
    bool in_file = false;
    std::vector<Json> values{};
  };
  template <class F>
  void for_each_value(std::int64_t i, F f) const;

  Invocation invocation_;
  std::vector<Axis> axes_;
  std::int64_t size_ = 1;
};

}  // namespace foretoken
