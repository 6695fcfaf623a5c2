// Files of named tensors: eight bytes of header length (little endian), a JSON header, then the values,
// https://huggingface.co/docs/safetensors. Read by mapping, after the whole header was checked; written whole
// or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken {

struct StoredTensor {
  std::string name;
  std::string dtype;  // as the file spells it: "F32", "BF16", ...
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;  // bytes() of them, of any alignment
  std::string file;                 // for messages

  std::int64_t values() const;
};

// The tensors of a file's bytes, in the order of their offsets. Throws Error{where} for a header that lies:
// longer than the file or 100 MB, no JSON object, unknown types, shapes that don't make the offsets,
// overlaps, holes, offsets beyond the file's end or short of it, a name twice.
std::vector<StoredTensor> parse_safetensors(std::span<const std::byte> file, const std::string& where);

// Every tensor of a file, or of a folder's *.safetensors (where it has a model.safetensors.index.json: of the
// files that this names). The maps live as long as the object.
class TensorFiles {
 public:
  explicit TensorFiles(const std::filesystem::path& path);
  ~TensorFiles();
  TensorFiles(const TensorFiles&) = delete;
  TensorFiles& operator=(const TensorFiles&) = delete;

  const StoredTensor* find(std::string_view name) const;  // null: there is none
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const std::string& where() const { return where_; }

 private:
  struct Map;
  void add_file(const std::filesystem::path& path);
  std::string where_;
  std::vector<std::unique_ptr<Map>> maps_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

// Whether values of the type can be read as floats: F32, F16, BF16 and F8_E4M3.
bool is_readable_float(std::string_view dtype);
// out[i] = tensor[first + i step], i < count. The type must be readable, the range inside.
void read_floats(const StoredTensor& tensor, std::int64_t first, std::int64_t step, std::int64_t count,
                 float* out);

struct TensorToWrite {
  std::string name;
  std::vector<std::int64_t> shape;
  std::function<std::vector<float>()> values;  // called once, when its turn has come
};
// All as F32, or rounded to BF16 (nearest, ties to even).
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       bool bf16 = false);

}  // namespace foretoken
