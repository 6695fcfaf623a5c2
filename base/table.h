// A result as data: titled columns and typed cells. Writers turn it into text, Markdown, CSV, JSON or HTML.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace foretoken {

enum class Format { kText, kMarkdown, kCsv, kJson, kHtml };

// monostate prints as "-" (empty in CSV, null in JSON).
using Cell = std::variant<std::monostate, std::int64_t, double, bool, std::string>;

struct Column {
  std::string key;    // machine name, with its unit: "mean_ttft_ms"
  std::string title;  // for people: "TTFT mean (ms)"
  int digits = 4;     // significant digits of doubles in text and Markdown
  bool wrap = false;  // text cells that are too long go over several lines instead of being cut
  int narrowest = 8;  // characters of a text cell that stay, however wide the table gets
};

struct Table {
  std::string title;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;
  std::vector<std::string> notes;  // printed below

  void add(std::vector<Cell> row) { rows.push_back(std::move(row)); }
};

// width: text tables wider than this get their widest text column narrowed; 0 is unlimited.
std::string to_text(const Table& table, int width = 100);
std::string to_markdown(const Table& table);
std::string to_csv(const Table& table);
std::string to_html(const Table& table);  // a fragment: <h2>, <table>, notes
// The JSON form is an array of objects, made by json.h's to_json(const Table&).

}  // namespace foretoken
