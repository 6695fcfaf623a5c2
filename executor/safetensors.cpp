// Reading and writing files of tensors.
#include "executor/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "executor/storage.h"

namespace foretoken {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own library
constexpr const char* kAgain = "the file is damaged or no safetensors file; download or write it again";

struct Type {
  std::string_view name;
  int bits;
};
constexpr std::array kTypes{Type{"F64", 64},    Type{"F32", 32},    Type{"F16", 16},    Type{"BF16", 16},
                            Type{"I64", 64},    Type{"I32", 32},    Type{"I16", 16},    Type{"I8", 8},
                            Type{"U64", 64},    Type{"U32", 32},    Type{"U16", 16},    Type{"U8", 8},
                            Type{"F8_E4M3", 8}, Type{"F8_E5M2", 8}, Type{"F8_E8M0", 8}, Type{"BOOL", 8},
                            Type{"F4", 4},      Type{"F6_E2M3", 6}, Type{"F6_E3M2", 6}, Type{"C64", 64}};

[[noreturn]] void damaged(const std::string& where, const std::string& what) {
  throw Error(where, what + "; " + kAgain);
}

std::uint64_t unsigned_of(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned()) damaged(where, "expected a whole number from 0");
  return value.get<std::uint64_t>();
}

struct Entry {
  StoredTensor tensor;
  std::uint64_t begin = 0, end = 0;
};

Entry read_entry(const std::string& name, const Json& j, std::uint64_t data_bytes, const std::string& file) {
  const std::string where = fmt::format("{}: tensor \"{}\"", file, name);
  if (!j.is_object()) damaged(where, "its header entry is no object");
  for (const auto& [key, value] : j.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      damaged(where, fmt::format("unknown key \"{}\" in its header entry", key));
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!j.contains(key)) damaged(where, fmt::format("its header entry lacks \"{}\"", key));
  Entry e;
  e.tensor.name = name;
  e.tensor.file = file;
  if (!j["dtype"].is_string()) damaged(where, "its dtype is no text");
  e.tensor.dtype = j["dtype"].get<std::string>();
  const auto type =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const Type& t) { return t.name == e.tensor.dtype; });
  if (type == kTypes.end()) damaged(where, fmt::format("unknown dtype \"{}\"", e.tensor.dtype));
  const Json& shape = j["shape"];
  if (!shape.is_array() || shape.size() > 16) damaged(where, "its shape is no list of at most 16 sizes");
  std::uint64_t values = 1;
  for (const Json& size : shape) {
    const std::uint64_t n = unsigned_of(size, where + " shape");
    // Each below 2^40 and all before a size of 0 together below 2^62, so that they can be multiplied again.
    if (n > (std::uint64_t{1} << 40) || __builtin_mul_overflow(values, n, &values) ||
        values > (std::uint64_t{1} << 62))
      damaged(where, "its shape is absurdly large");
    e.tensor.shape.push_back(static_cast<std::int64_t>(n));
  }
  const Json& offsets = j["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) damaged(where, "its data_offsets are no pair");
  e.begin = unsigned_of(offsets[0], where + " data_offsets");
  e.end = unsigned_of(offsets[1], where + " data_offsets");
  if (e.begin > e.end || e.end > data_bytes)
    damaged(where,
            fmt::format("its values are said to be at bytes {} to {} of {}", e.begin, e.end, data_bytes));
  std::uint64_t bits = 0;
  if (__builtin_mul_overflow(values, static_cast<std::uint64_t>(type->bits), &bits) || bits % 8 != 0 ||
      bits / 8 != e.end - e.begin)
    damaged(where, fmt::format("its shape [{}] of {} does not make the {} bytes of its offsets",
                               fmt::join(e.tensor.shape, ", "), e.tensor.dtype, e.end - e.begin));
  return e;
}

}  // namespace

std::int64_t StoredTensor::values() const {
  std::int64_t n = 1;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

std::vector<StoredTensor> parse_safetensors(std::span<const std::byte> file, const std::string& where) {
  if (file.size() < 8) damaged(where, fmt::format("{} bytes are too short for a header", file.size()));
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i)
    header = header << 8 | static_cast<std::uint64_t>(file[static_cast<std::size_t>(i)]);
  if (header > kMaxHeader)
    damaged(where, fmt::format("its header is said to have {} bytes, more than the format's limit of {}",
                               header, kMaxHeader));
  if (header > file.size() - 8)
    damaged(where, fmt::format("its header is said to have {} bytes, the file has {}", header, file.size()));
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header);
  if (text.empty() || text[0] != '{') damaged(where, "its header does not begin with {");
  const Json j = parse_json(text, where + " (header)");
  if (!j.is_object()) damaged(where, "its header is no object");
  const std::span<const std::byte> data = file.subspan(8 + header);
  std::vector<Entry> entries;
  for (const auto& [name, value] : j.items())
    if (name != "__metadata__") entries.push_back(read_entry(name, value, data.size(), where));
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  std::vector<StoredTensor> out;
  for (Entry& e : entries) {
    if (e.begin != at)
      damaged(fmt::format("{}: tensor \"{}\"", where, e.tensor.name),
              e.begin < at ? fmt::format("its values at byte {} overlap others, which end at {}", e.begin, at)
                           : fmt::format("its values begin at byte {}, after a hole from {}", e.begin, at));
    at = e.end;
    e.tensor.data = data.data() + e.begin;
    out.push_back(std::move(e.tensor));
  }
  if (at != data.size()) damaged(where, fmt::format("its tensors end at byte {} of {}", at, data.size()));
  return out;
}

// A file mapped for reading.
struct TensorFiles::Map {
  explicit Map(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw Error(path.string(), std::string("can't be read: ") + std::strerror(errno));
    struct stat s {};
    if (::fstat(file, &s) != 0 || !S_ISREG(s.st_mode)) {
      ::close(file);
      throw Error(path.string(), "is no regular file");
    }
    size = static_cast<std::size_t>(s.st_size);
    if (size > 0) address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (address == MAP_FAILED) {
      address = nullptr;
      throw Error(path.string(), std::string("can't be mapped: ") + std::strerror(errno));
    }
  }
  ~Map() {
    if (address != nullptr) ::munmap(address, size);
  }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(address), size}; }
  void* address = nullptr;
  std::size_t size = 0;
};

TensorFiles::~TensorFiles() = default;

void TensorFiles::add_file(const std::filesystem::path& path) {
  maps_.push_back(std::make_unique<Map>(path));
  for (StoredTensor& t : parse_safetensors(maps_.back()->bytes(), path.string())) {
    const auto [it, added] = tensors_.emplace(t.name, t);
    if (!added)
      throw Error(path.string(), fmt::format("tensor \"{}\" is in {} too; remove the file that is no part of "
                                             "the model",
                                             t.name, it->second.file));
  }
}

TensorFiles::TensorFiles(const std::filesystem::path& path) : where_(path.string()) {
  if (!std::filesystem::is_directory(path)) {
    add_file(path);
    return;
  }
  const std::filesystem::path index = path / "model.safetensors.index.json";
  if (std::filesystem::exists(index)) {
    const Json j = read_json(index);
    if (!j.is_object() || !j.contains("weight_map") || !j["weight_map"].is_object())
      throw Error(index.string() + ":/weight_map", "missing, or no object: which file holds which tensor");
    std::set<std::string> names;
    for (const auto& [tensor, file] : j["weight_map"].items()) {
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
        throw Error(index.string() + ":/weight_map/" + tensor, "expected the name of a file in this folder");
      names.insert(file.get<std::string>());
    }
    for (const std::string& name : names) {
      if (!std::filesystem::exists(path / name))
        throw Error((path / name).string(),
                    "missing, though model.safetensors.index.json names it; download it too");
      add_file(path / name);
    }
    for (const auto& [tensor, file] : j["weight_map"].items()) {
      const StoredTensor* t = find(tensor);
      const std::string expected = (path / file.get<std::string>()).string();
      if (t == nullptr || t->file != expected)
        throw Error(expected, fmt::format("has no tensor \"{}\", though {} says so; download both again",
                                          tensor, index.string()));
    }
    return;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  if (files.empty())
    throw Error(path.string(), "has no *.safetensors; convert other formats with Hugging Face's tools");
  std::sort(files.begin(), files.end());
  for (const auto& file : files) add_file(file);
}

const StoredTensor* TensorFiles::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

namespace {

template <class Stored, class Convert>
void gather(const std::byte* data, std::int64_t first, std::int64_t step, std::int64_t count, float* out,
            Convert convert) {
  const std::byte* at = data + first * static_cast<std::int64_t>(sizeof(Stored));
  if (step == 1) {  // apart, for the compiler to make it vectors
    for (std::int64_t i = 0; i < count; ++i) {
      Stored v;
      std::memcpy(&v, at + i * static_cast<std::int64_t>(sizeof v), sizeof v);
      out[i] = convert(v);
    }
    return;
  }
  for (std::int64_t i = 0; i < count; ++i, at += step * static_cast<std::int64_t>(sizeof(Stored))) {
    Stored v;
    std::memcpy(&v, at, sizeof v);
    out[i] = convert(v);
  }
}

}  // namespace

bool is_readable_float(std::string_view dtype) {
  return dtype == "F32" || dtype == "F16" || dtype == "BF16" || dtype == "F8_E4M3";
}

void read_floats(const StoredTensor& tensor, std::int64_t first, std::int64_t step, std::int64_t count,
                 float* out) {
  if (tensor.dtype == "F32")
    gather<float>(tensor.data, first, step, count, out, [](float v) { return v; });
  else if (tensor.dtype == "F16")
    gather<std::uint16_t>(tensor.data, first, step, count, out, f16_to_float);
  else if (tensor.dtype == "F8_E4M3")
    gather<std::uint8_t>(tensor.data, first, step, count, out, fp8_to_float);
  else
    gather<std::uint16_t>(tensor.data, first, step, count, out, [](std::uint16_t v) {
      return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16);
    });
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       bool bf16) {
  const std::int64_t width = bf16 ? 2 : 4;
  Json header = Json::object();
  std::int64_t at = 0;
  std::vector<std::int64_t> counts;
  for (const TensorToWrite& t : tensors) {
    if (t.name == "__metadata__" || header.contains(t.name))
      throw Error(path.string(), fmt::format("tensor \"{}\" can't be written: the name is taken", t.name));
    std::int64_t n = 1;
    for (const std::int64_t size : t.shape) n *= size;
    counts.push_back(n);
    header[t.name] = {
        {"dtype", bf16 ? "BF16" : "F32"}, {"shape", t.shape}, {"data_offsets", {at, at + n * width}}};
    at += n * width;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the values are aligned
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 255u);
  OutputFile out(path);
  out.write(length);
  out.write(text);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<float> values = tensors[i].values();
    if (static_cast<std::int64_t>(values.size()) != counts[i])
      throw Error(path.string(), fmt::format("tensor \"{}\": {} values for a shape of {}", tensors[i].name,
                                             values.size(), counts[i]));
    if (values.empty()) continue;
    if (!bf16) {
      out.write({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
      continue;
    }
    std::vector<std::uint16_t> rounded;
    for (const float v : values) {
      const auto bits = std::bit_cast<std::uint32_t>(v);
      const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
      rounded.push_back(
          static_cast<std::uint16_t>(nan ? bits >> 16 | 64u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16));
    }
    out.write({reinterpret_cast<const char*>(rounded.data()), rounded.size() * 2});
  }
  out.commit();
}

}  // namespace foretoken
