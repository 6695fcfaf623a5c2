// Safetensors files: what is written is read, every lie of a header is an error that names file and tensor,
// and no mutation of a file does worse.
#include "executor/safetensors.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "expect_error.h"
#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), 8);
  return text + header + data;
}

struct SafetensorsFile : testing::Test {
  Folder folder;
  std::string error(const std::string& content) {
    const auto path = folder.put("x.safetensors", content);
    return error_of([&] { TensorFiles files(path); });
  }
  std::string error(const std::string& header, const std::string& data) {
    return error(file_of(header, data));
  }
};

TEST_F(SafetensorsFile, WhatIsWrittenIsRead) {
  const std::vector<float> a{1, 2, 3, 4, 5, 6}, b{7};
  const TensorOut out[] = {{"a", {2, 3}, a}, {"b", {1}, b}};
  write_safetensors(folder.path("m.safetensors"), out);
  const TensorFiles files(folder.path("m.safetensors"));
  ASSERT_EQ(files.tensors().size(), 2u);
  const TensorView& t = *files.find("a");
  EXPECT_EQ(t.shape, (std::vector<std::int64_t>{2, 3}));
  float read[3];
  t.read(3, 1, 3, read);
  EXPECT_THAT(read, testing::ElementsAre(4, 5, 6));
  t.read(1, 3, 2, read);
  EXPECT_EQ(read[1], 5) << "a column";
  EXPECT_EQ(files.find("c"), nullptr);
  // A folder is all of its files.
  const TensorOut more[] = {{"c", {1}, b}};
  write_safetensors(folder.path("n.safetensors"), more);
  EXPECT_NE(TensorFiles(folder.path("")).find("c"), nullptr);
}

TEST_F(SafetensorsFile, LyingHeadersAreNamed) {
  const std::string eight(8, '\0');
  EXPECT_THAT(error("abc"), HasSubstr("has 3 bytes"));
  EXPECT_THAT(error(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + "{}"), HasSubstr("truncated"));
  EXPECT_THAT(error("{", ""), HasSubstr("x.safetensors"));
  EXPECT_THAT(error("[]", ""), HasSubstr("no JSON object"));
  EXPECT_THAT(error(R"({"a": {"dtype": "F32", "shape": [2]}})", eight),
              AllOf(HasSubstr("tensor a"), HasSubstr("data_offsets")));
  EXPECT_THAT(error(R"({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}})", eight),
              HasSubstr("unknown type"));
  EXPECT_THAT(error(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}})", eight),
              HasSubstr("has 8 bytes of data"));
  EXPECT_THAT(error(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}})", eight),
              HasSubstr("lies at 8 to 0"));
  EXPECT_THAT(error(R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}})", eight),
              HasSubstr("8 bytes for 3 elements"));
  EXPECT_THAT(error(R"({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}})", eight),
              HasSubstr("-2"));
  EXPECT_THAT(
      error(
          R"({"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4294967296], "data_offsets": [0, 8]}})",
          eight),
      HasSubstr("larger than the file"));
  const std::string a = R"("a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})";
  EXPECT_THAT(
      error("{" + a + R"(, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", eight.substr(4)),
      HasSubstr("overlaps"));
  EXPECT_THAT(error("{" + a + R"(, "b": {"dtype": "F16", "shape": [1], "data_offsets": [6, 8]}})", eight),
              HasSubstr("hole of 2 bytes"));
  EXPECT_THAT(error("{" + a + "}", eight), HasSubstr("4 bytes after its last tensor"));
  EXPECT_THAT(error("{" + a + ", " + a + "}", eight.substr(4)), HasSubstr("x.safetensors")) << "a name twice";
  EXPECT_THAT(error_of([&] { TensorFiles files(folder.path("none")); }), HasSubstr("can't be opened"));
  std::filesystem::create_directory(folder.path("empty"));
  EXPECT_THAT(error_of([&] { TensorFiles files(folder.path("empty")); }),
              HasSubstr("holds no *.safetensors"));
}

TEST_F(SafetensorsFile, AModelsTensorsMustBeThereWithTheirShapes) {
  const SmallModel m(dense_config());
  const auto golden = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/golden/llama";
  EXPECT_THAT(error_of([&] { safetensors_checkpoint(golden, m.config, m.numerics); }),
              AllOf(HasSubstr("tensor"), HasSubstr("shape")));
  const std::vector<float> one{1};
  const TensorOut out[] = {{"x", {1}, one}};
  write_safetensors(folder.path("m.safetensors"), out);
  EXPECT_THAT(error_of([&] { safetensors_checkpoint(folder.path("m.safetensors"), m.config, m.numerics); }),
              AllOf(HasSubstr("embed_tokens"), HasSubstr("is missing")));
}

// Bytes flipped, cut and repeated: an Error or a file that can be read, never a crash.
TEST_F(SafetensorsFile, MutationsAreErrorsOrFiles) {
  const auto golden = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/golden/gpt_oss/model.safetensors";
  const std::string whole = read_file(golden);
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  std::mt19937 random(1);
  int errors = 0;
  constexpr int kMutations = 1500;
  for (int i = 0; i < kMutations; ++i) {
    std::string text = whole;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      const std::size_t at = random() % (8 + header);
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.resize(std::max<std::size_t>(at, 1));
          text.resize(whole.size(), '0');
          break;
        case 2:
          text.insert(at, text.substr(at, random() % 40));
          break;
        default:
          text.erase(at, random() % 40);
      }
    }
    const auto path = folder.put("mutated.safetensors", text);
    try {
      const TensorFiles files(path);
      for (const auto& [name, t] : files.tensors()) {
        if (t.type != TensorType::kBf16 || t.data.empty()) continue;
        float last;
        t.read(static_cast<std::int64_t>(t.data.size() / 2) - 1, 1, 1, &last);
      }
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("mutated.safetensors"));
      ++errors;
    }
  }
  EXPECT_GT(errors, kMutations / 2);
}

TEST(Synthetic, DependsOnSeedAndPlaceAloneAndIsNormalised) {
  const SmallModel a(dense_config(), 1), b(dense_config(), 1), c(dense_config(), 2);
  const auto row = [](const SmallModel& m, std::int64_t r, std::int64_t count) {
    std::vector<float> v(static_cast<std::size_t>(64 * count));
    m.weights->read(Role::kQ, 1, 0, r, count, v.data());
    return v;
  };
  EXPECT_EQ(row(a, 3, 1), row(b, 3, 1));
  EXPECT_NE(row(a, 3, 1), row(c, 3, 1));
  EXPECT_NE(row(a, 3, 1), row(a, 4, 1));
  const auto both = row(a, 3, 2), second = row(a, 4, 1);
  EXPECT_TRUE(std::equal(second.begin(), second.end(), both.begin() + 64))
      << "rows at once are rows one by one";
  double squares = 0;
  const auto all = row(a, 0, 64);
  for (const float v : all) squares += double(v) * v;
  EXPECT_NEAR(squares / static_cast<double>(all.size()) * 64, 1, 0.1) << "variance one over the inputs";
}

}  // namespace
}  // namespace foretoken
