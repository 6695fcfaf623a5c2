// Weights by role: from files in every family's layout, and synthetic ones.
#include "executor/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../base/expect_error.h"
#include "executor/safetensors.h"
#include "executor/storage.h"
#include "executor/weight_shapes.h"
#include "golden.h"
#include "plain_forward.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

std::vector<float> whole(const Checkpoint& c, Role role, std::int64_t layer, std::int64_t expert) {
  const Extent e = c.extent(role, layer, expert);
  std::vector<float> out(static_cast<std::size_t>(e.rows * e.columns));
  c.read(role, layer, expert, 0, e.rows, out.data());
  return out;
}

class CheckpointOf : public testing::TestWithParam<std::string> {};

// Through the family's own names and layouts, fused and transposed ones included.
TEST_P(CheckpointOf, WritesAndReadsSyntheticWeights) {
  const test::Folder folder;
  const Golden golden(GetParam());
  const auto synthetic = synthetic_checkpoint(golden.model, golden.numerics, 3);
  write_checkpoint(folder.path("model.safetensors"), *synthetic, golden.model, golden.numerics, false);
  const auto read = safetensors_checkpoint(folder.path(""), golden.model, golden.numerics);
  int weights = 0;
  for_each_weight(
      golden.model, golden.numerics, [&](Role role, std::int64_t layer, std::int64_t expert, Extent e) {
        SCOPED_TRACE(testing::Message() << "role " << static_cast<int>(role) << " layer " << layer);
        const std::vector<float> expected = whole(*synthetic, role, layer, expert);
        EXPECT_EQ(whole(*read, role, layer, expert), expected);
        // Single rows are the same.
        std::vector<float> row(static_cast<std::size_t>(e.columns));
        for (const Checkpoint* c : {synthetic.get(), read.get()}) {
          c->read(role, layer, expert, e.rows - 1, 1, row.data());
          EXPECT_TRUE(std::equal(row.begin(), row.end(), expected.end() - e.columns));
        }
        ++weights;
      });
  EXPECT_GT(weights, 20);
  // The files of the family itself have the same tensors in the same shapes.
  const TensorFiles ours(folder.path("")), theirs(golden.folder);
  ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const auto& [name, tensor] : theirs.tensors()) {
    ASSERT_NE(ours.find(name), nullptr) << name;
    EXPECT_EQ(ours.find(name)->shape, tensor.shape) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CheckpointOf, testing::ValuesIn(golden_names()),
                         [](const auto& family) { return family.param; });

TEST(CheckpointTest, SyntheticWeightsAreNearNormalAndKeepActivationsOfOrderOne) {
  const Json config =
      read_json(std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets/llama-3.2-1b.json");
  const ModelConfig model = read_hf_config(config, "m", "m");
  const Numerics numerics = read_numerics(config, model, 64, "m");
  const auto c = synthetic_checkpoint(model, numerics, 1);
  std::vector<float> rows(1024 * 2048);
  c->read(Role::kQ, 3, 0, 17, 1024, rows.data());
  double sum = 0, squares = 0, fourth = 0, neighbours = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double v = rows[i] * std::sqrt(2048.0);
    sum += v;
    squares += v * v;
    fourth += v * v * v * v;
    if (i > 0) neighbours += v * rows[i - 1] * std::sqrt(2048.0);
  }
  const auto n = static_cast<double>(rows.size());
  EXPECT_NEAR(sum / n, 0, 4 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 0.005);
  EXPECT_NEAR(fourth / n, 2.7, 0.02);  // of four uniform numbers' sum; a normal one's is 3
  EXPECT_NEAR(neighbours / n, 0, 4 / std::sqrt(n));
}

// Computed apart, with Python's integers: another vector width or compiler makes the same model.
TEST(CheckpointTest, SyntheticWeightsAreTheSameEverywhere) {
  const Json config =
      read_json(std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets/llama-3.2-1b.json");
  const ModelConfig model = read_hf_config(config, "m", "m");
  const auto c = synthetic_checkpoint(model, read_numerics(config, model, 64, "m"), 1);
  std::vector<float> row(2048);
  c->read(Role::kQ, 3, 0, 17, 1, row.data());
  EXPECT_EQ(row[0], -0x1.8e1e6p-6f);
  EXPECT_EQ(row[1], 0x1.2d498ap-10f);
  EXPECT_EQ(row[2], -0x1.2b7d08p-5f);
  EXPECT_EQ(row[1023], -0x1.5d86a4p-5f);
  EXPECT_EQ(row[2047], 0x1.716502p-7f);
}

TEST(CheckpointTest, SyntheticWeightsDependOnSeedRoleLayerAndExpert) {
  const Golden golden("mixtral");
  const auto a = synthetic_checkpoint(golden.model, golden.numerics, 1),
             b = synthetic_checkpoint(golden.model, golden.numerics, 2);
  const std::vector<float> first = whole(*a, Role::kExpertGate, 0, 0);
  EXPECT_EQ(whole(*synthetic_checkpoint(golden.model, golden.numerics, 1), Role::kExpertGate, 0, 0), first);
  EXPECT_NE(whole(*b, Role::kExpertGate, 0, 0), first);
  EXPECT_NE(whole(*a, Role::kExpertUp, 0, 0), first);
  EXPECT_NE(whole(*a, Role::kExpertGate, 1, 0), first);
  EXPECT_NE(whole(*a, Role::kExpertGate, 0, 1), first);
}

TEST(CheckpointTest, SyntheticModelsGiveLogitsOfOrderOne) {
  for (const std::string& name : golden_names()) {
    SCOPED_TRACE(name);
    const Golden golden(name);
    const auto c = synthetic_checkpoint(golden.model, golden.numerics, 5);
    double squares = 0, values = 0;
    for (const auto& row : plain_forward(golden.model, golden.numerics, *c, golden.tokens))
      for (const double v : row) {
        squares += v * v;
        ++values;
      }
    EXPECT_GT(std::sqrt(squares / values), 0.5);
    EXPECT_LT(std::sqrt(squares / values), 2);
  }
}

// Names of the language parts of multimodal models.
TEST(CheckpointTest, PrefixesOfNamesAreFound) {
  const Golden golden("llama");
  const TensorFiles files(golden.folder);
  for (const auto& [inside, outside] :
       {std::pair<std::string, std::string>{"language_model.model.", "language_model."},
        {"model.language_model.", ""},
        {"", ""}}) {
    const test::Folder folder;
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, t] : files.tensors())
      tensors.push_back(
          {name.starts_with("model.") ? inside + name.substr(6) : outside + name, t.shape, [&t = t] {
             std::vector<float> v(static_cast<std::size_t>(t.values()));
             read_floats(t, 0, 1, t.values(), v.data());
             return v;
           }});
    write_safetensors(folder.path("model.safetensors"), tensors);
    const auto c = safetensors_checkpoint(folder.path(""), golden.model, golden.numerics);
    EXPECT_EQ(whole(*c, Role::kLmHead, 0, 0), whole(*golden.checkpoint(), Role::kLmHead, 0, 0));
  }
}

// The golden model's tensors with one of them changed.
std::string error_with(const Golden& golden, const std::string& changed, const std::string& name,
                       const std::vector<std::int64_t>& shape) {
  const test::Folder folder;
  const TensorFiles files(golden.folder);
  std::vector<TensorToWrite> tensors;
  for (const auto& [n, t] : files.tensors()) {
    const std::vector<std::int64_t> s = n == changed && !shape.empty() ? shape : t.shape;
    std::int64_t count = 1;
    for (const std::int64_t size : s) count *= size;
    tensors.push_back({n == changed ? name : n, s,
                       [count] { return std::vector<float>(static_cast<std::size_t>(count)); }});
  }
  write_safetensors(folder.path("model.safetensors"), tensors);
  return test::error_of([&] { safetensors_checkpoint(folder.path(""), golden.model, golden.numerics); });
}

TEST(CheckpointTest, MissingAndMisshapenTensorsAreRefused) {
  const Golden golden("llama");
  const std::string down = "model.layers.1.mlp.down_proj.weight";
  EXPECT_THAT(error_with(golden, down, "model.layers.1.mlp.down.weight", {}),
              testing::AllOf(HasSubstr("tensor \"" + down + "\" is missing"), HasSubstr("did you mean")));
  EXPECT_THAT(error_with(golden, down, "model.layers.1.mlp.down_proj.qweight", {}),
              HasSubstr("it is there quantised (\"model.layers.1.mlp.down_proj.qweight\"): convert"));
  EXPECT_THAT(error_with(golden, down, down, {48, 32}),
              HasSubstr("tensor \"" + down + "\" has shape [48, 32], config.json makes it [32, 48]"));
  EXPECT_THAT(error_with(golden, "model.embed_tokens.weight", "wte", {}),
              HasSubstr("tensor \"model.embed_tokens.weight\" is missing from the 30 there, though llama"));
  const Golden oss("gpt_oss");
  EXPECT_THAT(error_with(oss, "model.layers.0.mlp.experts.down_proj",
                         "model.layers.0.mlp.experts.down_proj_blocks", {}),
              HasSubstr("quantised"));
}

// A golden model's file with the down projection of a layer in fp8, beside scales of a shape and a name, and
// scales of what it multiplies where there are any.
struct Fp8File {
  test::Folder folder;
  Golden golden{"llama"};
  std::string down = "model.layers.1.mlp.down_proj.weight";
  std::vector<std::uint8_t> numbers;

  Fp8File(const std::string& suffix, const std::vector<std::int64_t>& shape, const std::vector<float>& scales,
          const std::vector<float>& input_scale = {}) {
    struct Entry {
      std::string name, dtype;
      std::vector<std::int64_t> shape;
      std::string bytes;
    };
    std::vector<Entry> entries;
    const TensorFiles files(golden.folder);
    for (const auto& [name, t] : files.tensors()) {
      entries.push_back({name,
                         t.dtype,
                         t.shape,
                         {reinterpret_cast<const char*>(t.data), static_cast<std::size_t>(t.values()) * 2}});
      if (name != down) continue;
      for (std::int64_t i = 0; i < t.values(); ++i)
        numbers.push_back(static_cast<std::uint8_t>(i * 7 % 255 == 127 ? 0 : i * 7 % 255));
      entries.back().dtype = "F8_E4M3";
      entries.back().bytes.assign(numbers.begin(), numbers.end());
    }
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& of,
                         const std::vector<float>& values) {
      entries.push_back(
          {name, "F32", of, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}});
    };
    if (!suffix.empty()) add(down + suffix, shape, scales);
    if (!input_scale.empty()) {
      std::vector<std::int64_t> of;  // none: a number
      if (input_scale.size() > 1) of.push_back(static_cast<std::int64_t>(input_scale.size()));
      add("model.layers.1.mlp.down_proj.input_scale", of, input_scale);
    }
    Json header = Json::object();
    std::string data;
    for (const Entry& e : entries) {
      header[e.name] = {{"dtype", e.dtype},
                        {"shape", e.shape},
                        {"data_offsets", {data.size(), data.size() + e.bytes.size()}}};
      data += e.bytes;
    }
    const std::string text = header.dump();
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 255u);
    folder.put("model.safetensors", length + text + data);
  }
  std::unique_ptr<Checkpoint> open() const {
    return safetensors_checkpoint(folder.path(""), golden.model, golden.numerics);
  }
};

// Rows of fp8 files are numbers times the scale of their block, row or tensor.
TEST(CheckpointTest, Fp8TensorsAreScaled) {
  std::vector<float> rows(32);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 0.25f * static_cast<float>(i + 1);
  const struct {
    const char* suffix;
    std::vector<std::int64_t> shape;
    std::vector<float> scales;
  } cases[] = {{"_scale_inv", {1, 1}, {0.5f}}, {"_scale", {32, 1}, rows}, {"_scale", {32}, rows}};
  for (const auto& c : cases) {
    const Fp8File file(c.suffix, c.shape, c.scales);
    const std::vector<float> got = whole(*file.open(), Role::kDown, 1, 0);
    ASSERT_EQ(got.size(), file.numbers.size());
    const std::size_t columns = got.size() / 32;
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i], fp8_to_float(file.numbers[i]) * c.scales[c.scales.size() == 1 ? 0 : i / columns])
          << i;
  }
  EXPECT_THAT(test::error_of([] { Fp8File("", {}, {}).open(); }),
              HasSubstr("down_proj.weight\" is F8_E4M3 without its scales"));
  EXPECT_THAT(test::error_of([] {
                Fp8File("_scale_inv", {2, 1}, {1, 1}).open();
              }),
              HasSubstr("with scales of shape [2, 1], which are those of no rows and no blocks of 128"));
}

// As vLLM's servers take them: one scale of a matrix and one of what it multiplies, or a token's.
TEST(CheckpointTest, Fp8TensorsHaveTheirScalesToo) {
  const auto none = Fp8File("_scale", {32}, std::vector<float>(32, 1)).open(),
             dynamic = Fp8File("_scale", {}, {0.25f}).open(),
             fixed = Fp8File("_scale", {1}, {0.25f}, {0.0625f}).open();
  EXPECT_EQ(none->fp8_scales(), Fp8Scales::kRows);
  EXPECT_EQ(dynamic->fp8_scales(), Fp8Scales::kTensorToken);
  EXPECT_EQ(fixed->fp8_scales(), Fp8Scales::kStatic);
  EXPECT_EQ(none->weight_scale(Role::kDown, 1, 0), 0);
  EXPECT_EQ(dynamic->weight_scale(Role::kDown, 1, 0), 0.25f);
  EXPECT_EQ(dynamic->input_scale(Role::kDown, 1, 0), 0);
  EXPECT_EQ(fixed->input_scale(Role::kDown, 1, 0), 0.0625f);
  EXPECT_EQ(fixed->input_scale(Role::kDown, 0, 0), 0) << "a matrix in bfloat16";
  EXPECT_EQ(fixed->input_scale(Role::kRouter, 0, 0), 0) << "no such weight";
  EXPECT_EQ(Fp8File("_scale", {}, {-1}).open()->weight_scale(Role::kDown, 1, 0), 0);
  EXPECT_THAT(test::error_of([] {
                Fp8File("_scale", {}, {1}, {1, 2}).open();
              }),
              HasSubstr("down_proj.input_scale\" is F32 of shape [2]; one number"));
  EXPECT_THAT(test::error_of([] { Fp8File("_scale", {}, {1}, {-1}).open(); }),
              HasSubstr("a scale is above 0"));
}

TEST(CheckpointTest, TypesThatAreNoReadableFloatAreRefused) {
  const test::Folder folder;
  const Golden golden("llama");
  std::string file = read_file(golden.folder / "model.safetensors");
  const std::size_t at = file.find("\"model.norm.weight\":{\"dtype\":\"BF16\"");
  ASSERT_NE(at, std::string::npos);
  file.replace(file.find("BF16", at), 4, "I16\"");  // one byte shorter: the quote moves, a space fills up
  file.replace(file.find("I16\"\"", at), 5, "I16\" ");
  folder.put("model.safetensors", file);
  EXPECT_THAT(test::error_of([&] { safetensors_checkpoint(folder.path(""), golden.model, golden.numerics); }),
              HasSubstr("tensor \"model.norm.weight\" is I16; F32, F16, BF16 and F8_E4M3 can be read"));
}

TEST(CheckpointTest, RowsBeyondTheWeightAreRefused) {
  const Golden golden("llama");
  const auto c = golden.checkpoint();
  std::vector<float> out(4096);
  EXPECT_THAT(test::error_of([&] { c->read(Role::kQ, 0, 0, 31, 2, out.data()); }),
              HasSubstr("rows 31 to 33 of the 32"));
}

}  // namespace
}  // namespace foretoken
