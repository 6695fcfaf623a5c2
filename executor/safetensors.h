// Files of tensors in the safetensors format: eight bytes of header length, a JSON header, raw little-endian
// data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace foretoken {

enum class TensorType : std::uint8_t {
  kF32,
  kF16,
  kBf16,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2
};

struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
  std::string file;
  // Elements [first, first + count) at `stride` elements apart, as floats. F32, F16, BF16 alone.
  void read(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const;
};

// All *.safetensors of a folder, or one file; mapped, not read. The header is checked whole: its length,
// every type, shape and range, overlaps and holes. Throws Error with file and tensor.
class TensorFiles {
 public:
  explicit TensorFiles(const std::filesystem::path& path);
  ~TensorFiles();
  TensorFiles(const TensorFiles&) = delete;
  TensorFiles& operator=(const TensorFiles&) = delete;
  const TensorView* find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  struct Mapping;
  void add(const std::filesystem::path& file);
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, TensorView> tensors_;
};

// Writes a file of float32 tensors: beside it first, then renamed over it.
struct TensorOut {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> values;
};
void write_safetensors(const std::filesystem::path& file, std::span<const TensorOut> tensors);

}  // namespace foretoken
