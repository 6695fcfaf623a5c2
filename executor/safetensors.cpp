#include "executor/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "executor/storage.h"

namespace foretoken {
namespace {

struct TypeName {
  const char* name;
  TensorType type;
  std::int64_t bytes;
};
constexpr std::array kTypes = {
    TypeName{"F32", TensorType::kF32, 4},        TypeName{"F16", TensorType::kF16, 2},
    TypeName{"BF16", TensorType::kBf16, 2},      TypeName{"F64", TensorType::kF64, 8},
    TypeName{"I64", TensorType::kI64, 8},        TypeName{"I32", TensorType::kI32, 4},
    TypeName{"I16", TensorType::kI16, 2},        TypeName{"I8", TensorType::kI8, 1},
    TypeName{"U8", TensorType::kU8, 1},          TypeName{"BOOL", TensorType::kBool, 1},
    TypeName{"F8_E4M3", TensorType::kF8E4M3, 1}, TypeName{"F8_E5M2", TensorType::kF8E5M2, 1}};
static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::uint64_t kLongestHeader = 100'000'000;  // of the format's own reader

std::int64_t integer(const Json& v, const std::string& where) {
  if (!v.is_number_unsigned() || v.get<std::uint64_t>() > (std::uint64_t{1} << 62))
    throw Error(where,
                "holds \"" + v.dump() + "\" where a whole number from 0 belongs; write the file again");
  return static_cast<std::int64_t>(v.get<std::uint64_t>());
}

}  // namespace

void TensorView::read(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const {
  const std::byte* base = data.data();
  const auto half = [&](std::int64_t i) {
    std::uint16_t v;
    std::memcpy(&v, base + 2 * (first + i * stride), 2);
    return v;
  };
  if (type == TensorType::kF32 && stride == 1) {
    std::memcpy(out, base + 4 * first, static_cast<std::size_t>(count) * 4);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (type == TensorType::kF32)
      std::memcpy(out + i, base + 4 * (first + i * stride), 4);
    else
      out[i] = type == TensorType::kBf16 ? from_bf16(half(i)) : from_f16(half(i));
  }
}

struct TensorFiles::Mapping {
  void* memory = MAP_FAILED;
  std::size_t size = 0;
  ~Mapping() {
    if (memory != MAP_FAILED) munmap(memory, size);
  }
};

TensorFiles::TensorFiles(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    add(path);
    return;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  if (files.empty()) throw Error(path.string(), "holds no *.safetensors; name the folder that does");
  std::sort(files.begin(), files.end());
  for (const auto& file : files) add(file);
}

TensorFiles::~TensorFiles() = default;

const TensorView* TensorFiles::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void TensorFiles::add(const std::filesystem::path& path) {
  const std::string file = path.string();
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw Error(file, fmt::format("can't be opened: {}", std::strerror(errno)));
  struct stat status {};
  auto mapping = std::make_unique<Mapping>();
  const bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  mapping->size = regular ? static_cast<std::size_t>(status.st_size) : 0;
  if (mapping->size > 0)
    mapping->memory = mmap(nullptr, mapping->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  close(descriptor);
  if (!regular) throw Error(file, "is not a file");
  constexpr std::size_t kPrefix = 8;
  if (mapping->size < kPrefix)
    throw Error(
        file, fmt::format("has {} bytes; a safetensors file begins with 8 of header length", mapping->size));
  if (mapping->memory == MAP_FAILED)
    throw Error(file, fmt::format("can't be mapped: {}", std::strerror(errno)));
  const auto* bytes = static_cast<const std::byte*>(mapping->memory);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes, kPrefix);
  if (header > kLongestHeader || header > mapping->size - kPrefix)
    throw Error(file,
                fmt::format("says that its header has {} bytes, of {} in the file; it is truncated or no "
                            "safetensors file",
                            header, mapping->size));
  const Json json = parse_json({reinterpret_cast<const char*>(bytes + kPrefix), header}, file);
  if (!json.is_object()) throw Error(file, "its header is no JSON object");
  const std::int64_t room = static_cast<std::int64_t>(mapping->size - kPrefix - header);
  std::vector<std::pair<std::int64_t, std::pair<std::int64_t, std::string>>> ranges;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") continue;
    const std::string where = file + ": tensor " + name;
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets"))
      throw Error(where, "needs dtype, shape and data_offsets");
    TensorView view;
    view.file = file;
    const std::string type = value.at("dtype").is_string() ? value.at("dtype").get<std::string>() : "";
    const auto known =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& t) { return type == t.name; });
    if (known == kTypes.end()) throw Error(where, "has the unknown type " + value.at("dtype").dump());
    view.type = known->type;
    if (!value.at("shape").is_array()) throw Error(where, "has no list as shape");
    std::int64_t elements = 1;
    for (const Json& v : value.at("shape")) {
      view.shape.push_back(integer(v, where));
      if (view.shape.back() > 0 && elements > room / view.shape.back())
        throw Error(where, "has a shape larger than the file");
      elements *= view.shape.back();
    }
    const Json& offsets = value.at("data_offsets");
    if (!offsets.is_array() || offsets.size() != 2) throw Error(where, "needs two data_offsets");
    const std::int64_t begin = integer(offsets[0], where), end = integer(offsets[1], where);
    if (begin > end || end > room)
      throw Error(where,
                  fmt::format("lies at {} to {}, but the file has {} bytes of data", begin, end, room));
    if (end - begin != elements * known->bytes)
      throw Error(where, fmt::format("has {} bytes for {} elements of {}", end - begin, elements, type));
    view.data = {bytes + kPrefix + header + begin, static_cast<std::size_t>(end - begin)};
    ranges.push_back({begin, {end, name}});
    if (const TensorView* other = find(name)) throw Error(where, "is in " + other->file + " too");
    tensors_.emplace(name, std::move(view));
  }
  std::sort(ranges.begin(), ranges.end());
  std::int64_t at = 0;
  for (const auto& [begin, rest] : ranges) {
    if (begin != at)
      throw Error(file + ": tensor " + rest.second,
                  begin < at ? "overlaps another tensor"
                             : fmt::format("leaves a hole of {} bytes before it", begin - at));
    at = rest.first;
  }
  if (at != room) throw Error(file, fmt::format("has {} bytes after its last tensor", room - at));
  mappings_.push_back(std::move(mapping));
}

void write_safetensors(const std::filesystem::path& file, std::span<const TensorOut> tensors) {
  Json header = Json::object();
  std::size_t at = 0;
  for (const TensorOut& t : tensors) {
    header[t.name] =
        Json{{"dtype", "F32"}, {"shape", t.shape}, {"data_offsets", {at, at + t.values.size_bytes()}}};
    at += t.values.size_bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  OutputFile out(file);
  const std::uint64_t length = text.size();
  out.write({reinterpret_cast<const char*>(&length), sizeof length});
  out.write(text);
  for (const TensorOut& t : tensors)
    out.write({reinterpret_cast<const char*>(t.values.data()), t.values.size_bytes()});
  out.commit();
}

}  // namespace foretoken
