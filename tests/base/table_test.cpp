// Table writers: golden output of every format.
#include "base/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "base/text.h"

namespace foretoken {
namespace {

Table sample() {
  Table t;
  t.title = "Plans";
  t.columns = {
      {"name", "Name"}, {"requests", "Requests"}, {"mean_ttft_ms", "TTFT mean (ms)", 3}, {"fits", "Fits"}};
  t.add({std::string("one|two, <x>"), std::int64_t{1234567}, 12.3456, true});
  t.add({std::string("µ"), std::int64_t{-5}, std::monostate{}, false});
  t.notes = {"All of it & more."};
  return t;
}

TEST(Table, Text) {
  EXPECT_EQ(to_text(sample()),
            "Plans\n"
            "\n"
            "Name           Requests  TTFT mean (ms)  Fits\n"
            "------------  ---------  --------------  ----\n"
            "one|two, <x>  1,234,567            12.3  yes\n"
            "µ                    -5               -  no\n"
            "\n"
            "All of it & more.\n");
}

TEST(Table, Markdown) {
  EXPECT_EQ(to_markdown(sample()),
            "## Plans\n"
            "\n"
            "| Name | Requests | TTFT mean (ms) | Fits |\n"
            "| :--- | ---: | ---: | :--- |\n"
            "| one\\|two, <x> | 1,234,567 | 12.3 | yes |\n"
            "| µ | -5 | - | no |\n"
            "\n"
            "All of it & more.\n");
}

TEST(Table, CsvHasKeysAndFullPrecision) {
  EXPECT_EQ(to_csv(sample()),
            "name,requests,mean_ttft_ms,fits\n"
            "\"one|two, <x>\",1234567,12.3456,true\n"
            "µ,-5,,false\n");
}

TEST(Table, HtmlIsEscaped) {
  EXPECT_EQ(
      to_html(sample()),
      "<h2>Plans</h2>\n"
      "<table>\n"
      "<thead><tr><th>Name</th><th class=\"number\">Requests</th><th class=\"number\">TTFT mean (ms)</th>"
      "<th>Fits</th></tr></thead>\n"
      "<tbody>\n"
      "<tr><td>one|two, &lt;x&gt;</td><td class=\"number\">1,234,567</td><td class=\"number\">12.3</td>"
      "<td>yes</td></tr>\n"
      "<tr><td>µ</td><td class=\"number\">-5</td><td class=\"number\">-</td><td>no</td></tr>\n"
      "</tbody>\n"
      "</table>\n"
      "<p class=\"note\">All of it &amp; more.</p>\n");
}

TEST(Table, CellsThatWrapAreWholeAndWordsStayWhole) {
  Table t;
  t.columns = {{"key", "Key", 4, true}, {"n", "N"}, {"text", "Meaning", 4, true}};
  t.add({std::string("long_prefill_token"), std::int64_t{7}, std::string("µ one two three four five six")});
  t.add({std::string("short"), std::int64_t{12345}, std::string("brief")});
  EXPECT_EQ(to_text(t, 40),
            "Key                      N  Meaning\n"
            "------------------  ------  ------------\n"
            "long_prefill_token       7  µ one two\n"
            "                            three four\n"
            "                            five six\n"
            "short               12,345  brief\n");
  // A word that has no room is broken too.
  t.rows = {{std::string(30, 'k'), std::int64_t{1}, std::string(30, 'm')}};
  const std::string text = to_text(t, 30);
  for (const std::string& line : split(text, '\n')) EXPECT_LE(line.size(), 30u) << line;
  EXPECT_EQ(std::count(text.begin(), text.end(), 'k'), 30);
  EXPECT_EQ(std::count(text.begin(), text.end(), 'm'), 30);
}

TEST(Table, WideTextIsBrokenAndShortened) {
  Table t;
  t.columns = {{"a", "Long title of a"}, {"b", "B"}, {"n", "Number of requests"}};
  t.add({std::string(60, 'x'), std::string(30, 'y'), std::int64_t{12}});
  EXPECT_EQ(to_text(t, 40),
            "                                  Number\n"
            "Long title of                         of\n"
            "a               B               requests\n"
            "--------------  --------------  --------\n"
            "xxxxxxxxxxxxx…  yyyyyyyyyyyyy…        12\n");
  for (const auto& line : split(to_text(t, 0), '\n')) EXPECT_TRUE(line.empty() || line.size() > 40) << line;
}

TEST(Table, OddCells) {
  Table t;
  t.columns = {{"a", "A"}, {"b", "B"}};
  t.add({std::numeric_limits<double>::quiet_NaN(), std::string("two\nlines")});
  t.add({std::numeric_limits<double>::infinity()});  // a short row is filled up
  EXPECT_EQ(to_text(t),
            "  A  B\n"
            "---  ---------\n"
            "  -  two lines\n"
            "inf  -\n");
  EXPECT_EQ(to_csv(t), "a,b\n,\"two lines\"\n,\n");
  t.rows.back().resize(3);
  EXPECT_THROW(to_text(t), std::logic_error);
  EXPECT_THROW(to_csv(t), std::logic_error);
}

}  // namespace
}  // namespace foretoken
