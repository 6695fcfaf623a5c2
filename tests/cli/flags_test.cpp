// Flags: lists, ranges, merge into a scenario; errors with the flag's name.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"
#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

ScenarioKey key_of(const std::string& flag) {
  for (const ScenarioKey& k : scenario_keys())
    if (k.flag == flag && k.type != "object") return k;
  ADD_FAILURE() << "no flag " << flag;
  return {};
}

std::string values(const std::string& flag, const std::string& text) {
  return Json(flag_values(key_of(flag), text)).dump();
}

std::string message(const std::string& flag, const std::string& text) {
  try {
    flag_values(key_of(flag), text);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

Json applied(const std::string& scenario, std::vector<std::pair<std::string, std::string>> given,
             bool lists) {
  Json json = Json::parse(scenario);
  apply_flags(json, Invocation{"plan", {}, std::move(given)}, lists, false);
  return json;
}

TEST(Flags, ListsAndRanges) {
  EXPECT_EQ(values("tensor-parallel-size", "1,2,4,8"), "[1,2,4,8]");
  EXPECT_EQ(values("tensor-parallel-size", "1-8*2"), "[1,2,4,8]");
  EXPECT_EQ(values("replicas", "1-5+2,9"), "[1,3,5,9]");
  EXPECT_EQ(values("replicas", "2-4"), "[2,3,4]");
  EXPECT_EQ(values("request-rate", "0.5-2*2"), "[0.5,1,2]");
  EXPECT_EQ(values("request-rate", "1e-3"), "[0.001]");
  EXPECT_EQ(values("quantization", "none,fp8"), "[\"none\",\"fp8\"]");
  EXPECT_EQ(values("enable-prefix-caching", "true,false"), "[true,false]");
}

TEST(Flags, EndlessAndEmptyRangesAreErrors) {
  EXPECT_NE(message("replicas", "1-8*1").find("--replicas: the range \"1-8*1\" never ends"),
            std::string::npos);
  EXPECT_NE(message("replicas", "8-1+1").find("ends before it starts"), std::string::npos);
  EXPECT_NE(message("replicas", "1,,2").find("an empty value"), std::string::npos);
  EXPECT_NE(message("replicas", "1-1000000+1").find("more than 100000 values"), std::string::npos);
  for (const char* text : {"nan", "inf", "four", "1x", ""})
    EXPECT_EQ(message("request-rate", text).rfind("--request-rate: ", 0), 0u) << text;
}

TEST(Flags, NamesAreUniqueAndSharedOnesCarryTheirSection) {
  std::vector<std::string> names;
  for (const ScenarioKey& k : scenario_keys())
    if (k.type != "object") names.push_back(k.flag);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  EXPECT_EQ(key_of("input-len-mean").pointer, "/workload/input_len/mean");
  EXPECT_EQ(key_of("workload-trace").pointer, "/workload/trace");  // --trace is the timeline
  EXPECT_EQ(key_of("seed").pointer, "/workload/seed");
}

TEST(Flags, LengthsHaveAShortForm) {
  EXPECT_EQ(values("input-len", "1000"), R"([{"distribution":"fixed","value":1000.0}])");
  EXPECT_EQ(values("input-len", "lognormal:mean=1200,p99=8000"),
            R"([{"distribution":"lognormal","mean":1200.0,"p99":8000.0}])");
  EXPECT_NE(message("input-len", "many").find("--input-len"), std::string::npos);
}

TEST(Flags, AFlagReplacesTheKeyOfTheFile) {
  const Json json = applied(R"({"engine":{"tensor_parallel_size":8,"dtype":"auto"}})",
                            {{"tensor-parallel-size", "2"}, {"enforce-eager", "true"}}, false);
  EXPECT_EQ(json.dump(), R"({"engine":{"tensor_parallel_size":2,"dtype":"auto","enforce_eager":true}})");
}

TEST(Flags, ListsGoToTheSearchOfAPlan) {
  const Json json =
      applied(R"({"plan":{"search":{"tensor_parallel_size":[1,2]}}})",
              {{"quantization", "none,fp8"}, {"tensor-parallel-size", "4"}, {"dtype", "bfloat16"}}, true);
  EXPECT_EQ(json["plan"]["search"].dump(), R"({"tensor_parallel_size":[4],"quantization":["none","fp8"]})");
  EXPECT_EQ(json["engine"]["dtype"], "bfloat16");
}

TEST(Flags, WithoutASearchTheBuiltInOneIsKeptBesideTheFlags) {
  const Json json = applied("{}", {{"tensor-parallel-size", "4"}}, true);
  EXPECT_EQ(json["plan"]["search"]["tensor_parallel_size"].dump(), "[4]");
  EXPECT_GT(json["plan"]["search"]["kv_cache_dtype"].size(), 1u);
}

TEST(Flags, ListsElsewhereAreErrors) {
  EXPECT_THROW(applied("{}", {{"tensor-parallel-size", "1,2"}}, false), Error);
  EXPECT_THROW(applied("{}", {{"request-rate", "1,2"}}, true), Error);
}

TEST(Flags, AnErrorOfAKeyNamesTheFlagThatSetIt) {
  const Invocation given{"estimate", {}, {{"input-len-mean", "-1"}}};
  EXPECT_EQ(flag_of_pointer(given, "/workload/input_len/mean"), "--input-len-mean");
  EXPECT_EQ(flag_of_pointer(given, "/workload/output_len/mean"), "");
}

std::string parse_error(std::vector<const char*> words) {
  words.insert(words.begin(), "foretoken");
  try {
    parse_command_line(static_cast<int>(words.size()), words.data(), verb_specs());
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(CommandLine, SaysWhatIsWrongAndWhatToDo) {
  EXPECT_NE(parse_error({"plna", "x"}).find("did you mean \"plan\""), std::string::npos);
  EXPECT_NE(parse_error({"swep", "x"}).find("did you mean \"sweep\""), std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "--tensor-paralel-size", "2"})
                .find("did you mean \"--tensor-parallel-size\""),
            std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "b"}).find("b: is one argument too many"), std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "-o", "jsn"}).find("did you mean \"json\""), std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "--request-rate"}).find("--request-rate"), std::string::npos);
  EXPECT_NE(parse_error({"compare", "a"}).find("needs A B ..."), std::string::npos);
}

TEST(CommandLine, AFlagGivenTwiceIsAnError) {
  EXPECT_NE(parse_error({"estimate", "a", "--request-rate", "4", "--request-rate=5"})
                .find("--request-rate: given twice"),
            std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "-o", "md", "--output", "md"}).find("--output: given twice"),
            std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "--print-scenario", "--print-scenario"}).find("given twice"),
            std::string::npos);
  EXPECT_NE(parse_error({"estimate", "a", "--enforce-eager", "--no-enforce-eager"})
                .find("--no-enforce-eager: given twice, or beside --enforce-eager"),
            std::string::npos);
  EXPECT_EQ(parse_error({"estimate", "a", "--enforce-eager", "--request-rate", "4"}), "accepted");
}

TEST(CommandLine, FlagsAndArgumentsInAnyOrder) {
  const char* words[] = {"foretoken", "simulate", "--request-rate", "-5", "s.json", "--no-enforce-eager",
                         "-o",        "md"};
  const Invocation got = parse_command_line(8, words, verb_specs());
  EXPECT_EQ(got.verb, "simulate");
  EXPECT_EQ(got.arguments, std::vector<std::string>{"s.json"});
  EXPECT_EQ(got.value("request-rate"), "-5");
  EXPECT_EQ(got.value("enforce-eager"), "false");
  EXPECT_EQ(got.value("output"), "md");
}

}  // namespace
}  // namespace foretoken
