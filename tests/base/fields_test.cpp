// Field tables: one declaration gives the strict reader, the writer and the schema.
#include <gmock/gmock.h>

#include <array>

#include "base/fields_json.h"
#include "expect_error.h"

namespace foretoken {

struct Cache {
  std::string kind = "auto";
  std::optional<double> share;
  bool operator==(const Cache&) const = default;
};
struct Toy {
  int devices = 1;
  double fraction = 0.9;
  float scale = 1;
  bool eager = false;
  Cache cache;
  std::vector<std::int64_t> sizes;
  std::vector<Cache> caches;
  std::optional<Cache> spare;
  RawJson extra;
  std::uint8_t small = 0;
  bool operator==(const Toy&) const = default;
};

inline constexpr std::array<std::string_view, 3> kKinds{"auto", "bfloat16", "fp8_e4m3"};
template <>
inline constexpr auto fields_of<Cache> = std::tuple{
    field("kind", &Cache::kind, "number format", one_of(kKinds)),
    field("share", &Cache::share, "part of memory", above_up_to(0, 1)),
};
template <>
inline constexpr auto fields_of<Toy> = std::tuple{
    field("devices", &Toy::devices, "devices", at_least(1)),
    field("fraction", &Toy::fraction, "memory used", between(0, 1)),
    field("scale", &Toy::scale, "scale", above(0)),
    field("eager", &Toy::eager, "no graphs"),
    field("cache", &Toy::cache, "cache"),
    field("sizes", &Toy::sizes, "sizes", at_least(0)),
    field("caches", &Toy::caches, "more caches"),
    field("spare", &Toy::spare, "perhaps one more"),
    field("extra", &Toy::extra, "anything"),
    field("small", &Toy::small, "a byte"),
};

namespace {

using test::error_of;

Toy read(const std::string& text) {
  Toy toy;
  read_fields(parse_json(text, "t.json"), toy, "t.json:");
  return toy;
}
std::string read_error(const std::string& text) {
  return error_of([&] { read(text); });
}

TEST(Fields, AbsentMembersKeepTheirValues) {
  EXPECT_EQ(read("{}"), Toy{});
  Toy toy;
  toy.devices = 4;
  toy.cache.share = 0.5;
  read_fields(parse_json("{\"cache\": {\"kind\": \"bfloat16\"}}", "x"), toy, "x");
  EXPECT_EQ(toy.devices, 4);
  EXPECT_EQ(toy.cache.share, 0.5);
  EXPECT_EQ(toy.cache.kind, "bfloat16");
}

TEST(Fields, EveryKindOfMember) {
  const Toy toy = read(R"({"devices": 2.0, "fraction": 1, "scale": 0.5, "eager": true,
    "cache": {"kind": "fp8_e4m3", "share": 1}, "sizes": [1, 2000000000000], "caches": [{}, {"share": null}],
    "spare": {"share": 0.25}, "extra": {"x": [1, "y"]}, "small": 255})");
  EXPECT_EQ(toy.devices, 2);
  EXPECT_EQ(toy.fraction, 1.0);
  EXPECT_EQ(toy.scale, 0.5f);
  EXPECT_TRUE(toy.eager);
  EXPECT_EQ(toy.cache, (Cache{"fp8_e4m3", 1.0}));
  EXPECT_EQ(toy.sizes, (std::vector<std::int64_t>{1, 2'000'000'000'000}));
  EXPECT_EQ(toy.caches, (std::vector<Cache>{{}, {}}));
  EXPECT_EQ(toy.spare, (Cache{"auto", 0.25}));
  EXPECT_EQ(toy.extra.text, "{\"x\":[1,\"y\"]}");
  EXPECT_EQ(toy.small, 255);
}

TEST(Fields, WritingAndReadingGiveTheSame) {
  for (const std::string text :
       {"{}",
        R"({"devices": 8, "sizes": [1,2], "spare": {}, "extra": [1.5], "caches": [{"share": 0.125}]})"}) {
    const Toy toy = read(text);
    EXPECT_EQ(read(dump_json(write_value(toy))), toy);
  }
}

TEST(Fields, ErrorsNamePlaceAndRemedy) {
  EXPECT_EQ(read_error(R"({"fraction": 1.4})"), "t.json:/fraction: 1.4 is outside [0, 1]");
  EXPECT_EQ(read_error(R"({"cache": {"share": 0}})"), "t.json:/cache/share: 0 is outside (0, 1]");
  EXPECT_EQ(read_error(R"({"devices": 0})"), "t.json:/devices: 0 is too small; at least 1 is accepted");
  EXPECT_EQ(read_error(R"({"scale": 0})"), "t.json:/scale: 0 is too small; a value above 0 is accepted");
  EXPECT_EQ(
      read_error(R"({"cache": {"kind": "fp8_e4m2"}})"),
      "t.json:/cache/kind: \"fp8_e4m2\" is not one of auto, bfloat16, fp8_e4m3; did you mean \"fp8_e4m3\"?");
  EXPECT_EQ(read_error(R"({"devcies": 2})"), "t.json:/devcies: unknown key; did you mean \"devices\"?");
  EXPECT_EQ(read_error(R"({"cache": {"something_else": 2}})"),
            "t.json:/cache/something_else: unknown key; known keys: kind, share");
  EXPECT_EQ(read_error(R"({"sizes": [1, -2]})"), "t.json:/sizes/1: -2 is too small; at least 0 is accepted");
}

TEST(Fields, WrongTypes) {
  EXPECT_EQ(read_error(R"({"devices": "2"})"),
            "t.json:/devices: a whole number is expected, not the string \"2\"");
  EXPECT_EQ(read_error(R"({"devices": 2.5})"),
            "t.json:/devices: a whole number is expected, not the number 2.5");
  EXPECT_EQ(read_error(R"({"devices": null})"), "t.json:/devices: a whole number is expected, not null");
  EXPECT_EQ(read_error(R"({"fraction": true})"),
            "t.json:/fraction: a number is expected, not the value true");
  EXPECT_EQ(read_error(R"({"eager": 1})"), "t.json:/eager: true or false is expected, not the number 1");
  EXPECT_EQ(read_error(R"({"cache": []})"), "t.json:/cache: an object is expected, not the array []");
  EXPECT_EQ(read_error(R"({"sizes": {}})"), "t.json:/sizes: an array is expected, not the object {}");
  EXPECT_EQ(read_error(R"({"cache": {"kind": 3}})"),
            "t.json:/cache/kind: a string is expected, not the number 3");
  EXPECT_EQ(read_error(R"({"devices": 5000000000})"), "t.json:/devices: 5000000000 is too large");
  EXPECT_EQ(read_error(R"({"small": 256})"), "t.json:/small: 256 is too large");
  EXPECT_EQ(read_error(R"({"small": -1})"), "t.json:/small: -1 is too small");
  EXPECT_EQ(read_error(R"({"scale": 1e300})"), "t.json:/scale: 1e+300 is too large");
}

TEST(Fields, SchemaStatesTypesLimitsAndHelp) {
  const Json schema = schema_of<Toy>();
  EXPECT_EQ(schema["additionalProperties"], false);
  const Json& p = schema["properties"];
  EXPECT_EQ(p["devices"].dump(), R"({"type":"integer","minimum":1,"description":"devices"})");
  EXPECT_EQ(p["fraction"].dump(), R"({"type":"number","minimum":0,"maximum":1,"description":"memory used"})");
  EXPECT_EQ(p["scale"]["exclusiveMinimum"], 0);
  EXPECT_EQ(p["cache"]["properties"]["kind"]["enum"].dump(), R"(["auto","bfloat16","fp8_e4m3"])");
  EXPECT_EQ(p["cache"]["properties"]["share"]["anyOf"][1]["type"], "null");
  EXPECT_EQ(p["cache"]["properties"]["share"]["anyOf"][0]["maximum"], 1);
  EXPECT_EQ(p["sizes"]["items"]["type"], "integer");
  EXPECT_EQ(p["caches"]["items"]["type"], "object");
  EXPECT_EQ(p.size(), field_names<Toy>().size());
}

}  // namespace
}  // namespace foretoken
