// Files of tensors: what is written is read, and no header can lie.
#include "executor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>

#include "../base/expect_error.h"
#include "base/file.h"
#include "base/random.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

std::string with_header(const std::string& header, std::size_t data_bytes) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 255u);
  return file + header + std::string(data_bytes, '\1');
}

std::vector<StoredTensor> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "m.safetensors");
}

std::vector<float> floats_of(const StoredTensor& t) {
  std::vector<float> out(static_cast<std::size_t>(t.values()));
  read_floats(t, 0, 1, t.values(), out.data());
  return out;
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const test::Folder folder;
  const std::vector<float> a{1, -2.5f, 3e-40f, 1e30f, 0.1f, -0.0f}, b{7};
  for (const bool bf16 : {false, true}) {
    const auto path = folder.path(bf16 ? "b.safetensors" : "a.safetensors");
    write_safetensors(path,
                      {{"a", {2, 3}, [&] { return a; }},
                       {"b", {}, [&] { return b; }},
                       {"empty", {0, 4}, [] { return std::vector<float>{}; }}},
                      bf16);
    const TensorFiles files(path);
    ASSERT_EQ(files.tensors().size(), 3u);
    const StoredTensor* t = files.find("a");
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->dtype, bf16 ? "BF16" : "F32");
    EXPECT_EQ(t->shape, (std::vector<std::int64_t>{2, 3}));
    const std::vector<float> read = floats_of(*t);
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (bf16)
        EXPECT_NEAR(read[i], a[i], std::abs(a[i]) / 256 + 1e-40);
      else
        EXPECT_EQ(std::bit_cast<std::uint32_t>(read[i]), std::bit_cast<std::uint32_t>(a[i]));
    }
    EXPECT_EQ(floats_of(*files.find("b")), b);
    EXPECT_EQ(files.find("c"), nullptr);
  }
  EXPECT_EQ(folder.entries(), 2u);  // no temporary files stay
}

TEST(SafetensorsTest, AFailedWriteLeavesNothing) {
  const test::Folder folder;
  EXPECT_THAT(
      test::error_of([&] {
        write_safetensors(folder.path("x.safetensors"), {{"a", {4}, [] { return std::vector<float>{1}; }}});
      }),
      HasSubstr("1 values for a shape of 4"));
  const auto one = [] { return std::vector<float>{1}; };
  EXPECT_THAT(test::error_of([&] {
                write_safetensors(folder.path("x.safetensors"), {{"a", {1}, one}, {"a", {1}, one}});
              }),
              HasSubstr("the name is taken"));
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(SafetensorsTest, RoundsToBf16ToTheNearestEven) {
  const test::Folder folder;
  const std::vector<float> in{std::bit_cast<float>(0x3f808000u), std::bit_cast<float>(0x3f818000u),
                              std::bit_cast<float>(0x3f808001u), std::bit_cast<float>(0x7f800001u)};
  write_safetensors(folder.path("a.safetensors"), {{"a", {4}, [&] { return in; }}}, true);
  const TensorFiles files(folder.path("a.safetensors"));
  const std::vector<float> out = floats_of(*files.find("a"));
  EXPECT_EQ(std::bit_cast<std::uint32_t>(out[0]), 0x3f800000u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(out[1]), 0x3f820000u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(out[2]), 0x3f810000u);
  EXPECT_TRUE(std::isnan(out[3]));
}

TEST(SafetensorsTest, ReadsEveryHalf) {
  std::string data;
  for (std::uint32_t h = 0; h < 65536; ++h) {
    data += static_cast<char>(h & 255u);
    data += static_cast<char>(h >> 8);
  }
  const std::string file =
      with_header(R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})", 0) + data;
  const std::vector<float> out = floats_of(parse(file).at(0));
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const int exponent = static_cast<int>(h >> 10 & 31u), fraction = static_cast<int>(h & 1023u);
    const double sign = h >> 15 != 0 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(out[h]), fraction == 0);
      EXPECT_EQ(std::isnan(out[h]), fraction != 0);
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      ASSERT_EQ(out[h], static_cast<float>(sign * expected)) << h;
    }
    EXPECT_EQ(std::signbit(out[h]), h >> 15 != 0);
  }
}

TEST(SafetensorsTest, ReadsWithSteps) {
  const std::string file = with_header(R"({"h":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}})", 0) +
                           std::string("\x80\x3f\x00\x40\x40\x40\x80\x40\xa0\x40\xc0\x40", 12);
  const auto tensors = parse(file);
  float out[2];
  read_floats(tensors.at(0), 1, 3, 2, out);
  EXPECT_EQ(out[0], 2);
  EXPECT_EQ(out[1], 5);
}

TEST(SafetensorsTest, HeadersThatLieAreRefused) {
  const auto entry = [](const std::string& name, const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}";
  };
  const std::string a = entry("a", "F32", "[2]", "[0,8]");
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets,
                       std::size_t bytes) {
    return with_header("{" + entry("a", dtype, shape, offsets) + "}", bytes);
  };
  ASSERT_EQ(parse(with_header("{" + a + "}", 8)).size(), 1u);
  ASSERT_EQ(parse(with_header(R"({"__metadata__":{"format":"pt"},)" + a + "}   ", 8)).size(), 1u);
  ASSERT_EQ(parse(with_header("{}", 0)).size(), 0u);
  std::string huge = with_header("{}", 0);
  huge[7] = '\x7f';
  std::string longer = with_header("{" + a + "}", 8);
  longer[1] = '\1';
  const std::pair<std::string, const char*> cases[] = {
      {"", "0 bytes are too short"},
      {"1234567", "7 bytes are too short"},
      {huge, "more than the format's limit"},
      {longer, "the file has"},
      {with_header("", 0), "does not begin with {"},
      {with_header("[1]", 0), "does not begin with {"},
      {with_header("{\"a\"", 0), "header"},
      {with_header("{" + a + "," + a + "}", 8), "header"},
      {with_header("{" + a + "}x", 8), "header"},
      {with_header("{\"a\":1}", 0), "is no object"},
      {with_header(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "lacks \"data_offsets\""},
      {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8),
       "unknown key \"x\""},
      {with_header(R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", 8), "dtype is no text"},
      {one("F99", "[2]", "[0,8]", 8), "unknown dtype \"F99\""},
      {one("F32", "2", "[0,8]", 8), "no list of at most 16"},
      {one("F32", "[-2]", "[0,8]", 8), "expected a whole number"},
      {one("F32", "[2.0]", "[0,8]", 8), "expected a whole number"},
      {one("F32", "[4294967296,4294967296]", "[0,0]", 0), "absurdly large"},
      {one("F32", "[1099511627776,8388608,0]", "[0,0]", 0), "absurdly large"},
      {one("F32", "[1099511627776,4194304]", "[0,0]", 0), "does not make the 0 bytes"},
      {one("F32", "[3]", "[0,8]", 8), "shape [3] of F32 does not make the 8 bytes"},
      {one("F4", "[1]", "[0,0]", 0), "does not make the 0 bytes"},
      {one("F32", "[2]", "[0,8,9]", 8), "no pair"},
      {one("F32", "[2]", "[0,-8]", 8), "expected a whole number"},
      {one("F32", "[2]", "[8,0]", 8), "at bytes 8 to 0 of 8"},
      {one("F32", "[2]", "[0,8]", 7), "at bytes 0 to 8 of 7"},  // a truncated file
      {one("F32", "[2]", "[18446744073709551608,18446744073709551615]", 8), "at bytes 18446744073709551608"},
      {one("F32", "[2]", "[4,12]", 12), "after a hole from 0"},
      {one("F32", "[2]", "[0,8]", 9), "tensors end at byte 8 of 9"},
      {with_header("{" + a + "," + entry("b", "F32", "[2]", "[4,12]") + "}", 12),
       "tensor \"b\": its values at byte 4 "
       "overlap others"},
      {with_header("{" + a + "," + entry("b", "F32", "[2]", "[0,8]") + "}", 8), "overlap others"},
      {with_header("{" + a + "," + entry("b", "F32", "[1]", "[12,16]") + "}", 16), "after a hole from 8"}};
  for (const auto& [file, message] : cases) {
    const std::string error = test::error_of([&f = file] { parse(f); });
    EXPECT_THAT(error, HasSubstr(message)) << file.substr(0, 200);
    EXPECT_THAT(error, testing::StartsWith("m.safetensors"));
  }
}

// Every mutation of a good file is either refused or has tensors that lie within the file.
TEST(SafetensorsTest, MutatedFilesAreRefusedOrRead) {
  const std::string good = with_header(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("y":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"z":{"dtype":"U8","shape":[],"data_offsets":[32,33]}})",
      33);
  ASSERT_EQ(parse(good).size(), 3u);
  const std::string pieces[] = {"0",
                                "9",
                                "-",
                                "[",
                                "]",
                                "{",
                                "}",
                                "\"",
                                ",",
                                ":",
                                "1e9",
                                "null",
                                "99999999999999999999",
                                "F16",
                                "shape",
                                "\xff",
                                std::string(1, '\0'),
                                "//",
                                "x"};
  int refused = 0, accepted = 0;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    CounterRandom random(7, 1, i);
    std::string file = good;
    for (std::int64_t edits = random.uniform_int(1, 4); edits > 0 && !file.empty(); --edits) {
      const auto at =
          static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(file.size()) - 1));
      const std::string& piece = pieces[random.uniform_int(0, std::size(pieces) - 1)];
      switch (random.uniform_int(0, 5)) {
        case 0:
          file[at] = static_cast<char>(random.uniform_int(0, 255));
          break;
        case 1:
          file.insert(at, piece);
          break;
        case 2:
          file.erase(at, static_cast<std::size_t>(random.uniform_int(1, 8)));
          break;
        case 3:
          file.replace(at, piece.size(), piece);
          break;
        case 4:
          file.resize(at);
          break;
        default: {  // keep the length right, so that the header itself is reached
          file.replace(at, piece.size(), piece);
          const std::size_t header = file.size() > 41 ? file.size() - 41 : 0;
          for (std::size_t b = 0; b < 8 && b < file.size(); ++b)
            file[b] = static_cast<char>(header >> (8 * b) & 255u);
        }
      }
    }
    try {
      for (const StoredTensor& t : parse(file)) {
        const auto* begin = reinterpret_cast<const char*>(t.data);
        ASSERT_GE(begin, file.data() + 8);
        ASSERT_LE(begin + t.values() / 2, file.data() + file.size());
        if (is_readable_float(t.dtype)) floats_of(t);
      }
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
  EXPECT_GT(accepted, 100);
}

TEST(SafetensorsTest, FoldersAreReadByTheirIndex) {
  const test::Folder folder;
  const auto one = [] { return std::vector<float>{1}; };
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }), HasSubstr("has no *.safetensors"));
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("none.safetensors")); }),
              HasSubstr("can't be read"));
  write_safetensors(folder.path("m-1.safetensors"), {{"a", {1}, one}});
  write_safetensors(folder.path("m-2.safetensors"), {{"b", {1}, one}});
  EXPECT_EQ(TensorFiles(folder.path("")).tensors().size(), 2u);
  write_safetensors(folder.path("other.safetensors"), {{"a", {1}, one}});
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }), HasSubstr("tensor \"a\" is in"));
  const std::string index = "model.safetensors.index.json";
  folder.put(index, R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  EXPECT_EQ(TensorFiles(folder.path("")).tensors().size(), 2u);
  folder.put(index, R"({"weight_map":{"a":"m-1.safetensors","b":"m-3.safetensors"}})");
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }),
              HasSubstr("m-3.safetensors: missing, though"));
  folder.put(index, R"({"weight_map":{"a":"m-1.safetensors","c":"m-2.safetensors"}})");
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }), HasSubstr("has no tensor \"c\""));
  folder.put(index, R"({"weight_map":{"a":"../m-1.safetensors"}})");
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }), HasSubstr("a file in this folder"));
  folder.put(index, R"({})");
  EXPECT_THAT(test::error_of([&] { TensorFiles(folder.path("")); }), HasSubstr("weight_map"));
}

}  // namespace
}  // namespace foretoken
