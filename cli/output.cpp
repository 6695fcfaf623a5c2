#include "cli/output.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace foretoken {
namespace {

Format format_of(const Invocation& invocation) {
  const std::string name = invocation.value("output").value_or("text");
  if (name == "md") return Format::kMarkdown;
  if (name == "csv") return Format::kCsv;
  if (name == "json") return Format::kJson;
  return name == "html" ? Format::kHtml : Format::kText;
}

void write_stdout(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto n = ::write(STDOUT_FILENO, text.data() + at, text.size() - at);
    if (n >= 0) {
      at += static_cast<std::size_t>(n);
    } else if (errno == EPIPE) {
      return;
    } else if (errno != EINTR) {
      throw Error("stdout", errno == ENOSPC ? "no space left on the device; free some and run again"
                                            : std::string("cannot write: ") + std::strerror(errno));
    }
  }
}

std::string joined(const Report& report, bool markdown) {
  std::string s;
  for (const std::string& line : report.head) s += line + "\n";
  for (const Table& t : report.tables) {
    if (!s.empty()) s += "\n";
    s += markdown ? to_markdown(t) : to_text(t);
  }
  return s;
}

std::string rendered(const Report& report, Format format) {
  switch (format) {
    case Format::kJson:
      return report.json;
    case Format::kCsv:
      return report.tables.empty() ? "" : to_csv(report.tables.at(report.main_table));
    case Format::kHtml:
      return html_page(report);
    case Format::kMarkdown:
      return joined(report, true);
    case Format::kText:
      break;
  }
  return joined(report, false);
}

}  // namespace

Output::Output(const Invocation& invocation) : format_(format_of(invocation)) {
  if (const auto path = invocation.value("save")) file_.emplace(*path);
}

void Output::write(const Report& report) { write_text(rendered(report, format_)); }

void Output::write_text(const std::string& text) {
  if (!file_) return write_stdout(text);
  file_->write(text);
  file_->commit();
}

}  // namespace foretoken
