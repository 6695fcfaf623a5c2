// The HTML page: one self-contained file with tables and, where the build found Chart.js, charts.
#include <algorithm>

#include "cli/chart_js.h"
#include "cli/output.h"

namespace foretoken {
namespace {

std::string escaped(const std::string& text) {
  std::string s;
  for (const char c : text) {
    if (c == '<')
      s += "&lt;";
    else if (c == '>')
      s += "&gt;";
    else if (c == '&')
      s += "&amp;";
    else if (c == '"')
      s += "&quot;";
    else
      s += c;
  }
  return s;
}

// JSON inside <script>: a "</script>" in a string must not end the element.
std::string in_script(const std::string& json) {
  std::string s;
  for (const char c : json) s += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return s;
}

constexpr char kStyle[] =
    "body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24}"
    "table{border-collapse:collapse;margin:.5rem 0;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .5rem;border-bottom:1px solid #d8dee4;text-align:left;white-space:nowrap}"
    "th{background:#f3f5f7}td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.context,p,li{color:#57606a}"
    ".chart{position:relative;height:24rem;margin:1.5rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#14171a;color:#dde3e9}th{background:#20252a}"
    "th,td{border-color:#333a41}.context,p,li{color:#9aa4ae}}";

}  // namespace

std::string html_page(const Report& report) {
  std::string s =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      escaped(report.title) + "</title>\n<style>" + kStyle + "</style></head>\n<body>\n<h1>" +
      escaped(report.title) + "</h1>\n";
  for (const std::string& line : report.head) s += "<p class=\"context\">" + escaped(line) + "</p>\n";
  const std::string chart_js = chart_js_source();
  const bool charts = !chart_js.empty() && !report.charts.empty();
  if (charts)
    for (std::size_t i = 0; i < report.charts.size(); ++i)
      s += "<h2>" + escaped(report.charts[i].title) + "</h2>\n<div class=\"chart\"><canvas id=\"chart" +
           std::to_string(i) + "\"></canvas></div>\n";
  for (const Table& t : report.tables) s += to_html(t);
  if (charts) {
    s += "<script>" + chart_js + "</script>\n<script>\n";
    s += "Chart.defaults.animation=false;\n";  // pages are printed too
    for (std::size_t i = 0; i < report.charts.size(); ++i)
      s += "new Chart(document.getElementById('chart" + std::to_string(i) + "')," +
           in_script(report.charts[i].config) + ");\n";
    s += "</script>\n";
  }
  return s + "</body></html>\n";
}

}  // namespace foretoken
