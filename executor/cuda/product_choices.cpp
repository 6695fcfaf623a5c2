#include "executor/cuda/product_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "executor/cuda/remarks.h"

namespace foretoken::cuda {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTitle = "foretoken product choices 2";  // raised when lines change their form
constexpr std::uintmax_t kMostBytes = std::uintmax_t{16} << 20;     // a choice takes some 300
constexpr std::array<std::string_view, 6> kForms = {"bf16",       "fp8",         "fp8_scaled",
                                                    "fp8_blocks", "fp8_tensors", "int8"};

using Choices = std::map<std::pair<std::string, ProductKey>, ProductChoice>;  // by machine

std::uint64_t checksum(std::string_view text) {  // FNV-1a
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (const char c : text) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return sum;
}

// "machine <tab> form and numbers, by spaces"
std::string line_of(const std::string& machine, const ProductKey& k, const ProductChoice& c) {
  std::string text = fmt::format("{}\t{} {} {} {} {} {} {} {} {} {} {:d} {:d} {:d} {:d} {} {}", machine,
                                 kForms[static_cast<std::size_t>(k.form)], k.m, k.n, k.k, k.w_stride,
                                 k.x_stride, k.y_stride, k.w_alignment, k.x_alignment, k.y_alignment, k.bias,
                                 k.accumulate, k.prepared, c.own, c.offer, c.rows);
  for (const std::uint64_t word : c.algorithm) text += fmt::format(" {}", word);
  return text;
}

bool take_line(std::string_view line, Choices& choices) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return false;
  const std::string_view text = line.substr(space + 1);
  if (line.substr(0, space) != fmt::format("{:016x}", checksum(text))) return false;
  const std::size_t tab = text.find('\t');
  if (tab == std::string_view::npos) return false;
  std::istringstream in{std::string(text.substr(tab + 1))};
  std::string form;
  ProductKey k;
  ProductChoice c;
  in >> form >> k.m >> k.n >> k.k >> k.w_stride >> k.x_stride >> k.y_stride >> k.w_alignment >>
      k.x_alignment >> k.y_alignment >> k.bias >> k.accumulate >> k.prepared >> c.own >> c.offer >> c.rows;
  for (std::uint64_t& word : c.algorithm) in >> word;
  const auto at = std::find(kForms.begin(), kForms.end(), form);
  if (!in || !in.eof() || at == kForms.end()) return false;
  k.form = static_cast<CublasForm>(at - kForms.begin());
  choices[{std::string(text.substr(0, tab)), k}] = c;
  return true;
}

// Nothing where the file is someone else's or can't be read, which is remarked.
std::optional<Choices> read_choices(const fs::path& file) {
  Choices choices;
  const auto give_up = [&](const std::string& why) {
    remark("product choices are not kept in " + file.string(), why);
    return std::nullopt;
  };
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (!fs::exists(status)) {
    // A missing file, or folder, is a beginning; one that can't be looked into is not.
    if (status.type() == fs::file_type::not_found) return choices;
    return give_up(error.message());
  }
  if (!fs::is_regular_file(status)) return give_up("it is no file");
  if (fs::file_size(file, error) > kMostBytes || error)
    return give_up("it is too large to be a file of product choices, and stays as it is");
  try {
    std::istringstream lines(read_file(file));
    std::string line;
    if (!std::getline(lines, line)) return choices;  // empty
    if (line != kTitle)
      return give_up("it is not a file of this version's product choices, and stays as it is");
    int damaged = 0;
    while (std::getline(lines, line)) damaged += !take_line(line, choices);
    if (damaged > 0)
      remark(fmt::format("{} damaged line{} in {}", damaged, damaged == 1 ? "" : "s", file.string()),
             "left out, and their products are measured again");
  } catch (const Error& unreadable) {
    return give_up(unreadable.what());
  }
  return choices;
}

}  // namespace

std::optional<CublasOffer> measured_offer(const ProductChoice& choice, std::span<const CublasOffer> offers) {
  if (choice.own || choice.offer >= offers.size()) return std::nullopt;
  CublasOffer offer = offers[choice.offer];
  offer.m = choice.rows;
  return offer;
}

ProductChoices::ProductChoices(fs::path file, std::string machine)
    : file_(std::move(file)), machine_(std::move(machine)) {
  for (char& c : machine_)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  if (file_.empty()) return;
  const std::optional<Choices> read = read_choices(file_);
  if (!read) {
    file_.clear();
    return;
  }
  for (const auto& [key, choice] : *read)
    if (key.first == machine_) choices_.emplace(key.second, choice);
}

std::optional<ProductChoice> ProductChoices::find(const ProductKey& key) const {
  const auto at = choices_.find(key);
  return at == choices_.end() ? std::nullopt : std::optional(at->second);
}

void ProductChoices::keep(const ProductKey& key, const ProductChoice& choice) {
  choices_[key] = choice;
  if (file_.empty()) return;
  std::optional<Choices> all = read_choices(file_);
  if (!all) {
    file_.clear();
    return;
  }
  for (const auto& [own_key, own] : choices_) (*all)[{machine_, own_key}] = own;
  try {
    std::error_code ignored;  // what is wrong with the folder the file says
    if (file_.has_parent_path()) fs::create_directories(file_.parent_path(), ignored);
    OutputFile out(file_);
    out.write(fmt::format("{}\n", kTitle));
    for (const auto& [of, c] : *all) {
      const std::string text = line_of(of.first, of.second, c);
      out.write(fmt::format("{:016x} {}\n", checksum(text), text));
    }
    out.commit();
  } catch (const Error& error) {
    remark("product choices are not kept in " + file_.string(), error.what());
    file_.clear();
  }
}

}  // namespace foretoken::cuda
