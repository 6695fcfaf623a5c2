// CSV: quoting, columns by name, and errors that name file, line and column.
#include "base/csv.h"

#include <gmock/gmock.h>

#include "expect_error.h"

namespace foretoken {
namespace {

using test::error_of;
using test::Folder;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(Csv, ColumnsByNameAndQuotedCells) {
  const Folder folder;
  CsvReader csv(
      folder.put("a.csv", "\xef\xbb\xbfname, count ,share\r\n\"a, \"\"b\"\"\",3.0,\r\n\n x,7,0.25\n"));
  EXPECT_THAT(csv.header(), ElementsAre("name", "count", "share"));
  const auto count = csv.column("count"), share = csv.column("share");
  ASSERT_TRUE(csv.next());
  EXPECT_EQ(csv.text(0), "a, \"b\"");
  EXPECT_EQ(csv.integer(count), 3);
  EXPECT_EQ(csv.number_or(share, -1), -1);
  ASSERT_TRUE(csv.next());  // the blank line is skipped
  EXPECT_EQ(csv.line_number(), 4);
  EXPECT_EQ(csv.text(0), " x");
  EXPECT_EQ(csv.number(share), 0.25);
  EXPECT_FALSE(csv.next());
  EXPECT_FALSE(csv.find_column("none"));
}

TEST(Csv, EmptyCellsAtTheEndsAndOtherSeparators) {
  const Folder folder;
  CsvReader csv(folder.put("a.tsv", "a\tb\tc\n\tx\t\n\"q\"\t\"\"\t\"r,s\"\n"), '\t');
  ASSERT_TRUE(csv.next());
  EXPECT_EQ(csv.text(0), "");
  EXPECT_EQ(csv.text(1), "x");
  EXPECT_EQ(csv.text(2), "");
  ASSERT_TRUE(csv.next());
  EXPECT_EQ(csv.text(0), "q");
  EXPECT_EQ(csv.text(1), "");
  EXPECT_EQ(csv.text(2), "r,s");
}

TEST(Csv, ErrorsNameFileLineAndColumn) {
  const Folder folder;
  const auto path = folder.put("a.csv", "time,tokens\n1,x\n2\n\"3,4\n5,\"6\"7\n1e999,2.5\n,\n");
  CsvReader csv(path);
  EXPECT_EQ(error_of([&] { csv.column("tokns"); }),
            path.string() + ":1: no column \"tokns\"; did you mean \"tokens\"?");
  EXPECT_THAT(error_of([&] { csv.column("whatever"); }), HasSubstr("the columns are time, tokens"));
  ASSERT_TRUE(csv.next());
  EXPECT_EQ(error_of([&] { csv.number(1); }),
            path.string() + ":2: column \"tokens\": \"x\" is not a finite number");
  EXPECT_THAT(error_of([&] { csv.next(); }), HasSubstr("a.csv:3: 1 cells where the header names 2"));
  EXPECT_THAT(error_of([&] { csv.next(); }), HasSubstr("a.csv:4: column \"time\": the quote is not closed"));
  EXPECT_THAT(error_of([&] { csv.next(); }),
              HasSubstr("a.csv:5: column \"tokens\": text after the closing quote"));
  ASSERT_TRUE(csv.next());
  EXPECT_THAT(error_of([&] { csv.number(0); }), HasSubstr("not a finite number"));
  EXPECT_THAT(error_of([&] { csv.integer(1); }), HasSubstr("\"2.5\" is not a whole number"));
  ASSERT_TRUE(csv.next());
  EXPECT_THAT(error_of([&] { csv.integer(0); }), HasSubstr("a.csv:7: column \"time\" is empty"));
}

TEST(Csv, BadHeaders) {
  const Folder folder;
  EXPECT_THAT(error_of([&] { CsvReader csv(folder.put("a", "")); }), HasSubstr("the file is empty"));
  EXPECT_THAT(error_of([&] { CsvReader csv(folder.put("b", "\n\n")); }), HasSubstr("the file is empty"));
  EXPECT_THAT(error_of([&] { CsvReader csv(folder.put("c", "x,y,x\n")); }),
              HasSubstr("two columns are named \"x\""));
}

TEST(Csv, WrittenCellsReadBack) {
  const Folder folder;
  for (const std::string cell : {"plain", "a,b", "say \"x\"", " lead", "", "a;b"}) {
    CsvReader csv(folder.put("a", "k,v\n1," + csv_cell(cell) + "\n"));
    ASSERT_TRUE(csv.next());
    EXPECT_EQ(csv.text(1), cell);
  }
  EXPECT_EQ(csv_cell("plain"), "plain");
}

}  // namespace
}  // namespace foretoken
