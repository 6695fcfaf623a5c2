// Results out: the form that -o asks for, to stdout or to the file of --save.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/table.h"
#include "cli/command.h"

namespace foretoken {

// A Chart.js configuration for the HTML page.
struct Chart {
  std::string title;
  std::string config;  // JSON
};

struct Report {
  std::string title;
  std::vector<std::string> head;  // context, before the numbers
  std::vector<Table> tables;
  std::size_t main_table = 0;  // what -o csv writes
  std::string json;            // what -o json writes
  std::vector<Chart> charts;
};

class Output {
 public:
  // Opens the file of --save, so that a wrong name fails before the work.
  explicit Output(const Invocation& invocation);
  Format format() const { return format_; }
  // Writes everything; throws Error for a full disk. A reader that has gone ends the output quietly.
  void write(const Report& report);
  void write_text(const std::string& text);

 private:
  Format format_;
  std::optional<OutputFile> file_;
};

std::string html_page(const Report& report);

}  // namespace foretoken
