// Weights read from mapped files.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"
#include "executor/checkpoint_names.h"
#include "executor/safetensors.h"

namespace foretoken {
namespace {

constexpr std::int64_t kPanel = 256;  // rows of a transposed weight that are read at once

// Scales of an fp8 tensor's blocks of `rows` by `columns`; null: it has none.
struct Scales {
  const StoredTensor* tensor = nullptr;
  std::int64_t rows = 1, columns = 1;
};

struct Located {
  const StoredTensor* tensor = nullptr;
  Extent extent;
  std::int64_t base = 0, row_step = 0, column_step = 1;
  Scales scales;
  float input_scale = 0;
};

class FileCheckpoint final : public Checkpoint {
 public:
  FileCheckpoint(const std::filesystem::path& path, const ModelConfig& model, const Numerics& numerics)
      : files_(path), model_(model), numerics_(numerics) {
    const NamePrefix prefix = find_prefix();
    for_each_weight(model_, numerics_,
                    [&](Role role, std::int64_t layer, std::int64_t expert, Extent extent) {
                      const TensorView view = tensor_view(model_, numerics_, role, layer, expert);
                      const std::string name = (view.outside ? prefix.outside : prefix.inside) + view.name;
                      const StoredTensor& tensor = checked(name, view);
                      weights_.emplace(key(role, layer, expert),
                                       Located{&tensor, extent, view.base, view.row_step, view.column_step,
                                               scales_of(tensor, view), input_scale_of(tensor)});
                    });
  }

  Extent extent(Role role, std::int64_t layer, std::int64_t) const override {
    return weight_extent(model_, numerics_, role, layer);
  }

  // Dynamic scales aren't written down; servers' are a token's where weights have one (vLLM's
  // compressed_tensors_w8a8_fp8.py).
  Fp8Scales fp8_scales() const override {
    Fp8Scales scales = Fp8Scales::kRows;
    for (const auto& [key, w] : weights_) {
      if (w.input_scale > 0) return Fp8Scales::kStatic;
      if (w.scales.tensor != nullptr && w.scales.tensor->values() == 1) scales = Fp8Scales::kTensorToken;
    }
    return scales;
  }
  float weight_scale(Role role, std::int64_t layer, std::int64_t expert) const override {
    const auto at = weights_.find(key(role, layer, expert));
    if (at == weights_.end()) return 0;
    const Scales& s = at->second.scales;
    const float scale = s.tensor != nullptr && s.tensor->values() == 1 ? one_value(*s.tensor) : 0;
    return scale > 0 && std::isfinite(scale) ? scale : 0;
  }
  float input_scale(Role role, std::int64_t layer, std::int64_t expert) const override {
    const auto at = weights_.find(key(role, layer, expert));
    return at == weights_.end() ? 0 : at->second.input_scale;
  }

  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    const Located& w = weights_.at(key(role, layer, expert));
    const std::int64_t columns = w.extent.columns;
    if (first < 0 || count < 0 || first + count > w.extent.rows)
      throw Error(files_.where(), fmt::format("rows {} to {} of the {} of tensor \"{}\"", first,
                                              first + count, w.extent.rows, w.tensor->name));
    if (w.column_step == 1 || count == 1) {
      for (std::int64_t row = 0; row < count; ++row) {
        const std::int64_t at = w.base + (first + row) * w.row_step;
        read_floats(*w.tensor, at, w.column_step, columns, out + row * columns);
        if (w.scales.tensor != nullptr) scale_row(w, at, out + row * columns);
      }
      return;
    }
    // Along the file's rows, a panel of outputs at a time, which stays in the cache.
    std::vector<float> line(static_cast<std::size_t>(kPanel));
    for (std::int64_t r0 = 0; r0 < count; r0 += kPanel) {
      const std::int64_t rows = std::min(kPanel, count - r0);
      for (std::int64_t c = 0; c < columns; ++c) {
        read_floats(*w.tensor, w.base + (first + r0) * w.row_step + c * w.column_step, w.row_step, rows,
                    line.data());
        for (std::int64_t row = 0; row < rows; ++row)
          out[(r0 + row) * columns + c] = line[static_cast<std::size_t>(row)];
      }
    }
  }

 private:
  static std::uint64_t key(Role role, std::int64_t layer, std::int64_t expert) {
    if (!is_layer_role(role)) layer = 0;
    if (!is_expert_role(role)) expert = 0;
    return static_cast<std::uint64_t>(layer) << 32 | static_cast<std::uint64_t>(expert) << 8 |
           static_cast<std::uint64_t>(role);
  }

  NamePrefix find_prefix() const {
    const std::string name = tensor_view(model_, numerics_, Role::kEmbedding, 0, 0).name;
    for (const NamePrefix& p : name_prefixes(model_))
      if (files_.find(p.inside + name) != nullptr) return p;
    return name_prefixes(model_).front();  // and say what is missing
  }

  [[noreturn]] void missing(const std::string& name) const {
    std::vector<std::string> names;
    for (const auto& [other, tensor] : files_.tensors()) names.push_back(other);
    std::string hint = did_you_mean(name, names);
    for (const char* suffix : {"_blocks", ".qweight", ".weight_packed"}) {
      const std::string stem = name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
      if (files_.find(stem + suffix) != nullptr)
        hint = fmt::format("; it is there quantised (\"{}{}\"): convert the model to bfloat16 first", stem,
                           suffix);
    }
    throw Error(files_.where(),
                fmt::format("tensor \"{}\" is missing from the {} there, though {} needs it{}", name,
                            names.size(), model_.model_type, hint));
  }

  const StoredTensor& checked(const std::string& name, const TensorView& view) const {
    const StoredTensor* t = files_.find(name);
    if (t == nullptr) missing(name);
    if (t->shape != view.shape)
      throw Error(t->file,
                  fmt::format("tensor \"{}\" has shape [{}], config.json makes it [{}]; use the files of "
                              "one model",
                              name, fmt::join(t->shape, ", "), fmt::join(view.shape, ", ")));
    if (!is_readable_float(t->dtype))
      throw Error(t->file,
                  fmt::format("tensor \"{}\" is {}; F32, F16, BF16 and F8_E4M3 can be read: convert the "
                              "model to bfloat16 first",
                              name, t->dtype));
    return *t;
  }

  // Of DeepSeek's and Qwen's fp8 files ("_scale_inv", by which values are multiplied all the same) and of
  // compressed-tensors' ("_scale").
  Scales scales_of(const StoredTensor& t, const TensorView& view) const {
    if (t.dtype != "F8_E4M3") return {};
    const auto refuse = [&](const std::string& why) {
      throw Error(t.file, fmt::format("tensor \"{}\" is F8_E4M3 {}: convert the model to bfloat16 first",
                                      t.name, why));
    };
    if (view.shape.size() != 2 || view.column_step != 1 || view.base % view.shape[1] != 0 ||
        view.row_step % view.shape[1] != 0)
      refuse("and no matrix of its own, for which scales aren't read");
    const std::int64_t rows = view.shape[0], columns = view.shape[1];
    const StoredTensor *blocks = files_.find(t.name + "_scale_inv"), *others = files_.find(t.name + "_scale");
    const StoredTensor* scales = blocks != nullptr ? blocks : others;
    if (scales == nullptr)
      refuse(fmt::format("without its scales (\"{0}_scale_inv\" or \"{0}_scale\")", t.name));
    if (scales->dtype == "F8_E4M3" || !is_readable_float(scales->dtype))
      refuse(fmt::format("with scales in {}", scales->dtype));
    constexpr std::int64_t kBlock = 128;
    const auto blocks_of = [](std::int64_t n) { return (n + kBlock - 1) / kBlock; };
    using Shape = std::vector<std::int64_t>;
    if (scales->values() == 1) return {scales, rows, columns};
    if (scales->shape == Shape{rows, 1} || scales->shape == Shape{rows}) return {scales, 1, columns};
    if (scales->shape == Shape{blocks_of(rows), blocks_of(columns)}) return {scales, kBlock, kBlock};
    refuse(fmt::format("with scales of shape [{}], which are those of no rows and no blocks of 128",
                       fmt::join(scales->shape, ", ")));
    return {};
  }

  static float one_value(const StoredTensor& t) {
    float value;
    read_floats(t, 0, 1, 1, &value);
    return value;
  }

  // The one scale of what a matrix in fp8 multiplies, as llm-compressor and ModelOpt write it; 0: there is
  // none.
  float input_scale_of(const StoredTensor& t) const {
    constexpr std::string_view kWeight = "weight";
    if (t.dtype != "F8_E4M3" || !t.name.ends_with(kWeight)) return 0;
    const StoredTensor* scale = files_.find(t.name.substr(0, t.name.size() - kWeight.size()) + "input_scale");
    if (scale == nullptr) return 0;
    if (scale->values() != 1 || scale->dtype == "F8_E4M3" || !is_readable_float(scale->dtype))
      throw Error(scale->file,
                  fmt::format("tensor \"{}\" is {} of shape [{}]; one number in F32, F16 or BF16 "
                              "is read: a scale of all that the matrix multiplies",
                              scale->name, scale->dtype, fmt::join(scale->shape, ", ")));
    const float value = one_value(*scale);
    if (!(value > 0) || !std::isfinite(value))
      throw Error(scale->file, fmt::format("tensor \"{}\" is {}: a scale is above 0", scale->name, value));
    return value;
  }

  // Values of a row of the tensor, from element `at` on.
  static void scale_row(const Located& w, std::int64_t at, float* values) {
    const std::int64_t columns = w.extent.columns,
                       across = (columns + w.scales.columns - 1) / w.scales.columns,
                       first = at / columns / w.scales.rows * across;
    for (std::int64_t block = 0; block < across; ++block) {
      float scale;
      read_floats(*w.scales.tensor, first + block, 1, 1, &scale);
      const std::int64_t end = std::min(columns, (block + 1) * w.scales.columns);
      for (std::int64_t i = block * w.scales.columns; i < end; ++i) values[i] *= scale;
    }
  }

  TensorFiles files_;
  ModelConfig model_;
  Numerics numerics_;
  std::unordered_map<std::uint64_t, Located> weights_;
};

}  // namespace

std::unique_ptr<Checkpoint> safetensors_checkpoint(const std::filesystem::path& path,
                                                   const ModelConfig& model, const Numerics& numerics) {
  return std::make_unique<FileCheckpoint>(path, model, numerics);
}

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint,
                      const ModelConfig& model, const Numerics& numerics, bool bf16) {
  struct Piece {
    TensorView view;
    Role role;
    std::int64_t layer, expert;
    Extent extent;
  };
  const NamePrefix prefix = name_prefixes(model).front();
  std::map<std::string, std::vector<Piece>> tensors;
  for_each_weight(model, numerics, [&](Role role, std::int64_t layer, std::int64_t expert, Extent extent) {
    if (role == Role::kLmHead && model.tied_embeddings) return;
    TensorView view = tensor_view(model, numerics, role, layer, expert);
    const std::string name = (view.outside ? prefix.outside : prefix.inside) + view.name;
    tensors[name].push_back({std::move(view), role, layer, expert, extent});
  });
  std::vector<TensorToWrite> files;
  for (const auto& [name, pieces] : tensors)
    files.push_back(
        {name, pieces.front().view.shape, [&checkpoint, &pieces] {
           std::int64_t size = 1;
           for (const std::int64_t n : pieces.front().view.shape) size *= n;
           std::vector<float> out(static_cast<std::size_t>(size));
           std::vector<float> row;
           for (const Piece& p : pieces) {
             row.resize(static_cast<std::size_t>(p.extent.columns));
             for (std::int64_t r = 0; r < p.extent.rows; ++r) {
               checkpoint.read(p.role, p.layer, p.expert, r, 1, row.data());
               for (std::int64_t c = 0; c < p.extent.columns; ++c)
                 out[static_cast<std::size_t>(p.view.base + r * p.view.row_step + c * p.view.column_step)] =
                     row[static_cast<std::size_t>(c)];
             }
           }
           return out;
         }});
  write_safetensors(path, files, bf16);
}

}  // namespace foretoken
