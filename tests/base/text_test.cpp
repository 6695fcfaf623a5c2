// Text tools: nearest names, strict number parsing, number formatting.
#include "base/text.h"

#include <gtest/gtest.h>

namespace foretoken {
namespace {

TEST(Text, TrimLowerSplitJoin) {
  EXPECT_EQ(trim(" \t a b \r\n"), "a b");
  EXPECT_EQ(trim("  "), "");
  EXPECT_EQ(lower("GeForce \u00c4"), "geforce \u00c4");
  EXPECT_EQ(split("a,,b,", ','), (std::vector<std::string>{"a", "", "b", ""}));
  EXPECT_EQ(split("", ','), (std::vector<std::string>{""}));
  EXPECT_EQ(join(split("a,b,c", ','), "; "), "a; b; c");
  EXPECT_TRUE(iequals("H100-SXM", "h100-sxm"));
  EXPECT_FALSE(iequals("H100", "H1000"));
}

TEST(Text, EditDistanceCountsATranspositionOnce) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("tesnor", "tensor"), 1);
  EXPECT_EQ(edit_distance("ca", "ac"), 1);
  EXPECT_EQ(edit_distance("same", "same"), 0);
}

TEST(Text, NearestSuggestsOnlyWhatResembles) {
  const std::vector<std::string> names{"tensor_parallel_size", "pipeline_parallel_size", "dtype", "tp"};
  EXPECT_EQ(nearest("tensor_paralel_sise", names), "tensor_parallel_size");
  EXPECT_EQ(nearest("DType", names), "dtype");
  EXPECT_EQ(nearest("tpp", names), "tp");
  EXPECT_EQ(nearest("completely_different", names), "");
  EXPECT_EQ(nearest("zz", names), "");                          // two replaced letters out of two
  EXPECT_EQ(nearest("tensor", names), "tensor_parallel_size");  // the beginning of one name alone
  EXPECT_EQ(nearest("", names), "");
  EXPECT_EQ(nearest(std::string(100'000, 'x'), names), "");
  EXPECT_EQ(did_you_mean("dtyp", names), "; did you mean \"dtype\"?");
  EXPECT_EQ(did_you_mean("quux_quux", names), "");
}

TEST(Text, NumbersAreParsedWholeOrNotAtAll) {
  EXPECT_EQ(parse_double("1.5e3"), 1500.0);
  EXPECT_EQ(parse_double("+2"), 2.0);
  for (const char* bad : {"", " 1", "1 ", "1x", "nan", "inf", "-inf", "1e999", "+-1", "0x10", "1,5"})
    EXPECT_FALSE(parse_double(bad)) << bad;
  EXPECT_EQ(parse_int("-9223372036854775808"), std::numeric_limits<std::int64_t>::min());
  for (const char* bad : {"", "1.0", "9223372036854775808", "1 ", "--1"}) EXPECT_FALSE(parse_int(bad)) << bad;
}

TEST(Text, NumbersForPeople) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-123456), "-123,456");
  EXPECT_EQ(with_commas(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
  EXPECT_EQ(significant(0.0123456, 3), "0.0123");
  EXPECT_EQ(significant(9.996, 3), "10");
  EXPECT_EQ(significant(123456.7, 3), "123457");
  EXPECT_EQ(significant(-1.5, 4), "-1.5");
  EXPECT_EQ(significant(0, 4), "0");
  EXPECT_EQ(significant(1e-9, 3), "1e-09");
}

TEST(Text, HashDependsOnEveryByteAndTheLength) {
  EXPECT_NE(hash_bytes(""), hash_bytes(std::string_view("\0", 1)));
  EXPECT_NE(hash_bytes("abcdefgh1"), hash_bytes("abcdefgh2"));
  EXPECT_NE(hash_bytes("a", 1), hash_bytes("a", 2));
  EXPECT_EQ(hash_bytes("foretoken"), hash_bytes("foretoken"));
}

}  // namespace
}  // namespace foretoken
