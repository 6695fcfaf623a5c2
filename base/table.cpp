// Writers of result tables: aligned text, Markdown, CSV and HTML.
#include "base/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string_view>

#include "base/csv.h"
#include "base/text.h"

namespace foretoken {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Code points: every character that tables contain is one column wide.
std::size_t display_width(std::string_view s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return !is_continuation(c); }));
}

std::string shorten(const std::string& s, std::size_t width) {
  if (display_width(s) <= width) return s;
  std::size_t shown = 0, at = 0;
  for (; at < s.size(); ++at) {
    if (is_continuation(s[at])) continue;
    if (shown + 1 >= width) break;
    ++shown;
  }
  return s.substr(0, at) + "…";
}

std::string pad(const std::string& s, std::size_t width, bool right) {
  const std::size_t used = display_width(s);
  const std::string fill(width > used ? width - used : 0, ' ');
  return right ? fill + s : s + fill;
}

std::string one_line(std::string s) {
  for (char& c : s)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return s;
}

std::string cell_text(const Cell& cell, const Column& column) {
  if (const auto* n = std::get_if<std::int64_t>(&cell)) return with_commas(*n);
  if (const auto* v = std::get_if<double>(&cell))
    return std::isnan(*v) ? "-" : significant(*v, column.digits);
  if (const auto* b = std::get_if<bool>(&cell)) return *b ? "yes" : "no";
  if (const auto* s = std::get_if<std::string>(&cell)) return one_line(*s);
  return "-";
}

// Rows as text, filled up to the number of columns, and which columns hold numbers only.
struct Layout {
  std::vector<std::vector<std::string>> rows;
  std::vector<bool> numeric;
};

Layout lay_out(const Table& table) {
  Layout layout;
  const std::size_t n = table.columns.size();
  layout.numeric.assign(n, false);
  std::vector<bool> text(n, false);
  for (const auto& row : table.rows) {
    if (row.size() > n) throw std::logic_error("a table row has more cells than columns");
    auto& out = layout.rows.emplace_back();
    for (std::size_t c = 0; c < n; ++c) {
      const Cell cell = c < row.size() ? row[c] : Cell{};
      out.push_back(cell_text(cell, table.columns[c]));
      if (std::holds_alternative<std::int64_t>(cell) || std::holds_alternative<double>(cell))
        layout.numeric[c] = true;
      else if (!std::holds_alternative<std::monostate>(cell))
        text[c] = true;
    }
  }
  for (std::size_t c = 0; c < n; ++c) layout.numeric[c] = layout.numeric[c] && !text[c];
  return layout;
}

// A long cell in lines of at most `width`, broken within a word only where the word is longer.
std::vector<std::string> wrap_cell(const std::string& cell, std::size_t width) {
  std::vector<std::string> lines;
  for (std::string word : split(cell, ' ')) {
    if (!lines.empty() && display_width(lines.back()) + 1 + display_width(word) <= width) {
      lines.back() += " " + word;
      continue;
    }
    while (display_width(word) > width) {
      std::size_t shown = 0, at = 0;
      for (; at < word.size(); ++at)
        if (!is_continuation(word[at]) && shown++ == width) break;
      lines.push_back(word.substr(0, at));
      word.erase(0, at);
    }
    lines.push_back(word);
  }
  if (lines.empty()) lines.emplace_back();
  return lines;
}

// Words of a column title in lines of at most `width`.
std::vector<std::string> wrap(const std::string& title, std::size_t width) {
  std::vector<std::string> lines;
  for (const std::string& word : split(title, ' ')) {
    if (lines.empty() || display_width(lines.back()) + 1 + display_width(word) > width)
      lines.push_back(word);
    else
      lines.back() += " " + word;
  }
  return lines;
}

std::size_t total_width(const std::vector<std::size_t>& widths) {
  std::size_t total = widths.empty() ? 0 : 2 * (widths.size() - 1);
  for (const std::size_t w : widths) total += w;
  return total;
}

std::vector<std::size_t> column_widths(const Table& table, const Layout& layout, std::size_t limit) {
  const std::size_t n = table.columns.size();
  std::vector<std::size_t> cells(n, 1), widths(n);
  for (const auto& row : layout.rows)
    for (std::size_t c = 0; c < n; ++c) cells[c] = std::max(cells[c], display_width(row[c]));
  for (std::size_t c = 0; c < n; ++c) widths[c] = std::max(cells[c], display_width(table.columns[c].title));
  if (limit == 0 || total_width(widths) <= limit) return widths;

  // First break the titles, then shorten the widest text column, one character at a time.
  std::vector<std::size_t> words(n, 1);
  for (std::size_t c = 0; c < n; ++c) {
    for (const std::string& word : split(table.columns[c].title, ' '))
      words[c] = std::max(words[c], display_width(word));
    widths[c] = std::max(cells[c], words[c]);
  }
  std::vector<std::size_t> least(n);
  for (std::size_t c = 0; c < n; ++c)
    least[c] = std::max(static_cast<std::size_t>(table.columns[c].narrowest), words[c]);
  const auto narrow = [&](const std::vector<std::size_t>& floors) {
    while (total_width(widths) > limit) {
      std::size_t widest = n;
      for (std::size_t c = 0; c < n; ++c)
        if (!layout.numeric[c] && widths[c] > floors[c] && (widest == n || widths[c] > widths[widest]))
          widest = c;
      if (widest == n) break;
      --widths[widest];
    }
  };
  // Columns that wrap keep their longest word in one piece while there is room.
  std::vector<std::size_t> whole_words = least;
  for (std::size_t c = 0; c < n; ++c) {
    if (!table.columns[c].wrap) continue;
    for (const auto& row : layout.rows)
      for (const std::string& word : split(row[c], ' '))
        whole_words[c] = std::max(whole_words[c], display_width(word));
  }
  narrow(whole_words);
  narrow(least);
  return widths;
}

std::string text_line(const std::vector<std::string>& cells, const std::vector<std::size_t>& widths,
                      const std::vector<bool>& right) {
  std::string line;
  for (std::size_t c = 0; c < cells.size(); ++c) {
    if (c > 0) line += "  ";
    line += pad(shorten(cells[c], widths[c]), widths[c], right[c]);
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line + "\n";
}

std::string escape_html(std::string_view s) {
  std::string out;
  for (const char c : s) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string escape_markdown(std::string_view s) {
  std::string out;
  for (const char c : s) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string to_text(const Table& table, int width) {
  const Layout layout = lay_out(table);
  const auto widths = column_widths(table, layout, static_cast<std::size_t>(std::max(width, 0)));
  const std::size_t n = table.columns.size();

  std::string out;
  if (!table.title.empty()) out += table.title + "\n\n";
  std::vector<std::vector<std::string>> titles;
  std::size_t height = 1;
  for (std::size_t c = 0; c < n; ++c) {
    titles.push_back(wrap(table.columns[c].title, widths[c]));
    height = std::max(height, titles.back().size());
  }
  for (std::size_t line = 0; line < height; ++line) {
    std::vector<std::string> cells(n);
    for (std::size_t c = 0; c < n; ++c) {
      const std::size_t missing = height - titles[c].size();  // titles stand on the rule
      if (line >= missing) cells[c] = titles[c][line - missing];
    }
    out += text_line(cells, widths, layout.numeric);
  }
  std::vector<std::string> rule;
  for (const std::size_t w : widths) rule.emplace_back(w, '-');
  out += text_line(rule, widths, layout.numeric);
  for (const auto& row : layout.rows) {
    std::vector<std::vector<std::string>> cells(n);
    std::size_t lines = 1;
    for (std::size_t c = 0; c < n; ++c) {
      if (table.columns[c].wrap && display_width(row[c]) > widths[c])
        cells[c] = wrap_cell(row[c], widths[c]);
      else
        cells[c] = {row[c]};
      lines = std::max(lines, cells[c].size());
    }
    for (std::size_t line = 0; line < lines; ++line) {
      std::vector<std::string> part(n);
      for (std::size_t c = 0; c < n; ++c)
        if (line < cells[c].size()) part[c] = cells[c][line];
      out += text_line(part, widths, layout.numeric);
    }
  }
  if (!table.notes.empty()) out += "\n";
  // A note that begins with a space (a command to copy) stays in one piece.
  for (const auto& note : table.notes)
    out += (width > 0 && !note.starts_with(' ') ? join(wrap(note, static_cast<std::size_t>(width)), "\n")
                                                : note) +
           "\n";
  return out;
}

std::string to_markdown(const Table& table) {
  const Layout layout = lay_out(table);
  std::string out;
  if (!table.title.empty()) out += "## " + table.title + "\n\n";
  out += "|";
  for (const auto& column : table.columns) out += fmt::format(" {} |", escape_markdown(column.title));
  out += "\n|";
  for (std::size_t c = 0; c < table.columns.size(); ++c) out += layout.numeric[c] ? " ---: |" : " :--- |";
  out += "\n";
  for (const auto& row : layout.rows) {
    out += "|";
    for (const auto& cell : row) out += fmt::format(" {} |", escape_markdown(cell));
    out += "\n";
  }
  for (const auto& note : table.notes) out += "\n" + note + "\n";
  return out;
}

std::string to_csv(const Table& table) {
  std::string out;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    if (c > 0) out += ',';
    out += csv_cell(table.columns[c].key);
  }
  out += '\n';
  for (const auto& row : table.rows) {
    if (row.size() > table.columns.size()) throw std::logic_error("a table row has more cells than columns");
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      if (c > 0) out += ',';
      if (c >= row.size()) continue;
      if (const auto* n = std::get_if<std::int64_t>(&row[c])) {
        out += fmt::format("{}", *n);
      } else if (const auto* v = std::get_if<double>(&row[c])) {
        if (std::isfinite(*v)) out += fmt::format("{}", *v);
      } else if (const auto* b = std::get_if<bool>(&row[c])) {
        out += *b ? "true" : "false";
      } else if (const auto* s = std::get_if<std::string>(&row[c])) {
        out += csv_cell(*s);
      }
    }
    out += '\n';
  }
  return out;
}

std::string to_html(const Table& table) {
  const Layout layout = lay_out(table);
  const auto cell = [&](const char* tag, const std::string& text, std::size_t c) {
    return fmt::format("<{0}{1}>{2}</{0}>", tag, layout.numeric[c] ? " class=\"number\"" : "",
                       escape_html(text));
  };
  std::string out;
  if (!table.title.empty()) out += "<h2>" + escape_html(table.title) + "</h2>\n";
  out += "<table>\n<thead><tr>";
  for (std::size_t c = 0; c < table.columns.size(); ++c) out += cell("th", table.columns[c].title, c);
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : layout.rows) {
    out += "<tr>";
    for (std::size_t c = 0; c < row.size(); ++c) out += cell("td", row[c], c);
    out += "</tr>\n";
  }
  out += "</tbody>\n</table>\n";
  for (const auto& note : table.notes) out += "<p class=\"note\">" + escape_html(note) + "</p>\n";
  return out;
}

}  // namespace foretoken
