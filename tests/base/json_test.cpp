// JSON: comments are read, everything doubtful is an error with its line and column.
#include "base/json.h"

#include <gmock/gmock.h>

#include <limits>

#include "base/json_full.h"
#include "base/random.h"
#include "base/table.h"
#include "expect_error.h"

namespace foretoken {
namespace {

using test::error_of;
using test::Folder;
using testing::HasSubstr;
using testing::StartsWith;

std::string parse_error(std::string_view text) {
  return error_of([&] { parse_json(text, "a.json"); });
}

TEST(Json, KeepsOrderAndAcceptsComments) {
  const Json j = parse_json(
      "\xef\xbb\xbf{ // why\n \"b\": [1, -2, 2.5, true, null, \"\\u00e4\"], /* x */ \"a\": {}}", "x");
  EXPECT_EQ(j.dump(), "{\"b\":[1,-2,2.5,true,null,\"\u00e4\"],\"a\":{}}");
  EXPECT_EQ(parse_json(" 7 ", "x").get<int>(), 7);
}

TEST(Json, ErrorsCarryLineAndColumn) {
  EXPECT_THAT(parse_error("{\n  \"a\": 1,\n  \"b\" 2\n}"), StartsWith("a.json:3:7: syntax error"));
  EXPECT_THAT(parse_error("[1, 2"), StartsWith("a.json:1:6: syntax error"));
  EXPECT_THAT(parse_error("{} x"), StartsWith("a.json:1:4: syntax error"));
  EXPECT_THAT(parse_error("[1] [2]"), StartsWith("a.json:1:5: syntax error"));
  EXPECT_THAT(parse_error("[1e999]"), HasSubstr("the number 1e999 is too large"));
  EXPECT_THAT(parse_error("[-1e999]"), HasSubstr("the number -1e999 is too large"));
  for (const char* bad :
       {"NaN", "[Infinity]", "[1,]", "{\"a\":1,}", "'a'", "{a: 1}", "\"\xff\"", "[01]", "/* open"})
    EXPECT_THAT(parse_error(bad), StartsWith("a.json:1:")) << bad;
  EXPECT_EQ(parse_error(""), "a.json:1:1: the file is empty; JSON is expected");
  EXPECT_EQ(parse_error(" \n "), "a.json:1:1: the file is empty; JSON is expected");
}

TEST(Json, EveryPrefixOfADocumentIsRefused) {
  const std::string text =
      "{\"a\": [1, {\"b\": \"c\\n\"}], \"d\": -1.5e3, \"e\": {\"f\": null, \"g\": false}}";
  parse_json(text, "x");
  for (std::size_t n = 0; n < text.size(); ++n)
    EXPECT_THROW(parse_json(text.substr(0, n), "x"), Error) << text.substr(0, n);
}

// Lines of traces are read by a short cut, which a comment rules out.
TEST(Json, PlainObjectsAreReadAsAllOthers) {
  for (
      const char* text :
      {R"({"timestamp": 27482, "input_length": 6955, "hash_ids": [46, 47, 999999999999999999]})",
       R"( {"a":0,"b" : -7 ,"c":[-1, 0.5 , -12.25, "x"], "type": "text"} )", R"({"a": 0.1})",
       R"({"a": 123456789012345678.125, "b": 18446744073709551615, "c": -9223372036854775808})",
       R"({"a": -0, "b": -0.0, "c": 1e3, "d": 1.5E-3, "e": [], "f": {}, "g": null, "h": true, "i": "\u00e4"})"}) {
    const Json json = parse_json(text, "x"), complete = parse_json(std::string(text) + "// all", "x");
    EXPECT_EQ(json.dump(), complete.dump());
    for (const auto& [key, value] : complete.items()) {
      EXPECT_EQ(json[key].type(), value.type()) << key;
      EXPECT_TRUE(json[key] == value) << key;
    }
  }
  for (const char* bad : {"{\"a\": 01}", "{\"a\": 1.}", "{\"a\": .5}", "{\"a\": -}", "{\"a\": [1 2]}",
                          "{\"a\" 1}", "{\"a\": 1} 2", "{\"a\": 1,}", "{\"a\": [1,]}", "{\"a\": 1, \"a\": 2}",
                          "{\"a\": 1-2}", "{\"a\": 1.5.5}", "{\"a\": - 1}", "{\"a\": \"x\ty\"}"})
    EXPECT_THAT(parse_error(bad), StartsWith("a.json:1:")) << bad;
}

TEST(Json, DuplicateKeysAreNamed) {
  EXPECT_EQ(parse_error("{\"a\": 1,\n \"b\\\"\": 2, \"b\\\"\": 3}"),
            "a.json:2:12: the key \"b\"\" occurs twice");
  EXPECT_EQ(parse_json("{\"a\": {\"a\": 1}, \"b\": {\"a\": [{\"a\": 2}]}}", "x")["b"]["a"][0]["a"], 2);
}

TEST(Json, DeepNestingIsRefusedBeforeTheStackSuffers) {
  EXPECT_EQ(parse_error(std::string(1'000'000, '[')), "a.json:1:101: nested more than 100 levels deep");
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(parse_error(objects), HasSubstr("nested more than 100 levels deep"));
  EXPECT_NO_THROW(parse_json(std::string(100, '[') + std::string(100, ']'), "x"));
}

TEST(Json, LargeObjectsAreReadInReasonableTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i)
    text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":" + std::to_string(i);
  EXPECT_EQ(parse_json(text + "}", "x").size(), 200'000u);
}

TEST(Json, FilesNameThemselves) {
  const Folder folder;
  const auto path = folder.put("engine.json", "{\n\"a\": }");
  EXPECT_THAT(error_of([&] { read_json(path); }), StartsWith(path.string() + ":2:6: "));
  EXPECT_THAT(error_of([&] { read_json(folder.path("none.json")); }), HasSubstr("no such file"));
}

TEST(Json, WrittenDoublesReadBackBitForBit) {
  CounterRandom random(3, 1);
  for (int i = 0; i < 20'000; ++i) {
    const double v = std::bit_cast<double>(random.bits());
    if (!std::isfinite(v)) continue;
    EXPECT_EQ(parse_json(dump_json(Json(v)), "x").get<double>(), v);
  }
  EXPECT_EQ(dump_json(Json(0.1), -1), "0.1");
  EXPECT_EQ(dump_json(Json::object({{"a", 1}})), "{\n  \"a\": 1\n}\n");
}

TEST(Json, NonFiniteNumbersAreNeverWritten) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_THROW(dump_json(Json(inf)), std::logic_error);
  EXPECT_THROW(dump_json(Json::object({{"a", Json::array({1.0, -inf})}})), std::logic_error);
  EXPECT_THROW(dump_json(Json::array({Json::object({{"a", inf - inf}})})), std::logic_error);
}

TEST(Json, TablesBecomeArraysOfObjects) {
  Table table;
  table.columns = {{"name", "Name"}, {"mean_ms", "Mean"}, {"ok", "OK"}, {"n", "N"}};
  table.add({std::string("a"), 1.5, true, std::int64_t{3}});
  table.add({std::string("b"), std::numeric_limits<double>::quiet_NaN()});
  EXPECT_EQ(to_json(table).dump(),
            "[{\"name\":\"a\",\"mean_ms\":1.5,\"ok\":true,\"n\":3},"
            "{\"name\":\"b\",\"mean_ms\":null,\"ok\":null,\"n\":null}]");
}

}  // namespace
}  // namespace foretoken
